"""Check and note, before the first round, what a person should know about a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from vidrl.backbones.base import Denoiser, on
from vidrl.data import prompts
from vidrl.diffusion.path import exact
from vidrl.diffusion.precision import of_products
from vidrl.rewards.compose import leaves
from vidrl.rewards.http_scorer import HttpScorer

from . import context_parallel, evaluate, kernels, stills
from .assembly import Parts
from .policy import unused
from .unread import unread


def check_measures(parts: Parts) -> None:
    """Raise ValueError for a guard that nothing measures, or prompts or a reward that do not fit.

    ValueError is also raised where no server of a reward answers, or servers have different
    rewards.

    The prompts, the callback and the reward are checked against the backbone: a model of
    single images, for instance, cannot be trained on a reward that compares frames.
    """
    backbone, held_out = parts.backbone, parts.held_out
    bands = parts.recipe.guard.bands
    parts.learners.check(parts.workers.size, parts.reward_workers is not None)
    backbone.check_prompts([*parts.prompts, *held_out.prompts])
    if hasattr(parts.callback, "check"):  # a plain function has no such method
        parts.callback.check(backbone)
    stills.check(held_out.reward, bands, backbone.frame_map)
    for reward in leaves("", held_out.reward).values():
        if isinstance(reward, HttpScorer):
            reward.check_servers()
    names = held_out.names(stills.makes_images(backbone.frame_map))
    if names:
        measured = dict.fromkeys(names, 0.0)
        unknown = {name: (-1.0, 1.0) for name in bands if name not in measured}
        evaluate.outside(unknown, measured, measured)  # raises for a name that it does not find


def split_tokens(parts: Parts) -> None:
    """Split the tokens of each sample over processes, if the recipe asks for it.

    Raises ContextError where the numbers of the network would change.
    """
    parallel, backbone = parts.recipe.parallel, parts.backbone
    if parallel.context == 1:
        return
    found = context_parallel.networks(backbone)
    context_parallel.check(found, parallel.context, parallel.kind)
    _check_kernels(backbone)
    cond = on(parts.encode(list(parts.prompts[:1])), backbone.device)
    x = exact(backbone.noise([torch.Generator().manual_seed(0)])).to(backbone.device)
    # a pipeline of two networks uses one for early times and the other for late ones, and
    # perhaps only one of them is trained, and so split
    several = backbone.calls_depend_on == "time"
    times = [torch.tensor([t], device=x.device) for t in ((0.95, 0.1) if several else (0.95,))]

    def predict() -> Tensor:
        with parts.workers.autocast():
            return torch.cat([parts.policy.predict(x, t, cond) for t in times])

    def divide() -> dist.ProcessGroup:
        mesh = context_parallel.mesh(x.device.type, parallel.context, parallel.kind)
        return context_parallel.split(found, mesh, parallel.kind)

    precision = of_products(found, parts.recipe.train.mixed_precision)
    context_parallel.prove(predict, parts.policy.weights, divide, precision)


def _check_kernels(backbone: Denoiser) -> None:
    """Raise ContextError for a kernel that would not run: split tokens are attended by sdpa."""
    switch = backbone.attention_switch
    if switch is not None and (switch.wanted != "sdpa" or switch.mixes):
        raise context_parallel.ContextError(
            "expected backbone.options.attention = 'sdpa', without rollout_attention, with "
            f"parallel.context, got {switch.wanted!r}: diffusers calls torch's kernel for split "
            "tokens"
        )


def note(parts: Parts) -> None:
    """Print the notes of a run, write each as an event of round 0, and write attention.json.

    `parts.files.read` must have been called, because the notes say which clips it left out.
    """
    if parts.workers.main:
        kernels.write(parts.backbone, parts.record.folder)
    for text in _notes(parts) if parts.workers.main else ():
        print(f"note: {text}", file=sys.stderr)
        parts.record.event(0, "note", text)


def _notes(parts: Parts) -> Iterator[str]:
    """Yield the notes, in the order in which they are written."""
    recipe, reward = parts.recipe, parts.held_out.reward
    policy = parts.policy
    yield from unused(recipe.policy, policy.lora)
    yield from parts.backbone.notes
    yield from () if policy.lora is None else parts.backbone.adapter_notes
    draw = torch.Generator().manual_seed(recipe.seed)
    yield from kernels.notes(parts.backbone, parts.algorithm.plan(parts.backbone, 0, draw))
    yield from unread(recipe, parts.algorithm, reward)
    yield from parts.learners.notes
    yield from parts.record.about.remarks
    yield from parts.files.notes
    yield from _prompt_notes(parts)
    yield from filter(None, [stills.check(reward, (), parts.backbone.frame_map)])
    yield from _truncation_notes(parts)


def _prompt_notes(parts: Parts) -> list[str]:
    """Return remarks on the prompt files; none where the prompts came from no file."""
    data = parts.recipe.data
    if not data.held_out:
        return []
    training = "" if parts.files.source else data.prompts
    return prompts.notes(training, data.held_out, data.held_out_n, parts.prompts)


def _truncation_notes(parts: Parts) -> Iterator[str]:
    """Yield a note for the training and the held-out prompts that the text encoder cuts off."""
    trained = f"data.{parts.files.source or 'prompts'}"
    for name, asked in ((trained, parts.prompts), ("data.held_out", parts.held_out.prompts)):
        cut = parts.backbone.truncated(asked)
        if cut:
            yield (
                f"{name}: {len(cut)} of {len(asked)} prompts are longer than what the text encoder "
                f"reads, and it does not see their ends; the first: {cut[0][:60]!r}. "
                f"{parts.backbone.longer}"
            )

"""What the backbone `pipeline` promises of every family: one function a promise, which
asserts it.

`CHECKS` has all of them by name. The tests run them, and `scripts/pipelines.py` writes down
which families keep them. The reference is always the pipeline's own call, with diffusers
alone.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidrl import config
from vidrl.backbones.base import Cond, rows
from vidrl.backbones.pipeline import Pipeline
from vidrl.data.prompt import Prompt
from vidrl.diffusion import transition
from vidrl.diffusion.segments import pool
from vidrl.rewards import Reward, Samples, Score
from vidrl.training.loop import Trainer
from vidrl.training.policy import Policy, load_adapter
from vidrl.training.rollout import Plan, draws, sample

from ._family import FAMILIES, PROMPTS, Family, clips

STEPS = 4  # a divisor of 1000: else DDIM steps to another level than it is at next (trailing)
SEED, CLOSE = 7, 1e-5
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "to_query", "to_key", "to_value", "out_layer")
LEVEL = 1 / 255  # between neighbouring bytes


# What the checks share


class Tiny(Pipeline):
    """The tiny pipeline of a family, as a recipe names it: every prompt has the same
    picture."""

    def __init__(self, family: str, gradient_checkpointing: bool = False, other: bool = False):
        known = FAMILIES[family]
        self.plain = known.build()
        call = {**known.call, **(known.other if other else {})}
        given = {"image": known.picture(call)} if known.reads_image else {}
        more = {"gradient_checkpointing": gradient_checkpointing, "seed": SEED}
        super().__init__(self.plain, {**call, **given}, **more)


@functools.lru_cache(maxsize=2)
def driven(name: str) -> Tiny:
    return Tiny(name)


@functools.lru_cache(maxsize=2)
def pictures(name: str) -> tuple[Any, ...]:
    """A picture for each prompt, where the family reads one."""
    family = FAMILIES[name]
    return tuple(family.picture(family.call, seed) for seed in range(len(PROMPTS)))


def asks(family: Family, folder: str) -> list[Prompt]:
    """Two prompts of different lengths, with pictures of their own."""
    if not family.reads_image:
        return [Prompt(text) for text in PROMPTS]
    for i, picture in enumerate(pictures(family.name)):
        picture.save(f"{folder}/{i}.png")
    return [Prompt(text, {"image": f"{folder}/{i}.png"}) for i, text in enumerate(PROMPTS)]


def conditions(family: Family, backbone: Tiny) -> Cond:
    with tempfile.TemporaryDirectory() as folder:
        return backbone.encode(asks(family, folder))


def own(family: Family, backbone: Tiny) -> Tensor:
    """What the pipeline itself makes of each prompt alone, by a deterministic scheduler.

    It is the pipeline's own scheduler, or, where that is a multistep or a stochastic one,
    the first-order deterministic one of the same path.
    """
    pipe = family.build()
    pipe.scheduler = type(backbone.probe).__bases__[1].from_config(backbone.probe.config)
    images = pictures(family.name) if family.reads_image else ()
    given = [{"image": image} for image in images] or [{}] * len(PROMPTS)
    every = zip(PROMPTS, given, strict=True)
    return torch.cat([clips(pipe, family.ask(p, **g), STEPS, SEED) for p, g in every])


def entered(backbone: Tiny, cond: Cond, start: float) -> Tensor:
    """The latents with which each prompt's own call enters its loop, as vidrl has them."""
    first = [backbone.runner.initial_latents(row) for row in cond["row"].tolist()]
    return torch.cat([backbone.layout.to_vidrl(x) / backbone.probe.scale(start) for x in first])


def rolled(backbone: Tiny, x: Tensor, cond: Cond, times: list[float]) -> Tensor:
    """The deterministic rollout of vidrl."""
    for t, s in zip(times[:-1], times[1:], strict=True):
        raw = backbone.predict(x, torch.full((len(x),), t), cond)
        x = transition.step(backbone.path, "ode", raw, x, t, s).mean
    return x


def targets(backbone: Tiny) -> list[str]:
    names = [name for name, _ in backbone.network.named_modules()]
    return [one for one in TARGETS if any(name.endswith(f".{one}") for name in names)]


@functools.lru_cache(maxsize=1)
def adapted(name: str, **options: Any) -> Policy:
    """A policy whose LoRA changes the prediction."""
    backbone = Tiny(name, **options)
    policy = Policy(backbone, rank=2, alpha=4, targets=targets(backbone))
    draw = torch.Generator().manual_seed(3)
    for weight in policy.weights.values():
        weight.data.copy_(0.3 * torch.randn(weight.shape, generator=draw))
    return policy


def noise(backbone: Tiny) -> Tensor:
    return backbone.noise(draws(0, [(i,) for i in range(len(PROMPTS))]))


def near(a: Tensor, b: Tensor, tolerance: float = CLOSE) -> None:
    assert a.shape == b.shape, (a.shape, b.shape)
    gap = float((a - b).abs().max())
    assert gap <= tolerance, f"they differ by {gap:.1e}, more than {tolerance:.0e}"


# The promises


@torch.no_grad()
def rollout_is_the_pipelines_own(family: Family) -> None:
    """Guidance on, prompts of two lengths: in one batch and alone, the pixels of the
    pipeline."""
    backbone = driven(family.name)
    cond, times = conditions(family, backbone), backbone.times(STEPS)
    x, expected = entered(backbone, cond, times[0]), own(family, backbone)
    one = rows(cond, slice(1, 2))
    latents = rolled(backbone, x, cond, times)
    close = CLOSE + (LEVEL if family.rounds else 0)
    near(backbone.decode_with(latents, cond), expected, close)
    alone = rolled(backbone, x[1:], one, times)
    near(backbone.decode_with(alone, one), expected[1:], close)
    assert expected.std() > 0.01 and (expected[0] - expected[1]).abs().max() > 3 * CLOSE


def ratio_is_one_at_shuffled_times(family: Family) -> None:
    """And every matrix of a LoRA that begins at zero has a gradient."""
    backbone = Tiny(family.name)
    policy = Policy(backbone, rank=2, alpha=4, targets=targets(backbone))
    sampler, eta = ("dance_sde", 0.3) if backbone.path.kind == "flow" else ("ddim", 1.0)
    times, cond = backbone.times(STEPS), conditions(family, backbone)
    plan = Plan(times, sampler, eta, 1, (0, 1), (0, 1))
    made = sample(policy, cond, draws(0, [("a",), ("b",)]), plan)
    row, step, at = [0, 1, 1, 0], torch.tensor([0, 1, 0, 1]), torch.tensor(times)
    x = made.before[row, step]
    raw = policy.predict(x, at[step], rows(cond, torch.tensor(row)))
    gaussian = plan.gaussian(backbone, raw, x, at[step], at[step + 1])
    density = pool(transition.log_density(gaussian, made.after[row, step]), 1)
    ratio = (density - made.log_density[row, step]).exp()
    near(ratio, torch.ones_like(ratio))
    ratio.sum().backward()
    second = {key: w.grad for key, w in policy.weights.items() if "lora_B" in key}
    still = [key for key, grad in second.items() if grad is None or not grad.any()]
    assert second and not still, f"no gradient in {still[:3]}"


def split_undoes_noise(family: Family) -> None:
    backbone = driven(family.name)
    draw = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(2, *backbone.shape, generator=draw) for _ in range(2))
    for t in [*backbone.times(STEPS)[1:-1], 0.5]:
        x = backbone.path.noise(x0, eps, t)
        clean, noise = backbone.path.split(backbone.path.target(x0, eps, t), x, t)
        near(clean, x0, 1e-3)
        near(noise, eps, 1e-3)


def decode_carries_gradient(family: Family) -> None:
    """From every latent frame."""
    backbone = driven(family.name)
    z = noise(backbone)[:1].requires_grad_()
    made = backbone.decode_with(z, rows(conditions(family, backbone), slice(0, 1)))
    made.square().sum().backward()
    assert z.grad is not None and z.grad.isfinite().all()
    assert z.grad.abs().amax((0, 1, 3, 4)).min() > 0


@torch.no_grad()
def lora_is_read_by_vidrl_and_by_the_plain_pipeline(family: Family) -> None:
    """The pipeline makes the same clip with the file as it made with the adapter in
    place."""
    policy = adapted(family.name)
    asked = family.ask(PROMPTS[0])
    expected, base = clips(policy.backbone.plain, asked), clips(family.build(), asked)
    assert (expected - base).abs().max() > 3 * CLOSE
    with tempfile.TemporaryDirectory() as folder:
        policy.save(Path(folder))
        again = load_adapter(Tiny(family.name), folder)
        pipe = family.build()
        known = _load(pipe, policy.backbone, folder)
    assert again.weights.keys() == policy.weights.keys()
    for key, weight in policy.weights.items():
        near(again.weights[key], weight)
    if known:
        near(clips(pipe, asked), expected)


def _load(pipe: Any, backbone: Tiny, folder: str) -> bool:
    """Load a LoRA as a user of diffusers does; whether diffusers can."""
    if hasattr(pipe, "load_lora_weights") and not backbone.adapter_notes:
        pipe.load_lora_weights(folder)
        if "transformer_2" in backbone.networks:
            second = "transformer_2_lora_weights.safetensors"
            pipe.load_lora_weights(folder, weight_name=second, load_into_transformer_2=True)
        return True
    (name,) = backbone.networks
    network = getattr(pipe, name)
    if not hasattr(network, "load_lora_adapter"):
        return False
    network.load_lora_adapter(folder, prefix=name, use_safetensors=True)
    return True


@torch.no_grad()
def another_size_and_length_is_driven_as_well(family: Family) -> None:
    backbone = Tiny(family.name, other=True)
    assert backbone.shape != driven(family.name).shape
    cond, times = backbone.encode(PROMPTS[:1]), backbone.times(STEPS)
    x = rolled(backbone, entered(backbone, cond, times[0]), cond, times)
    pipe = family.build()
    pipe.scheduler = type(backbone.probe).__bases__[1].from_config(backbone.probe.config)
    expected = clips(pipe, family.ask(PROMPTS[0], **family.other), STEPS, SEED)
    near(backbone.decode_with(x, cond), expected, CLOSE + (LEVEL if family.rounds else 0))
    assert len(backbone.frame_map) == backbone.shape[1]
    assert backbone.frame_map[-1][1] == expected.shape[1]


def a_round_changes_only_the_adapter_and_a_resumed_run_is_the_whole_run(family: Family) -> None:
    with tempfile.TemporaryDirectory() as folder:
        recipe = _recipe(family, Path(folder))
        trainer = Trainer.from_recipe(recipe)
        before = {k: v.clone() for k, v in trainer.backbone.network.state_dict().items()}
        run = trainer.go(False)
        for key, value in trainer.backbone.network.state_dict().items():
            assert torch.equal(value, before[key]) or ".lora_" in key, f"{key} changed"
        assert any(not torch.equal(w, r) for w, r in _weights(trainer.policy))
        _rewind(run)
        resumed = Trainer.from_recipe(recipe)
        resumed.go(True)
    assert resumed.state.round == 2 and resumed.policy.checksum() == trainer.policy.checksum()
    assert resumed.state.earlier_seconds  # it trained no more than the second round


def _weights(policy: Policy) -> list[tuple[Tensor, Tensor]]:
    """The live weights and those of the start."""
    return list(zip(policy.weights.values(), policy.sets["reference"], strict=True))


def _rewind(run: Path) -> None:
    """Leave the folder of a run of two rounds as a kill in the second round leaves it."""
    shutil.rmtree(run / "checkpoints" / "000002")
    (run / "checkpoints" / "latest").write_text("000001")
    (run / "summary.json").unlink()


def _recipe(family: Family, folder: Path) -> config.Recipe:
    """Two rounds of one group of two clips, with a checkpoint after each of them."""
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    backbone = driven(family.name)
    sampler = {} if backbone.path.kind == "flow" else {"sampler": "ddim", "eta": 1.0}
    few = {"prompts_per_round": 1, "group": 2, "eval_every": 100, "eval_steps": 2, "show": 1}
    return config.load(
        {
            "run": str(folder / "run"),
            "backbone": {"name": f"{__name__}:Tiny", "options": {"family": family.name}},
            "policy": {"lora_rank": 2, "lora_alpha": 2, "lora_targets": targets(backbone)},
            "reward": {"name": f"{__name__}:Light"},
            "algorithm": {"name": "grpo", "options": {"steps": STEPS, **sampler}},
            "data": {
                "prompts": str(folder / "prompts.txt"),
                "held_out": str(folder / "prompts.txt"),
                "held_out_n": 1,
            },
            "train": {"rounds": 2, "checkpoint_every": 1, "learning_rate": 1e-2, **few},
        }
    )


class Light(Reward):
    """The mean light of each frame."""

    range = (0.0, 1.0)

    def forward(self, samples: Samples) -> Score:
        curve = samples.frames.mean((2, 3, 4))
        return Score(curve.mean(1), curve)


def bf16_autocast_predicts_alike_and_repeats_itself(family: Family) -> None:
    backbone = driven(family.name)
    x, cond = noise(backbone), conditions(family, backbone)
    t = torch.full((len(x),), backbone.times(STEPS)[1])
    with torch.no_grad():
        full = backbone.predict(x, t, cond)
        with torch.autocast("cpu", torch.bfloat16):
            half, again = backbone.predict(x, t, cond), backbone.predict(x, t, cond)
    assert half.dtype == torch.float32 and torch.equal(half, again)
    near(half, full, 0.1 * float(full.abs().max()))


def gradient_checkpointing_gives_the_same_gradient(family: Family) -> None:
    """A network that cannot is refused."""
    plain = adapted(family.name)
    networks = plain.backbone.networks.values()
    if not all(network._supports_gradient_checkpointing for network in networks):
        try:
            Tiny(family.name, gradient_checkpointing=True)
        except ValueError as error:
            assert "gradient_checkpointing = false" in str(error)
            return
        raise AssertionError("a network that cannot checkpoint its gradient was not refused")
    cond = conditions(family, plain.backbone)
    expected = _gradients(plain, cond)
    saving = adapted(family.name, gradient_checkpointing=True)
    for key, gradient in _gradients(saving, conditions(family, saving.backbone)).items():
        near(gradient, expected[key], 1e-4 * max(1.0, float(expected[key].abs().max())))


def _gradients(policy: Policy, cond: Cond) -> dict[str, Tensor]:
    x = noise(policy.backbone)
    t = torch.full((len(x),), policy.backbone.times(STEPS)[1])
    policy.predict(x, t, cond).square().mean().backward()
    return {key: w.grad for key, w in policy.weights.items() if w.grad is not None}


CHECKS = {
    check.__name__: check
    for check in (
        rollout_is_the_pipelines_own,
        ratio_is_one_at_shuffled_times,
        split_undoes_noise,
        decode_carries_gradient,
        lora_is_read_by_vidrl_and_by_the_plain_pipeline,
        another_size_and_length_is_driven_as_well,
        a_round_changes_only_the_adapter_and_a_resumed_run_is_the_whole_run,
        bf16_autocast_predicts_alike_and_repeats_itself,
        gradient_checkpointing_gives_the_same_gradient,
    )
}

"""How good is the policy gradient that each way of giving credit yields, at the base model?

    python benchmarks/studies/gradient_snr.py

The study measures the gradient's signal, noise and bias for each estimator of credit.

An estimator of credit differs from another one only by the weights A[n, k, j] of the scores
G[n, k, j] = ∇ log p_j of sample n, step k, latent frame j (a mean over the frame's
elements); one optimiser step follows g = mean_nj A G. So G is collected once and sketched,
and everything else is linear algebra. At a fresh LoRA only the B factors have a gradient.
For one layer and sample this gradient is Σ_tokens δ ⊗ a, with a = A x and δ the gradient at
B's output; δ is sketched by random signs.

There are two collections.

*Groups*, as in training: a prompt, a first noise, and 32 members in four groups of 8.
Groups give the noise V, the variance of the gradient of a group of 8.

*Branches*: a trajectory, and for each kept step 8 clips that differ in the noise of this
step alone; all later noise is the trajectory's. The expected gradient m of the clips of a
branch is the trajectory's own part of the policy gradient, with far less noise than a
group's. A product of two expected gradients is computed from pairs of different members, so
that no noise enters the product. Before step 0 the members of a group are identical, so
that their pairs count as well. The part that is common to all trajectories is too small to
be separated from noise with these samples; the page says how small. An arm that is not
linear in the entries of the curves is represented in branches by its closest linear
weights.

Definitions: cos∞ = <m, m_ref>/(|m| |m_ref|), over trajectories, with m_ref of whole-clip
credit; bias = 1 − cos∞. For n samples whose noise prevails, cos² = n <m, m_ref>²/(8 V
|m_ref|²). So one sample is worth (<m, m_ref>/|m_ref|²)² V_ref/V samples of whole-clip credit:
these are its sample-equivalents. Intervals are a bootstrap over prompts, and over
trajectories and groups within prompts. There are two controls. `permuted` is credit whose
segments are in random order. `hindsight` estimates the ceiling: for each half of the
trajectories it uses the weights of the segments' frames that are best on the other half.

Output: benchmarks/results/credit/gradient_snr.md, .svg and .json. The folder --run keeps
one file for each group and branch: a run that was stopped continues, and --analyse uses the
files that exist.

Legend: B groups or trajectories, M members, K steps, L latent frames (segments), F frames,
P parts, D numbers of a sketch, A arms, T targets (steps, and their sums), R resamples.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor

from vidrl import config, plugin, rewards
from vidrl.backbones.base import Cond
from vidrl.credit import estimators
from vidrl.credit import parts as composed
from vidrl.credit.influence import WHOLE, Influence
from vidrl.diffusion import transition
from vidrl.diffusion.schedule import step_weights, stochastic_steps
from vidrl.diffusion.segments import borders, frame_spans, pool
from vidrl.rewards._files import atomic_file
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan, decoded, draws

RECIPE, SEED = "scripts/recipes/study.toml", 0
PROMPTS = 24
MEMBERS, GROUP = 32, 8  # clips of one prompt and first noise; clips of a group as in training
STEPS = (0, 4, 7)  # the steps, of ten, whose gradients are kept; 7 is the last that draws noise
GAINS = (0, 4, 7)  # the steps, of these, for which denoising-step credit is measured
QUIET = 3  # every third branch is also completed without noise
SIGNS = 8  # numbers to which the gradient at a layer's output is sketched


# Collection


@dataclass(frozen=True)
class Bench:
    """The demo's base model, plan and reward, with some of its prompts."""

    policy: Policy
    plan: Plan
    reward: rewards.Composite
    prompts: list[str]

    @classmethod
    def demo(cls) -> Bench:
        """Load the demo's model, plan, reward and prompts."""
        recipe = config.load(RECIPE)
        backbone = plugin.load("backbones", recipe.backbone.name, **recipe.backbone.options)
        policy = Policy(
            backbone, recipe.policy.lora_rank, recipe.policy.lora_alpha, seed=recipe.seed
        )
        times = backbone.times(10)
        noisy = stochastic_steps(backbone.path, "flow_sde", times, 0.7)
        plan = Plan(times, "flow_sde", 0.7, backbone.shape[1], noisy, STEPS, forks=((noisy[0], 0),))
        prompts = config.read_prompts(recipe.data.prompts)
        return cls(policy, plan, rewards.default(), prompts[:: len(prompts) // PROMPTS][:PROMPTS])

    def noise(self, name: str, number: int, members: int) -> Tensor:
        """Return noise (members, 1 + steps, ...) of a group.

        The first noise is the same for all members; the noise of the steps differs.
        """
        backbone, steps = self.policy.backbone, len(self.plan.times) - 1
        start = backbone.noise(draws(SEED, [(name, number, "start")]))
        each = draws(SEED, [(name, number, member) for member in range(members)])
        own = torch.stack([backbone.noise(each) for _ in range(steps)], 1)
        return torch.cat([start[None].expand(members, -1, *start.shape[1:]), own], 1)

    def rollout(self, noise: Tensor, cond: Cond) -> list[Tensor]:
        """Return the states (members, ...) before each step and at the end."""
        states = [noise[:, 0]]
        for k in range(len(self.plan.times) - 1):
            states.append(self._next(states[-1], k, noise, cond))
        return states

    def _next(self, x: Tensor, k: int, noise: Tensor, cond: Cond) -> Tensor:
        step = self.plan.step(self.policy, x, k, cond)
        return step.sample(noise[:, k + 1]) if k in self.plan.stochastic else step.mean

    def finished(self, x: Tensor, k: int, noise: Tensor, cond: Cond) -> Tensor:
        """Denoise states from before step k to the end, with their trajectory's noise."""
        for i in range(k, len(self.plan.times) - 1):
            x = self._next(x, i, noise, cond)
        return x

    def completed(self, x: Tensor, k: int, cond: Cond) -> Tensor:
        """Denoise states from before step k to the end without noise."""
        quiet = replace(self.plan, stochastic=(), keep=())
        for i in range(k, len(self.plan.times) - 1):
            x = quiet.step(self.policy, x, i, cond).mean
        return x

    def curves(self, latents: Tensor, prompt: str) -> Tensor:
        """Return the curves (N, P + 1, F) of the clips: each part's, then the composite's."""
        score = self.reward(decoded(self.policy.backbone, latents, [prompt] * len(latents)))
        return torch.stack(
            [s.frames for s in (*score.parts.values(), score) if s.frames is not None], 1
        )


class Sketcher:
    """Computes gradients of the log-density of each latent frame by the LoRA's B factors.

    Forward hooks keep the inputs and outputs of the B layers of the latest forward pass.
    With `signs` > 0 the gradient at a layer's output is sketched to so many numbers by
    random signs, which keep dot products on average; with 0 the gradients are not sketched.
    """

    def __init__(self, policy: Policy, signs: int = SIGNS):
        network = policy.backbone.network
        self.layers = {n: m for n, m in network.named_modules() if n.endswith("lora_B.default")}
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            layer.register_forward_hook(partial(self._keep, name))
        draw = torch.Generator().manual_seed(1)
        self.signs = (
            {
                name: (torch.randint(0, 2, (layer.out_features, signs), generator=draw) * 2.0 - 1)
                / signs**0.5
                for name, layer in self.layers.items()
            }
            if signs
            else None
        )

    def _keep(self, name: str, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.inputs[name], self.outputs[name] = inputs[0].detach(), output

    def __call__(
        self, policy: Policy, plan: Plan, x: Tensor, after: Tensor, k: int, cond: Cond
    ) -> Tensor:
        """Return ∇ of the mean log-density of each latent frame of step k, (N, L, D).

        The step leads from `x` to `after`.
        """
        with torch.enable_grad():
            step = plan.step(policy, x, k, cond)
            log_density = pool(transition.log_density(step, after), x.shape[2])
            names = list(self.layers)
            outputs = [self.outputs[name] for name in names]
            frames = []
            for j in range(x.shape[2]):
                deltas = torch.autograd.grad(log_density[:, j].sum(), outputs, retain_graph=True)
                frames.append(torch.cat([self._layer(*pair) for pair in zip(names, deltas)], 1))
        self.inputs, self.outputs = {}, {}  # free the graph
        return torch.stack(frames, 1)

    def _layer(self, name: str, delta: Tensor) -> Tensor:
        if self.signs is not None:
            delta = delta @ self.signs[name]
        return torch.einsum("nto,ntr->nor", delta, self.inputs[name]).flatten(1)


@torch.no_grad()
def group(bench: Bench, sketcher: Sketcher, number: int) -> dict[str, np.ndarray]:
    """Collect one group: curves (M, P + 1, F), sketches (M, K, L, D) and their scale (K,).

    Sketches are float16 in units of `scale`.
    """
    prompt = bench.prompts[number % PROMPTS]
    cond = bench.policy.backbone.encode([prompt] * MEMBERS)
    states = bench.rollout(bench.noise("group", number, MEMBERS), cond)
    curves = bench.curves(states[-1], prompt)
    found = torch.stack(
        [sketcher(bench.policy, bench.plan, states[k], states[k + 1], k, cond) for k in STEPS], 1
    )
    scale = found.square().mean((0, 2, 3)).sqrt()
    short = (found / scale.view(1, -1, 1, 1)).to(torch.float16)
    return {"curves": curves.numpy(), "sketch": short.numpy(), "scale": scale.numpy()}


@torch.no_grad()
def gains(bench: Bench, number: int) -> dict[str, np.ndarray]:
    """Collect curves (M, len(GAINS), 2, P + 1, F) of a group, for credit by denoising step.

    The clips are completed without noise from before and from after each step of `GAINS`.
    """
    prompt = bench.prompts[number % PROMPTS]
    cond = bench.policy.backbone.encode([prompt] * MEMBERS)
    states, made = bench.rollout(bench.noise("group", number, MEMBERS), cond), {}
    for k in sorted({k + after for k in GAINS for after in (0, 1)}):
        rows = slice(None) if k else slice(1)  # before the first step all members are one
        one = {name: value[rows] for name, value in cond.items()}
        curves = bench.curves(bench.completed(states[k][rows], k, one), prompt)
        made[k] = curves.expand(MEMBERS, -1, -1)
    return {
        "curves": torch.stack([torch.stack([made[k], made[k + 1]], 1) for k in GAINS], 1).numpy()
    }


@torch.no_grad()
def branch(bench: Bench, sketcher: Sketcher, number: int) -> dict[str, np.ndarray]:
    """Collect one trajectory: for each kept step, GROUP clips that differ in its noise alone.

    The result has `curves` (GROUP, K, P + 1, F), `quiet`, which are the curves of clips
    that are completed without noise, sketches (GROUP, K, L, D) and their scale (K,).
    """
    prompt = bench.prompts[number % PROMPTS]
    cond = bench.policy.backbone.encode([prompt] * GROUP)
    noise = bench.noise("branch", number, 1).expand(GROUP, *[-1] * 5)
    fresh = bench.noise("branches", number, GROUP)
    states = bench.rollout(noise[:1], {name: value[:1] for name, value in cond.items()})
    ends, quiet = [], []
    found = []
    for k in STEPS:
        x = states[k].expand(GROUP, *[-1] * 4)
        after = bench.plan.step(bench.policy, x, k, cond).sample(fresh[:, k + 1])
        found.append(sketcher(bench.policy, bench.plan, x, after, k, cond))
        ends.append(bench.finished(after, k + 1, noise, cond))
        if k in GAINS[:-1] and number % QUIET == 0:
            quiet.append(bench.completed(after, k + 1, cond))
    curves = (
        bench.curves(torch.cat([*ends, *quiet]), prompt).unflatten(0, (-1, GROUP)).transpose(0, 1)
    )
    stacked = torch.stack(found, 1)
    scale = stacked.square().mean((0, 2, 3)).sqrt()
    return {
        "curves": curves[:, : len(STEPS)].numpy(),
        "quiet": curves[:, len(STEPS) :].numpy(),
        "sketch": (stacked / scale.view(1, -1, 1, 1)).half().numpy(),
        "scale": scale.numpy(),
    }


def collect(run: Path, groups: int, gain_groups: int, branches: int, minutes: float) -> None:
    """Collect the groups, gains and branches that are not in the folder `run` yet."""
    bench = Bench.demo()
    sketcher, start = Sketcher(bench.policy), time.monotonic()
    # half of the branches come before the gains, so that a run that is stopped has some of each
    tasks = [("group", n) for n in range(groups)] + [("branch", n) for n in range(branches // 2)]
    tasks += [("gains", n) for n in range(gain_groups)] + [
        ("branch", n) for n in range(branches // 2, branches)
    ]
    run.mkdir(parents=True, exist_ok=True)
    collectors = {
        "group": lambda n: group(bench, sketcher, n),
        "branch": lambda n: branch(bench, sketcher, n),
        "gains": lambda n: gains(bench, n),
    }
    for kind, number in tasks:
        file = run / f"{kind}_{number:04d}.npz"
        if file.exists() or (minutes and time.monotonic() - start > 60 * minutes):
            continue
        arrays = collectors[kind](number)
        with atomic_file.new_file(file) as out:
            np.savez(out, **arrays)  # type: ignore[arg-type]
        print(f"{kind} {number}: {time.monotonic() - start:.0f} s", flush=True)


# Arms: every estimator of credit, as weights (K, N, L)


@dataclass(frozen=True)
class Data:
    """Everything that was collected, except the sketches.

    `curves` (N, P, F) are the parts' curves of the samples in groups; `moments` (K, L, F,
    F) are the moments of the influence, by part; `spans` are the frames of each segment;
    `names` and `supports` belong to the parts.
    """

    curves: Tensor
    moments: dict[str, Tensor]
    spans: list[tuple[int, int]]
    names: list[str]
    supports: list[str]
    # weights of the parts in the composite; the composite's own influence is measured
    plain: Tensor | None = None
    gain: Tensor | None = None  # (N', len(GAINS), 2, P, F) of the first N' samples
    branch: Tensor | None = None  # (B, GROUP, K, P, F)
    # (B', GROUP, len(GAINS), P, F) of every third branch, completed without noise
    quiet: Tensor | None = None

    @property
    def small(self) -> Tensor:
        """Return the group of 8 of each sample."""
        return torch.arange(len(self.curves)) // GROUP

    @property
    def block(self) -> Tensor:
        """Return the block of 32 members of each sample."""
        return torch.arange(len(self.curves)) // MEMBERS


def halves(blocks: int) -> Tensor:
    """Return 0 or 1 for each block, so that each prompt is in both halves."""
    return torch.arange(blocks) // PROMPTS % 2


def local(
    curves: Tensor, weights: Tensor, data: Data, by: str, spans: list[tuple[int, int]]
) -> Tensor:
    """Return segment scores (N, S) of Σ_p w_p part_p, each part by its own time support.

    `by` says whether a segment's score is the "mean" or the "sum" over its frames.
    """
    made = []
    for p, support in enumerate(data.supports):
        value = curves[:, p].mean(1)
        share = torch.tensor([(b - a) / curves.shape[2] for a, b in spans])
        score = composed.by_segment(value, curves[:, p], support, spans)
        made.append(
            weights[p] * score * (share if by == "sum" and support in composed.LOCAL else 1.0)
        )
    return torch.stack(made).sum(0)


def per_latent_frame(advantage: Tensor, segments: int, frames: int) -> Tensor:
    """Return advantages (N, S) of segments as weights of latent frames (N, L).

    The weights are those of a loss in which all segments count alike.
    """
    spans = borders(frames, segments)
    return torch.stack(
        [
            advantage[:, s] * frames / (segments * (b - a))
            for s, (a, b) in enumerate(spans)
            for _ in range(a, b)
        ],
        1,
    )


def pooled(values: Tensor, group: Tensor) -> Tensor:
    """Return leave-one-out deviations, divided by one root mean square for all."""
    away = estimators.leave_one_out(values, group)
    return away / away.square().mean().sqrt().clamp(min=1e-12)


def arms(data: Data, weights: Tensor) -> dict[str, Tensor]:
    """Return the weights (K, N, L) of every arm for the reward Σ_p w_p part_p.

    The first arm, whole-clip credit, is the reference.
    """
    K, L = len(STEPS), len(data.spans)
    small, total = data.small, torch.einsum("p,npf->nf", weights, data.curves)
    value = total.mean(1)
    whole = estimators.whole_clip(value, small, L)
    made = {
        "whole clip": whole,
        "whole clip, std of each group": _shipped(data, weights, 0.0),
        "whole clip, baseline of 32": estimators.whole_clip(value, data.block, L),
    }
    means, sums = (local(data.curves, weights, data, by, data.spans) for by in ("mean", "sum"))
    for alpha in (0.25, 0.5, 1.0):
        made[f"segment, mean of its frames, α {alpha:g}"] = credit_blend(value, means, small, alpha)
    made["segment, a std each, α 0.5"] = _shipped(data, weights, 0.5)
    for alpha in (0.5, 0.75, 1.0):
        made[f"segment, sum of its frames, α {alpha:g}"] = estimators.leave_one_out(
            (1 - alpha) * value[:, None] + alpha * sums, small
        )
    two = [(data.spans[a][0], data.spans[b - 1][1]) for a, b in borders(L, 2)]
    made["two segments, averaged evenly"] = per_latent_frame(whole[:, :2], 2, L)
    pairs = local(data.curves, weights, data, "sum", two)
    halved = estimators.leave_one_out((value[:, None] + pairs) / 2, small)
    made["two segments, sum, α 0.5"] = torch.cat(
        [halved[:, s : s + 1].expand(-1, b - a) for s, (a, b) in enumerate(borders(L, 2))], 1
    )
    everywhere = {name: one.expand(K, -1, -1) for name, one in made.items()}
    everywhere |= _by_influence(data, weights)
    draw = torch.Generator().manual_seed(2)
    for name in (
        "segment, sum of its frames, α 1",
        "influence",
        "GLS, ridge 0.1",
        "posterior, ridge 0.1",
    ):
        if name in everywhere:
            everywhere[f"permuted: {name}"] = torch.stack(
                [estimators.permuted(one, draw) for one in everywhere[name]]
            )
    return everywhere


def credit_blend(value: Tensor, scores: Tensor, group: Tensor, alpha: float) -> Tensor:
    """Return (1 − α) A + α a_j, where A and a_j have a root mean square of 1."""
    return estimators.blend(pooled(value, group), pooled(scores, group), alpha)


def _shipped(data: Data, weights: Tensor, alpha: float) -> Tensor:
    """Return credit as `vidrl train` computes it by default.

    Each part's deviations are divided by the std of each group and segment, blended with
    the whole clip's, and then weighted.
    """
    made = torch.zeros(len(data.curves), len(data.spans))
    scale = torch.stack(
        [
            estimators.leave_one_out(data.curves[:, p].mean(1), data.small).square().mean().sqrt()
            for p in range(len(weights))
        ]
    )
    for p in range(len(weights)):
        value = data.curves[:, p].mean(1)
        scores = composed.by_segment(value, data.curves[:, p], data.supports[p], data.spans)
        even, own = (estimators.normalise(one, data.small) for one in (value, scores))
        made += weights[p] * scale[p] * estimators.blend(even, own, alpha)
    return made


def _by_influence(data: Data, weights: Tensor) -> dict[str, Tensor]:
    """Return the arms that use the influence, with other weights at each step.

    An arm's credit is computed from the composite's curve, or from each part's curve and
    then summed. Each step is scaled to the same size, as in training. The arms named "by
    steps" also weight a step by the fraction of the reward's variance that the step causes;
    posterior credit has this weight by itself.
    """
    if not data.moments:
        return {}
    plain, small = weights is data.plain, data.small
    made: dict[str, Tensor] = {}
    total = torch.einsum("p,npf->nf", weights, data.curves)
    alone = [p for p, w in enumerate(weights.tolist()) if w and float(data.curves[:, p].std())]
    methods: dict[str, Any] = {"influence": estimators.influence_weighted}
    methods |= {f"GLS, ridge {r:g}": partial(_gls, r) for r in (0.01, 0.1, 1.0)}
    methods |= {f"posterior, ridge {r:g}": partial(_posterior, r) for r in (0.1, 1.0)}
    for name, method in methods.items():
        step = [
            [
                weights[p]
                * _credit_at(method, data.curves[:, p], data.moments[data.names[p]], k, small)
                for p in alone
            ]
            for k in range(len(STEPS))
        ]
        own = torch.stack([torch.stack(one).sum(0) for one in step])
        made[name if len(alone) == 1 or not plain else f"{name}, each part's"] = _alike(own)
        if plain:
            each = [
                _credit_at(method, total, data.moments[WHOLE], k, small) for k in range(len(STEPS))
            ]
            made[name] = _alike(torch.stack(each))
    whole = (
        pooled(total.mean(1), small)[:, None].expand(-1, len(data.spans)).expand(len(STEPS), -1, -1)
    )
    for name in ("GLS, ridge 0.1", "posterior, ridge 0.1"):
        made[f"{name}, α 0.5"] = (whole + made[name]) / 2
    sources = [(1.0, WHOLE)] if plain else [(float(weights[p]) ** 2, data.names[p]) for p in alone]
    share = torch.stack([w * data.moments[name].sum((1, 2, 3)) for w, name in sources]).sum(0)
    for name, one in (("whole clip", whole), ("GLS, ridge 0.1", made["GLS, ridge 0.1"])):
        made[f"{name}, by steps"] = one * (share / share.max())[:, None, None]
    return made


def _alike(credit: Tensor) -> Tensor:
    """Scale credit (K, N, L) to a root mean square of 1 at each step."""
    return credit / credit.square().mean((1, 2), keepdim=True).sqrt().clamp(min=1e-30)


def _credit_at(method: Any, entries: Tensor, moment: Tensor, k: int, small: Tensor) -> Tensor:
    """Return the credit (N, L) of one estimator, by the moments of step k."""
    # the tiny ridge keeps moments of frames that no noise moves invertible
    ridge = 1e-9 * moment.diagonal(dim1=-2, dim2=-1).max() * torch.eye(moment.shape[-1])
    at_step = moment[k] + ridge
    # posterior credit uses the full moments, the other estimators the size of the influence
    if getattr(method, "func", None) is _posterior:
        return method(entries, at_step, small)
    return method(entries, at_step.diagonal(dim1=-2, dim2=-1).sqrt(), small)


def _gls(ridge: float, entries: Tensor, influence: Tensor, small: Tensor) -> Tensor:
    """Return GLS credit, with the ridge as the first argument."""
    return estimators.gls(entries, influence, small, ridge)


def _posterior(ridge: float, entries: Tensor, moment: Tensor, small: Tensor) -> Tensor:
    """Return posterior credit, with the ridge as the first argument."""
    return estimators.posterior(entries, moment, small, ridge)


def gain_arms(data: Data, weights: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return denoising-step credit, from clips completed without noise around a step.

    Each arm has weights in groups (len(GAINS), N', L) and in branches (B, GROUP,
    len(GAINS), L). In a branch, the value before the step is the same for all clips.
    """
    if data.gain is None or data.quiet is None or data.branch is None:
        return {}
    N, L = len(data.gain), len(data.spans)
    F = data.curves.shape[2]
    small, value = data.small[:N], torch.einsum("p,npf->n", weights, data.curves[:N]) / F
    own: dict[str, list[Tensor]] = {}
    for at in range(len(GAINS)):
        before, after = (
            torch.einsum("p,npf->n", weights, one) / F for one in data.gain[:, at].unbind(1)
        )
        gain = estimators.step_gains(torch.stack([before, after], 1))[:, 0]
        start, end = (
            local(one, weights, data, "sum", data.spans) for one in data.gain[:, at].unbind(1)
        )
        found = {
            "reward less the value before": value - before,
            "value after the step": after,
            "step gain": gain,
        }
        each = {name: estimators.whole_clip(one, small, L) for name, one in found.items()}
        each["step gain, segment sum, α 0.5"] = estimators.leave_one_out(
            (gain[:, None] + end - start) / 2, small
        )
        for name, one in each.items():
            own.setdefault(name, []).append(one)
    flat, group = data.quiet.flatten(0, 2), torch.arange(len(data.quiet) * GROUP) // GROUP
    whole = (torch.einsum("p,npf->n", weights, flat) / F)[:, None].expand(-1, L)
    half = (whole + local(flat, weights, data, "sum", data.spans)) / 2
    same = data.branch[::QUIET][:, :, [STEPS.index(k) for k in GAINS]]
    true = torch.einsum("p,bmkpf->bmk", weights, same) / F
    away = [
        estimators.leave_one_out(one.reshape(len(group), -1), group).reshape(
            *data.quiet.shape[:3], L
        )
        for one in (true[..., None].expand(-1, -1, -1, L), whole, half)
    ]
    branches = {"reward less the value before": away[0], "step gain, segment sum, α 0.5": away[2]}
    return {name: (torch.stack(one), branches.get(name, away[1])) for name, one in own.items()}


def entries(curves: Tensor, group: Tensor) -> Tensor:
    """Return the leave-one-out deviations of all parts' frames, (N, P F)."""
    return estimators.leave_one_out(curves.flatten(1), group)


def linear(advantage: Tensor, away: Tensor) -> Tensor:
    """Return the weights (K, L, P F) of deviations that come nearest to given advantages.

    `advantage` is (K, N, L) and `away` holds the deviations (N, P F). The fit is least
    squares on columns scaled to one size.
    """
    size = away.square().mean(0).sqrt()
    scaled = torch.where(size > 0, away / size.clamp(min=1e-30), 0.0).double()
    wanted = advantage.movedim(1, 0).flatten(1).double()
    found = torch.linalg.lstsq(scaled, wanted, rcond=1e-6, driver="gelsd").solution
    found = torch.where(size > 0, 1 / size.clamp(min=1e-30), 0.0)[:, None] * found
    return found.T.reshape(len(advantage), advantage.shape[2], -1).float()


def in_branches(data: Data, made: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights (B, GROUP, K, L) of the arms in branches.

    Each arm is represented by the linear weights that fit it best in groups.
    """
    assert data.branch is not None
    away, found = entries(data.curves, data.small), {}
    rows = data.branch.movedim(2, 0).flatten(1, 2)  # (K, B GROUP, P, F)
    group = torch.arange(rows.shape[1]) // GROUP
    branches = torch.stack([entries(one, group) for one in rows])
    for name, one in made.items():
        if name.startswith("permuted: "):
            each = linear(made[name.removeprefix("permuted: ")], away)
            weights = each.mean(1, keepdim=True).expand_as(each)
        else:
            weights = linear(made["whole clip"] if "baseline of 32" in name else one, away)
        found[name] = torch.einsum("klx,knx->nkl", weights, branches).unflatten(0, (-1, GROUP))
    return found


# Gradients: sums over groups of 8, and their statistics


@dataclass(frozen=True)
class Sums:
    """Mean gradients (A, T, B, D) of blocks; their groups' mean squared lengths (A, T, B)."""

    vectors: Tensor
    squares: Tensor


def sums(weights: Tensor, sketch: Any, mixes: Tensor, blocks: int) -> Sums:
    """Compute the gradients of arms in groups of 8, mixed over steps.

    `weights` is (A, B, M, K, L), `sketch(b)` returns (M, K, L, D), and `mixes` is (T, K).
    """
    vectors, squares = [], []
    for b in range(blocks):
        found, w = sketch(b), weights[:, b]
        M, K, L, D = found.shape
        scores = (
            found.reshape(M // GROUP, GROUP, K, L, D)
            .permute(2, 0, 1, 3, 4)
            .reshape(K, M // GROUP, GROUP * L, D)
        )
        w = (
            w.reshape(len(w), M // GROUP, GROUP, K, L)
            .permute(3, 1, 0, 2, 4)
            .reshape(K, M // GROUP, len(w), -1)
        )
        each = torch.einsum("tk,ksad->atsd", mixes, w @ scores / (GROUP * L))
        vectors.append(each.mean(2))
        squares.append(each.square().sum(-1).mean(-1))
    return Sums(torch.stack(vectors, 2), torch.stack(squares, 2))


@dataclass(frozen=True)
class Pairs:
    """Products of the expected gradients of trajectories.

    `square` is |m|² (A, T, B), `product` is <m, m_ref> (A, T, B), and `reference` is the
    reference's own mean gradient (T, B, D).
    """

    square: Tensor
    product: Tensor
    reference: Tensor


def pairs(weights: Tensor, sketch: Any, mixes: Tensor, blocks: int) -> Pairs:
    """Compute the products of expectations within each trajectory.

    The arguments are those of `sums`. Products are means over pairs of two different
    members, so that noise does not bias them. The leave-one-out baseline makes the
    advantages of a pair depend on each other by a part in (members − 1)², the same for
    every arm.
    """
    squares, products = [], []
    means = []
    for b in range(blocks):
        found = sketch(b)
        M, K, L, D = found.shape
        each = torch.einsum("amkl,mkld->kamd", weights[:, b], found) / L
        mixed = torch.einsum("tk,kamd->atmd", mixes, each)
        # the sum over pairs of different members is the square of the sum less the squares
        total, count = mixed.sum(2), M * (M - 1)
        squares.append((total.square().sum(-1) - mixed.square().sum((-1, -2))) / count)
        products.append(((total * total[:1]).sum(-1) - (mixed * mixed[:1]).sum((-1, -2))) / count)
        means.append(total[0] / M)
    return Pairs(torch.stack(squares, 2), torch.stack(products, 2), torch.stack(means, 1))


def across(vectors: Tensor, weights: Tensor) -> Tensor:
    """Return |m|² (R,) of the part that is common to blocks, by pairs of blocks.

    `vectors` is (B, D), and `weights` are the multiplicities (R, B) of the blocks in
    resamples.
    """
    different = 1 - torch.eye(len(vectors))  # a block is not paired with itself
    return ((weights @ ((vectors @ vectors.T) * different)) * weights).sum(1) / (
        (weights @ different) * weights
    ).sum(1)


@dataclass(frozen=True)
class Judged:
    """The numbers of one arm and target over resamples (R,), the sample itself first."""

    product: Tensor  # <m, m_ref>
    square: Tensor  # |m|²
    reference: Tensor  # |m_ref|²
    noise: Tensor  # V, variance of a group of 8's gradient
    reference_noise: Tensor

    def cosine(self) -> Tensor:
        """Return cos∞, clamped to [−1, 1]; NaN where noise leaves no length.

        An estimate beyond 1 is noise.
        """
        size = (self.square * self.reference).where(
            (self.square > 0) & (self.reference > 0), torch.nan
        )
        return (self.product / size.sqrt()).clamp(-1, 1)

    def kept(self) -> Tensor:
        """Return <m, m_ref>/|m_ref|²: how much of whole-clip credit's signal is kept."""
        return self.product / self.reference

    def equivalents(self) -> Tensor:
        """Return how many whole-clip samples one sample is worth.

        The formula is kept |kept| V_ref/V: an arm against the gradient has a negative worth.
        """
        return self.kept() * self.kept().abs() * self.reference_noise / self.noise


def judge(
    found: Pairs,
    own: Sums,
    drawn: Tensor,
    picked: Tensor,
    arm: int,
    target: int,
    more: Pairs | None = None,
) -> Judged:
    """Compare an arm with the first one, over resamples.

    Expectations come from trajectories with multiplicities `drawn` (R, B), noise comes from
    groups with multiplicities `picked` (R, B'). `more` are the pairs of the groups
    themselves, for a step before which all members of a group are identical; they are
    weighted by their number.
    """
    share = (MEMBERS * (MEMBERS - 1)) / (GROUP * (GROUP - 1)) if more else 0.0
    count = drawn.sum(1) + share * picked.sum(1)

    def mean(values: Tensor, others: Tensor) -> Tensor:
        return (drawn @ values + (share * (picked @ others) if more else 0)) / count

    extra = more or found
    noise = [
        picked @ own.squares[a, target] / picked.sum(1) - across(own.vectors[a, target], picked)
        for a in (arm, 0)
    ]
    values = [
        (one.product[arm, target], one.square[arm, target], one.square[0, target])
        for one in (found, extra)
    ]
    return Judged(*(mean(*both) for both in zip(*values)), *noise)


def resampled(blocks: int, prompts: int, times: int, seed: int = 3) -> Tensor:
    """Return multiplicities (1 + times, B): the sample itself, then bootstrap resamples.

    Prompts are drawn with replacement, then blocks within each prompt.
    """
    draw = np.random.default_rng(seed)
    made = [np.ones(blocks)]
    of = [np.arange(p, blocks, prompts) for p in range(min(prompts, blocks))]
    # all prompts are drawn before any block, so that groups and branches, which have different
    # numbers of blocks, get the same prompts
    for chosen in draw.integers(len(of), size=(times, len(of))):
        weight = np.zeros(blocks)
        for p in chosen:
            np.add.at(weight, draw.choice(of[p], len(of[p])), 1)
        made.append(weight)
    return torch.tensor(np.stack(made), dtype=torch.float32)


def hindsight(
    away: Tensor, sigma: Tensor, half: Tensor, sketch: Any, ridge: float = 0.03
) -> tuple[Tensor, Tensor]:
    """Estimate the ceiling: the best weights of frames, each half's found on the other half.

    `away` (B, M, K, F) are deviations in branches, `sigma` (F, F) is the covariance in
    groups. The result is weights (2, K, L, F), and the deviations (B, M, K, L) by the other
    half's weights. The gradient of segment j from frame e is B_je = E (r_e − b) G_j. The
    weights c_j = (Σ + λ)⁻¹ v_j / E|G_j|² with v_je = <B_je, m_ref> have the most signal
    along m_ref for their noise, because scores of different segments are almost
    uncorrelated.
    """
    sigma = sigma + ridge * sigma.diagonal().mean() * torch.eye(len(sigma))
    signals: list[Any] = [0.0, 0.0]
    length: Any = 0.0
    for b, h in enumerate(half.tolist()):
        found = sketch(b)
        each = torch.einsum("mk,mkld->mkd", away[b].mean(-1), found) / found.shape[2]
        cells, own = (
            torch.einsum("mke,mkld->kled", away[b], found),
            torch.einsum("mkld,mkd->mkl", found, each),
        )
        pairs = torch.einsum("kled,kd->kle", cells, each.sum(0)) - torch.einsum(
            "mke,mkl->kle", away[b], own
        )
        signals[h] = signals[h] + pairs
        length = length + found.square().sum(-1).mean(0)
    weights = [
        torch.linalg.solve(sigma, signals[h].flatten(0, 1).T).T.reshape(signals[h].shape)
        / length[..., None]
        for h in (1, 0)
    ]
    chosen = torch.stack(weights)
    return chosen, torch.einsum("bmke,bkle->bmkl", away, chosen[half])


# The report

Found = dict[str, dict[str, dict[str, dict[str, Any]]]]  # reward → arm → target → numbers
TARGETS = (*(f"step {k}" for k in STEPS), "all steps", "equalised")


def load(run: Path, bench: Bench) -> tuple[Data, list[Tensor], list[Tensor]]:
    """Load what was collected: data, and sketches (M, K, L, D) of groups and branches."""
    kept = {kind: _read(run, kind) for kind in ("group", "branch", "gains")}
    names = list(bench.reward.parts)
    supports = [str(bench.reward.parts[name].time_support) for name in names]
    spans = frame_spans(bench.policy.backbone.frame_map, bench.policy.backbone.shape[1])
    plain = torch.tensor([bench.reward.weights[n] / bench.reward.scales[n][1] for n in names])
    curves, branches, gain = (
        [one["curves"] for one in kept[kind]] for kind in ("group", "branch", "gains")
    )
    # no noise follows the last step, so that its clips are completed without noise anyway
    last = STEPS.index(GAINS[-1])
    quiet = [
        torch.cat([one["quiet"], one["curves"][:, [last]]], 1) for one in kept["branch"][::QUIET]
    ]
    data = Data(
        torch.cat(curves)[:, :-1],
        moments(bench),
        spans,
        names,
        supports,
        plain,
        torch.cat(gain)[..., :-1, :] if gain else None,
        torch.stack(branches)[..., :-1, :],
        torch.stack(quiet)[..., :-1, :],
    )
    return data, [one["sketch"] for one in kept["group"]], [one["sketch"] for one in kept["branch"]]


def _read(run: Path, kind: str) -> list[dict[str, Tensor]]:
    """Read the files of one kind, from 0 to the first gap, with their sketches unpacked."""
    files, found = sorted(run.glob(f"{kind}_*.npz")), []
    whole = next((n for n, file in enumerate(files) if int(file.stem[-4:]) != n), len(files))
    for file in files[:whole]:
        with np.load(file, allow_pickle=False) as kept:
            one = {name: torch.from_numpy(kept[name]) for name in kept.files}
        if "sketch" in one:
            one["sketch"] = one["sketch"].float() * one.pop("scale").view(1, -1, 1, 1)
        found.append(one)
    return found


def moments(bench: Bench) -> dict[str, Tensor]:
    """Return the shipped influence at the kept steps, (K, L, F, F) by part."""
    backbone, plan = bench.policy.backbone, bench.plan
    influence = Influence.find("", backbone, plan)
    assert influence is not None  # or find has raised
    return {
        part: influence.segment_moments(part, [plan.times[k] for k in STEPS], backbone.shape[1])
        for part in influence.moment
    }


def objectives(bench: Bench, data: Data) -> dict[str, Tensor]:
    """Return the weights of the parts in each reward.

    The rewards are the composite, the parts in units of their own std ("per part"), and
    each part alone.
    """
    assert data.plain is not None
    away = estimators.leave_one_out(data.curves.mean(2), data.block)
    std = away.square().mean(0).sqrt()
    even = torch.tensor([bench.reward.weights[n] for n in data.names]) / std
    alone = {
        name: torch.eye(len(data.names))[p]
        for p, name in enumerate(data.names)
        if float(std[p]) > 0
    }
    return {"composite": data.plain, "per part": even.masked_fill(std == 0, 0), **alone}


def study(
    data: Data,
    groups: Sequence[Tensor],
    branches: Sequence[Tensor],
    wanted: dict[str, Tensor],
    mixes: Tensor,
    times: int,
) -> Found:
    """Compute the numbers of all arms for all rewards, with 95 % intervals."""
    found, half = Found(), halves(len(branches))
    drawn, picked = resampled(len(branches), PROMPTS, times), resampled(len(groups), PROMPTS, times)
    for reward, parts in wanted.items():
        made, gain = arms(data, parts), gain_arms(data, parts)
        expected = in_branches(data, made)
        if int((half == 1).sum()) > 1:
            made["hindsight"], expected["hindsight"] = _ceiling(data, parts, half, branches)
        own = sums(_blocks(made, len(groups)), groups.__getitem__, mixes, len(groups))
        means = pairs(
            torch.stack(list(expected.values())), branches.__getitem__, mixes, len(branches)
        )
        first = pairs(
            _blocks(made, len(groups))[..., :1, :],
            lambda b: groups[b][:, :1],
            torch.ones(1, 1),
            len(groups),
        )
        found[reward] = {
            name: {
                label: numbers(judge(means, own, drawn, picked, a, t, None if t else first))
                for t, label in enumerate(TARGETS)
            }
            for a, name in enumerate(made)
        }
        for t, label in enumerate(TARGETS):
            shared = across(means.reference[t], drawn) / (drawn @ means.square[0, t] / drawn.sum(1))
            found[reward]["whole clip"][label]["common"] = interval(shared)
        if gain:
            found[reward] |= _gains(data, parts, gain, groups, branches, drawn, picked)
        print(f"{reward}: done", flush=True)
    return found


def _blocks(made: dict[str, Tensor], blocks: int) -> Tensor:
    """Arrange arms (K, N, L) as one tensor (A, B, M, K, L)."""
    return torch.stack(
        [one.unflatten(1, (blocks, -1)).permute(1, 2, 0, 3) for one in made.values()]
    )


def _ceiling(
    data: Data, parts: Tensor, half: Tensor, branches: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the arm `hindsight`, in groups (K, N, L) and in branches as `pairs` needs it.

    In groups the weights are the mean of both halves' weights.
    """
    assert data.branch is not None
    total, curve = (
        torch.einsum("p,bmkpf->bmkf", parts, data.branch),
        torch.einsum("p,npf->nf", parts, data.curves),
    )
    total, curve = (
        torch.stack([one[..., a:b].sum(-1) for a, b in data.spans], -1) for one in (total, curve)
    )
    away = (total - total.mean(1, keepdim=True)) * GROUP / (GROUP - 1)
    sigma = estimators.pooled_covariance(curve, data.small, 0.0)
    chosen, made = hindsight(away, sigma, half, branches.__getitem__)
    return torch.einsum(
        "klf,nf->knl", chosen.mean(0), estimators.leave_one_out(curve, data.small)
    ), made


def _gains(
    data: Data,
    parts: Tensor,
    gain: dict[str, tuple[Tensor, Tensor]],
    groups: Sequence[Tensor],
    branches: Sequence[Tensor],
    drawn: Tensor,
    picked: Tensor,
) -> dict[str, dict[str, Any]]:
    """Compare denoising-step credit with whole-clip credit of the same groups."""
    at, some = [STEPS.index(k) for k in GAINS], len(next(iter(gain.values()))[0][0]) // MEMBERS
    whole = estimators.whole_clip(
        torch.einsum("p,npf->n", parts, data.curves) / data.curves.shape[2],
        data.small,
        len(data.spans),
    )[: some * MEMBERS]
    both = {"whole clip": whole.expand(len(at), -1, -1)} | {
        name: one[0] for name, one in gain.items()
    }
    expected = torch.stack(
        [gain["reward less the value before"][1], *(one[1] for one in gain.values())]
    )
    mixes, quiet = torch.eye(len(at)), branches[::QUIET]
    own = sums(_blocks(both, some), lambda b: groups[b][:, at], mixes, some)
    means = pairs(expected, lambda b: quiet[b][:, at], mixes, len(quiet))
    return {
        name: {
            f"step {k}": numbers(judge(means, own, drawn[:, ::QUIET], picked[:, :some], a, t))
            for t, k in enumerate(GAINS)
        }
        for a, name in enumerate(both)
        if a
    }


def numbers(judged: Judged) -> dict[str, Any]:
    """Return [value, low, high] of each number of an arm."""
    reported = {
        "equivalents": judged.equivalents(),
        "cosine": judged.cosine(),
        "kept": judged.kept(),
        "noise": judged.noise / judged.reference_noise,
        "signal": judged.reference / judged.reference_noise,
        "resolved": judged.reference,
    }
    return {name: interval(values) for name, values in reported.items()}


def interval(values: Tensor) -> list[float]:
    """Return the value and the 95 % interval of its resamples."""
    return [
        float(values[0]),
        *(float(q) for q in np.nanquantile(values[1:].numpy(), [0.025, 0.975])),
    ]


def cell(one: dict[str, Any] | None, what: str = "equivalents") -> str:
    """Format a number with its interval; a dash where the reference is not significant."""
    if one is None or not one["resolved"][1] > 0:
        return "–"
    return _shown(one[what]).replace("nan", "–")


def table(rows: dict[str, dict[str, Any]], targets: Sequence[str], what: str) -> list[str]:
    """Return a Markdown table of one number, arms by targets."""
    lines = [f"| arm | {' | '.join(targets)} |", "|---" * (len(targets) + 1) + "|"]
    return lines + [
        f"| {name} | {' | '.join(cell(row.get(t), what) for t in targets)} |"
        for name, row in rows.items()
    ]


CONTROLS = ("permuted", "hindsight")
FEW = (
    "whole clip, std of each group",
    "segment, a std each, α 0.5",
    "segment, mean of its frames, α 0.5",
    "segment, mean of its frames, α 1",
    "segment, sum of its frames, α 1",
    "influence",
    "GLS, ridge 0.1",
    "posterior, ridge 0.1",
    "reward less the value before",
    "step gain",
    "step gain, segment sum, α 0.5",
    "permuted: segment, sum of its frames, α 1",
    "permuted: GLS, ridge 0.1",
    "hindsight",
)
EARLY = ("step 0", "step 4")  # the steps at which the reference is significant


ABOUT = """Sample-equivalents: how many samples of whole-clip credit one sample is worth, \
by signal kept and noise; the
study's opening lines define them. Signal is that of trajectories, each by itself; \
of the part that all trajectories
share, which is what training climbs, these samples tell little (its share is below), \
so that a bias of that part alone
would not be seen. Intervals are wide, since few trajectories carry much of the signal: \
that an arm is above or below 1
is told where its interval says so, the order among the best is not. \
"By steps" weighs steps by the share of the
reward's variance that they make."""


def verdict(found: Found) -> str:
    """List the arms with the most sample-equivalents at the early steps, and the controls.

    Arms are ranked by the mean logarithm over both rewards.
    """
    rewards = [name for name in ("composite", "per part") if name in found]
    cells = [(reward, step) for reward in rewards for step in EARLY]
    gains = (
        [name for name in found[rewards[0]] if "all steps" not in found[rewards[0]][name]]
        if rewards
        else []
    )
    shared = [
        name
        for name in (found[rewards[0]] if rewards else [])
        if all(name in found[r] for r in rewards)
    ]
    plain = [
        name
        for name in shared
        if not name.startswith(CONTROLS) and name not in gains and "by steps" not in name
    ]
    worth = {
        name: [found[r][name][t]["equivalents"] for r, t in cells]
        for name in shared
        if name not in gains
    }

    def mean_log(name: str) -> float:
        return float(np.mean([np.log(max(one[0], 1e-3)) for one in worth[name]]))

    best = sorted(plain, key=mean_log, reverse=True)[:6]
    where = ", ".join(f"{r} {t}" for r, t in cells)
    lines = [f"Sample-equivalents at {where}; the best six arms, then the controls:"]
    return "\n".join(
        [
            *lines,
            "",
            *(
                f"- {name}: {', '.join(_shown(one) for one in worth[name])}"
                for name in [*best, *(n for n in worth if n.startswith("permuted"))]
            ),
        ]
    )


def _shown(one: Sequence[float]) -> str:
    """Format a value with its interval, with a true minus sign."""
    return f"{one[0]:.2f} [{one[1]:.2f}, {one[2]:.2f}]".replace("-", "−")


def page(found: Found, command: str, counts: str, equalised: str) -> str:
    """Return the page as Markdown."""
    versions = (
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"numpy {np.__version__}, CPU, one thread"
    )
    lines = [
        "# The gradient that each way of giving credit yields",
        "",
        f"`{command}`  ",
        versions,
        "",
        counts,
        "",
        ABOUT,
        "",
        "![sample-equivalents](gradient_snr.svg)",
        "",
        verdict(found),
        "",
    ]
    for reward in [name for name in ("composite", "per part") if name in found]:
        rows, first = found[reward], found[reward]["whole clip"]
        signal = ", ".join(
            f"{t} {_shown([1000 * v for v in row['signal']])}" for t, row in first.items()
        )
        common = ", ".join(f"{t} {_shown(row['common'])}" for t, row in first.items())
        lines += [
            f"## {reward}",
            "",
            f"Whole-clip credit: 1000 |m|²/V of a group of 8: {signal}. Share of |m|² that "
            f"is common to all trajectories: {common}.",
            "",
            "Sample-equivalents:",
            "",
            *table(rows, TARGETS, "equivalents"),
            "",
            "cos∞ (bias = 1 − cos∞):",
            "",
            *table(rows, TARGETS, "cosine"),
            "",
        ]
    alone = [name for name in found if name not in ("composite", "per part")]
    for step in EARLY:
        columns = {arm: {name: found[name].get(arm, {}).get(step) for name in alone} for arm in FEW}
        lines += [
            f"## Each part alone, {step}",
            "",
            "Sample-equivalents:",
            "",
            *table(
                {arm: row for arm, row in columns.items() if any(row.values())},
                alone,
                "equivalents",
            ),
            "",
        ]
    lines += [
        "A dash: the reference itself is not told from noise.",
        "",
        "## Equalised steps",
        "",
        equalised,
        "",
    ]
    return "\n".join(lines)


COLOURS = {
    "step 0": "#9ec5f4",
    "step 4": "#3b82d6",
    "step 7": "#173f73",
    "all steps": "#d9480f",
    "equalised": "#7c4dbc",
}


def picture(found: Found) -> str:
    """Draw sample-equivalents by arm and step on a logarithmic axis, for the composite."""
    rows = found.get("composite") or next(iter(found.values()))
    left, right = 300, 860
    high, top = 22, 66
    low, most = 0.125, 128.0

    def x(value: float) -> float:
        place = np.log(min(max(value, low), most) / low) / np.log(most / low)
        return float(left + (right - left) * place)

    bottom = top + high * len(rows)
    drawn = [
        '<text x="16" y="26" font-size="14" fill="#1b1c1e">'
        "Whole-clip samples that one sample is worth, composite</text>"
    ]
    for i, (name, colour) in enumerate(COLOURS.items()):
        drawn.append(
            f'<circle cx="{24 + 110 * i}" cy="44" r="4.5" fill="{colour}"/>'
            f'<text x="{34 + 110 * i}" y="48" font-size="11.5" fill="#62656b">{name}</text>'
        )
    for tick in (0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128):
        ink = "#1b1c1e" if tick == 1 else "#dfe1e5"
        drawn.append(
            f'<path d="M{x(tick):.1f},{top - 4}V{bottom}" stroke="{ink}"/><text x="{x(tick):.1f}" '
            f'y="{bottom + 16}" font-size="11" text-anchor="middle" fill="#62656b">{tick:g}</text>'
        )
    for i, (name, row) in enumerate(rows.items()):
        y = top + high * (i + 0.5)
        tone = (
            "#a3271b"
            if name.startswith("permuted")
            else "#62656b"
            if name == "hindsight"
            else "#1b1c1e"
        )
        drawn.append(
            f'<text x="{left - 12}" y="{y + 4:.1f}" font-size="11.5" text-anchor="end" '
            f'fill="{tone}">{escape(name)}</text>'
        )
        for j, (target, colour) in enumerate(COLOURS.items()):
            one = row.get(target)
            if one is None or not one["resolved"][1] > 0:
                continue
            value, least, best = one["equivalents"]
            at = y + 3.2 * (j - 2)
            drawn.append(
                f'<path d="M{x(least):.1f},{at:.1f}H{x(best):.1f}" stroke="{colour}" '
                f'opacity=".55"/><circle cx="{x(value):.1f}" cy="{at:.1f}" r="3" fill="{colour}"/>'
            )
    tall = bottom + 30
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 {tall}" width="900" '
        f'height="{tall}" '
        'font-family="ui-sans-serif,system-ui,Helvetica,Arial,sans-serif"><rect width="900" '
        f'height="{tall}" rx="10" fill="#ffffff"/>{"".join(drawn)}</svg>\n'
    )


def report(run: Path, out: Path, only: Sequence[str], times: int) -> None:
    """Analyse what is collected, and write the page, the picture and the numbers."""
    bench = Bench.demo()
    data, groups, branches = load(run, bench)
    plan, count = bench.plan, len(STEPS)
    level = step_weights(
        bench.policy.backbone.path, plan.sampler, plan.times, STEPS, plan.eta, "rectified"
    ).float()
    mixes = torch.cat([torch.eye(count), torch.ones(1, count) / count, level[None] / count])
    wanted = objectives(bench, data)
    found = study(
        data,
        groups,
        branches,
        {n: w for n, w in wanted.items() if not only or n in only},
        mixes,
        times,
    )
    gained = 0 if data.gain is None else len(data.gain)
    counts = (
        f"{len(groups) * MEMBERS} samples in groups, {len(branches)} trajectories with {GROUP} "
        f'clips at each of the steps {", ".join(map(str, STEPS))} of ten ("all steps" is these), '
        f"{gained} samples with the values around each step; {PROMPTS} prompts; "
        f"{groups[0].shape[-1]} numbers a sketch; intervals of 95 %."
    )
    command = "python " + " ".join([Path(sys.argv[0]).as_posix(), *sys.argv[1:]])
    weights = ", ".join(f"{w:.2f}" for w in level.tolist())
    equalised = (
        f"Weights {weights} of the steps (the inverse of |∂mean/∂v|/std). "
        "The reference of these columns is whole-clip credit with the same weights."
    )
    out.write_text(page(found, command, counts, equalised), encoding="utf-8")
    out.with_suffix(".svg").write_text(picture(found), encoding="utf-8")
    out.with_suffix(".json").write_text(
        json.dumps(rounded(found), ensure_ascii=False) + "\n", encoding="utf-8"
    )
    print(out.read_text(encoding="utf-8"))


def rounded(value: Any) -> Any:
    """Round all numbers to four digits; null for a number that is not finite."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.4g}") if np.isfinite(value) else None


def main() -> None:
    """Collect, analyse and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--groups", type=int, default=36, help="groups of 32 samples")
    parser.add_argument(
        "--gain-groups", type=int, default=6, help="groups with the values around each step"
    )
    parser.add_argument(
        "--branches", type=int, default=240, help="trajectories with 8 clips a step"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=0,
        help="time limit of the collection (0: until all groups and branches are collected)",
    )
    parser.add_argument("--analyse", action="store_true", help="collect nothing")
    parser.add_argument("--only", default="", help="rewards to analyse, as composite,flicker")
    parser.add_argument("--resamples", type=int, default=400)
    parser.add_argument("--run", type=Path, default=Path("runs/gradient_snr"))
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/credit/gradient_snr.md")
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.analyse:
        collect(args.run, args.groups, args.gain_groups, args.branches, args.minutes)
    report(args.run, args.out, [name for name in args.only.split(",") if name], args.resamples)


if __name__ == "__main__":
    main()

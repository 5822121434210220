"""Plan → Rollout: sample a policy, and keep what its update needs.

Legend: B samples, C latent channels, L latent frames, K kept steps, S segments; latents (B, C, L, h, w), float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from vidrl import transition
from vidrl.backbones.base import Cond, Denoiser, without_autocast
from vidrl.path import exact
from vidrl.pieces import Pieces, pieces
from vidrl.policy import Policy
from vidrl.rewards import Samples
from vidrl.segments import pool

SCORE_BATCH = 4  # clips that are decoded and scored at once, where nobody says another number


@dataclass(frozen=True)
class Plan:
    """How to sample: the sampler's noise level, the schedule, its stochastic steps, and which of these are kept.

    `times` (steps + 1) fall from 1 to 0; `stochastic` and `keep` are indices of steps, keep within stochastic. With
    `same_start` the members of a group begin with one noise, and differ by what their steps draw.
    """

    times: Sequence[float]
    sampler: str = "dance_sde"
    eta: float = 0.3
    segments: int = 1
    stochastic: tuple[int, ...] = ()
    keep: tuple[int, ...] = ()
    same_start: bool = False

    def __post_init__(self) -> None:
        if not set(self.keep) <= set(self.stochastic):
            raise ValueError(f"expected kept steps among the stochastic {self.stochastic}, got {self.keep}")
        if any(not 0 <= k < len(self.times) - 1 or self.times[k + 1] == 0 for k in self.stochastic):
            raise ValueError(f"expected stochastic steps below {len(self.times) - 2}: the step to 0 is deterministic")

    def step(self, policy: Denoiser | Policy, x: Tensor, k: int, cond: Cond) -> transition.Step:
        """The Gaussian of step k at x."""
        at = torch.full((len(x),), self.times[k], device=x.device)
        raw = policy.predict(x, at, cond)
        return self.gaussian(_backbone(policy), raw, x, self.times[k], self.times[k + 1], k in self.stochastic)

    def gaussian(
        self, backbone: Denoiser, raw: Tensor, x: Tensor, t: Tensor | float, s: Tensor | float, noisy: bool = True
    ) -> transition.Step:
        """The Gaussian that a prediction `raw` means, of steps t → s."""
        sampler = self.sampler if noisy else "ode"
        return transition.step(backbone.path, sampler, raw, x, t, s, self.eta, self.times[1])


@dataclass(frozen=True)
class Rollout:
    """What was sampled: final latents (B, ...), the kept steps' ends (B, K, ...), and their log-densities (B, K, S)."""

    cond: Cond
    latents: Tensor
    before: Tensor
    after: Tensor
    log_density: Tensor
    plan: Plan

    def __len__(self) -> int:
        return len(self.latents)


def draws(seed: int, names: Sequence[tuple[object, ...]]) -> list[torch.Generator]:
    """A generator for each name, such as (round, prompt, member): no other draw moves it, on any machine.

    Example:
        >>> a, b = draws(0, [("x", 1), ("x", 1)])
        >>> bool(torch.equal(torch.randn(2, generator=a), torch.randn(2, generator=b)))
        True
    """
    made = []
    for name in names:
        digest = hashlib.sha256(repr((seed, *name)).encode()).digest()
        made.append(torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1))
    return made


def copied(generators: Sequence[torch.Generator]) -> list[torch.Generator]:
    """Generators that draw what these would draw, and leave these as they are: a piece can begin again."""
    return [torch.Generator(one.device).set_state(one.get_state()) for one in generators]


@torch.no_grad()
def sample(
    policy: Policy | Denoiser, cond: Cond, generators: Sequence[torch.Generator], plan: Plan,
    starts: Sequence[torch.Generator] | None = None,
) -> Rollout:  # fmt: skip
    """Denoise one latent a generator along the plan; each draws its first latent, then the noise of its own steps.

    Where `starts` are given, the first latents come from those.
    """
    backbone = _backbone(policy)
    x = exact(backbone.noise(starts or generators)).to(backbone.device)
    before, after, logs = [], [], []
    for k in range(len(plan.times) - 1):
        step = plan.step(policy, x, k, cond)
        drawn = step.sample(backbone.noise(generators).to(x)) if k in plan.stochastic else step.mean
        if k in plan.keep:
            before.append(x)
            after.append(drawn)
            logs.append(pool(transition.log_density(step, drawn), plan.segments))
        x = drawn
    if not before:
        empty = x.new_zeros(len(x), 0)
        return Rollout(cond, x, empty, empty, empty, plan)
    return Rollout(cond, x, torch.stack(before, 1), torch.stack(after, 1), torch.stack(logs, 1), plan)


def join(rollouts: Sequence[Rollout], cond: Cond | None = None) -> Rollout:
    """Rollouts of one plan as one; `cond`: their conditions, where they are at hand as one already."""
    cond = cond or {name: torch.cat([r.cond[name] for r in rollouts]) for name in rollouts[0].cond}
    kept = [(r.latents, r.before, r.after, r.log_density) for r in rollouts]
    latents, before, after, log_density = (torch.cat(parts) for parts in zip(*kept, strict=True))
    return Rollout(cond, latents, before, after, log_density, rollouts[0].plan)


@torch.no_grad()
def decoded(backbone: Denoiser, latents: Tensor, prompts: Sequence[str]) -> Samples:
    """The clips of latents, on the CPU.

    Every decode comes through here, and none runs under autocast: rewards in training and held-out measures are of the
    same decoder, whoever asks and whatever `train.mixed_precision` says.
    """
    with without_autocast(latents.device):
        video = backbone.decode(latents).clamp(0, 1).float().cpu()
    return Samples(video, list(prompts), backbone.fps)


def decoded_pieces(
    backbone: Denoiser, latents: Tensor, prompts: Sequence[str], size: Pieces | int = SCORE_BATCH
) -> Iterator[Samples]:
    """The clips of latents, in order, a few at a time: host memory holds those that the caller keeps."""
    return pieces(size).each(len(prompts), lambda part: decoded(backbone, latents[part], prompts[part]))


def clips(
    policy: Policy | Denoiser, prompts: Sequence[str], generators: Sequence[torch.Generator], steps: int = 20,
    batch: Pieces | int = 32, decode_batch: Pieces | int = SCORE_BATCH,
    encode: Callable[[Sequence[str]], Cond] | None = None,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Iterator[Samples]:  # fmt: skip
    """Clips of prompts by the deterministic sampler, in order, a few at a time, on the CPU.

    `batch` clips are sampled and `decode_batch` clips decoded at once, fewer where memory runs out; `autocast` is the
    context of the sampling alone.
    """
    backbone = _backbone(policy)
    plan, encode = Plan(backbone.times(steps)), encode or backbone.encode

    def sampled(part: slice) -> tuple[Tensor, Sequence[str]]:
        cond = encode(prompts[part])
        with autocast():
            return sample(policy, cond, copied(generators[part]), plan).latents, prompts[part]

    for latents, asked in pieces(batch).each(len(prompts), sampled):
        yield from decoded_pieces(backbone, latents, asked, decode_batch)


def generate(
    policy: Policy | Denoiser, prompts: Sequence[str], generators: Sequence[torch.Generator], steps: int = 20,
    batch: Pieces | int = 32, encode: Callable[[Sequence[str]], Cond] | None = None,
) -> Samples:  # fmt: skip
    """Clips of prompts by the deterministic sampler as one batch, on the CPU; `clips` gives them a few at a time.

    Example:
        >>> from vidrl.backbones.toy import Toy
        >>> generate(Toy.tiny(), ["a cat"], draws(0, [("cat",)]), steps=2).video.shape
        torch.Size([1, 9, 3, 32, 32])
    """
    videos = [one.video for one in clips(policy, prompts, generators, steps, batch, encode=encode)]
    return Samples(torch.cat(videos), list(prompts), _backbone(policy).fps)


def _backbone(policy: Policy | Denoiser) -> Denoiser:
    return policy.backbone if isinstance(policy, Policy) else policy

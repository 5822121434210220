"""Plan → Rollout: sample a policy, and keep what its update needs.

Legend: B samples, C latent channels, L latent frames, K kept steps, S segments; latents (B,
C, L, h, w), float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from vidrl.backbones.base import Cond, Denoiser, rows, without_autocast
from vidrl.data import references
from vidrl.diffusion import transition
from vidrl.diffusion.path import exact
from vidrl.diffusion.segments import pool
from vidrl.rewards import Samples

from .pieces import Pieces, pieces
from .policy import Policy

SCORE_BATCH = 4  # clips that are decoded and scored at once, where nobody says another number


@dataclass(frozen=True)
class Plan:
    """How to sample: the sampler and its noise level, the schedule, its stochastic steps,
    and which steps are kept.

    `times` (steps + 1) fall from at most 1 to 0; `stochastic` and `keep` are indices of
    steps. A kept step may be deterministic: its log-density is then 0. `forks` (step,
    children) make the samples of a group a tree: all begin with one noise, and each node
    divides into so many children before that step draws its noise; 0 children stands for
    the whole group, and no forks for samples that share nothing. `weights` names the set of
    weights that samples. `scored` is False where the loss scores the clips itself, or
    nothing does: then the loop decodes and scores none. `means` keeps the means of the kept
    steps.
    """

    times: Sequence[float]
    sampler: str = "dance_sde"
    eta: float = 0.3
    segments: int = 1
    stochastic: tuple[int, ...] = ()
    keep: tuple[int, ...] = ()
    forks: tuple[tuple[int, int], ...] = ()
    weights: str = "live"
    scored: bool = True
    means: bool = False

    def __post_init__(self) -> None:
        if any(not 0 <= k < len(self.times) - 1 for k in self.keep):
            raise ValueError(
                f"expected kept steps from 0 to {len(self.times) - 2}, got {self.keep}"
            )
        if any(not 0 <= k < len(self.times) - 1 or self.times[k + 1] == 0 for k in self.stochastic):
            raise ValueError(
                f"expected stochastic steps below {len(self.times) - 2}: the step to 0 is deterministic"
            )
        at = [step for step, _ in self.forks]
        if at != sorted(set(at)) or any(not 0 <= k < len(self.times) - 1 for k in at):
            raise ValueError(
                f"expected forks at rising steps from 0 to {len(self.times) - 2}, got {at}"
            )

    def depth(self, k: int) -> int:
        """How many forks lie at or before step k."""
        return sum(step <= k for step, _ in self.forks)

    def step(self, policy: Denoiser | Policy, x: Tensor, k: int, cond: Cond) -> transition.Step:
        """The Gaussian of step k at x."""
        at = torch.full((len(x),), self.times[k], device=x.device)
        raw = policy.predict(x, at, cond)
        return self.gaussian(
            _backbone(policy), raw, x, self.times[k], self.times[k + 1], k in self.stochastic
        )

    def gaussian(
        self,
        backbone: Denoiser,
        raw: Tensor,
        x: Tensor,
        t: Tensor | float,
        s: Tensor | float,
        noisy: bool = True,
    ) -> transition.Step:
        """The Gaussian that a prediction `raw` means, of steps t → s."""
        sampler = self.sampler if noisy else "ode"
        return transition.step(backbone.path, sampler, raw, x, t, s, self.eta, self.times[1])


@dataclass(frozen=True)
class Rollout:
    """What was sampled: final latents (B, ...), the kept steps' ends (B, K, ...), and their
    log-densities (B, K, S).

    `mean` (B, K, ...) has the means of the kept steps where the plan asks for them.
    """

    cond: Cond
    latents: Tensor
    before: Tensor
    after: Tensor
    log_density: Tensor
    plan: Plan
    mean: Tensor | None = None

    def __len__(self) -> int:
        return len(self.latents)


@dataclass(frozen=True)
class Level:
    """The nodes of a tree at one depth: of each of the B samples its node, and a generator
    a node."""

    node: Sequence[int]
    generators: Sequence[torch.Generator]

    @property
    def first(self) -> list[int]:
        """The first sample of each node."""
        first = {n: i for i, n in reversed(list(enumerate(self.node)))}
        return [first[n] for n in range(len(self.generators))]


def draws(seed: int, names: Sequence[tuple[object, ...]]) -> list[torch.Generator]:
    """A generator for each name, such as (round, prompt, member): no other draw moves it,
    on any machine.

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
    """Generators that draw what these would draw, and leave these as they are: a piece can
    begin again."""
    return [torch.Generator(one.device).set_state(one.get_state()) for one in generators]


def tree(plan: Plan, seed: int, samples: Sequence[tuple[int, int, int]], group: int) -> list[Level]:
    """The levels above the samples (round, prompt, member) in the tree that a plan's forks
    make, from the root down.

    Raises ValueError for forks whose children do not multiply to `group`.

    Example:
        >>> plan = Plan([1.0, 0.7, 0.4, 0.0], stochastic=(0, 1), forks=((0, 2), (1, 2)))
        >>> [list(level.node) for level in tree(plan, 0, [(0, 5, member) for member in range(4)], group=4)]
        [[0, 0, 0, 0], [0, 0, 1, 1]]
    """
    children = [count or group for _, count in plan.forks]
    if plan.forks and prod(children) != group:
        raise ValueError(
            f"expected train.group = {prod(children)}, the product of the forks' children {children}, "
            f"got {group}"
        )
    levels = []
    for depth in range(len(children)):
        width = prod(children[depth:])
        own = [
            (r, p, "node", depth, member // width) if depth else (r, p) for r, p, member in samples
        ]
        place = {name: n for n, name in enumerate(dict.fromkeys(own))}
        levels.append(Level([place[name] for name in own], draws(seed, list(place))))
    return levels


@torch.no_grad()
def sample(
    policy: Policy | Denoiser,
    cond: Cond,
    generators: Sequence[torch.Generator],
    plan: Plan,
    above: Sequence[Level] = (),
) -> Rollout:
    """Denoise one latent a generator along the plan.

    Each sample draws its first latent and then the noise of its own steps. With forks, the
    levels `above` the samples (see `tree`) draw the first latents and the noise before the
    last fork; what several samples share is computed once.
    """
    backbone, levels = _backbone(policy), [*above, Level(range(len(generators)), generators)]
    if len(levels) != len(plan.forks) + 1:
        raise ValueError(
            f"expected one level above the samples for each of {len(plan.forks)} forks, got {len(above)}"
        )
    kept, level = [], levels[0]
    x = exact(backbone.noise(level.generators)).to(backbone.device)
    for k in range(len(plan.times) - 1):
        parent, level = level, levels[plan.depth(k)]
        if parent is not level:
            x = x[[parent.node[i] for i in level.first]]
        step = plan.step(
            policy, x, k, cond if level is levels[-1] else rows(cond, torch.tensor(level.first))
        )
        drawn = (
            step.sample(backbone.noise(level.generators).to(x))
            if k in plan.stochastic
            else step.mean
        )
        if k in plan.keep:
            ends = [x, drawn, _density(plan, step, drawn, k), *([step.mean] if plan.means else [])]
            kept.append([value[list(level.node)] for value in ends])
        x = drawn
    before, after, logs, *mean = (
        (torch.stack(parts, 1) for parts in zip(*kept, strict=True))
        if kept
        else (x.new_zeros(len(generators), 0),) * (4 if plan.means else 3)
    )
    return Rollout(cond, x[list(level.node)], before, after, logs, plan, *mean)


def _density(plan: Plan, step: transition.Step, drawn: Tensor, k: int) -> Tensor:
    """Log-densities of a step's end, (B, S); 0 where the step draws no noise."""
    if k not in plan.stochastic:
        return drawn.new_zeros(len(drawn), plan.segments)
    return pool(transition.log_density(step, drawn), plan.segments)


def join(rollouts: Sequence[Rollout], cond: Cond | None = None) -> Rollout:
    """Rollouts of one plan as one; `cond`: their conditions, where they are at hand as one
    already."""
    cond = cond or {name: torch.cat([r.cond[name] for r in rollouts]) for name in rollouts[0].cond}
    kept = [(r.latents, r.before, r.after, r.log_density) for r in rollouts]
    latents, before, after, log_density = (torch.cat(parts) for parts in zip(*kept, strict=True))
    means = [r.mean for r in rollouts if r.mean is not None]
    return Rollout(
        cond,
        latents,
        before,
        after,
        log_density,
        rollouts[0].plan,
        torch.cat(means) if means else None,
    )


@torch.no_grad()
def decoded(
    backbone: Denoiser, latents: Tensor, prompts: Sequence[str], cond: Cond | None = None
) -> Samples:
    """The clips of latents, made under a condition, on the CPU.

    Every decode comes through here, and none runs under autocast: rewards in training and
    held-out measures are of the same decoder, whoever asks and whatever
    `train.mixed_precision` says.
    """
    with without_autocast(latents.device):
        video = (
            (backbone.decode_with(latents, cond) if cond else backbone.decode(latents))
            .clamp(0, 1)
            .float()
            .cpu()
        )
    return Samples(
        video, list(prompts), backbone.fps, references.images(prompts, *video.shape[-2:])
    )


def decoded_pieces(
    backbone: Denoiser,
    latents: Tensor,
    prompts: Sequence[str],
    cond: Cond | None = None,
    size: Pieces | int = SCORE_BATCH,
) -> Iterator[Samples]:
    """The clips of latents, in order, a few at a time: host memory holds those that the
    caller keeps."""
    return pieces(size).each(
        len(prompts), lambda p: decoded(backbone, latents[p], prompts[p], rows(cond or {}, p))
    )


def clips(
    policy: Policy | Denoiser,
    prompts: Sequence[str],
    generators: Sequence[torch.Generator],
    steps: int = 20,
    batch: Pieces | int = 32,
    decode_batch: Pieces | int = SCORE_BATCH,
    encode: Callable[[Sequence[str]], Cond] | None = None,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Iterator[Samples]:
    """Clips of prompts by the deterministic sampler, in order, a few at a time, on the CPU.

    `batch` clips are sampled and `decode_batch` clips decoded at once, fewer where memory
    runs out; `autocast` is the context of the sampling alone.
    """
    backbone = _backbone(policy)
    plan, encode = Plan(backbone.times(steps)), encode or backbone.encode

    def sampled(part: slice) -> tuple[Tensor, Sequence[str], Cond]:
        cond = encode(prompts[part])
        with autocast():
            return sample(policy, cond, copied(generators[part]), plan).latents, prompts[part], cond

    for latents, asked, cond in pieces(batch).each(len(prompts), sampled):
        yield from decoded_pieces(backbone, latents, asked, cond, decode_batch)


def generate(
    policy: Policy | Denoiser,
    prompts: Sequence[str],
    generators: Sequence[torch.Generator],
    steps: int = 20,
    batch: Pieces | int = 32,
    encode: Callable[[Sequence[str]], Cond] | None = None,
) -> Samples:
    """Clips of prompts by the deterministic sampler as one batch, on the CPU; `clips` gives
    them a few at a time.

    Example:
        >>> from vidrl.backbones.toy import Toy
        >>> generate(Toy.tiny(), ["a cat"], draws(0, [("cat",)]), steps=2).video.shape
        torch.Size([1, 9, 3, 32, 32])
    """
    videos = torch.cat(
        [one.video for one in clips(policy, prompts, generators, steps, batch, encode=encode)]
    )
    return Samples(
        videos, list(prompts), _backbone(policy).fps, references.images(prompts, *videos.shape[-2:])
    )


def _backbone(policy: Policy | Denoiser) -> Denoiser:
    return policy.backbone if isinstance(policy, Policy) else policy

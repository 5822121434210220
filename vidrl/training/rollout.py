"""Sample a policy along a `Plan`; keep, as a `Rollout`, what the update needs.

Legend: B samples, C latent channels, L latent frames, K kept steps, S segments; latents (B,
C, L, h, w), float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from vidrl.backbones.base import Cond, Denoiser, on, rows, stacked, without_autocast
from vidrl.data import references
from vidrl.diffusion import transition
from vidrl.diffusion.path import Path, exact
from vidrl.diffusion.segments import pool
from vidrl.rewards import Samples

from .pieces import Pieces, pieces
from .policy import Policy

# How many clips are decoded and scored at once, unless the caller gives another number.
SCORE_BATCH = 4


class Sampled(Protocol):
    """What `sample` needs of a policy or a backbone: a denoiser of latents of one shape."""

    @property
    def path(self) -> Path:
        """Return the noise path."""
        ...

    @property
    def device(self) -> torch.device:
        """Return the device on which the network computes."""
        ...

    def noise(self, draws: Sequence[torch.Generator]) -> Tensor:
        """Return unit noise for each random generator; see `Denoiser.noise`."""
        ...

    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the prediction at x_t; see `Denoiser.predict`."""
        ...


@dataclass(frozen=True)
class Plan:
    """A plan that says how a round samples, and which steps the update needs."""

    # The times of the steps' ends, (steps + 1), which fall from at most 1 to 0.
    times: Sequence[float]
    # The sampler of the stochastic steps, a name of `diffusion.transition`.
    sampler: str = "dance_sde"
    # The noise level of that sampler; 0 is deterministic.
    eta: float = 0.3
    # How many segments of a clip have a log-density of their own.
    segments: int = 1
    # The indices of the steps that draw noise.
    stochastic: tuple[int, ...] = ()
    # The indices of the steps that the rollout keeps. The log-density of a kept step that
    # draws no noise is 0.
    keep: tuple[int, ...] = ()
    # Pairs (step, children), which make the samples of a group a tree. All samples of the group
    # begin with one noise; before `step` draws its noise, each node of the tree divides into
    # `children` nodes, which draw different noise. 0 children stands for the size of the group.
    # Without forks, each sample has noise of its own from the start.
    forks: tuple[tuple[int, int], ...] = ()
    # The name of the set of weights that samples.
    weights: str = "live"
    # Whether the loop decodes and scores the clips; False where the loss scores them itself.
    scored: bool = True
    # Whether the rollout keeps the means of the kept steps.
    means: bool = False
    # Whether the step to 0 may draw noise, as on a path whose scale is learned.
    noisy_end: bool = False
    # How many chunks take these steps, one after the other (`training.chunks`). Step k of chunk
    # j has the number j · steps + k in `forks`; `segments` are those of the whole clip.
    chunks: int = 1

    def __post_init__(self) -> None:
        if any(not 0 <= k < len(self.times) - 1 for k in self.keep):
            raise ValueError(
                f"expected kept steps from 0 to {len(self.times) - 2}, got {self.keep}"
            )
        last = len(self.times) - 1 - (self.times[-1] == 0 and not self.noisy_end)
        if any(not 0 <= k < last for k in self.stochastic):
            raise ValueError(
                f"expected stochastic steps below {len(self.times) - 2}: the step to 0 is "
                "deterministic"
            )
        steps, end = [step for step, _ in self.forks], self.chunks * (len(self.times) - 1)
        if steps != sorted(set(steps)) or any(not 0 <= k < end for k in steps):
            raise ValueError(f"expected forks at rising steps from 0 to {end - 1}, got {steps}")

    def depth(self, k: int) -> int:
        """Return how many forks lie at or before step k."""
        return sum(step <= k for step, _ in self.forks)

    def step(self, policy: Sampled | Policy, x: Tensor, k: int, cond: Cond) -> transition.Step:
        """Return the Gaussian of step k at x."""
        t = torch.full((len(x),), self.times[k], device=x.device)
        raw = policy.predict(x, t, cond)
        return self.gaussian(
            _sampled(policy), raw, x, self.times[k], self.times[k + 1], k in self.stochastic
        )

    def gaussian(
        self,
        backbone: Sampled,
        raw: Tensor,
        x: Tensor,
        t: Tensor | float,
        s: Tensor | float,
        noisy: bool = True,
    ) -> transition.Step:
        """Return the Gaussian of steps t → s that follows from a prediction `raw` at x."""
        # a step outside `stochastic` is deterministic, whatever the plan's sampler is
        sampler = self.sampler if noisy else "ode"
        return transition.step(backbone.path, sampler, raw, x, t, s, self.eta, self.times[1])


@dataclass(frozen=True)
class Rollout:
    """The samples of a round, with the latents and log-densities that the update needs."""

    # The conditions, encoded prompts, of the samples.
    cond: Cond
    # The final latents, (B, C, L, h, w).
    latents: Tensor
    # The latents before and after each kept step, (B, K, C, L, h, w).
    before: Tensor
    after: Tensor
    # The log-densities of the kept steps, (B, K, S), a mean over a segment's elements.
    log_density: Tensor
    # How these samples were made.
    plan: Plan
    # The means of the kept steps, (B, K, C, L, h, w), where the plan asks for them.
    mean: Tensor | None = None
    # What the condition of each chunk has beside `cond`, for clips that are made of chunks.
    added: Sequence[Cond] = ()

    def __len__(self) -> int:
        """Return the number of samples, B."""
        return len(self.latents)


@dataclass(frozen=True)
class Level:
    """A level of a tree, which holds the nodes at one depth."""

    # The node of each of the B samples.
    node: Sequence[int]
    # The generator of each node, which draws the noise that its samples share.
    generators: Sequence[torch.Generator]

    @property
    def first(self) -> list[int]:
        """Return the first sample of each node."""
        # reversed, so that the first sample of a node overwrites the later ones
        first = {n: i for i, n in reversed(list(enumerate(self.node)))}
        return [first[n] for n in range(len(self.generators))]


def draws(seed: int, names: Sequence[tuple[object, ...]]) -> list[torch.Generator]:
    """Return a random generator for each name, such as (round, prompt, member).

    A generator depends on its name and the seed alone: other draws, the number of processes
    and the machine do not change it.

    Example:
        >>> a, b = draws(0, [("x", 1), ("x", 1)])
        >>> bool(torch.equal(torch.randn(2, generator=a), torch.randn(2, generator=b)))
        True
    """
    generators = []
    for name in names:
        digest = hashlib.sha256(repr((seed, *name)).encode()).digest()
        # 63 bits of the digest: `manual_seed` takes no number of 64 bits
        number = int.from_bytes(digest[:8], "little") >> 1
        generators.append(torch.Generator().manual_seed(number))
    return generators


def copied(generators: Sequence[torch.Generator]) -> list[torch.Generator]:
    """Return generators in the same state, so that a piece of work can begin again."""
    return [torch.Generator(own.device).set_state(own.get_state()) for own in generators]


def tree(plan: Plan, seed: int, samples: Sequence[tuple[int, int, int]], group: int) -> list[Level]:
    """Return the levels above the samples in the tree of a plan's forks, from the root down.

    `samples`: the names (round, prompt, member). Raises ValueError where the product of the
    forks' children is not `group`.

    Example:
        >>> plan = Plan([1.0, 0.7, 0.4, 0.0], stochastic=(0, 1), forks=((0, 2), (1, 2)))
        >>> samples = [(0, 5, member) for member in range(4)]
        >>> [list(level.node) for level in tree(plan, 0, samples, group=4)]
        [[0, 0, 0, 0], [0, 0, 1, 1]]
    """
    children = [count or group for _, count in plan.forks]
    if plan.forks and prod(children) != group:
        raise ValueError(
            f"expected train.group = {prod(children)}, the product of the forks' children "
            f"{children}, got {group}"
        )
    levels = []
    for depth in range(len(children)):
        width = prod(children[depth:])
        # the root is the prompt itself; below, `width` neighbouring members share a node
        nodes = [
            (r, p, "node", depth, member // width) if depth else (r, p) for r, p, member in samples
        ]
        number = {name: n for n, name in enumerate(dict.fromkeys(nodes))}
        levels.append(Level([number[name] for name in nodes], draws(seed, list(number))))
    return levels


@torch.no_grad()
def sample(
    policy: Policy | Sampled,
    cond: Cond,
    generators: Sequence[torch.Generator],
    plan: Plan,
    above: Sequence[Level] = (),
    keep_on: torch.device | None = None,
) -> Rollout:
    """Denoise one latent for each generator along the plan.

    Each sample draws its first latent and then the noise of its steps. With forks, the
    levels `above` the samples (see `tree`) draw the first latents and the noise before the
    last fork. Latents that several samples share are computed once. What is kept goes to
    `keep_on`, such as the CPU, step by step; None is the backbone's device.
    """
    backbone, levels = _sampled(policy), [*above, Level(range(len(generators)), generators)]
    if len(levels) != len(plan.forks) + 1:
        raise ValueError(
            f"expected one level above the samples for each of {len(plan.forks)} forks, got "
            f"{len(above)}"
        )
    # x holds one latent for each node of the present level, not one for each sample
    kept, level = [], levels[0]
    keep_on, used = keep_on or backbone.device, on(cond, backbone.device)
    x = exact(backbone.noise(level.generators)).to(backbone.device)
    for k in range(len(plan.times) - 1):
        parent, level = level, levels[plan.depth(k)]
        # at a fork, each child begins with the latent of its parent
        if parent is not level:
            x = x[[parent.node[i] for i in level.first]]
        step = plan.step(
            policy, x, k, used if level is levels[-1] else rows(used, torch.tensor(level.first))
        )
        drawn = (
            step.sample(backbone.noise(level.generators).to(x))
            if k in plan.stochastic
            else step.mean
        )
        if k in plan.keep:
            values = [x, drawn, density(plan, step, drawn, k)]
            values += [step.mean] if plan.means else []
            # from one row a node to one row a sample
            kept.append([value[list(level.node)].to(keep_on) for value in values])
        x = drawn
    before, after, logs, *mean = (
        (torch.stack(parts, 1) for parts in zip(*kept, strict=True))
        if kept
        else (x.new_zeros(len(generators), 0, device=keep_on),) * (4 if plan.means else 3)  # K = 0
    )
    latents = x[list(level.node)].to(keep_on)
    return Rollout(cond, latents, before, after, logs, plan, mean[0] if mean else None)


def density(plan: Plan, step: transition.Step, drawn: Tensor, k: int) -> Tensor:
    """Return the log-densities of a step's end, (B, S); 0 where the step draws no noise."""
    if k not in plan.stochastic:
        return drawn.new_zeros(len(drawn), plan.segments)
    return pool(transition.log_density(step, drawn), plan.segments)


def join(rollouts: Sequence[Rollout], cond: Cond | None = None) -> Rollout:
    """Join rollouts of one plan; `cond`: their joined conditions, if the caller has them."""
    cond = cond or {name: torch.cat([r.cond[name] for r in rollouts]) for name in rollouts[0].cond}
    kept = [(r.latents, r.before, r.after, r.log_density) for r in rollouts]
    latents, before, after, log_density = (torch.cat(parts) for parts in zip(*kept, strict=True))
    means = [r.mean for r in rollouts if r.mean is not None]
    added = [stacked(each) for each in zip(*(r.added for r in rollouts), strict=True)]
    return Rollout(
        cond=cond,
        latents=latents,
        before=before,
        after=after,
        log_density=log_density,
        plan=rollouts[0].plan,
        mean=torch.cat(means) if means else None,
        added=added,
    )


@torch.no_grad()
def decoded(
    backbone: Denoiser, latents: Tensor, prompts: Sequence[str], cond: Cond | None = None
) -> Samples:
    """Decode latents, which were sampled under `cond`, to clips on the latents' device.

    The clips stay there until they are scored, because copies of whole clips to the host
    would keep a GPU waiting. All of vidrl decodes by this function, and never under
    autocast: rewards in training and held-out measures then see the same decoder, whatever
    `train.mixed_precision` is.
    """
    with without_autocast(latents.device):
        video = (
            (backbone.decode_with(latents, cond) if cond else backbone.decode(latents))
            .clamp(0, 1)
            .float()
        )
    mapped = backbone.frame_map[-1][1]
    if video.shape[1] != mapped:
        raise ValueError(
            f"expected clips of {mapped} frames, the end of the backbone's frame_map, got "
            f"{video.shape[1]} from decode: correct one of them in {type(backbone).__name__}"
        )
    height, width = video.shape[-2:]
    images = references.images(prompts, height, width, video.device)
    return Samples(video, list(prompts), backbone.fps, images)


def decoded_pieces(
    backbone: Denoiser,
    latents: Tensor,
    prompts: Sequence[str],
    cond: Cond | None = None,
    size: Pieces | int = SCORE_BATCH,
) -> Iterator[Samples]:
    """Decode latents a few at a time, in order, so that the caller can free earlier clips.

    `size` is how many clips are decoded at once. Latents and conditions may be in host
    memory; those of a piece are moved to the device.
    """
    device = backbone.device

    def piece(part: slice) -> Samples:
        under = on(rows(cond or {}, part), device)
        return decoded(backbone, latents[part].to(device), prompts[part], under)

    return pieces(size).each(len(prompts), piece)


def _sampled(policy: Policy | Sampled) -> Sampled:
    """Return what has the path and the noise of a policy."""
    return policy.backbone if isinstance(policy, Policy) else policy


def backbone_of(policy: Policy | Denoiser) -> Denoiser:
    """Return the denoiser of a policy; a denoiser is returned as it is."""
    return policy.backbone if isinstance(policy, Policy) else policy

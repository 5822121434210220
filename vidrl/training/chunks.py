"""Sample a clip chunk after chunk, and cut a rollout of such clips into rows of one chunk each.

A chunk is denoised from noise along all times of the plan, under a condition that has the end of
the chunk before (`Denoiser.following`). The log-density of a clip is a sum over its chunks,
log p(clip) = Σ_j log p(chunk j | chunk j − 1). So an update needs one chunk at a time, and the
memory of the update does not grow with the number of chunks.

Legend: B samples, J chunks, K kept steps, C latent channels, L latent frames of a chunk, S
segments of a clip. Latents of clips are (B, C, J·L, h, w) and log-densities (B, K, S). In rows of
one chunk each, latents are (J·B, C, L, h, w) and log-densities (J·B, K, S/J), or (J·B, K, 1) where
a segment is longer than a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vidrl.backbones.base import Cond, Denoiser, extended, on, rows, size_and_device, stacked
from vidrl.diffusion.path import Path

from . import rollout
from .policy import Policy
from .rollout import Level, Plan, Rollout, backbone_of


@dataclass(frozen=True)
class Piece:
    """Shows a policy as a denoiser of single chunks, which `rollout.sample` takes."""

    policy: Policy | Denoiser
    backbone: Denoiser

    @property
    def path(self) -> Path:
        """Return the path of the backbone."""
        return self.backbone.path

    @property
    def device(self) -> torch.device:
        """Return the device of the backbone."""
        return self.backbone.device

    def noise(self, draws: Sequence[torch.Generator]) -> Tensor:
        """Return unit noise of one chunk for each random generator."""
        return self.backbone.chunk_noise(draws)

    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the policy's prediction for chunks."""
        return self.policy.predict(x, t, cond)


@torch.no_grad()
def sample(
    policy: Policy | Denoiser,
    cond: Cond,
    generators: Sequence[torch.Generator],
    plan: Plan,
    above: Sequence[Level] = (),
    keep_on: torch.device | None = None,
) -> Rollout:
    """Return `rollout.sample`, chunk after chunk where the backbone makes clips of chunks.

    Only the chunk that is sampled is on the device; finished ones are on `keep_on`. Chunks
    before a fork of the plan are sampled once for all samples that share them.
    """
    backbone = backbone_of(policy)
    if backbone.chunks == 1:
        return rollout.sample(policy, cond, generators, plan, above, keep_on)
    levels = [*above, Level(range(len(generators)), generators)]
    piece, parts = Piece(policy, backbone), list[Rollout]()
    for chunk in range(backbone.chunks):
        last = parts[-1] if parts else None
        parts.append(_chunk(piece, cond, levels, plan_of(plan, backbone, chunk), last, keep_on))
    return _joined(parts, cond, plan)


def _chunk(
    piece: Piece,
    cond: Cond,
    levels: Sequence[Level],
    plans: tuple[Plan, int],
    last: Rollout | None,
    keep_on: torch.device | None,
) -> Rollout:
    """Return one chunk of every sample, after its `last` one; each node is sampled once.

    The result has no `cond`, and `added` of this chunk alone.
    """
    plan, start = plans
    *above, level = levels[start : start + len(plan.forks) + 1]
    first = torch.tensor(level.first, dtype=torch.long)
    # the levels above number samples; here they number the nodes of the chunk's last level
    above = [Level([each.node[i] for i in level.first], each.generators) for each in above]
    earlier = cond if last is None else extended(cond, last.added[0])
    under = on(rows(earlier, first), piece.device)
    before = None if last is None else last.latents[first].to(piece.device)
    under = piece.backbone.following(under, before)
    made = rollout.sample(piece, under, level.generators, plan, above, keep_on)
    node = list(level.node)
    added = {name: value[node] for name, value in under.items() if name not in cond}
    return replace(
        made,
        cond={},  # else the device would hold the encoded prompts of all samples, for each chunk
        added=[on(added, size_and_device(cond)[1])],
        latents=made.latents[node],
        before=made.before[node],
        after=made.after[node],
        log_density=made.log_density[node],
        mean=None if made.mean is None else made.mean[node],
    )


def check_one_piece(backbone: Denoiser, what: str, cure: str) -> None:
    """Raise ValueError for a backbone whose clips have several chunks, which `what` cannot take."""
    if backbone.chunks > 1:
        raise ValueError(
            f"expected a backbone that makes clips in one piece for {what}, got "
            f"{type(backbone).__name__} with {backbone.chunks} chunks: {cure}"
        )


def plan_of(plan: Plan, backbone: Denoiser, chunk: int) -> tuple[Plan, int]:
    """Return the plan of one chunk, and how many forks of the clip's plan come before it."""
    steps = len(plan.times) - 1
    own = tuple((k - chunk * steps, n) for k, n in plan.forks if k // steps == chunk)
    segments = segments_of_chunk(plan.segments, backbone.chunks)
    earlier = sum(k // steps < chunk for k, _ in plan.forks)
    return replace(plan, segments=segments, forks=own, chunks=1), earlier


def segments_of_chunk(segments: int, chunks: int) -> int:
    """Return how many segments a chunk has, where a clip of `chunks` chunks has `segments`.

    A segment of several chunks is one segment in each of them. Raises ValueError where a
    segment would begin inside a chunk and end in another one.

    Example:
        >>> segments_of_chunk(8, 4), segments_of_chunk(4, 4), segments_of_chunk(1, 4)
        (2, 1, 1)
    """
    if segments % chunks and chunks % segments:
        raise ValueError(
            f"expected algorithm.options.segments to be a multiple or a divisor of {chunks}, the "
            f"chunks of a clip, got {segments}: take {chunks}, one for each chunk"
        )
    return max(1, segments // chunks)


def columns(values: Tensor, chunks: int) -> list[Tensor]:
    """Return what each chunk has of values (..., S) of a clip's segments, each (..., S/J).

    A segment of several chunks is repeated for each of them.

    Example:
        >>> [part.tolist() for part in columns(torch.tensor([1.0, 2.0]), 4)]
        [[1.0], [1.0], [2.0], [2.0]]
    """
    segments = values.shape[-1]
    segments_of_chunk(segments, chunks)
    if segments < chunks:
        values = values.repeat_interleave(chunks // segments, -1)
    return list(values.tensor_split(chunks, -1))


def split(made: Rollout, backbone: Denoiser) -> Rollout:
    """Return a rollout whose rows are chunks, (J·B, ...): all first chunks, then the second ones.

    The conditions of the rows are those under which `sample` made the chunks. A rollout without
    conditions, as before the first round, stays without.
    """
    chunks, plan = backbone.chunks, made.plan
    latents = made.latents.tensor_split(chunks, 2)
    conds = [extended(made.cond, added) for added in made.added]

    def flat(kept: Tensor) -> Tensor:
        # a rollout without kept steps has no latent frames to cut
        parts = kept.tensor_split(chunks, 3) if kept.dim() > 3 else [kept] * chunks
        return torch.cat(list(parts))

    logs = columns(made.log_density, chunks) if plan.keep else [made.log_density] * chunks
    return Rollout(
        cond=stacked(conds) if conds else {},
        latents=torch.cat(latents),
        before=flat(made.before),
        after=flat(made.after),
        log_density=torch.cat(logs),
        plan=replace(plan, segments=segments_of_chunk(plan.segments, chunks)),
        mean=None if made.mean is None else flat(made.mean),
    )


def _joined(parts: Sequence[Rollout], cond: Cond, plan: Plan) -> Rollout:
    """Return the rollout of whole clips from those of their chunks."""

    def along(name: str, axis: int) -> Tensor:
        values = [getattr(part, name) for part in parts]
        return torch.cat(values, axis) if values[0].dim() > axis else values[0]

    return Rollout(
        cond=cond,
        latents=along("latents", 2),
        before=along("before", 3),
        after=along("after", 3),
        log_density=along("log_density", 2),
        plan=plan,
        mean=None if parts[0].mean is None else along("mean", 3),
        added=[part.added[0] for part in parts],
    )

"""Motion on a coarser grid, for what is measured over wide neighbourhoods: the camera and
the things beside it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..base import Reward, Samples
from ..flow import Motion, blocks

FEW = 64  # the shorter side, in pixels, above twice which motion is averaged over blocks


def coarse_motion(reward: Reward, samples: Samples) -> Motion:
    """The reward's motion of the samples, its shorter side FEW to twice FEW: made once for
    all rewards."""
    key = ("coarse", reward.flow, reward.working_size)
    return samples.memo(key, lambda: coarsened(reward.motion(samples)))


def coarsened(motion: Motion, few: int = FEW) -> Motion:
    """Means over blocks, those of the flow along edges, in coarse pixels.

    `structure` and `ink` are those of the fine picture, so that sums over neighbourhoods
    weigh it alike.
    """
    side = min(motion.frames.shape[-2:]) // few
    if side < 2:
        return motion
    ink = motion.ink[:, :, None] + 1e-12
    both = zip((motion.forward, motion.backward), (ink[:, :-1], ink[:, 1:]), strict=True)
    forward, backward = (_along(flow, edges, side) / side for flow, edges in both)
    coarse = Motion(blocks(motion.frames.detach(), side), forward, backward)
    fine = blocks(ink, side)[:, :, 0]
    coarse.__dict__.update(ink=fine, structure=fine.sqrt())
    return coarse


def _along(flow: Tensor, ink: Tensor, side: int) -> Tensor:
    """Means of the flow weighted by the ink, a frame at a time: it fits the cache."""
    pairs = zip(flow.split(1, 1), ink.split(1, 1), strict=True)
    return torch.cat(
        [blocks(moved * edges, side) / blocks(edges, side) for moved, edges in pairs], 1
    )

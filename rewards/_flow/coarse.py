"""Motion on a coarser grid, for rewards that measure over wide neighbourhoods.

The camera and the motion of things need no finer grid, and cost a fraction of the time
there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..base import Reward, Samples
from ..flow import Motion, blocks

# The shorter side of a coarse motion is this many pixels or a little more.
COARSE_SIDE = 64


def coarse_motion(reward: Reward, samples: Samples) -> Motion:
    """Return the reward's motion of the samples, its shorter side from 64 to 128 pixels.

    The coarse motion is computed once for all rewards of the same samples.
    """
    key = ("coarse", reward.flow_method(samples), reward.working_size)
    return samples.memo(key, lambda: coarsen(reward.motion(samples)))


def coarsen(motion: Motion, side: int = COARSE_SIDE) -> Motion:
    """Return the motion averaged over square blocks, the flow in coarse pixels.

    The flow is averaged along edges, where it can be measured. `structure` and `ink` are
    averages of those of the fine picture: gradients of a shrunk picture would weigh its
    edges in another way. A motion of a shorter side under 2 `side` is returned as it is.
    """
    block = min(motion.frames.shape[-2:]) // side
    if block < 2:
        return motion
    ink = motion.ink[:, :, None] + 1e-12  # no division by 0 where nothing shows
    both = zip((motion.forward, motion.backward), (ink[:, :-1], ink[:, 1:]), strict=True)
    forward, backward = (_along(flow, edges, block) / block for flow, edges in both)
    coarse = Motion(blocks(motion.frames.detach(), block), forward, backward)
    fine = blocks(ink, block)[:, :, 0]
    # Motion is frozen; its cached properties can be filled in beforehand only like this.
    coarse.__dict__.update(ink=fine, structure=fine.sqrt())
    return coarse


def _along(flow: Tensor, ink: Tensor, block: int) -> Tensor:
    """Return block means of the flow, weighted by the ink."""
    if flow.device.type != "cpu":
        return blocks(flow * ink, block) / blocks(ink, block)
    # One frame at a time stays in the CPU's cache.
    pairs = zip(flow.split(1, 1), ink.split(1, 1), strict=True)
    return torch.cat(
        [blocks(moved * edges, block) / blocks(edges, block) for moved, edges in pairs], 1
    )

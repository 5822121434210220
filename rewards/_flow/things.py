"""The motion of things: what is left of a flow when the camera's motion is subtracted.

Shapes: B clips, F frames, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import hypot

import torch
from torch import Tensor

from .._scoring.samples import Samples
from ..flow import Motion
from .camera import Camera, camera, edges, positions, similarity
from .images import around
from .warping import length, outside


@dataclass(frozen=True)
class Split:
    """The flow of three frames in a row, told apart: what the camera does and what moves
    beside it.

    onward and back (B, F - 2, 2, H, W): the flow from the middle frame to the next and to
    the one before, less the camera's, averaged along the edges nearby, pixels; ink (B, F -
    2, H, W): from 0 where nothing shows to 1.
    """

    onward: Tensor
    back: Tensor
    ink: Tensor
    ahead: Camera
    behind: Camera

    @cached_property
    def lasting(self) -> Tensor:
        """Speed of what goes on in the same direction, (|f - b| - |f + b|) / 2, pixels a
        frame, (B, F - 2, H, W)."""
        speed = (length(self.onward - self.back) - length(self.onward + self.back)).clamp(min=0) / 2
        return speed * self.ink

    @property
    def numbers(self) -> Tensor:
        """What the camera does a frame, (B, F - 2, 4), in the order of NAMES."""
        return (self.ahead.numbers - self.behind.numbers) / 2


def split_motion(motion: Motion) -> Split:
    """The motion of clips of 3 frames or more, told apart."""
    height, width = motion.frames.shape[-2:]
    there = camera(
        motion.forward, motion.frames[:, :-1], motion.structure[:, :-1], motion.contrast[:, :-1]
    )
    return_ = camera(
        motion.backward, motion.frames[:, 1:], motion.structure[:, 1:], motion.contrast[:, 1:]
    )
    ahead, behind = _cut(there, slice(1, None)), _cut(return_, slice(None, -1))
    ink = motion.structure[:, 1:-1, None] ** 2
    onward, back = motion.forward[:, 1:], motion.backward[:, :-1]
    ink = ink * ~(outside(onward) | outside(back)).unsqueeze(2)
    near = around(ink, 0.1)
    onward, back = onward - ahead.flow(height, width), back - behind.flow(height, width)
    onward, back = (around(x * ink, 0.1) / near.clamp(min=1e-12) for x in (onward, back))
    return Split(onward, back, edges(near[:, :, 0]), ahead, behind)


def shared_split(samples: Samples, motion: Motion, key: tuple[str, int]) -> Split:
    """`split_motion`, once for all rewards of one Samples; `key` is the flow's method and size."""
    return samples.memo(("split", *key), lambda: split_motion(motion))


def object_speed(found: Split, share: float = 0.05) -> Tensor:
    """Lasting speed of the fastest `share` of the picture beside the camera, pixels a
    frame, (B, F - 2)."""
    moving = found.lasting.flatten(2)
    return moving.topk(max(1, round(share * moving.shape[2])), dim=2).values.mean(2)


def camera_speed(found: Split) -> Tensor:
    """Mean speed of the picture under the camera's lasting motion, diagonals a frame, (B, F
    - 2)."""
    shift, turn = (
        (found.ahead.shift - found.behind.shift) / 2,
        (found.ahead.turn - found.behind.turn) / 2,
    )
    height, width = found.ink.shape[-2:]
    field = positions(height, width, shift)[:: max(1, height // 16), :: max(1, width // 16)]
    return (shift[..., None, None] + turn[..., None, None] * field).abs().mean((-2, -1))


@dataclass(frozen=True)
class Thing:
    """What moves beside the camera, as one: all (B, F - 2), in diagonals a frame.

    velocity complex, beside the camera; carried complex: what the camera adds at its place;
    centre complex, from the centre of the picture, diagonals; turn complex: growth (natural
    log of its size) and, turning clockwise, radians.
    """

    velocity: Tensor
    carried: Tensor
    centre: Tensor
    turn: Tensor


def fastest_thing(found: Split) -> Thing:
    """The part of the picture that moves at half of the fastest speed or more, as one
    thing."""
    height, width = found.ink.shape[-2:]
    rate = (found.onward - found.back) / 2 / hypot(height, width)
    rate = torch.complex(rate[:, :, 0], rate[:, :, 1]).flatten(2)
    weight = found.lasting.flatten(2)
    weight = weight * (weight > 0.5 * object_speed(found)[..., None])
    at = positions(height, width, rate).flatten().expand_as(rate)
    total = weight.sum(-1).clamp(min=1e-9)
    centre, velocity = (at * weight).sum(-1) / total, (rate * weight).sum(-1) / total
    ahead, behind = ((c.shift + c.turn * centre) for c in (found.ahead, found.behind))
    return Thing(velocity, (ahead - behind) / 2, centre, similarity(at, rate, weight)[1])


def _cut(found: Camera, part: slice) -> Camera:
    return Camera(
        found.shift[:, part],
        found.turn[:, part],
        found.measurable[:, part],
        found.agreement[:, part],
    )

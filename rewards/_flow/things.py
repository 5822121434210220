"""The motion of things, which is the flow that the camera's motion leaves over.

Shapes: B clips, F frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import hypot

import torch
from torch import Tensor

from .._prompts.motion_words import asks_for_camera_motion
from .._scoring.samples import Samples
from ..base import Reward
from ..flow import Motion
from .camera import Camera, camera, edges, positions, similarity
from .images import around
from .warping import length, outside


@dataclass(frozen=True)
class Split:
    """The flow of three frames in a row, split into the camera's motion and that of things.

    - `onward`, `back` (B, F - 2, 2, H, W): the flow from the middle frame to the next one
      and to the one before, minus the camera's flow, averaged along the edges nearby,
      pixels.
    - `ink` (B, F - 2, H, W): the strength of edges, from 0 where nothing shows to 1.
    - `ahead`, `behind`: the camera's motion to the next frame and to the one before.
    """

    onward: Tensor
    back: Tensor
    ink: Tensor
    ahead: Camera
    behind: Camera

    @cached_property
    def lasting(self) -> Tensor:
        """Return the speed that lasts over three frames, (B, F - 2, H, W), pixels a frame.

        (|f - b| - |f + b|) / 2, with f the flow onward and b the flow back. A thing that
        goes on in the same direction has b = -f, which gives |f|; a thing that jitters has
        b = f, which gives less than 0 and is set to 0.
        """
        speed = (length(self.onward - self.back) - length(self.onward + self.back)).clamp(min=0) / 2
        return speed * self.ink

    @property
    def numbers(self) -> Tensor:
        """Return the camera's pan, tilt, zoom and roll per frame, (B, F - 2, 4)."""
        return (self.ahead.numbers - self.behind.numbers) / 2


def split_motion(motion: Motion) -> Split:
    """Return the motion of clips of 3 frames or more, split into camera and things."""
    height, width = motion.frames.shape[-2:]
    forward = camera(
        motion.forward, motion.frames[:, :-1], motion.structure[:, :-1], motion.contrast[:, :-1]
    )
    backward = camera(
        motion.backward, motion.frames[:, 1:], motion.structure[:, 1:], motion.contrast[:, 1:]
    )
    ahead, behind = _cut(forward, slice(1, None)), _cut(backward, slice(None, -1))
    ink = motion.structure[:, 1:-1, None] ** 2
    onward, back = motion.forward[:, 1:], motion.backward[:, :-1]
    ink = ink * ~(outside(onward) | outside(back)).unsqueeze(2)
    near = around(ink, 0.1)
    # averages along edges: a flow is right at edges, and plain ground has none of its own
    onward, back = onward - ahead.flow(height, width), back - behind.flow(height, width)
    onward, back = (around(x * ink, 0.1) / near.clamp(min=1e-12) for x in (onward, back))
    return Split(onward, back, edges(near[:, :, 0]), ahead, behind)


def without_camera(reward: Reward, samples: Samples) -> Motion:
    """Return the reward's motion less the camera's, except where the prompt asks for the latter.

    It is computed once for all rewards of the same samples.
    """
    key = ("without camera", reward.flow_method(samples), reward.working_size)
    return samples.memo(key, lambda: less_camera(reward.motion(samples), samples.prompts))


def less_camera(motion: Motion, prompts: Sequence[str]) -> Motion:
    """Return the motion less the camera's, except in clips that ask for camera motion."""
    asked = [asks_for_camera_motion(prompt) for prompt in prompts]
    cameras = (motion.camera_forward, motion.camera_backward)
    if any(asked):
        keep = torch.tensor(asked, device=motion.forward.device)[:, None, None, None, None]
        cameras = (cameras[0].masked_fill(keep, 0), cameras[1].masked_fill(keep, 0))
    forward, backward = motion.forward - cameras[0], motion.backward - cameras[1]
    return replace(motion, forward=forward, backward=backward)


def shared_split(samples: Samples, motion: Motion, key: tuple[str, int]) -> Split:
    """Return `split_motion`, computed once for all rewards of the same samples.

    `key` is the method and the size of the flow.
    """
    return samples.memo(("split", *key), lambda: split_motion(motion))


def object_speed(found: Split, fraction: float = 0.05) -> Tensor:
    """Return the lasting speed of the fastest `fraction` of the picture.

    (B, F - 2), pixels a frame, without the camera's motion.
    """
    moving = found.lasting.flatten(2)
    return moving.topk(max(1, round(fraction * moving.shape[2])), dim=2).values.mean(2)


def camera_speed(found: Split) -> Tensor:
    """Return the mean speed of the picture under the camera's lasting motion.

    (B, F - 2), diagonals a frame.
    """
    shift = (found.ahead.shift - found.behind.shift) / 2
    turn = (found.ahead.turn - found.behind.turn) / 2
    height, width = found.ink.shape[-2:]
    # every sixteenth row and column is enough for a mean
    field = positions(height, width, shift)[:: max(1, height // 16), :: max(1, width // 16)]
    return (shift[..., None, None] + turn[..., None, None] * field).abs().mean((-2, -1))


@dataclass(frozen=True)
class Thing:
    """The fastest part of a picture, treated as one thing that moves without the camera.

    All tensors are (B, F - 2), complex, x + iy.

    - `velocity`: diagonals a frame, without the camera's motion.
    - `carried`: the velocity that the camera's motion adds at the place of the thing.
    - `centre`: from the centre of the picture, diagonals.
    - `turn`: growth (natural log of the size) + i times the clockwise turn in radians, a
      frame.
    """

    velocity: Tensor
    carried: Tensor
    centre: Tensor
    turn: Tensor


def fastest_thing(found: Split) -> Thing:
    """Return the pixels that move at half of the fastest speed or more, as one thing."""
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
    """Return the camera of the pairs of frames in `part`."""
    return Camera(
        found.shift[:, part],
        found.turn[:, part],
        found.measurable[:, part],
        found.agreement[:, part],
    )

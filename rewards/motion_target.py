"""A reward for motion as the prompt asks: direction, path, speed, camera and rest."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._flow.coarse import coarse_motion
from ._flow.things import camera_speed, fastest_thing, object_speed, shared_split
from ._prompts.motion_words import WantedMotion, wanted_motion
from .base import About, Card, Reward, Samples

# the mean distance of pixels from the centre of a picture, in diagonals: a unit of zoom or roll
# moves a pixel by this much on average, which makes the two comparable with pan and tilt
ARM = 0.27


class MotionTarget(Reward):
    """Whether the clip moves as the words of its prompt ask, in [0, 1].

    A prompt without any word about motion makes the clip NaN. The words (in
    `rewards/_prompts`) ask for a heading of the thing ("moves left", "rises"), a path
    ("bounces", "circles", "spins", "grows", "shrinks"), rest, a camera that pans, tilts,
    zooms or rolls ("the camera pans left" means that the picture moves right), a camera at
    rest, and a pace. Each request is measured on the clip from 0 to 1; the value is the
    geometric mean of these measures:

    - heading h: (sum v.h / sum |v| - 1/2) / 0.4, cut to [0, 1], times the band of the mean
      v.h. v is the thing's lasting velocity relative to the camera or in the picture; the
      one that fits better counts.
    - bounce: the share of the motion that is vertical, times how much of that motion is
      undone.
    - circle: how much the heading turns in one direction, at least half a turn.
    - spin, grow, shrink: the band of the thing's own rotation or growth.
    - camera: like heading, over (pan, tilt, zoom, roll); a unit of zoom or roll counts 0.27
      diagonals.
    - camera at rest, thing at rest: min(1, low / (2 speed))^2.

    The band is 1 for speeds in [low, high], in diagonals a second; below it is min(1, 1.5
    u^2 / (u^2 + 0.5)) with u = speed / low, and above it is high / speed. A slow pace
    changes the band to [low / 2, typical], a quick pace to [typical, 2 high]. For bounces,
    circles and growth (natural log of the size a second) the band is three times as high,
    for spin (radians a second) ten times.

    `Score.frames` shows where in time the directions agree. Raises ValueError unless 0 <
    low < typical < high.

    >>> still = torch.rand(1, 1, 3, 32, 32).expand(1, 5, 3, 32, 32)
    >>> MotionTarget()(Samples(still, ["it moves left"], 8.0)).value
    tensor([0.])
    >>> MotionTarget()(Samples(torch.rand(1, 5, 3, 32, 32), ["a bowl of fruit"], 8.0)).why
    ['inapplicable: the prompt asks nothing of motion']
    """

    needs = ("cv2",)
    lowered_by = ("freeze", "grey")
    range = (0.0, 1.0)
    time_support = "clip"
    lookahead = 2
    rate = 8.0
    shrinks = True
    lost = "inapplicable: the prompt asks nothing of motion"
    card = Card(
        sees="Direction, path and pace of the thing that moves most, and the camera's pan, "
        "tilt, zoom and roll, compared with the words of the prompt.",
        blind_to="Which thing the prompt means; actions without a direction; words outside its "
        "English list; two things that move in different directions; a camera that moves "
        "over a background without texture, or along stripes.",
        hacks="Anything that moves in the right direction, such as a patch of background that "
        "slides.",
        input="At least 3 frames of 8 pixels, and a prompt that names a motion.",
        cost="3 ms a frame of 192 x 341 on one thread, and 25 ms for the flow.",
    )

    def __init__(
        self,
        low: float = 0.03,
        typical: float = 0.16,
        high: float = 1.0,
        flow: str = "auto",
        flow_size: int = 192,
    ) -> None:
        super().__init__()
        if not 0 < low < typical < high:
            raise ValueError(
                f"expected 0 < low < typical < high, diagonals a second, "
                f"got {low}, {typical}, {high}"
            )
        self.low, self.typical = low, typical
        self.high = high
        self.flow, self.flow_size = flow, flow_size

    def features(self, samples: Samples) -> Tensor:
        """Return twelve numbers for three frames in a row, per second, (B, F - 2, 12).

        `_Measured` names them.
        """
        motion = coarse_motion(self, samples)
        found = shared_split(samples, motion, (self.flow_method(samples), self.flow_size))
        moved = fastest_thing(found)
        rows = [object_speed(found) / motion.diagonal, camera_speed(found)]
        for value in (moved.velocity, moved.velocity + moved.carried, moved.turn):
            rows += [value.real, value.imag]
        return torch.cat([torch.stack(rows, -1), found.numbers], -1) * samples.fps

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return how well each clip moves as its prompt asks, (B, F - 2)."""
        asks = [wanted_motion(prompt) for prompt in about.prompts]
        return torch.stack(
            [self._judge(_Measured(row), ask) for row, ask in zip(features, asks, strict=True)]
        )

    def _judge(self, seen: _Measured, ask: WantedMotion) -> Tensor:
        """Return the curve of one clip, (F - 2,), whose mean is its value."""
        items = [*self._of_thing(seen, ask), *self._of_camera(seen, ask)]
        if not items:
            return torch.full_like(seen.speed, math.nan)
        fits = torch.stack([fit for fit, _ in items]).clamp(0, 1)
        value = fits.prod() ** (1 / len(fits))
        agree = torch.stack([local for _, local in items]).mean(0)
        # the deviations have mean 0, so that the mean of the curve is the value
        return value * (1 + agree - agree.mean())

    def _of_thing(self, seen: _Measured, ask: WantedMotion) -> list[tuple[Tensor, Tensor]]:
        """Return a measure and its curve in time for each request about the thing."""
        items = []
        if any(ask.heading):
            goal = seen.speed.new_tensor(ask.heading) / math.hypot(*ask.heading)
            fits = [self._along(rate, goal, ask.pace) for rate in (seen.relative, seen.pictured)]
            items.append(max(fits, key=lambda fit: fit[0].item()))
        if ask.path:
            items.append((self._path(seen, ask), torch.zeros_like(seen.speed)))
        if ask.rest:
            # under a moving camera, "at rest" may mean relative to the camera or in the picture
            shifted = torch.minimum(seen.speed, seen.pictured.norm(dim=-1))
            items.append(rested(shifted + ARM * seen.turn.norm(dim=-1), self.low / 2))
        if not items and ask.pace != 1 and not any(ask.camera):
            items.append((self._band(seen.speed.mean(), ask.pace), torch.zeros_like(seen.speed)))
        return items

    def _of_camera(self, seen: _Measured, ask: WantedMotion) -> list[tuple[Tensor, Tensor]]:
        """Return a measure and its curve in time for each request about the camera."""
        items = []
        if any(ask.camera):
            arms = seen.speed.new_tensor([1, 1, ARM, ARM])
            goal = seen.speed.new_tensor(ask.camera)
            # a pace belongs to the thing if the prompt also asks for a motion of the thing
            pace = ask.pace if not (any(ask.heading) or ask.path) else 1.0
            items.append(self._along(seen.camera * arms, goal / goal.norm(), pace))
        if ask.still_camera:
            items.append(rested(seen.camera_speed, self.low / 2))
        return items

    def _along(self, rate: Tensor, goal: Tensor, pace: float) -> tuple[Tensor, Tensor]:
        """Return how well velocities follow the unit vector `goal`, and where in time.

        `rate` is (F - 2, D). The measure is in [0, 1]; its curve in time, (F - 2,), is in
        [-1, 1].
        """
        along, speed = rate @ goal, rate.norm(dim=-1)
        # 1 from a fraction of 0.9 on: measured directions are never exact
        direction = ((along.sum() / speed.sum().clamp(min=1e-9) - 0.5) / 0.4).clamp(0, 1)
        return direction * self._band(along.mean(), pace), along / speed.clamp(min=1e-9)

    def _path(self, seen: _Measured, ask: WantedMotion) -> Tensor:
        """Return how well the thing follows the path that the prompt asks for."""
        if ask.path in ("bounce", "circle"):
            shape = bouncing(seen.pictured) if ask.path == "bounce" else circling(seen.pictured)
            return shape * self._band(seen.pictured.norm(dim=-1).mean(), ask.pace, 3)
        growth, spin = seen.turn.unbind(-1)
        if ask.path == "spin":
            return self._band(spin.mean().abs(), ask.pace, 10)
        return self._band(growth.mean() * (1 if ask.path == "grow" else -1), ask.pace, 3)

    def _band(self, speed: Tensor, pace: float, scale: float = 1) -> Tensor:
        """Return how well a speed, divided by `scale`, fits the band of a pace."""
        low = {0.5: self.low / 2, 1.0: self.low, 2.0: self.typical}[pace]
        high = {0.5: self.typical, 1.0: self.high, 2.0: 2 * self.high}[pace]
        return band(speed.clamp(min=0) / scale, low, high)


class _Measured:
    """The features of one clip by name, each (F - 2,) or (F - 2, D), all given per second.

    `speed` and `camera_speed` are in diagonals; `relative` and `pictured` are the thing's velocity
    (x, y) relative to the camera and in the picture; `turn` is the thing's (growth, spin); `camera`
    is (pan, tilt, zoom, roll).
    """

    def __init__(self, row: Tensor) -> None:
        self.speed, self.camera_speed = row[:, 0], row[:, 1]
        self.relative, self.pictured = row[:, 2:4], row[:, 4:6]
        self.turn = row[:, 6:8]
        self.camera = row[:, 8:12]


def band(speed: Tensor, low: float, high: float) -> Tensor:
    """Return 1 for speeds in [low, high], falling to 0 on both sides.

    >>> band(torch.tensor([0.0, 1.0, 2.0, 4.0, 8.0]), 1.0, 4.0)
    tensor([0.0000, 1.0000, 1.0000, 1.0000, 0.5000])
    """
    square = (speed / low) ** 2
    return (1.5 * square / (square + 0.5)).clamp(max=1) * (high / speed.clamp(min=high))


def rested(speed: Tensor, low: float) -> tuple[Tensor, Tensor]:
    """Return 1 if the mean speed is below `low`, else less, and its curve in time."""
    curve = (low / speed.clamp(min=low)) ** 2
    return (low / speed.mean().clamp(min=low)) ** 2, curve


def bouncing(velocity: Tensor) -> Tensor:
    """Return how much velocities (N, 2) go up and down, from 0 to 1.

    >>> up, right = torch.tensor([0.0, -1.0]), torch.tensor([1.0, 0.0])
    >>> paths = [up, -up], [up, up], [right, -right]
    >>> [round(bouncing(torch.stack(path)).item(), 2) for path in paths]
    [1.0, 0.0, 0.0]
    """
    total = velocity.abs().sum(0)
    vertical = total[1] / total.sum().clamp(min=1e-9)
    undone = 1 - velocity[:, 1].sum().abs() / total[1].clamp(min=1e-9)
    # 1 if 70 % of the motion is vertical and two thirds of it are undone: a real bounce is
    # neither exactly vertical nor complete within a clip
    return ((vertical - 0.5) / 0.2).clamp(0, 1) * (1.5 * undone).clamp(max=1)


def circling(velocity: Tensor) -> Tensor:
    """Return how much velocities (N, 2) turn in one direction, from 0 to 1.

    Half a turn is needed for 1. A reversal is no turn.

    >>> turn = torch.arange(9.0) * math.pi / 4
    >>> round(circling(torch.stack([turn.cos(), turn.sin()], 1)).item(), 2)
    1.0
    """
    heading = torch.complex(velocity[:, 0], velocity[:, 1])
    turn = (heading[1:] * heading[:-1].conj()).angle()
    # 2.2 radians, 126 degrees, between two frames is a reversal
    turned = (turn * (turn.abs() < 2.2)).sum().abs()
    # the fraction of the turning that is in one direction, times the part of half a turn done
    return turned / turn.abs().sum().clamp(min=1e-9) * (turned / math.pi).clamp(max=1)

"""A reward for things that move like a thrown body, which flies and bounces."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ._flow.camera import Camera, camera, positions, residual, similarity
from ._flow.coarse import coarse_motion
from .base import About, Card, Reward, Samples
from .flow import Motion

LONGEST_FLIGHT = 64  # pairs of frames: bounds the search for stretches between impacts
LEAST_FLIGHT = 3  # pairs of frames: impacts that follow each other faster count as shaking
# The columns of `Physics.features`; places and velocities are (x, y).
VELOCITY, FIRST_CENTRE = slice(0, 2), slice(2, 4)
SECOND_CENTRE, CAMERA_MOTION = slice(4, 6), slice(6, 8)
GROWTH, TOP_SPEED = 8, 9


class Physics(Reward):
    """Minus how far a thing's motion is from that of a body that flies and bounces.

    The region that moves relative to the camera is followed along its flow, which gives its
    velocity v_t, its centre and its growth. A body in flight is fitted to v_t by dynamic
    programming: one constant acceleration acts all the time, and impacts change the
    velocity at once. Each impact costs `price` squared standard errors. The error of a pair
    of frames is a sum; a slack is subtracted from each part:

    - |v_t - fit_t| / (s / 4), where s is the mean speed in the clip.
    - At an impact, the gain of speed (|v+| - |v-|) / (s / 8): an impact may turn and slow a
      body but not speed it up. If the impact before was less than three pairs earlier, the
      change of velocity also counts, because such a motion is shaking.
    - |centre_{t+1} - centre_t - v_t| in twentieths of a diagonal, for a thing that jumps
      elsewhere.
    - |ln area_{t+1} - ln area_t| in quarters, and its trend per second.

    A term compares two neighbouring frames and is at least -`most`; the range is [-5, 0].
    The clip is NaN if nothing moves relative to the camera, which means a mean speed below
    `least` diagonals a second. Raises ValueError for options that are not positive.

    >>> still = torch.rand(1, 1, 3, 32, 32).expand(1, 5, 3, 32, 32)
    >>> Physics()(Samples(still, [""], 8.0)).why
    ['inapplicable: nothing moves alone']
    """

    needs = ("cv2",)
    lowered_by = ("shuffle",)
    range = (-5.0, 0.0)
    time_support = "clip"
    lookahead = 1
    rate = 8.0
    shrinks = True
    lost = "inapplicable: nothing moves alone"
    card = Card(
        sees="Whether the moving thing flies under constant acceleration, gains no speed at "
        "impacts, and stays at one place and of one size.",
        blind_to="Which body moves; mass, contact, and the true strength and direction of gravity; "
        "everything outside the picture; more than one thing at a time; impacts without a "
        "wall.",
        hacks="Straight, even motion of anything. Things that move by themselves are punished, "
        "such as animals that start to run.",
        input="At least 2 frames of 8 pixels; a second or more gives reliable numbers. One "
        "thing that moves.",
        cost="3 ms a frame of 192 x 341 on one thread, and 25 ms for the flow.",
    )

    def __init__(
        self,
        least: float = 0.03,
        price: float = 8.0,
        most: float = 5.0,
        flow: str = "auto",
        flow_size: int = 192,
    ) -> None:
        super().__init__()
        if min(least, price, most) <= 0:
            raise ValueError(
                f"expected positive numbers, got least={least}, price={price}, most={most}"
            )
        self.least, self.price = least, price
        self.most = most
        self.flow, self.flow_size = flow, flow_size

    def features(self, samples: Samples) -> Tensor:
        """Return ten numbers for each pair of frames, (B, F - 1, 10).

        They are the velocity (2) a second, the centre in both frames (4), the camera's
        motion at the centre (2), the growth, and the fastest speed; lengths are in
        diagonals.
        """
        motion = coarse_motion(self, samples)
        key = ("followed", self.flow_method(samples), self.flow_size)
        followed = samples.memo(key, lambda: follow(motion))
        return torch.cat([followed[..., :2] * samples.fps, followed[..., 2:]], -1)

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return minus the error of each pair, (B, F - 1)."""
        rows = [self._judge(row, about.fps) for row in features.double().cpu().numpy()]
        return torch.from_numpy(np.stack(rows)).to(features)

    def _judge(self, row: np.ndarray, fps: float) -> np.ndarray:
        """Return minus the errors of one clip, (F - 1,)."""
        velocity = row[:, VELOCITY]
        speed = np.linalg.norm(velocity, axis=1).mean()
        if not speed >= self.least:
            return np.full(len(row), math.nan)
        error = (
            flight(velocity, speed, self.price) + jumps(row, fps, self.least) + swelling(row, fps)
        )
        return -np.minimum(error, self.most)


def follow(motion: Motion) -> Tensor:
    """Return the ten numbers of `Physics.features`, per frame instead of per second."""
    forward = camera(
        motion.forward, motion.frames[:, :-1], motion.structure[:, :-1], motion.contrast[:, :-1]
    )
    backward = camera(
        motion.backward, motion.frames[:, 1:], motion.structure[:, 1:], motion.contrast[:, 1:]
    )
    first = _region(motion.forward, forward, motion.structure[:, :-1])
    second = _region(motion.backward, backward, motion.structure[:, 1:])
    carried = forward.shift + forward.turn * first.centre
    # both directions of time measure the same motion, so they are averaged; complex is (x, y)
    pairs = ((first.velocity - second.velocity) / 2, first.centre, second.centre, carried)
    rows = [x for z in pairs for x in (z.real, z.imag)]
    return torch.stack(
        [*rows, first.growth - second.growth, torch.minimum(first.top, second.top)], -1
    )


@dataclass(frozen=True)
class _Region:
    """The region that moves at about half of the fastest speed or more; each field is (B, T)."""

    velocity: Tensor  # complex x + iy, diagonals a frame
    centre: Tensor  # complex x + iy, diagonals from the centre of the picture
    growth: Tensor  # natural log of the growth of the area a frame
    top: Tensor  # the mean speed of the fastest 3 % of the picture


def _region(flow: Tensor, motion_of_camera: Camera, structure: Tensor) -> _Region:
    """Return the region that moves relative to the camera."""
    rate, ink = residual(flow, motion_of_camera, structure)
    speed, rate = (rate.abs() * ink).flatten(2), rate.flatten(2)
    top = speed.topk(max(1, round(0.03 * speed.shape[2])), dim=2).values.mean(2)
    # soft limits: from 3/8 to 5/8 of the top speed, and nothing where nothing moves
    weight = (speed / top[..., None].clamp(min=1e-9) * 4 - 1.5).clamp(0, 1) * (
        top[..., None] > 1e-4
    )
    total = weight.sum(-1).clamp(min=1e-9)
    at = positions(flow.shape[-2], flow.shape[-1], rate).flatten().expand_as(rate)
    # the growth of an area is twice that of a length
    turn = similarity(at, rate, weight * structure.flatten(2) ** 2)[1]
    growth = 2 * (1 + turn).abs().clamp(min=0.1).log()
    return _Region((rate * weight).sum(-1) / total, (at * weight).sum(-1) / total, growth, top)


def flight(velocity: np.ndarray, speed: float, price: float, slack: float = 0.1) -> np.ndarray:
    """Return how far velocities (T, 2) are from flights between impacts, (T,).

    The unit is a quarter of `speed`. An impact may not gain speed.

    >>> fall = np.stack([np.ones(8), np.arange(8.0)], 1)  # thrown sideways, it falls
    >>> bool(flight(fall, 4.0, 8.0).max() < 1e-9)
    True
    """
    # the standard error of a velocity: 6 % of the mean speed, and 0.5 % of a diagonal a second
    fit, impacts = flights(velocity, 0.06 * speed + 0.005, price)
    error = np.maximum(np.linalg.norm(velocity - fit, axis=1) / speed - slack, 0)
    previous = -LEAST_FLIGHT
    for hit in impacts:
        gain = np.linalg.norm(hit.after) - np.linalg.norm(hit.before)
        error[[hit.last, hit.first]] += max(gain / speed - 1.5 * slack, 0)
        if hit.last - previous < LEAST_FLIGHT:
            error[hit.last] += min(np.linalg.norm(hit.after - hit.before) / speed, 1)
        previous = hit.first
    return error * 4  # the unit is a quarter of the mean speed


@dataclass(frozen=True)
class _Impact:
    """An impact that separates two stretches of flight."""

    before: np.ndarray  # the velocity just before, extrapolated to the time of the impact
    after: np.ndarray  # the velocity just after, extrapolated likewise
    last: int  # the last sample before the impact
    first: int  # the first sample after the impact


def flights(velocity: np.ndarray, noise: float, price: float) -> tuple[np.ndarray, list[_Impact]]:
    """Return the fit (T, 2) of the best flights under one acceleration, and the impacts.

    A single sample between two stretches is one during which an impact happens. Its
    velocity is a mixture of those before and after, and the nearest mixture is its fit.
    """
    gravity, parts = falls(velocity, noise, price)
    # without the acceleration, the velocity is constant in each stretch
    times = np.arange(len(velocity))[:, None] * gravity
    starts = [(velocity - times)[i:j].mean(0) for i, j in parts]
    fit = times + np.concatenate(
        [np.tile(v, (j - i, 1)) for v, (i, j) in zip(starts, parts, strict=True)]
    )
    alone = [0 < i < len(parts) - 1 and parts[i][1] - parts[i][0] == 1 for i in range(len(parts))]
    # of two single samples in a row, the second counts as a stretch
    solid = [i for i in range(len(parts)) if not (alone[i] and not alone[i - 1])]
    impacts = []
    for i, j in zip(solid, solid[1:], strict=False):
        last, first = parts[i][1] - 1, parts[j][0]
        gained = (last + first) / 2 * gravity  # by the acceleration, until the impact
        impacts.append(_Impact(starts[i] + gained, starts[j] + gained, last, first))
        if j - i == 2:
            fit[last + 1] = _between(velocity[last + 1], impacts[-1].before, impacts[-1].after)
    return fit, impacts


def falls(
    velocity: np.ndarray, noise: float, price: float
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Return the acceleration a sample that explains most, and the stretches it leaves.

    A stretch [start, end) has constant velocity once the acceleration is removed. The
    search starts from no acceleration and from the median change of velocity.
    """
    best = None
    for gravity in (
        np.zeros(2),
        np.median(np.diff(velocity, axis=0), axis=0) if len(velocity) > 1 else np.zeros(2),
    ):
        for _ in range(3):  # stretches and acceleration in turn; three rounds settle
            cost, parts = stretches(
                velocity - np.arange(len(velocity))[:, None] * gravity, noise, price
            )
            if best is None or cost < best[0]:
                best = (cost, gravity, parts)
            gravity = _slope(velocity, parts)
    assert best is not None
    return best[1], best[2]


def stretches(
    velocity: np.ndarray, noise: float, price: float
) -> tuple[float, list[tuple[int, int]]]:
    """Divide velocities into stretches of constant velocity; return cost and stretches.

    A stretch is [start, end). The division has the least sum of squared errors over
    `noise`^2 plus `price` for each cut, found by dynamic programming.
    """
    # least[end]: the cost of the best division up to `end`, whose last stretch starts at cut[end]
    least, cut = np.zeros(len(velocity) + 1), np.zeros(len(velocity) + 1, dtype=int)
    sums = np.concatenate([np.zeros((1, 2)), np.cumsum(velocity, 0)])
    squares = np.concatenate([[0.0], np.cumsum((velocity**2).sum(1))])
    least[0] = -price  # the first stretch needs no cut
    for end in range(1, len(velocity) + 1):
        starts = np.arange(max(0, end - LONGEST_FLIGHT), end)
        # the sum of squared differences from the mean, by cumulative sums
        error = (
            squares[end]
            - squares[starts]
            - ((sums[end] - sums[starts]) ** 2).sum(1) / (end - starts)
        )
        cost = least[starts] + price + np.maximum(error, 0) / noise**2
        cut[end], least[end] = starts[np.argmin(cost)], cost.min()
    ends = [len(velocity)]
    while ends[-1]:
        ends.append(int(cut[ends[-1]]))
    return float(least[-1]), list(zip(ends[:0:-1], ends[-2::-1], strict=True))


def _slope(velocity: np.ndarray, parts: list[tuple[int, int]]) -> np.ndarray:
    """Return the acceleration a sample common to the stretches, by least squares, (2,)."""
    top, bottom = np.zeros(2), 1e-9
    for start, end in parts:
        arm = np.arange(start, end) - (start + end - 1) / 2
        top, bottom = top + (arm[:, None] * velocity[start:end]).sum(0), bottom + (arm**2).sum()
    return top / bottom


def _between(sample: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the mixture of before and after that is nearest to the sample."""
    change = after - before
    part = np.clip(((sample - before) * change).sum() / max((change**2).sum(), 1e-12), 0, 1)
    return before + part * change


def jumps(row: np.ndarray, fps: float, least: float, slack: float = 0.04) -> np.ndarray:
    """Return how far the centre moves otherwise than its flow, (T,).

    The unit is a twentieth of a diagonal; `slack` diagonals a pair are subtracted. A frame
    has a centre if, in the pair before or after it, the thing moves by a third of `least`
    or more. Pairs without a centre are bridged with the usual step.
    """
    moves = row[:, TOP_SPEED] * fps > least / 3
    first, second = row[:, FIRST_CENTRE], row[:, SECOND_CENTRE]
    # each frame has two centres, one of the pair after it and one of the pair before it
    centres = np.stack([np.append(first, second[-1:], 0), np.insert(second, 0, first[0], 0)])
    valid = np.stack([np.append(moves, moves[-1]), np.insert(moves, 0, moves[0])])[..., None]
    centre = (centres * valid).sum(0) / np.maximum(valid.sum(0), 1)
    step = row[:, VELOCITY] / fps + row[:, CAMERA_MOTION]
    usual = np.median(step[moves], axis=0) if moves.any() else np.zeros(2)
    expected = np.insert(np.cumsum(np.where(moves[:, None], step, usual), 0), 0, 0, 0)
    error, located = np.zeros(len(row)), np.flatnonzero(valid[..., 0].sum(0))
    for i, j in zip(located, located[1:], strict=False):
        jump = np.linalg.norm(centre[j] - centre[i] - expected[j] + expected[i])
        error[i:j] += max(jump - slack * (j - i), 0) / 0.05 / (j - i)
    return error


def swelling(row: np.ndarray, fps: float, slack: float = 0.15, trend: float = 0.25) -> np.ndarray:
    """Return the change of the natural log of the area, in quarters, less a slack, (T,).

    Both the change of each pair and the trend a second count.
    """
    at_once = np.maximum(np.abs(row[:, GROWTH]) - slack, 0)
    # 4: the unit is a quarter; the trend per second counts a quarter as much
    return 4 * (at_once + max(abs(row[:, GROWTH].mean()) * fps - trend, 0) / 4)

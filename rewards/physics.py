"""Whether the thing that moves, moves as a thrown body would."""

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

LONGEST_FLIGHT = 64  # pairs of frames: no stretch between impacts is longer
LEAST_FLIGHT = 3  # pairs of frames: impacts that follow quicker count as shaking


class Physics(Reward):
    """How far the moving thing is from a body in flight that bounces: 0 is perfect, minus
    an error for each pair.

    The region that moves beside the camera is followed by its flow: its velocity v_t,
    centre and growth. One constant acceleration, and impacts between which it alone acts,
    are fitted to v_t (dynamic programming; an impact costs `price` squared standard
    errors). The error of a pair is the sum, each part less a slack, of

    - |v_t - fit_t| / (s / 4), s the clip's mean speed;
    - at an impact the gain of speed, (|v+| - |v-|) / (s / 8): an impact may turn and brake,
      not hasten; and its change of velocity where the last impact is less than three pairs
      away, which is shaking;
    - |centre_{t+1} - centre_t - v_t| in twentieths of a diagonal, which shows a thing that
      jumps elsewhere;
    - |ln area_{t+1} - ln area_t| in quarters, and its trend in units of a second.

    A term is a pair of frames; each is at most `most`. NaN where nothing moves alone: where
    the mean speed is under `least` diagonals a second. Raises ValueError for options that
    are not positive.

    >>> score = Physics()(Samples(torch.rand(1, 1, 3, 32, 32).expand(1, 5, 3, 32, 32), [""], 8.0))
    >>> score.why
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
        sees="Flight under constant acceleration, impacts that win no speed, one place and one area, of what moves.",
        blind_to="Which body it is, mass, contact and gravity's true strength and direction; what lies out of the "
        "picture; more than one thing at a time; impacts without a wall.",
        hacks="Straight even motion of anything; it punishes what drives itself, such as animals that start to run.",
        input="At least 2 frames of 8 pixels, a second or more to be worth much; one thing that moves.",
        cost="3 ms a frame of 192 x 341 on one thread, beside the flow's 25 ms.",
    )

    def __init__(
        self,
        least: float = 0.03,
        price: float = 8.0,
        most: float = 5.0,
        flow: str = "dis",
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
        """Of each pair: velocity a second, two centres, what the camera adds, growth,
        fastest; (B, F - 1, 10)."""
        motion = coarse_motion(self, samples)
        followed = samples.memo(("followed", self.flow, self.flow_size), lambda: follow(motion))
        return torch.cat([followed[..., :2] * samples.fps, followed[..., 2:]], -1)

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Minus the error of each pair, (B, F - 1)."""
        rows = [self._judge(row, about.fps) for row in features.double().cpu().numpy()]
        return torch.from_numpy(np.stack(rows)).to(features)

    def _judge(self, row: np.ndarray, fps: float) -> np.ndarray:
        """Of one clip, (F - 1,)."""
        velocity = row[:, :2]
        speed = np.linalg.norm(velocity, axis=1).mean()
        if not speed >= self.least:
            return np.full(len(row), math.nan)
        error = (
            flight(velocity, speed, self.price) + jumps(row, fps, self.least) + swelling(row, fps)
        )
        return -np.minimum(error, self.most)


def follow(motion: Motion) -> Tensor:
    """The numbers of `Physics.features` a frame, (B, F - 1, 10), lengths in diagonals."""
    there = camera(
        motion.forward, motion.frames[:, :-1], motion.structure[:, :-1], motion.contrast[:, :-1]
    )
    back = camera(
        motion.backward, motion.frames[:, 1:], motion.structure[:, 1:], motion.contrast[:, 1:]
    )
    first = _region(motion.forward, there, motion.structure[:, :-1])
    second = _region(motion.backward, back, motion.structure[:, 1:])
    carried = there.shift + there.turn * first.centre
    pairs = ((first.velocity - second.velocity) / 2, first.centre, second.centre, carried)
    rows = [x for z in pairs for x in (z.real, z.imag)]
    return torch.stack(
        [*rows, first.growth - second.growth, torch.minimum(first.top, second.top)], -1
    )


@dataclass(frozen=True)
class _Region:
    """What moves at half of the fastest speed or more, (B, T) each: complex velocity and
    centre; the natural log by which its area grows; the fastest speed."""

    velocity: Tensor
    centre: Tensor
    growth: Tensor
    top: Tensor


def _region(flow: Tensor, seen: Camera, structure: Tensor) -> _Region:
    rate, ink = residual(flow, seen, structure)
    speed, rate = (rate.abs() * ink).flatten(2), rate.flatten(2)
    top = speed.topk(max(1, round(0.03 * speed.shape[2])), dim=2).values.mean(2)
    weight = (speed / top[..., None].clamp(min=1e-9) * 4 - 1.5).clamp(0, 1) * (
        top[..., None] > 1e-4
    )
    total = weight.sum(-1).clamp(min=1e-9)
    at = positions(flow.shape[-2], flow.shape[-1], rate).flatten().expand_as(rate)
    turn = similarity(at, rate, weight * structure.flatten(2) ** 2)[1]
    growth = 2 * (1 + turn).abs().clamp(min=0.1).log()
    return _Region((rate * weight).sum(-1) / total, (at * weight).sum(-1) / total, growth, top)


def flight(velocity: np.ndarray, speed: float, price: float, slack: float = 0.1) -> np.ndarray:
    """How far velocities (T, 2) are from flights between impacts that win no speed, in
    quarters of `speed`, (T,).

    >>> fall = np.stack([np.ones(8), np.arange(8.0)], 1)  # thrown sideways, it falls
    >>> bool(flight(fall, 4.0, 8.0).max() < 1e-9)
    True
    """
    fit, impacts = flights(velocity, 0.06 * speed + 0.005, price)
    error = np.maximum(np.linalg.norm(velocity - fit, axis=1) / speed - slack, 0)
    previous = -LEAST_FLIGHT
    for hit in impacts:
        gain = np.linalg.norm(hit.after) - np.linalg.norm(hit.before)
        error[[hit.last, hit.first]] += max(gain / speed - 1.5 * slack, 0)
        if hit.last - previous < LEAST_FLIGHT:
            error[hit.last] += min(np.linalg.norm(hit.after - hit.before) / speed, 1)
        previous = hit.first
    return error * 4


@dataclass(frozen=True)
class _Impact:
    """The velocity before and after, extrapolated to its time, and the samples on both its
    sides."""

    before: np.ndarray
    after: np.ndarray
    last: int
    first: int


def flights(velocity: np.ndarray, noise: float, price: float) -> tuple[np.ndarray, list[_Impact]]:
    """The best flights under one acceleration: the fit (T, 2) and the impacts between them.

    A sample by itself between two stretches is one that an impact falls into: a mixture of
    before and after, to which it is fitted.
    """
    gravity, parts = falls(velocity, noise, price)
    times = np.arange(len(velocity))[:, None] * gravity
    starts = [(velocity - times)[i:j].mean(0) for i, j in parts]
    fit = times + np.concatenate(
        [np.tile(v, (j - i, 1)) for v, (i, j) in zip(starts, parts, strict=True)]
    )
    alone = [0 < i < len(parts) - 1 and parts[i][1] - parts[i][0] == 1 for i in range(len(parts))]
    solid = [i for i in range(len(parts)) if not (alone[i] and not alone[i - 1])]
    impacts = []
    for i, j in zip(solid, solid[1:], strict=False):
        last, first = parts[i][1] - 1, parts[j][0]
        fallen = (last + first) / 2 * gravity
        impacts.append(_Impact(starts[i] + fallen, starts[j] + fallen, last, first))
        if j - i == 2:
            fit[last + 1] = _between(velocity[last + 1], impacts[-1].before, impacts[-1].after)
    return fit, impacts


def falls(
    velocity: np.ndarray, noise: float, price: float
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The acceleration a sample that explains most, out of none and the median change, and
    the stretches [start, end) of velocity that it leaves."""
    best = None
    for gravity in (
        np.zeros(2),
        np.median(np.diff(velocity, axis=0), axis=0) if len(velocity) > 1 else np.zeros(2),
    ):
        for _ in range(3):
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
    """Where to cut into stretches [start, end) of constant velocity: the least sum of
    squared errors over `noise`^2, with `price` for each cut."""
    least, cut = np.zeros(len(velocity) + 1), np.zeros(len(velocity) + 1, dtype=int)
    sums = np.concatenate([np.zeros((1, 2)), np.cumsum(velocity, 0)])
    squares = np.concatenate([[0.0], np.cumsum((velocity**2).sum(1))])
    least[0] = -price
    for end in range(1, len(velocity) + 1):
        starts = np.arange(max(0, end - LONGEST_FLIGHT), end)
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
    """The acceleration a sample common to the stretches, by least squares, (2,)."""
    top, bottom = np.zeros(2), 1e-9
    for start, end in parts:
        arm = np.arange(start, end) - (start + end - 1) / 2
        top, bottom = top + (arm[:, None] * velocity[start:end]).sum(0), bottom + (arm**2).sum()
    return top / bottom


def _between(sample: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The mixture of before and after that is nearest to the sample."""
    way = after - before
    share = np.clip(((sample - before) * way).sum() / max((way**2).sum(), 1e-12), 0, 1)
    return before + share * way


def jumps(row: np.ndarray, fps: float, least: float, slack: float = 0.04) -> np.ndarray:
    """By how many twentieths of a diagonal, less the slack, the centre moves otherwise than
    its flow says, (T,).

    A frame has a centre if the thing moves by a third of `least` on one of its sides.
    """
    good = row[:, 9] * fps > least / 3
    ends = np.stack(
        [np.append(row[:, 2:4], row[-1:, 4:6], 0), np.insert(row[:, 4:6], 0, row[0, 2:4], 0)]
    )
    fit = np.stack([np.append(good, good[-1]), np.insert(good, 0, good[0])])[..., None]
    centre = (ends * fit).sum(0) / np.maximum(fit.sum(0), 1)
    step = row[:, :2] / fps + row[:, 6:8]
    usual = np.median(step[good], axis=0) if good.any() else np.zeros(2)
    way = np.insert(np.cumsum(np.where(good[:, None], step, usual), 0), 0, 0, 0)
    error, known = np.zeros(len(row)), np.flatnonzero(fit[..., 0].sum(0))
    for i, j in zip(known, known[1:], strict=False):
        apart = np.linalg.norm(centre[j] - centre[i] - way[j] + way[i])
        error[i:j] += max(apart - slack * (j - i), 0) / 0.05 / (j - i)
    return error


def swelling(row: np.ndarray, fps: float, slack: float = 0.15, trend: float = 0.25) -> np.ndarray:
    """The change of the natural log of the area, in quarters: at once, and as a trend a
    second, less their slack."""
    at_once = np.maximum(np.abs(row[:, 8]) - slack, 0)
    return 4 * (at_once + max(abs(row[:, 8].mean()) * fps - trend, 0) / 4)

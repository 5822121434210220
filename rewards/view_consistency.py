"""Whether views of a thing that the camera goes round are views of one rigid thing, and
close on themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._flow.epipolar import LEAST, Matcher, compare, matcher
from .base import About, Card, Reward, Samples

PAIR = 5  # numbers of a pair of views, see `compare`


class ViewConsistency(Reward):
    """How well the views of an orbit fit one rigid scene, 0 to 1: epipolar geometry, even
    steps, and closure.

    Points matched between a view and the one `apart` before it must obey x2^T F x1 = 0 for
    one fundamental matrix (eight points in RANSAC, refined). A pair of views gives the
    product of

    - rigid: the share of matches within `tolerance` diagonals of it, times exp(-d /
      tolerance), d their mean Sampson distance, cut at twice the tolerance;
    - seen: matches against half of the clip's usual number, at most 1; 0 under 16 matches;
    - even: exp(-max(0, |ln(step / median step)| - 0.35)), the step being the median way of
      a match.

    The value is the mean over pairs, times the depth seen, u^2 / (u^2 + 1) with u the
    median over pairs of the parallax, the distance of matches from the best homography,
    over `depth` diagonals: views that do not change, or slide as a flat picture would, show
    no thing in space and get about 0. With `closed` it is multiplied, too, by 1/4 + 3/4 c,
    c how well the last view continues to the first: rigid and seen against the median of
    the pairs, cut at 1, times 2 median step / step where that is less than 1.

    `matcher` is "flow" (points on edges along DIS flow, for steps up to about 20 degrees),
    "sift", "orb", "xfeat" or a function of two pictures (3, H, W) in [0, 1] that returns
    points (N, 2) and (N, 2), x and y in pixels. Even perfect views get about 0.7, as
    matches are off by tenths of a pixel. Raises ValueError for other options.

    Source: Hartley and Zisserman, Multiple View Geometry, 2003, chapter 11.

    >>> still = torch.rand(1, 1, 3, 32, 32).expand(1, 4, 3, 32, 32)
    >>> ViewConsistency()(Samples(still, [""], 8.0)).value
    tensor([0.])
    """

    needs = ("cv2",)
    lowered_by = ("freeze",)
    range = (0.0, 1.0)
    time_support = "clip"
    lookahead = 1
    least_side = 16
    card = Card(
        sees="Whether matches between neighbouring views obey one epipolar geometry, whether steps are even, whether "
        "the last view continues to the first.",
        blind_to="What moves along the epipolar lines; much of a small thing that moves by itself; smooth bending "
        "alike in all views; what has no texture; whether the back is right for the front.",
        hacks="Any other rigid scene with texture and depth, filmed evenly; a thing that moves straight over still "
        "ground passes for depth.",
        input="Views in order, a full turn unless closed = false, steps of at most about 20 degrees, a camera that "
        "goes and does not only turn; views of one size are compared. On what is no orbit its numbers mean little.",
        cost='50 ms a view of 192 x 192 on one thread with "flow".',
    )

    def __init__(
        self,
        matcher: str | Matcher = "flow",
        apart: int = 1,
        tolerance: float = 0.004,
        depth: float = 0.004,
        closed: bool = True,
        flow_size: int = 192,
    ) -> None:
        super().__init__()
        if apart < 1 or min(tolerance, depth) <= 0:
            raise ValueError(
                f"expected apart >= 1, tolerance, depth > 0, got {apart}, {tolerance}, {depth}"
            )
        self.apart, self.tolerance = apart, tolerance
        self.depth, self.closed = depth, closed
        self.flow_size, self.match = flow_size, _named(matcher, flow_size)

    @property
    def context(self) -> int:
        """How many views back a new one is compared."""
        return self.apart

    def features(self, samples: Samples) -> Tensor:
        """Of each view but the first what `compare` says of it and an earlier one, and of
        it and the first, (B, F - 1, 10); the latter for the last view alone."""
        return self.resume(samples, None, 0)[0]

    def resume(self, samples: Samples, state: Any, old: int) -> tuple[Tensor, Any]:
        """The features of a piece; what is kept is the first view."""
        views = samples.frames
        first = views[:, :1].clone() if state is None else state
        rows = [self._clip(clip, start[0], old) for clip, start in zip(views, first, strict=True)]
        return views.new_tensor(rows), first

    def _clip(self, views: Tensor, first: Tensor, old: int) -> list[list[float]]:
        rows = []
        for t in range(max(1, old), len(views)):
            steps = min(self.apart, t)
            pair = self._compare(views[t - steps], views[t])
            pair[3] /= steps
            rows.append(pair + [0.0] * PAIR)
        if rows and self.closed:
            rows[-1][PAIR:] = self._compare(views[-1], first)
        return rows

    def _compare(self, first: Tensor, second: Tensor) -> list[float]:
        colour = [x.expand(3, -1, -1) for x in (first, second)]
        return compare(colour[0], colour[1], self.match, self.tolerance)

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """How well each pair fits, times the depth and the closure of the whole, (B, F -
        1)."""
        rows = [self._judge(row) for row in features.double().cpu().numpy()]
        return torch.from_numpy(np.stack(rows)).to(features)

    def _judge(self, row: np.ndarray) -> np.ndarray:
        """Of one clip, (F - 1,)."""
        pairs, last = row[:, :PAIR], row[-1:, PAIR:]
        step = np.median(pairs[:, 3])
        usual = np.median(pairs[:, 0])
        fits = self._fit(pairs, usual)
        whole = depth_seen(pairs, self.depth)
        if self.closed:
            wide = max(0.0, np.log(max(last[0, 3], 1e-9) / max(2 * step, 1e-9)))
            whole *= 0.25 + 0.75 * min(
                1.0, self._fit(last, usual)[0] / max(np.median(fits), 1e-9)
            ) * np.exp(-wide)
        return fits * evenness(pairs[:, 3]) * whole

    def _fit(self, pairs: np.ndarray, usual: float) -> np.ndarray:
        """Rigid times seen, of each of (T, 5) pairs."""
        number, share, off = pairs[:, :3].T
        seen = np.minimum(1, 2 * number / max(usual, LEAST)) * (number >= LEAST)
        return share * np.exp(-off / self.tolerance) * seen


def _named(match: str | Matcher, size: int) -> Matcher:
    return matcher(match, size) if isinstance(match, str) else match


def depth_seen(pairs: np.ndarray, depth: float) -> float:
    """u^2 / (u^2 + 1), u the median parallax over `depth`.

    >>> depth_seen(np.array([[99, 1, 0, 0.1, 0.02]]), 0.02)
    0.5
    """
    square = float(np.median(pairs[:, 4]) / depth) ** 2
    return square / (square + 1)


def evenness(steps: np.ndarray, slack: float = 0.35) -> np.ndarray:
    """1 for steps like the median one, less for shorter and longer ones.

    >>> evenness(np.array([1.0, 1.1, 0.9])).tolist(), bool(evenness(np.array([1.0, 1.0, 9.0]))[2] < 0.2)
    ([1.0, 1.0, 1.0], True)
    """
    ratio = np.log(np.maximum(steps, 1e-6) / max(np.median(steps), 1e-6))
    return np.exp(-np.maximum(np.abs(ratio) - slack, 0))

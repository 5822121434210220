"""A reward for the views of an orbit that show one rigid thing and close on themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._flow.epipolar import LEAST, Matcher, compare, matcher
from .base import About, Card, Reward, Samples

PAIR = 5  # the count of numbers that `compare` returns for a pair of views


class ViewConsistency(Reward):
    """How well the views of an orbit fit one rigid scene, in [0, 1].

    Points matched between a view and the view `apart` before it must satisfy x2^T F x1 = 0
    for one fundamental matrix F (eight points in RANSAC, then refined). A pair of views
    gives the product of

    - rigid: the share of matches within `tolerance` diagonals of F, times exp(-d /
      tolerance), where d is their mean Sampson distance, cut at twice the tolerance;
    - seen: the number of matches over half of the clip's usual number, at most 1; 0 below
      16 matches;
    - even: exp(-max(0, |ln(step / median step)| - 0.35)), where the step is the median path
      of a match.

    The value is the mean over pairs times the depth u^2 / (u^2 + 1). u is the median over
    pairs of the parallax, which is the distance of matches from the best homography, over
    `depth` diagonals. Views that do not change, or slide as a flat picture would, show no
    depth and get about 0.

    With `closed`, the value is also multiplied by 1/4 + 3/4 c, where c is how well the last
    view continues to the first: rigid and seen relative to the median of the pairs, cut at
    1, times 2 median step / step where that is below 1.

    `matcher` is "flow" (points on edges, followed along DIS flow, for steps up to about 20
    degrees), "sift", "orb", "xfeat", or a function of two pictures (3, H, W) in [0, 1] that
    returns points (N, 2) and (N, 2), x and y in pixels. Even perfect views get about 0.7,
    because matches have errors of tenths of a pixel. Raises ValueError for other options.

    Source: Hartley and Zisserman, Multiple View Geometry, 2003, chapter 11.

    >>> still = torch.rand(1, 1, 3, 32, 32).expand(1, 4, 3, 32, 32)
    >>> ViewConsistency()(Samples(still, [""], 8.0)).value
    tensor([0.])
    """

    needs = ("cv2",)
    on_host = "matches of two views are found by OpenCV, and fitted one pair at a time in float64"
    lowered_by = ("freeze",)
    range = (0.0, 1.0)
    time_support = "clip"
    lookahead = 1
    least_side = 16
    card = Card(
        sees="Whether matches between neighbouring views satisfy one epipolar geometry, "
        "whether steps are even, and whether the last view continues to the first.",
        blind_to="Things that move along the epipolar lines; most of a small thing that moves by "
        "itself; smooth bending that is alike in all views; everything without texture; "
        "whether the back fits the front.",
        hacks="Any other rigid scene with texture and depth, filmed evenly. A thing that moves "
        "straight over a still background looks like depth.",
        input="Views in order, a full turn unless closed = false, steps of at most about 20 "
        "degrees, and a camera that moves and does not only turn. Compare views of one "
        "size. On clips that are no orbit the numbers mean little.",
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
        """Return how many views back a new view is compared."""
        return self.apart

    def features(self, samples: Samples) -> Tensor:
        """Return the numbers of `compare` for each view but the first, (B, F - 1, 10).

        The first five compare a view with the view `apart` before it. The last five compare
        the last view with the first, and are 0 for all other views.
        """
        return self.resume(samples, None, 0)[0]

    def resume(self, samples: Samples, state: Any, old: int) -> tuple[Tensor, Any]:
        """Return the features of a piece; the state is the first view."""
        views = samples.frames
        first = views[:, :1].clone() if state is None else state
        rows = [self._clip(clip, start[0], old) for clip, start in zip(views, first, strict=True)]
        return views.new_tensor(rows), first

    def _clip(self, views: Tensor, first: Tensor, old: int) -> list[list[float]]:
        """Return the features of the new views of one clip."""
        rows = []
        for t in range(max(1, old), len(views)):
            steps = min(self.apart, t)
            pair = self._compare(views[t - steps], views[t])
            pair[3] /= steps  # the path of a match, for a step between neighbouring views
            rows.append(pair + [0.0] * PAIR)
        if rows and self.closed:
            rows[-1][PAIR:] = self._compare(views[-1], first)
        return rows

    def _compare(self, first: Tensor, second: Tensor) -> list[float]:
        """Return the numbers of `compare` for two views (C, H, W)."""
        colour = [x.expand(3, -1, -1) for x in (first, second)]
        return compare(colour[0], colour[1], self.match, self.tolerance)

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return how well each pair fits, times depth and closure, (B, F - 1)."""
        rows = [self._judge(row) for row in features.double().cpu().numpy()]
        return torch.from_numpy(np.stack(rows)).to(features)

    def _judge(self, row: np.ndarray) -> np.ndarray:
        """Return the terms of one clip, (F - 1,)."""
        pairs, last = row[:, :PAIR], row[-1:, PAIR:]
        step = np.median(pairs[:, 3])
        usual = np.median(pairs[:, 0])
        fits = self._fit(pairs, usual)
        factor = depth_seen(pairs, self.depth)
        if self.closed:
            # a last step of up to twice the median step closes the orbit
            gap = max(0.0, np.log(max(last[0, 3], 1e-9) / max(2 * step, 1e-9)))
            factor *= 0.25 + 0.75 * min(
                1.0, self._fit(last, usual)[0] / max(np.median(fits), 1e-9)
            ) * np.exp(-gap)
        return fits * evenness(pairs[:, 3]) * factor

    def _fit(self, pairs: np.ndarray, usual: float) -> np.ndarray:
        """Return rigid times seen of each of (T, 5) pairs, (T,)."""
        matches, rigid, distance = pairs[:, :3].T
        seen = np.minimum(1, 2 * matches / max(usual, LEAST)) * (matches >= LEAST)
        return rigid * np.exp(-distance / self.tolerance) * seen


def _named(match: str | Matcher, size: int) -> Matcher:
    """Return the matcher that a name means, or `match` itself if it is a function."""
    return matcher(match, size) if isinstance(match, str) else match


def depth_seen(pairs: np.ndarray, depth: float) -> float:
    """Return u^2 / (u^2 + 1), where u is the median parallax over `depth`.

    >>> depth_seen(np.array([[99, 1, 0, 0.1, 0.02]]), 0.02)
    0.5
    """
    square = float(np.median(pairs[:, 4]) / depth) ** 2
    return square / (square + 1)


def evenness(steps: np.ndarray, slack: float = 0.35) -> np.ndarray:
    """Return 1 for steps like the median one, less for shorter and longer ones.

    >>> evenness(np.array([1.0, 1.1, 0.9])).tolist()
    [1.0, 1.0, 1.0]
    >>> bool(evenness(np.array([1.0, 1.0, 9.0]))[2] < 0.2)
    True
    """
    ratio = np.log(np.maximum(steps, 1e-6) / max(np.median(steps), 1e-6))
    return np.exp(-np.maximum(np.abs(ratio) - slack, 0))

"""Two views of one rigid scene: functions that match them and measure their geometry.

Points (N, 2) are x, y in pixels. The fits run in double precision on the CPU and are
deterministic.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache
from math import hypot
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._networks import xfeat
from ..flow import SIZE, Motion, around, estimate

# A function of two pictures (3, H, W) in [0, 1] to matched points (N, 2) and (N, 2).
Matcher = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
GUESSES = 96  # candidates of a robust fit
LEAST = 16  # matches that a geometry is fitted to, at the least


def matcher(name: str, size: int = SIZE) -> Matcher:
    """Return the matcher `name`: "flow", "sift", "orb" or "xfeat".

    "flow" matches points on edges along DIS flow, see `along_flow`.
    """
    if name == "flow":
        return lambda first, second: along_flow(first, second, size)
    if name in ("sift", "orb"):
        return lambda first, second: keypoints(first, second, name)
    if name == "xfeat":
        return xfeat.match_points
    raise ValueError(f"expected matcher to be flow, sift, orb or xfeat, got {name!r}")


def along_flow(
    first: Tensor, second: Tensor, size: int = SIZE, side: int = 20
) -> tuple[Tensor, Tensor]:
    """Return points on strong edges of the first picture, and where the flow takes them.

    One point is taken from each of about `side` x `side` cells, on its strongest edge. Only
    points are kept to which the flow back returns and where the warped second picture looks
    like the first.
    """
    motion = estimate(torch.stack([first, second])[None], "dis", size)
    ink, flow = motion.structure[0, 0], motion.forward[0, 0]
    height, width = ink.shape
    good = motion.seen_later[0, 0] & (ink > 0.02) & _alike(motion)
    step = max(1, round(min(height, width) / side))
    pooled, index = torch.nn.functional.max_pool2d(
        (ink * good)[None, None], step, return_indices=True
    )
    index = index.flatten()[pooled.flatten() > 0]
    y, x = index // width, index % width
    start = torch.stack([x, y], 1).to(flow)
    scale = first.shape[-1] / width
    return start * scale, (start + flow[:, y, x].T) * scale


def _alike(motion: Motion, fraction: float = 0.3, window: float = 1 / 8) -> Tensor:
    """Return where the flow leads to a place that looks the same, bool (H, W).

    There the squared difference, averaged over a window, is less than `fraction` of the
    variance.
    """
    first = motion.frames[:, :1]
    difference = around((motion.later - first) ** 2, window).sum(2)
    return (difference < fraction * (around(first**2, window) - around(first, window) ** 2).sum(2))[
        0, 0
    ]


def keypoints(
    first: Tensor, second: Tensor, name: str, ratio: float = 0.8
) -> tuple[Tensor, Tensor]:
    """Return SIFT or ORB points that are each other's nearest and pass Lowe's ratio test."""
    cv2 = _cv2()
    finder = cv2.SIFT_create(1000) if name == "sift" else cv2.ORB_create(1000)
    grey = [
        (x.detach().float().mean(0).clamp(0, 1) * 255).round().byte().cpu().numpy()
        for x in (first, second)
    ]
    (here, first_descriptors), (there, second_descriptors) = (
        finder.detectAndCompute(plane, None) for plane in grey
    )
    if first_descriptors is None or second_descriptors is None or min(len(here), len(there)) < 2:
        return first.new_zeros(0, 2), first.new_zeros(0, 2)
    pairs = cv2.BFMatcher(cv2.NORM_L2 if name == "sift" else cv2.NORM_HAMMING)
    back = {
        match[0].queryIdx: match[0].trainIdx
        for match in pairs.knnMatch(second_descriptors, first_descriptors, 1)
    }
    # Lowe's test: the nearest point must be clearly nearer than the second nearest.
    found = [
        nearest
        for nearest, next_nearest in pairs.knnMatch(first_descriptors, second_descriptors, 2)
        if nearest.distance < ratio * next_nearest.distance
    ]
    kept = [
        (here[m.queryIdx].pt, there[m.trainIdx].pt) for m in found if back[m.trainIdx] == m.queryIdx
    ]
    points = first.new_tensor(np.array(kept, dtype=np.float64).reshape(-1, 2, 2))
    return points[:, 0], points[:, 1]


def fundamental(first: Tensor, second: Tensor, tolerance: float) -> Tensor:
    """Fit F (3, 3) with second^T F first = 0 for most matches, robustly.

    Candidates are fitted to eight matches each. The best has the smallest sum of squared
    Sampson distances, each cut at `tolerance` pixels, and is refined on the matches that it
    explains.
    """
    a, here, there = _normal(first, second)
    rows = (_lift(there)[:, :, None] * _lift(here)[:, None]).flatten(1)
    outer, undo = (rows[:, :, None] * rows[:, None]).flatten(1), (a[1].T[None], a[0][None])

    def solve(weight: Tensor) -> Tensor:
        """Return F (M, 3, 3) in pixels by weighted least squares; weight (M, N)."""
        moment = (weight @ outer).unflatten(1, (9, 9))
        # a fundamental matrix has rank 2: its third singular value is set to 0
        u, s, v = torch.linalg.svd(
            torch.linalg.eigh(moment).eigenvectors[..., 0].unflatten(-1, (3, 3))
        )
        return undo[0] @ (u[..., :2] * s[..., None, :2]) @ v[..., :2, :] @ undo[1]

    return _robust(solve, lambda f: sampson(f, first, second), len(first), 8, tolerance)


def homography(first: Tensor, second: Tensor, tolerance: float) -> Tensor:
    """Fit H (3, 3) with second ~ H first for most matches, robustly.

    A flat scene, or a camera that only turns, gives such matches.
    """
    a, here, there = _normal(first, second)
    p, (x, y) = _lift(here), there.T
    none = torch.zeros_like(p)
    rows = torch.stack(
        [torch.cat([p, none, -x[:, None] * p], 1), torch.cat([none, p, -y[:, None] * p], 1)], 1
    )
    outer, back = (rows.mT @ rows).flatten(1), torch.linalg.inv(a[1])

    def solve(weight: Tensor) -> Tensor:
        """Return H (M, 3, 3) in pixels by weighted least squares; weight (M, N)."""
        moment = (weight @ outer).unflatten(1, (9, 9))
        return back @ torch.linalg.eigh(moment).eigenvectors[..., 0].unflatten(-1, (3, 3)) @ a[0]

    return _robust(solve, lambda h: transfer(h, first, second), len(first), 4, tolerance)


def sampson(f: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the Sampson distance of each match from F (..., 3, 3), (..., N), pixels."""
    here, there = _lift(first.double()), _lift(second.double())
    onto, back = here @ f.mT, there @ f
    slope = onto[..., :2].square().sum(-1) + back[..., :2].square().sum(-1)
    return (there * onto).sum(-1).abs() / slope.clamp(min=1e-24).sqrt()


def transfer(h: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return how far H (..., 3, 3) takes each point from its match, (..., N), pixels."""
    moved = _lift(first.double()) @ h.mT
    depth = moved[..., 2:]
    depth = torch.where(depth.abs() < 1e-12, torch.full_like(depth, 1e-12), depth)
    return (moved[..., :2] / depth - second.double()).norm(dim=-1)


def _robust(
    solve: Callable[[Tensor], Tensor],
    distance: Callable[[Tensor], Tensor],
    n: int,
    sample_size: int,
    tolerance: float,
) -> Tensor:
    """Return the best of GUESSES fits to `sample_size` matches each and one fit to all, refined.

    `solve` maps weights (M, N) to M candidates, and `distance` maps candidates to errors.
    """
    chosen = torch.zeros(GUESSES + 1, n, dtype=torch.float64)
    chosen.scatter_(1, _draws(n, sample_size), 1.0)
    chosen[-1] = 1
    found = solve(chosen)
    cost = distance(found).clamp(max=tolerance).square().sum(-1)
    best = found[cost.nan_to_num(torch.inf).argmin()]
    for _ in range(4):  # iteratively reweighted least squares, until the cost rises
        weight = 1 / (1 + (distance(best) / (tolerance / 2)).square()).square()
        better = solve(weight[None])[0]
        if (
            distance(better).clamp(max=tolerance).square().sum()
            > distance(best).clamp(max=tolerance).square().sum()
        ):
            break
        best = better
    return best


@lru_cache(maxsize=64)
def _draws(n: int, sample_size: int) -> Tensor:
    """Draw GUESSES + 1 sets of `sample_size` out of n matches, the same sets in every call."""
    return (
        torch.rand(GUESSES + 1, n, generator=torch.Generator().manual_seed(n))
        .topk(sample_size, 1)
        .indices
    )


def _normal(first: Tensor, second: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """Return Hartley's normalisation, two transforms (3, 3), and the transformed points.

    Without it the linear systems would be ill-conditioned.
    """
    transforms, points = [], []
    for p in (first.double(), second.double()):
        middle = p.mean(0)
        scale = 2**0.5 / (p - middle).norm(dim=1).mean().clamp(min=1e-9)
        transform = torch.diag(torch.stack([scale, scale, torch.ones_like(scale)]))
        transform[:2, 2] = -scale * middle
        transforms.append(transform)
        points.append((p - middle) * scale)
    return (transforms[0], transforms[1]), points[0], points[1]


def _lift(points: Tensor) -> Tensor:
    """Return points in homogeneous coordinates, (N, 3)."""
    return torch.cat([points, torch.ones_like(points[:, :1])], 1)


def compare(first: Tensor, second: Tensor, match: Matcher, tolerance: float) -> list[float]:
    """Return five measures of two views (3, H, W) of one rigid scene, lengths in diagonals.

    1. the number of matches; 2. the fraction of the matches within `tolerance` (diagonals)
    of the epipolar geometry; 3. their mean distance from it, each cut at twice the
    tolerance; 4. the median distance that the matches moved; 5. the parallax: the 80th
    percentile of the distance from the best homography, among the matches that obey the
    epipolar geometry.

    With fewer than LEAST matches, the measures say that the geometry is violated; matches
    that did not move obey it.
    """
    diagonal = hypot(*first.shape[-2:])
    here, there = (points.detach().double().cpu() for points in match(first, second))
    if len(here) < LEAST:
        return [float(len(here)), 0.0, 2 * tolerance, 0.0, 0.0]
    if (there - here).abs().max() < 1e-6:
        return [float(len(here)), 1.0, 0.0, 0.0, 0.0]
    moved = float((there - here).norm(dim=1).median() / diagonal)
    off = sampson(fundamental(here, there, tolerance * diagonal), here, there) / diagonal
    flat = transfer(homography(here, there, tolerance * diagonal), here, there) / diagonal
    obey = off < tolerance
    depth = float(flat[obey].quantile(0.8)) if obey.any() else 0.0
    depth = depth if depth > 1e-6 else 0.0  # smaller numbers are rounding errors
    return [
        float(len(here)),
        float(obey.double().mean()),
        float(off.clamp(max=2 * tolerance).mean()),
        moved,
        depth,
    ]


def _cv2() -> Any:
    """Import OpenCV, or raise ImportError with the cure."""
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise ImportError("matching needs OpenCV: pip install opencv-python-headless") from error

"""Two views of one rigid scene: matches between them, the epipolar geometry they obey, and
the depth they show.

Points (N, 2) are x, y in pixels; the fits run in double precision on the CPU and are the
same every time.
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

# two pictures (3, H, W) in [0, 1] to points and points
Matcher = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
GUESSES = 96
LEAST = 16  # matches: fewer say nothing of geometry


def matcher(name: str, size: int = SIZE) -> Matcher:
    """A matcher by name: "flow" (points on edges, along DIS flow that returns), "sift",
    "orb" or "xfeat"."""
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
    """Points on a raster of `side` x `side` cells, on the strongest edge of each cell, and
    where the flow takes them.

    Those alone that the flow back returns and that look the same there.
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


def _alike(motion: Motion, share: float = 0.3, window: float = 1 / 8) -> Tensor:
    """Where the flow leads to what looks the same: the difference squared is under `share`
    of the variance, (H, W)."""
    first = motion.frames[:, :1]
    off = around((motion.later - first) ** 2, window).sum(2)
    return (off < share * (around(first**2, window) - around(first, window) ** 2).sum(2))[0, 0]


def keypoints(
    first: Tensor, second: Tensor, name: str, ratio: float = 0.8
) -> tuple[Tensor, Tensor]:
    """SIFT or ORB points that are each other's nearest and pass Lowe's ratio test."""
    cv2 = _cv2()
    finder = cv2.SIFT_create(1000) if name == "sift" else cv2.ORB_create(1000)
    grey = [
        (x.detach().float().mean(0).clamp(0, 1) * 255).round().byte().cpu().numpy()
        for x in (first, second)
    ]
    (here, looks), (there, others) = (finder.detectAndCompute(plane, None) for plane in grey)
    if looks is None or others is None or min(len(here), len(there)) < 2:
        return first.new_zeros(0, 2), first.new_zeros(0, 2)
    pairs = cv2.BFMatcher(cv2.NORM_L2 if name == "sift" else cv2.NORM_HAMMING)
    back = {m[0].queryIdx: m[0].trainIdx for m in pairs.knnMatch(others, looks, 1)}
    found = [m for m, n in pairs.knnMatch(looks, others, 2) if m.distance < ratio * n.distance]
    kept = [
        (here[m.queryIdx].pt, there[m.trainIdx].pt) for m in found if back[m.trainIdx] == m.queryIdx
    ]
    points = first.new_tensor(np.array(kept, dtype=np.float64).reshape(-1, 2, 2))
    return points[:, 0], points[:, 1]


def fundamental(first: Tensor, second: Tensor, tolerance: float) -> Tensor:
    """F (3, 3) with second^T F first = 0 for most matches: eight points at a time, the best
    by the sum of squared Sampson distances cut at `tolerance` pixels, refined on what it
    explains."""
    a, here, there = _normal(first, second)
    rows = (_lift(there)[:, :, None] * _lift(here)[:, None]).flatten(1)
    outer, undo = (rows[:, :, None] * rows[:, None]).flatten(1), (a[1].T[None], a[0][None])

    def solve(weight: Tensor) -> Tensor:
        """F (M, 3, 3) in pixels by weighted least squares; weight (M, N)."""
        moment = (weight @ outer).unflatten(1, (9, 9))
        u, s, v = torch.linalg.svd(
            torch.linalg.eigh(moment).eigenvectors[..., 0].unflatten(-1, (3, 3))
        )
        return undo[0] @ (u[..., :2] * s[..., None, :2]) @ v[..., :2, :] @ undo[1]

    return _robust(solve, lambda f: sampson(f, first, second), len(first), 8, tolerance)


def homography(first: Tensor, second: Tensor, tolerance: float) -> Tensor:
    """H (3, 3) with second ~ H first for most matches: what a flat scene, or a camera that
    only turns, does."""
    a, here, there = _normal(first, second)
    p, (x, y) = _lift(here), there.T
    none = torch.zeros_like(p)
    rows = torch.stack(
        [torch.cat([p, none, -x[:, None] * p], 1), torch.cat([none, p, -y[:, None] * p], 1)], 1
    )
    outer, back = (rows.mT @ rows).flatten(1), torch.linalg.inv(a[1])

    def solve(weight: Tensor) -> Tensor:
        moment = (weight @ outer).unflatten(1, (9, 9))
        return back @ torch.linalg.eigh(moment).eigenvectors[..., 0].unflatten(-1, (3, 3)) @ a[0]

    return _robust(solve, lambda h: transfer(h, first, second), len(first), 4, tolerance)


def sampson(f: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Sampson distance of each match from the geometry F (..., 3, 3), pixels, (..., N)."""
    here, there = _lift(first.double()), _lift(second.double())
    onto, back = here @ f.mT, there @ f
    slope = onto[..., :2].square().sum(-1) + back[..., :2].square().sum(-1)
    return (there * onto).sum(-1).abs() / slope.clamp(min=1e-24).sqrt()


def transfer(h: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """How far H (..., 3, 3) takes each point from its match, pixels, (..., N)."""
    moved = _lift(first.double()) @ h.mT
    depth = moved[..., 2:]
    depth = torch.where(depth.abs() < 1e-12, torch.full_like(depth, 1e-12), depth)
    return (moved[..., :2] / depth - second.double()).norm(dim=-1)


def _robust(
    solve: Callable[[Tensor], Tensor],
    distance: Callable[[Tensor], Tensor],
    n: int,
    few: int,
    tolerance: float,
) -> Tensor:
    """The best of GUESSES fits to `few` matches each and of the fit to all, then
    refined."""
    chosen = torch.zeros(GUESSES + 1, n, dtype=torch.float64)
    chosen.scatter_(1, _draws(n, few), 1.0)
    chosen[-1] = 1
    found = solve(chosen)
    cost = distance(found).clamp(max=tolerance).square().sum(-1)
    best = found[cost.nan_to_num(torch.inf).argmin()]
    for _ in range(4):
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
def _draws(n: int, few: int) -> Tensor:
    """GUESSES + 1 draws of `few` out of n, the same ever."""
    return (
        torch.rand(GUESSES + 1, n, generator=torch.Generator().manual_seed(n)).topk(few, 1).indices
    )


def _normal(first: Tensor, second: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """Hartley's normalisation: the two transforms (3, 3), and the points under them."""
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
    return torch.cat([points, torch.ones_like(points[:, :1])], 1)


def compare(first: Tensor, second: Tensor, match: Matcher, tolerance: float) -> list[float]:
    """What two views (3, H, W) say of one rigid scene, lengths in diagonals.

    How many matches; the share of them within `tolerance` (diagonals) of the epipolar
    geometry; their mean distance from it, cut at twice the tolerance; how far most of them
    moved; how far the fifth that a homography explains worst lie from it, among those that
    obey the geometry: the parallax.
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
    depth = depth if depth > 1e-6 else 0.0  # rounding
    return [
        float(len(here)),
        float(obey.double().mean()),
        float(off.clamp(max=2 * tolerance).mean()),
        moved,
        depth,
    ]


def _cv2() -> Any:
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise ImportError("matching needs OpenCV: pip install opencv-python-headless") from error

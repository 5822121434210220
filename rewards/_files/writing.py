"""Write clips into video files with PyAV."""

from __future__ import annotations

import math
import os
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from .atomic_file import new_file
from .reading import import_av

CODECS = {
    ".mp4": "libx264",
    ".mkv": "libx264",
    ".mov": "libx264",
    ".webm": "libvpx-vp9",
    ".avi": "mpeg4",
}
STILL = ".png"
FORMATS = {".mkv": "matroska"}  # FFmpeg's names of formats that are not the suffix


def write(path: str | os.PathLike[str], video: Tensor, fps: float, lossless: bool = False) -> Path:
    """Write a clip (F, C, H, W), float in [0, 1] or uint8, C = 1 or 3, as a video file.

    The suffix chooses the format: .mp4, .mkv, .mov (H.264), .webm or .avi. A clip of one
    frame may also be written as .png, which keeps every bit and ignores `fps`. `lossless`
    keeps every bit (RGB H.264 or FFV1, which browsers do not play). The file appears
    complete or not at all. Raises ValueError for another shape, suffix or rate, ImportError
    without PyAV.

    >>> import tempfile
    >>> from vidrl.rewards import video
    >>> path, clip = tempfile.mkdtemp() + "/clip.mkv", torch.rand(5, 3, 32, 48)
    >>> file = video.write(path, clip, fps=8.0, lossless=True)
    >>> video.read(file)[0].shape, video.read(file)[1]
    (torch.Size([5, 3, 32, 48]), 8.0)
    """
    path = Path(path)
    frames = _bytes(video, fps, path)
    if path.suffix.lower() == STILL:
        return _picture(path, frames)
    import_av()
    with new_file(path) as file:
        _encode(file, path.suffix.lower(), frames, fps, lossless)
    return path


def suffix(frames: int) -> str:
    """Return the suffix of the file that a clip of so many frames is written to.

    >>> suffix(1), suffix(17)
    ('.png', '.mp4')
    """
    return STILL if frames == 1 else ".mp4"


def _picture(path: Path, frames: np.ndarray) -> Path:
    """Write one frame (1, H, W, 3) as PNG."""
    import cv2

    with new_file(path) as file:
        file.write(cv2.imencode(STILL, np.ascontiguousarray(frames[0, ..., ::-1]))[1].tobytes())
    return path


def _bytes(video: Tensor, fps: float, path: Path) -> np.ndarray:
    """Check a clip and return its frames as uint8 (F, H, W, 3)."""
    if video.dim() != 4 or video.shape[1] not in (1, 3) or 0 in video.shape:
        raise ValueError(
            "expected a clip (frames, 1 or 3 channels, height, width), got shape "
            f"{tuple(video.shape)}"
        )
    if path.suffix.lower() == STILL and len(video) > 1:
        raise ValueError(
            f"expected a clip of one frame for the picture {path.name!r}, got {len(video)} frames: "
            "name a "
            f"file ending in {', '.join(CODECS)}"
        )
    if path.suffix.lower() not in (*CODECS, STILL):
        raise ValueError(f"expected a file name ending in {', '.join(CODECS)}, got {path.name!r}")
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"expected fps to be a positive number, got {fps!r}")
    video = video.detach().cpu()
    if video.is_floating_point():
        video = (video.float().nan_to_num().clamp(0, 1) * 255).round()
    return video.to(torch.uint8).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


def _encode(file: BinaryIO, suffix: str, frames: np.ndarray, fps: float, lossless: bool) -> None:
    """Encode the frames into an open file."""
    av = import_av()
    odd = any(side % 2 for side in frames.shape[1:3])
    codec, pixels, options = _settings(suffix, lossless, odd)
    with av.open(file, "w", format=FORMATS.get(suffix, suffix[1:])) as container:
        stream = container.add_stream(
            codec, rate=Fraction(fps).limit_denominator(1001), options=options
        )
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        stream.thread_count = 1  # gives the same bytes on every machine
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _settings(suffix: str, lossless: bool, odd: bool) -> tuple[str, str, dict[str, str]]:
    """Return codec, pixel format and options of a suffix.

    yuv420p stores colour at half the resolution, which an odd side cannot have.
    """
    if lossless and suffix == ".webm":
        raise ValueError("expected .mp4, .mkv, .mov or .avi for a lossless file, got .webm")
    if lossless and suffix == ".avi":
        return "ffv1", "bgr0", {}
    if lossless:
        return "libx264rgb", "rgb24", {"qp": "0"}
    pixels, codec = "yuv444p" if odd and suffix != ".avi" else "yuv420p", CODECS[suffix]
    # x264's macroblock tree reads uninitialised memory: about one file in a hundred would differ
    # from the same file written again.
    if codec == "libx264":
        return codec, pixels, {"crf": "16", "x264-params": "mbtree=0"}
    return codec, pixels, {"crf": "16"} if codec == "libvpx-vp9" else {"qscale": "3"}

"""Fit a video file to the size, frame rate and length of a generator's clips.

Shapes: F frames, H W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vidrl.rewards._files import resampling
from vidrl.rewards.video import Video

SAME_RATE = 0.01  # of a rate: 23.976 frames a second are taken for 24


class Unfit(ValueError):
    """Says that a clip is too short or too small: what was expected and what was found."""


def fitted(path: str | os.PathLike[str], shape: Sequence[int], fps: float) -> Tensor:
    """Return the first F frames of a file at `fps`, shrunk and cut to H x W: uint8, `shape`.

    `shape` is (F, 3, H, W); the cut is about the centre. A clip of another frame rate is
    resampled as `vidrl score` resamples uneven films. Nothing is enlarged, slowed down or
    repeated, because the model would learn the blur and the standstill. Raises Unfit for a
    clip that is too small or too short, and the errors of `vidrl.rewards.video.Video`.
    """
    frames, _, height, width = shape
    film = Video(path).even()
    if film.size[0] < width or film.size[1] < height:
        raise Unfit(
            f"expected {width} x {height} pixels or more, got {film.size[0]} x {film.size[1]}: "
            "it would have to be enlarged"
        )
    times, wanted = [time - film.times[0] for time in film.times], [i / fps for i in range(frames)]
    same_rate, duration = abs(film.fps / fps - 1) < SAME_RATE, len(times) / film.fps
    if len(times) < frames if same_rate else duration < wanted[-1]:
        raise Unfit(
            f"expected {frames} frames at {fps:g} a second, which take {frames / fps:.2f} s, got "
            f"{len(times)} at {film.fps:g}, which take {duration:.2f} s: take a longer clip"
        )
    pieces = (_fit_size(piece, height, width) for piece in film.pieces())
    frames_out = (
        _first_frames(pieces, frames) if same_rate else resampling.resample(pieces, times, wanted)
    )
    return torch.cat(list(frames_out))


def _first_frames(pieces: Iterator[Tensor], frames: int) -> Iterator[Tensor]:
    """Yield the first frames, and read no piece after them."""
    for piece in pieces:
        yield piece[:frames]
        frames -= len(piece)
        if frames <= 0:
            return


def _fit_size(piece: Tensor, height: int, width: int) -> Tensor:
    """Shrink frames until one side fits, and cut them about the centre."""
    rows, columns = piece.shape[-2:]
    scale = max(height / rows, width / columns)
    if scale < 1:
        size = [max(height, round(rows * scale)), max(width, round(columns * scale))]
        small = interpolate(
            piece.float(), size, mode="bilinear", antialias=True, align_corners=False
        )
        piece = small.round().clamp(0, 255).byte()
    top, left = (
        (have - want) // 2 for have, want in zip(piece.shape[-2:], (height, width), strict=True)
    )
    return piece[..., top : top + height, left : left + width]

"""VBench's temporal flickering, which measures how little neighbouring frames differ."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .base import Card, Reward, Samples


class VbenchTemporalFlickering(Reward):
    """VBench's temporal_flickering: 1 minus the mean change between neighbouring frames.

    The value is (255 - mean_t m_t) / 255 in [0, 1], where m_t is the mean over pixels and
    channels of |f_t - f_{t+1}| in 0..255, without resizing; a frozen clip gets 1. A term
    compares two neighbouring frames. Sums are whole numbers or float64, which agrees with
    the published float32 mean to 1e-6 for clips of whole grey levels. Other floats are used
    as they are, although a file would hold them rounded.

    As published: any motion counts as flicker, and the best clip is frozen. VBench applies
    this dimension only to clips that `vbench_static_filter` passes (its custom_input mode
    does not); here every clip is scored. VBench silently drops a file that cannot be read;
    here such a file is a row with its reason. One frame is inapplicable here, and NaN in
    VBench.

    Source: VBench, arXiv:2311.17982.

    >>> light = torch.tensor([0, 51, 51], dtype=torch.uint8).view(1, 3, 1, 1, 1)
    >>> VbenchTemporalFlickering()(Samples(light.expand(1, 3, 3, 16, 16), [""], 8.0)).value
    tensor([0.9000])
    """

    differentiable = True
    needs = ("cv2",)
    lowered_by = ("flicker", "cut", "dissolve", "noise", "shake", "shuffle", "sharpen", "reencode")
    range = (0.0, 1.0)
    time_support = "pair"
    lookahead = 1
    card = Card(
        sees="The mean absolute difference of neighbouring frames, and nothing else.",
        blind_to="The cause of a difference: a clean pan of 8 pixels a frame (0.829) gets less "
        "than strong flicker (0.921) and a hard cut (0.993), measured on 256 x 384.",
        hacks="Freezing or a solid grey (+10.3 points on a clean pan), slow motion x4 (+7.8), "
        "temporal averaging (+7.6), blur (+7.4), darkening x0.3 (+7.2), half the contrast "
        "(+5.2).",
        input="At least 2 frames. More frames a second score higher.",
        cost="0.2 ms a frame of 720 x 1280 in uint8, a fortieth of the time to decode the "
        "frame; 31 ms in float.",
    )

    @property
    def context(self) -> int:
        """Return 0: the state holds the last frame, so that no piece is copied to prepend it."""
        return 0

    def terms(self, samples: Samples) -> Tensor:
        """Return one number for each pair of frames, (B, F - 1)."""
        return alike(samples.video.unbind(1))

    def resume(self, samples: Samples, state: Tensor | None, old: int) -> tuple[Tensor, Tensor]:
        """Return the terms that end after the `old` frames already scored, and the last frame."""
        frames = samples.video.unbind(1)
        # the other rewards of a stream may need the frames before; otherwise the state has the last
        before = frames[old - 1 : old] if old else () if state is None else (state,)
        return alike([*before, *frames[old:]]), frames[-1].clone()


def alike(frames: Sequence[Tensor]) -> Tensor:
    """Return 1 minus the mean change between neighbours of F frames (B, C, H, W), (B, F - 1)."""
    first = frames[0]
    if len(frames) == 1:
        return first.new_ones(len(first), 0, dtype=torch.promote_types(first.dtype, torch.float32))
    if first.is_cuda and first.dtype == torch.uint8:
        return _on_device(frames)
    if first.dtype in (torch.uint8, torch.float32) and not (
        first.is_cuda or any(frame.requires_grad for frame in frames)
    ):
        # OpenCV's norm is many times faster than torch on the CPU
        clips = zip(*frames, strict=True)
        return torch.tensor([_differences(clip) for clip in clips], dtype=torch.float32)
    pairs = zip(frames[:-1], frames[1:], strict=True)
    steps = torch.stack([(a.double() - b.double()).abs().mean((1, 2, 3)) for a, b in pairs], 1)
    return (1 - steps).to(torch.promote_types(first.dtype, torch.float32))


def _differences(clip: Sequence[Tensor]) -> list[float]:
    """Return the terms of the frames (C, H, W) of a clip, uint8 or float32.

    Frames as decoders give them, with the channels last in memory, are not copied.
    """
    cv2 = importlib.import_module("cv2")
    decoded = [frame.permute(1, 2, 0) for frame in clip]
    planes = decoded if all(frame.is_contiguous() for frame in decoded) else clip
    rows: list[np.ndarray] = [p.contiguous().numpy().reshape(len(clip[0]), -1) for p in planes]
    most = rows[0].size * (255 if clip[0].dtype == torch.uint8 else 1)
    return [1 - cv2.norm(a, b, cv2.NORM_L1) / most for a, b in zip(rows[:-1], rows[1:])]


def _on_device(frames: Sequence[Tensor]) -> Tensor:
    """Return the terms of uint8 frames on an accelerator, in exact whole numbers."""
    pairs = zip(frames[:-1], frames[1:], strict=True)
    steps = [(a.short() - b.short()).abs().flatten(1).sum(1, dtype=torch.int64) for a, b in pairs]
    return (1 - torch.stack(steps, 1).double() / (255 * frames[0][0].numel())).float()

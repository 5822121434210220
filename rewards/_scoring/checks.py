"""Checks of samples; each error says what was expected, what was given, and the cure."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

AXES = "(batch, frames, channels, height, width)"
SLACK = 0.05  # how far values may be outside [0, 1]: resizing and half precision overshoot


def check_video(video: Any, what: str) -> Tensor:
    """Raise ValueError unless `video` is (B, F, C, H, W), float in [0, 1] or uint8.

    C is 1 or 3. Returns which frames are finite, bool (B, F) on the CPU. A frame that is
    not finite raises nothing: it is the fault of one clip, which `refusals` names, and the
    other clips are scored.
    """
    want = f"expected {what} as {AXES}, float in [0, 1] or uint8"
    if not isinstance(video, Tensor):
        raise ValueError(f"{want}, got {type(video).__name__}: {_cure_for_type(video)}")
    if video.dim() != 5:
        cure = f"add the batch with {what}[None]" if video.dim() == 4 else "rearrange it"
        raise ValueError(f"{want}, got shape {tuple(video.shape)}: {cure}")
    if video.shape[2] not in (1, 3) or 0 in video.shape:
        raise ValueError(
            f"{want}, nothing empty, 1 or 3 channels, "
            f"got shape {tuple(video.shape)}: {_cure_for_axes(video)}"
        )
    if not (video.is_floating_point() or video.dtype == torch.uint8):
        raise ValueError(f"{want}, got {video.dtype}: {_cure_for_dtype(video.dtype)}")
    if not video.is_floating_point():
        return torch.ones(video.shape[:2], dtype=torch.bool)
    # One pass over the pixels: the smallest and the largest value of a frame say whether it
    # is in range, and are NaN or infinite if any value is.
    with torch.no_grad():
        low, high = torch.stack([video.amin((2, 3, 4)), video.amax((2, 3, 4))]).float().cpu()
    finite = low.isfinite() & high.isfinite()
    if bool(finite.any()):
        _check_range(float(low[finite].min()), float(high[finite].max()), want)
    return finite


def _cure_for_type(video: Any) -> str:
    """Return the cure for what is not a tensor."""
    if not isinstance(video, list | tuple):
        return "use torch.as_tensor"
    shapes = sorted({tuple(clip.shape) for clip in video if hasattr(clip, "shape")})
    if len(shapes) > 1:
        return f"score clips of one shape at a time, here are {shapes[0]} and {shapes[-1]}"
    return "use torch.stack for clips of one shape"


def _cure_for_axes(video: Tensor) -> str:
    """Return the cure for axes in another order."""
    if 0 in video.shape:
        return "leave out clips without frames"
    if video.shape[-1] in (1, 3):
        return "channels come third, permute(0, 1, 4, 2, 3)"
    return (
        "channels come third, transpose(1, 2)"
        if video.shape[1] in (1, 3)
        else "pass 1 or 3 channels"
    )


def _cure_for_dtype(dtype: torch.dtype) -> str:
    """Return the cure for pixels of another type than uint8 or float."""
    if dtype == torch.bool:
        return "use .float()"
    if dtype in (torch.uint16, torch.int16):
        return "use .float() / 65535 if it spans 16 bits, .to(torch.uint8) if 8"
    return "use .to(torch.uint8) or .float() / 255" if not dtype.is_complex else "use .real"


def _check_range(low: float, high: float, want: str) -> None:
    """Raise ValueError for values outside [0, 1], with the likely cure."""
    if low >= -SLACK and high <= 1 + SLACK:
        return
    if high > 2:
        cure = "divide by 255"
    elif low < -SLACK:
        cure = "map [-1, 1] by (x + 1) / 2" + (
            ", or clamp(0, 1) what overshoots a little" if low > -0.5 else ""
        )
    else:
        cure = "clamp(0, 1) what overshoots a little"
    raise ValueError(f"{want}, got values from {low:.3g} to {high:.3g}: {cure}")


def check_prompts(prompts: Any, clips: int) -> None:
    """Raise ValueError unless there is one string for each clip."""
    want = f"expected a list of {clips} prompts, one a clip"
    if isinstance(prompts, str) or not _is_sequence(prompts):
        got = "one string" if isinstance(prompts, str) else type(prompts).__name__
        raise ValueError(f'{want}, got {got}: use [prompt] * {clips}, or [""] * {clips} for none')
    if len(prompts) != clips:
        raise ValueError(f"{want}, got {len(prompts)} prompts: repeat each for its clips")
    strange = next((prompt for prompt in prompts if not isinstance(prompt, str)), None)
    if strange is not None or None in prompts:  # the strange prompt may be None itself
        raise ValueError(
            f'{want}, got {type(strange).__name__} among them: use "" where there is none'
        )


def check_fps(fps: Any) -> None:
    """Raise ValueError unless `fps` is a positive number."""
    number = isinstance(fps, Real) and not isinstance(fps, bool)
    if not number or not 0 < fps <= sys.float_info.max:
        raise ValueError(
            f"expected fps, frames a second, to be a positive number, got {fps!r:.40}: "
            "pass what the clips play at, as fps=16.0"
        )


def check_reference(reference: Any, video: Tensor) -> None:
    """Raise ValueError unless each clip has a reference, on the clips' device."""
    if isinstance(reference, Tensor) and reference.dim() == 4:
        raise ValueError(
            "expected reference as (batch, frames, channels, height, width), got shape "
            f"{tuple(reference.shape)}: an image has one frame, reference[:, None]"
        )
    check_video(reference, "reference")
    if len(reference) != len(video):
        raise ValueError(
            f"expected a reference for each of {len(video)} clips, got {len(reference)}: "
            "repeat it with reference.expand(...)"
        )
    if reference.device != video.device:
        raise ValueError(
            f"expected video and reference on one device, "
            f"got {video.device} and {reference.device}: "
            "move one with .to(device)"
        )


def check_meta(meta: Any, clips: int) -> None:
    """Raise ValueError unless `meta` has one mapping for each clip, or is empty."""
    if not _is_sequence(meta) or len(meta) not in (0, clips):
        got = f"{len(meta)}" if _is_sequence(meta) else f"one {type(meta).__name__}"
        raise ValueError(
            f"expected meta as a list of {clips} mappings, one a clip, got {got}: use "
            f"[{{...}}] * {clips}, or leave it out"
        )


def _is_sequence(value: Any) -> bool:
    """Return whether a value is a sequence, not a mapping."""
    return (
        hasattr(value, "__len__")
        and hasattr(value, "__getitem__")
        and not isinstance(value, Mapping)
    )

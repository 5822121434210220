"""Convert clips of any layout, score them, and decide what replaces a missing score.

The adapters to other trainers share these functions.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._scoring.plain import as_reward
from ..base import Reward, Samples
from ..video import read

Policy = str | float


class Unscored(ValueError):
    """Clips of a call that cannot be scored, with their reasons; `rows` are their numbers."""

    def __init__(self, why: Mapping[int, str]) -> None:
        self.rows = list(why)
        reasons = "; ".join(f"clip {i}: {reason}" for i, reason in list(why.items())[:4])
        super().__init__(
            f"{len(why)} of the clips could not be scored ({reasons}): mend the clips, or pass the "
            "adapter another `unscored`, as a number that stands for such a clip"
        )


@dataclass
class ClipScores:
    """Scores that belong to a call's clips: values (B,), reasons, and the parts' values."""

    value: Tensor  # (B,)
    why: list[str | None]
    parts: dict[str, Tensor]


def score_clips(
    reward: Reward,
    clips: Sequence[Tensor],
    prompts: Sequence[str],
    fps: Any,
    gradients: bool = False,
) -> ClipScores:
    """Score clips (F, C, H, W); clips of one shape and rate form one batch.

    Values are on the CPU unless `gradients` is true.
    """
    if prompts is None or isinstance(prompts, str) or len(prompts) != len(clips):
        got = (
            "none"
            if prompts is None
            else "one string"
            if isinstance(prompts, str)
            else f"{len(prompts)}"
        )
        raise ValueError(f"expected {len(clips)} prompts, one a clip, got {got}")
    rates = [rate_of(fps, i) for i in range(len(clips))]
    groups: dict[Any, list[int]] = {}
    for i, clip in enumerate(clips):
        groups.setdefault((clip.shape, clip.dtype, rates[i]), []).append(i)
    why: list[str | None] = [None] * len(clips)
    values: dict[str, list[Tensor]] = {}
    for rows in groups.values():
        # Grad mode is a property of each thread: a trainer's worker thread does not inherit the
        # no_grad of its main thread.
        with torch.set_grad_enabled(gradients and torch.is_grad_enabled()):
            score = reward(
                Samples(
                    torch.stack([clips[i] for i in rows]),
                    [prompts[i] for i in rows],
                    rates[rows[0]],
                )
            )
        named = {
            "": score.value,
            **{name: part.value.detach() for name, part in score.parts.items()},
        }
        for name, value in named.items():
            values.setdefault(name, []).append(value if gradients else value.detach().cpu())
        for i, row in enumerate(rows):
            lost = None if torch.isfinite(score.value[i]) else "unscored: not finite"
            why[row] = score.why[i] or lost
    back = torch.tensor([row for rows in groups.values() for row in rows]).argsort()
    # Only parts that every group of clips has are returned.
    values = {name: found for name, found in values.items() if sum(map(len, found)) == len(clips)}
    whole = {name: torch.cat(value)[back.to(value[0].device)] for name, value in values.items()}
    return ClipScores(whole.pop("", torch.zeros(0)), why, whole)


def values_for_trainer(found: ClipScores, unscored: Policy) -> Tensor:
    """Return the values, with `unscored` applied to the clips that have no score."""
    lost = {i: reason for i, reason in enumerate(found.why) if reason}
    if not lost or unscored == "nan":
        return found.value
    if unscored == "raise":
        raise Unscored(lost)
    warnings.warn(
        f"{unscored} stands for the score of {len(lost)} clips: {Unscored(lost)}", stacklevel=3
    )
    rows = torch.tensor(list(lost), device=found.value.device)
    return found.value.index_fill(0, rows, float(unscored))


def checked_reward(
    reward: Any, unscored: Policy, fps: float | None, words: Sequence[str] = ("raise", "nan")
) -> Reward:
    """Check what an adapter was given; return the reward, made of a plain function if needed."""
    number = (
        isinstance(unscored, int | float)
        and not isinstance(unscored, bool)
        and math.isfinite(unscored)
    )
    if not (number or unscored in words):
        raise ValueError(
            f"expected unscored to be {', '.join(map(repr, words))} or a number, got {unscored!r}"
        )
    if fps is not None:
        rate_of(fps, 0)
    return as_reward(reward)


def rate_of(fps: Any, i: int) -> float:
    """Return the frame rate of clip `i`, from one rate for all clips or one for each."""
    rate = (
        fps[i]
        if isinstance(fps, Sequence | np.ndarray | Tensor) and not isinstance(fps, str)
        else fps
    )
    try:
        rate = float(rate)
    except (TypeError, ValueError):
        rate = math.nan
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(
            f"expected the clips' frames a second, got {fps!r}: pass fps=16 or what they were made "
            "at"
        )
    return rate


def clips_of_batch(images: Any) -> list[Tensor]:
    """Return the clips of a batch; images become clips of one frame.

    Tensors have channels before height, arrays have channels last.
    """
    if not isinstance(images, Tensor | np.ndarray):
        return [as_clip(image) for image in images]
    if images.ndim not in (4, 5):
        raise ValueError(
            "expected a batch of clips (5 axes) or images (4 axes), got shape "
            f"{tuple(images.shape)}"
        )
    return [as_clip(image) for image in images]


def as_clip(clip: Any) -> Tensor:
    """Return (F, C, H, W) of a tensor, an array with channels last, or a list of pictures."""
    if isinstance(clip, np.ndarray):
        clip = torch.from_numpy(np.array(clip))
        clip = clip.movedim(-1, -3) if clip.shape[-1] in (1, 3) else clip
    elif not isinstance(clip, Tensor):
        clip = torch.stack([as_clip(np.asarray(picture))[0] for picture in clip])
    if clip.dim() not in (3, 4):
        raise ValueError(
            f"expected a clip (frames, channels, height, width) or an image, got shape "
            f"{tuple(clip.shape)}"
        )
    clip = clip if clip.dim() == 4 else clip.unsqueeze(0)
    return clip.float() if clip.is_floating_point() else clip


def channels_second(clip: Tensor) -> Tensor:
    """Return (F, C, H, W) of a tensor (F, C, H, W), (C, F, H, W) or (F, H, W, C).

    A leading axis of size 1 is removed. The axis of the channels is the one of size 3, else
    the one of size 1. Raises ValueError if no axis or several axes can be it, as in (3, 3,
    H, W).
    """
    clip = clip[0] if clip.dim() == 5 and len(clip) == 1 else clip
    if clip.dim() == 3 and clip.shape[0] not in (1, 3) and clip.shape[-1] in (1, 3):
        clip = clip.movedim(-1, 0)
    if clip.dim() != 4:
        return as_clip(clip)
    axes = [axis for size in (3, 1) for axis in (0, 1, 3) if clip.shape[axis] == size]
    axes = [axis for axis in axes if clip.shape[axis] == clip.shape[axes[0]]]
    if len(axes) != 1:
        raise ValueError(
            f"expected a clip with one axis of 1 or 3 channels, (frames, channels, height, width), "
            f"(channels, frames, height, width) or (frames, height, width, channels), got shape "
            f"{tuple(clip.shape)}: pass an array (frames, height, width, channels)"
        )
    return as_clip(clip.movedim(axes[0], 1))


def open_clip(clip: Any) -> tuple[Tensor, float | None]:
    """Return a clip, and its frame rate if it is a file."""
    if isinstance(clip, str | os.PathLike):
        return read(clip)
    if isinstance(clip, np.ndarray) and clip.shape[-1] not in (1, 3):
        clip = torch.from_numpy(np.array(clip))
    return channels_second(clip) if isinstance(clip, Tensor) else as_clip(clip), None


def check_five_axes(media: Any, want: str) -> Tensor:
    """Return `media` if it is a tensor of five axes with 1 or 3 channels; raise ValueError."""
    if not isinstance(media, Tensor) or media.dim() != 5 or media.shape[1] not in (1, 3):
        got = tuple(media.shape) if hasattr(media, "shape") else type(media).__name__
        raise ValueError(f"expected a tensor {want} of 1 or 3 channels, got {got}")
    return media


def prompt_text(prompt: Any) -> str:
    """Return a prompt as text; of a conversation, the text of the last message."""
    if isinstance(prompt, str):
        return prompt
    content = prompt[-1]["content"]
    return (
        content
        if isinstance(content, str)
        else " ".join(part.get("text", "") for part in content).strip()
    )


def reward_name(reward: Reward) -> str:
    """Return a reward's name in logs: that of its class, or of the function it is made of."""
    return re.sub(r"\W", "", str(getattr(reward, "name", ""))) or type(reward).__name__


def name_function(fn: Any, reward: Reward) -> Any:
    """Set the name by which trainers log the function, and return the function."""
    fn.__name__ = f"vidrl_{reward_name(reward).lower()}"  # trainers log by this name
    return fn

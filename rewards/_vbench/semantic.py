"""Share what VBench's semantic dimensions need: chosen frames, pictures and styles."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .pictures import CLIP, colour, middle, normalised, shorter_side, unit

# The nine styles with one of which each of the 90 prompts of VBench's appearance_style ends.
STYLES = (
    "Van Gogh style",
    "oil painting",
    "by Hokusai, in the style of Ukiyo",
    "black and white",
    "pixel art",
    "in cyberpunk style",
    "animated style",
    "watercolor painting",
    "surrealism style",
)


def style_of(prompt: str) -> str:
    """Return the style of VBench's appearance_style with which a prompt ends, or "".

    >>> style_of("a shark is swimming in the ocean, in cyberpunk style"), style_of("a shark")
    ('in cyberpunk style', '')
    """
    return next((style for style in STYLES if prompt.endswith(style)), "")


def middle_frames(total: int, count: int) -> list[int]:
    """Return the `count` frames that VBench reads of `total`: the middle of each segment.

    Segment i has the frames floor(i total / n) to floor((i + 1) total / n) - 1, where n =
    min(count, total). The last frame is repeated if there are too few.

    >>> middle_frames(16, 8), middle_frames(3, 8)
    ([0, 2, 4, 6, 8, 10, 12, 14], [0, 1, 2, 2, 2, 2, 2, 2])
    """
    edges = np.linspace(0, total, min(count, total) + 1).astype(int)
    chosen = [int(first + end - 1) // 2 for first, end in zip(edges[:-1], edges[1:])]
    return chosen + chosen[-1:] * (count - len(chosen))


def grey_levels(frames: Tensor) -> Tensor:
    """Return frames (N, 3, H, W) as whole grey levels, float32 of 0..255, as a file holds them."""
    return (colour(unit(frames)) * 255).round().clamp(0, 255)


def pictures_for_clip(frames: Tensor) -> Tensor:
    """Prepare frames for CLIP: shorter side 224 by Pillow's bicubic filter, central square.

    Pillow resizes the width first and then the height, antialiased, and rounds to whole
    grey levels after each. This function differs from Pillow by one or two levels in less
    than 2 % of the pixels.
    """
    frames = grey_levels(frames)
    height, width = frames.shape[-2:]
    goal = (224, int(224 * width / height)) if height <= width else (int(224 * height / width), 224)
    for size in ((height, goal[1]), goal):
        if tuple(frames.shape[-2:]) != size:
            frames = interpolate(
                frames, size=size, mode="bicubic", align_corners=False, antialias=True
            )
            frames = frames.round().clamp(0, 255)
    return normalised(middle(frames, 224) / 255, CLIP)


def frames_for_viclip(frames: Tensor) -> Tensor:
    """Prepare frames for ViCLIP: shorter side 224, bicubic without antialiasing, central square.

    The result is rounded to whole grey levels and normalised by CLIP's statistics. VBench
    hands these frames to torchvision as bytes, which torchvision rounds and clamps after
    the bicubic filter.
    """
    resized = shorter_side(grey_levels(frames), 224, "bicubic").round().clamp(0, 255)
    return normalised(middle(resized, 224) / 255, CLIP)


def mask_unknown(rows: Tensor, known: list[bool]) -> Tensor:
    """Set rows (B, ...) to NaN where `known` is false."""
    lost = torch.tensor([not one for one in known], device=rows.device)
    return rows.masked_fill(lost.view(-1, *[1] * (rows.dim() - 1)), torch.nan)

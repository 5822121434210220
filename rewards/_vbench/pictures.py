"""Prepare pictures for VBench's networks as the published code does, to the pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def unit(frames: Tensor) -> Tensor:
    """Return frames as float32 in [0, 1]."""
    return frames.float() if frames.is_floating_point() else frames.float() / 255


def colour(frames: Tensor) -> Tensor:
    """Return frames (N, C, H, W) with three channels; a grey channel is repeated."""
    return frames.expand(-1, 3, -1, -1) if frames.shape[1] == 1 else frames


def shorter_side(
    frames: Tensor, side: int, mode: str = "bilinear", antialias: bool = False
) -> Tensor:
    """Resize frames (N, 3, H, W) so that the shorter side is `side`; keep the aspect.

    The longer side is rounded down.

    >>> shorter_side(torch.zeros(1, 3, 480, 854), 224).shape
    torch.Size([1, 3, 224, 398])
    """
    goal = shorter_to(frames, side)
    return interpolate(frames, size=goal, mode=mode, align_corners=False, antialias=antialias)


def shorter_to(frames: Tensor, side: int) -> tuple[int, int]:
    """Return height and width with the shorter side `side`, the longer one rounded down."""
    height, width = frames.shape[-2:]
    longer = int(side * max(height, width) / min(height, width))
    return (side, longer) if height <= width else (longer, side)


def middle(frames: Tensor, side: int) -> Tensor:
    """Cut out the central square of `side` pixels."""
    top, left = (int(round((length - side) / 2)) for length in frames.shape[-2:])
    return frames[..., top : top + side, left : left + side]


def normalised(frames: Tensor, statistics: tuple[Sequence[float], Sequence[float]]) -> Tensor:
    """Subtract the mean of each channel and divide by its standard deviation."""
    mean, deviation = (
        torch.tensor(values, device=frames.device)[:, None, None] for values in statistics
    )
    return (frames - mean) / deviation


def for_dino(frames: Tensor) -> Tensor:
    """Prepare frames for DINO: shorter side 224, bilinear, ImageNet statistics.

    There is neither antialiasing nor a crop.
    """
    return normalised(shorter_side(frames, 224), IMAGENET)


def square_for_dino(frames: Tensor, antialias: bool = True) -> Tensor:
    """Prepare frames for DINO as a central square of 224 pixels, ImageNet statistics.

    The shorter side is resized to 256 by a bicubic filter, whose result is not clamped.
    """
    return normalised(middle(shorter_side(frames, 256, "bicubic", antialias), 224), IMAGENET)


def image_for_dino(images: Tensor) -> Tensor:
    """Prepare reference images for DINO with Pillow's bicubic filter: 256, then a square of 224."""
    return normalised(middle(by_pillow(images, shorter_to(images, 256)), 224), IMAGENET)


def for_dreamsim(frames: Tensor, antialias: bool = True) -> Tensor:
    """Resize frames to 224 x 224 whatever the aspect, bicubic and not clamped."""
    return interpolate(
        frames, size=(224, 224), mode="bicubic", align_corners=False, antialias=antialias
    )


def image_for_dreamsim(images: Tensor) -> Tensor:
    """Resize reference images to 224 x 224 whatever the aspect, by Pillow's bicubic filter."""
    return by_pillow(images, (224, 224))


def by_pillow(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images in [0, 1] by Pillow's bicubic filter to `size`, (height, width).

    Pillow resizes the width first and then the height, antialiased, and rounds to whole
    grey levels after each.
    """
    images = whole_levels(images)
    for goal in ((images.shape[-2], size[1]), size):
        if tuple(images.shape[-2:]) != goal:
            images = whole_levels(
                interpolate(images, size=goal, mode="bicubic", align_corners=False, antialias=True)
            )
    return images


def whole_levels(frames: Tensor) -> Tensor:
    """Round frames in [0, 1] to the 256 grey levels."""
    return (frames.clamp(0, 1) * 255).round() / 255


def for_clip(frames: Tensor) -> Tensor:
    """Prepare frames for CLIP: shorter side 224, bicubic, central square, CLIP's statistics.

    The filter is neither antialiased nor clamped.
    """
    return normalised(middle(shorter_side(frames, 224, "bicubic"), 224), CLIP)


def for_musiq(frames: Tensor, longest: int = 512) -> Tensor:
    """Shrink frames so that the longer side is at most 512, bilinear, without antialiasing."""
    height, width = frames.shape[-2:]
    if max(height, width) <= longest:
        return frames
    scale = longest / max(height, width)
    return interpolate(
        frames, size=(int(scale * height), int(scale * width)), mode="bilinear", align_corners=False
    )


def for_flow(frames: Tensor) -> Tensor:
    """Return frames in 0..255, padded to a multiple of 8, as RAFT needs."""
    return padded_to(colour(unit(frames)) * 255, 8)


def padded_to(frames: Tensor, multiple: int) -> Tensor:
    """Pad both sides to a multiple by repeating the edges, half on each side.

    >>> padded_to(torch.zeros(1, 3, 30, 33), 8).shape
    torch.Size([1, 3, 32, 40])
    """
    height, width = (-length % multiple for length in frames.shape[-2:])
    if not (height or width):
        return frames
    return pad(
        frames,
        (width // 2, width - width // 2, height // 2, height - height // 2),
        mode="replicate",
    )

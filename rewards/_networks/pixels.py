"""What a network's image processor does to a frame, in torch, batched and differentiable.

Resizing is antialiased with the kernel of PIL (bicubic a = -0.5). PIL rounds to 8 bits
after each of its two passes and this does not: the two differ by up to 1.5 levels of 255,
on average by less than half of one. Beside hard edges it can be a few levels, because
Pillow 13 sometimes resizes the height first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .hub import import_package

OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
MODES = {2: "bilinear", 3: "bicubic"}  # PIL's numbers


@dataclass(frozen=True)
class Pixels:
    """Frames (N, C, H, W) in [0, 1] as a network takes them, (N, 3, h, w).

    `size` is the shorter side, or (height, width); then the middle `crop` is cut out. With
    `pad` the longer side is `size` and black fills the rest. `moments` are mean and
    deviation. `rounded` says how the place of the crop becomes a whole pixel: rounded as
    torchvision does it, or else cut off as transformers does it.
    """

    size: int | tuple[int, int] = 224
    crop: tuple[int, int] | None = (224, 224)
    moments: tuple[tuple[float, ...], tuple[float, ...]] = OPENAI
    mode: str = "bicubic"
    pad: bool = False
    rounded: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        images = three_channels(images)
        images = resize(images, self._target(*images.shape[-2:]), self.mode)
        images = self._padded(images) if self.pad else images
        images = images if self.crop is None else center_crop(images, *self.crop, self.rounded)
        mean, deviation = (torch.tensor(x).to(images)[:, None, None] for x in self.moments)
        return (images - mean) / deviation

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if isinstance(self.size, tuple):
            return self.size
        if self.pad:
            scale = self.size / max(height, width)
            return max(1, round(height * scale)), max(1, round(width * scale))
        if height <= width:
            return self.size, int(self.size * width / height)
        return int(self.size * height / width), self.size

    def _padded(self, images: Tensor) -> Tensor:
        assert isinstance(self.size, int)
        high, wide = self.size - images.shape[-2], self.size - images.shape[-1]
        return functional.pad(images, (wide // 2, wide - wide // 2, high // 2, high - high // 2))


def read_pixels(source: str, default: Pixels) -> Pixels:
    """What the preprocessor_config.json of a local folder or hub id asks for; `default`
    where there is none."""
    import_package("transformers")
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        asked, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except OSError:
        return default
    return pixels_of_config(asked, default)


def pixels_of_config(asked: dict[str, Any], default: Pixels) -> Pixels:
    """The Pixels of a transformers image processor's dictionary.

    A size that is one number, as older files have it, means what `default` does: the
    shorter side, or a square.

    >>> pixels_of_config({"size": {"shortest_edge": 8}, "crop_size": {"height": 6, "width": 4}, "resample": 2}, Pixels())
    Pixels(size=8, crop=(6, 4), moments=((0.48145466, ...), (0.26862954, ...)), mode='bilinear', pad=False, ...)
    """
    size, crop = asked.get("size", default.size), asked.get("crop_size", default.crop)
    mean, deviation = (
        asked.get(f"image_{x}") or default.moments[i] for i, x in enumerate(("mean", "std"))
    )
    square = asked.get("default_to_square", isinstance(default.size, tuple))
    return replace(
        default,
        size=_side(size, square),
        moments=(tuple(mean), tuple(deviation)),
        crop=_pair(crop) if asked.get("do_center_crop", default.crop is not None) else None,
        mode=MODES.get(asked.get("resample", 0), default.mode),
    )


def three_channels(images: Tensor) -> Tensor:
    """(N, 1 or 3, H, W) of any float as (N, 3, H, W), at least float32."""
    images = images if images.dtype == torch.float64 else images.float()
    return images.expand(-1, 3, -1, -1)


def resize(images: Tensor, size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Antialiased resizing as PIL does it: width, then height, each cut at [0, 1] where the
    kernel overshoots."""
    images = images.clamp(0, 1)
    for shape in ((images.shape[-2], size[1]), size):
        if tuple(images.shape[-2:]) != tuple(shape):
            images = functional.interpolate(
                images, size=shape, mode=mode, antialias=True, align_corners=False
            )
            images = images.clamp(0, 1)
    return images


def center_crop(images: Tensor, height: int, width: int, rounded: bool = False) -> Tensor:
    """The middle `height` x `width`, with black around where the images are smaller.

    Where an odd number of rows or columns is left over, the published crops differ by one
    pixel: the offset is half of that number, cut off to a whole number (transformers), or,
    with `rounded`, rounded to the nearest even whole number (torchvision).

    >>> images = torch.arange(7.0).expand(1, 1, 4, 7)
    >>> center_crop(images, 4, 4)[0, 0, 0], center_crop(images, 4, 4, rounded=True)[0, 0, 0]
    (tensor([1., 2., 3., 4.]), tensor([2., 3., 4., 5.]))
    """
    high, wide = max(0, height - images.shape[-2]), max(0, width - images.shape[-1])
    images = functional.pad(
        images, (math.ceil(wide / 2), wide // 2, math.ceil(high / 2), high // 2)
    )
    spare = images.shape[-2] - height, images.shape[-1] - width
    top, left = (round(x / 2) if rounded else x // 2 for x in spare)
    return images[..., top : top + height, left : left + width]


def _side(size: Any, square: bool) -> int | tuple[int, int]:
    if isinstance(size, int):
        return (size, size) if square else size
    if isinstance(size, dict) and "shortest_edge" in size:
        return int(size["shortest_edge"])
    return _pair(size)


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    return (
        (int(size["height"]), int(size["width"]))
        if isinstance(size, dict)
        else (int(size[0]), int(size[1]))
    )

"""Pixels prepares frames as transformers' image processors do, batched and differentiable.

Resizing is antialiased with the kernel of PIL (bicubic a = -0.5). PIL rounds to 8 bits
after each of its two passes, and this code does not: the two differ by up to 1.5 levels of
255, and on average by less than half a level. Near hard edges the difference can be a few
levels, because Pillow 13 sometimes resizes the height first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .hub import import_package

# Mean and standard deviation of the three channels that networks were trained with.
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
MODES = {2: "bilinear", 3: "bicubic"}  # PIL's numbers of the kernels


@dataclass(frozen=True)
class Pixels:
    """A function that maps frames (N, C, H, W) in [0, 1] to a network's input (N, 3, h, w).

    The order is: resize, pad, crop, subtract the mean, divide by the deviation.

    `size` is the shorter side, or (height, width), which changes the shape. With `pad`,
    `size` is the longer side, and black fills the rest of the square. `crop` is the (height,
    width) that is cut out of the middle, or None. `moments` are the mean and the standard
    deviation of each channel. `mode` is the kernel of the resizing, "bilinear" or "bicubic".
    `rounded` says how the place of the crop becomes a whole pixel: rounded as in
    torchvision, or, with False, rounded down as in transformers.
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
        """Return the (height, width) to which a picture is resized."""
        if isinstance(self.size, tuple):
            return self.size
        if self.pad:
            scale = self.size / max(height, width)
            return max(1, round(height * scale)), max(1, round(width * scale))
        # int() and not round(): torchvision and transformers cut off the longer side
        if height <= width:
            return self.size, int(self.size * width / height)
        return int(self.size * height / width), self.size

    def _padded(self, images: Tensor) -> Tensor:
        """Return images with black around them, `size` x `size`."""
        assert isinstance(self.size, int)
        high, wide = self.size - images.shape[-2], self.size - images.shape[-1]
        return functional.pad(images, (wide // 2, wide - wide // 2, high // 2, high - high // 2))


def read_pixels(source: str, default: Pixels) -> Pixels:
    """Return the Pixels of a model: a local folder or a hub id with preprocessor_config.json.

    Return `default` if there is no such file.
    """
    import_package("transformers")
    # The mixin reads the file alone; building the whole processor could need torchvision.
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        config, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except OSError:
        return default
    return pixels_of_config(config, default)


def pixels_of_config(config: dict[str, Any], default: Pixels) -> Pixels:
    """Return the Pixels of the dictionary of a transformers image processor.

    Missing entries are those of `default`. A size that is one number, as in older files,
    means what it means in `default`: the shorter side, or the side of a square.

    >>> pixels_of_config(
    ...     {"size": {"shortest_edge": 8}, "crop_size": {"height": 6, "width": 4}, "resample": 2},
    ...     Pixels(),
    ... )
    Pixels(size=8, crop=(6, 4), moments=((0.48145466, ...), ...), mode='bilinear', ...)
    """
    size, crop = config.get("size", default.size), config.get("crop_size", default.crop)
    mean, deviation = (
        config.get(f"image_{x}") or default.moments[i] for i, x in enumerate(("mean", "std"))
    )
    square = config.get("default_to_square", isinstance(default.size, tuple))
    return replace(
        default,
        size=_side(size, square),
        moments=(tuple(mean), tuple(deviation)),
        crop=_pair(crop) if config.get("do_center_crop", default.crop is not None) else None,
        mode=MODES.get(config.get("resample", 0), default.mode),
    )


def three_channels(images: Tensor) -> Tensor:
    """Return images (N, 1 or 3, H, W) as (N, 3, H, W) in float32, or float64 if given so."""
    images = images if images.dtype == torch.float64 else images.float()
    return images.expand(-1, 3, -1, -1)


def resize(images: Tensor, size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Return images resized to `size` with antialiasing, as PIL resizes them.

    The width is resized first, then the height. After each pass values are clamped to [0,
    1], because a bicubic kernel overshoots near edges and PIL stores bytes in between.
    """
    images = images.clamp(0, 1)
    for shape in ((images.shape[-2], size[1]), size):
        if tuple(images.shape[-2:]) != tuple(shape):
            images = functional.interpolate(
                images, size=shape, mode=mode, antialias=True, align_corners=False
            )
            images = images.clamp(0, 1)
    return images


def center_crop(images: Tensor, height: int, width: int, rounded: bool = False) -> Tensor:
    """Return the middle `height` x `width`, with black around images that are smaller.

    If the number of rows or columns to remove is odd, the published crops differ by one
    pixel: half of that number is rounded down (transformers), or, with `rounded`, rounded
    to the nearest even whole number (torchvision).

    >>> images = torch.arange(7.0).expand(1, 1, 4, 7)
    >>> center_crop(images, 4, 4)[0, 0, 0], center_crop(images, 4, 4, rounded=True)[0, 0, 0]
    (tensor([1., 2., 3., 4.]), tensor([2., 3., 4., 5.]))
    """
    high, wide = max(0, height - images.shape[-2]), max(0, width - images.shape[-1])
    # an odd margin is wider at the left and at the top, as in transformers
    margins = (math.ceil(wide / 2), wide // 2, math.ceil(high / 2), high // 2)
    images = functional.pad(images, margins)
    spare = images.shape[-2] - height, images.shape[-1] - width
    # Python's round() goes to the even number, and so does torchvision, which calls it
    top, left = (round(x / 2) if rounded else x // 2 for x in spare)
    return images[..., top : top + height, left : left + width]


def _side(size: Any, square: bool) -> int | tuple[int, int]:
    """Return the `size` of Pixels for the "size" of an image processor."""
    if isinstance(size, int):
        return (size, size) if square else size
    if isinstance(size, dict) and "shortest_edge" in size:
        return int(size["shortest_edge"])
    return _pair(size)


def _pair(size: Any) -> tuple[int, int]:
    """Return (height, width) of a number, a dictionary or a sequence."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict):
        return int(size["height"]), int(size["width"])
    return int(size[0]), int(size[1])

"""Read an image file as pipelines take it: upright, three channels, white if transparent.

Legend: H W pixels.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vidrl.rewards._files import atomic_file
from vidrl.rewards._files.containers import describe_non_file

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # for some others Pillow starts a program, as for EPS
LARGEST = 2**25  # pixels: 8K, 7680 x 4320, has a little less


class BadPicture(ValueError):
    """Says that a file is no image that can be read; the message names the file and the cure."""


def read(path: str | os.PathLike[str]) -> Tensor:
    """Return an image file as float32 (3, H, W) in [0, 1].

    EXIF rotation is applied, and transparent pixels become white. Raises FileNotFoundError;
    BadPicture for a file that is no image of `FORMATS`, is cut off, is animated, or is
    larger than 8K; ImportError without Pillow.
    """
    import numpy as np

    return torch.from_numpy(np.array(image(path))).permute(2, 0, 1).contiguous().float() / 255


def image(path: str | os.PathLike[str]) -> Image:
    """Return an image file as Pillow's RGB image, which most pipelines take; see `read`."""
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"expected an image, found {describe_non_file(file)} at {file}")
    try:
        return _decoded(file)
    except (BadPicture, MemoryError, ImportError):
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, EOFError, ...
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadPicture(
            f"expected an image ({', '.join(FORMATS)}), could not read {file}: {why}"
        ) from error


def write(path: str | os.PathLike[str], pixels: Tensor) -> None:
    """Write (3, H, W), float in [0, 1], as a PNG file that appears complete."""
    from PIL import Image

    levels = (pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    with atomic_file.new_file(Path(path)) as file:
        Image.fromarray(levels.numpy()).save(file, "PNG")


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Return whether a file's suffix is that of a still image.

    >>> is_picture("cat.PNG"), is_picture("cat.mp4")
    (True, False)
    """
    return Path(path).suffix.lower() in SUFFIXES


def _decoded(file: Path) -> Image:
    """Decode an image file; raise BadPicture for animations and very large images."""
    from PIL import Image

    with Image.open(file, formats=FORMATS) as opened:
        if opened.width * opened.height > LARGEST:
            size = f"{opened.width} x {opened.height}"
            raise BadPicture(
                f"expected an image of up to {LARGEST} pixels, got {size} in {file}: shrink it"
            )
        if opened.format != "MPO" and getattr(
            opened, "is_animated", False
        ):  # MPO: JPEG and preview
            raise BadPicture(
                f"expected an image, got an animation, {file}: save one of its frames as an image"
            )
        opened.load()
        return _rgb(opened)


def _rgb(opened: Image) -> Image:
    """Convert an image to upright RGB on white."""
    from PIL import Image, ImageOps

    image_upright = ImageOps.exif_transpose(opened)
    if image_upright.mode.startswith("I"):  # 16 bits, which Pillow's `convert` cuts off at 255
        image_upright = image_upright.point(lambda level: level / 257).convert("L")
    if "A" in image_upright.getbands() or "transparency" in image_upright.info:
        with_alpha = image_upright.convert("RGBA")
        image_upright = Image.alpha_composite(
            Image.new("RGBA", with_alpha.size, "white"), with_alpha
        )
    return image_upright.convert("RGB")

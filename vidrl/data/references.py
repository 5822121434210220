"""What goes with prompts: read from a table's cells, checked, compared; the images rewards
see.

Legend: B prompts, H W pixels.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidrl.rewards.video import Unreadable, Video

from . import picture
from .prompt import Prompt, is_file, is_text, of, stem

IMAGE = "image"  # the reference that rewards compare a clip with
KEPT = 64  # resized images that are kept: the clips of a group share theirs


def named(cells: Mapping[str, Any]) -> dict[str, str]:
    """The cells of a row that are references, by the names of their columns; empty cells
    are none.

    >>> named({"file_name": "a.mp4", "image": "a.png", "num_frames": 17, "negative_prompt": None})
    {'image': 'a.png'}
    """
    return {
        name: value
        for name, value in cells.items()
        if (is_file(name) or is_text(name)) and value is not None and value != ""
    }


def prompt(text: str, found: Mapping[str, Any], place: Callable[[str], Path]) -> Prompt:
    """A prompt with the references of a row; `place` gives the path of a file that the row
    names.

    Raises ValueError for a value that is no text.
    """
    for name, value in found.items():
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            what = "the path of a file" if is_file(name) else "a text"
            raise ValueError(f"expected {name} to be {what}, got {str(value)[:60]!r}")
    return Prompt(
        text, {name: place(value) if is_file(name) else value for name, value in found.items()}
    )


def faults(asked: str) -> list[str]:
    """Why files of a prompt cannot be used, one line each; an unchanged file is read
    once."""
    files = asked.files if isinstance(asked, Prompt) else {}
    return [
        f"{name}: {why}"
        for name, path in files.items()
        if (why := _fault(stem(name), str(path), _stamp(path)))
    ]


def record(asked: str) -> str | dict[str, str]:
    """A prompt as JSON can hold it: its text, or where something goes with it, all of it by
    name.

    >>> record("a cat"), record(Prompt("a cat", {"image": "cat.png"}))
    ('a cat', {'prompt': 'a cat', 'image': 'cat.png'})
    """
    return {"prompt": str(asked), **of(asked)} if of(asked) else str(asked)


def columns(asked: str) -> dict[str, str]:
    """A prompt's references as columns of a table of clips.

    `reference` is what `vidrl bench` compares a clip with: the image, or else the video.
    The others have their own names. Paths are absolute.

    >>> columns(Prompt("a cat", {"image": "/cat.png", "negative_prompt": "blur"}))
    {'reference': '/cat.png', 'negative_prompt': 'blur'}
    """
    found = {
        name: os.path.abspath(value) if is_file(name) else value
        for name, value in of(asked).items()
    }
    main = next((name for name in (IMAGE, "video") if name in found), "")
    return ({"reference": found.pop(main)} if main else {}) | found


def identity(asked: str) -> str | dict[str, str]:
    """The same with the SHA-256 of files in place of their paths, which differ among
    machines."""
    if not isinstance(asked, Prompt) or not asked.references:
        return str(asked)
    digests = {name: _sha256(str(path), _stamp(path)) for name, path in asked.files.items()}
    return {"prompt": str(asked), **asked.texts, **digests}


def key(asked: str) -> str:
    """A text by which a checkpoint can name a prompt: its own, or JSON of its
    `identity`."""
    found = identity(asked)
    return found if isinstance(found, str) else json.dumps(found, sort_keys=True)


def without_folders(asked: str) -> str:
    """A prompt whose files are named without their folders: the same after files were
    moved."""
    return Prompt(
        asked,
        {
            name: os.path.basename(value) if is_file(name) else value
            for name, value in of(asked).items()
        },
    )


def images(
    asked: Sequence[str], height: int, width: int, device: torch.device | str = "cpu"
) -> Tensor | None:
    """The images of prompts, (B, 1, 3, H, W) in [0, 1], of the clips' size; None if none
    has one.

    This is the `reference` of `vidrl.rewards.Samples`. Images are stretched to the size, as
    pipelines resize them. The image of a prompt that has none is NaN, so that the rewards
    that need it leave that clip unscored.
    """
    if not any(IMAGE in of(one) for one in asked):
        return None
    images_of_prompts = [_image(of(one).get(IMAGE, ""), height, width) for one in asked]
    return torch.stack(images_of_prompts)[:, None].to(device)


def shown(asked: str, path: Path, height: int, width: int) -> dict[str, Any]:
    """What a row of a run folder says of a prompt's references.

    The image is written to `path`, a .png, as rewards see it. A prompt without references
    has none of these keys.
    """
    found: dict[str, Any] = {"references": dict(of(asked))} if of(asked) else {}
    if IMAGE not in of(asked):
        return found
    picture.write(path, _image(of(asked)[IMAGE], height, width))
    return found | {"reference": path.name}


def _image(path: str, height: int, width: int) -> Tensor:
    if not path:
        return torch.full((3, height, width), float("nan"))
    return _resized(path, _stamp(Path(path)), height, width)


@lru_cache(maxsize=KEPT)
def _resized(path: str, stamp: tuple[int, int], height: int, width: int) -> Tensor:
    full = picture.read(path)[None]
    if full.shape[-2:] == (height, width):
        return full[0]
    resized = torch.nn.functional.interpolate(full, (height, width), mode="bicubic", antialias=True)
    return resized[0].clamp(0, 1)


@cache
def _fault(kind: str, path: str, stamp: tuple[int, int]) -> str:
    """Why a file is not what the last word of its name asks for, image or video; "" if it
    is."""
    try:
        if kind in ("image", "images") or kind == "mask" and picture.is_picture(path):
            picture.image(path)
        elif not picture.is_picture(path):
            Video(path)
        else:
            return f"expected a video, got the image {path}"
    except FileNotFoundError:
        return f"there is no file {path}"
    except (picture.BadPicture, Unreadable, OSError) as error:
        return str(error)
    return ""


@cache
def _sha256(path: str, stamp: tuple[int, int]) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    """When a file was changed, and its size: a file is read again where these differ."""
    try:
        stat = os.stat(path)
    except OSError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size

"""Read, check and compare the references of prompts, and prepare images for rewards.

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
KEPT = 64  # number of resized images in the cache: the clips of a group share an image


def named(cells: Mapping[str, Any]) -> dict[str, str]:
    """Return the cells of a row that are references, by column name; empty cells are left out.

    >>> named({"file_name": "a.mp4", "image": "a.png", "num_frames": 17, "negative_prompt": None})
    {'image': 'a.png'}
    """
    return {
        name: value
        for name, value in cells.items()
        if (is_file(name) or is_text(name)) and value is not None and value != ""
    }


def prompt(text: str, found: Mapping[str, Any], place: Callable[[str], Path]) -> Prompt:
    """Return a prompt with the references of a row; `place` resolves the path of a named file.

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
    """Return why files of a prompt cannot be used, one line each; unchanged files are read once."""
    files = asked.files if isinstance(asked, Prompt) else {}
    return [
        f"{name}: {why}"
        for name, path in files.items()
        if (why := _fault(stem(name), str(path), _stamp(path)))
    ]


def record(asked: str) -> str | dict[str, str]:
    """Return a prompt for JSON: its text, or with references a dictionary of all by name.

    >>> record("a cat"), record(Prompt("a cat", {"image": "cat.png"}))
    ('a cat', {'prompt': 'a cat', 'image': 'cat.png'})
    """
    return {"prompt": str(asked), **of(asked)} if of(asked) else str(asked)


def columns(asked: str) -> dict[str, str]:
    """Return a prompt's references as columns of a table of clips.

    `reference` is the file with which `vidrl bench` compares a clip: the image, else the
    video. The others have their own names. Paths are absolute.

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
    """Return a prompt as `record` does, with the SHA-256 of files instead of their paths.

    Paths differ among machines, contents do not.
    """
    if not isinstance(asked, Prompt) or not asked.references:
        return str(asked)
    digests = {name: _sha256(str(path), _stamp(path)) for name, path in asked.files.items()}
    return {"prompt": str(asked), **asked.texts, **digests}


def key(asked: str) -> str:
    """Return a text by which a checkpoint names a prompt: its text, or JSON of its `identity`."""
    found = identity(asked)
    return found if isinstance(found, str) else json.dumps(found, sort_keys=True)


def without_folders(asked: str) -> str:
    """Return a prompt whose files have no folders: it stays the same if files are moved."""
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
    """Return the images of prompts, (B, 1, 3, H, W) in [0, 1], or None if no prompt has one.

    This is the `reference` of `vidrl.rewards.Samples`. Images are stretched to the clips'
    size, as pipelines resize them. The image of a prompt without one is NaN, so that
    rewards that need it leave that clip unscored.
    """
    if not any(IMAGE in of(one) for one in asked):
        return None
    images_of_prompts = [_image(of(one).get(IMAGE, ""), height, width) for one in asked]
    return torch.stack(images_of_prompts)[:, None].to(device)


def shown(asked: str, path: Path, height: int, width: int) -> dict[str, Any]:
    """Return what a row of a run folder stores of a prompt's references.

    The image is written to `path`, a .png, as rewards see it. For a prompt without
    references the result is empty.
    """
    found: dict[str, Any] = {"references": dict(of(asked))} if of(asked) else {}
    if IMAGE not in of(asked):
        return found
    picture.write(path, _image(of(asked)[IMAGE], height, width))
    return found | {"reference": path.name}


def _image(path: str, height: int, width: int) -> Tensor:
    """Return a resized image, or NaN without a path."""
    if not path:
        return torch.full((3, height, width), float("nan"))
    return _resized(path, _stamp(Path(path)), height, width)


@lru_cache(maxsize=KEPT)
def _resized(path: str, stamp: tuple[int, int], height: int, width: int) -> Tensor:
    """Return an image at a size; the last few are cached."""
    full = picture.read(path)[None]
    if full.shape[-2:] == (height, width):
        return full[0]
    resized = torch.nn.functional.interpolate(full, (height, width), mode="bicubic", antialias=True)
    return resized[0].clamp(0, 1)


@cache
def _fault(kind: str, path: str, stamp: tuple[int, int]) -> str:
    """Return why a file is not the image or video that `kind` asks for; "" if it is."""
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
    """Return the SHA-256 of a file's content; cached while its stamp stays the same."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    """Return a file's modification time and size: a cache reads the file again if they differ."""
    try:
        stat = os.stat(path)
    except OSError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size

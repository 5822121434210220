"""Load what accompanies a prompt into a pipeline's call: pictures, films and texts.

References are named after the keyword arguments of the call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vidrl.data import picture
from vidrl.data.prompt import Prompt, is_file, of, stem

Size = tuple[int, int] | None  # height and width, None where the pipeline does not say
GREY = 0.5


def load(prompt: str, size: Size) -> dict[str, Any]:
    """Return the references of a prompt as a pipeline takes them.

    Pictures become PIL images of the clip's size, films lists of such images; texts stay
    texts.
    """
    return {name: _value(prompt, name, size) for name in of(prompt)}


@contextmanager
def explained(pipeline: str, prompt: str, needs: Sequence[str]) -> Iterator[None]:
    """Raise ValueError, with what to change, where a pipeline refuses a prompt's references.

    `needs`: the references that every prompt must have. vidrl's own errors stay as they are.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith("expected "):
            raise
        given = list(of(prompt))
        extra = [name for name in given if name not in needs] or given
        raise ValueError(
            f"expected references that {pipeline} runs with, got {str(prompt)[:60]!r} with "
            f"{', '.join(given)}: {type(error).__name__}: {str(error).strip()[:200].rstrip('.')}: "
            f"take {', '.join(extra)} out of the prompt file, or use a model that takes it"
        ) from error


def with_loaded_files(call: Mapping[str, Any], size: Size) -> dict[str, Any]:
    """Return a call's arguments with each path of a picture or film replaced by its content."""
    files = {
        name: value for name, value in call.items() if is_file(name) and isinstance(value, str)
    }
    return {**call, **load(Prompt("", files), size)}


def _value(prompt: str, name: str, size: Size) -> Any:
    """Return one reference as the pipeline takes it."""
    assert isinstance(prompt, Prompt)
    if not is_file(name):
        return prompt.references[name]
    if stem(name) == "video":
        return [_resized(image(frame), size) for frame in prompt.film(name)]
    return _resized(picture.image(prompt.references[name]), size)


def image(pixels: Tensor) -> Any:
    """Convert pixels (3, H, W) in [0, 1] to a PIL image."""
    from PIL import Image

    levels = (pixels.clamp(0, 1) * 255).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


def _resized(found: Any, size: Size) -> Any:
    """Resize an image with the filter that diffusers' processors use."""
    if size is None or found.size == (size[1], size[0]):
        return found
    from PIL import Image

    return found.resize((size[1], size[0]), Image.Resampling.LANCZOS)


def identity(references: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return a hashable value that is equal for equal references only."""
    return tuple((name, _bytes(value)) for name, value in sorted(references.items()))


def _bytes(value: Any) -> Any:
    """Return the size and the pixels of a picture, of each picture of a film, or the text."""
    if isinstance(value, list):
        return tuple(_bytes(each) for each in value)
    return (value.size, value.tobytes()) if hasattr(value, "tobytes") else value


def grey_references(
    call_parameters: Mapping[str, Any], size: Size, frames: int
) -> Iterator[dict[str, Any]]:
    """Yield grey references to try in a dry run: none first, then the likely ones."""
    grey = image(torch.full((3, *(size or (64, 64))), GREY))
    names = [name for name in call_parameters if is_file(name)]
    values = {name: [grey] * frames if stem(name) == "video" else grey for name in names}
    usual_names = [name for name in ("image", "video") if name in names]
    masks = [name for name in names if "mask" in name.split("_")]
    yield {}
    for name in usual_names:
        yield {name: values[name]}
        if masks:
            yield {key: values[key] for key in (name, *masks)}
    if len(names) > len(usual_names):
        yield values

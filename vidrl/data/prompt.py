"""Define a prompt: a text with references, such as the image of image-to-video.

Legend: F frames, H W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from torch import Tensor

from . import picture

FILES = ("image", "images", "video", "mask")  # the last word in the name of a file's argument
TEXT = "prompt"  # the last word in the name of a text's argument, as negative_prompt


class Prompt(str):
    """A prompt is a `str` with `references`: further inputs, by the pipeline's argument names.

    A reference is the path of a file (`image`, `last_image`, `video`, `mask_image`, ...) or
    a text (`negative_prompt`, `prompt_2`, ...); `is_file` decides by the name. Two prompts
    are equal if their texts and their references are; a prompt without references equals
    its text. A prompt cannot be changed; copies and pickles keep the references. The
    methods of `str`, as in `prompt + "!"` and `str(prompt)`, return a plain text. Raises
    ValueError for a reference of another name, or one that is neither a path nor a text.

    >>> prompt = Prompt("a cat runs", {"image": "cat.png"})
    >>> prompt.upper(), prompt.references["image"]
    ('A CAT RUNS', 'cat.png')
    >>> prompt == "a cat runs", Prompt("a cat runs") == "a cat runs"
    (False, True)
    """

    references: Mapping[str, str]

    def __new__(
        cls, text: str, references: Mapping[str, str | os.PathLike[str]] | None = None
    ) -> Prompt:
        created = super().__new__(cls, text)
        references = of(text) if references is None else references
        for name, value in references.items():
            _check(name, value)
        ordered = {name: os.fspath(references[name]) for name in sorted(references)}
        object.__setattr__(created, "references", MappingProxyType(ordered))
        return created

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str):
            return NotImplemented
        return str(self) == str(other) and dict(self.references) == dict(of(other))

    def __ne__(self, other: object) -> bool:  # str.__ne__ would ignore the `__eq__` above
        return not self == other

    def __hash__(self) -> int:
        references = self.references
        return hash((str(self), *references.items())) if references else str.__hash__(self)

    def __repr__(self) -> str:
        references = dict(self.references)
        return f"Prompt({str(self)!r}, {references!r})" if references else repr(str(self))

    def __reduce__(self) -> tuple[type[Prompt], tuple[str, dict[str, str]]]:
        return type(self), (str(self), dict(self.references))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(
            "a prompt cannot be changed: make another one, Prompt(text, references)"
        )

    def __delattr__(self, name: str) -> NoReturn:
        self.__setattr__(name, None)

    @property
    def files(self) -> dict[str, Path]:
        """The references that are files."""
        return {name: Path(value) for name, value in self.references.items() if is_file(name)}

    @property
    def texts(self) -> dict[str, str]:
        """The references that are texts."""
        return {name: value for name, value in self.references.items() if not is_file(name)}

    def picture(self, name: str = "image") -> Tensor:
        """Return the image of that name, float32 (3, H, W) in [0, 1].

        EXIF rotation is applied, and transparent pixels become white. Raises KeyError if
        the prompt has no such file, and the errors of `vidrl.data.picture.read`.
        """
        return picture.read(self._file(name))

    def film(self, name: str = "video") -> Tensor:
        """Return the frames of the video of that name, float32 (F, 3, H, W) in [0, 1].

        An image is a video of one frame. Raises KeyError if the prompt has no such file,
        and the errors of `vidrl.rewards.video.read`.
        """
        from vidrl.rewards.video import read

        path = self._file(name)
        return picture.read(path)[None] if picture.is_picture(path) else read(path)[0].float() / 255

    def _file(self, name: str) -> Path:
        """Return the path of a file reference; raise KeyError if there is none."""
        if name not in self.files:
            known = ", ".join(self.files) or "none"
            raise KeyError(
                f"expected a prompt with the file {name!r}; the files of {str(self)!r} are: {known}"
            )
        return self.files[name]


def of(prompt: str) -> Mapping[str, str]:
    """Return the references of a prompt; a plain text has none.

    >>> dict(of("a cat")), dict(of(Prompt("a cat", {"image": "cat.png"})))
    ({}, {'image': 'cat.png'})
    """
    return prompt.references if isinstance(prompt, Prompt) else {}


def stem(name: str) -> str:
    """Return the last word of an argument's name, without a number.

    >>> stem("last_image"), stem("negative_prompt_2"), stem("num_frames")
    ('image', 'prompt', 'frames')
    """
    words = [word for word in name.split("_") if not word.isdigit()]
    return words[-1] if words else ""


def is_file(name: str) -> bool:
    """Return whether a reference of that name is a file; the name's last word decides.

    >>> names = ("image", "last_image", "control_video", "negative_prompt", "image_width")
    >>> [name for name in names if is_file(name)]
    ['image', 'last_image', 'control_video']
    """
    return stem(name) in FILES


def is_text(name: str) -> bool:
    """Return whether a reference of that name is a text.

    The name `prompt` is the prompt itself, and so no reference.

    >>> names = ("image", "negative_prompt", "prompt_2", "prompt", "seed")
    >>> [name for name in names if is_text(name)]
    ['negative_prompt', 'prompt_2']
    """
    return stem(name) == TEXT and name != TEXT


def _check(name: object, value: object) -> None:
    """Raise ValueError for a reference of another name or another type."""
    if not isinstance(name, str) or not (is_file(name) or is_text(name)):
        raise ValueError(
            "expected the name of a pipeline's argument as the name of a reference, "
            f"ending in {', '.join(FILES)} (a file) or {TEXT} (a text), got {name!r}"
        )
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        what = "the path of a file" if is_file(name) else "a text"
        raise ValueError(f"expected {what} as the reference {name}, got {value!r}")

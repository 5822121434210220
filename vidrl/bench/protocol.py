"""How a file becomes the clip that is measured: which frames, how large, read by what.
Numbers of two protocols never meet.

Shapes: F frames, C channels, H W pixels.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

RATE_ROUNDING = 0.002  # rates that differ by less differ by rounding alone
SAME_RATE = (
    0.02  # rates that differ by less are one: containers round time stamps, and 23.976 is 24
)


def video_reader() -> str:
    """What reads video files here, with its version: PyAV where it is installed, else
    decord."""
    for name, package in (("PyAV", "av"), ("decord", "decord")):
        try:
            return f"{name} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "none"


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no blanks, whole floats as integers.

    >>> canonical({"b": 1.0, "a": [0.5, "x"]})
    '{"a":[0.5,"x"],"b":1}'
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any, digits: int = 12) -> str:
    """The first hex digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:digits]


@dataclass(frozen=True)
class Protocol:
    """`fps`: brought near this rate by keeping every frame, every second, every third ...,
    0 as they come. `side`: the shorter side shrunk to it, antialiased, 0 as it is.
    `frames`: at most so many from the start, 0 all. `decoder`: what reads.

    Frames are left out evenly, so that even motion stays even: the frame nearest to each
    moment of another rate would come too early and too late by turns. None is repeated or
    made up, and pictures are shrunk, never enlarged: what is slower, smaller or shorter
    stays as it is. Raises ValueError for a number below 0.

    >>> Protocol(decoder="decord 0.6.0").hash, Protocol(fps=8, decoder="decord 0.6.0").hash
    ('66107efa9ada', '84d24c0c6770')
    """

    fps: float = 0.0
    side: int = 0
    frames: int = 0
    decoder: str = field(default_factory=video_reader)

    def __post_init__(self) -> None:
        for name in ("fps", "side", "frames"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(
                    f"expected the protocol's {name} to be 0 (as it comes) or more, got {value!r}"
                )

    @property
    def hash(self) -> str:
        """12 hex digits of all of it."""
        return digest(self._facts())

    def to_dict(self) -> dict[str, Any]:
        """As results.json says it."""
        return self._facts() | {"hash": self.hash}

    def stride(self, fps: float) -> int:
        """Every so many frames of a clip of `fps` one is measured: the whole number whose
        rate is nearest, by ratio.

        >>> [Protocol(fps=8.0).stride(fps) for fps in (6.0, 8.0, 16.0, 24.0, 25.0, 30.0)]
        [1, 1, 2, 3, 3, 4]
        """
        times = fps / self.fps if self.fps else 1.0
        if times <= 1 + SAME_RATE:
            return 1
        below = math.floor(times)
        return below if times * times <= below * (below + 1) else below + 1

    def rate(self, fps: float) -> float:
        """The frames a second that a clip of `fps` is measured at; `self.fps` where only
        rounding parts them.

        >>> Protocol(fps=8.0).rate(24.004), round(Protocol(fps=8.0).rate(25.0), 2)
        (8.0, 8.33)
        """
        kept = fps / self.stride(fps)
        return float(self.fps) if self.fps and abs(kept / self.fps - 1) < RATE_ROUNDING else kept

    def chosen(self, count: int, fps: float) -> list[int]:
        """The numbers of the frames that are measured, of a clip of `count` frames at
        `fps`."""
        return list(range(0, count, self.stride(fps)))[: self.frames or None]

    def small(self, frames: Tensor) -> Tensor:
        """Frames (F, C, H, W) at the size that they are measured at; bytes stay bytes."""
        from vidrl.rewards.flow import shrunk

        return shrunk(frames[None], self.side)[0] if self.side else frames

    def _facts(self) -> dict[str, Any]:
        # results of frames chosen by time stamps do not compare
        chosen = {"chosen": "evenly"} if self.fps else {}
        return {
            "fps": _plain(self.fps),
            "side": self.side,
            "frames": self.frames,
            "decoder": self.decoder,
            **chosen,
        }


def selected_frames(pieces: Iterable[Tensor], chosen: Sequence[int]) -> Iterator[Tensor]:
    """Of the pieces (F, C, H, W) of a clip, the frames chosen; it stops reading after the
    last."""
    start, wanted = 0, sorted(chosen)
    for piece in pieces:
        inside = [t - start for t in wanted if start <= t < start + len(piece)]
        start += len(piece)
        if inside:
            yield piece if len(inside) == len(piece) else piece[inside]
        if not wanted or start > wanted[-1]:
            return


def _plain(value: Any) -> Any:
    """Tuples as lists, whole floats as integers: what TOML, Python and JSON write in
    different ways."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    whole = isinstance(value, float) and math.isfinite(value) and value == int(value)
    return int(value) if whole else value

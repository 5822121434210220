"""The protocol: how a file becomes the clip that is measured.

The protocol says which frames are kept, at which size, and which library decodes them.
Numbers that were measured under two different protocols are never compared.

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

RATE_ROUNDING = 0.002  # relative; rates that differ by less differ only by rounding
# Relative; rates that differ by less count as equal: containers round time stamps, and
# 23.976 frames a second count as 24.
SAME_RATE = 0.02


def video_reader() -> str:
    """Return the name and version of the library that decodes videos: PyAV, else decord.

    "none" if neither is installed.
    """
    for name, package in (("PyAV", "av"), ("decord", "decord")):
        try:
            return f"{name} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "none"


def canonical(value: Any) -> str:
    """Return a JSON text that is equal for equal values.

    Keys are sorted, there are no blanks, and whole floats are written as integers, so that
    TOML's 8.0 and Python's 8 give one hash.

    >>> canonical({"b": 1.0, "a": [0.5, "x"]})
    '{"a":[0.5,"x"],"b":1}'
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any, digits: int = 12) -> str:
    """Return the first hex digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:digits]


@dataclass(frozen=True)
class Protocol:
    """The frame rate, size and length at which clips are measured, and the decoder.

    - `fps`: frames are left out until the rate is near this one; 0 keeps all frames.
    - `side`: the shorter side of the picture is shrunk to it, antialiased; 0 keeps the
      size.
    - `frames`: at most so many frames are measured, from the start; 0 measures all.
    - `decoder`: name and version of the library that decodes.

    Every n-th frame is kept, with one n for the whole clip, so that even motion stays even.
    Taking the frame nearest to each time of the target rate would make gaps of alternating
    length, which motion rewards would see as jerks. No frame is repeated or interpolated,
    and pictures are only shrunk: a clip that is slower, smaller or shorter stays as it is.

    Raises ValueError for a number below 0.

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
        """Return 12 hex digits that identify the protocol."""
        return digest(self._facts())

    def to_dict(self) -> dict[str, Any]:
        """Return the protocol as results.json stores it."""
        return self._facts() | {"hash": self.hash}

    def stride(self, fps: float) -> int:
        """Return n: every n-th frame of a clip of `fps` is measured.

        n is the integer for which the ratio between fps / n and the protocol's rate is
        nearest to 1.

        >>> [Protocol(fps=8.0).stride(fps) for fps in (6.0, 8.0, 16.0, 24.0, 25.0, 30.0)]
        [1, 1, 2, 3, 3, 4]
        """
        ratio = fps / self.fps if self.fps else 1.0
        if ratio <= 1 + SAME_RATE:
            return 1
        floor = math.floor(ratio)
        # floor and floor + 1 are equally far from the ratio, as factors, at the geometric
        # mean √(floor (floor + 1)).
        return floor if ratio * ratio <= floor * (floor + 1) else floor + 1

    def rate(self, fps: float) -> float:
        """Return the frames a second at which a clip of `fps` is measured.

        If this rate differs from the protocol's only by rounding, the protocol's is
        returned.

        >>> Protocol(fps=8.0).rate(24.004), round(Protocol(fps=8.0).rate(25.0), 2)
        (8.0, 8.33)
        """
        kept = fps / self.stride(fps)
        return float(self.fps) if self.fps and abs(kept / self.fps - 1) < RATE_ROUNDING else kept

    def chosen(self, count: int, fps: float) -> list[int]:
        """Return the indices of the frames to measure, for a clip of `count` frames at `fps`."""
        return list(range(0, count, self.stride(fps)))[: self.frames or None]

    def small(self, frames: Tensor) -> Tensor:
        """Resize frames (F, C, H, W) to the size at which they are measured; bytes stay bytes."""
        from vidrl.rewards.flow import shrunk

        return shrunk(frames[None], self.side)[0] if self.side else frames

    def _facts(self) -> dict[str, Any]:
        """Return the facts that the hash identifies."""
        # Earlier versions chose frames by time stamps. The entry changes the hash, so that
        # their results are not compared with these.
        chosen = {"chosen": "evenly"} if self.fps else {}
        return {
            "fps": _plain(self.fps),
            "side": self.side,
            "frames": self.frames,
            "decoder": self.decoder,
            **chosen,
        }


def selected_frames(pieces: Iterable[Tensor], chosen: Sequence[int]) -> Iterator[Tensor]:
    """Yield the selected frames from the pieces (F, C, H, W) of a clip.

    Reading stops after the last selected frame, so that the rest of a long file is not
    decoded.
    """
    start, wanted = 0, sorted(chosen)
    for piece in pieces:
        indices = [t - start for t in wanted if start <= t < start + len(piece)]
        start += len(piece)
        if indices:
            yield piece if len(indices) == len(piece) else piece[indices]
        if not wanted or start > wanted[-1]:
            return


def _plain(value: Any) -> Any:
    """Convert tuples to lists and whole floats to integers, at any depth.

    TOML, Python and JSON write the same value in these different ways.
    """
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    is_whole = isinstance(value, float) and math.isfinite(value) and value == int(value)
    return int(value) if is_whole else value

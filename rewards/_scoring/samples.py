"""Samples are what rewards read: clips, their prompts and their frame rate.

Shapes: B clips, F frames, C channels, H W height and width.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from .._flow.images import shrunk
from .checks import AXES, check_fps, check_meta, check_prompts, check_reference, check_video

Result = TypeVar("Result")


@dataclass(frozen=True)
class Samples:
    """A batch of clips, with their prompts and their frame rate.

    - `video` (B, F, C, H, W), float in [0, 1] or uint8, C = 1 or 3; an image has F = 1.
    - `prompts`: one string for each clip.
    - `fps`: frames per second.
    - `reference` (B, F', C, H, W): what the generator was conditioned on, such as an image.
    - `meta`: one mapping for each clip, or empty.

    Raises ValueError for another shape, type or range.

    >>> Samples(torch.zeros(1, 5, 3, 16, 16), ["a circle"], fps=8.0).frames.dtype
    torch.float32
    """

    video: Tensor
    prompts: Sequence[str]
    fps: float
    reference: Tensor | None = None
    meta: Sequence[Mapping[str, Any]] = ()
    _memo: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _pixels: _Pixels = field(init=False, repr=False, compare=False)
    # which frames are finite, bool (B, F) on the CPU
    _finite: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_finite", check_video(self.video, "video"))
        check_prompts(self.prompts, len(self.video))
        check_fps(self.fps)
        object.__setattr__(self, "fps", float(self.fps))
        if self.reference is not None:
            check_reference(self.reference, self.video)
        check_meta(self.meta, len(self.video))
        # half precision is too coarse for differences between frames; decoders may return it
        if self.video.dtype in (torch.float16, torch.bfloat16):
            object.__setattr__(self, "video", self.video.float())
        object.__setattr__(self, "_pixels", _Pixels(self.video))

    def __len__(self) -> int:
        return len(self.video)

    @property
    def frames(self) -> Tensor:
        """Return the clips as float in [0, 1], (B, F, C, H, W)."""
        if self.video.is_floating_point():
            return self.video
        return self.memo("frames", lambda: self.video.float() / 255)

    def small(self, size: int) -> Tensor:
        """Return the clips shrunk to a shorter side of at most `size`.

        Bytes stay bytes on the CPU. The clips are shrunk once for all rewards.
        """
        return self._pixels.small(size)

    @property
    def about(self) -> About:
        """Return the facts about the clips other than their pixels."""
        return About(
            self.prompts,
            self.fps,
            (self.video.shape[-1], self.video.shape[-2]),
            self.reference,
            self.meta,
        )

    def memo(self, key: Any, make: Callable[[], Result]) -> Result:
        """Return the result of `make()`, kept under `key`.

        So several rewards compute the flow of a clip only once. The result is kept as long
        as these samples. It must not refer to them: the reference cycle would keep the
        video in memory until Python's cyclic garbage collector runs, which on a GPU may be
        after memory has run out.
        """
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def phases(self, stride: int) -> list[Samples]:
        """Return the clips as `stride` interleaved clips of a lower frame rate.

        The first holds frames 0, stride, 2 stride ..., the second frames 1, stride + 1 ...

        >>> video = torch.arange(5.0).view(1, 5, 1, 1, 1).expand(1, 5, 1, 8, 8) / 5
        >>> phases = Samples(video, [""], 24.0).phases(3)
        >>> [phase.video[0, :, 0, 0, 0].mul(5).tolist() for phase in phases]
        [[0.0, 3.0], [1.0, 4.0], [2.0]]
        """
        if stride == 1:
            return [self]
        return self.memo(
            ("phases", stride), lambda: [self.every(stride, start) for start in range(stride)]
        )

    def every(self, stride: int, start: int) -> Samples:
        """Return frames start, start + stride ... of the clips, at a lower frame rate."""
        video, finite = self.video[:, start::stride], self._finite[:, start::stride]
        pixels = _Pixels(video, self._pixels, stride, start)
        return _unchecked(
            video, self.prompts, self.fps / stride, self.reference, self.meta, finite, pixels
        )

    def pick(self, rows: Sequence[int]) -> Samples:
        """Return the clips `rows` only.

        The same rows give the same object, so that rewards share what is memoised for it.
        """
        if list(rows) == list(range(len(self))):
            return self
        return self.memo(("pick", tuple(rows)), lambda: self._rows(list(rows)))

    def to(self, device: torch.device | str) -> Samples:
        """Return the same samples with their tensors on `device`."""
        reference = None if self.reference is None else self.reference.to(device)
        return _unchecked(
            self.video.to(device), self.prompts, self.fps, reference, self.meta, self._finite
        )

    def pieces(self, size: int) -> Iterator[Samples]:
        """Yield the clips in pieces of at most `size` clips.

        The pieces are not memoised, so what is memoised for a piece is freed with it.

        >>> [len(piece) for piece in Samples(torch.zeros(5, 3, 1, 8, 8), [""] * 5, 8.0).pieces(2)]
        [2, 2, 1]
        """
        rows = range(len(self))
        return (self._rows(list(rows[start : start + size])) for start in range(0, len(self), size))

    def broken(self, first: int = 0) -> list[int | None]:
        """Return for each clip the number of its first frame with NaN or infinity, or None.

        Frames are counted from `first`.
        """
        bad = ~self._finite
        return [first + int(row.nonzero()[0]) if row.any() else None for row in bad]

    def _rows(self, rows: list[int]) -> Samples:
        """Return the clips `rows`, not memoised."""
        at = _index(rows)
        reference = None if self.reference is None else self.reference[at]
        meta = [self.meta[i] for i in rows] if len(self.meta) else ()
        prompts, finite = [self.prompts[i] for i in rows], self._finite[at]
        return _unchecked(self.video[at], prompts, self.fps, reference, meta, finite)


def _unchecked(
    video: Tensor,
    prompts: Sequence[str],
    fps: float,
    reference: Tensor | None,
    meta: Sequence[Mapping[str, Any]],
    finite: Tensor,
    pixels: _Pixels | None = None,
) -> Samples:
    """Return Samples of clips that were checked before, without checking them again.

    A check reads every pixel, which takes time, so `__post_init__` is not called.
    """
    samples = object.__new__(Samples)
    values = {
        "video": video,
        "prompts": prompts,
        "fps": fps,
        "reference": reference,
        "meta": meta,
        "_memo": {},
        "_pixels": pixels or _Pixels(video),
        "_finite": finite,
    }
    for name, value in values.items():
        object.__setattr__(samples, name, value)
    return samples


class _Pixels:
    """Clips and their shrunk copies, which Samples and their phases share.

    A phase holds every `stride`-th frame of the clips `source`, from frame `start` on, and
    takes its shrunk copies from `source`. This class refers to no Samples: a phase that
    referred to the Samples that memoise it would make a reference cycle, and keep its video
    in memory.
    """

    def __init__(
        self, video: Tensor, source: _Pixels | None = None, stride: int = 1, start: int = 0
    ) -> None:
        self.video, self.source = video, source
        self.stride, self.start = stride, start
        self.shrunk: dict[int, Tensor] = {}

    def small(self, size: int) -> Tensor:
        """Return the clips with their shorter side at most `size`."""
        if self.source is not None:
            return self.source.small(size)[:, self.start :: self.stride]
        if size not in self.shrunk:
            self.shrunk[size] = shrunk(self.video, size)
        return self.shrunk[size]


def _index(rows: list[int]) -> slice | list[int]:
    """Return neighbouring rows as a slice, which copies no video; other rows unchanged.

    >>> _index([2, 3]), _index([0, 2])
    (slice(2, 4, None), [0, 2])
    """
    if rows and rows[0] >= 0 and rows == list(range(rows[0], rows[0] + len(rows))):
        return slice(rows[0], rows[0] + len(rows))
    return rows


@dataclass(frozen=True)
class About:
    """The facts about clips other than their pixels, which `Reward.terms_of_clip` reads.

    `size` is (width, height).
    """

    prompts: Sequence[str]
    fps: float
    size: tuple[int, int]
    reference: Tensor | None = None
    meta: Sequence[Mapping[str, Any]] = ()


def check_samples(samples: Any) -> None:
    """Raise ValueError with the cure for what is not Samples."""
    if isinstance(samples, Samples):
        return
    cure = "pass Samples(video, prompts, fps=16.0)"
    if isinstance(samples, Tensor):
        cure = f'pass Samples(video, [""] * len(video), fps=16.0) of a video {AXES}'
    elif _paths(samples):
        cure = "vidrl.rewards.score(paths, reward) reads files"
    got = (
        f"a tensor of shape {tuple(samples.shape)}"
        if isinstance(samples, Tensor)
        else type(samples).__name__
    )
    raise ValueError(
        "expected Samples, which hold the clips, their prompts and their frame rate, "
        f"got {got}: {cure}"
    )


def _paths(value: Any) -> bool:
    """Return whether a value is a path or a list of paths."""
    first = value[0] if isinstance(value, list | tuple) and value else value
    return isinstance(first, str | os.PathLike)

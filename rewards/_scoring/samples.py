"""What rewards read: clips, their prompts and their frame rate.

Shapes: B batch, F frames, C channels, H W height and width.
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

Made = TypeVar("Made")


@dataclass(frozen=True)
class Samples:
    """What was made: clips, their prompts and their frame rate.

    `video` is (B, F, C, H, W), float in [0, 1] or uint8, C = 1 or 3; an image has F = 1.
    `reference` (B, F', C, H, W) is what the generator was conditioned on. Raises ValueError
    where a shape, type or range is not that.

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
    # which frames are, bool (B, F) on the CPU
    _finite: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_finite", check_video(self.video, "video"))
        check_prompts(self.prompts, len(self.video))
        check_fps(self.fps)
        object.__setattr__(self, "fps", float(self.fps))
        if self.reference is not None:
            check_reference(self.reference, self.video)
        check_meta(self.meta, len(self.video))
        if self.video.dtype in (torch.float16, torch.bfloat16):  # what decoders hand over
            object.__setattr__(self, "video", self.video.float())
        object.__setattr__(self, "_pixels", _Pixels(self.video))

    def __len__(self) -> int:
        return len(self.video)

    @property
    def frames(self) -> Tensor:
        """The clips as float in [0, 1], (B, F, C, H, W)."""
        if self.video.is_floating_point():
            return self.video
        return self.memo("frames", lambda: self.video.float() / 255)

    def small(self, size: int) -> Tensor:
        """The clips with their shorter side at most `size`, bytes where they are: shrunk
        once for all rewards."""
        return self._pixels.small(size)

    @property
    def about(self) -> About:
        """All but the pixels."""
        return About(
            self.prompts,
            self.fps,
            (self.video.shape[-1], self.video.shape[-2]),
            self.reference,
            self.meta,
        )

    def memo(self, key: Any, make: Callable[[], Made]) -> Made:
        """The result of `make()`, kept under `key`, so that several rewards compute a
        clip's flow only once.

        The result lives as long as these samples. It must not refer to them: the reference
        cycle would keep the video in memory until Python's cyclic garbage collector runs,
        which on a GPU may be after memory has run out.
        """
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def phases(self, stride: int) -> list[Samples]:
        """The clips as `stride` interleaved ones of a lower frame rate: 0, stride ...; 1,
        stride + 1 ...

        >>> video = torch.arange(5.0).view(1, 5, 1, 1, 1).expand(1, 5, 1, 8, 8) / 5
        >>> [part.video[0, :, 0, 0, 0].mul(5).tolist() for part in Samples(video, [""], 24.0).phases(3)]
        [[0.0, 3.0], [1.0, 4.0], [2.0]]
        """
        if stride == 1:
            return [self]
        return self.memo(
            ("phases", stride), lambda: [self.every(stride, start) for start in range(stride)]
        )

    def every(self, stride: int, start: int) -> Samples:
        """Frames start, start + stride ... of the clips, at a lower frame rate."""
        video, finite = self.video[:, start::stride], self._finite[:, start::stride]
        pixels = _Pixels(video, self._pixels, stride, start)
        return _sound(
            video, self.prompts, self.fps / stride, self.reference, self.meta, finite, pixels
        )

    def pick(self, rows: Sequence[int]) -> Samples:
        """The clips `rows` alone; the same rows give the same object, so that they share
        what is memoised."""
        if list(rows) == list(range(len(self))):
            return self
        return self.memo(("pick", tuple(rows)), lambda: self._rows(list(rows)))

    def to(self, device: torch.device | str) -> Samples:
        """The same samples with their tensors on `device`."""
        reference = None if self.reference is None else self.reference.to(device)
        return _sound(
            self.video.to(device), self.prompts, self.fps, reference, self.meta, self._finite
        )

    def pieces(self, size: int) -> Iterator[Samples]:
        """The clips in pieces of at most `size`, which nothing keeps: what is memoised for
        one is freed with it.

        >>> [len(piece) for piece in Samples(torch.zeros(5, 3, 1, 8, 8), [""] * 5, 8.0).pieces(2)]
        [2, 2, 1]
        """
        rows = range(len(self))
        return (self._rows(list(rows[start : start + size])) for start in range(0, len(self), size))

    def broken(self, first: int = 0) -> list[int | None]:
        """The number of each clip's first frame with NaN or infinity, where the first frame
        of all is `first`."""
        bad = ~self._finite
        return [first + int(row.nonzero()[0]) if row.any() else None for row in bad]

    def _rows(self, rows: list[int]) -> Samples:
        at = _index(rows)
        reference = None if self.reference is None else self.reference[at]
        meta = [self.meta[i] for i in rows] if len(self.meta) else ()
        prompts, finite = [self.prompts[i] for i in rows], self._finite[at]
        return _sound(self.video[at], prompts, self.fps, reference, meta, finite)


def _sound(
    video: Tensor,
    prompts: Sequence[str],
    fps: float,
    reference: Tensor | None,
    meta: Sequence[Mapping[str, Any]],
    finite: Tensor,
    pixels: _Pixels | None = None,
) -> Samples:
    """Samples of a part of what was checked already, which is not checked again: that reads
    every pixel."""
    made = object.__new__(Samples)
    known = {
        "video": video,
        "prompts": prompts,
        "fps": fps,
        "reference": reference,
        "meta": meta,
        "_memo": {},
        "_pixels": pixels or _Pixels(video),
        "_finite": finite,
    }
    for name, value in known.items():
        object.__setattr__(made, name, value)
    return made


class _Pixels:
    """Clips and their shrunk copies; of a phase, those of every `stride`-th frame of the
    clips `whole`.

    Samples and their phases share the shrunk copies through this class, which refers to no
    Samples: a phase that referred to the Samples that memoise it would be a reference
    cycle, and its video would outlive its last name.
    """

    def __init__(
        self, video: Tensor, whole: _Pixels | None = None, stride: int = 1, start: int = 0
    ) -> None:
        self.video, self.whole, self.stride, self.start = video, whole, stride, start
        self.made: dict[int, Tensor] = {}

    def small(self, size: int) -> Tensor:
        """The clips with their shorter side at most `size`."""
        if self.whole is not None:
            return self.whole.small(size)[:, self.start :: self.stride]
        if size not in self.made:
            self.made[size] = shrunk(self.video, size)
        return self.made[size]


def _index(rows: list[int]) -> slice | list[int]:
    """Neighbouring rows as a slice, which copies no video; any others as they are.

    >>> _index([2, 3]), _index([0, 2])
    (slice(2, 4, None), [0, 2])
    """
    if rows and rows[0] >= 0 and rows == list(range(rows[0], rows[0] + len(rows))):
        return slice(rows[0], rows[0] + len(rows))
    return rows


@dataclass(frozen=True)
class About:
    """What is known of clips beside their pixels: all that `Reward.terms_of_clip` may ask."""

    prompts: Sequence[str]
    fps: float
    size: tuple[int, int]  # (width, height)
    reference: Tensor | None = None
    meta: Sequence[Mapping[str, Any]] = ()


def check_samples(samples: Any) -> None:
    """A Samples."""
    if isinstance(samples, Samples):
        return
    cure = "pass Samples(video, prompts, fps=16.0)"
    if isinstance(samples, Tensor):
        cure = f'pass Samples(video, [""] * len(video), fps=16.0) of a video {AXES}'
    elif _paths(samples):
        cure = "vidrl.rewards.score(paths, reward) reads files"
    told = (
        f"a tensor of shape {tuple(samples.shape)}"
        if isinstance(samples, Tensor)
        else type(samples).__name__
    )
    raise ValueError(
        f"expected Samples, which hold the clips, their prompts and their frame rate, got {told}: {cure}"
    )


def _paths(value: Any) -> bool:
    first = value[0] if isinstance(value, list | tuple) and value else value
    return isinstance(first, str | os.PathLike)

"""What rewards read: clips, their prompts and their frame rate.

Shapes: B batch, F frames, C channels, H W height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from ._checks import check_fps, check_meta, check_prompts, check_reference, check_video

Made = TypeVar("Made")


@dataclass(frozen=True)
class Samples:
    """What was made: clips, their prompts and their frame rate.

    `video` is (B, F, C, H, W), float in [0, 1] or uint8, C = 1 or 3; an image has F = 1. `reference` (B, F', C, H, W)
    is what the generator was conditioned on. Raises ValueError where a shape, type or range is not that.

    >>> Samples(torch.zeros(1, 5, 3, 16, 16), ["a circle"], fps=8.0).frames.dtype
    torch.float32
    """

    video: Tensor
    prompts: Sequence[str]
    fps: float
    reference: Tensor | None = None
    meta: Sequence[Mapping[str, Any]] = ()
    _memo: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    _source: tuple[Samples, int, int] | None = field(default=None, repr=False, compare=False)  # see `every`

    def __post_init__(self) -> None:
        check_video(self.video, "video")
        check_prompts(self.prompts, len(self.video))
        check_fps(self.fps)
        object.__setattr__(self, "fps", float(self.fps))
        if self.reference is not None:
            check_reference(self.reference, self.video)
        check_meta(self.meta, len(self.video))
        if self.video.dtype in (torch.float16, torch.bfloat16):  # what decoders hand over
            object.__setattr__(self, "video", self.video.float())

    def __len__(self) -> int:
        return len(self.video)

    @property
    def frames(self) -> Tensor:
        """The clips as float in [0, 1], (B, F, C, H, W)."""
        if self.video.is_floating_point():
            return self.video
        return self.memo("frames", lambda: self.video.float() / 255)

    def small(self, size: int) -> Tensor:
        """The clips with their shorter side at most `size`, bytes where they are: shrunk once for all rewards."""
        from .flow import shrunk

        if self._source is None:
            return self.memo(("small", size), lambda: shrunk(self.video, size))
        whole, stride, start = self._source
        return whole.small(size)[:, start::stride]

    @property
    def about(self) -> About:
        """All but the pixels."""
        return About(self.prompts, self.fps, (self.video.shape[-1], self.video.shape[-2]), self.reference, self.meta)

    def memo(self, key: Any, make: Callable[[], Made]) -> Made:
        """What `make()` returned the first time `key` was asked for: rewards of one clip share its flow so."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def phases(self, stride: int) -> list[Samples]:
        """The clips as `stride` interleaved ones of a lower frame rate: 0, stride ...; 1, stride + 1 ...

        >>> video = torch.arange(5.0).view(1, 5, 1, 1, 1).expand(1, 5, 1, 8, 8) / 5
        >>> [part.video[0, :, 0, 0, 0].mul(5).tolist() for part in Samples(video, [""], 24.0).phases(3)]
        [[0.0, 3.0], [1.0, 4.0], [2.0]]
        """
        if stride == 1:
            return [self]
        return self.memo(("phases", stride), lambda: [self.every(stride, start) for start in range(stride)])

    def every(self, stride: int, start: int) -> Samples:
        """Frames start, start + stride ... of the clips, at a lower frame rate."""
        video, fps = self.video[:, start::stride], self.fps / stride
        return Samples(video, self.prompts, fps, self.reference, self.meta, _source=(self, stride, start))

    def pick(self, rows: Sequence[int]) -> Samples:
        """The clips `rows` alone; the same rows give the same object, so that they share what is memoised."""
        if list(rows) == list(range(len(self))):
            return self
        return self.memo(("pick", tuple(rows)), lambda: self._rows(list(rows)))

    def to(self, device: torch.device | str) -> Samples:
        """The same samples with their tensors on `device`."""
        reference = None if self.reference is None else self.reference.to(device)
        return Samples(self.video.to(device), self.prompts, self.fps, reference, self.meta)

    def _rows(self, rows: list[int]) -> Samples:
        reference = None if self.reference is None else self.reference[rows]
        meta = [self.meta[i] for i in rows] if len(self.meta) else ()
        return Samples(self.video[rows], [self.prompts[i] for i in rows], self.fps, reference, meta)


@dataclass(frozen=True)
class About:
    """What is known of clips beside their pixels: all that `Reward.conclude` may ask."""

    prompts: Sequence[str]
    fps: float
    size: tuple[int, int]  # (width, height)
    reference: Tensor | None = None
    meta: Sequence[Mapping[str, Any]] = ()

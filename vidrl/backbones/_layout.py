"""How a pipeline arranges its latents, found by looking: runs of two lengths show which
axis is time.

Legend: B batch, C channels, L latent frames, N tokens. vidrl's latents are (B, C, L, h, w).
A pipeline may have (B, C, h, w), (B, L, C, h, w), (B, N, C) packed frame by frame, or (B L,
C, h, w). Only the axis of time is looked for: the other axes keep the pipeline's order,
since nothing else of vidrl asks what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidrl.diffusion.segments import Span

from ._drive import FRAMES, Drive

RATIOS = (  # what pipelines call the number of pixel frames that a latent frame stands for
    "vae_scale_factor_temporal",
    "vae_temporal_compression_ratio",
    "vae_temporal_scale_factor",
)


@dataclass(frozen=True)
class Layout:
    """`own`: the shape of one clip's latents in the pipeline. `axis`: which of its axes is
    time, None without one.

    `length`: L. `folded`: whether the frames of all clips stand in the first axis.
    `frame_map`: see Denoiser. `order`: the place in a plain draw of each element of `own`,
    None where they are in order. `given`: the frames of `own` that vidrl's latents leave
    out (`_given`).
    """

    own: tuple[int, ...]
    axis: int | None
    length: int
    folded: bool
    frame_map: list[Span]
    order: Tensor | None = None
    given: tuple[int, ...] = ()

    def without(self, given: tuple[int, ...]) -> Layout:
        """The layout of a clip of which some frames are given.

        The pixel frames of a given frame count to the next free one, those at the end to
        the last.
        """
        if not given:
            return self
        free = [k for k in range(self.length) if k not in given]
        ends = [*(self.frame_map[k][1] for k in free[:-1]), self.frame_map[-1][1]]
        return replace(self, given=given, frame_map=list(zip([0, *ends[:-1]], ends, strict=True)))

    def of(self, length: int) -> Layout:
        """The layout of a clip of so many latent frames, without those that are given.

        Raises ValueError where the given frames are not the first, as at the end of a clip.
        """
        if length == len(self.frame_map):
            return self
        if self.axis is None or self.given != tuple(range(len(self.given))):
            raise ValueError(
                f"expected latents of {len(self.frame_map)} frames, got {length}: the pipeline "
                f"makes no other length with the latent frames {list(self.given)} given"
            )
        total = length + len(self.given)
        own = list(self.own)
        own[self.axis] = own[self.axis] * total // self.length
        return replace(self, own=tuple(own), length=total, frame_map=self.frame_map[:length])

    def whole(self) -> Layout:
        """The layout of all frames, for latents and not for pixels."""
        return replace(self, given=())

    def _free(self, device: torch.device) -> Tensor:
        free = [k for k in range(self.length) if k not in self.given]
        return torch.tensor(free, device=device)

    @property
    def packed(self) -> bool:
        return len(self.own) == 2

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (C, L, h, w) of one clip's latents."""
        return tuple(self.ours(torch.zeros(1, device="meta").expand(1, *self.own)).shape[1:])

    def ours(self, theirs: Tensor) -> Tensor:
        """The pipeline's latents as (B, C, L, h, w), without given frames."""
        every = self._ours(theirs)
        return every.index_select(2, self._free(every.device)) if self.given else every

    def _ours(self, theirs: Tensor) -> Tensor:
        if self.folded and theirs.dim() == len(self.own):
            theirs = theirs.unflatten(0, (-1, self.length))
        if self.packed:
            return theirs.unflatten(1, (self.length, -1)).permute(0, 3, 1, 2)[..., None]
        return theirs[:, :, None] if self.axis is None else theirs.movedim(self.axis + 1, 2)

    def theirs(self, ours: Tensor) -> Tensor:
        """Latents (B, C, L, h, w) as the pipeline has them; zeros in given frames."""
        if self.given:
            every = ours.new_zeros(*ours.shape[:2], self.length, *ours.shape[3:])
            ours = every.index_copy(2, self._free(ours.device), ours)
        if self.packed:
            return ours[..., 0].permute(0, 2, 3, 1).flatten(1, 2)
        theirs = ours[:, :, 0] if self.axis is None else ours.movedim(2, self.axis + 1)
        return theirs.flatten(0, 1) if self.folded else theirs

    def noise(self, draw: torch.Generator) -> Tensor:
        """One draw of unit noise, (C, L, h, w): the pipeline's own latents of that
        generator, if it draws float32."""
        plain = drawn([self.own], draw)
        return self.ours((plain if self.order is None else plain[self.order]).view(1, *self.own))[0]


def look(drive: Drive, row: int) -> Layout:
    """The layout of a pipeline's latents for the sizes that `drive.call` names.

    Raises ValueError, with the nearest number of frames, for a number that the pipeline
    would silently change.
    """
    name = next((name for name in FRAMES if name in drive.takes), None)
    own = _own(drive, row)
    places = order(drive, row, own)
    if name is None:
        return Layout(own, None, 1, False, [(0, 1)], places)
    frames = drive.call.get(name, drive.takes[name].default)
    for other in lengths(frames):
        small = tried(drive, row, name, other)
        if small is None or small == own:
            continue
        length, short, axis, folded = _time(own, small)
        ratio = _ratio(drive, row, name, (frames, length), (other, short))
        total = other + ratio * (length - short)
        if frames in (None, total):
            return Layout(own, axis, length, folded, _spans(total, length, ratio), places)
        raise _no_length(drive, name, frames, total)
    raise drive.cannot(f"its latents have one shape for all numbers of frames ({name})")


def _no_length(drive: Drive, name: str, frames: int, nearest: int) -> ValueError:
    return ValueError(
        f"expected a number of frames that {drive.name} makes, got {name} = {frames}, which it would "
        f"change: the nearest is {name} = {nearest}"
    )


def _time(own: tuple[int, ...], small: tuple[int, ...]) -> tuple[int, int, int, bool]:
    """The numbers of latent frames of two lengths, their axis, and whether frames are
    folded into the batch."""
    if len(own) != len(small):
        return own[0], 1, 0, True
    axis = next(i for i, (a, b) in enumerate(zip(own, small, strict=True)) if a != b)
    tokens = gcd(own[0], small[0]) if len(own) == 2 else 1  # tokens of one frame
    return own[axis] // tokens, small[axis] // tokens, axis, False


def _ratio(
    drive: Drive, row: int, name: str, one: tuple[int | None, int], other: tuple[int, int]
) -> int:
    """Pixel frames of a latent frame: what the pipeline says, else the slope of two
    lengths.

    A length is (pixel frames, latent frames); where the call names no pixel frames, a third
    length is looked at.
    """
    said = next((getattr(drive.pipe, key) for key in RATIOS if hasattr(drive.pipe, key)), None)
    if isinstance(said, int):
        return said
    frames, length = one
    if frames is None:
        frames, more = other[0] + 8, tried(drive, row, name, other[0] + 8)
        small = _own(drive, row, **{name: other[0]})
        length = other[1] + 8 if more in (None, small) else _time(more, small)[0]
    return round((frames - other[0]) / (length - other[1]))


def _spans(frames: int, length: int, ratio: int) -> list[Span]:
    """The pixel frames of each latent frame; the first has what is before it as well.

    >>> _spans(9, 3, 4)
    [(0, 1), (1, 5), (5, 9)]
    """
    ends = [frames - ratio * (length - k - 1) for k in range(length)]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def lengths(frames: int | None) -> list[int]:
    """Other numbers of frames to try; none may fit a pipeline's rule, and of one frame some
    pipelines make a picture. Eight more differ from a single frame where doubling does
    not."""
    usual = [1, 9, 17]
    return usual if frames is None else [1, 2 * frames, 2 * frames - 1, 3 * frames, frames + 8]


def _own(drive: Drive, row: int, number: int = 0, **call: Any) -> tuple[int, ...]:
    """The shape of one clip's latents; where frames are folded into the batch, they are the
    first axis. `number`: see `Drive.entered`."""
    sample = drive.entered(row, **call)[number]
    return tuple(sample.shape if len(sample) != 1 else sample.shape[1:])


def tried(
    drive: Drive, row: int, name: str, frames: int, number: int = 0
) -> tuple[int, ...] | None:
    """The shape of latents of another number of frames; None where the pipeline fails at
    it."""
    try:
        return _own(drive, row, number, **{name: frames})
    except torch.OutOfMemoryError:
        raise
    except Exception:  # noqa: BLE001  a pipeline may fail in any way at a length that it does not make
        return None


def order(drive: Drive, row: int, *owns: tuple[int, ...]) -> Tensor | None:
    """Where in a plain draw each latent of the pipeline's own first latents comes from;
    None for in order.

    Found by comparing two draws with the latents that the pipeline made of them. Pipelines
    that draw in half precision, or draw something else first, have no such order.
    """
    pairs = [_drawn(drive, row, owns, seed) for seed in (drive.seed, drive.seed + 1)]
    if any(len(a) != len(b) for a, b in pairs) or all(
        torch.allclose(a, b, rtol=1e-5) for a, b in pairs
    ):
        return None
    return _places(*(np.stack([pair[side].numpy() for pair in pairs]) for side in (0, 1)))


def _places(drawn: np.ndarray, made: np.ndarray) -> Tensor | None:
    """The place in a draw of each number that was made of it; None where none was.

    Legend: `drawn` and `made` (2, N), two draws. What is in no draw, as the latents of a
    given picture, has the places that are left over.
    """
    plain, theirs = (two[0].astype(np.float64) + 1j * two[1] for two in (drawn, made))
    free, used = np.isin(theirs, plain), np.isin(plain, theirs)
    if not free.any() or free.sum() != used.sum():
        return None
    order = np.empty(len(free), dtype=np.int64)
    order[~free] = np.flatnonzero(~used)
    places = np.flatnonzero(used)[np.argsort(plain[used])]
    order[np.flatnonzero(free)[np.argsort(theirs[free])]] = places
    return torch.from_numpy(order)


def drawn(owns: Sequence[tuple[int, ...]], draw: torch.Generator) -> Tensor:
    """One plain draw of unit noise for latents of these shapes, one after another."""
    return torch.cat([torch.randn(prod(own), generator=draw) for own in owns])


def _drawn(
    drive: Drive, row: int, owns: Sequence[tuple[int, ...]], seed: int
) -> tuple[Tensor, Tensor]:
    """A plain draw, and the latents with which the pipeline enters its loop for a generator
    of the same seed."""
    plain = drawn(owns, torch.Generator().manual_seed(seed))
    before, drive.seed = drive.seed, seed
    try:
        return plain, drive.first(row).float().cpu().flatten() / drive.probe.scale(
            drive.probe.grid[0]
        )
    finally:
        drive.seed = before

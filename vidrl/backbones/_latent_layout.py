"""Find how a pipeline arranges its latents: runs of two lengths show which axis is time.

Legend: B batch, C channels, L latent frames, N tokens. vidrl's latents are (B, C, L, h, w).
A pipeline may have (B, C, h, w), (B, L, C, h, w), (B, N, C) packed frame by frame, or (B L,
C, h, w). Only the axis of time is searched for; the other axes keep the pipeline's order,
since no other code of vidrl depends on them.
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

from ._runner import FRAMES, Runner

RATIOS = (  # pipelines' attributes for the number of pixel frames of a latent frame
    "vae_scale_factor_temporal",
    "vae_temporal_compression_ratio",
    "vae_temporal_scale_factor",
)


@dataclass(frozen=True)
class Layout:
    """A layout describes a pipeline's latents, and converts them to vidrl's and back.

    - `pipeline_shape`: the shape of one clip's latents in the pipeline.
    - `axis`: the time axis of that shape, None without one.
    - `length`: L.
    - `frames_in_batch`: whether the batch axis holds the frames of all clips.
    - `frame_map`: see Denoiser.
    - `draw_order`: for each element of `pipeline_shape` its place in a plain draw of noise;
      None if both have the same order.
    - `conditioned`: the latent frames that a picture sets and that vidrl's latents leave
      out (`_conditioning_frames`).
    - `given`: the number of pixel frames with which a clip begins and that a picture sets.
    """

    pipeline_shape: tuple[int, ...]
    axis: int | None
    length: int
    frames_in_batch: bool
    frame_map: list[Span]
    draw_order: Tensor | None = None
    conditioned: tuple[int, ...] = ()
    given: int = 0

    def without_frames(self, conditioned: tuple[int, ...]) -> Layout:
        """Return the layout without the frames `conditioned`.

        The pixel frames of a conditioned frame are assigned to the next free frame, those
        at the end of the clip to the last free one.
        """
        if not conditioned:
            return self
        free = [k for k in range(self.length) if k not in conditioned]
        ends = [*(self.frame_map[k][1] for k in free[:-1]), self.frame_map[-1][1]]
        return replace(
            self,
            conditioned=conditioned,
            given=self.frame_map[free[0]][0],
            frame_map=list(zip([0, *ends[:-1]], ends, strict=True)),
        )

    def with_length(self, length: int) -> Layout:
        """Return the layout of a clip of `length` latent frames that are not conditioned.

        Raises ValueError if a conditioned frame is not at the beginning of the clip.
        """
        if length == len(self.frame_map):
            return self
        if self.axis is None or self.conditioned != tuple(range(len(self.conditioned))):
            raise ValueError(
                f"expected latents of {len(self.frame_map)} frames, got {length}: the pipeline "
                f"makes no other length with the latent frames {list(self.conditioned)} given"
            )
        total = length + len(self.conditioned)
        pipeline_shape = list(self.pipeline_shape)
        pipeline_shape[self.axis] = pipeline_shape[self.axis] * total // self.length
        return replace(
            self,
            pipeline_shape=tuple(pipeline_shape),
            length=total,
            frame_map=self.frame_map[:length],
        )

    def with_all_frames(self) -> Layout:
        """Return the layout that includes the conditioned frames; its `frame_map` is not valid."""
        return replace(self, conditioned=())

    def _free_frames(self, device: torch.device) -> Tensor:
        """Return the numbers of the frames that are not conditioned."""
        free = [k for k in range(self.length) if k not in self.conditioned]
        return torch.tensor(free, device=device)

    @property
    def packed(self) -> bool:
        """Whether the latents are tokens (N, C), packed frame by frame."""
        return len(self.pipeline_shape) == 2

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (C, L, h, w) of one clip's latents."""
        return tuple(
            self.to_vidrl(torch.zeros(1, device="meta").expand(1, *self.pipeline_shape)).shape[1:]
        )

    def to_vidrl(self, latents: Tensor) -> Tensor:
        """Convert the pipeline's latents to (B, C, L, h, w), without conditioned frames."""
        every = self._unpacked(latents)
        return every.index_select(2, self._free_frames(every.device)) if self.conditioned else every

    def _unpacked(self, latents: Tensor) -> Tensor:
        """Convert the pipeline's latents to (B, C, L, h, w), all frames included."""
        if self.frames_in_batch and latents.dim() == len(self.pipeline_shape):
            latents = latents.unflatten(0, (-1, self.length))
        if self.packed:
            return latents.unflatten(1, (self.length, -1)).permute(0, 3, 1, 2)[..., None]
        return latents[:, :, None] if self.axis is None else latents.movedim(self.axis + 1, 2)

    def to_pipeline(self, latents: Tensor) -> Tensor:
        """Convert latents (B, C, L, h, w) to the pipeline's layout; zeros in conditioned frames."""
        if self.conditioned:
            every = latents.new_zeros(*latents.shape[:2], self.length, *latents.shape[3:])
            latents = every.index_copy(2, self._free_frames(latents.device), latents)
        if self.packed:
            return latents[..., 0].permute(0, 2, 3, 1).flatten(1, 2)
        latents = latents[:, :, 0] if self.axis is None else latents.movedim(2, self.axis + 1)
        return latents.flatten(0, 1) if self.frames_in_batch else latents

    def noise(self, draw: torch.Generator) -> Tensor:
        """Draw unit noise (C, L, h, w): the pipeline's own float32 latents of that generator."""
        plain = plain_draw([self.pipeline_shape], draw)
        return self.to_vidrl(
            (plain if self.draw_order is None else plain[self.draw_order]).view(
                1, *self.pipeline_shape
            )
        )[0]


def find_layout(runner: Runner, row: int) -> Layout:
    """Find the layout of a pipeline's latents for the sizes that `runner.call` names.

    Raises ValueError, with the nearest number of frames, for a number that the pipeline
    would silently change.
    """
    name = next((name for name in FRAMES if name in runner.call_parameters), None)
    pipeline_shape = _pipeline_shape(runner, row)
    places = draw_order(runner, row, pipeline_shape)
    if name is None:
        return Layout(pipeline_shape, None, 1, False, [(0, 1)], places)
    frames = runner.call.get(name, runner.call_parameters[name].default)
    for other in lengths_to_try(frames):
        small = shape_at_length(runner, row, name, other)
        if small is None or small == pipeline_shape:
            continue
        length, short, axis, frames_in_batch = _time_axis(pipeline_shape, small)
        ratio = _frames_per_latent(runner, row, name, (frames, length), (other, short))
        total = other + ratio * (length - short)
        if frames in (None, total):
            return Layout(
                pipeline_shape, axis, length, frames_in_batch, _spans(total, length, ratio), places
            )
        raise _wrong_length(runner, name, frames, total)
    raise runner.refusal(f"its latents have one shape for all numbers of frames ({name})")


def _wrong_length(runner: Runner, name: str, frames: int, nearest: int) -> ValueError:
    """Build the error for a number of frames that the pipeline would change."""
    return ValueError(
        f"expected a number of frames that {runner.name} makes, got {name} = {frames}, which it "
        f"would change: the nearest is {name} = {nearest}"
    )


def _time_axis(
    pipeline_shape: tuple[int, ...], small: tuple[int, ...]
) -> tuple[int, int, int, bool]:
    """Return latent frames of two lengths, their axis, and whether frames are in the batch."""
    if len(pipeline_shape) != len(small):
        return pipeline_shape[0], 1, 0, True
    axis = next(i for i, (a, b) in enumerate(zip(pipeline_shape, small, strict=True)) if a != b)
    tokens = (
        gcd(pipeline_shape[0], small[0]) if len(pipeline_shape) == 2 else 1
    )  # tokens of one frame
    return pipeline_shape[axis] // tokens, small[axis] // tokens, axis, False


def _frames_per_latent(
    runner: Runner, row: int, name: str, length_one: tuple[int | None, int], other: tuple[int, int]
) -> int:
    """Return the pixel frames of a latent frame: the pipeline's own number, else a slope.

    A length is (pixel frames, latent frames), and the slope is that of two lengths. If the
    call names no number of pixel frames, a third length is run.
    """
    stated = next((getattr(runner.pipe, key) for key in RATIOS if hasattr(runner.pipe, key)), None)
    if isinstance(stated, int):
        return stated
    frames, length = length_one
    if frames is None:
        frames, more = other[0] + 8, shape_at_length(runner, row, name, other[0] + 8)
        small = _pipeline_shape(runner, row, **{name: other[0]})
        length = other[1] + 8 if more in (None, small) else _time_axis(more, small)[0]
    return round((frames - other[0]) / (length - other[1]))


def _spans(frames: int, length: int, ratio: int) -> list[Span]:
    """Return the pixel frames of each latent frame; the first also has the frames left over.

    >>> _spans(9, 3, 4)
    [(0, 1), (1, 5), (5, 9)]
    """
    ends = [frames - ratio * (length - k - 1) for k in range(length)]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def lengths_to_try(frames: int | None) -> list[int]:
    """Return other numbers of frames to try, since a pipeline refuses or rounds some numbers.

    Of a single frame some pipelines make a picture without a time axis; there 8 more frames
    are a valid clip where twice as many are not.
    """
    usual_lengths = [1, 9, 17]
    return (
        usual_lengths if frames is None else [1, 2 * frames, 2 * frames - 1, 3 * frames, frames + 8]
    )


def _pipeline_shape(runner: Runner, row: int, number: int = 0, **call: Any) -> tuple[int, ...]:
    """Return the shape of one clip's latents; frames in the batch axis come first."""
    sample = runner.initial_latents_by_scheduler(row, **call)[number]
    return tuple(sample.shape if len(sample) != 1 else sample.shape[1:])


def shape_at_length(
    runner: Runner, row: int, name: str, frames: int, number: int = 0
) -> tuple[int, ...] | None:
    """Return the shape of the latents of another number of frames; None if the pipeline fails."""
    try:
        return _pipeline_shape(runner, row, number, **{name: frames})
    except torch.OutOfMemoryError:
        raise
    except Exception:  # noqa: BLE001  a pipeline may fail in any way at an invalid length
        return None


def draw_order(runner: Runner, row: int, *shapes: tuple[int, ...]) -> Tensor | None:
    """Return for each element of the pipeline's first latents its place in a plain draw.

    Two draws are compared with the latents that the pipeline made of the same seeds. None
    means that the order is the same, or that no order exists: pipelines that draw in half
    precision, or that draw something else first, have none.
    """
    pairs = [
        _draw_and_latents(runner, row, shapes, seed) for seed in (runner.seed, runner.seed + 1)
    ]
    if any(len(a) != len(b) for a, b in pairs) or all(
        torch.allclose(a, b, rtol=1e-5) for a, b in pairs
    ):
        return None
    return _match_draws(*(np.stack([pair[side].numpy() for pair in pairs]) for side in (0, 1)))


def _match_draws(plain_draw: np.ndarray, created: np.ndarray) -> Tensor | None:
    """Return for each element its place in the draw it comes from; None if there is none.

    Legend: `drawn` and `made` (2, N), two draws. Elements that come from no draw, such as
    the latents of a picture, get the places that are left over. Two draws are packed into
    one complex number, so that equal values in one draw alone do not collide.
    """
    plain, latents = (two[0].astype(np.float64) + 1j * two[1] for two in (plain_draw, created))
    free, used = np.isin(latents, plain), np.isin(plain, latents)
    if not free.any() or free.sum() != used.sum():
        return None
    draw_order = np.empty(len(free), dtype=np.int64)
    draw_order[~free] = np.flatnonzero(~used)
    places = np.flatnonzero(used)[np.argsort(plain[used])]
    draw_order[np.flatnonzero(free)[np.argsort(latents[free])]] = places
    return torch.from_numpy(draw_order)


def plain_draw(shapes: Sequence[tuple[int, ...]], draw: torch.Generator) -> Tensor:
    """Draw unit noise for latents of these shapes, one after another, as one row."""
    return torch.cat(
        [torch.randn(prod(pipeline_shape), generator=draw) for pipeline_shape in shapes]
    )


def _draw_and_latents(
    runner: Runner, row: int, shapes: Sequence[tuple[int, ...]], seed: int
) -> tuple[Tensor, Tensor]:
    """Return a plain draw, and the pipeline's first latents for a generator of the same seed."""
    plain = plain_draw(shapes, torch.Generator().manual_seed(seed))
    before, runner.seed = runner.seed, seed
    try:
        return plain, runner.initial_latents(row).float().cpu().flatten() / runner.probe.scale(
            runner.probe.grid[0]
        )
    finally:
        runner.seed = before

"""Resample a film of uneven frame times to even times, so that smooth motion stays smooth.

Rewards count per second and assume that frames are equally far apart. A film of a variable
frame rate is therefore resampled: if it has a frame at a wanted time, that frame is taken
unchanged; otherwise the nearer frame is warped along the optical flow. Taking the nearest
frame unchanged would add judder, and blending two frames would show both at once.

Shapes: F frames, H W pixels; frames are uint8 (F, 3, H, W); times in seconds, rising.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

# Seconds without a frame after which motion cannot be interpolated, unless the picture stays
# the same.
PAUSE = 0.25
NEAR = 0.02  # fraction of a gap: a frame this near to a wanted time is taken unchanged
# Fraction of a gap: stamps that deviate less count as even. 60 frames a second in whole
# milliseconds deviate by 0.06.
ROUNDED = 0.065
PRESENT = 0.9  # fraction of the wanted times that must have a frame for a lower rate
MOST = 4  # the resampled film has at most this many times the frames of the film


def is_even(times: Sequence[float], tick: float = 0.0) -> bool:
    """Return whether frames are equally far apart, up to rounding to ticks of `tick` seconds.

    >>> is_even([0.0, 0.042, 0.083, 0.125], tick=0.001)
    True
    >>> is_even([0.0, 0.042, 0.125, 0.167], tick=0.001)
    False
    """
    return len(times) < 3 or _on_a_line(np.arange(len(times)), np.asarray(times), tick)


def even_times(times: Sequence[float], tick: float = 0.0) -> list[float]:
    """Return the even times at which to measure a film; its own times if they are even.

    If frames were left out of an even film, the result is the times of that film, or every
    second, third, ... of them: the smallest stride at which nine in ten times have a frame.
    The stride keeps at least about half of the frames, and its step is at most a quarter of
    a second. Otherwise the step is the film's median gap.

    >>> [round(t, 3) for t in even_times([0.0, 0.0625, 0.125, 0.25, 0.375, 0.5])]
    [0.0, 0.125, 0.25, 0.375, 0.5]
    """
    if is_even(times, tick):
        return list(times)
    found = _units(times, tick)
    if found is not None:
        places, unit = found
        stride, first = _stride(places, unit)
        count = (places[-1] - first) // stride + 1
        step, start = stride * unit, times[0] + first * unit
    else:
        step, start = float(np.median(np.diff(times))), times[0]
        count = int((times[-1] - start) / step + NEAR) + 1
    if count > MOST * len(times):  # a pause that is much longer than all the rest
        count, start = len(times), times[0]
        step = (times[-1] - times[0]) / (len(times) - 1)
    return [start + i * step for i in range(count)]


def longest_stretch(times: Sequence[float], stays: Callable[[int], bool]) -> tuple[int, int]:
    """Return [first, end) of the longest run of frames without a gap.

    A gap is more than a quarter of a second without a frame, and more than twice the usual
    distance, during which the picture changes. `stays(i)` returns whether frame i + 1 looks
    like frame i, which is true where a film left out repeated frames.

    >>> longest_stretch([0.0, 0.1, 0.2, 1.2, 1.3, 1.4, 1.5], stays=lambda i: False)
    (3, 7)
    """
    gaps = np.diff(times)
    room = max(PAUSE, 2 * float(np.median(gaps)))
    breaks = [i + 1 for i, gap in enumerate(gaps) if gap > room and not stays(i)]
    edges = [0, *breaks, len(times)]
    return max(pairwise(edges), key=lambda edge: edge[1] - edge[0])


def resample(
    pieces: Iterable[Tensor], times: Sequence[float], wanted: Sequence[float]
) -> Iterator[Tensor]:
    """Yield the frames at the `wanted` times, rising, of a film whose frames are at `times`.

    `pieces` are (F, 3, H, W). Each piece gives its part of the result before the next piece
    is read, so the memory is that of a piece. Before the first frame and after the last,
    these frames are repeated. Raises ValueError if there are fewer frames than times.
    """
    asked, last = list(wanted), None
    seen = at = 0
    for piece in pieces:
        # The last frame of the former piece is needed between the two pieces.
        known = piece if last is None else torch.cat([last, piece])
        inside = times[seen - (last is not None) : seen + len(piece)]
        seen, last = seen + len(piece), piece[-1:]
        end = len(asked) if seen == len(times) else bisect_right(asked, inside[-1], at)
        for start in range(at, end, len(piece)):
            yield torch.stack(
                [_frame(known, inside, t) for t in asked[start : min(end, start + len(piece))]]
            )
        at = end
        if at == len(asked):
            return
    raise ValueError(f"expected {len(times)} frames, one for each time, got {seen}")


def at_rate(frames: Tensor, times: Sequence[float], rate: float) -> Tensor:
    """Resample a film (F, 3, H, W) with frames at `times` to `rate` frames a second.

    >>> film = torch.zeros(5, 3, 16, 16, dtype=torch.uint8)
    >>> len(at_rate(film, [0.0, 0.1, 0.2, 0.3, 0.4], rate=5.0))
    3
    """
    count = int((times[-1] - times[0]) * rate + NEAR) + 1
    return torch.cat(list(resample([frames], times, [times[0] + i / rate for i in range(count)])))


# --- which times


def _on_a_line(places: np.ndarray, times: np.ndarray, tick: float) -> bool:
    """Return whether times are a start plus places times a unit, up to rounding.

    Rounding to ticks moves a time by at most one tick in all; 1.2 ticks are allowed.
    """
    slope, start = np.polyfit(places, times, 1)
    left = times - (start + slope * places)
    # A tick near the frame interval means that the container counts frames: nothing is rounded.
    room = 1.2 * tick if tick < 0.4 * slope else 0.0
    return bool(np.ptp(left) <= max(room, ROUNDED * slope))


def _units(times: Sequence[float], tick: float) -> tuple[list[int], float] | None:
    """Return each frame's place on the grid of the shortest gap, and the step; None if off-grid."""
    gaps = np.diff(times)
    shortest = float(np.median(gaps[gaps < 1.25 * gaps.min()]))
    places = np.concatenate([[0], np.cumsum(np.round(gaps / shortest))]).astype(int)
    if not _on_a_line(places, np.asarray(times), tick):
        return None
    return places.tolist(), float(np.polyfit(places, np.asarray(times), 1)[0])


def _stride(places: Sequence[int], unit: float) -> tuple[int, int]:
    """Return the smallest stride and its first place at which nearly all places have a frame.

    The result is (1, 0), each place, if no stride has.
    """
    there = set(places)
    usual = places[-1] / (len(places) - 1)  # places from one frame to the next
    for stride in range(1, max(1, int(min(PAUSE / unit, 2.2 * usual) + NEAR)) + 1):
        for first in range(stride):
            wanted = range(first, places[-1] + 1, stride)
            if len(wanted) > 1 and sum(place in there for place in wanted) >= PRESENT * len(wanted):
                return stride, first
    return 1, 0


# --- one frame


def _frame(known: Tensor, times: Sequence[float], wanted: float) -> Tensor:
    """Return the picture (3, H, W) at a time, from the frames around that time."""
    after = int(np.searchsorted(times, wanted))
    if after == 0 or after == len(times):
        return known[min(after, len(times) - 1)]
    share = (wanted - times[after - 1]) / (times[after] - times[after - 1])
    if share < NEAR or share > 1 - NEAR:
        return known[after if share > 0.5 else after - 1]
    return frame_between(known[after - 1], known[after], share)


def frame_between(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Interpolate two pictures, uint8 (3, H, W), at the fraction `share` in (0, 1) of their gap.

    The nearer picture is warped along the flow; pixels that it lacks come from the other
    picture. The flow from the new picture to each of the two is a combination of the flow
    both ways, as in Super SloMo, arXiv:1712.00080, equation 4.
    """
    from ..flow import outside, warp

    pair = torch.stack([first, second]).float()[None]
    there, back = _flow(pair)
    to_first = share * share * back - (1 - share) * share * there
    to_second = (1 - share) ** 2 * there - share * (1 - share) * back
    moved = [warp(pair[:, i : i + 1], flow) for i, flow in enumerate((to_first, to_second))]
    near, far = (0, 1) if share <= 0.5 else (1, 0)
    gone = outside((to_first, to_second)[near])
    return torch.where(gone, moved[far], moved[near])[0, 0].round().clamp(0, 255).byte()


def _flow(pair: Tensor) -> tuple[Tensor, Tensor]:
    """Return the flow of two pictures (1, 2, 3, H, W) both ways, each (1, 1, 2, H, W).

    Pixels that are hidden in the other picture have no measured flow: they are assumed to
    move with the camera.
    """
    from ..flow import SIZE, estimate, occluded

    found = estimate(pair / 255, "dis", SIZE)
    there, back = found.forward, found.backward
    lost, new = occluded(there, back)[:, :, None], occluded(back, there)[:, :, None]
    there, back = (
        torch.where(lost, found.camera_forward, there),
        torch.where(new, found.camera_backward, back),
    )
    return _enlarged(there, pair.shape[-2:]), _enlarged(back, pair.shape[-2:])


def _enlarged(flow: Tensor, size: Sequence[int]) -> Tensor:
    """Return a flow (1, 1, 2, h, w) for pictures of `size` (H, W), in their pixels."""
    scale = torch.tensor([size[1] / flow.shape[-1], size[0] / flow.shape[-2]]).view(1, 2, 1, 1)
    return (interpolate(flow[0], list(size), mode="bilinear", align_corners=False) * scale)[None]

"""Frames at even times, made of frames at uneven times, so that what moved evenly moves
evenly still.

Rewards count per second and take frames to be equally far apart. A film of a variable frame
rate is therefore brought to an even one: where it has a frame at a wanted time, that frame
is taken as it is; elsewhere the nearer frame is moved along the optical flow. Taking the
nearest frame as it is would add judder, and mixing two would show both at once.

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

# seconds without a frame: what moved meanwhile cannot be known, unless the picture stayed
# the same
PAUSE = 0.25
NEAR = 0.02  # of a gap between two frames: a frame so near to a wanted time is taken as it is
# of a gap: stamps that stray less are even, as 60 frames a second in whole milliseconds
ROUNDED = 0.065
# of the wanted times: so many must have a frame of their own before a lower rate is chosen
PRESENT = 0.9
MOST = 4  # times as many frames as the film has may be made


def is_even(times: Sequence[float], tick: float = 0.0) -> bool:
    """Whether frames are equally far apart, but for stamps that a container rounds to
    multiples of `tick` seconds.

    >>> is_even([0.0, 0.042, 0.083, 0.125], tick=0.001), is_even([0.0, 0.042, 0.125, 0.167], tick=0.001)
    (True, False)
    """
    return len(times) < 3 or _on_a_line(np.arange(len(times)), np.asarray(times), tick)


def even_times(times: Sequence[float], tick: float = 0.0) -> list[float]:
    """The even times at which a film with frames at `times` is best measured: times
    themselves where they are even.

    Where frames are left out of an even film, these are the times of that film, or every
    second, third, ... of them, of which nine in ten have a frame, if that is half of the
    frames or more, and a quarter of a second apart or less. Else they are the film's usual
    distance apart.

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
        count, start, step = len(times), times[0], (times[-1] - times[0]) / (len(times) - 1)
    return [start + i * step for i in range(count)]


def longest_stretch(times: Sequence[float], stays: Callable[[int], bool]) -> tuple[int, int]:
    """The first frame of the longest stretch without a gap, and the first after it.

    A gap is more than a quarter of a second without a frame, where frames are usually
    nearer, and the picture changes: `stays(i)` says whether frame i + 1 looks as frame i,
    as where a film left out what stands still.

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
    """The frames at the `wanted` times, rising, of a film whose frames, in pieces (F, 3, H,
    W), are at `times`.

    One piece for each that comes in, so memory is that of a piece. Before the first frame
    and after the last, these stand still. Raises ValueError where there are fewer frames
    than times.
    """
    asked, last, seen, at = list(wanted), None, 0, 0
    for piece in pieces:
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
    """A film (F, 3, H, W) with frames at `times`, at `rate` frames a second from its first
    time to its last.

    >>> film = torch.zeros(5, 3, 16, 16, dtype=torch.uint8)
    >>> len(at_rate(film, [0.0, 0.1, 0.2, 0.3, 0.4], rate=5.0))
    3
    """
    count = int((times[-1] - times[0]) * rate + NEAR) + 1
    return torch.cat(list(resample([frames], times, [times[0] + i / rate for i in range(count)])))


# --- which times
# -----------------------------------------------------------------------------------------------------


def _on_a_line(places: np.ndarray, times: np.ndarray, tick: float) -> bool:
    """Whether times are a start and places times a unit, but for rounding: a spread of one
    tick, and a bit."""
    slope, start = np.polyfit(places, times, 1)
    left = times - (start + slope * places)
    # a container that counts in frames rounds nothing
    room = 1.2 * tick if tick < 0.4 * slope else 0.0
    return bool(np.ptp(left) <= max(room, ROUNDED * slope))


def _units(times: Sequence[float], tick: float) -> tuple[list[int], float] | None:
    """The place of each frame on the grid whose step is the shortest gap, and the step;
    None if they are on none."""
    gaps = np.diff(times)
    shortest = float(np.median(gaps[gaps < 1.25 * gaps.min()]))
    places = np.concatenate([[0], np.cumsum(np.round(gaps / shortest))]).astype(int)
    if not _on_a_line(places, np.asarray(times), tick):
        return None
    return places.tolist(), float(np.polyfit(places, np.asarray(times), 1)[0])


def _stride(places: Sequence[int], unit: float) -> tuple[int, int]:
    """The smallest stride, with its first place, at which nearly all places have a frame;
    else each place."""
    there = set(places)
    usual = places[-1] / (len(places) - 1)  # places from one frame to the next
    for stride in range(1, max(1, int(min(PAUSE / unit, 2.2 * usual) + NEAR)) + 1):
        for first in range(stride):
            wanted = range(first, places[-1] + 1, stride)
            if len(wanted) > 1 and sum(place in there for place in wanted) >= PRESENT * len(wanted):
                return stride, first
    return 1, 0


# --- one frame
# -------------------------------------------------------------------------------------------------------


def _frame(known: Tensor, times: Sequence[float], wanted: float) -> Tensor:
    """The picture (3, H, W) at a time, from the frames around it."""
    after = int(np.searchsorted(times, wanted))
    if after == 0 or after == len(times):
        return known[min(after, len(times) - 1)]
    share = (wanted - times[after - 1]) / (times[after] - times[after - 1])
    if share < NEAR or share > 1 - NEAR:
        return known[after if share > 0.5 else after - 1]
    return frame_between(known[after - 1], known[after], share)


def frame_between(first: Tensor, second: Tensor, share: float) -> Tensor:
    """The picture between two, uint8 (3, H, W), at `share` of the time from the first to
    the second, in (0, 1).

    The nearer picture is moved along the flow; pixels that it lacks come from the other
    picture. The flow from the new picture to each is mixed from the flow both ways, as
    Super SloMo does, arXiv:1712.00080, equation 4.
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
    """The flow of two pictures (1, 2, 3, H, W) both ways, (1, 1, 2, H, W) each, in pixels.

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
    """A flow (1, 1, 2, h, w) for pictures of `size` (H, W), in their pixels."""
    scale = torch.tensor([size[1] / flow.shape[-1], size[0] / flow.shape[-2]]).view(1, 2, 1, 1)
    return (interpolate(flow[0], list(size), mode="bilinear", align_corners=False) * scale)[None]

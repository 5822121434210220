"""Derive the times of frames from time stamps that may be missing, falling or useless."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from statistics import median

from .containers import Unreadable

FASTEST = 2000.0  # frames a second: time stamps that are closer together are no real times
# Frames a second: containers that know no rate write an impossible one, above this.
STATED = 240.0


def choose_stamps(
    stamps: list[tuple[int | None, int | None]], decode_times: bool = False
) -> list[int | None]:
    """Choose the time stamp of each frame, in ticks, from (stamp of frame, stamp of packet).

    A packet's stamp is its time of decoding. A frame without a stamp takes its packet's
    stamp. All frames take the packets' stamps if the frames' stamps fall and the packets'
    rise, and also if the container stores times of decoding only (`decode_times`, as .avi
    does). The decoder delivers its last frames after the last packet; these frames then
    have no stamp.

    >>> choose_stamps([(0, 0), (2, 1), (1, 2), (None, 3)])
    [0, 1, 2, 3]
    >>> choose_stamps([(0, 1), (2, 2), (1, 3), (3, None)])
    [1, 2, 3, None]
    """
    own = [frame if frame is not None else packet for frame, packet in stamps]
    packets = [packet for _, packet in stamps]
    falls = any(second < first for first, second in _neighbours(own))
    rises = all(second > first for first, second in _neighbours(packets)) and any(packets)
    return packets if rises and (decode_times or falls) else own


def _neighbours(stamps: list[int | None]) -> Iterator[tuple[int, int]]:
    """Yield pairs of neighbouring stamps, skipping missing ones."""
    return pairwise(stamp for stamp in stamps if stamp is not None)


def fill_missing(stamps: list[float], stated: float) -> list[float]:
    """Fill in missing stamps (NaN, in seconds) by the usual distance of neighbouring stamps.

    Stamps are counted forwards, and backwards before the first known stamp. Without a usual
    distance the step is 1 / `stated`, the frame rate that the file states.

    >>> fill_missing([math.nan, 0.25, math.nan, 0.75], stated=4.0)
    [0.0, 0.25, 0.5, 0.75]
    >>> fill_missing([0.0, 0.5, math.nan], stated=600.0)
    [0.0, 0.5, 1.0]
    """
    present = [i for i, time in enumerate(stamps) if not math.isnan(time)]
    step = _usual_gap(stamps) or (1 / stated if stated else 0.0)
    if not (present and step):
        return stamps
    found: list[float] = []
    for at, time in enumerate(stamps):
        if math.isnan(time):
            first = present[0]
            time = found[-1] + step if at > first else stamps[first] - (first - at) * step
        found.append(time)
    return found


def _usual_gap(stamps: list[float]) -> float:
    """Return the mean distance of neighbouring stamps without outliers; 0 if none rises."""
    # The comparison is false for NaN, so gaps beside missing stamps are left out.
    gaps = [gap for first, second in pairwise(stamps) if (gap := second - first) > 0]
    usual = [gap for gap in gaps if 0.5 < gap / median(gaps) < 1.5]
    return sum(usual) / len(usual) if usual else 0.0


def usable_times(stamps: list[float], stated: float) -> tuple[list[float], str | None]:
    """Return times in seconds, and a note if the stated rate replaces useless stamps.

    Stamps are useless if they fall, if fewer than half of them differ, or if they are
    closer than `FASTEST` allows. Raises Unreadable if then no possible rate is stated.

    >>> usable_times([0.0, 0.0, 0.0], stated=8.0)
    ([0.0, 0.125, 0.25], 'its time stamps tell no time: taken as 8 frames a second, ...')
    """
    span = stamps[-1] - stamps[0]
    rises = all(second >= first for first, second in zip(stamps, stamps[1:], strict=False))
    distinct = len(set(stamps)) > len(stamps) / 2
    if len(stamps) < 2 or rises and distinct and (len(stamps) - 1) / FASTEST <= span:
        return [0.0 if math.isnan(t) else t for t in stamps], None
    if not 0 < stated <= STATED:
        raise Unreadable(
            "its time stamps tell no time, and it states no frame rate: write it again with one"
        )
    note = f"its time stamps tell no time: taken as {stated:g} frames a second, as the file states"
    return [i / stated for i in range(len(stamps))], note

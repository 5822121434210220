"""The times of frames from what a file states: stamps that are missing, that fall, or that
tell no time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from statistics import median

from .containers import Unreadable

FASTEST = 2000.0  # frames a second: time stamps that are closer are none
STATED = 240.0  # frames a second: a stated rate above is what containers write when they know none


def choose_stamps(
    stamps: list[tuple[int | None, int | None]], decode_times: bool = False
) -> list[int | None]:
    """The stamps of frames, in ticks, from the stamp of each frame and that of its packet,
    the time of decoding.

    A frame without a stamp has its packet's. Where the stamps of the frames fall and those
    of the packets rise, all are the packets'; so they are where a container keeps no others
    (`decode_times`, as .avi). The last frames come after the last packet, and then have
    none.

    >>> choose_stamps([(0, 0), (2, 1), (1, 2), (None, 3)]), choose_stamps([(0, 1), (2, 2), (1, 3), (3, None)])
    ([0, 1, 2, 3], [1, 2, 3, None])
    """
    own = [frame if frame is not None else packet for frame, packet in stamps]
    packets = [packet for _, packet in stamps]
    falls = any(second < first for first, second in _neighbours(own))
    rises = all(second > first for first, second in _neighbours(packets)) and any(packets)
    return packets if rises and (decode_times or falls) else own


def _neighbours(stamps: list[int | None]) -> Iterator[tuple[int, int]]:
    return pairwise(stamp for stamp in stamps if stamp is not None)


def fill_missing(stamps: list[float], stated: float) -> list[float]:
    """Stamps (seconds, NaN where a frame has none) with the missing ones counted on, and
    before the first counted back, by the usual distance of neighbours, or else by the
    stated rate.

    >>> fill_missing([math.nan, 0.25, math.nan, 0.75], stated=4.0), fill_missing([0.0, 0.5, math.nan], stated=600.0)
    ([0.0, 0.25, 0.5, 0.75], [0.0, 0.5, 1.0])
    """
    known = [i for i, time in enumerate(stamps) if not math.isnan(time)]
    step = _usual_gap(stamps) or (1 / stated if stated else 0.0)
    if not (known and step):
        return stamps
    found: list[float] = []
    for at, time in enumerate(stamps):
        if math.isnan(time):
            time = found[-1] + step if at > known[0] else stamps[known[0]] - (known[0] - at) * step
        found.append(time)
    return found


def _usual_gap(stamps: list[float]) -> float:
    """The mean distance of neighbours, without those that are much longer or shorter than
    most; 0 where none rises."""
    # false for NaN
    gaps = [gap for first, second in pairwise(stamps) if (gap := second - first) > 0]
    usual = [gap for gap in gaps if 0.5 < gap / median(gaps) < 1.5]
    return sum(usual) / len(usual) if usual else 0.0


def usable_times(stamps: list[float], stated: float) -> tuple[list[float], str | None]:
    """Times in seconds, and what to tell of them: the stamps, or, where these tell no time,
    by the stated rate.

    >>> usable_times([0.0, 0.0, 0.0], stated=8.0)
    ([0.0, 0.125, 0.25], 'its time stamps tell no time: taken as 8 frames a second, as the file states')
    """
    span = stamps[-1] - stamps[0]
    rises = all(second >= first for first, second in zip(stamps, stamps[1:], strict=False))
    apart = len(set(stamps)) > len(stamps) / 2
    if len(stamps) < 2 or rises and apart and (len(stamps) - 1) / FASTEST <= span:
        return [0.0 if math.isnan(t) else t for t in stamps], None
    if not 0 < stated <= STATED:
        raise Unreadable(
            "its time stamps tell no time, and it states no frame rate: write it again with one"
        )
    told = f"its time stamps tell no time: taken as {stated:g} frames a second, as the file states"
    return [i / stated for i in range(len(stamps))], told

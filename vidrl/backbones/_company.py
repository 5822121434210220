"""Whether a row's prediction depends on the rows that run with it, which is found out once by
running a row both ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ._drive import Drive

LARGEST = 1 << 30
TOLERANCE = {
    torch.float32: 1e-3,
    torch.float64: 1e-6,
    torch.bfloat16: 6e-2,
    torch.float16: 1e-2,
}  # of the maximum


def together(
    drive: Drive, rows: Sequence[int], one: Tensor, two: Tensor, time: float, dtype: torch.dtype
) -> bool:
    """Whether the first of two rows has the prediction that it has alone; no gradient.

    `one` and `two` are the pipeline's latents of the first row and of both. A pipeline that cannot
    run several rows with their own pictures at once raises, or makes another number of rows: then
    rows run alone.
    """
    with torch.no_grad():
        alone = drive.predict(rows[:1], one, time).float()
        try:
            batch = drive.predict(rows, two, time).float()
        except torch.OutOfMemoryError:
            raise
        except Exception:  # noqa: BLE001  a pipeline may refuse lists in any way
            return False
    if len(batch) != len(rows) * len(alone):
        return False
    gap = (batch[: len(alone)] - alone).abs().max()
    return bool(gap <= TOLERANCE[dtype] * alone.abs().max().clamp(min=1e-6))


def groups(times: Sequence[float], limit: int) -> Iterator[tuple[float, list[int]]]:
    """Rows of one time, at most so many at once: (time, numbers of the rows), the times in order of
    appearance.

    >>> list(groups([0.5, 0.9, 0.5, 0.5], limit=2))
    [(0.5, [0, 2]), (0.5, [3]), (0.9, [1])]
    """
    for time in dict.fromkeys(times):
        own = [i for i, other in enumerate(times) if other == time]
        yield from ((time, own[a : a + limit]) for a in range(0, len(own), limit))

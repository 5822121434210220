"""Check by experiment whether a row's prediction depends on the other rows of its batch.

Some pipelines take one picture for all rows of a batch, or pad texts to the longest of the
batch. Batching such rows would change predictions silently, so a row is run alone and
beside other rows before rows share a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vidrl.data.prompt import is_file

from ._runner import Row

if TYPE_CHECKING:
    from ._runner import Runner

NO_LIMIT = 1 << 30  # rows in one batch
# The largest difference that rounding may make between a row that runs alone and the same row in
# a batch, as a fraction of the largest absolute prediction: libraries choose another kernel for
# another batch size, and another kernel rounds in another order.
TOLERANCE = {
    torch.float32: 1e-4,
    torch.float64: 1e-6,
    torch.bfloat16: 6e-2,
    torch.float16: 1e-2,
}
# The same for a GPU that multiplies float32 numbers as TF32, with 10 bits of mantissa.
TF32_TOLERANCE = 1e-3
# The same between two batches of one size, in every precision: these are rounded alike.
SAME_SIZE_TOLERANCE = 1e-5
# Two texts of the same words: they give different conditions of the same number of tokens.
TEXTS = (
    "a person in a red coat walks along a road and waves",
    "a person walks along a road in a red coat and waves",
)


def neighbours(row: Row, call: Mapping[str, Any]) -> list[Row]:
    """Return two rows to run beside a row: other texts, once with inverted pictures.

    The pictures are those of the row, and those that `call` gives to rows without their own: a
    later row may bring its own in their place.
    """
    shared = {name: value for name, value in call.items() if is_file(name) and value is not None}
    others = {name: inverted(value) for name, value in {**shared, **row.references}.items()}
    return [Row(TEXTS[0], row.references), Row(TEXTS[1], others)]


def add_neighbours(runner: Runner, row: int) -> list[int]:
    """Add the neighbours of a row to the runner's table; return their numbers."""
    added = neighbours(runner.table[row], runner.call)
    runner.table.extend(added)
    return list(range(len(runner.table) - len(added), len(runner.table)))


def inverted(value: Any) -> Any:
    """Invert the colours of a picture, or of each picture of a film; return a text as it is."""
    if isinstance(value, list):
        return [inverted(picture) for picture in value]
    return value.point(lambda level: 255 - level) if hasattr(value, "point") else value


def rows_are_independent(
    runner: Runner, rows: Sequence[int], latents: Sequence[Tensor], time: float
) -> bool:
    """Return whether the first of three rows has one prediction alone and beside the others.

    The first row is placed before and behind each of the two others; no gradient is
    computed. `latents` are the pipeline's, of one clip a row. False also if the pipeline
    raises for several rows with their own pictures, or returns another number of rows: then
    rows run alone.
    """
    with torch.no_grad():
        alone = runner.predict(rows[:1], latents[0], time).float()
        try:
            before, behind = (
                _with_neighbours(runner, rows, latents, time, place) for place in (0, 1)
            )
        except torch.OutOfMemoryError:
            raise
        except Exception:  # noqa: BLE001  a pipeline may refuse lists in any way
            return False
    if any(len(batch) != 2 * len(alone) for batch in (*before, *behind)):
        return False
    # There are two bounds. The row's predictions next to the two neighbours must agree closely,
    # because both batches have the same size. They may differ from the prediction of the row
    # that runs alone by the rounding of another batch size.
    rounding = _rounding_tolerance(next(iter(runner.switches.values())).network)
    created = (
        [batch[: len(alone)] for batch in before],
        [batch[len(alone) :] for batch in behind],
    )
    return all(_close(a, b, SAME_SIZE_TOLERANCE) and _close(a, alone, rounding) for a, b in created)


def _with_neighbours(
    runner: Runner, rows: Sequence[int], latents: Sequence[Tensor], time: float, place: int
) -> list[Tensor]:
    """Return the predictions of the first row with each of the others; `place` is its position."""
    pairs = [(0, other) if place == 0 else (other, 0) for other in (1, 2)]
    return [
        runner.predict([rows[i] for i in pair], torch.cat([latents[i] for i in pair]), time).float()
        for pair in pairs
    ]


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Return whether two predictions agree up to a tolerance relative to the maximum."""
    return bool((a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-6))


def _rounding_tolerance(network: torch.nn.Module) -> float:
    """Return how much of the maximum the batch size may change by rounding alone."""
    weight = next(network.parameters())
    tf32 = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    if weight.dtype == torch.float32 and weight.is_cuda and tf32:
        return TF32_TOLERANCE
    return TOLERANCE[weight.dtype]


def batches(times: Sequence[float], limit: int, mixed: bool = False) -> Iterator[list[int]]:
    """Yield the indices of the rows that run together, `limit` at most.

    Rows of one time run together, the times in order of appearance; with `mixed`, rows run
    together in their own order.

    >>> list(batches([0.5, 0.9, 0.5, 0.5], limit=2))
    [[0, 2], [3], [1]]
    >>> list(batches([0.5, 0.9, 0.5, 0.5], limit=3, mixed=True))
    [[0, 1, 2], [3]]
    """
    for time in [None] if mixed else dict.fromkeys(times):
        members = [i for i, other in enumerate(times) if mixed or other == time]
        yield from (members[a : a + limit] for a in range(0, len(members), limit))

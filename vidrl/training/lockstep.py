"""Let processes that share the weights call the network equally often.

Where the weights are sharded (`vidrl.training.sharding`), the processes gather the weights of
each block together, and where tokens are split (`vidrl.training.context_parallel`) they attend
to each other's tokens: a process that calls the network once more than the others would wait
for ever. The rows of an optimiser step are therefore cut into micro-batches that are alike on every
process; a process without rows for a micro-batch repeats a row, whose loss counts 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vidrl.algorithms.base import Batch
from vidrl.backbones.base import FOLLOWS, Cond, Denoiser, rows

from . import sharding
from .policy import Policy
from .processes import Workers

# Between the numbers of first chunks and of later ones: more than a batch has times, and small
# enough that float64 keeps times apart.
APART = 1e6


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch, and whether its rows count: rows that do not count have loss 0."""

    batch: Batch
    counts: bool = True


class Lockstep:
    """The processes that call the network together, or this process alone.

    Otherwise every process works at its own pace, and no number is exchanged.
    """

    def __init__(self, workers: Workers, policy: Policy):
        self.workers, self.policy = workers, policy

    @property
    def on(self) -> bool:
        """Return whether the processes must call the network equally often."""
        return self.workers.together

    def most(self, n: int) -> int:
        """Return the largest n of any process; n itself where processes work alone."""
        return int(self.workers.all(torch.tensor([n])).max()) if self.on else n

    def failed(self, failed: bool) -> bool:
        """Return whether memory ran out on any process, and make all networks ready again."""
        anywhere = self.workers.any(failed)
        if anywhere:
            sharding.reset(self.policy.sharded)
        return anywhere

    def micro_batches(self, batch: Batch, size: int, prompts: Sequence[str]) -> list[MicroBatch]:
        """Return a batch in micro-batches of at most `size` rows, sorted by time.

        In lockstep, micro-batch j has the same number of rows on every process, and times such
        that `predict` calls the network equally often (`Denoiser.calls_depend_on`). `prompts`:
        those of the round; a repeated row gets the first one.
        """
        ordered = batch.by_time()
        if not self.on:
            return [MicroBatch(part) for part in ordered.split(size)]
        own = labels(ordered, self.policy.backbone)
        table = self._counts(own)
        borrowed = self._borrowed(ordered, own, table, prompts)
        return list(_cut(ordered, own, table, borrowed, size))

    def _counts(self, own: Tensor) -> dict[float, list[int]]:
        """Return how many rows each process has of each label, the labels in falling order."""
        label, count = own.unique(return_counts=True)
        rank = torch.full_like(label, self.workers.rank)
        found = self.workers.all(torch.stack([label, rank, count.double()], 1))
        table: dict[float, list[int]] = {
            value: [0] * self.workers.count for value in found[:, 0].unique().flip(0).tolist()
        }
        for value, process, n in found.tolist():
            table[value][int(process)] = int(n)
        return table

    def _borrowed(
        self, batch: Batch, own: Tensor, table: dict[float, list[int]], prompts: Sequence[str]
    ) -> dict[float, Batch]:
        """Return one row of each label of which some process has no row, on every process."""
        lacking = [label for label, counts in table.items() if 0 in counts]
        if not lacking:
            return {}
        first = {label: int((own == label).nonzero()[0]) for label in lacking if label in own}
        holders = [
            (label, rank)
            for rank in range(self.workers.count)
            for label in lacking
            if table[label][rank]
        ]
        place = {label: i for i, (label, _) in reversed(list(enumerate(holders)))}
        index = torch.tensor(list(first.values()), dtype=torch.long)
        data, cond = (self._gathered(rows(held, index)) for held in (batch.data, batch.cond))
        whole = replace(batch, data=data, cond=cond, prompts=[prompts[0]] * len(holders))
        return {label: whole.part(slice(place[label], place[label] + 1)) for label in lacking}

    def _gathered(self, own: Cond) -> Cond:
        """Return the rows of all processes, where this process has its own."""
        return {name: self.workers.all(value).to(value.device) for name, value in own.items()}


def labels(batch: Batch, backbone: Denoiser) -> Tensor:
    """Return a number for each row of a batch sorted by time, (n,).

    Rows of one number may be predicted together in lockstep: all rows, rows of the k-th time
    (−k), or rows of one time. First chunks of clips and chunks that follow another one are never
    predicted together, so that the latter have numbers of their own.
    """
    if FOLLOWS not in batch.cond:
        return _labels_of_one_kind(batch, backbone)
    later = batch.cond[FOLLOWS].cpu() > 0
    found = torch.empty(len(batch), dtype=torch.float64)
    for rows_of_kind, shift in ((~later, 0.0), (later, APART)):
        part = batch.part(rows_of_kind.nonzero().flatten().to(batch.cond[FOLLOWS].device))
        found[rows_of_kind] = _labels_of_one_kind(part, backbone) - shift
    return found


def _labels_of_one_kind(batch: Batch, backbone: Denoiser) -> Tensor:
    """Return the numbers of rows that are all first chunks, or all later ones, in falling order."""
    if "t" not in batch.data or backbone.calls_depend_on == "rows":
        return torch.zeros(len(batch), dtype=torch.float64)
    t = batch["t"].double().cpu()
    if backbone.calls_depend_on == "time":
        return t
    return -(t.diff(prepend=t[:1]) != 0).double().cumsum(0)


def _cut(
    batch: Batch,
    own: Tensor,
    table: dict[float, list[int]],
    borrowed: dict[float, Batch],
    size: int,
) -> Iterator[MicroBatch]:
    """Yield the micro-batches, the same number with the same numbers of rows on every process.

    The rows of a label are cut where the rows of some process end, and every `size` rows.
    """
    for label, counts in table.items():
        mine = (own == label).nonzero().flatten()
        row = batch.part(mine[:1]) if len(mine) else borrowed[label]
        start = 0
        for end in sorted(set(counts) - {0}):
            for a in range(start, end, size):
                n = min(size, end - a)
                enough = a < len(mine)
                filled = batch.part(mine[a : a + n]) if enough else row.part(torch.zeros(n).long())
                yield MicroBatch(filled, enough)
            start = end

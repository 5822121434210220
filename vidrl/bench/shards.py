"""Divide the work among several processes or machines, and merge their rows.

Each process measures its part of the items into one shared cache, and writes its rows to a
file; the first process merges the files. The processes are those that torchrun or
`accelerate launch` start, and torch.distributed is used only to wait for each other:
training clusters have it, and nothing else must be installed. No scheduler is needed,
because clips are independent and the cache makes a second attempt cheap.

    torchrun --nnodes 2 --nproc-per-node 8 -m vidrl bench videos/ --out shared/bench

is run on every machine. The folder `out` must be visible to all of them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from vidrl.bench.cache import write_atomic
from vidrl.bench.items import Found, Item
from vidrl.bench.scoring import Row

LONGEST_WAIT = timedelta(days=7)  # for the slowest process at a barrier
FILE_DELAY = 60.0  # seconds within which a shared file system must show another machine's file


class ProcessGroup:
    """The processes of one run; used as a context manager.

    Without RANK and WORLD_SIZE in the environment there is one process, which does not
    wait.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.folder = Path(folder)

    @property
    def is_first(self) -> bool:
        """Return whether this process merges the rows and writes the results."""
        return self.rank == 0

    def __enter__(self) -> ProcessGroup:
        if self.size > 1:
            import torch.distributed as dist

            from vidrl.training.processes import import_collectives

            import_collectives()
            if not dist.is_initialized():
                dist.init_process_group("gloo", timeout=LONGEST_WAIT)
        return self

    def __exit__(self, *error: object) -> None:
        if self.size > 1 and error[0] is None:
            import torch.distributed as dist

            dist.destroy_process_group()

    def wait(self) -> None:
        """Wait until all processes have arrived here."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()

    def find_once(self, make: Callable[[], list[Found]]) -> list[Found]:
        """Return what `make` gives in the first process, the same in all processes.

        If each process listed the folders, the lists could differ, because a folder may
        change meanwhile, and the parts would no longer fit together.
        """
        if self.size == 1:
            return make()
        path = self.folder / "sets.json"
        path.unlink(missing_ok=True) if self.is_first else None
        self.wait()
        if self.is_first:
            write_atomic(path, json.dumps([_plain(found) for found in make()], ensure_ascii=False))
        self.wait()
        return [_found(row) for row in _read(path)]

    def measure(
        self, run: Callable[[list[Item]], list[Row]], items: Sequence[Item]
    ) -> list[Row] | None:
        """Measure this process's part; return all rows in order in the first process, else None.

        Process r of n measures the items r, r + n, r + 2n ..., so that neighbouring items,
        which often have equal length, are spread evenly. The result is the same however
        many processes there are.
        """
        if self.size == 1:
            return run(list(items))
        # A file of an earlier run must not be taken for the file of this run.
        self._part(self.rank).unlink(missing_ok=True)
        write_atomic(
            self._part(self.rank),
            json.dumps(run(list(items[self.rank :: self.size])), ensure_ascii=False),
        )
        self.wait()
        if not self.is_first:
            return None
        parts = [_read(self._part(rank)) for rank in range(self.size)]
        for rank in range(self.size):
            self._part(rank).unlink(missing_ok=True)
        # Undo the interleaving: item i was number i // n of process i % n.
        return [parts[i % self.size][i // self.size] for i in range(len(items))]

    def device(self, name: str) -> str:
        """Return the device of this process: each process of a machine gets a GPU, in turn."""
        import torch

        if name != "cuda" or self.size == 1:
            return name
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % max(1, torch.cuda.device_count())}"

    def _part(self, rank: int) -> Path:
        """Return the file with the rows that process `rank` measured."""
        return self.folder / f"rows-{rank}.json"


def _read(path: Path) -> Any:
    """Read what another process wrote, waiting for a shared file system to show the file."""
    deadline = time.monotonic() + FILE_DELAY
    while not path.is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    if not path.is_file():
        raise RuntimeError(
            f"expected {path} from another process, and it did not come in {FILE_DELAY:.0f} "
            "s: --out must be a folder that all machines share"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def _plain(found: Found) -> dict[str, Any]:
    """Return found clips as JSON."""
    items = [
        asdict(item)
        | {"path": str(item.path), "reference": str(item.reference) if item.reference else None}
        for item in found.items
    ]
    return {"items": items, "skipped": found.skipped, "notes": found.notes}


def _found(row: dict[str, Any]) -> Found:
    """Return found clips from JSON."""
    items = [
        Item(
            Path(item["path"]),
            item["prompt"],
            item["seed"],
            Path(item["reference"]) if item["reference"] else None,
            item["meta"],
        )
        for item in row["items"]
    ]
    return Found(items, row["skipped"], row["notes"])

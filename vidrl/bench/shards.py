"""The work of several processes or machines: each measures its share into one cache, the
first puts all together.

The engine is torch.distributed, which torchrun and `accelerate launch` set up and every
training cluster has: ranks, a meeting point, and an end for all when one dies, with nothing
to install beside torch. Clips need no scheduler, since they are independent and the cache
makes a second attempt free; so Ray's actors, object store and daemons would be one more
cluster to run, and nothing that is used.

    torchrun --nnodes 2 --nproc-per-node 8 -m vidrl bench videos/ --out shared/bench

The folder `out` lies where all see it. Nothing travels between processes but "I am done";
rows go through files.
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

LONGEST_WAIT = timedelta(days=7)  # that the first waits for the last
FILE_DELAY = 60.0  # seconds after which a file that another machine wrote must be seen


class ProcessGroup:
    """The processes of one run; without RANK and WORLD_SIZE in the environment there is
    one, which waits for nobody."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.rank, self.size = (
            int(os.environ.get("RANK", "0")),
            int(os.environ.get("WORLD_SIZE", "1")),
        )
        self.folder = Path(folder)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def __enter__(self) -> ProcessGroup:
        if self.size > 1:
            import torch.distributed as dist

            if not dist.is_initialized():
                dist.init_process_group("gloo", timeout=LONGEST_WAIT)
        return self

    def __exit__(self, *error: object) -> None:
        if self.size > 1 and error[0] is None:
            import torch.distributed as dist

            dist.destroy_process_group()

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()

    def find_once(self, make: Callable[[], list[Found]]) -> list[Found]:
        """What the first process found, as all see it: a folder may change while they
        start."""
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
        """`run(items)`, each process its share; the first gets all rows in order, the
        others None."""
        if self.size == 1:
            return run(list(items))
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
        return [parts[i % self.size][i // self.size] for i in range(len(items))]

    def device(self, name: str) -> str:
        """The device of this process: each of a machine has a GPU of its own, in turn."""
        import torch

        if name != "cuda" or self.size == 1:
            return name
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % max(1, torch.cuda.device_count())}"

    def _part(self, rank: int) -> Path:
        return self.folder / f"rows-{rank}.json"


def _read(path: Path) -> Any:
    """What another process wrote; file systems of several machines show it late."""
    deadline = time.monotonic() + FILE_DELAY
    while not path.is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    if not path.is_file():
        raise RuntimeError(
            f"expected {path} from another process, and it did not come in {FILE_DELAY:.0f} s: --out must be a "
            "folder that all machines share"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def _plain(found: Found) -> dict[str, Any]:
    items = [
        asdict(item)
        | {"path": str(item.path), "reference": str(item.reference) if item.reference else None}
        for item in found.items
    ]
    return {"items": items, "skipped": found.skipped, "notes": found.notes}


def _found(row: dict[str, Any]) -> Found:
    items = [
        Item(
            Path(one["path"]),
            one["prompt"],
            one["seed"],
            Path(one["reference"]) if one["reference"] else None,
            one["meta"],
        )
        for one in row["items"]
    ]
    return Found(items, row["skipped"], row["notes"])

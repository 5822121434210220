"""However the work is split, the results are the same to the last byte."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist
from _clips import folder
from toys import ended, forked

from vidrl.bench import items
from vidrl.bench.shards import ProcessGroup
from vidrl.training import launch

HERE = Path(__file__).parent


def in_two(told, action):
    """`action(rank)` in two processes of one group, as torchrun starts them."""
    shared = {key: value for key, value in launch.environment(2).items() if key != launch.PARENT}

    def body(rank):
        os.environ.update(shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        try:
            action(rank)
        except BaseException as error:
            told.with_suffix(f".{rank}").write_text(f"{type(error).__name__}: {error}")
            raise

    return [ended(child) for child in [forked(lambda r=rank: body(r)) for rank in range(2)]]


def test_one_process_waits_for_nobody(tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with ProcessGroup(tmp_path) as group:
        rows = group.measure(lambda part: [{"path": item} for item in part], ["a", "b"])
        assert rows == [{"path": "a"}, {"path": "b"}]
        assert group.device("cuda") == "cuda" and not dist.is_initialized()
    assert not list(tmp_path.iterdir())


def test_two_processes_share_the_work_and_the_first_has_all_rows_in_order(tmp_path):
    path = folder(tmp_path / "v", 5)

    # measuring itself would need decoders, which a fork of pytest's may not have
    def rows_of(part):
        return [{"path": str(item.path), "x": 0.1 + len(item.path.name)} for item in part]

    def body(rank):
        shares = []
        with ProcessGroup(tmp_path / "shards") as group:
            (seen,) = group.find_once(lambda: [items.find([path])] if rank == 0 else 1 / 0)
            assert seen == items.find([path])
            rows = group.measure(lambda part: shares.append(part) or rows_of(part), seen.items)
        assert shares == [seen.items[rank::2]] and rows == (
            rows_of(seen.items) if rank == 0 else None
        )

    assert in_two(tmp_path / "told", body) == [0, 0], [
        p.read_text() for p in tmp_path.glob("told.*")
    ]
    assert [p.name for p in (tmp_path / "shards").iterdir()] == ["sets.json"]


def test_what_a_killed_run_left_is_no_answer(tmp_path):
    (tmp_path / "rows-0.json").write_text("[]")
    (tmp_path / "rows-1.json").write_text('["stale"]')

    def body(rank):
        with ProcessGroup(tmp_path) as group:
            late = lambda part: time.sleep(0.5 * rank) or [{"path": item} for item in part]  # noqa: E731
            rows = group.measure(late, ["a", "b", "c"])
        assert rows == (None if rank else [{"path": "a"}, {"path": "b"}, {"path": "c"}])

    assert in_two(tmp_path / "told", body) == [0, 0], [
        p.read_text() for p in tmp_path.glob("told.*")
    ]


def bench(path, out, processes):
    """`vidrl bench` in so many processes; what results.json holds, but for when and how it
    was made."""
    alone = {
        key: value
        for key, value in os.environ.items()
        if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    }
    words = [
        "bench",
        str(path),
        "--out",
        str(out),
        "--dims",
        "default,flicker,drift",
        "--jobs",
        "0",
        "--format",
        "csv",
    ]
    run = (
        f"import sys\nfrom vidrl.training import launch\nsys.exit(launch.launch({words!r}, "
        f"{processes}))"
    )
    here = HERE.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", run], env=alone, capture_output=True, text=True, cwd=here
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((out / "results.json").read_text())
    return json.dumps(
        {key: value for key, value in found.items() if key not in ("made", "command")}
    )


@pytest.mark.slow
def test_the_command_gives_the_same_bytes_in_one_process_and_in_three(tmp_path):
    path = folder(tmp_path / "v", 4, frames=17)
    (path / "broken.mp4").write_bytes(b"no")
    one, three = bench(path, tmp_path / "one", 1), bench(path, tmp_path / "three", 3)
    assert one == three
    assert (tmp_path / "one" / "results.csv").read_bytes() == (
        tmp_path / "three" / "results.csv"
    ).read_bytes()

"""Runs shared by several processes of this machine, which are forked from the test or launched."""

import os
import subprocess
import sys
from pathlib import Path

from toys import ended, forked

from vidrl import config
from vidrl.recipe.toml import write
from vidrl.training import launch, loop

HERE = Path(__file__).parent
RUNS_ALONE = {"RANK", "WORLD_SIZE", "LOCAL_RANK"}


def as_rank(rank: int, shared: dict[str, str], action, told: Path) -> None:
    """Do something as one process of a group, and write down what went wrong."""
    from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state(reset_partial_state=True)  # of runs in the parent
    PartialState._reset_state()
    os.environ.update(shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    try:
        action(rank)
    except BaseException as error:
        told.with_suffix(f".{rank}").write_text(f"{type(error).__name__}: {error}")
        raise


def in_group(folder: Path, action, n: int = 2) -> list[int]:
    """Run `action(rank)` in n processes of one group; their exit statuses."""
    shared = {k: v for k, v in launch.environment(n).items() if k != launch.PARENT}
    children = [
        forked(lambda r=rank: as_rank(r, shared, action, folder / "error")) for rank in range(n)
    ]
    return [ended(child) for child in children]


def trained(made: dict, resume: bool = False, n: int = 2) -> Path:
    """Train in n processes; the run folder."""
    folder = Path(made["run"]).parent
    statuses = in_group(folder, lambda rank: loop.run(made, resume), n)
    assert statuses == [0] * n, [path.read_text() for path in folder.glob("error.*")]
    return Path(made["run"])


def launched(made: dict, *words: str) -> subprocess.Popen:
    """Start `vidrl train --processes 2` of a recipe; processes of their own share no thread."""
    recipe = Path(made["run"]).parent / "toy.toml"
    recipe.write_text(write(config.load(made).to_dict()))
    alone = {key: value for key, value in os.environ.items() if key not in RUNS_ALONE}
    paths = [str(HERE / "training"), str(HERE), str(HERE.parent)]
    return subprocess.Popen(
        [sys.executable, "-m", "vidrl", "train", str(recipe), "--processes", "2", *words],
        env=alone | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

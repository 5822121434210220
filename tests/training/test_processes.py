"""Two processes train as one: equal weights on both, the same learning curve, and none
waits for one that failed."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conditioned import conditioned
from groups import in_group, launched, trained
from toys import recipe, rows, summary, timeless, with_clips

from vidrl import config
from vidrl.algorithms.base import Loss
from vidrl.algorithms.grpo import GRPO
from vidrl.training import checkpoint, launch, loop
from vidrl.training.broadcast import from_main
from vidrl.training.processes import Workers


def error(folder: Path, rank: int) -> str:
    return (folder / f"error.{rank}").read_text()


def close(one: dict, other: dict, tolerance: float) -> None:
    """Two rows of numbers agree."""
    assert one.keys() == other.keys()
    for name in one:
        if isinstance(one[name], dict):
            close(one[name], other[name], tolerance)
        else:
            assert one[name] == pytest.approx(other[name], rel=tolerance, abs=tolerance), name


def last_weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(run)["policy"]


# --- as one


@pytest.mark.parametrize(
    "changes",
    [
        {"train_prompts_per_round": 2, "train_group": 4},
        # the group is split: its statistics come from both
        {"train_prompts_per_round": 1, "train_group": 4},
        {"train_prompts_per_round": 1, "train_group": 2},  # one member each
    ],
    ids=["groups", "split", "single"],
)
def test_two_processes_learn_as_one_does(tmp_path, changes):
    """Gradients are summed over the same global minibatches: equal but for the order of
    float32 additions, 1e-5."""
    one = loop.run(recipe(tmp_path / "one", **changes))
    two = trained(recipe(tmp_path / "two", **changes))
    for a, b in zip(rows(one), rows(two), strict=True):
        close(timeless(a), timeless(b), 1e-5)
        assert a["diversity"] is not None and math.isfinite(b["diversity"])
    for name, value in last_weights(one).items():
        assert torch.allclose(value, last_weights(two)[name], rtol=0, atol=1e-5), name
    for a, b in zip(rows(one, "evals"), rows(two, "evals"), strict=True):
        assert a["n"] == b["n"] == 5  # which two does not divide
        close(a["measures"], b["measures"], 1e-5)
    assert "NaN" not in (two / "metrics.jsonl").read_text()
    assert json.loads((two / "credit.json").read_text()) and summary(two)["status"] == "finished"


def test_two_processes_compare_each_clip_with_its_own_image(tmp_path):
    """Prompts of one text, told apart by their images alone: clips of mixed rows would
    score below −0.2."""
    one = loop.run(conditioned(tmp_path / "one", train_rounds=2))
    two = trained(conditioned(tmp_path / "two", train_rounds=2))
    for a, b in zip(rows(one), rows(two), strict=True):
        assert b["reward"]["mean"] > -0.06 and b["unscored_share"] == 0
        close(timeless(a), timeless(b), 1e-5)
    for a, b in zip(rows(one, "evals"), rows(two, "evals"), strict=True):
        assert b["measures"]["composite"]["mean"] > -0.06
        close(a["measures"], b["measures"], 1e-5)


@pytest.mark.parametrize("data", ["clips", "pairs", "beside"])
def test_two_processes_read_files_as_one_does(tmp_path, monkeypatch, data):
    """The clips are encoded by turns; one that cannot be read is left out by both."""
    pytest.importorskip("av", reason="needs vidrl[train]")
    # test_offline, which defines Paired, lies in another folder of the tests
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "data"))
    paired = {"name": "test_offline:Paired", "options": {"segments": 3}}
    algorithm = {
        "clips": {"name": "sft"},
        "pairs": paired,
        "beside": {"options": {"steps": 4, "segments": 3}},
    }[data]
    runs = []
    for name in ("one", "two"):
        made = recipe(
            tmp_path / name,
            algorithm=algorithm,
            train_rounds=2,
            train_data_weight=0.5 * (data == "beside"),
        )
        with_clips(tmp_path / name, made, 8, data == "pairs", [1, 0, -1])
        (tmp_path / name / "clips" / "5.mp4").write_text("no video")
        runs.append(loop.run(made) if name == "one" else trained(made))
    for a, b in zip(rows(runs[0]), rows(runs[1]), strict=True):
        close(timeless(a), timeless(b), 1e-5)
    one, two = map(last_weights, runs)
    assert all(torch.allclose(one[name], two[name], rtol=0, atol=1e-5) for name in one)
    told = [
        next(row["message"] for row in rows(run, "events") if row["message"].startswith("data."))
        for run in runs
    ]
    assert all("5.mp4" in each for each in told)


def test_both_end_with_the_same_weights_and_one_writes(tmp_path):
    made = recipe(tmp_path, train_rounds=2)

    def body(rank: int) -> None:
        trainer = loop.Trainer.from_recipe(config.load(made))
        trainer.go(resume=False)
        (tmp_path / f"sum{rank}").write_text(trainer.policy.checksum())
        trainer.workers.close()

    assert in_group(tmp_path, body) == [0, 0]
    assert (tmp_path / "sum0").read_text() == (tmp_path / "sum1").read_text()
    assert [row["round"] for row in rows(made["run"])] == [1, 2]


def test_a_run_of_two_goes_on_exactly_by_two_and_nearly_so_by_one(tmp_path):
    whole = trained(recipe(tmp_path / "whole"))
    made, go_on = recipe(tmp_path / "made"), loop.Trainer._train_round

    def body(rank: int) -> None:
        def asked(trainer):  # rank 1 alone is told to stop: the other must follow
            if trainer.state.round == 2 and rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return go_on(trainer)

        loop.Trainer._train_round = asked
        loop.run(made)

    assert in_group(tmp_path, body) == [0, 0]
    assert (
        checkpoint.status(made["run"]) == "interrupted"
        and checkpoint.load(made["run"])["round"] == 3
    )
    shutil.copytree(made["run"], tmp_path / "alone" / "run")
    trained(made, resume=True)
    ours, theirs = last_weights(Path(made["run"])), last_weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    alone = loop.run(made | {"run": str(tmp_path / "alone" / "run")}, resume=True)
    assert all(
        torch.allclose(last_weights(alone)[name], theirs[name], rtol=0, atol=1e-5)
        for name in theirs
    )
    said = {row["kind"]: row["message"] for row in rows(alone, "events")}
    assert said["change"] == "processes: 2 -> 1" and said["exactness"].startswith("from round 3 on")


class Quiet(GRPO):
    """An algorithm whose loss reports no ratio; where `only` is given, only that prompt's
    pairs report anything."""

    def __init__(self, only: int = -1) -> None:
        super().__init__(steps=4, segments=3, eta=0.5)
        self.only = only

    def loss(self, policy, batch):
        made, rank = super().loss(policy, batch), int(os.environ.get("RANK", "0"))
        reports = {} if self.only not in (-1, rank) else {"spread": made.metrics["ratio"].std(1)}
        return Loss(made.value, reports)


@pytest.mark.parametrize("only", [-1, 1, 2], ids=["both", "one process", "none"])
def test_a_loss_may_report_no_ratio_and_processes_may_report_different_metrics(tmp_path, only):
    algorithm = {"name": "test_processes:Quiet", "options": {"only": only}}
    one = loop.run(recipe(tmp_path / "one", algorithm=algorithm | {"options": {}}, train_rounds=1))
    two = trained(recipe(tmp_path / "two", algorithm=algorithm, train_rounds=1))
    row = rows(two)[0]
    assert "ratio" not in row and ("spread" in row) == (only != 2)
    for name, value in last_weights(one).items():
        assert torch.allclose(value, last_weights(two)[name], rtol=0, atol=1e-5), name
    if only == -1:
        assert row["spread"] == pytest.approx(rows(one)[0]["spread"], abs=1e-6)


# --- what a group of processes does


def test_rows_of_both_are_gathered_in_order(tmp_path):
    def body(rank: int) -> None:
        workers = Workers()
        mine = workers.share(5, even=False)
        assert mine == [[0, 1, 2], [3, 4]][rank]
        assert workers.all(torch.tensor(mine, dtype=torch.float64)).tolist() == [0, 1, 2, 3, 4]
        # none of one, three of the other
        assert workers.all(torch.zeros(3 * rank, 2)).shape == (3, 2)
        assert workers.gather_arrays({"x": np.full(rank + 1, np.nan)})["x"].shape == (3,)
        assert workers.all(torch.zeros(0)).shape == (0,) and workers.all(
            torch.zeros(0, 4)
        ).shape == (0, 4)
        assert workers.names(["b", "é"] if rank else []) == ["b", "é"] and workers.names([]) == []
        assert workers.names(["a", "c"] if rank else ["c", "b"]) == ["a", "b", "c"]
        weight = torch.nn.Parameter(torch.zeros(2))
        weight.grad = torch.ones(2) if rank else None
        workers.sum_gradients([weight])
        assert weight.grad.tolist() == [1, 1]
        assert workers.agree("time limit" if rank else "") == "time limit"
        workers.assert_alike("0" * 16)

    assert in_group(tmp_path, body) == [0, 0], [
        path.read_text() for path in tmp_path.glob("error.*")
    ]


def test_an_overflow_on_one_process_leaves_the_step_out_on_both(tmp_path):
    def body(rank: int) -> None:
        workers, weight = Workers(), torch.nn.Parameter(torch.ones(2))
        workers.engine.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        optimiser = torch.optim.SGD([weight], lr=1.0)
        for value, taken, scale in ((float("inf"), False, 4.0), (1.0, True, 4.0)):
            if rank:  # process 0 has no pair, so it never scaled a loss
                workers.backward((weight * value).sum())
            workers.sum_gradients([weight])
            workers.unscale(optimiser)
            assert workers.step(optimiser) is taken and workers.loss_scale == scale
            optimiser.zero_grad(set_to_none=True)
        assert weight.tolist() == [0, 0]

    assert in_group(tmp_path, body) == [0, 0], [
        path.read_text() for path in tmp_path.glob("error.*")
    ]


def test_different_weights_are_found(tmp_path):
    assert in_group(tmp_path, lambda rank: Workers().assert_alike(f"{rank:016x}"[::-1])) == [1, 1]
    assert "expected the same weights on all 2 processes" in error(tmp_path, 0) + error(tmp_path, 1)


def test_what_fails_on_the_main_process_fails_on_all(tmp_path):
    made = recipe(tmp_path, train_rounds=1)
    loop.run(made)
    start = time.monotonic()
    assert in_group(tmp_path, lambda rank: loop.run(made)) == [1, 1]
    assert time.monotonic() - start < 15
    assert "add --resume" in error(tmp_path, 0) and "the main process failed" in error(tmp_path, 1)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"train_prompts_per_round": 1, "train_group": 3}, "that 2 processes divide, got 3"),
        ({"data_held_out_n": 1}, "at least one clip a process, got 1 for 2"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_an_error_before_any_work(tmp_path, changes, expected):
    made = recipe(tmp_path, **changes)
    assert in_group(tmp_path, lambda rank: loop.run(made)) == [1, 1]
    assert expected in error(tmp_path, 0) and expected in error(tmp_path, 1)
    assert not Path(made["run"]).exists()


# --- without a shared disk


def apart(folder: Path, made: dict, resume: bool = False) -> list[int]:
    """Run with a working directory of its own for each process, as on machines that share
    no disk."""

    def body(rank: int) -> None:
        here = folder / str(rank)
        here.mkdir(exist_ok=True)
        os.chdir(here)
        loop.run(made | {"run": "run"}, resume)

    return in_group(folder, body)


def test_only_the_main_process_needs_the_run_folder(tmp_path):
    """Guards that put weights back, a resumption and another evaluation: all that reads
    what was written."""
    guard = {"action": "rollback", "bands": {"composite": [0.98, 1.015]}}
    made = recipe(tmp_path / "made", train_rounds=4, guard=guard)
    assert apart(tmp_path, made) == [0, 0], [path.read_text() for path in tmp_path.glob("error.*")]
    made["train"] |= {"rounds": 6, "eval_steps": 4}
    assert apart(tmp_path, made, resume=True) == [0, 0], [
        path.read_text() for path in tmp_path.glob("error.*")
    ]
    # finished: told to the process that cannot see it
    assert apart(tmp_path, made, resume=True) == [0, 0]
    assert "rollback" in {row["kind"] for row in rows(tmp_path / "0" / "run", "events")}
    assert summary(tmp_path / "0" / "run")["rounds"] == 6 and not (tmp_path / "1" / "run").exists()


def test_what_a_checkpoint_holds_arrives_whole(tmp_path):
    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).double()
    state = {
        "a": torch.arange(7, dtype=torch.bfloat16)[::2],
        "b": [np.arange(3), (1, None, "ü")],
        "c": torch.tensor(True),
        "d": torch.zeros(0, 2),
        "e": noise,
    }

    def body(rank: int) -> None:
        got = from_main(
            Workers(), lambda: state if rank == 0 else pytest.fail("only the main process reads")
        )
        assert all(torch.equal(got[k], state[k]) and got[k].dtype == state[k].dtype for k in "acde")
        assert np.array_equal(got["b"][0], np.arange(3)) and got["b"][1] == (1, None, "ü")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vidrl.training.broadcast.PIECE", 5)
        assert in_group(tmp_path, body) == [0, 0], [
            path.read_text() for path in tmp_path.glob("error.*")
        ]


def test_other_prompts_on_another_machine_are_told_before_any_work(tmp_path):
    made = recipe(tmp_path)
    made["data"]["prompts"] = "mine.txt"

    def body(rank: int) -> None:
        here = tmp_path / str(rank)
        here.mkdir()
        os.chdir(here)
        Path("mine.txt").write_text("a cat\na dog\n" if rank else "a cat\na cow\n")
        loop.run(made)

    assert in_group(tmp_path, body) == [1, 1] and not Path(made["run"]).exists()
    assert "the same recipe and prompts on every process, got others on 1 than on 0" in error(
        tmp_path, 0
    )
    assert "equal copies of mine.txt" in error(tmp_path, 1)


def test_a_suite_on_machines_without_a_shared_disk_is_refused_before_any_work(tmp_path):
    made = recipe(tmp_path / "made", bench={"suite": "any"})
    assert apart(tmp_path, made) == [1, 1]
    for rank in range(2):
        said = error(tmp_path, rank)
        assert (
            "bench.suite: every process writes its clips into" in said
            and "process 1 does not see" in said
        )
    assert not (tmp_path / "0" / "run" / "metrics.jsonl").exists()
    shutil.rmtree(tmp_path / "0")
    # only the CLI looks at it
    assert trained(recipe(tmp_path / "shared", bench={"suite": "any"}, train_rounds=1))


ENDED = """
from pathlib import Path
from vidrl.training.processes import Workers
workers = Workers()
import torch.distributed.nn.functional  # as an optimiser does
workers.close()
print(*(task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc, as of Linux")
def test_no_thread_of_the_group_is_left_at_the_end():
    """A process that ends while threads of gloo run is aborted at times."""
    shared = launch.environment(2)
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", ENDED], env=shared | rank, stdout=subprocess.PIPE, text=True
        )
        for rank in ranks
    ]
    told = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert all("python" in one and "gloo" not in one for one in told), told


# --- by the launcher


@pytest.mark.slow
def test_an_interrupt_to_the_launcher_saves_and_the_run_goes_on(tmp_path):
    made = recipe(tmp_path, reward={"name": "toys:Slow", "options": {"seconds": 0.2}})
    with launched(made) as child:
        while len(rows(made["run"])) < 2:
            assert child.poll() is None, child.stdout.read()
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        said = child.communicate(timeout=60)[0]
    assert child.returncode == 130 and "--resume" in said and "Traceback" not in said, said
    with launched(made, "--resume") as child:
        said = child.communicate(timeout=120)[0]
    assert child.returncode == 0, said
    assert [row["round"] for row in rows(made["run"])] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_a_failing_process_ends_all(tmp_path):
    made = recipe(tmp_path, reward={"name": "toys:Crashing"})
    with launched(made) as child:
        said = child.communicate(timeout=120)[0]
    assert child.returncode == 2 and "this process is out of luck" in said

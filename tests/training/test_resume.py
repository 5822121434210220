"""A run that was killed, stopped or starved of disk, and resumed, ends as one that never
was."""

import errno
import functools
import importlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import ended, forked, recipe, rows, signalled, summary, timeless, weights

from vidrl import config
from vidrl.recipe.toml import write
from vidrl.training import checkpoint, loop
from vidrl.training.between_rounds import BetweenRounds
from vidrl.training.held_out import HeldOut

# left on purpose: state is put back too
STUBBORN = {"action": "rollback", "bands": {"composite": [0.98, 1.03]}}


def busy(folder: Path, **changes) -> dict:
    return recipe(folder, train_rounds=6, train_ema=0.5, guard=STUBBORN, **changes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return loop.run(busy(tmp_path_factory.mktemp("whole")))


def same_run(run: Path, other: Path) -> None:
    """Weights to the last bit, and every log but what clocks and resumptions write."""
    assert weights(run) == weights(other)
    assert [timeless(row) for row in rows(run)] == [timeless(row) for row in rows(other)]
    assert rows(run, "evals") == rows(other, "evals")
    told = [[row for row in rows(one, "events") if row["kind"] != "resume"] for one in (run, other)]
    assert told[0] == told[1]
    assert summary(run)["held_out"] == summary(other)["held_out"]
    for path in sorted((other / "evals").iterdir()):
        with np.load(path) as a, np.load(run / "evals" / path.name) as b:
            assert a.files == b.files and all(
                np.array_equal(a[k], b[k], equal_nan=True) for k in a.files
            )
    clips = sorted(str(path.relative_to(other)) for path in (other / "clips").rglob("*.mp4"))
    assert [str(path.relative_to(run)) for path in sorted((run / "clips").rglob("*.mp4"))] == clips
    assert all((run / name).read_bytes() == (other / name).read_bytes() for name in clips)


def test_the_undisturbed_run_put_weights_back_and_kept_the_best(undisturbed):
    kinds = {row["kind"] for row in rows(undisturbed, "events")}
    assert {"guard", "rollback"} <= kinds and summary(undisturbed)["status"] == "finished"


# --- kills


def test_killed_at_five_random_moments_it_ends_with_the_same_weights(tmp_path, undisturbed):
    moments, start, kills, attempt = (
        random.Random(int(os.environ.get("KILLS", "1"))),
        time.monotonic(),
        0,
        0,
    )
    assert ended(forked(lambda: loop.run(busy(tmp_path / "timed")))) == 0
    whole = time.monotonic() - start
    while kills < 5:
        attempt += 1
        made, alive = busy(tmp_path / str(attempt)), False
        while kills < 5 and not alive:
            pid = forked(lambda made=made: loop.run(made, resume=True))
            time.sleep(moments.uniform(0, whole))
            os.kill(pid, signal.SIGKILL)
            alive = ended(pid) == 0
            kills += not alive
        assert ended(forked(lambda made=made: loop.run(made, resume=True))) == 0
        same_run(Path(made["run"]), undisturbed)


CALLS = ["fsync", "replace", "rename"]


def killed_at(call: int, body) -> int:
    """Run `body` in a child that dies at its n-th write to the disk, as under SIGKILL."""

    def doomed() -> None:
        count = 0

        def counted(real):
            def wrapped(*arguments, **named):
                nonlocal count
                count += 1
                if count == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **named)

            return wrapped

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        body()

    return ended(forked(doomed))


def test_killed_between_any_two_kinds_of_writes_it_ends_the_same(tmp_path, undisturbed):
    """Every third write in turn: between a row and its checkpoint, within one, before
    `latest`, at the end."""
    made, call, kills = busy(tmp_path), 3, 0
    while killed_at(call, lambda: loop.run(made, resume=True)) == -signal.SIGKILL:
        kills, call = kills + 1, call + 3
        assert kills < 100
    assert kills >= 10
    same_run(Path(made["run"]), undisturbed)


# --- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("reached", [0, 1, 3])
def test_a_signal_saves_and_leaves(tmp_path, number, reached, undisturbed):
    made = busy(tmp_path, reward={"name": "toys:Slow", "options": {"seconds": 0.03}})
    run = Path(made["run"])
    seen = lambda: (run / "config.toml").exists() and len(rows(run)) >= reached  # noqa: E731
    if reached == 0:  # during the first evaluation, or soon after
        seen = lambda: (run / "evals.jsonl").exists()  # noqa: E731
    assert signalled(forked(lambda: loop.run(made)), number, seen) == 0
    assert checkpoint.status(run) == "interrupted" and not (run / "summary.json").exists()
    state = checkpoint.load(run)
    assert state["round"] == len(rows(run)) >= reached and state["stop"] == ""
    assert ended(forked(lambda: loop.run(made, resume=True))) == 0
    assert summary(run)["status"] == "finished" and weights(run) == weights(undisturbed)
    assert rows(run, "evals") == rows(undisturbed, "evals")


def test_a_signal_before_an_evaluation_leaves_the_evaluation_to_the_resumed_run(
    tmp_path, monkeypatch, undisturbed
):
    """Round 2 is saved unevaluated; were that forgotten, the guard would not act and the
    weights would differ."""
    made, whole = busy(tmp_path), loop.Trainer._train_round

    def asked(trainer):
        if trainer.state.round == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_train_round", asked)
        loop.run(made)
    assert (
        checkpoint.load(made["run"])["evaluated"] == 0
        and checkpoint.load(made["run"])["round"] == 2
    )
    same_run(loop.run(made, resume=True), undisturbed)


def test_left_after_every_round_it_ends_the_same(tmp_path, monkeypatch):
    """Without averaged weights and guards, too."""
    made, whole, go_on = (
        recipe(tmp_path / "often"),
        loop.run(recipe(tmp_path / "whole")),
        loop.Trainer._train_round,
    )

    def asked(trainer):
        os.kill(os.getpid(), signal.SIGTERM)
        return go_on(trainer)

    monkeypatch.setattr(loop.Trainer, "_train_round", asked)
    for reached in range(1, 6):
        loop.run(made, resume=True)
        assert len(rows(made["run"])) == reached
    loop.run(made, resume=True)
    same_run(Path(made["run"]), whole)


STAGES = {  # where a signal comes: a method, and the rounds that are done when the run has left
    "encode": ("vidrl.backbones.toy:Toy.encode", 0),
    "sample": ("vidrl.training.loop:Trainer._sample", 1),
    "first evaluation": ("vidrl.training.between_rounds:BetweenRounds.measure", 0),
    "update": ("vidrl.training.update:Updater.update", 1),
    "save": ("vidrl.training.checkpoint:_write", 0),
    "look": ("vidrl.training.record:Record.progress", 2),
}


@pytest.mark.parametrize("stage", STAGES)
def test_after_a_signal_at_any_stage_no_other_round_begins(
    tmp_path, monkeypatch, stage, undisturbed
):
    (place, rounds), asked = STAGES[stage], []
    module, _, path = place.partition(":")
    *owner, name = path.split(".")
    holder = functools.reduce(getattr, owner, importlib.import_module(module))
    whole = getattr(holder, name)

    def signalled_once(*arguments, **named):
        if not asked:
            asked.append(os.kill(os.getpid(), signal.SIGTERM))
        return whole(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(holder, name, signalled_once)
        run = loop.run(made := busy(tmp_path))
    assert asked and len(rows(run)) == rounds == checkpoint.load(run)["round"]
    assert checkpoint.status(run) == "interrupted"
    same_run(loop.run(made, resume=True), undisturbed)


def test_a_signal_breaks_an_evaluation_off_after_the_clips_in_hand(
    tmp_path, monkeypatch, undisturbed
):
    made, whole, scored = busy(tmp_path, train_score_batch=1), HeldOut._clips, []

    def asked(held_out, *arguments):
        for samples in whole(held_out, *arguments):
            scored.append(len(samples))
            os.kill(os.getpid(), signal.SIGTERM)
            yield samples

    with monkeypatch.context() as patch:
        patch.setattr(HeldOut, "_clips", asked)
        loop.run(made)
    assert scored[0] == 1 and len(scored) <= 2  # of ten: one held-out clip, and at most one twin
    assert checkpoint.load(made["run"])["evaluated"] == -1 and not rows(made["run"], "evals")
    same_run(loop.run(made, resume=True), undisturbed)


def test_a_signal_in_the_last_evaluation_leaves_it_to_the_resumed_run(
    tmp_path, monkeypatch, undisturbed
):
    made, whole = busy(tmp_path), BetweenRounds.finish

    def asked(trainer):
        os.kill(os.getpid(), signal.SIGTERM)
        whole(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(BetweenRounds, "finish", asked)
        loop.run(made)
    assert checkpoint.status(made["run"]) == "interrupted" and len(rows(made["run"])) == 6
    same_run(loop.run(made, resume=True), undisturbed)


def test_the_first_evaluation_is_seen_on_the_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        loop.Trainer, "_train_round", lambda trainer: pytest.fail("an evaluation was to come first")
    )
    with pytest.raises(pytest.fail.Exception):
        loop.run(recipe(tmp_path))
    said = capsys.readouterr().err
    assert "held-out evaluation:   0%" in said and "/10 [" in said  # five prompts, each with a twin


def test_a_second_interrupt_leaves_at_once(tmp_path, monkeypatch):
    def asked_twice(trainer):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second one was to end the round")

    made = recipe(tmp_path)
    monkeypatch.setattr(loop.Trainer, "_train_round", asked_twice)
    with pytest.raises(KeyboardInterrupt):
        loop.run(made)
    assert checkpoint.load(made["run"])["round"] == 0


def test_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    loop.run(recipe(tmp_path, train_rounds=1))
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))


def test_a_run_that_a_guard_stopped_and_killed_at_its_end_does_not_go_on(tmp_path, monkeypatch):
    made = recipe(tmp_path, guard=STUBBORN | {"action": "stop"})

    def dies(trainer):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(BetweenRounds, "finish", dies)
        loop.run(made)
    rounds = len(rows(made["run"]))
    run = loop.run(made, resume=True)
    assert len(rows(run)) == rounds < 5 and summary(run)["status"] == "guard"


# --- refusals


@pytest.fixture
def interrupted(tmp_path):
    made = recipe(tmp_path, reward={"name": "toys:Slow", "options": {"seconds": 0.02}})
    run = Path(made["run"])
    signalled(forked(lambda: loop.run(made)), signal.SIGTERM, lambda: len(rows(run)) >= 2)
    return made


def test_a_differing_recipe_is_shown(interrupted):
    interrupted["train"]["group"] = 2
    before = rows(interrupted["run"])
    with pytest.raises(checkpoint.RunFolderError, match=r"train.group: 4 -> 2"):
        loop.run(interrupted, resume=True)
    assert rows(interrupted["run"]) == before


def test_without_resume_a_begun_run_is_left_alone(interrupted):
    before = rows(interrupted["run"])
    with pytest.raises(checkpoint.RunFolderError, match="add --resume"):
        loop.run(interrupted)
    assert rows(interrupted["run"]) == before


def test_what_came_after_the_checkpoint_is_cut_away(interrupted):
    run = Path(interrupted["run"])
    last = checkpoint.load(run)["round"]
    for name in ("metrics", "evals", "events"):
        checkpoint.append(run / f"{name}.jsonl", {"round": last + 1, "kind": "later"})
    # renamed, but the run was killed before `latest` named it
    stale = run / "checkpoints" / f"{last + 1:06d}"
    stale.mkdir()
    loop.run(interrupted, resume=True)
    assert [row["round"] for row in rows(run)] == [1, 2, 3, 4, 5]
    assert not any(
        row.get("kind") == "later"
        for name in ("metrics", "evals", "events")
        for row in rows(run, name)
    )
    assert [row["round"] for row in rows(run, "evals")] == [0, 2, 4, 5]
    assert not any(
        path.is_dir() and not any(path.iterdir()) for path in (run / "checkpoints").iterdir()
    )


def test_a_finished_run_is_reported_and_left_as_it_is(tmp_path):
    run = loop.run(made := recipe(tmp_path, train_rounds=2))
    before = {
        path: path.stat().st_mtime_ns
        for path in run.rglob("*")
        if path.is_file() and path.name != "config.toml"
    }
    assert loop.run(made, resume=True) == run
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_full_disk_at_a_checkpoint_keeps_the_earlier_ones(tmp_path, monkeypatch, undisturbed):
    made, whole = busy(tmp_path), checkpoint._write

    def full(folder, state, files):
        if state["round"] == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(folder, state, files)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write", full)
        with pytest.raises(
            checkpoint.CheckpointError, match="No space left.*intact. Make room.*add --resume"
        ):
            loop.run(made)
    assert checkpoint.load(made["run"])["round"] < 4
    same_run(loop.run(made, resume=True), undisturbed)


# --- the command line


@pytest.mark.slow
def test_the_command_line_is_killed_stopped_and_resumed(tmp_path, undisturbed):
    made = busy(tmp_path, reward={"name": "toys:Slow", "options": {"seconds": 0.1}})
    (tmp_path / "toy.toml").write_text(write(config.load(made).to_dict()))
    run, here = Path(made["run"]), Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent)])
    command = [sys.executable, "-m", "vidrl", "train", str(tmp_path / "toy.toml"), "--resume"]

    def go(number: int, reached: int) -> tuple[int, str]:
        with subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as child:
            while number and len(rows(run)) < reached:
                assert child.poll() is None, child.stdout.read()
                time.sleep(0.01)
            if number:
                child.send_signal(number)
            said = child.communicate()[0]
            return child.returncode, said

    assert go(signal.SIGKILL, 1)[0] == -signal.SIGKILL
    for number, reached in ((signal.SIGINT, 2), (signal.SIGTERM, 4)):
        status, said = go(number, reached)
        assert status == 130 and "--resume goes on from" in said and "Traceback" not in said, said
    assert go(0, 0)[0] == 0
    assert weights(run) == weights(undisturbed)
    status, said = go(0, 0)
    assert status == 0 and "this run is finished" in said


# --- a real pipeline


@pytest.mark.slow
def test_a_lora_on_a_video_transformer_is_resumed_exactly(tmp_path, monkeypatch):
    """Text encoder, LoRA and decoder of Wan at a few thousand weights: what a toy might
    hide."""
    pytest.importorskip("diffusers", reason="needs vidrl[train]")
    from safetensors.torch import load_file

    from vidrl.backbones.wan import Wan

    Wan.tiny().pipe.save_pretrained(tmp_path / "wan")
    options = {
        "model": str(tmp_path / "wan"),
        "height": 16,
        "width": 16,
        "frames": 5,
        "text_length": 12,
    }

    def made(name: str) -> dict:
        return recipe(
            tmp_path / name,
            backbone={"name": "wan", "options": options},
            train_rounds=3,
            train_ema=0.5,
            policy={"lora_rank": 2, "lora_alpha": 2},
            train_eval_every=2,
            train_group=2,
            data_held_out_n=2,
            algorithm={"name": "grpo", "options": {"steps": 3, "segments": 2, "eta": 0.5}},
        )

    whole, go_on = loop.run(made("whole")), loop.Trainer._train_round

    def asked(trainer):
        os.kill(os.getpid(), signal.SIGTERM)
        return go_on(trainer)

    monkeypatch.setattr(loop.Trainer, "_train_round", asked)
    for _ in range(4):
        run = loop.run(made("often"), resume=True)
    ours, theirs = (
        load_file(one / "lora" / "pytorch_lora_weights.safetensors") for one in (run, whole)
    )
    assert ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )
    assert [timeless(row) for row in rows(run)] == [timeless(row) for row in rows(whole)] and len(
        rows(run)
    ) == 3
    assert rows(run, "evals") == rows(whole, "evals")

"""Checkpoints are whole or absent, and what is read back is what was written, to the last
bit."""

import errno
import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from vidrl.training import checkpoint, resume


def sample_state(value=1.0):
    return {
        "weights": {"a": torch.full((3, 2), value), "b": torch.arange(4)[::2]},
        "numbers": [1, 0.1, float("inf"), None, "text", True, (1, 2)],
        "by_number": {0: "zero", 1: torch.tensor(2.0)},
        "array": np.arange(3, dtype=np.uint32),
        "empty": {},
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_everything_comes_back_equal(tmp_path):
    folder = checkpoint.save(tmp_path, 10, sample_state())
    assert folder == tmp_path / "checkpoints" / "000010"
    assert (tmp_path / "checkpoints" / "latest").read_text() == "000010"
    assert same(checkpoint.load(tmp_path), sample_state())


def test_there_is_no_pickle_in_it(tmp_path):
    folder = checkpoint.save(tmp_path, 1, sample_state())
    assert sorted(path.name for path in folder.iterdir()) == ["state.json", "tensors.safetensors"]
    with pytest.raises(TypeError, match="got object"):
        checkpoint.save(tmp_path, 2, {"x": object()})
    assert checkpoint.latest(tmp_path) == "000001"
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "000001",
        "latest",
    ]


def test_tied_weights_and_slices_are_saved(tmp_path):
    whole = torch.arange(6.0)
    checkpoint.save(tmp_path, 1, {"a": whole, "b": whole, "c": whole[1:3]})
    back = checkpoint.load(tmp_path)
    assert (
        torch.equal(back["a"], whole)
        and torch.equal(back["b"], whole)
        and torch.equal(back["c"], whole[1:3])
    )


def train(model, optimiser, steps):
    for _ in range(steps):
        optimiser.zero_grad()
        (model(torch.randn(4, 3)) ** 2).mean().backward()
        optimiser.step()


def test_resumed_training_ends_with_the_same_weights(tmp_path):
    torch.manual_seed(3)
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.8, 0.95))
    train(model, optimiser, 3)
    checkpoint.save(
        tmp_path,
        3,
        {
            "model": model.state_dict(),
            "optimiser": optimiser.state_dict(),
            "rng": checkpoint.rng_state(),
        },
    )
    train(model, optimiser, 4)

    torch.manual_seed(99)
    other = torch.nn.Linear(3, 2)
    again = torch.optim.AdamW(other.parameters(), lr=0.5)
    state = checkpoint.load(tmp_path)
    other.load_state_dict(state["model"])
    again.load_state_dict(state["optimiser"])
    checkpoint.restore_rng(state["rng"])
    train(other, again, 4)
    assert torch.equal(other.weight, model.weight) and torch.equal(other.bias, model.bias)
    assert same(again.state_dict(), optimiser.state_dict())


def test_all_random_generators_continue(tmp_path):
    torch.randn(5), np.random.rand(5), random.random(), np.random.randn()
    checkpoint.save(tmp_path, 1, {"rng": checkpoint.rng_state()})
    expected = torch.randn(3), np.random.randn(3), random.random()
    checkpoint.restore_rng(checkpoint.load(tmp_path)["rng"])
    got = torch.randn(3), np.random.randn(3), random.random()
    assert (
        torch.equal(got[0], expected[0])
        and np.array_equal(got[1], expected[1])
        and got[2] == expected[2]
    )


# --- crashes

CALLS = ["open", "fsync", "rename", "replace", "mkdir"]


def die_at(monkeypatch, moment, action):
    """Let `action` run at the given call of the operating system, counted over all of
    `CALLS`."""
    count = 0

    def counted(real):
        def call(*arguments, **named):
            nonlocal count
            count += 1
            if count == moment:
                action()
            return real(*arguments, **named)

        return call

    for name in CALLS:
        monkeypatch.setattr(os, name, counted(getattr(os, name)))


def child(body):
    """Run `body` in a forked process and return its exit status."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
        except BaseException:  # noqa: BLE001  a forked child must never return into pytest
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_kill_at_any_moment_leaves_the_old_checkpoint_or_the_new(tmp_path, monkeypatch):
    outcomes = []
    for moment in range(1, 60):
        run = tmp_path / str(moment)
        checkpoint.save(run, 1, sample_state(1.0))

        def doomed(run=run, moment=moment):
            die_at(monkeypatch, moment, lambda: os._exit(9))
            checkpoint.save(run, 2, sample_state(2.0))

        killed = child(doomed) == 9
        name, state = checkpoint.latest(run), checkpoint.load(run)
        assert same(state, sample_state(1.0 if name == "000001" else 2.0))
        assert not list((run / "checkpoints").glob(f"{checkpoint.PARTIAL}*0*"))
        checkpoint.save(run, 2, sample_state(3.0))
        assert same(checkpoint.load(run), sample_state(3.0))
        outcomes.append((killed, name))
        if not killed:
            break
    assert {(True, "000001"), (True, "000002"), (False, "000002")} <= set(outcomes)


def test_a_full_disk_keeps_what_was_there_and_says_so(tmp_path, monkeypatch):
    reached = []

    def full():
        reached.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    failures = 0
    for moment in range(1, 60):
        run = tmp_path / str(moment)
        checkpoint.save(run, 1, sample_state(1.0))
        with monkeypatch.context() as patch:
            reached.clear()
            die_at(patch, moment, full)
            try:
                checkpoint.save(run, 2, sample_state(2.0))
                if not reached:
                    break
            except checkpoint.CheckpointError as error:
                failures += 1
                assert "No space left" in str(error) and "Make room" in str(error)
                assert f"checkpoint {checkpoint.latest(run)} is intact" in str(error)
        assert checkpoint.load(run) is not None
        assert not list((run / "checkpoints").glob(f"{checkpoint.PARTIAL}*"))
    assert failures >= 10


def test_an_interrupt_leaves_no_rubbish(tmp_path):
    def interrupted(folder):
        raise KeyboardInterrupt

    checkpoint.save(tmp_path, 1, sample_state())
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, 2, sample_state(2.0), files=interrupted)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "000001",
        "latest",
    ]


# --- many checkpoints


def test_the_newest_and_the_protected_stay(tmp_path):
    for step in range(1, 7):
        checkpoint.save(tmp_path, step, {"step": step}, keep=2, protect=["000002"])
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["000002", "000005", "000006", "latest"]
    assert checkpoint.load(tmp_path, "000002") == {"step": 2} and checkpoint.load(tmp_path) == {
        "step": 6
    }


def test_a_step_may_be_saved_twice(tmp_path):
    checkpoint.save(tmp_path, 5, {"x": 1})
    assert checkpoint.save(tmp_path, 5, {"x": 2}).name == "000005-2"
    assert checkpoint.load(tmp_path) == {"x": 2}


def test_files_of_the_caller_travel_along(tmp_path):
    folder = checkpoint.save(
        tmp_path, 1, {}, files=lambda where: (where / "lora.txt").write_text("x") and None
    )
    assert (folder / "lora.txt").read_text() == "x"


def test_no_checkpoint_is_none_and_a_damaged_one_an_error(tmp_path):
    assert checkpoint.load(tmp_path) is None
    folder = checkpoint.save(tmp_path, 1, {"x": torch.ones(2)})
    (folder / "tensors.safetensors").write_bytes(b"short")
    with pytest.raises(checkpoint.CheckpointError, match="000001"):
        checkpoint.load(tmp_path)


# --- run folders

CONFIG = {"run": "runs/x", "seed": 0, "train": {"rounds": 30}}


def test_a_run_folder_is_claimed_once_and_resumed_when_asked(tmp_path):
    run = tmp_path / "run"
    resume.claim(run, CONFIG, resume=False)
    resume.claim(run, CONFIG, resume=False)  # nothing happened in it yet
    assert checkpoint.status(run) == "new"
    checkpoint.append(run / "metrics.jsonl", {"round": 0})
    assert checkpoint.status(run) == "interrupted"
    with pytest.raises(checkpoint.RunFolderError, match="add --resume"):
        resume.claim(run, CONFIG, resume=False)
    resume.claim(run, CONFIG, resume=True)
    (run / "summary.json").write_text('{"status": "finished"}')
    assert checkpoint.status(run) == "finished"


def test_another_run_in_the_folder_is_shown(tmp_path):
    resume.claim(tmp_path, CONFIG, resume=False)
    before = (tmp_path / "config.toml").read_text()
    with pytest.raises(checkpoint.RunFolderError, match=r"train.group: 8 -> 3") as caught:
        resume.claim(tmp_path, CONFIG | {"train": {"rounds": 30, "group": 3}}, resume=True)
    assert "seed" not in str(caught.value) and "another folder" in str(caught.value)
    assert (tmp_path / "config.toml").read_text() == before


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(checkpoint.RunFolderError, match="no config.toml"):
        resume.claim(tmp_path, CONFIG, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_two_processes_never_work_in_one_folder(tmp_path):
    code = (
        f"import sys, time; from vidrl.training import resume; resume.claim({str(tmp_path)!r}, "
        f"{CONFIG!r}, True)\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(checkpoint.RunFolderError, match="another process is at work in"):
            resume.claim(tmp_path, CONFIG, resume=True)
        other.kill()
        other.wait()
    assert resume.claim(tmp_path, CONFIG, resume=True) == "new"


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for index in range(5):
        checkpoint.append(path, {"round": index, "reward": float("nan") if index == 1 else 0.5})
    with open(path, "a") as file:
        file.write('{"round": 2, "rew')
    checkpoint.cut_back(path, 2)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["round"] for row in rows] == [0, 1, 2] and rows[1]["reward"] is None
    checkpoint.cut_back(tmp_path / "absent.jsonl", 2)

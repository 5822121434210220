"""Worker processes keep the order and give the same rows as one process.

Crashes, hangs and Ctrl-C are handled.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
import torch

from vidrl import cli
from vidrl.rewards import score_files, video
from vidrl.rewards._files import manifests
from vidrl.rewards._files.workers import TaskFailed, map_in_processes
from vidrl.rewards.flicker import Flicker
from vidrl.rewards.flow import check_method
from vidrl.rewards.frame_quality import FrameQuality
from vidrl.synthetic import world

pytest.importorskip("av", reason="PyAV writes video; pip install av")
SCENES = [world.Scene(s, "red", "left", "fast", "speckled") for s in ("circle", "square", "cross")]


def children() -> set[int]:
    """Return the worker processes of this process, without multiprocessing's own helper."""
    found = psutil.Process().children(recursive=True)
    alive = [p for p in found if p.status() != psutil.STATUS_ZOMBIE]
    return {p.pid for p in alive if "resource_tracker" not in " ".join(p.cmdline())}


def files() -> int:
    return psutil.Process().num_fds()


def act(word):
    """Run the task whose name is passed."""
    name, _, rest = word.partition(" ")
    if name == "signal":
        os.kill(os.getpid(), int(rest))
    if name == "sleep":
        time.sleep(float(rest))
    if name == "leave":
        os._exit(int(rest))
    if name == "raise":
        raise {"ValueError": ValueError, "KeyError": KeyError}[rest]("broken")
    return torch.get_num_threads() if name == "threads" else f"{os.getpid()}"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of Unix")
def test_what_dies_or_hangs_has_a_reason_and_the_rest_goes_on():
    tasks = ["threads", "signal 11", "sleep 60", "leave 3", "threads"]
    before = files()
    done = list(map_in_processes(act, iter(tasks), jobs=2, timeout=1.5))
    assert [one.task for one in done] == tasks
    assert [one.why for one in done] == [
        None,
        "the decoder crashed (signal 11)",
        "took longer than 1.5 s",
        "the decoder ended by itself (exit status 3)",
        None,
    ]
    assert done[0].result == done[4].result == 1
    assert not children() and files() <= before + 2


def test_what_a_task_raises_is_raised_here():
    with pytest.raises(TaskFailed, match=r"(?s)Traceback.*in act.*KeyError: 'broken'"):
        list(map_in_processes(act, ["threads", "raise KeyError"], jobs=1))
    assert not children()


def test_an_error_of_a_reward_keeps_its_class_and_message():
    with pytest.raises(ValueError, match="^expected flow to be one of"):
        list(map_in_processes(check_method, ["farnback"], jobs=1))


@pytest.mark.slow
def test_a_consumer_that_leaves_early_ends_the_workers():
    rows = map_in_processes(
        act, (f"pid {i}" for i in range(10**9)), jobs=1
    )  # lazily: few are taken ahead
    assert int(next(rows).result) in children()
    rows.close()
    assert not children()


def test_what_cannot_be_pickled_is_refused():
    with pytest.raises(ValueError, match="cannot be pickled.*define its class in a module"):
        next(map_in_processes(lambda task: task, [1], jobs=1))
    with pytest.raises(ValueError, match="jobs of 1 or more"):
        next(map_in_processes(act, [1], jobs=-1))
    assert list(map_in_processes(act, [], jobs=2)) == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips")
    for i, scene in enumerate(SCENES):
        video.write(path / f"{i}.mp4", world.render(scene, 48, 9, seed=i).video, 8.0)
    (path / "1b.mp4").write_bytes(b"no video" * 30)
    return path


def test_rows_are_those_of_one_process(folder):
    rewards = {"flicker": Flicker(), "quality": FrameQuality()}
    alone = list(score_files([folder], rewards))
    assert list(score_files([folder], rewards, jobs=2)) == alone
    assert [Path(row["path"]).name for row in alone] == ["0.mp4", "1.mp4", "1b.mp4", "2.mp4"]


class Crashes(FrameQuality):
    """Dies on the clip whose prompt says so."""

    def features(self, samples):
        if samples.prompts[0] == "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().features(samples)


def test_a_crash_is_a_row(folder):
    found = list(
        score_files([folder], {"c": Crashes()}, {str(folder / "1.mp4"): "die"}, jobs=1, timeout=60)
    )
    assert found[1]["why"] == "unreadable: the decoder crashed (signal 11)" and found[1][
        "value"
    ] == {"c": None}
    assert (
        found[1].keys() == found[0].keys() and found[0]["why"] is None and found[3]["why"] is None
    )
    json.dumps(found, allow_nan=False)


# --- the command


def score(capsys, *words):
    status = cli.main(["score", *map(str, words)])
    said = capsys.readouterr()
    return status, [json.loads(line) for line in said.out.splitlines()], said.err


def test_the_command_takes_a_class_of_anyone_and_a_table(folder, capsys, tmp_path, monkeypatch):
    (tmp_path / "their_rewards.py").write_text(
        textwrap.dedent("""\
        from vidrl.rewards.frame_quality import FrameQuality

        class Words(FrameQuality):
            "As many as the prompt has words."
            def terms_of_clip(self, features, about):
                return super().terms_of_clip(features, about) * 0 + len(about.prompts[0].split())
    """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    table = folder / "prompts.csv"
    table.write_text('path,prompt\n2.mp4,"one, two"\n0.mp4,one\nmissing.mp4,three\n')
    status, rows, err = score(
        capsys, "--reward", "their_rewards:Words", "--prompts", table, "--jobs", 1, "--strict"
    )
    assert [Path(row["path"]).name for row in rows] == ["2.mp4", "0.mp4", "missing.mp4"]
    assert [row["value"]["their_rewards:Words"] for row in rows] == [2.0, 1.0, None]
    assert status == 1 and "found none at" in rows[2]["why"] and "1 not scored" in err


def test_rows_of_the_table_without_a_file_are_told(folder, capsys, tmp_path):
    (tmp_path / "p.jsonl").write_text(
        "".join(
            json.dumps({"path": str(folder / name), "prompt": "p"}) + "\n"
            for name in ("gone.mp4", "0.mp4", "1.mp4")
        )
    )
    status, rows, err = score(
        capsys,
        folder / "0.mp4",
        "--prompts",
        tmp_path / "p.jsonl",
        "--jobs",
        0,
        "--reward",
        "frame_quality",
    )
    assert status == 0 and len(rows) == 1 and "2 of 3 rows" in err and "gone.mp4" in err


def test_the_command_without_files_says_so(capsys):
    status, _, err = score(capsys)
    assert status == 2 and "got neither" in err


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of Unix")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_ends_every_process(tmp_path, end):
    (tmp_path / "slow_reward.py").write_text(
        textwrap.dedent("""\
        import time
        from vidrl.rewards.frame_quality import FrameQuality

        class Slow(FrameQuality):
            def features(self, samples):
                time.sleep(300)
    """)
    )
    clip = video.write(tmp_path / "a.mkv", torch.rand(3, 3, 32, 32), 8.0)
    command = [
        sys.executable,
        "-m",
        "vidrl",
        "score",
        clip,
        clip,
        "--reward",
        "slow_reward:Slow",
        "--jobs",
        "2",
    ]
    run = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    below = wait_for(lambda: len(found := psutil.Process(run.pid).children()) >= 3 and found)
    os.killpg(run.pid, end) if end == signal.SIGINT else run.kill()
    _, said = run.communicate(timeout=60)
    assert end != signal.SIGINT or (run.returncode == 130 and said.strip() == "vidrl: interrupted")
    wait_for(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in below))


def wait_for(condition, limit=60.0):
    start = time.monotonic()
    while time.monotonic() < start + limit:
        if result := condition():
            return result
        time.sleep(0.1)
    raise AssertionError("it did not come true in time")


@pytest.mark.slow
def test_two_are_faster_than_one(tmp_path):
    if (os.cpu_count() or 1) < 2 or os.getloadavg()[0] > 0.5:
        pytest.skip("needs two idle cores")
    clip = world.render(SCENES[0], 256, 49).video
    for i in range(12):
        video.write(tmp_path / f"{i:02d}.mp4", clip, 8.0)
    took = {
        jobs: functools.reduce(min, (timed(tmp_path, jobs) for _ in range(2))) for jobs in (1, 2)
    }
    assert took[1] / took[2] >= 1.7


def timed(folder, jobs):
    """Return the seconds from the first row to the last, without the start of the processes."""
    moments = [time.monotonic() for _ in score_files([folder], {"flicker": Flicker()}, jobs=jobs)]
    return (moments[-1] - moments[jobs - 1]) / (len(moments) - jobs)


# --- which prompt goes with which file


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "clips,prompt\na.mp4,x\n", "expected a column path.*got clips, prompt"),
        ("a.csv", "path,prompt\na.mp4,x\n./a.mp4,y\n", "line 3: ./a.mp4 is on line 2 already"),
        ("a.csv", "path,prompt\na.mp4,x, y\n", "line 2: .*quotes"),
        ("a.csv", "path,prompt\na.mp4\n", "line 2: expected 2 columns as in the first line, got 1"),
        ("a.csv", "path,prompt\n", "found none"),
        ("a.csv", "path\na.mp4\n", "found no prompt in 1 rows"),
        ("a.csv", "", "found none"),
        ("a.jsonl", '{"path": "a.mp4", "prompt": "x"}\n{"path": "b.mp4"}\n', "line 2: expected"),
        ("a.jsonl", "no json\n", "line 1: expected"),
        ("a.txt", "one\n\ntwo\n", "line 2 is blank"),
        ("a.txt", "", "it is empty"),
    ],
)
def test_a_bad_table_is_told_with_its_line(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"(?s){words}"):
        manifests.read_prompts(tmp_path / name)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.csv"):
        manifests.read_prompts(tmp_path / "nothing.csv")


def test_prompts_go_to_their_files(folder, tmp_path, monkeypatch):
    names = ["0.mp4", "1.mp4", "1b.mp4", "2.mp4"]
    (tmp_path / "p.jsonl").write_text(
        "".join(
            json.dumps({"path": str(folder / n), "prompt": f"p{n}"}) + "\n" for n in reversed(names)
        )
    )
    table = manifests.read_prompts(tmp_path / "p.jsonl")
    monkeypatch.chdir(folder.parent)
    files, prompts = manifests.match_prompts([folder.name], table)  # the same files by another path
    assert [prompts[str(file)] for file in files] == [f"p{name}" for name in names]
    assert [file.name for file in manifests.match_prompts([], table)[0]] == names[::-1]
    files, prompts = manifests.match_prompts([folder], ["a", "b", "c", "d"])
    assert [prompts[str(file)] for file in files] == ["a", "b", "c", "d"]
    with pytest.raises(ValueError, match="expected 4 prompts.*got 2 lines"):
        manifests.match_prompts([folder], ["a", "b"])
    with pytest.raises(ValueError, match="expected a table with a row for the files, got .*other"):
        manifests.match_prompts([folder / "other.mp4"], table)


# --- memory


def takes(megabytes):
    """How many bytes a tensor, or with a negative number an array, of so many megabytes
    has."""
    if megabytes < 0:
        return len(bytearray(-megabytes * 2**20))
    return torch.ones(megabytes * 2**20, dtype=torch.uint8).numel()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit of memory is Linux's")
def test_a_task_that_needs_more_memory_than_a_worker_may_take_has_a_reason_and_the_rest_goes_on():
    tasks = [10, 600, -600, 10]
    done = list(map_in_processes(takes, tasks, jobs=1, memory=2**28))
    assert [one.result for one in done] == [10 * 2**20, None, None, 10 * 2**20]
    assert all(
        "more memory than the 0.25 GiB that one worker may take" in one.why for one in done[1:3]
    )
    (free,) = map_in_processes(takes, [400], jobs=1, memory=None)
    assert free.result == 400 * 2**20

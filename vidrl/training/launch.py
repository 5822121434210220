"""Several training processes on one machine: `vidrl train RECIPE --processes 2`.

`accelerate launch --cpu --num_processes 2` starts one process where there is no MPI, and
torchrun answers Ctrl-C with its own traceback; this is the part of them that one machine
needs. Many machines: torchrun.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

PARENT = "VIDRL_PARENT"
PATIENCE = 30.0  # seconds that the others have to leave by themselves when one has failed


def automatic() -> int:
    """One process a GPU; two on a CPU of two cores or more, for two of one thread beat one
    of two."""
    import torch

    return torch.cuda.device_count() or min(2, os.cpu_count() or 1)


def launch(arguments: Sequence[str], processes: int) -> int:
    """Run `python -m vidrl ARGUMENTS` in this many processes of one group; return the first
    exit status that is not 0.

    Signals are passed on; when one process fails the others are ended, so that none waits
    for it forever.
    """
    shared = environment(processes)
    command = [sys.executable, *_safe(), "-m", "vidrl", *arguments]
    workers = [
        subprocess.Popen(command, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(processes)
    ]
    with _passing_signals_on(workers):
        return _wait(workers)


def _safe() -> list[str]:
    """-P, which keeps the working folder off the import path, unless vidrl itself is found
    there alone."""
    own = Path(__file__).resolve().parent.parent
    return [] if own == Path.cwd().resolve() else ["-P"]


def environment(processes: int) -> dict[str, str]:
    """What torch.distributed and accelerate read; what the caller has set stays."""
    import torch

    given = {"OMP_NUM_THREADS": "1"}
    if not torch.cuda.is_available():
        given["ACCELERATE_USE_CPU"] = "true"
    if Path("/sys/class/net/lo").exists():
        # a host whose name resolves to nothing would fail otherwise
        given["GLOO_SOCKET_IFNAME"] = "lo"
    group = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        PARENT: str(os.getpid()),
    }
    return given | dict(os.environ) | group


def end_with_parent() -> None:
    """In a launched process, on Linux: be sent SIGTERM, which saves and leaves, if the
    launcher is killed."""
    parent = os.environ.get(PARENT)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != int(parent):
        raise SystemExit(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def _passing_signals_on(workers: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    def pass_on(number: int, frame: object) -> None:
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(number)

    passed = (signal.SIGINT, signal.SIGTERM)
    before: Mapping[int, object] = {number: signal.signal(number, pass_on) for number in passed}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def _wait(workers: Sequence[subprocess.Popen[bytes]]) -> int:
    first, deadline = 0, float("inf")
    while None in (ended := [worker.poll() for worker in workers]):
        failed = [status for status in ended if status]
        if failed and not first:
            first, deadline = failed[0], time.monotonic() + PATIENCE
        if time.monotonic() > deadline:
            for worker in workers:
                worker.kill()
        time.sleep(0.05)
    return first or next((worker.returncode for worker in workers if worker.returncode), 0)

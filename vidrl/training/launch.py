"""Start several training processes on one machine: `vidrl train RECIPE --processes 2`.

Other launchers do not serve here: `accelerate launch --cpu --num_processes 2` starts one
process where there is no MPI, and torchrun answers Ctrl-C with its own traceback. This
module does only what one machine needs. For several machines, use torchrun.
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

# The environment variable that gives a launched process the launcher's process id.
PARENT = "VIDRL_PARENT"
# Seconds that the other processes have to end by themselves after one has failed.
PATIENCE = 20.0


def automatic() -> int:
    """Return how many processes suit this machine: one for each GPU, or two on a CPU.

    On a CPU of two cores, two processes of one thread are faster than one process of two
    threads.
    """
    import torch

    return torch.cuda.device_count() or min(2, os.cpu_count() or 1)


def launch(arguments: Sequence[str], processes: int) -> int:
    """Run `python -m vidrl ARGUMENTS` in several processes; return the first failing exit status.

    The processes form one group, and the status is 0 where all succeed. SIGINT and SIGTERM
    are passed on to them. When one process fails the others are ended, because they would
    wait for it for ever.
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
    """Return the option -P, which keeps the working folder off the import path.

    Nothing where the working folder is the folder that holds vidrl: without an
    installation, vidrl is found there alone.
    """
    package_folder = Path(__file__).resolve().parents[2]
    return [] if package_folder == Path.cwd().resolve() else ["-P"]


def environment(processes: int) -> dict[str, str]:
    """Return the environment variables that torch.distributed and accelerate read.

    Of the number of threads, the device and the network interface, the values that the
    caller has set stay.
    """
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
    """Ask Linux to send this process SIGTERM if its launcher is killed.

    SIGTERM makes the process save a checkpoint and leave. A process that `launch` did not
    start, and a process on another system, is not changed.
    """
    parent = os.environ.get(PARENT)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    # the launcher may have been killed before the call above
    if os.getppid() != int(parent):
        raise SystemExit(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def _passing_signals_on(workers: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Send SIGINT and SIGTERM, which this process receives, to the running workers."""

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


def _reason(ended: Sequence[int | None]) -> str:
    """Return why the processes are ended: which one failed first, and how.

    Example:
        >>> _reason([None, -9])[:36]
        'process 1 of 2 was killed by SIGKILL'
    """
    rank, status = next((rank, status) for rank, status in enumerate(ended) if status)
    if status >= 0:
        return f"process {rank} of {len(ended)} failed with status {status}; all others end now"
    how = f"was killed by {signal.Signals(-status).name}"
    cause = ", as where the memory of the machine runs out" if status == -signal.SIGKILL else ""
    return f"process {rank} of {len(ended)} {how}{cause}; all others end now"


def _wait(workers: Sequence[subprocess.Popen[bytes]]) -> int:
    """Return the first failing exit status, or 0, when all processes have ended."""
    first, deadline = 0, float("inf")
    while None in (ended := [worker.poll() for worker in workers]):
        failed = [status for status in ended if status]
        if failed and not first:
            first, deadline = failed[0], time.monotonic() + PATIENCE
            print(_reason(ended), file=sys.stderr, flush=True)
        if time.monotonic() > deadline:
            for worker in workers:
                worker.kill()
        time.sleep(0.05)
    return first or next((worker.returncode for worker in workers if worker.returncode), 0)

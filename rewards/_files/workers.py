"""Work in processes of their own, which may crash or hang: that task gets a reason, and the
rest goes on."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from vidrl.lookup import user_modules

from .memory import MEMORY, is_out_of_memory, limit_memory, out_of_memory_reason

T = TypeVar("T")
# seconds that a process has to import what it needs, on a machine that does much else
START = 300.0
AHEAD = 8  # tasks a worker that may be done before their turn to be yielded: all that is kept


class TaskFailed(RuntimeError):
    """The task itself raised, in code that is not vidrl's; the message holds the
    traceback."""


@dataclass
class TaskResult(Generic[T]):
    """A task with its result, or the reason why there is none."""

    task: T
    result: Any = None
    why: str | None = None


def map_in_processes(
    function: Callable[[T], Any],
    tasks: Iterable[T],
    jobs: int,
    timeout: float | None = None,
    memory: int | None = MEMORY,
) -> Iterator[TaskResult[T]]:
    """`function(task)` of every task, in order, in `jobs` processes of one thread each.

    A process that dies, or takes longer than `timeout` seconds for a task, is replaced, and
    its task comes with `why`; so does a task that needs more than `memory` bytes beside
    what its process had when it was ready (None: no limit). What `function` raises is
    raised here. `function` is pickled once a process. Raises ValueError where it cannot be.
    """
    if jobs < 1 or not (timeout is None or timeout > 0):
        raise ValueError(
            "expected jobs of 1 or more, or 0 for this process, and timeout > 0 or None, got "
            f"jobs={jobs}, timeout={timeout}"
        )
    pool = _Pool(_pickled(function, memory), tasks, jobs, timeout)
    try:
        yield from pool.run()
    finally:
        pool.end()


class _Pool(Generic[T]):
    def __init__(
        self, function: bytes, tasks: Iterable[T], jobs: int, timeout: float | None
    ) -> None:
        first = list(islice(tasks := iter(tasks), jobs))
        self.tasks = enumerate(chain(first, tasks))
        self.function, self.timeout, self.jobs = function, timeout, len(first)
        self.workers: list[_Worker[T]] = []
        self.done: dict[int, TaskResult[T]] = {}
        self.yielded = self.started = 0

    def run(self) -> Iterator[TaskResult[T]]:
        while True:
            while self.yielded in self.done:
                yield self.done.pop(self.yielded)
                self.yielded += 1
            self._feed()
            busy = [worker for worker in self.workers if worker.given is not None]
            if not busy:
                return
            self._listen(busy)

    def end(self) -> None:
        for worker in self.workers:
            worker.end()

    def _feed(self) -> None:
        """A task for every worker that has none, and a new worker for each that is
        missing."""
        while self.started < self.yielded + AHEAD * self.jobs:
            free = next((worker for worker in self.workers if worker.given is None), None)
            if free is None and len(self.workers) == self.jobs:
                return
            given = next(self.tasks, None)
            if given is None:
                return
            if free is None:
                self.workers.append(free := _Worker(self.function))
            self.started += 1
            free.give(given, self.timeout)

    def _listen(self, busy: list[_Worker[T]]) -> None:
        left = min(worker.deadline for worker in busy) - time.monotonic()
        heard = wait([worker.pipe for worker in busy], min(max(left, 0.0), 60.0))
        for worker in busy:
            if worker.pipe in heard:
                self._hear(worker)
            elif time.monotonic() > worker.deadline:
                self._drop(
                    worker,
                    f"took longer than {self.timeout:g} s"
                    if worker.ready and self.timeout
                    else None,
                )

    def _hear(self, worker: _Worker[T]) -> None:
        try:
            word, said = worker.pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            self._drop(worker, _death(worker) if worker.ready else None)
            return
        if word == "raised":
            raise said
        if word == "started":
            worker.load()
        elif word == "ready":
            worker.begin(self.timeout)
        else:
            number, task = worker.taken()
            self.done[number] = (
                TaskResult(task, None, said) if word == "lost" else TaskResult(task, said)
            )

    def _drop(self, worker: _Worker[T], why: str | None) -> None:
        """End a worker; its task is done, for the reason `why`; None where it never came to
        work."""
        number, task = worker.taken()
        status = worker.end()
        self.workers.remove(worker)
        if why is None:
            raise RuntimeError(
                f"a worker process could not start (status {status}): a script that asks for jobs needs "
                "`if __name__ == '__main__':` around what it does; or pass jobs=0 to see the error"
            )
        self.done[number] = TaskResult(task, None, why)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Ctrl-C waits: a process that starts meanwhile inherits that, even while it imports,
    and we hear it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its own start would lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker(Generic[T]):
    """One process, the pipe to it, and what it is at."""

    def __init__(self, function: bytes) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
        with user_modules.safe_path(), _interrupts_blocked():
            self.process.start()
        theirs.close()
        self.function, self.ready = function, False
        self.given: tuple[int, T] | None = None
        self.deadline = time.monotonic() + START

    def give(self, given: tuple[int, T], timeout: float | None) -> None:
        self.given = given
        if self.ready:
            self._send(timeout)

    def load(self) -> None:
        """It listens, and gets the function: what it is given before fills the pipe and
        would hold us up."""
        with suppress(OSError):
            self.pipe.send_bytes(self.function)

    def begin(self, timeout: float | None) -> None:
        """It has imported what the function needs, and gets its first task."""
        self.ready = True
        self._send(timeout)

    def taken(self) -> tuple[int, T]:
        assert self.given is not None  # only a worker with a task is listened to
        given, self.given = self.given, None
        return given

    def end(self) -> int | None:
        """Its exit status: minus the signal that ended it."""
        self.pipe.close()
        if self.given is not None or self.ready:
            self.process.kill()
        self.process.join(2)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        status = self.process.exitcode
        self.process.close()
        return status

    def _send(self, timeout: float | None) -> None:
        assert self.given is not None
        self.deadline = time.monotonic() + (timeout or float("inf"))
        with suppress(OSError):  # it died since: the pipe says so when listened to
            self.pipe.send(self.given[1])


def _death(worker: _Worker[Any]) -> str:
    worker.process.join(5)
    status = worker.process.exitcode
    if status is not None and status < 0:
        hint = (
            ", out of memory?" if -status in (signal.SIGABRT, getattr(signal, "SIGKILL", 9)) else ""
        )
        return f"the decoder crashed (signal {-status}{hint})"
    return f"the decoder ended by itself (exit status {status})"


def _pickled(function: Callable[..., Any], memory: int | None) -> bytes:
    try:
        return pickle.dumps((user_modules.FindAgain(), function, memory))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"expected rewards that a worker process can load, got one that cannot be pickled ({error}): "
            "define its class in a module, or pass jobs=0"
        ) from error


# --- in the worker
# ---------------------------------------------------------------------------------------------------


def _serve(pipe: Connection, parent: int) -> None:
    """What a worker process does until its pipe closes."""
    _settle(parent)
    pipe.send(("started", None))
    try:
        _, function, memory = pickle.loads(pipe.recv_bytes())
        limit_memory(memory)
        pipe.send(("ready", None))
        while True:
            pipe.send(_answer(function, pipe.recv()))
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:  # noqa: BLE001  whatever it is, it is raised where it is understood
        pipe.send(("raised", _portable(error)))


def _answer(function: Callable[[Any], Any], task: Any) -> tuple[str, Any]:
    """The result of a task, or the reason why there is none where it met the limit of
    memory."""
    try:
        return "done", function(task)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        why = out_of_memory_reason(error)
    gc.collect()  # what the error held
    return "lost", why


def _settle(parent: int) -> None:
    """One thread, no noise of C libraries, no answer to Ctrl-C, and an end when the parent
    ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # read when those libraries are loaded
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}
    torch.set_num_threads(1)
    if sys.stderr is not None:
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)  # warnings of Python still come
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """The error itself where vidrl raised it and it survives the pipe; else its
    traceback."""
    text = "".join(traceback.format_exception(error))
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  errors may hold anything
        return TaskFailed(text)
    frames = traceback.extract_tb(error.__traceback__)
    package = Path(__file__).resolve().parent
    ours = bool(frames) and Path(frames[-1].filename).resolve().is_relative_to(package)
    return copy if ours or type(error).__module__.startswith("vidrl.") else TaskFailed(text)

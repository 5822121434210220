"""Run tasks in processes that may crash or hang: such a task gets a reason, others go on."""

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

from . import pipes
from .memory import MEMORY, is_out_of_memory, limit_memory, out_of_memory_reason

T = TypeVar("T")
# Seconds for a process to import torch and the rewards, also on a busy machine.
START = 300.0
# Results a worker that may wait for an earlier, slower task; this bounds the memory of results.
AHEAD = 8
# Processes start one at a time, because a start changes the environment for a moment.
_STARTING = threading.Lock()


class TaskFailed(RuntimeError):
    """A task that raised in code outside vidrl; the message holds the traceback."""


@dataclass
class TaskResult(Generic[T]):
    """A task that has a result, or the reason why it has none."""

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
    """Yield `function(task)` of every task, in order, from `jobs` processes of one thread each.

    A process that dies, or takes longer than `timeout` seconds for a task, is replaced, and
    its task is yielded with the reason `why`. So is a task that needs more than `memory`
    bytes in addition to what its process had when it was ready (None: no limit). An
    exception of `function` is raised here. `function` is pickled once a process; raises
    ValueError if it cannot be pickled.
    """
    if jobs < 1 or not (timeout is None or timeout > 0):
        raise ValueError(
            "expected jobs of 1 or more, or 0 for this process, and timeout > 0 or None, got "
            f"jobs={jobs}, timeout={timeout}"
        )
    pool = Pool(pickled(function, memory, "jobs=0"), tasks, jobs, timeout)
    try:
        yield from pool.run()
    finally:
        pool.end()


class Pool(Generic[T]):
    """A pool of workers that keeps the results of tasks whose turn to be yielded has not come.

    `function` is what `pickled` returned; `role` is how the reason of a lost task calls the
    process that ended. `kill` may be called from another thread than the other methods.
    """

    def __init__(
        self,
        function: bytes,
        tasks: Iterable[T],
        jobs: int,
        timeout: float | None = None,
        role: str = "the decoder",
    ) -> None:
        # Fewer tasks than `jobs` need fewer processes.
        first = list(islice(tasks := iter(tasks), jobs))
        self.tasks = enumerate(chain(first, tasks))
        self.function, self.timeout = function, timeout
        self.jobs, self.role = len(first), role
        self.workers: list[_Worker[T]] = []
        self.done: dict[int, TaskResult[T]] = {}
        self.yielded = self.started = 0

    def run(self) -> Iterator[TaskResult[T]]:
        """Yield the results in the order of the tasks."""
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
        """End all processes."""
        for worker in self.workers:
            worker.end()

    def kill(self) -> None:
        """Kill all processes; `run` then gives their tasks a reason."""
        for worker in list(self.workers):
            with suppress(ValueError):  # the process has ended already
                worker.process.kill()

    def _feed(self) -> None:
        """Give a task to every free worker, and start missing workers."""
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
        """Wait for a message of a busy worker, and drop workers past their deadline."""
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
        """Handle one message (kind, payload) of a worker; the kinds are those of `_serve`."""
        try:
            kind, payload = pipes.receive(worker.pipe)
        except (EOFError, OSError, pickle.UnpicklingError):
            self._drop(worker, _death(worker, self.role) if worker.ready else None)
            return
        if kind == "raised":
            raise payload
        if kind == "started":
            worker.load()
        elif kind == "ready":
            worker.begin(self.timeout)
        else:
            number, task = worker.taken()
            self.done[number] = (
                TaskResult(task, None, payload) if kind == "lost" else TaskResult(task, payload)
            )

    def _drop(self, worker: _Worker[T], why: str | None) -> None:
        """End a worker and give its task the reason `why`; raise if it never became ready."""
        number, task = worker.taken()
        status = worker.end()
        self.workers.remove(worker)
        if why is None:
            raise RuntimeError(
                f"a worker process could not start (status {status}): a script that asks for "
                "processes needs `if __name__ == '__main__':` around what it does; or ask for 0 "
                "of them to see the error"
            )
        self.done[number] = TaskResult(task, None, why)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Delay Ctrl-C during the block, so that a process started in it begins with it blocked.

    Otherwise Ctrl-C would interrupt a worker's imports and print a traceback for each
    worker. This process receives the delayed signal at the end of the block.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # multiprocessing starts this helper process with the first worker, and its start would
    # unblock the signal.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker(Generic[T]):
    """A worker process with the pipe to it and its present task.

    The order of messages is: the worker sends "started", `load` sends the function, the
    worker sends "ready", `begin` sends the first task.
    """

    def __init__(self, function: bytes) -> None:
        # "fork" would copy the threads' locks of torch and OpenCV in whatever state they are.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
        with _STARTING, user_modules.safe_path(), _interrupts_blocked():
            self.process.start()
        theirs.close()  # so that the pipe reports the end when the worker dies
        self.function, self.ready = function, False
        self.given: tuple[int, T] | None = None
        self.deadline = time.monotonic() + START

    def give(self, given: tuple[int, T], timeout: float | None) -> None:
        """Assign a task, and send it if the worker is ready; otherwise `begin` sends it."""
        self.given = given
        if self.ready:
            self._send(timeout)

    def load(self) -> None:
        """Send the function; before "started" it would fill the pipe and block this process."""
        with suppress(OSError):
            self.pipe.send_bytes(self.function)

    def begin(self, timeout: float | None) -> None:
        """Note that the worker has loaded the function, and send its first task."""
        self.ready = True
        self._send(timeout)

    def taken(self) -> tuple[int, T]:
        """Return the worker's task with its number, and free the worker."""
        assert self.given is not None  # the pool listens only to workers with a task
        given, self.given = self.given, None
        return given

    def end(self) -> int | None:
        """End the process and return its exit status: minus the signal that ended it."""
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
        """Send the task and set its deadline."""
        assert self.given is not None
        self.deadline = time.monotonic() + (timeout or float("inf"))
        with suppress(OSError):  # the worker has died: the next read of its pipe shows this
            pipes.send(self.pipe, self.given[1])


def _death(worker: _Worker[Any], role: str) -> str:
    """Describe how a worker ended."""
    worker.process.join(5)
    status = worker.process.exitcode
    if status is not None and status < 0:
        hint = (
            ", out of memory?" if -status in (signal.SIGABRT, getattr(signal, "SIGKILL", 9)) else ""
        )
        return f"{role} crashed (signal {-status}{hint})"
    return f"{role} ended by itself (exit status {status})"


def pickled(function: Callable[..., Any], memory: int | None, cure: str) -> bytes:
    """Pickle the function and its limit of memory; raise ValueError if it cannot be pickled.

    `cure`: the setting that does the work in this process instead, which the error names.
    """
    try:
        return pickle.dumps((user_modules.FindAgain(), function, memory))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            "expected rewards that a worker process can load, got one that cannot be pickled "
            f"({error}): "
            f"define its class in a module, or pass {cure}"
        ) from error


# --- in the worker


def _serve(pipe: Connection, parent: int) -> None:
    """Serve tasks in a worker process until its pipe closes."""
    _settle(parent)
    pipes.send(pipe, ("started", None))
    try:
        _, function, memory = pickle.loads(pipe.recv_bytes())
        limit_memory(memory)
        pipes.send(pipe, ("ready", None))
        while True:
            pipes.send(pipe, _answer(function, pipes.receive(pipe)))
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:  # noqa: BLE001  any error is raised again in the parent
        pipes.send(pipe, ("raised", _portable(error)))


def _answer(function: Callable[[Any], Any], task: Any) -> tuple[str, Any]:
    """Return ("done", result) of a task, or ("lost", reason) if it met the limit of memory."""
    try:
        return "done", function(task)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        why = out_of_memory_reason(error)
    gc.collect()  # frees the tensors that the error's traceback held
    return "lost", why


def _settle(parent: int) -> None:
    """Prepare a worker: one thread, quiet C libraries, no Ctrl-C, an end when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # These libraries read the variables when they are loaded, which is later.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}
    torch.set_num_threads(1)
    if sys.stderr is not None:
        # C libraries write to descriptor 2, which now leads nowhere; Python's warnings go to a
        # copy of the former descriptor.
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    """End this process when the parent has ended, which changes the parent's id."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """Return the error itself if vidrl raised it and it survives the pipe, else its traceback."""
    text = "".join(traceback.format_exception(error))
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  errors may hold anything
        return TaskFailed(text)
    frames = traceback.extract_tb(error.__traceback__)
    package = Path(__file__).resolve().parents[1]  # the folder of all rewards
    ours = bool(frames) and Path(frames[-1].filename).resolve().is_relative_to(package)
    return copy if ours or type(error).__module__.startswith("vidrl.") else TaskFailed(text)

"""Score chunks of clips in other processes or threads, while the next chunk is decoded.

A worker process builds the reward once and scores with one thread, on the CPU. A reward that
a server computes only waits for answers, so threads of this process are enough for it.
"""

from __future__ import annotations

import os
import pickle
import queue
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.util import Finalize
from typing import Any

import torch
from torch import Tensor

from vidrl.algorithms.base import Algorithm
from vidrl.config import RewardSection
from vidrl.rewards import Reward, Samples, Score
from vidrl.rewards._files import workers as processes
from vidrl.rewards._serving.threads import Threads
from vidrl.rewards.compose import leaves

from . import evaluate

Found = list[Score | evaluate.Failure]
ROLE = "the reward's worker process"
# How often a chunk is given to a new process after the death of the one that had it.
MORE_TRIES = 1
# Seconds that `close` waits for a thread, whose process has been killed.
PATIENCE = 5.0


class WorkerDied(RuntimeError):
    """The process that scored some clips ended, and so did the one that tried again."""


class RaisedInWorker(RuntimeError):
    """An error that cannot be sent between processes, with the text that describes it."""

    def __repr__(self) -> str:
        return str(self)


def open_workers(
    algorithm: Algorithm,
    reward: Reward,
    section: RewardSection,
    device: torch.device,
    by_name: bool = True,
) -> RewardWorkers | RewardThreads | None:
    """Return the workers of a run that score with a reward, `section.workers`; None for 0.

    Each process builds the reward from the section; unless `by_name`, the reward is pickled.
    Raises ValueError where it cannot be pickled, or where processes must not score with it.
    """
    if section.workers == 0:
        return None
    _check(algorithm, reward, device)
    if all(leaf.remote for leaf in leaves("", reward).values()):
        return RewardThreads(reward, section.workers)
    return RewardWorkers(ScoreChunks(section if by_name else reward), section.workers)


def _check(algorithm: Algorithm, reward: Reward, device: torch.device) -> None:
    """Raise ValueError where the algorithm or the device keeps processes from scoring."""
    networks = [
        path.removeprefix("/") or type(leaf).__name__
        for path, leaf in leaves("", reward).items()
        if leaf.learned and not leaf.remote
    ]
    if algorithm.differentiates_reward:
        raise ValueError(
            f"reward.workers: expected 0 with {type(algorithm).__name__}, whose loss needs the "
            "reward's gradient, which no other process can pass on: set workers = 0"
        )
    if networks and device.type != "cpu":
        raise ValueError(
            f"reward.workers: expected 0 with {', '.join(networks)}, whose networks run on the "
            f"trainer's device {device.type}, because worker processes have no device but the "
            "CPU: set workers = 0, or start `vidrl serve` on a device and name http_scorer"
        )


@dataclass(frozen=True)
class Chunk:
    """Clips as plain values, which are sent to a process without a copy in this one."""

    # The clips as `_bytes` returns them; the same of the reference, or None.
    video: tuple[Any, torch.dtype, torch.Size, list[int]]
    reference: tuple[Any, torch.dtype, torch.Size, list[int]] | None
    prompts: list[str]
    fps: float
    meta: list[dict[str, Any]]

    @classmethod
    def of(cls, samples: Samples) -> Chunk:
        """Return the chunk that holds these samples."""
        reference = None if samples.reference is None else _bytes(samples.reference)
        meta = [dict(entry) for entry in samples.meta]
        return cls(_bytes(samples.video), reference, list(samples.prompts), samples.fps, meta)

    @property
    def samples(self) -> Samples:
        """Return the samples."""
        reference = None if self.reference is None else _tensor(*self.reference)
        return Samples(_tensor(*self.video), self.prompts, self.fps, reference, self.meta)


def _bytes(tensor: Tensor) -> tuple[Any, torch.dtype, torch.Size, list[int]]:
    """Return a tensor as bytes, in the order of memory, with type, shape and order of axes.

    The order is kept because sums over an axis round differently where memory is laid out
    differently. Bytes are sent because numpy lacks some of torch's types.
    """
    here = tensor.detach().cpu()
    order = sorted(range(here.dim()), key=here.stride, reverse=True)
    ordered = here.permute(order).contiguous()
    raw = ordered.reshape(-1).view(torch.uint8).numpy()
    return raw, tensor.dtype, ordered.shape, order


def _tensor(raw: Any, dtype: torch.dtype, shape: torch.Size, order: list[int]) -> Tensor:
    """Return the tensor that `_bytes` took apart."""
    ordered = torch.from_numpy(raw).view(dtype).reshape(shape)
    return ordered.permute([order.index(axis) for axis in range(len(order))])


class ScoreChunks:
    """A function that scores chunks in a worker process; it builds its reward at the first call.

    `source` is the reward itself, or the section of a recipe that names it. The first call is
    without a chunk, and returns an empty list once the reward is built.
    """

    def __init__(self, source: Reward | RewardSection):
        self.source = source
        self._built: Reward | None = None

    @property
    def reward(self) -> Reward:
        """The reward of this process, which is built once."""
        if self._built is None:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a worker takes no memory of a GPU
            self._built = _built(self.source)
        return self._built

    @torch.no_grad()
    def __call__(self, chunk: Chunk | None) -> Found | Exception:
        """Return scores and failures of a chunk; or the error that must end the run."""
        reward = self.reward
        if chunk is None:
            return []
        try:
            found = evaluate.score_some(reward, chunk.samples)
        except torch.OutOfMemoryError as error:
            return error
        return [one if isinstance(one, Score) else _sendable(one) for one in found]


def _built(source: Reward | RewardSection) -> Reward:
    """Return the reward that a section names; a reward is returned as it is."""
    return source if isinstance(source, Reward) else evaluate.build_reward(source)


def _sendable(failure: evaluate.Failure) -> evaluate.Failure:
    """Return a failure whose error can be sent, reads the same, and notes where it was raised."""
    error = failure.error
    where = "".join(traceback.format_exception(error))
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  an error may hold anything
        copy = None
    # an error whose class is defined in a script may come back as another one
    if repr(copy) != repr(error):
        copy = RaisedInWorker(repr(error))
    copy.add_note(f"raised in a worker process:\n{where}")
    return evaluate.Failure(copy)


@dataclass
class _Asked:
    """A chunk that waits for its score, and how many processes died of it or beside it."""

    chunk: Chunk | None
    clips: int
    answer: Future[Found]
    deaths: int = 0


class _Lane:
    """A thread with one worker process, which it replaces where the process dies."""

    def __init__(self, function: bytes, chunks: queue.SimpleQueue[_Asked | None]):
        self.function, self.chunks = function, chunks
        self.closed = False
        self.pool: processes.Pool[Chunk | None] | None = None
        self.ready: Future[Found] = Future()
        # what the process works on; the first task has no chunk, and builds the reward
        self.now: _Asked | None = _Asked(None, 0, self.ready)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """End the thread and its process, also while it works on a chunk."""
        self.closed = True
        if self.pool is not None:
            self.pool.kill()

    def _run(self) -> None:
        """Answer chunks until the lane is closed."""
        while not self.closed:
            try:
                self._answer_all()
                return
            except Exception as error:  # noqa: BLE001  whoever waits for the answer raises it
                if self.now is not None:
                    self.now.answer.set_exception(error)
                    self.now = None

    def _answer_all(self) -> None:
        """Give the process one chunk after the other, and pass its answers on."""
        self.pool = processes.Pool(self.function, self._tasks(), 1, role=ROLE)
        try:
            for done in self.pool.run():
                self._pass_on(done)
        finally:
            self.pool.end()

    def _tasks(self) -> Iterator[Chunk | None]:
        """Yield the chunks of the queue, a chunk again where its process died."""
        while not self.closed:
            if self.now is None:
                self.now = self.chunks.get()
            if self.now is None:
                return
            yield self.now.chunk

    def _pass_on(self, done: processes.TaskResult[Chunk | None]) -> None:
        """Set the answer that a process gave, or keep its chunk for another try."""
        asked = self.now
        assert asked is not None  # a process works only on what `_tasks` yielded
        if done.why is not None and asked.deaths < MORE_TRIES and not self.closed:
            asked.deaths += 1
            print(f"note: {done.why}; a new one scores its clips", file=sys.stderr)
            return
        self.now = None
        if done.why is not None and asked.chunk is None:
            asked.answer.set_exception(WorkerDied(f"{done.why} while it built the reward"))
        elif done.why is not None:
            asked.answer.set_result([evaluate.Failure(WorkerDied(done.why))] * asked.clips)
        elif isinstance(done.result, Exception):
            asked.answer.set_exception(done.result)
        else:
            asked.answer.set_result(done.result)


class RewardWorkers:
    """Processes that score chunks of clips, each with a reward of its own.

    A process that dies is replaced, and its chunk is scored once more; where that process
    dies too, the clips of the chunk are unscored, with the reason. Processes ignore Ctrl-C, end
    when this process ends, and see no GPU.
    """

    def __init__(self, function: ScoreChunks, count: int):
        self.count = count
        content = processes.pickled(function, None, "reward.workers = 0")
        self._chunks: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._lanes = [_Lane(content, self._chunks) for _ in range(count)]
        # runs at `close`, when this object is freed, and before multiprocessing's own exit
        self._end = Finalize(self, _close, (self._chunks, self._lanes), exitpriority=10)

    def wait(self) -> None:
        """Wait until every process has built the reward; raise what a process raised."""
        for lane in self._lanes:
            lane.ready.result()

    def submit(self, samples: Samples) -> Future[Found]:
        """Return the future scores and failures of clips; see `evaluate.score_some`."""
        asked = _Asked(Chunk.of(samples), len(samples), Future())
        self._chunks.put(asked)
        return asked.answer

    def close(self) -> None:
        """End all processes."""
        self._end()


def _close(chunks: queue.SimpleQueue[_Asked | None], lanes: list[_Lane]) -> None:
    """End the lanes: those that wait for a chunk, and those that work on one."""
    for lane in lanes:
        lane.close()
        chunks.put(None)
    for lane in lanes:
        lane.thread.join(PATIENCE)


class RewardThreads:
    """Threads that score chunks of clips with one reward, which asks servers for the scores."""

    def __init__(self, reward: Reward, count: int):
        self.reward, self.count = reward, count
        self._threads = Threads(count)

    def wait(self) -> None:
        """Return at once, because threads need no start."""

    def submit(self, samples: Samples) -> Future[Found]:
        """Return the future scores and failures of clips; see `evaluate.score_some`."""
        return self._threads.submit(self._score, samples)

    @torch.no_grad()
    def _score(self, samples: Samples) -> Found:
        return evaluate.score_some(self.reward, samples)

    def close(self) -> None:
        """Let the threads end, once the chunks that they have are answered."""
        self._threads.close()

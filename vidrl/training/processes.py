"""Let several processes share the work; accelerate connects them.

This module is all that vidrl uses of accelerate. Gradients are summed here and not by
DistributedDataParallel, because the trained weights are few (a LoRA), the same network runs
with several sets of weights, and a process may have no pair in a minibatch, which
DistributedDataParallel's hooks cannot handle. Only tensors are sent between processes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vidrl.config import Parallel
from vidrl.lookup.extras import install
from vidrl.plugin import nearest
from vidrl.rewards import Score

from . import introduction, sharding

# Seconds after which a process whose memory ran out no longer waits for the others to say so too.
ALONE = 300.0
# The reasons to stop that processes may not share; where they differ, the later one counts.
REASONS = ("", "time limit", "interrupted")


class Workers:
    """This process among the processes that share the work.

    One process needs no launcher; several are started by `vidrl train --processes`, torchrun
    or `accelerate launch`.
    """

    def __init__(
        self,
        mixed_precision: str = "no",
        trackers: Sequence[str] = (),
        folder: str = ".",
        parallel: Parallel = Parallel(),  # noqa: B008  frozen, so that it can be shared
    ):
        try:
            from accelerate import Accelerator, InitProcessGroupKwargs
        except ImportError as error:
            raise ImportError(
                f"expected accelerate for training, found none: {install('train')}"
            ) from error
        _check_trackers(trackers)
        introduction.introduce(introduction.facts())
        import_collectives()
        self.engine = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision=mixed_precision,
            log_with=list(trackers) or None,
            project_dir=folder,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=parallel.timeout))],
        )
        # accelerate silently drops the trackers that it cannot import
        if len(self.engine.log_with) < len(trackers):
            found = self._tracker_names() or "none"
            raise ImportError(
                f"expected train.trackers {list(trackers)}, found {found} of them: install the "
                "others"
            )
        self.trackers = bool(trackers)
        # when a signal asked to stop, in seconds of the monotonic clock; 0: not yet
        self.asked = 0.0
        self.device, self.main = self.engine.device, self.engine.is_main_process
        self.parallel = parallel
        # all processes; how many split one sample; how many have samples of their own
        self.size = self.engine.num_processes
        self.context = self._checked_context()
        self.count = self.size // self.context
        # found here, so that processes that cannot share weights fail before a model is read
        self._mesh_shape = self._checked_mesh() if self.sharded else ()
        # this process's place among those with samples of their own: neighbours share samples
        self.rank = self.engine.process_index // self.context
        # a group of its own, on the CPU, because the other processes may wait inside the network
        self._asking = (
            torch.distributed.new_group(
                backend="gloo", timeout=timedelta(seconds=min(ALONE, parallel.timeout))
            )
            if self.together and self.size > 1
            else None
        )
        # a process that fails before all have joined would hide its error behind theirs
        self.engine.wait_for_everyone()

    def _tracker_names(self) -> str:
        return ", ".join(str(getattr(name, "value", name)) for name in self.engine.log_with)

    def _checked_context(self) -> int:
        """Return how many processes split a sample's tokens; raise ValueError if they cannot."""
        context = self.parallel.context
        if self.size % context:
            raise ValueError(
                f"parallel.context: expected a divisor of the number of processes, {self.size}, "
                f"got {context}: start another number with --processes or torchrun"
            )
        return context

    @property
    def together(self) -> bool:
        """Return whether the processes must call the network equally often.

        They gather the weights of each block together, or attend to each other's tokens.
        """
        return self.sharded or self.context > 1

    @property
    def sharded(self) -> bool:
        """Return whether the weights are spread over the processes."""
        return self.parallel.shard != "none"

    def mesh(self) -> Any:
        """Return the mesh of processes over which the weights are spread."""
        return sharding.mesh(self.device.type, self._mesh_shape)

    def _checked_mesh(self) -> tuple[int, ...]:
        """Return the shape of the mesh of processes.

        Raises ValueError for one process, and for replicas that do not divide the processes.
        """
        if self.size == 1:
            raise ValueError(
                f"parallel.shard: expected several processes for {self.parallel.shard!r}, got one: "
                "add --processes N, or use torchrun; or set parallel.shard = 'none'"
            )
        machines = self.size // int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        return sharding.mesh_shape(
            self.parallel.shard, self.size, max(1, machines), self.parallel.replicas
        )

    def share(self, n: int, even: bool = True) -> list[int]:
        """Return the places out of n that are this process's, one after the other.

        Raises ValueError where a process would have none, or, where `even`, another number
        than the others.
        """
        if even and n % self.count:
            cure = "change train.prompts_per_round or train.group"
            raise ValueError(
                f"expected a number of samples that {self.count} processes divide, got {n}: {cure}"
            )
        if n < self.count:
            cure = "raise data.held_out_n and train.eval_n, or use fewer processes"
            raise ValueError(
                f"expected at least one clip a process, got {n} for {self.count}: {cure}"
            )
        return [int(i) for i in np.array_split(np.arange(n), self.count)[self.rank]]

    def first_micro_batch(self) -> int:
        """Return the first micro-batch in rows; the updater halves it where memory runs out."""
        return 32 if self.device.type == "cpu" else 16

    def once(self, action: Callable[[], object]) -> None:
        """Act on the main process alone; the others wait, and raise where it raised."""
        failure: Exception | None = None
        if self.main:
            try:
                action()
            except Exception as error:  # noqa: BLE001  raised again below, once the others know
                failure = error
        failed = self.engine.gather(
            torch.tensor([failure is not None], dtype=torch.int, device=self.device)
        )
        if failure is not None:
            raise failure
        if bool(failed.any()):
            raise RuntimeError("the main process failed; its message says why")

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let SIGTERM and Ctrl-C ask to stop; a second Ctrl-C leaves at once.

        `agree` reports that a signal asked to stop. In a group of processes, the second
        Ctrl-C must come at least a second later: the terminal sends the first one to every
        process, and the launcher passes it on again.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may handle signals
            return
        before = {
            number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        """Handle a signal: note when it came; leave at once for a second Ctrl-C."""
        again = self.asked and (time.monotonic() - self.asked > 1 or "RANK" not in os.environ)
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.asked and self.main:
            print(
                "\nstopping once what runs is done and saved; Ctrl-C again leaves at once",
                file=sys.stderr,
            )
        self.asked = self.asked or time.monotonic()

    def assert_alike(self, checksum: str) -> None:
        """Raise RuntimeError where the processes hold different weights."""
        mine = torch.tensor([int(checksum[:15], 16)], device=self.device)
        seen = self.engine.gather(mine)
        if bool((seen != mine).any()):
            sums = seen.tolist()
            raise RuntimeError(
                f"expected the same weights on all {self.size} processes, got checksums {sums}"
            )

    def any(self, flag: bool) -> bool:
        """Return whether the flag is true on any process; the processes must work `together`.

        The processes call the network together, and so they ask almost at the same time. Where
        memory ran out on one process only, the others wait inside the network and never ask:
        that process raises torch.OutOfMemoryError after `ALONE` seconds.
        """
        found = torch.tensor([int(flag)])
        try:
            torch.distributed.all_reduce(found, group=self._asking)
        except RuntimeError as error:
            if not flag:
                raise
            raise torch.OutOfMemoryError(
                "memory ran out on this process, and not on the others, which wait for it: lower "
                "train.micro_batch"
            ) from error
        return bool(found)

    def agree(self, stop: str) -> str:
        """Return the reason to stop that counts among all processes; "" for none.

        A signal to stop is the reason "interrupted". Every process must decide by this
        method alone, because a signal reaches the processes at different moments.
        """
        if stop not in REASONS:
            return stop  # a reason that every process has, as "guard"
        mine = max(REASONS.index(stop), REASONS.index("interrupted") if self.asked else 0)
        return REASONS[int(self.engine.gather(torch.tensor([mine], device=self.device)).max())]

    def all(self, values: Tensor) -> Tensor:
        """Return the rows of all processes in order, on the CPU.

        The processes may hold different numbers of rows. Of processes that split the tokens of
        the same samples, the first one's rows are returned: a server may have failed one process
        and not another, and they would go on with different rows.
        """
        if self.size == 1:
            return values.detach().cpu()
        return torch.cat(self._gathered(values)[:: self.context])

    def everywhere(self, values: Tensor) -> Tensor:
        """Return the rows of every process, also of those that hold the same samples."""
        return values.detach().cpu() if self.size == 1 else torch.cat(self._gathered(values))

    def _gathered(self, values: Tensor) -> list[Tensor]:
        """Return each process's rows, on the CPU."""
        counts = self.engine.gather(torch.tensor([len(values)], device=self.device)).tolist()
        most = max(counts)
        # no process has a row, and `split` below takes no size of 0
        if most == 0:
            return [values.detach().cpu()] * self.size
        padded = values.new_zeros(most, *values.shape[1:]).to(self.device)
        padded[: len(values)] = values.detach()
        rows = self.engine.gather(padded.contiguous()).cpu().split(most)
        return [part[:n] for part, n in zip(rows, counts, strict=True)]

    def names(self, own: Iterable[str]) -> list[str]:
        """Return the names that any process has, in alphabetical order.

        Every process must gather the same values in the same order.
        """
        if self.size == 1:
            return sorted(own)
        text = "".join(f"{name}\n" for name in own).encode()
        joined = bytes(self.all(torch.tensor(list(text), dtype=torch.uint8)).tolist()).decode()
        return sorted(set(joined.splitlines()))

    def gather_score(self, score: Score) -> Score:
        """Return the scores of all processes' samples.

        The reasons of unscored clips are texts, and stay with the process that has them.
        """
        frames = None if score.frames is None else self.all(score.frames)
        parts = {name: self.gather_score(part) for name, part in score.parts.items()}
        slopes, adds = (
            {name: self.all(rows) for name, rows in named.items()}
            for named in (score.slopes, score.adds)
        )
        value, why = self.all(score.value), list(score.why)
        why += [None] * (len(value) - len(why))
        return Score(value, frames, score.support, parts, why, score.weights, slopes, adds=adds)

    def gather_arrays(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return each array with the rows of all processes, in order."""
        return {name: self.all(torch.from_numpy(rows)).numpy() for name, rows in arrays.items()}

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which a network runs in the recipe's mixed precision."""
        return self.engine.autocast()

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a loss, scaled under fp16."""
        self.engine.backward(loss)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its sum over all processes.

        A parameter without a gradient counts as zeros. Under fp16 the gradients stay scaled.
        """
        for p in parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        if self.size == 1 or self.sharded:  # FSDP2 has summed the gradients of sharded weights
            return
        own = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        flat = self.engine.reduce(own, "sum")
        for p, grad in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = grad.view_as(p)

    @property
    def loss_scale(self) -> float | None:
        """Return the factor of the loss under fp16; None in other precisions.

        The factor keeps small gradients from becoming 0 in half precision.
        """
        return None if self.engine.scaler is None else float(self.engine.scaler.get_scale())

    def unscale(self, optimiser: torch.optim.Optimizer) -> None:
        """Divide the summed gradients by the loss scale, and note whether one has overflowed.

        All processes come to the same result, because the gradients are summed already.
        """
        if self.engine.scaler is not None:
            # the scaler has no scale yet where this process had no pair, and so no loss
            self.engine.scaler.scale(torch.zeros((), device=self.device))
            self.engine.scaler.unscale_(optimiser)

    def step(self, optimiser: torch.optim.Optimizer) -> bool:
        """Take an optimiser step; return whether it was taken.

        Where a gradient overflowed under fp16, no step is taken and the loss scale is
        halved.
        """
        scaler, before = self.engine.scaler, self.loss_scale
        if scaler is None or before is None:
            optimiser.step()
            return True
        scaler.step(optimiser)
        scaler.update()
        return float(scaler.get_scale()) >= before

    def scaler_state(self) -> dict[str, Any]:
        """Return the state of fp16's loss scale; empty in other precisions."""
        return {} if self.engine.scaler is None else self.engine.scaler.state_dict()

    def load_scaler(self, state: Mapping[str, Any]) -> None:
        """Restore what `scaler_state` returned."""
        if self.engine.scaler is not None and state:
            self.engine.scaler.load_state_dict(dict(state))

    def start_trackers(self) -> None:
        """Open the trackers' logs; raise RuntimeError where a tracker fails.

        Call this after the run folder was claimed, because trackers write into it.
        """
        if self.trackers:
            self.once(self._open_trackers)

    def _open_trackers(self) -> None:
        try:
            self.engine.init_trackers("vidrl")
        # each tracker raises errors of its own types, as for a missing login
        except Exception as error:
            raise RuntimeError(
                f"train.trackers: {self._tracker_names()} could not begin: "
                f"{type(error).__name__}: {error}. Set it up, as by its login command, or leave it "
                "out of train.trackers"
            ) from error

    def log(self, row: dict[str, Any], round: int) -> None:
        """Send a round's numbers to the trackers, nested names joined by a slash."""
        if self.trackers:
            self.engine.log(_flat(row), step=round)

    def close(self) -> None:
        """End the trackers and the group of processes."""
        self.engine.end_training()


def import_collectives() -> None:
    """Import torch's functions on groups while no group exists.

    Their default argument is the group that exists when they are imported, as the first optimiser
    does. It would keep the threads of the group after its end, and a process that ends while
    these threads run may be aborted.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        import torch.distributed.nn.functional  # noqa: F401


def _check_trackers(trackers: Sequence[str]) -> None:
    """Raise ValueError for a tracker that accelerate does not have."""
    from accelerate.utils import LoggerType

    names = [str(logger.value) for logger in LoggerType]
    for name in trackers:
        if name not in names:
            raise ValueError(
                f"train.trackers: expected trackers of accelerate, got {name!r}: "
                f"{nearest(name, names)}"
            )


def _flat(row: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Return nested numbers under names that are joined by a slash."""
    out: dict[str, float] = {}
    for name, value in row.items():
        out |= (
            _flat(value, f"{prefix}{name}/")
            if isinstance(value, dict)
            else {f"{prefix}{name}": value}
        )
    return out

"""Several processes as one: accelerate launches them, and this page is all that the trainer
asks of it.

Gradients are summed by hand rather than by DistributedDataParallel: the trained weights are
few (a LoRA), the same network runs under several weight sets, and a process may have no
pair in a minibatch, which DDP's hooks do not survive. Nothing but tensors crosses between
processes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vidrl.lookup.extras import install
from vidrl.plugin import nearest
from vidrl.rewards import Score

REASONS = ("", "time limit", "interrupted")  # to stop, the weightiest last


class Workers:
    """This process among its peers. One process needs no launcher; more come from
    `accelerate launch` or torchrun."""

    def __init__(
        self, mixed_precision: str = "no", trackers: Sequence[str] = (), folder: str = "."
    ):
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise ImportError(
                f"expected accelerate for training, found none: {install('train')}"
            ) from error
        _known(trackers)
        self.engine = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision=mixed_precision,
            log_with=list(trackers) or None,
            project_dir=folder,
        )
        # accelerate drops those it cannot import without a word
        if len(self.engine.log_with) < len(trackers):
            known = (
                ", ".join(str(getattr(one, "value", one)) for one in self.engine.log_with) or "none"
            )
            raise ImportError(
                f"expected train.trackers {list(trackers)}, found {known} of them: install the others"
            )
        self.trackers, self.asked = bool(trackers), 0.0
        self.device, self.count, self.rank = (
            self.engine.device,
            self.engine.num_processes,
            self.engine.process_index,
        )
        self.main = self.engine.is_main_process
        # else one that fails at once breaks the joining of the others, and hides why
        self.engine.wait_for_everyone()

    def share(self, n: int, even: bool = True) -> list[int]:
        """The places out of n that are this process's, one after the other."""
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
        """The first micro-batch in (clip, step) pairs; it is halved when memory runs
        out."""
        return 32 if self.device.type == "cpu" else 16

    def once(self, action: Callable[[], object]) -> None:
        """The main process acts, the others wait, and fail where it failed."""
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
        """SIGTERM and Ctrl-C ask to stop, which `agree` answers; another Ctrl-C leaves at
        once.

        In a group of processes the second one must come a second later: a launcher passes
        on what came already.
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
        """Raise RuntimeError where processes hold different weights: they would train apart
        from here on."""
        mine = torch.tensor([int(checksum[:15], 16)], device=self.device)
        seen = self.engine.gather(mine)
        if bool((seen != mine).any()):
            sums = seen.tolist()
            raise RuntimeError(
                f"expected the same weights on all {self.count} processes, got checksums {sums}"
            )

    def agree(self, stop: str) -> str:
        """The reason to stop with the highest rank that any process has, signals included.

        Every process must decide by this method alone: a signal reaches the processes at
        different moments.
        """
        if stop not in REASONS:
            return stop  # found by all alike
        mine = max(REASONS.index(stop), REASONS.index("interrupted") if self.asked else 0)
        return REASONS[int(self.engine.gather(torch.tensor([mine], device=self.device)).max())]

    def all(self, values: Tensor) -> Tensor:
        """Rows of all processes in order, on the CPU; processes may hold different numbers
        of them."""
        if self.count == 1:
            return values.detach().cpu()
        counts = self.engine.gather(torch.tensor([len(values)], device=self.device)).tolist()
        most = max(counts)
        if most == 0:  # no process has a row: nothing to gather, and `split` takes no size of 0
            return values.detach().cpu()
        padded = values.new_zeros(most, *values.shape[1:]).to(self.device)
        padded[: len(values)] = values.detach()
        rows = self.engine.gather(padded.contiguous()).cpu().split(most)
        return torch.cat([part[:n] for part, n in zip(rows, counts, strict=True)])

    def names(self, own: Iterable[str]) -> list[str]:
        """The names that any process has, in alphabetical order: what all must gather, one
        after the other."""
        if self.count == 1:
            return sorted(own)
        text = "".join(f"{name}\n" for name in own).encode()
        everyones = bytes(self.all(torch.tensor(list(text), dtype=torch.uint8)).tolist()).decode()
        return sorted(set(everyones.splitlines()))

    def gather_score(self, score: Score) -> Score:
        """The scores of all processes' samples; reasons stay with the process that has
        them."""
        frames = None if score.frames is None else self.all(score.frames)
        parts = {name: self.gather_score(part) for name, part in score.parts.items()}
        slopes, adds = (
            {name: self.all(one) for name, one in named.items()}
            for named in (score.slopes, score.adds)
        )
        value, why = self.all(score.value), list(score.why)
        why += [None] * (len(value) - len(why))
        return Score(value, frames, score.support, parts, why, score.weights, slopes, adds=adds)

    def gather_arrays(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Each array's rows of all processes, in order."""
        return {name: self.all(torch.from_numpy(rows)).numpy() for name, rows in arrays.items()}

    def autocast(self) -> AbstractContextManager[Any]:
        return self.engine.autocast()

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up the gradients of all processes; one without any gives zeros. Under fp16
        they stay scaled."""
        for p in parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        if self.count == 1:
            return
        own = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        flat = self.engine.reduce(own, "sum")
        for p, grad in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = grad.view_as(p)

    @property
    def loss_scale(self) -> float | None:
        """What fp16 multiplies the loss by, so that small gradients do not become 0; None
        in other precisions."""
        return None if self.engine.scaler is None else float(self.engine.scaler.get_scale())

    def unscale(self, optimiser: torch.optim.Optimizer) -> None:
        """Divide the summed gradients by the loss scale, and note whether one has
        overflowed; all processes agree."""
        if self.engine.scaler is not None:
            # else no scale, where no pair was here
            self.engine.scaler.scale(torch.zeros((), device=self.device))
            self.engine.scaler.unscale_(optimiser)

    def step(self, optimiser: torch.optim.Optimizer) -> bool:
        """Take an optimiser step; False where a gradient overflowed under fp16: no step,
        and half the loss scale."""
        scaler, before = self.engine.scaler, self.loss_scale
        if scaler is None or before is None:
            optimiser.step()
            return True
        scaler.step(optimiser)
        scaler.update()
        return float(scaler.get_scale()) >= before

    def scaler_state(self) -> dict[str, Any]:
        """The state of fp16's loss scale; empty in other precisions."""
        return {} if self.engine.scaler is None else self.engine.scaler.state_dict()

    def load_scaler(self, state: Mapping[str, Any]) -> None:
        """Put back what `scaler_state` gave."""
        if self.engine.scaler is not None and state:
            self.engine.scaler.load_state_dict(dict(state))

    def start_trackers(self) -> None:
        """Open the trackers' logs, once the run folder is this run's. Raises RuntimeError
        where one fails."""
        if self.trackers:
            self.once(self._open_trackers)

    def _open_trackers(self) -> None:
        try:
            self.engine.init_trackers("vidrl")
        # each tracker has errors of its own, as of a login that is missing
        except Exception as error:
            named = ", ".join(str(getattr(one, "value", one)) for one in self.engine.log_with)
            raise RuntimeError(
                f"train.trackers: {named} could not begin: {type(error).__name__}: {error}. Set it "
                "up, as by its login command, or leave it out of train.trackers"
            ) from error

    def log(self, row: dict[str, Any], round: int) -> None:
        """Hand numbers to the trackers, nested names joined by a slash."""
        if self.trackers:
            self.engine.log(_flat(row), step=round)

    def close(self) -> None:
        self.engine.end_training()


def _known(trackers: Sequence[str]) -> None:
    """Raise ValueError for a tracker that accelerate does not know."""
    from accelerate.utils import LoggerType

    known = [str(one.value) for one in LoggerType]
    for name in trackers:
        if name not in known:
            raise ValueError(
                f"train.trackers: expected trackers of accelerate, got {name!r}: {nearest(name, known)}"
            )


def _flat(row: dict[str, Any], prefix: str = "") -> dict[str, float]:
    out: dict[str, float] = {}
    for name, value in row.items():
        out |= (
            _flat(value, f"{prefix}{name}/")
            if isinstance(value, dict)
            else {f"{prefix}{name}": value}
        )
    return out

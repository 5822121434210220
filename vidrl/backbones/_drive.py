"""Runs of a pipeline's own `__call__`: up to its loop, through one turn of the loop, or
from the loop to the pixels.

    prompt, size, guidance ──► encoders ──► ┌── turn k, the network still ──► step hands
    over our latents
                               (remembered)  └── turn k, the network real ──► step takes the
                               prediction, and leaves

The pipeline's code is unchanged but for one word: `enumerate`, which counts its loop, gives
the number of the turn that the wanted time has in the schedule, twice. So code that asks
which step it is in gets the true answer.
"""

from __future__ import annotations

import copy
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import _turns
from ._memory import Memory
from ._probe import Probe, Visit
from ._switch import Ends, Left, Switch, as_the_caller
from ._turns import Parts
from .base import without_autocast

PROCESSORS = ("video_processor", "image_processor")
FRAMES = ("num_frames", "video_length", "frames")  # what pipelines call the number of pixel frames


class Row(NamedTuple):
    """What a pipeline is asked for: a prompt, and pictures, films or texts by the names of
    the call's arguments."""

    prompt: str
    references: Mapping[str, Any]


class Look(NamedTuple):
    """A turn whose networks did not compute: the names of those that were called, the
    leaves of the arguments of each call, and what would reach the scheduler's step."""

    networks: list[str]
    calls: list[list[Any]]
    prediction: Tensor


class Drive:
    """Runs a pipeline's `__call__` for rows of `table`, with `call` as its keyword
    arguments.

    `pipe` is a copy of the pipeline, whose network, scheduler and processors are stand-ins.
    `counted`: whether the loop of the pipeline counts its turns. `renews`: whether a run
    drew random numbers within the loop. `parts`: the latents that its loop denoises
    together; several are given and returned joined, as rows of numbers (B, E). `opens`:
    whether its first turn makes what later turns read, so that each run begins with that
    turn, the network still.
    """

    def __init__(
        self,
        pipe: Any,
        networks: Mapping[str, nn.Module],
        probe: Probe,
        memory: Memory,
        call: Mapping[str, Any],
        seed: int,
    ):
        self.probe, self.memory, self.call, self.seed = probe, memory, dict(call), seed
        self.switches = {name: Switch(network) for name, network in networks.items()}
        self.raw = _with_globals(inspect.unwrap(type(pipe).__call__), enumerate=self._enumerate)
        self.takes = inspect.signature(self.raw).parameters
        ends = {name: Ends(getattr(pipe, name)) for name in PROCESSORS if hasattr(pipe, name)}
        self.name, self.steps = type(pipe).__name__, 0
        parts = {**self.switches, **ends, **self._others(pipe), "scheduler": probe}
        self.pipe = _copy(pipe, parts, memory.device)
        self.table, self.counted, self.renews, self.turns = list[Row](), False, False, 0
        self.parts, self.opens, self.opening = Parts({0: 0}), False, False

    def times(self, row: int, steps: int) -> list[float]:
        """The times of the pipeline's schedule of so many steps; later runs are within that
        schedule."""
        self.steps = steps
        self.first(row)
        return self.probe.remember_schedule()

    def first(self, row: int, **call: Any) -> Tensor:
        """The latents with which the pipeline enters its loop."""
        return self.parts.joined(self.entered(row, **call), 1)

    def entered(self, row: int, **call: Any) -> dict[int, Tensor]:
        """The same by the number of the scheduler that steps them in the first turn."""
        found: dict[int, Tensor] = {}

        def visit(prediction: Tensor, sample: Tensor, number: int) -> Tensor:
            if number in found:
                raise Left
            found[number] = sample
            if len(found) > len(self.probe.copies):
                raise Left
            return sample

        self.run([row], None, visit, 0, call)
        if 0 not in found:
            raise self.cannot("copies of its scheduler step in its place, as for a clip in pieces")
        return found

    def look_at_turns(self, row: int) -> None:
        """Find what a turn of the loop steps, and whether it can be reached alone."""
        self.opens = _turns.opens(self, row)
        self.parts = _turns.parts(self, row)

    def predict(self, rows: Sequence[int], latents: Tensor, time: float) -> Tensor:
        """What reaches the scheduler where the pipeline is at these latents and this
        time."""
        return self._second(rows, latents, time, self._wake)

    def look(self, rows: Sequence[int], latents: Tensor, time: float) -> Look:
        """The same with networks that do not compute, and answer the n-th call of every run
        alike."""
        calls: list[tuple[str, list[Any]]] = []

        def listen() -> None:
            self.memory.open = False
            for name, switch in self.switches.items():
                switch.asked = functools.partial(_noted, calls, name)

        try:
            prediction = self._second(rows, latents, time, listen)
        finally:
            for switch in self.switches.values():
                switch.asked = None
        return Look([name for name, _ in calls], [leaves for _, leaves in calls], prediction)

    def _second(
        self, rows: Sequence[int], latents: Tensor, time: float, between: Callable[[], None]
    ) -> Tensor:
        """What reaches the scheduler in the second of two turns at one time; the first
        hands the latents over, and `between` is called after it."""
        seen: list[tuple[int, Tensor, Tensor]] = []
        n = len(self.parts.sizes)

        def visit(prediction: Tensor, sample: Tensor, number: int) -> Tensor:
            if number in self.parts.sizes:
                seen.append((number, prediction, self.draws[0].get_state()))
                if len(seen) == 2 * n:
                    raise Left
                if len(seen) == n:
                    between()
            return self.parts.part(latents, sample, number).to(sample.dtype)

        self.run(rows, time, visit, 2, {})
        if len(seen) < 2 * n:
            raise self.cannot("its loop left after one turn of two")
        self.renews = self.renews or not torch.equal(seen[0][2], seen[-1][2])
        return self.parts.joined({number: x for number, x, _ in seen[n:]}, len(rows))

    @contextmanager
    def changing(self, change: Callable[[list[Any]], list[Any]]) -> Iterator[None]:
        """Within this context, the networks get other leaves of their arguments when they
        are real."""
        for switch in self.switches.values():
            switch.change = change
        try:
            yield
        finally:
            for switch in self.switches.values():
                switch.change = None

    def pixels(self, rows: Sequence[int], latents: Tensor, frames: int | None = None) -> Tensor:
        """The clips (B, F, 3, H, W) that the pipeline's own end makes of latents, with
        gradient.

        `frames`: the pixel frames that the call asks for where the latents are of another
        length than its own; pipelines that pack their latents unpack them by that number.
        """

        def visit(prediction: Tensor, sample: Tensor, number: int) -> Tensor:
            return self.parts.part(latents, sample, number)

        names = [name for name in FRAMES if name in self.takes] if frames else []
        call = {"output_type": "pt", **dict.fromkeys(names[:1], frames)}
        out = self.run(rows, self.probe.grid[-2], visit, 1, call)
        return out if out.dim() == 5 else out[:, None]

    def _wake(self) -> None:
        """From here on the networks are real, and frozen parts see the latents: their
        outputs are not kept."""
        self.memory.open = False
        for switch in self.switches.values():
            switch.still = False

    def run(
        self,
        rows: Sequence[int],
        time: float | None,
        visit: Visit,
        turns: int,
        call: Mapping[str, Any],
    ) -> Any:
        """One run; its pixels, or nothing where it left before."""
        stepped: list[bool] = []

        def seen(prediction: Tensor, sample: Tensor, number: int) -> Tensor:
            stepped.append(True)
            return sample if self.opening else visit(prediction, sample, number)

        self.turns, self.probe.only = turns, 0 if self.counted else turns
        self.opening = False
        self.probe.aim(time, seen)
        self.memory.begin(rows, tuple(call[name] for name in FRAMES if name in call))
        device = self.memory.device()
        for switch in self.switches.values():
            switch.still, switch.precision = True, as_the_caller(device)
        try:
            with without_autocast(device):  # of the pipeline's own code; not of its networks
                made = self.raw(self.pipe, **self._arguments(rows, call))
        except Left as left:
            made = left.args
        finally:
            self.memory.open = False  # the pipeline's owner may call its parts
        if not stepped:
            raise self.cannot("it never called its scheduler's step")
        return made[0] if len(made) else None

    def _arguments(self, rows: Sequence[int], call: Mapping[str, Any]) -> dict[str, Any]:
        """The keyword arguments of one run; those that belong to a row are lists where
        there are several rows."""
        self.draws = [torch.Generator().manual_seed(self.seed) for _ in rows]
        every = [self.table[row] for row in rows]
        own: dict[str, list[Any]] = {
            "prompt": [row.prompt for row in every],
            "generator": self.draws,
        }
        for name in every[0].references:
            own[name] = [row.references.get(name, self.call.get(name)) for row in every]
        own |= {
            name: [value] * len(rows)
            for name, value in self.call.items()
            if name.startswith("negative_prompt") and isinstance(value, str) and name not in own
        }
        given = {name: values[0] if len(rows) == 1 else values for name, values in own.items()}
        steps = {"num_inference_steps": self.steps, "eta": 0.0, "return_dict": False}
        known = {**steps, **self.call, **given, **call}
        return {name: value for name, value in known.items() if name in self.takes}

    def _enumerate(self, values: Any, start: int = 0) -> Iterator[tuple[int, Any]]:
        """Python's `enumerate`, but over a schedule: there the turn of the probe's time, as
        often as is wanted."""
        schedule = isinstance(values, Tensor) and values.dim() == 1
        if schedule and len(values) < len(self.probe.timesteps) and not self.probe.only:
            raise self.cannot(
                "it begins in the middle of its schedule, with a noised picture or film",
                "set call.strength = 1, if the pipeline takes it",
            )
        if not schedule or len(values) != len(self.probe.timesteps):
            return enumerate(values, start)
        if self.turns == 0:
            self.counted = True
            return enumerate(values, start)
        if self.probe.only:
            return enumerate(values, start)
        return self._loop(values, start)

    def _loop(self, schedule: Tensor, start: int) -> Iterator[tuple[int, Any]]:
        turn = self.probe.turn
        if self.opens and turn:
            self.opening = True
            yield start, schedule[0]
        self.opening = False
        yield from [(turn + start, schedule[turn])] * self.turns

    def _others(self, pipe: Any) -> dict[str, Any]:
        """The other schedulers of a pipeline, which raise where they are asked for a
        step."""

        def refuse(name: str) -> Any:
            def step(*args: Any, **kwargs: Any) -> Any:
                raise self.cannot(
                    f"its {name} steps as well",
                    f"leave {name} out of the pipeline, if it is optional",
                )

            return step

        found: dict[str, Any] = {
            name: copy.copy(part)
            for name in pipe.config
            if name != "scheduler" and hasattr(part := vars(pipe).get(name), "set_timesteps")
        }
        for name, part in found.items():
            part.step = refuse(name)
        return found

    def cannot(self, reason: str, cure: str = "") -> ValueError:
        """The error for a pipeline that cannot be driven."""
        cure = cure or "write a backbone for it (CONTRIBUTING.md, 'A backbone')"
        return ValueError(
            f"expected a pipeline that vidrl can drive, got {self.name}: {reason}; {cure}"
        )


def _noted(calls: list[tuple[str, list[Any]]], name: str, leaves: list[Any]) -> int:
    """Note a call of a network; its number, from 1."""
    calls.append((name, leaves))
    return len(calls)


class _Silent:
    """A progress bar that shows nothing."""

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, n: int = 1) -> None:
        pass

    def set_postfix(self, *args: Any, **kwargs: Any) -> None:
        pass


def _copy(pipe: Any, parts: Mapping[str, Any], device: Callable[[], torch.device]) -> Any:
    """A shallow copy of a pipeline with other parts, which runs on `device` and shows no
    progress."""
    made, kind = copy.copy(pipe), type(pipe)
    members = {
        "_execution_device": property(lambda self: device()),
        "device": property(lambda self: device()),
        "progress_bar": lambda self, iterable=None, total=None: (
            _Silent() if iterable is None else iterable
        ),
        "maybe_free_model_hooks": lambda self: None,
    }
    made.__class__ = type(kind.__name__, (kind,), members)
    made.__dict__.update(parts)
    return made


def _with_globals(function: Any, **names: Any) -> Any:
    """The same function, that finds other values under some global names."""
    scope = {**function.__globals__, **names}
    made = types.FunctionType(
        function.__code__, scope, function.__name__, function.__defaults__, function.__closure__
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return made

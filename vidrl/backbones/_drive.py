"""Runs of a pipeline's own `__call__`: up to its loop, through one turn of the loop, or from the
loop to the pixels.

    prompt, size, guidance ──► encoders ──► ┌── turn k, the network still ──► step hands over our latents
                               (remembered)  └── turn k, the network real ──► step takes the prediction, and leaves

The pipeline's code is unchanged but for one word: `enumerate`, which counts its loop, gives the
number of the turn that the wanted time has in the schedule, twice. So code that asks which step it
is in gets the true answer.
"""

from __future__ import annotations

import copy
import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ._memory import Memory
from ._probe import Probe, Visit
from ._switch import Ends, Left, Switch, as_the_caller
from .base import without_autocast

PROCESSORS = ("video_processor", "image_processor")


class Row(NamedTuple):
    """What a pipeline is asked for: a prompt, and pictures, films or texts by the names of the
    call's arguments."""

    prompt: str
    references: Mapping[str, Any]


class Turn(NamedTuple):
    """What reaches the scheduler's step at the end of a turn."""

    prediction: Tensor
    sample: Tensor


class Drive:
    """Runs a pipeline's `__call__` for rows of `table`, with `call` as its keyword arguments.

    `pipe` is a copy of the pipeline, whose network, scheduler and processors are stand-ins.
    `counted`: whether the loop of the pipeline counts its turns. `renews`: whether a run drew
    random numbers within the loop. `sizes`: of each latents that a turn steps, by the number of
    its scheduler, how many numbers one clip has. Several are given and returned joined, as rows of
    numbers (B, E). `opens`: whether its first turn makes what later turns read, so that each run
    begins with that turn, the network still.
    """

    def __init__(self, pipe: Any, networks: Mapping[str, nn.Module], probe: Probe, memory: Memory,
                 call: Mapping[str, Any], seed: int):  # fmt: skip
        self.probe, self.memory, self.call, self.seed = probe, memory, dict(call), seed
        self.switches = {name: Switch(network) for name, network in networks.items()}
        self.raw = _with_globals(inspect.unwrap(type(pipe).__call__), enumerate=self._enumerate)
        self.takes = inspect.signature(self.raw).parameters
        ends = {name: Ends(getattr(pipe, name)) for name in PROCESSORS if hasattr(pipe, name)}
        self.name, self.steps = type(pipe).__name__, 0
        parts = {**self.switches, **ends, **self._others(pipe), "scheduler": probe}
        self.pipe = _copy(pipe, parts, memory.device)
        self.sizes: dict[int, int] = {0: 0}
        self.table, self.counted, self.renews, self.turns = list[Row](), False, False, 0
        self.opens, self.opening = False, False

    def times(self, row: int, steps: int) -> list[float]:
        """The times of the pipeline's schedule of so many steps; later runs are within that
        schedule."""
        self.steps = steps
        self.first(row)
        return self.probe.remember_schedule()

    def first(self, row: int, **call: Any) -> Tensor:
        """The latents with which the pipeline enters its loop."""
        return self._joined(self.entered(row, **call), 1)

    def entered(self, row: int, **call: Any) -> dict[int, Tensor]:
        """The same by the number of the scheduler that steps them, in the first turn."""
        found: dict[int, Tensor] = {}

        def visit(prediction: Tensor, sample: Tensor, number: int) -> Tensor:
            if number in found:
                raise Left
            found[number] = sample
            if len(found) > len(self.probe.copies):
                raise Left
            return sample

        self._run([row], None, visit, 0, call)
        if 0 not in found:
            raise self.cannot("copies of its scheduler step in its place, as where a clip is made in pieces")
        return found

    def look_at_turns(self, row: int) -> None:
        """Find whether the last step can be reached alone, and which latents a turn steps."""

        def leave(prediction: Tensor, sample: Tensor, number: int) -> Tensor:
            raise Left

        try:
            self._run([row], self.probe.grid[-2], leave, 1, {})
        except UnboundLocalError:
            self.opens = True
        self._look_beside(row)

    def _look_beside(self, row: int) -> None:
        """Find which latents are stepped beside the first ones, as those of sound.

        What a step returned must come back in the next turn; else those latents stay as they were
        drawn, and are no concern of a policy.
        """
        turns: list[dict[int, Tensor]] = [{}, {}]

        def visit(prediction: Tensor, sample: Tensor, number: int) -> Tensor:
            if number in turns[0]:
                turns[1][number] = sample
                if len(turns[1]) == len(turns[0]):
                    raise Left
                return sample
            turns[0][number] = sample + 1
            return turns[0][number]

        first = self.entered(row)
        if not self.probe.copies:
            return
        self._run([row], self.probe.grid[0], visit, 2, {})
        self._check_times()
        beside = [n for n, x in turns[1].items() if n == 0 or torch.equal(x, turns[0][n])]
        self.sizes = {n: first[n].numel() for n in sorted(beside)}

    def _check_times(self) -> None:
        wanted = self.probe.labels()
        if any(one.labels() != wanted for one in self.probe.copies):
            raise self.cannot("it denoises latents of several times at once")

    def predict(self, rows: Sequence[int], latents: Tensor, time: float) -> Tensor:
        """What reaches the scheduler where the pipeline is at these latents and this time."""
        seen: list[tuple[int, Tensor, Tensor]] = []
        n = len(self.sizes)

        def visit(prediction: Tensor, sample: Tensor, number: int) -> Tensor:
            if number not in self.sizes:
                return sample
            seen.append((number, prediction, self.draws[0].get_state()))
            if len(seen) == 2 * n:
                raise Left
            if len(seen) == n:
                self._wake()
            return self._part(latents, sample, number).to(sample.dtype)

        self._run(rows, time, visit, 2, {})
        if len(seen) < 2 * n:
            raise self.cannot("its loop left after one turn of two")
        self.renews = self.renews or not torch.equal(seen[0][2], seen[-1][2])
        return self._joined({number: x for number, x, _ in seen[n:]}, len(rows))

    def pixels(self, rows: Sequence[int], latents: Tensor) -> Tensor:
        """The clips (B, F, 3, H, W) that the pipeline's own end makes of latents, with gradient."""

        def visit(prediction: Tensor, sample: Tensor, number: int) -> Tensor:
            return self._part(latents, sample, number) if number in self.sizes else sample

        out = self._run(rows, self.probe.grid[-2], visit, 1, {"output_type": "pt"})
        return out if out.dim() == 5 else out[:, None]

    def _joined(self, parts: Mapping[int, Tensor], rows: int) -> Tensor:
        """Several latents as rows of numbers; one as it is."""
        if len(self.sizes) == 1:
            return parts[0]
        return torch.cat([parts[number].reshape(rows, -1) for number in self.sizes], 1)

    def _part(self, latents: Tensor, sample: Tensor, number: int) -> Tensor:
        """Of joined latents those of one scheduler, in the shape of `sample`."""
        if len(self.sizes) == 1:
            return latents
        start = sum(size for other, size in self.sizes.items() if other < number)
        return latents[:, start : start + self.sizes[number]].reshape(sample.shape)

    def _wake(self) -> None:
        """From here on the networks are real, and frozen parts see the latents: their outputs
        are not kept."""
        self.memory.open = False
        for switch in self.switches.values():
            switch.still = False

    def _run(self, rows: Sequence[int], time: float | None, visit: Visit, turns: int,
             call: Mapping[str, Any]) -> Any:  # fmt: skip
        """One run; its pixels, or nothing where it left before."""
        stepped: list[bool] = []

        def seen(prediction: Tensor, sample: Tensor, number: int) -> Tensor:
            stepped.append(True)
            return sample if self.opening else visit(prediction, sample, number)

        self.turns, self.probe.only = turns, 0 if self.counted else turns
        self.opening = False
        self.probe.aim(time, seen)
        self.memory.begin(rows)
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
        """The keyword arguments of one run; those that belong to a row are lists where there are
        several rows."""
        self.draws = [torch.Generator().manual_seed(self.seed) for _ in rows]
        every = [self.table[row] for row in rows]
        own: dict[str, list[Any]] = {"prompt": [row.prompt for row in every], "generator": self.draws}
        for name in every[0].references:
            own[name] = [row.references.get(name, self.call.get(name)) for row in every]
        own |= {name: [value] * len(rows) for name, value in self.call.items()
                if name.startswith("negative_prompt") and isinstance(value, str) and name not in own}  # fmt: skip
        given = {name: values[0] if len(rows) == 1 else values for name, values in own.items()}
        steps = {"num_inference_steps": self.steps, "eta": 0.0, "return_dict": False}
        known = {**steps, **self.call, **given, **call}
        return {name: value for name, value in known.items() if name in self.takes}

    def _enumerate(self, values: Any, start: int = 0) -> Iterator[tuple[int, Any]]:
        """Python's `enumerate`, but over a schedule: there the turn of the probe's time, as
        often as is wanted."""
        schedule = isinstance(values, Tensor) and values.dim() == 1
        if schedule and len(values) < len(self.probe.timesteps) and not self.probe.only:
            raise self.cannot("it begins in the middle of its schedule, with a noised picture or film",
                              "set call.strength = 1, if the pipeline takes it")  # fmt: skip
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
        """The other schedulers of a pipeline, which raise where they are asked for a step."""

        def refuse(name: str) -> Any:
            def step(*args: Any, **kwargs: Any) -> Any:
                raise self.cannot(f"its {name} steps as well", f"leave {name} out of the pipeline, if it is optional")

            return step

        found = {name: copy.copy(part) for name in pipe.config if name != "scheduler"
                 and hasattr(part := getattr(pipe, name, None), "set_timesteps")}  # fmt: skip
        for name, part in found.items():
            part.step = refuse(name)
        return found

    def cannot(self, reason: str, cure: str = "") -> ValueError:
        """The error for a pipeline that cannot be driven."""
        cure = cure or "write a backbone for it (CONTRIBUTING.md, 'A backbone')"
        return ValueError(
            f"expected a pipeline that vidrl can drive, got {self.name}: {reason}; {cure}"
        )


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

"""Run a pipeline's own `__call__`: up to its loop, to a prediction, or to the pixels.

    prompt, size, guidance ──► encoders ──► ┌── iteration k, network idle ──► step returns
                               (cached)     │                                 vidrl's latents
                                            └── iteration k, network real ──► step takes the
                                                                 prediction and ends the run

The pipeline's code is unchanged but for one global name: `enumerate`, with which most
pipelines count their loop, yields the number of the step at the wanted time, twice. So code
that asks for its step number, for example to switch guidance or to choose one of two
networks, gets the true answer.
"""

from __future__ import annotations

import copy
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import _loop_latents
from ._encoder_cache import EncoderCache
from ._loop_latents import LatentParts
from ._repeated_messages import ShownOnce
from ._scheduler_probe import Probe, Visit
from ._stand_ins import ExitingProcessor, RunExit, SwitchableNetwork, autocast_of_caller
from .base import without_autocast

PROCESSORS = ("video_processor", "image_processor")
# the names of the argument "number of pixel frames" in diffusers' pipelines
FRAMES = ("num_frames", "video_length", "frames")


class Row(NamedTuple):
    """The arguments of one clip: a prompt, and references by the names of the call's arguments."""

    prompt: str
    references: Mapping[str, Any]


class DryIteration(NamedTuple):
    """The record of an iteration whose networks did not compute.

    `networks`: the names of the networks that were called, in order. `calls`: the leaves of
    the arguments of each call. `prediction`: what would reach the scheduler's step.
    """

    networks: list[str]
    calls: list[list[Any]]
    prediction: Tensor

    def same_inputs(self, other: DryIteration) -> bool:
        """Return whether the networks of another iteration are called with equal arguments."""
        pairs = zip(self.calls, other.calls, strict=False)
        same_calls = self.networks == other.networks
        return same_calls and all(len(a) == len(b) and all(map(same, a, b)) for a, b in pairs)


class Runner:
    """A runner calls a pipeline's `__call__` for rows of `table`, with the arguments `call`.

    `pipe` is a copy of the pipeline whose networks, schedulers and processors are
    stand-ins. The order of calls: `times` sets the schedule, which `predict`,
    `dry_iteration` and `pixels` need (they raise RuntimeError without it); `examine_loop`
    must come before `predict` for a pipeline that denoises several latents.

    The other attributes are found in dry runs:

    - `counts_iterations`: whether the pipeline's loop counts its iterations with
      `enumerate`.
    - `draws_noise_in_loop`: whether a run drew random numbers within the loop.
    - `parts`: the latents that the loop denoises together. Several are joined to rows of
      numbers (B, E) in arguments and results.
    - `needs_first_iteration`: whether the first iteration computes what later ones read.
      Then each run begins with the first iteration, its network idle.
    - `lists_films`: whether the call takes a list of films where there is one row, too.
    """

    def __init__(
        self,
        pipe: Any,
        networks: Mapping[str, nn.Module],
        probe: Probe,
        encoder_cache: EncoderCache,
        call: Mapping[str, Any],
        seed: int,
    ):
        self.probe = probe
        self.encoder_cache = encoder_cache
        self.call = dict(call)
        self.seed = seed
        self.switches = {name: SwitchableNetwork(network) for name, network in networks.items()}
        self.call_function = _with_globals(
            inspect.unwrap(type(pipe).__call__), enumerate=self._enumerate
        )
        self.call_parameters = inspect.signature(self.call_function).parameters
        ends = {
            name: ExitingProcessor(getattr(pipe, name))
            for name in PROCESSORS
            if hasattr(pipe, name)
        }
        self.name, self.steps = type(pipe).__name__, 0
        parts = {**self.switches, **ends, **self._refusing_schedulers(pipe), "scheduler": probe}
        self.pipe = _copy(pipe, parts, encoder_cache.device)
        self.table = list[Row]()
        self.draws = list[torch.Generator]()  # of the present run, one for each of its rows
        self.counts_iterations = False
        self.draws_noise_in_loop = False
        self.iterations = 0  # how often the present run's loop runs at the wanted time
        self.parts = LatentParts({0: 0})
        self.needs_first_iteration = False
        self.in_first_iteration = False
        self.lists_films = False
        self.messages = ShownOnce()

    def times(self, row: int, steps: int) -> list[float]:
        """Return the times of the pipeline's schedule of `steps` steps, which later runs use.

        Raises ValueError for a schedule that is not of numbers: schedulers that stretch their
        sigmas divide 0 by 0 for a single step.
        """
        self.steps = steps
        self.initial_latents(row)
        times = self.probe.remember_schedule()
        if not all(isfinite(t) for t in times):
            raise ValueError(
                f"expected numbers in a schedule of {steps} step{'s' * (steps > 1)} of "
                f"{self.name}, got {', '.join(f'{t:g}' for t in times[:4])}: take more steps"
            )
        return times

    def initial_latents(self, row: int, **call: Any) -> Tensor:
        """Return the latents with which the pipeline enters its loop, joined."""
        return self.parts.joined(self.initial_latents_by_scheduler(row, **call), 1)

    def initial_latents_by_scheduler(self, row: int, **call: Any) -> dict[int, Tensor]:
        """Return the latents with which the loop begins, by the number of the scheduler.

        A pipeline of several latents steps each with its own copy of the scheduler; the
        pipeline's scheduler has number 0. The run ends at the second step of a scheduler.
        """
        found: dict[int, Tensor] = {}

        def visit(prediction: Tensor, sample: Tensor, number: int) -> Tensor:
            if number in found:
                raise RunExit
            found[number] = sample
            if len(found) > len(self.probe.copies):
                raise RunExit
            return sample

        self.run([row], None, visit, 0, call)
        if 0 not in found:
            raise self.refusal("copies of its scheduler step in its place, as for a clip in pieces")
        return found

    def examine_loop(self, row: int) -> None:
        """Find which latents an iteration steps, and whether later ones need the first."""
        self.needs_first_iteration = _loop_latents.needs_first_iteration(self, row)
        self.parts = _loop_latents.latent_parts(self, row)

    def predict(self, rows: Sequence[int], latents: Tensor, time: float) -> Tensor:
        """Return what reaches the scheduler if the pipeline is at these latents and this time."""
        return self._second_iteration(rows, latents, time, self._start_networks)

    def dry_iteration(self, rows: Sequence[int], latents: Tensor, time: float) -> DryIteration:
        """Record an iteration whose networks do not compute.

        The n-th network call of every run has the same answer, so two iterations that call
        the networks alike also hand the same prediction to the scheduler, unless the
        pipeline's own code depends on the time.
        """
        calls: list[tuple[str, list[Any]]] = []

        def answer_calls() -> None:
            self.encoder_cache.caching = False
            for name, switch in self.switches.items():
                switch.on_idle_call = functools.partial(_record_call, calls, name)

        try:
            prediction = self._second_iteration(rows, latents, time, answer_calls)
        finally:
            for switch in self.switches.values():
                switch.on_idle_call = None
        return DryIteration(
            [name for name, _ in calls], [leaves for _, leaves in calls], prediction
        )

    def _second_iteration(
        self, rows: Sequence[int], latents: Tensor, time: float, between: Callable[[], None]
    ) -> Tensor:
        """Return what reaches the scheduler in the second of two iterations at one time.

        The first iteration hands the latents over; `between` is called after it.
        """
        seen: list[tuple[int, Tensor, Tensor]] = []
        n = len(self.parts.sizes)

        def visit(prediction: Tensor, sample: Tensor, number: int) -> Tensor:
            if number in self.parts.sizes:
                # the state of the random generator shows whether the loop drew numbers
                seen.append((number, prediction, self.draws[0].get_state()))
                if len(seen) == 2 * n:
                    raise RunExit
                if len(seen) == n:
                    between()
            return self.parts.part(latents, sample, number).to(sample.dtype)

        self.run(rows, time, visit, 2, {})
        if len(seen) < 2 * n:
            raise self.refusal("its loop left after one turn of two")
        self.draws_noise_in_loop = self.draws_noise_in_loop or not torch.equal(
            seen[0][2], seen[-1][2]
        )
        return self.parts.joined({number: x for number, x, _ in seen[n:]}, len(rows))

    @contextmanager
    def changed_arguments(
        self, change_arguments: Callable[[list[Any]], list[Any]]
    ) -> Iterator[None]:
        """Change the leaves of the arguments of computing networks within this context."""
        for switch in self.switches.values():
            switch.change_arguments = change_arguments
        try:
            yield
        finally:
            for switch in self.switches.values():
                switch.change_arguments = None

    def pixels(
        self,
        rows: Sequence[int],
        latents: Tensor,
        frames: int | None = None,
        time: float | None = None,
    ) -> Tensor:
        """Return the clips (B, F, 3, H, W) that the pipeline decodes, with gradient.

        `frames`: the number of pixel frames in the call, for latents of another length than
        the call's own; pipelines that pack their latents unpack them by that number. `time`:
        that of the step before the decoder, None for the schedule's last one.
        """

        self._check_schedule()

        def visit(prediction: Tensor, sample: Tensor, number: int) -> Tensor:
            return self.parts.part(latents, sample, number)

        names = [name for name in FRAMES if name in self.call_parameters] if frames else []
        call = {"output_type": "pt", **dict.fromkeys(names[:1], frames)}
        # The last step's time: pipelines that switch networks or guidance late are at their
        # end there.
        out = self.run(rows, self.probe.grid[-2] if time is None else time, visit, 1, call)
        # A pipeline of pictures returns (B, 3, H, W).
        return out if out.dim() == 5 else out[:, None]

    def _start_networks(self) -> None:
        """Let the networks compute from here on, and stop caching.

        What frozen parts compute within the loop depends on the latents, so the outputs are
        not cached.
        """
        self.encoder_cache.caching = False
        for switch in self.switches.values():
            switch.idle = False

    def run(
        self,
        rows: Sequence[int],
        time: float | None,
        visit: Visit,
        iterations: int,
        call: Mapping[str, Any],
    ) -> Any:
        """Run the pipeline's call once; return its pixels, or None if `visit` ended the run.

        `iterations`: how often the loop runs at `time`; 0 with `time` None runs the
        schedule as it is. `visit` is called in place of each scheduler step.
        """
        if time is not None:
            self._check_schedule()
        stepped: list[bool] = []

        def visit_step(prediction: Tensor, sample: Tensor, number: int) -> Tensor:
            stepped.append(True)
            return sample if self.in_first_iteration else visit(prediction, sample, number)

        self.iterations = iterations
        # the loop is repeated by `enumerate` if it uses it, else by a schedule of equal steps
        self.probe.repeats = 0 if self.counts_iterations else iterations
        self.in_first_iteration = False
        self.probe.begin_run(time, visit_step)
        self.encoder_cache.begin(rows, tuple(call[name] for name in FRAMES if name in call))
        device = self.encoder_cache.device()
        for switch in self.switches.values():
            switch.idle, switch.precision = True, autocast_of_caller(device)
        try:
            # without autocast: of the pipeline's own code; not of its networks
            with without_autocast(device), self.messages.of("diffusers"):
                created = self.call_function(self.pipe, **self._arguments(rows, call))
        except RunExit as run_exit:
            created = run_exit.args
        finally:
            self.encoder_cache.caching = False  # the pipeline's owner may call its parts
        if not stepped:
            raise self.refusal("it never called its scheduler's step")
        return created[0] if len(created) else None

    def _check_schedule(self) -> None:
        """Raise RuntimeError if no schedule was set."""
        if not self.probe.grid:
            raise RuntimeError(
                f"expected a schedule of {self.name}, got none: call `times(row, steps)` first"
            )

    def _arguments(self, rows: Sequence[int], call: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments of one run, with new generators in `draws`.

        Arguments that belong to a row are lists if there are several rows: most pipelines
        take lists there. Arguments that the pipeline's call does not know are left out.
        """
        # One generator for each row, all with the same seed: what a pipeline draws for a
        # row must not depend on the row's place in the batch.
        self.draws = [torch.Generator().manual_seed(self.seed) for _ in rows]
        table_rows = [self.table[row] for row in rows]
        by_row: dict[str, list[Any]] = {
            "prompt": [row.prompt for row in table_rows],
            "generator": self.draws,
        }
        for name in table_rows[0].references:
            by_row[name] = [row.references.get(name, self.call.get(name)) for row in table_rows]
        by_row |= {
            name: [value] * len(rows)
            for name, value in self.call.items()
            if name.startswith("negative_prompt") and isinstance(value, str) and name not in by_row
        }
        films = {name: value for name, value in self.call.items() if self._listed(value)}
        by_row = {**{name: [film] * len(rows) for name, film in films.items()}, **by_row}
        for_rows = {
            name: values[0] if len(rows) == 1 and not self._listed(values[0]) else values
            for name, values in by_row.items()
        }
        # Schedulers with an `eta` would draw noise otherwise.
        steps = {"num_inference_steps": self.steps, "eta": 0.0, "return_dict": False}
        arguments = {**steps, **self.call, **for_rows, **call}
        return {name: value for name, value in arguments.items() if name in self.call_parameters}

    def _listed(self, value: object) -> bool:
        """Return whether the call takes a row's value as a list of one."""
        return self.lists_films and is_film(value)

    def _enumerate(self, values: Any, start: int = 0) -> Iterator[tuple[int, Any]]:
        """Enumerate as Python does, but of the schedule yield the wanted step alone, repeated.

        A loop that the probe already shortens (`probe.repeats`) is enumerated as it is.
        """
        # A pipeline enumerates other things too. Its timesteps are a tensor of one dimension.
        schedule = isinstance(values, Tensor) and values.dim() == 1
        if schedule and len(values) < len(self.probe.timesteps) and not self.probe.repeats:
            raise self.refusal(
                "it begins in the middle of its schedule, with a noised picture or film",
                "set call.strength = 1, if the pipeline takes it",
            )
        if not schedule or len(values) != len(self.probe.timesteps):
            return enumerate(values, start)
        if self.iterations == 0:  # a run of the schedule as it is, which finds the attributes
            self.counts_iterations = True
            return enumerate(values, start)
        if self.probe.repeats:
            return enumerate(values, start)
        return self._loop(values, start)

    def _loop(self, schedule: Tensor, start: int) -> Iterator[tuple[int, Any]]:
        """Yield the step at the wanted time as often as asked, after the first if needed."""
        step_number = self.probe.step_number
        if self.needs_first_iteration and step_number:
            self.in_first_iteration = True
            yield start, schedule[0]
        self.in_first_iteration = False
        yield from [(step_number + start, schedule[step_number])] * self.iterations

    def _refusing_schedulers(self, pipe: Any) -> dict[str, Any]:
        """Return copies of the pipeline's other schedulers whose `step` raises.

        Only the scheduler named "scheduler" is intercepted; the steps of another would
        escape.
        """

        def refuse(name: str) -> Any:
            def step(*args: Any, **kwargs: Any) -> Any:
                raise self.refusal(
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

    def refusal(self, reason: str, cure: str = "") -> ValueError:
        """Build the ValueError for a pipeline that cannot be driven."""
        cure = cure or "write a backbone for it (CONTRIBUTING.md, 'A backbone')"
        return ValueError(
            f"expected a pipeline that vidrl can drive, got {self.name}: {reason}; {cure}"
        )


def same(a: Any, b: Any) -> bool:
    """Return whether two leaves of a network's arguments are equal."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    return a is b or (type(a) is type(b) and not isinstance(a, Tensor) and bool(a == b))


def is_film(value: object) -> bool:
    """Return whether an argument of the call is a list of pictures."""
    return isinstance(value, list) and bool(value) and hasattr(value[0], "convert")


def _record_call(calls: list[tuple[str, list[Any]]], name: str, leaves: list[Any]) -> int:
    """Record a call of a network; return its number, from 1."""
    calls.append((name, leaves))
    return len(calls)


class _SilentProgressBar:
    """A progress bar that shows nothing."""

    def __enter__(self) -> _SilentProgressBar:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, n: int = 1) -> None:
        pass

    def set_postfix(self, *args: Any, **kwargs: Any) -> None:
        pass


def _copy(pipe: Any, parts: Mapping[str, Any], device: Callable[[], torch.device]) -> Any:
    """Return a shallow copy of a pipeline with other parts, which runs silently on `device`.

    The modules are shared, so the copy computes with the weights that are trained. A
    subclass replaces the properties that diffusers' pipelines derive from their modules,
    which would not find the stand-ins, and the hooks that would move modules.
    """
    created, kind = copy.copy(pipe), type(pipe)
    members = {
        "_execution_device": property(lambda self: device()),
        "device": property(lambda self: device()),
        "progress_bar": lambda self, iterable=None, total=None: (
            _SilentProgressBar() if iterable is None else iterable
        ),
        "maybe_free_model_hooks": lambda self: None,
    }
    created.__class__ = type(kind.__name__, (kind,), members)
    created.__dict__.update(parts)
    return created


def _with_globals(function: Any, **names: Any) -> Any:
    """Return a copy of a function that finds other values under some global names."""
    scope = {**function.__globals__, **names}
    created = types.FunctionType(
        function.__code__, scope, function.__name__, function.__defaults__, function.__closure__
    )
    created.__kwdefaults__ = function.__kwdefaults__
    return created

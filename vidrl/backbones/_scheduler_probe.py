"""An intercepting scheduler: it reports the prediction and hands over latents, but never steps.

A pipeline asks its scheduler for two things: the timesteps of its loop, and at the end of
each iteration the next latents (`step`). A probe subclasses the pipeline's own scheduler
class, so everything that a pipeline looks up in a scheduler is there, but its `step` calls
`visit(prediction, sample, number)` and returns the result. If a pipeline copies its
scheduler, for example to denoise sound beside video, the copy is a probe as well, and calls
the same `visit` with its own number.

Three kinds of schedulers cover diffusers: straight paths (flow), variance-preserving paths
of trained levels (discrete), and noise added to clean latents (EDM). Each becomes a path of
`vidrl.diffusion.path`, with times from at most 1 down to 0.
"""

from __future__ import annotations

import copy
import functools
from bisect import bisect_left
from collections.abc import Callable
from math import atan, log, pi, tan
from typing import Any

import torch
from torch import Tensor

from vidrl.diffusion.path import Path, discrete, flow

# (prediction, sample, number of the scheduler) at the end of an iteration → the next latents
Visit = Callable[[Tensor, Tensor, int], Tensor]
PREDICTS = {
    "epsilon": "eps",
    "v_prediction": "v",
    "sample": "x0",
}  # diffusers' names → vidrl.diffusion.path's


def as_float32(t: float) -> float:
    """Round a time to float32, the precision in which predictions are asked for.

    >>> as_float32(0.1)
    0.10000000149011612
    """
    return float(torch.tensor(t, dtype=torch.float32))


class _StepOutput(tuple):
    """The return value of a step, which reads as a tuple or as an object with attributes."""

    prev_sample = property(lambda self: self[0])
    pred_original_sample = property(lambda self: self[1])


class Probe:
    """The methods that are put over a scheduler's class to intercept its steps.

    - `grid`: the times of the last schedule that was asked for; empty before the first
      `remember_schedule`.
    - `time`: the time of the run, None for the schedule as it is.
    - `step_number`: the number of that time's step in the schedule.
    - `repeats`: if not 0, the run's schedule is that step alone, so many times, for
      pipelines whose loop does not count its iterations with `enumerate`.
    - `number`: 0, and n for the n-th copy in a run; `copies` are those of a run.
    """

    visit: Visit
    number = 0
    copies: list[Probe]
    time: float | None = None
    step_number = 0
    repeats = 0
    sign = 1.0  # of a prediction
    grid: list[float] = []
    # `config`, `timesteps` and `sigmas` are attributes of the scheduler's own class.
    config: Any
    timesteps: Tensor
    sigmas: Tensor
    # Schedulers count their steps here. The count of a probe is fixed, because it never steps.
    _step_index = property(lambda self: self.step_number, lambda self, value: None)

    def begin_run(self, time: float | None, visit: Visit) -> None:
        """Prepare a run at this time that calls `visit` at the end of each iteration."""
        self.time = time
        self.visit = visit
        self.step_number = 0
        self.copies = []

    def remember_schedule(self) -> list[float]:
        """Keep the schedule that a run has just set, and return its times."""
        self.grid = self.schedule_times()
        self.step_of_time = {as_float32(t): k for k, t in enumerate(self.grid[:-1])}
        self.schedule_timesteps = self.timesteps.tolist()
        return self.grid

    def schedule_times(self) -> list[float]:
        """Return the times of the schedule that is set, the end included."""
        raise NotImplementedError

    def timestep_and_sigma(self, t: float) -> tuple[float, float | None]:
        """Return (timestep, sigma) of a time; sigma is None if the scheduler has none."""
        raise NotImplementedError

    def scale(self, t: float) -> float:
        """Return the ratio of the pipeline's latents to vidrl's."""
        return 1.0

    def __deepcopy__(self, memo: object) -> Probe:
        """Return a probe at the same time that has its own number."""
        # a shallow copy is enough: `set_timesteps` gives the copy tensors of its own
        probed = copy.copy(self)
        self.copies.append(probed)
        probed.number = len(self.copies)
        return probed

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any
    ) -> _StepOutput:
        """Call `visit` and return its latents instead of stepping."""
        return _StepOutput((self.visit(model_output, sample, self.number), sample))

    def insert_time(self) -> None:
        """Put `time` into the schedule that was just set: as a step of it, or in place of one."""
        if self.time is None:
            return
        self.step_number = self._step_number_of(self.time)
        on_schedule = (
            as_float32(self.time) in self.step_of_time and len(self.timesteps) == len(self.grid) - 1
        )
        timestep, sigma = (
            (self.timesteps[self.step_number], None)
            if on_schedule
            else self.timestep_and_sigma(self.time)
        )
        sigmas = getattr(self, "sigmas", None)
        if sigma is not None and isinstance(sigmas, Tensor):
            sigmas[self.step_number] = sigma
        if not on_schedule:
            self.timesteps[self.step_number] = timestep
        if self.repeats:
            self._keep_one_step(sigmas)

    def timestep(self, t: float) -> float:
        """Return the timestep that the pipeline's code has in a run at time t."""
        on_schedule = self.step_of_time.get(as_float32(t))
        return (
            self.timestep_and_sigma(t)[0]
            if on_schedule is None
            else self.schedule_timesteps[on_schedule]
        )

    def _step_number_of(self, t: float) -> int:
        """Return the step of a time; of a time between steps, the first step at or below it."""
        found = self.step_of_time.get(as_float32(t))
        earlier = bisect_left([-time for time in self.grid[:-1]], -t)  # steps at times above t
        return min(earlier, len(self.grid) - 2, len(self.timesteps) - 1) if found is None else found

    def _keep_one_step(self, sigmas: Tensor | None) -> None:
        """Shorten the schedule to `repeats` copies of the current step."""
        k = self.step_number
        self.timesteps = self.timesteps[[k] * self.repeats]
        if isinstance(sigmas, Tensor):
            self.sigmas = torch.stack([*[sigmas[k]] * self.repeats, sigmas[-1]])
        self.step_number = 0


class _FlowProbe(Probe):
    """A probe that follows straight paths, x_t = (1 − t) x0 + t ε.

    `sign` is −1 if the scheduler's sigma is 1 − t and the network predicts x0 − ε.
    """

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any
    ) -> _StepOutput:
        """Undo the sign of a step with times for each token, which subtracts the prediction."""
        # with times for each token, diffusers' step adds dt · (−prediction)
        if kwargs.get("per_token_timesteps") is not None:
            model_output = -model_output
        return super().step(model_output, timestep, sample)

    def timestep_and_sigma(self, t: float) -> tuple[float, float]:
        """Return (timestep, sigma) of a time off the schedule.

        Some pipelines shift the sigmas and not the timesteps; then the timestep is
        interpolated between those of the schedule.
        """
        sigma = t if self.sign > 0 else 1 - t
        levels = self.config.num_train_timesteps
        sigmas = [s if self.sign > 0 else 1 - s for s in self.grid[:-1]]
        if all(
            abs(timestep - levels * s) < 1e-2
            for timestep, s in zip(self.schedule_timesteps, sigmas, strict=True)
        ):
            return levels * as_float32(sigma), sigma
        return _between(
            t, self.grid, [*self.schedule_timesteps, 0.0 if self.sign > 0 else float(levels)]
        ), sigma

    def schedule_times(self) -> list[float]:
        """Return the times: the sigmas, or 1 − sigma if the sign is negative."""
        return [s if self.sign > 0 else 1 - s for s in self.sigmas.tolist()]


class _DiscreteProbe(Probe):
    """A probe of trained levels: timestep i is time t = (i + 1) / N."""

    def timestep_and_sigma(self, t: float) -> tuple[float, float | None]:
        """Return the level nearest to a time; a discrete scheduler has no sigma."""
        return max(0, round(t * self.config.num_train_timesteps) - 1), None

    def schedule_times(self) -> list[float]:
        """Return the times of the schedule's levels, and 0 at the end."""
        return [(int(t) + 1) / self.config.num_train_timesteps for t in self.timesteps.tolist()] + [
            0.0
        ]


class _EdmProbe(Probe):
    """A probe of EDM: noise of deviation σ is added to clean latents; t = 2/π · atan σ."""

    final: float

    def sigma(self, t: float) -> float:
        """Return σ = tan(π t / 2), and the scheduler's last σ at t = 0."""
        return tan(pi / 2 * t) if t > 0 else self.final

    def timestep_and_sigma(self, t: float) -> tuple[float, float]:
        """Return (timestep, sigma): EDM networks take log(σ) / 4, flow ones a multiple of σ."""
        # only flow schedulers have `time_shift`; their timesteps are multiples of σ
        is_flow = hasattr(self, "time_shift")
        sigma = self.sigma(t)
        return sigma * self.config.num_train_timesteps if is_flow else 0.25 * log(sigma), sigma

    def scale(self, t: float) -> float:
        """Return √(1 + σ²), by which vidrl's variance-preserving latents are divided."""
        return float((1 + self.sigma(t) ** 2) ** 0.5)

    def schedule_times(self) -> list[float]:
        """Return the times 2/π · atan σ of the schedule's sigmas, and 0 at the end."""
        return [2 / pi * atan(s) for s in self.sigmas.double().tolist()[:-1]] + [0.0]

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any
    ) -> _StepOutput:
        """Return clean latents for each guidance branch, and call `visit` for the guided one.

        Pipelines of preconditioned networks call `step` once a branch for the clean
        latents, combine these, and call it again with `pred_original_sample`.
        """
        if not hasattr(self, "precondition_outputs"):
            return super().step(model_output, timestep, sample)
        guided = kwargs.get("pred_original_sample")
        if guided is None:
            clean = self.precondition_outputs(sample, model_output, self.sigmas[self.step_number])
            return _StepOutput((sample, clean))
        return _StepOutput((self.visit(guided, sample, self.number), guided))


def _between(x: float, falling: list[float], values: list[float]) -> float:
    """Return the value at x on the line through the points (falling[i], values[i]).

    >>> _between(0.75, [1.0, 0.5, 0.0], [10.0, 6.0, 0.0])
    8.0
    """
    k = min(max(bisect_left([-f for f in falling], -x), 1), len(falling) - 1)
    (a, b), (u, v) = falling[k - 1 : k + 1], values[k - 1 : k + 1]
    return u + (v - u) * (a - x) / (a - b)


def edm(predicts: str = "v", final: float = 0.0) -> Path:
    """Return the path of noise of standard deviation σ that is added to clean latents (EDM).

    Latents are divided by √(1 + σ²) (arXiv 2206.00364). The quotient is
    variance-preserving: α = cos(π t / 2) and σ = sin(π t / 2) at t = 2/π · atan σ. `final`
    is EDM's σ at t = 0, where sampling ends.

    Example:
        >>> [round(float(edm().sigma(torch.tensor(t))), 3) for t in (1.0, 0.5, 0.0)]
        [1.0, 0.707, 0.0]
    """
    end = atan(final)

    def angle(t: Tensor) -> Tensor:
        return torch.where(t > 0, t * (pi / 2), end)

    return Path(lambda t: angle(t).cos(), lambda t: angle(t).sin(), predicts, "vp")


def probe(scheduler: Any, pipeline: str) -> tuple[Any, Path]:
    """Return the probe of a scheduler, and the noise path that the scheduler follows.

    Raises ValueError for a scheduler of none of the three kinds; `pipeline` names its
    pipeline in the message.
    """
    scheduler = _first_order(scheduler)
    euler, config = _schedulers().FlowMatchEulerDiscreteScheduler, scheduler.config
    if isinstance(scheduler, euler) and (config.get("sigma_max") or 1) <= 1:
        return _probed(
            _FlowProbe, scheduler, sign=-1.0 if config.get("invert_sigmas") else 1.0
        ), flow()
    if _adds_noise(scheduler):
        return _edm_probe(scheduler)
    if hasattr(scheduler, "alphas_cumprod") and config.get("prediction_type") in PREDICTS:
        return _discrete_probe(scheduler)
    raise ValueError(
        f"expected a flow, variance-preserving or EDM scheduler in {pipeline}, got "
        f"{type(scheduler).__name__} of {config.get('prediction_type', 'no prediction_type')}: "
        "vidrl cannot tell the path of its noise; put another scheduler into the pipeline, or "
        "write a backbone for it (CONTRIBUTING.md, 'A backbone')"
    )


def _schedulers() -> Any:
    """Return diffusers, imported at first use because the import takes seconds."""
    import diffusers

    return diffusers


def _first_order(scheduler: Any) -> Any:
    """Return the scheduler, or the first-order deterministic one of the same path and levels.

    Multistep and stochastic schedulers are replaced: their steps are no function of one
    prediction, while vidrl's own steps agree with the first-order ones.
    """
    diffusers, config = _schedulers(), scheduler.config
    euler = diffusers.FlowMatchEulerDiscreteScheduler
    if config.get("prediction_type") == "flow_prediction" and not isinstance(scheduler, euler):
        shift = config.get("flow_shift") or 1.0
        return euler(shift=shift, num_train_timesteps=config.num_train_timesteps)
    if isinstance(scheduler, diffusers.FlowMatchHeunDiscreteScheduler):
        return euler(shift=config.shift, num_train_timesteps=config.num_train_timesteps)
    discrete_levels = hasattr(scheduler, "alphas_cumprod") and not _adds_noise(scheduler)
    if discrete_levels and "DDIM" not in type(scheduler).__name__:
        return diffusers.DDIMScheduler.from_config(config, clip_sample=False, thresholding=False)
    return scheduler


def _adds_noise(scheduler: Any) -> bool:
    """Return whether the scheduler adds noise to clean latents, without a table of levels."""
    is_flow = isinstance(scheduler, _schedulers().FlowMatchEulerDiscreteScheduler)
    # On a straight path σ is at most 1; a flow scheduler with a larger σ adds noise (EDM).
    exceeds_one = is_flow and (scheduler.config.get("sigma_max") or 1) > 1
    continuous = scheduler.config.get("timestep_type") == "continuous"
    return exceeds_one or continuous or hasattr(scheduler, "precondition_outputs")


def _edm_probe(scheduler: Any) -> tuple[Any, Path]:
    """Return the probe and path of an EDM scheduler."""
    probed = _probed(_EdmProbe, scheduler, final=0.0)
    type(probed).final = _last_sigma(scheduler)
    if hasattr(scheduler, "precondition_outputs"):
        return probed, edm("x0", probed.final)
    is_flow = hasattr(scheduler, "time_shift")
    return probed, edm(
        "eps" if is_flow else PREDICTS[scheduler.config.prediction_type], probed.final
    )


def _last_sigma(scheduler: Any) -> float:
    """Return the last sigma of a scheduler's schedules."""
    other = type(scheduler).from_config(scheduler.config)
    other.set_timesteps(2)
    return float(other.sigmas[-1])


def _discrete_probe(scheduler: Any) -> tuple[Any, Path]:
    """Return the probe and path of a scheduler of trained levels."""
    probed = _probed(_DiscreteProbe, scheduler)
    predicts = PREDICTS[probed.config.prediction_type]
    return probed, discrete(probed.alphas_cumprod, predicts, float(probed.final_alpha_cumprod))


def _probed(kind: type, scheduler: Any, **extra: Any) -> Any:
    """Build a scheduler of the same class and configuration, with a probe's methods over it."""
    base = type(scheduler)

    @functools.wraps(base.set_timesteps)  # pipelines look up whether it takes sigmas or timesteps
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> None:
        base.set_timesteps(self, *args, **kwargs)
        self.insert_time()

    members = {"set_timesteps": set_timesteps, **extra}
    probed: Any = type(f"Probed{base.__name__}", (kind, base), members)
    return probed.from_config(scheduler.config)

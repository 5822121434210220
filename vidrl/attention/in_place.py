"""Prove a kernel in the run's own network, by one prediction and its gradients.

A kernel that is right on random tensors may still be wrong where it is used: a processor may
ignore it, autocast may give it other types, a layer may pass a mask that it drops. So the
network itself predicts, with its own processors, in the run's precision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vidrl.diffusion import transition
from vidrl.diffusion.path import Path, exact
from vidrl.diffusion.precision import HALF, RATIO_TOLERANCE, of_products

from .agreement import ALONE, Agreement, Careful
from .kernels import AttentionError, Kernel, find
from .proof import TOLERANCE, check
from .reference import REFERENCE, ROUNDED
from .switch import attention_modules, used

ETA = 0.3  # the noise level of the step whose density is compared
PARAMETERS = 64  # trained tensors whose gradients are compared
ROOM = 3.0  # how many times the error of rounding alone is accepted
# FLOPs of one prediction's attention, up to which the formula is written out as the reference
WRITTEN_OUT = {"cpu": 1e12, "cuda": 1e15}
# The largest relative error of a prediction by a kernel that only samples: above, what it
# samples has little to do with the network.
SAMPLING_TOLERANCE = 0.5


@dataclass(frozen=True)
class Trial:
    """A small prediction of the run's network, which a proof repeats with several kernels."""

    networks: Sequence[nn.Module]
    """The networks that predict."""
    predict: Callable[[Tensor], Tensor]
    """Returns the prediction at these latents, guidance included."""
    latents: Tensor
    """Latents of one clip."""
    path: Path
    """The noise path of the network."""
    times: tuple[float, float]
    """The time t of the latents, and the end s < t of a step whose density is compared."""


@dataclass(frozen=True)
class Proof:
    """What a proof in place measured of a kernel."""

    kernel: str
    """The plain name of the kernel."""
    reference: str
    """What the kernel is compared with: the formula in float32, or "sdpa" for long clips."""
    output: float
    """The relative error of the prediction, |x − formula| / |formula|."""
    gradient: float | None
    """The relative error of the gradients of the trained weights; None without training."""
    rounding: float
    """The relative error that rounded weights alone cause, in half precision."""
    ratio: float
    """|ratio − 1| between a prediction of a rollout and one of an update."""
    calls: dict[str, int]
    """How many calls of one prediction the kernel computed, and how many torch, and why."""


class _Run(NamedTuple):
    """A prediction (on the CPU), its gradients by name, and who computed the attention."""

    output: Tensor
    gradients: dict[str, Tensor | None]
    calls: Counter[str]
    operators: Counter[str]
    flops: float


class _Operators(TorchDispatchMode):
    """Counts the operators of fused attention that torch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Counter[str]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name.partition("::")[2]
        if name.startswith("_scaled_dot_product"):
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def prove_in(
    name: str,
    trial: Trial,
    training: bool = True,
    sampling: bool = False,
    agreement: Agreement = ALONE,
) -> Proof:
    """Predict with a kernel in the real network, and compare with the formula of attention.

    `training`: compare the gradients of trained weights as well. `sampling`: the kernel only
    samples, so that its numbers may differ more. `agreement`: that of all processes, which must
    call this function together. Raises `AttentionError` for a kernel that is missing, fails, is
    ignored, has no gradients, gives another output or other gradients, or gives a rollout and an
    update different densities, on any process.
    """
    kernel = agreement.jointly(lambda: check(name, training))
    got = agreement.jointly(lambda: _attempt(name, kernel, trial, training, agreement.together))
    errors, rounding, reference = agreement.jointly(
        lambda: _compared(name, trial, got, training, sampling)
    )
    own_ratio = (
        agreement.jointly(lambda: _checked_ratio(name, kernel, trial, got.output))
        if training
        else 0.0
    )
    return Proof(
        kernel.name,
        reference,
        errors["prediction"],
        errors.get("gradient of the trained weights"),
        rounding,
        own_ratio,
        dict(got.calls),
    )


def _compared(
    name: str, trial: Trial, got: _Run, training: bool, sampling: bool
) -> tuple[dict[str, float], float, str]:
    """Return the errors of a run, the largest one of rounding alone, and the reference.

    Raises `AttentionError` for an error above its limit.
    """
    long = got.flops > WRITTEN_OUT.get(trial.latents.device.type, 1e15)
    reference = find("sdpa") if long else REFERENCE
    expected = _run(reference, trial, training)
    rounded = expected if long or _lowest(trial) not in HALF else _run(ROUNDED, trial, training)
    errors = _errors(name, got, expected, training)
    rounding = _errors(name, rounded, expected, training)
    least = SAMPLING_TOLERANCE if sampling else TOLERANCE[_lowest(trial)]
    for what, error in errors.items():
        _check_limit(name, trial, what, error, max(least, ROOM * rounding[what]))
    return errors, max(rounding.values()), reference.name


def _check_limit(name: str, trial: Trial, what: str, error: float, limit: float) -> None:
    """Raise `AttentionError` for a relative error above its limit."""
    if not error <= limit:
        raise AttentionError(
            f"attention {name!r} in {_names(trial)}: its {what} is {error:.2g} away from the "
            f"formula's, relative; expected at most {limit:.2g}; use 'sdpa'"
        )


def _checked_ratio(name: str, kernel: Kernel, trial: Trial, output: Tensor) -> float:
    """Return |ratio − 1| of predictions without and with gradients; raise where it is large."""
    sampled = _run(kernel, trial, training=False).output
    gap, limit = abs(ratio(trial, sampled, output) - 1), RATIO_TOLERANCE[_lowest(trial)]
    if not gap <= limit:
        raise AttentionError(
            f"attention {name!r} in {_names(trial)}: it gives a rollout and an update densities of "
            f"a ratio that is {gap:.2g} away from 1; expected at most {limit:g}; use 'sdpa', or "
            f"set backbone.options.rollout_attention = {name!r} to only sample with it"
        )
    return gap


def _attempt(name: str, kernel: Kernel, trial: Trial, training: bool, together: bool) -> _Run:
    """Return the run of the kernel; raise `AttentionError` where it fails or is ignored.

    `together`: processes predict together, so that a kernel that fails must not end the
    prediction of this process alone; an error of anything else ends the process.
    """
    careful = Careful(kernel)
    try:
        got = _run(careful.switched() if together else kernel, trial, training)
        failure = careful.failure
    except AttentionError:
        raise
    except Exception as error:
        if together:
            raise
        failure = error
    if isinstance(failure, AttentionError):
        raise failure
    if failure is not None:
        reason = str(failure).strip().split("\n")[0][:300]
        raise AttentionError(
            f"attention {name!r} does not run in {_names(trial)} on {trial.latents.device}: "
            f"{type(failure).__name__}: {reason}; use 'sdpa'"
        ) from failure
    _check_used(name, kernel, got, trial)
    return got


def _run(kernel: Kernel, trial: Trial, training: bool) -> _Run:
    """Predict with a kernel; in training also compute gradients of a fixed sum."""
    x = trial.latents.detach().clone().requires_grad_(training)
    weights = _trained(trial.networks) if training else {}
    # gradients inside: gradient checkpointing computes attention again in the backward pass
    operators, networks = _Operators(), list(trial.networks)
    with _eager(networks), used(networks, kernel) as switches, without_cache(x.device):
        # other kernels may be compiled, which a dispatch mode disturbs
        with torch.set_grad_enabled(training), operators if kernel.operator else nullcontext():
            output = trial.predict(x)
        calls = sum((switch.calls for switch in switches), Counter[str]())
        flops = sum(switch.flops for switch in switches)
        found: Sequence[Tensor | None] = ()
        if training and output.requires_grad:
            inputs = [x, *weights.values()]
            total = (output.float() * _signs(output)).sum()
            found = torch.autograd.grad(total, inputs, allow_unused=True)
    names = ["the latents", *weights]
    gradients = {
        key: None if value is None else value.detach().float().cpu()
        for key, value in zip(names, found or [None] * len(names), strict=True)
    }
    return _Run(output.detach().float().cpu(), gradients, calls, operators.seen, flops)


def _eager(networks: Sequence[nn.Module]) -> AbstractContextManager[Any]:
    """Return a context without compilation: each kernel would compile the network anew."""
    modules = (module for network in networks for module in network.modules())
    compiled = any(getattr(module, "_compiled_call_impl", None) for module in modules)
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def without_cache(device: torch.device) -> AbstractContextManager[Any]:
    """Return autocast as it is, without its cache of half-precision weights.

    A weight that is cached without gradients would have none in a later prediction.
    """
    kind = device.type
    if not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, torch.get_autocast_dtype(kind), cache_enabled=False)


def _signs(like: Tensor) -> Tensor:
    """Return fixed weights of the sum whose gradients are compared, in the shape of `like`."""
    draw = torch.Generator().manual_seed(1)
    return torch.randn(like.shape, generator=draw).to(like.device)


def _trained(networks: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Return trained weights by name, of attention where it has some, at most `PARAMETERS`."""
    inside = {
        id(p) for network in networks for m in attention_modules(network) for p in m.parameters()
    }
    every = {
        f"{number} {key}" if len(networks) > 1 else key: p
        for number, network in enumerate(networks)
        for key, p in network.named_parameters()
        if p.requires_grad and not hasattr(p, "placements")  # a part of a sharded weight
    }
    chosen = {key: p for key, p in every.items() if id(p) in inside} or every
    # at random, because in a regular choice all could be of a LoRA's A, whose gradients begin at 0
    names = Random(0).sample(sorted(chosen), min(PARAMETERS, len(chosen)))
    return {name: chosen[name] for name in names}


def _check_used(name: str, kernel: Kernel, got: _Run, trial: Trial) -> None:
    """Raise `AttentionError` where the kernel computed no attention of the prediction."""
    if kernel.name == "sdpa":
        return  # without a switch, so that nothing is counted
    where = f"attention {name!r} is ignored by {_names(trial)}"
    if not got.calls["kernel"]:
        others = [f"{n} calls with {reason}" for reason, n in got.calls.items()]
        kinds = {
            type(module.processor).__name__
            for n in trial.networks
            for module in attention_modules(n)
        }
        reason = (
            f"it takes none of its calls ({', '.join(others)})"
            if others
            else f"its processors {', '.join(sorted(kinds))} do not call torch's attention"
        )
        raise AttentionError(f"{where}: {reason}; use 'sdpa'")
    ran = {op: n for op, n in got.operators.items() if "backward" not in op}
    if kernel.operator and not any(op.startswith(kernel.operator) for op in ran):
        instead = ", ".join(ran) or "its math kernel"
        raise AttentionError(
            f"{where}: torch ran {instead} in its place, which happens where the type, the mask or "
            "the width of a head does not fit; use 'sdpa'"
        )


def _errors(name: str, got: _Run, expected: _Run, training: bool) -> dict[str, float]:
    """Return the relative errors of the prediction and of the gradients, by what they are of."""
    errors = {"prediction": _distance([got.output], [expected.output])}
    if not training:
        return errors
    pairs = [(key, got.gradients[key], ref) for key, ref in expected.gradients.items()]
    for key, value, ref in pairs:
        if ref is not None and bool(ref.any()) and (value is None or not bool(value.any())):
            raise AttentionError(
                f"attention {name!r} gives no gradient of {key}, and the formula does; train with "
                "'sdpa'"
            )
    known = [(key, a, b) for key, a, b in pairs if a is not None and b is not None]
    latents = [(a, b) for key, a, b in known if key == "the latents"]
    weights = [(a, b) for key, a, b in known if key != "the latents"]
    for what, found in (("latents", latents), ("trained weights", weights)):
        if found:
            errors[f"gradient of the {what}"] = _distance(
                [a for a, _ in found], [b for _, b in found]
            )
    return errors


def _distance(values: Sequence[Tensor], references: Sequence[Tensor]) -> float:
    """Return |values − references| / |references| over all numbers."""
    gap = sum(float((a - b).square().sum()) for a, b in zip(values, references, strict=True))
    size = sum(float(b.square().sum()) for b in references)
    return (gap / size) ** 0.5 if size else gap**0.5


def ratio(trial: Trial, sampled: Tensor, updated: Tensor) -> float:
    """Return π / π_old of one step, by the predictions of an update and of a rollout.

    The step is drawn from the rollout's density, and the ratio is e to the mean difference of
    the log-densities over the elements, as in training.
    """
    x, (t, s) = exact(trial.latents.detach().cpu()), trial.times
    sampler = "dance_sde" if trial.path.kind == "flow" else "ddim"
    old, new = (
        transition.step(trial.path, sampler, exact(raw.cpu()), x, t, s, ETA)
        for raw in (sampled, updated)
    )
    drawn = old.sample(torch.randn(x.shape, generator=torch.Generator().manual_seed(2)))
    gap = transition.log_density(new, drawn) - transition.log_density(old, drawn)
    return float(gap.mean().exp())


def _lowest(trial: Trial) -> torch.dtype:
    """Return the type of the products: autocast's, or that of the networks' weights."""
    kind = trial.latents.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return of_products(trial.networks)


def _names(trial: Trial) -> str:
    """Return the names of the networks' classes."""
    return ", ".join(dict.fromkeys(type(network).__name__ for network in trial.networks))

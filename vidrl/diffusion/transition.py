"""One denoising step is a Gaussian: x_s ~ N(α_s x̂0 + keep ε̂, std²).

Here (x̂0, ε̂) = path.split(prediction, x_t, t). Every sampler of the field is a pair of scalars
(std, keep): `std` is the total standard deviation of the step (not a rate), and `keep` is how
much of the predicted noise ε̂ stays. On a path whose scale is learned (`Path.learned`), the
network's scale multiplies both, elementwise, and the step to 0 may draw noise. Legend: t → s < t
are times, floats or (B,); η noise level; x (B, C, L, H, W) latents, at least float32.

| sampler | std | keep | source |
|---|---|---|---|
| ode | 0 | σ_s | Euler; DDIM η = 0 |
| ddim | η (σ_s/σ_t) √(σ_t² − (α_t/α_s)² σ_s²) | √(σ_s² − std²) | arXiv 2010.02502, 2305.13301 |
| cps | σ_s sin(ηπ/2) | σ_s cos(ηπ/2) | Flow-CPS 2509.05952 |
| flow_sde | η √(t/(1−t)) √(t−s) | s − std²/(2t) | Flow-GRPO 2505.05470 |
| dance_sde | η √(t−s) | s − std²/(2t) | DanceGRPO 2505.07818 |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor

from .path import Path, broadcast_time, exact


@dataclass(frozen=True)
class Step:
    """The Gaussian of one step has a mean (B, ...) and a std that broadcasts against the mean."""

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Return mean + std · noise, a draw of the step for unit Gaussian noise."""
        return self.mean + self.std * exact(noise)


# Each function below returns the pair (std, keep) of one sampler for a step t → s with s > 0.
# All take the same arguments, so that a table can hold them; only flow_sde reads `second`.


def _ddim(path: Path, t: Tensor, s: Tensor, eta: float, second: Tensor) -> tuple[Tensor, Tensor]:
    # σ_t² − (α_t/α_s)² σ_s² is the variance that the forward process adds from s to t. Rounding
    # may make it, or σ_s² − std², slightly negative; hence the clamps.
    bridge = path.sigma(t) ** 2 - (path.alpha(t) / path.alpha(s)) ** 2 * path.sigma(s) ** 2
    std = eta * path.sigma(s) / path.sigma(t) * bridge.clamp(min=0).sqrt()
    return std, (path.sigma(s) ** 2 - std**2).clamp(min=0).sqrt()


def _cps(path: Path, t: Tensor, s: Tensor, eta: float, second: Tensor) -> tuple[Tensor, Tensor]:
    angle = torch.as_tensor(eta * pi / 2, dtype=torch.float64, device=s.device)
    return path.sigma(s) * angle.sin(), path.sigma(s) * angle.cos()


def _dance_sde(
    path: Path, t: Tensor, s: Tensor, eta: float, second: Tensor
) -> tuple[Tensor, Tensor]:
    std = eta * (t - s).sqrt()
    # With this keep the SDE has the marginals of the ODE, to first order in t − s.
    return std, s - std**2 / (2 * t)


def _flow_sde(
    path: Path, t: Tensor, s: Tensor, eta: float, second: Tensor
) -> tuple[Tensor, Tensor]:
    # t/(1 − t) is infinite at t = 1. As in the published code, the schedule's second level takes
    # the place of t in the denominator alone.
    level = torch.where(t >= 1, second, t)
    std = eta * (t / (1 - level)).sqrt() * (t - s).sqrt()
    return std, s - std**2 / (2 * t)


_SAMPLERS: dict[str, Callable[[Path, Tensor, Tensor, float, Tensor], tuple[Tensor, Tensor]]] = {
    "ode": lambda path, t, s, eta, second: (torch.zeros_like(s), path.sigma(s)),
    "ddim": _ddim,
    "cps": _cps,
    "flow_sde": _flow_sde,
    "dance_sde": _dance_sde,
}
SAMPLERS = tuple(_SAMPLERS)


def coefficients(
    path: Path,
    sampler: str,
    t: Tensor,
    s: Tensor,
    eta: float,
    second: Tensor | float | None = None,
    strict: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return (std, keep) of a step t → s in float64; a step to s = 0 is deterministic.

    Where the path's scale is learned, that step draws noise, and both are before the scale.

    t and s are float64 tensors of any one shape, and so are std and keep.
    `second` is the level of the schedule after t = 1. flow_sde has 1 − t in a denominator,
    and at t = 1 uses `second` in place of t, as Flow-GRPO's code does. Raises ValueError for
    an unknown sampler, a flow-path sampler on another path, η < 0, or, if `strict`, for
    keep < 0: the step then has no room for so much noise, and the predicted noise would enter
    with the opposite sign.

    Example:
        >>> from vidrl.diffusion.path import flow
        >>> t, s = torch.tensor([0.5, 0.25], dtype=torch.float64)
        >>> [round(float(c), 4) for c in coefficients(flow(), "dance_sde", t, s, eta=0.4)]
        [0.2, 0.21]
    """
    _check(path, sampler, eta, t, second)
    level = s if second is None else torch.as_tensor(second, dtype=t.dtype, device=t.device)
    std, keep = _SAMPLERS[sampler](path, t, s, float(eta), level)
    # Noise that is drawn in the last step would stay in the clip. Where the scale is learned, that
    # noise is the policy's own.
    if not path.learned:
        std, keep = torch.where(s > 0, std, 0.0), torch.where(s > 0, keep, path.sigma(s))
    if strict and bool((keep < 0).any()):
        raise ValueError(
            f"expected a noise that the step has room for, got {sampler} with eta {eta} and "
            f"keep = {float(keep.min()):.3g}: lower eta, take more steps, or let this step draw "
            "no noise"
        )
    return std, keep


def _check(path: Path, sampler: str, eta: float, t: Tensor, second: Tensor | float | None) -> None:
    """Raise ValueError for a sampler, an η or a path that do not go together."""
    if sampler not in _SAMPLERS:
        raise ValueError(f"expected a sampler out of {', '.join(SAMPLERS)}, got {sampler!r}")
    if sampler.endswith("_sde") and path.kind != "flow":
        raise ValueError(
            f"{sampler} needs the flow path (α = 1 − t, σ = t), got a {path.kind} path: use ddim "
            "or cps"
        )
    if not 0 <= eta <= (1 if sampler in ("ddim", "cps") else float("inf")):
        raise ValueError(f"expected η ≥ 0, and at most 1 for ddim and cps, got {eta} for {sampler}")
    if sampler == "flow_sde" and second is None and bool((t >= 1).any()):
        raise ValueError(
            "flow_sde at t = 1 needs `second`, the schedule's next level, got None: pass times[1]"
        )


def step(
    path: Path,
    sampler: str,
    raw: Tensor,
    x: Tensor,
    t: Tensor | float,
    s: Tensor | float,
    eta: float = 0.0,
    second: Tensor | float | None = None,
) -> Step:
    """Return the Gaussian of the step t → s that a network's output `raw` at x_t implies.

    mean = α_s x̂0 + keep ε̂ with (x̂0, ε̂) = path.split(raw, x, t); std and keep are those of
    `coefficients`, which raises ValueError for combinations that cannot be. Both are multiplied by
    `path.scale(raw)`, where the path has one; std then has the shape of the mean.

    Example:
        >>> from vidrl.diffusion.path import flow
        >>> out = step(flow(), "ode", raw=torch.ones(1, 1), x=torch.ones(1, 1), t=0.5, s=0.25)
        >>> float(out.mean), float(out.std)  # x + (s − t) v
        (0.75, 0.0)
    """
    x0, eps = path.split(raw, x, t)
    start, end = broadcast_time(t, x), broadcast_time(s, x)
    std, keep = coefficients(
        path, sampler, start, end, eta, None if second is None else broadcast_time(second, x)
    )
    alpha, scale = path.alpha(end), path.scale(raw)
    return Step(alpha.to(x0) * x0 + keep.to(x0) * scale * eps, std.to(x0) * scale)


def log_density(step: Step, x: Tensor) -> Tensor:
    """Return log N(x; mean, std²) of each element: −(x − mean)²/(2 std²) − log std − ½ log 2π.

    Raises ValueError where std is 0, because a deterministic step has no density.
    """
    if not bool((step.std > 0).all()):
        raise ValueError(
            "expected a step with std > 0, got a deterministic one: leave ode steps out of the plan"
        )
    return -((exact(x) - step.mean) ** 2) / (2 * step.std**2) - step.std.log() - log(2 * pi) / 2


def divergence(step: Step, other: Step) -> Tensor:
    """Return the KL divergence of two steps, elementwise.

    KL = (mean − mean')²/(2 std'²) + (r² − 1)/2 − log r with r = std/std'; the last two terms are 0
    where both steps have one std.

    Example:
        >>> one, wide = (Step(torch.zeros(1), torch.tensor([std])) for std in (1.0, 2.0))
        >>> divergence(wide, one), divergence(one, one)  # (4 − 1)/2 − log 2
        (tensor([0.8069]), tensor([0.]))
    """
    distance = (step.mean - other.mean) ** 2 / (2 * other.std**2)
    ratio = step.std / other.std
    # added only where it is not 0: the KL of deterministic stds stays the same to the last bit
    return distance if bool((ratio == 1).all()) else distance + (ratio**2 - 1) / 2 - ratio.log()

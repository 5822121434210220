"""A noise path mixes a clean latent with noise: x_t = α_t x0 + σ_t ε.

Networks of four kinds are supported: they predict the flow ε − x0, the noise ε, v, or x0.
`Path.split` turns the prediction of each kind into the pair (x̂0, ε̂), so that the rest of
vidrl does not depend on what the network predicts. `learned_gaussian` is a path whose network gives
the scale of the noise as well.

Legend: x0 clean latent, ε unit Gaussian noise, t in [0, 1] with t = 1 pure noise; t is a
float or a tensor (B,), x is (B, ...). Arithmetic is at least float32 whatever the network's
dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

Schedule = Callable[[Tensor], Tensor]
PREDICTIONS = ("flow", "eps", "v", "x0")


def exact(x: Tensor) -> Tensor:
    """Return `x` in at least float32; a float64 tensor stays float64."""
    return x if x.dtype == torch.float64 else x.float()


def broadcast_time(t: Tensor | float, x: Tensor) -> Tensor:
    """Return a time, a float or one for each sample (B,), shaped to broadcast over x (B, ...).

    The result is float64: α, σ and their differences lose digits in half precision.
    """
    t = torch.as_tensor(t, dtype=torch.float64, device=x.device)
    return t.reshape(t.shape + (1,) * (x.dim() - t.dim()))


@dataclass(frozen=True)
class Path:
    """A path consists of the coefficients α and σ, and of what the network predicts.

    `alpha` and `sigma` map float64 times to coefficients. `predicts` is "flow" for ε − x0
    (arXiv 2210.02747), "eps" for ε (2006.11239), "v" for α ε − σ x0 (2202.00512), or "x0".
    `kind` is "flow" for the straight path and "vp" for a variance-preserving one.

    Example:
        >>> path, x0, eps = flow(), torch.ones(1, 2), torch.zeros(1, 2)
        >>> x = path.noise(x0, eps, 0.25)
        >>> path.split(path.target(x0, eps, 0.25), x, 0.25)[0]
        tensor([[1., 1.]])
    """

    alpha: Schedule
    sigma: Schedule
    predicts: str = "flow"
    kind: str = "flow"

    # whether the network gives the scale of the noise; see `learned_gaussian`
    learned: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.predicts not in PREDICTIONS:
            raise ValueError(
                f"expected predicts to be one of {', '.join(PREDICTIONS)}, got {self.predicts!r}"
            )

    def scale(self, raw: Tensor) -> Tensor | float:
        """Return the factor on the noise of a step: 1, or a tensor of the latents' shape."""
        return 1.0

    def noise(self, x0: Tensor, eps: Tensor, t: Tensor | float) -> Tensor:
        """Add noise to clean latents: x_t = α_t x0 + σ_t ε."""
        a, s = self._at(t, x0)
        return a * exact(x0) + s * exact(eps)

    def split(self, raw: Tensor, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return the pair (x̂0, ε̂) that a prediction `raw` at x_t implies.

        The pair always satisfies x_t = α_t x̂0 + σ_t ε̂. With a = α_t and s = σ_t, x̂0 is
        (x − s raw)/(a + s) for "flow", (a x − s raw)/(a² + s²) for "v", (x − s raw)/a for
        "eps", and raw for "x0".
        """
        a, s = self._at(t, x)
        raw, x = exact(raw), exact(x)
        # Each line solves two equations for x0 and ε: x = a x0 + s ε, and the definition of raw.
        if self.predicts == "flow":
            return (x - s * raw) / (a + s), (x + a * raw) / (a + s)
        if self.predicts == "v":
            return (a * x - s * raw) / (a * a + s * s), (s * x + a * raw) / (a * a + s * s)
        if self.predicts == "eps":
            return (x - s * raw) / a, raw
        return raw, (x - a * raw) / s

    def target(self, x0: Tensor, eps: Tensor, t: Tensor | float) -> Tensor:
        """Return the output that the network should give at x_t."""
        a, s = self._at(t, x0)
        x0, eps = exact(x0), exact(eps)
        return {"flow": eps - x0, "v": a * eps - s * x0, "eps": eps, "x0": x0}[self.predicts]

    def _at(self, t: Tensor | float, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return α_t and σ_t, computed in float64 and cast to the dtype of the arithmetic on x."""
        t, dtype = broadcast_time(t, x), exact(x).dtype
        return self.alpha(t).to(dtype), self.sigma(t).to(dtype)


def flow(predicts: str = "flow") -> Path:
    """Return the straight path α = 1 − t, σ = t (rectified flow, arXiv 2209.03003)."""
    return Path(lambda t: 1 - t, lambda t: t, predicts, "flow")


def discrete(
    alphas_cumprod: Sequence[float] | Tensor, predicts: str = "eps", final: float = 1.0
) -> Path:
    """Return a variance-preserving path of N trained levels (DDPM, arXiv 2006.11239).

    α = √ᾱ_i and σ = √(1 − ᾱ_i), where t = (i + 1)/N is level i and t = 0 has ᾱ = `final`.
    With final = 1, t = 0 is a clean clip; some schedulers end at ᾱ_0 instead (diffusers'
    `set_alpha_to_one=False`). Times between two levels get the nearest level.
    """
    table = torch.cat(
        [torch.as_tensor(x, dtype=torch.float64).flatten() for x in (final, alphas_cumprod)]
    )

    def level(t: Tensor) -> Tensor:
        # t is level/N, so that t · N may miss the integer level by rounding; hence `round`.
        return table.to(t.device)[(t * (len(table) - 1)).round().long()]

    return Path(lambda t: level(t).sqrt(), lambda t: (1 - level(t)).sqrt(), predicts, "vp")

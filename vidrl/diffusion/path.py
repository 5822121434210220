"""Noise paths: x_t = α_t x0 + σ_t ε, with any of the four predictions made one.

Legend: x0 clean latent, ε unit Gaussian noise, t in [0, 1] with t = 1 pure noise; t is a
float or a tensor (B,), x is (B, ...). Arithmetic is at least float32 whatever the network's
dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Schedule = Callable[[Tensor], Tensor]
PREDICTIONS = ("flow", "eps", "v", "x0")


def exact(x: Tensor) -> Tensor:
    """`x` in at least float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def broadcast_time(t: Tensor | float, x: Tensor) -> Tensor:
    """A time, or one a sample (B,), shaped to broadcast over x (B, ...), in float64 so that
    schedules lose nothing."""
    t = torch.as_tensor(t, dtype=torch.float64, device=x.device)
    return t.reshape(t.shape + (1,) * (x.dim() - t.dim()))


@dataclass(frozen=True)
class Path:
    """A noise path and what the network predicts along it.

    `alpha` and `sigma` map float64 times to coefficients. `predicts`: "flow" is ε − x0
    (arXiv 2210.02747), "eps" is ε (2006.11239), "v" is α ε − σ x0 (2202.00512), "x0" is x0.

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

    def __post_init__(self) -> None:
        if self.predicts not in PREDICTIONS:
            raise ValueError(
                f"expected predicts to be one of {', '.join(PREDICTIONS)}, got {self.predicts!r}"
            )

    def noise(self, x0: Tensor, eps: Tensor, t: Tensor | float) -> Tensor:
        """x_t = α_t x0 + σ_t ε."""
        a, s = self._at(t, x0)
        return a * exact(x0) + s * exact(eps)

    def split(self, raw: Tensor, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """The (x0, ε) that a prediction `raw` at x_t means; both lie on x_t = α x0 + σ
        ε."""
        a, s = self._at(t, x)
        raw, x = exact(raw), exact(x)
        if self.predicts == "flow":
            return (x - s * raw) / (a + s), (x + a * raw) / (a + s)
        if self.predicts == "v":
            return (a * x - s * raw) / (a * a + s * s), (s * x + a * raw) / (a * a + s * s)
        if self.predicts == "eps":
            return (x - s * raw) / a, raw
        return raw, (x - a * raw) / s

    def target(self, x0: Tensor, eps: Tensor, t: Tensor | float) -> Tensor:
        """What the network should predict at x_t."""
        a, s = self._at(t, x0)
        x0, eps = exact(x0), exact(eps)
        return {"flow": eps - x0, "v": a * eps - s * x0, "eps": eps, "x0": x0}[self.predicts]

    def _at(self, t: Tensor | float, x: Tensor) -> tuple[Tensor, Tensor]:
        t, like = broadcast_time(t, x), exact(x).dtype
        return self.alpha(t).to(like), self.sigma(t).to(like)


def flow(predicts: str = "flow") -> Path:
    """The straight path α = 1 − t, σ = t (rectified flow, arXiv 2209.03003)."""
    return Path(lambda t: 1 - t, lambda t: t, predicts, "flow")


def discrete(
    alphas_cumprod: Sequence[float] | Tensor, predicts: str = "eps", final: float = 1.0
) -> Path:
    """A variance-preserving path of N trained levels: t = (i + 1) / N is level i, and t = 0
    has ᾱ = `final`.

    α = √ᾱ_i, σ = √(1 − ᾱ_i) (DDPM, arXiv 2006.11239). With final = 1, t = 0 is clean.
    """
    table = torch.cat(
        [torch.as_tensor(x, dtype=torch.float64).flatten() for x in (final, alphas_cumprod)]
    )

    def level(t: Tensor) -> Tensor:
        return table.to(t.device)[(t * (len(table) - 1)).round().long()]

    return Path(lambda t: level(t).sqrt(), lambda t: (1 - level(t)).sqrt(), predicts, "vp")

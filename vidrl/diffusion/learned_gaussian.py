"""The path of generators that do not denoise: one Gaussian over the latent, which is learned.

Legend: z latent (B, C, ...), μ its mean and σ its scale, elementwise; ε unit Gaussian noise;
t = 1 is pure noise, and every t below 1 is the latent itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .path import Path, exact


@dataclass(frozen=True)
class LearnedGaussian(Path):
    """A path whose prediction (B, 2C, ...) holds the mean μ and the log-scale log σ of the latent.

    α is 0 at t = 1 and 1 below, and σ_t = 1 before `scale` multiplies it. The deterministic
    sampler maps noise ε to z = μ + σ ε in its first step, and leaves z as it is in later ones. The
    sampler "cps" with η = 1 draws the last step from N(μ, σ²). Only that step may draw noise.

    Example:
        >>> path, noise = learned(), torch.full((1, 1, 1), 3.0)
        >>> raw = torch.tensor([[[5.0], [0.0]]])  # mean 5 and log-scale 0
        >>> path.split(raw, noise, 1.0), path.scale(raw)
        ((tensor([[[5.]]]), tensor([[[3.]]])), tensor([[[1.]]]))
    """

    learned: ClassVar[bool] = True

    def scale(self, raw: Tensor) -> Tensor:
        """Return σ, of the latents' shape."""
        return exact(raw).chunk(2, 1)[1].exp()

    def split(self, raw: Tensor, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return μ, and the unit noise that σ multiplies: x at t = 1, and (x − μ)/σ below."""
        a, _ = self._at(t, x)
        mean, log_scale = exact(raw).chunk(2, 1)
        return mean, torch.where(a > 0, (exact(x) - mean) * (-log_scale).exp(), exact(x))

    def noise(self, x0: Tensor, eps: Tensor, t: Tensor | float) -> Tensor:
        """Return the noise itself at t = 1; raise ValueError for t < 1, where no noise is added."""
        if bool((torch.as_tensor(t) < 1).any()):
            raise ValueError(
                "expected t = 1, pure noise, on a path that has no other noise level, got "
                f"{float(torch.as_tensor(t).min())}: use an algorithm on sampled steps, as grpo"
            )
        return super().noise(x0, eps, t)

    def target(self, x0: Tensor, eps: Tensor, t: Tensor | float) -> Tensor:
        """Raise ValueError: one clip does not determine a mean and a scale."""
        raise ValueError(
            "expected a path with a target for each clip, got one whose mean and scale are "
            "learned: use an algorithm on sampled steps, as grpo"
        )


def learned() -> LearnedGaussian:
    """Return the path of one learned Gaussian.

    >>> learned().learned
    True
    """
    return LearnedGaussian(lambda t: (t < 1).to(t), torch.ones_like, "x0", "learned")

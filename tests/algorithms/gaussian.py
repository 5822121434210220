"""A flow between Gaussians: a denoiser of which every optimum can be computed by hand.

A clip is two numbers, one a latent frame; the data are N(m, s² I). On the straight path x_t
= (1 − t) x0 + t ε the exact velocity is v(x, t) = −m + (t − (1 − t) s²)/V · (x − (1 − t) m)
with V = (1 − t)² s² + t². The reward is g · x0.

Legend: τ the weight of the KL; K steps, k one of them; λ = t/V: the velocity of N(m + δ, s²
I) is v − λ δ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vidrl.backbones.base import Cond, Denoiser
from vidrl.diffusion import transition
from vidrl.diffusion.path import flow
from vidrl.rewards import Reward, Samples, Score

MEAN, REWARD = torch.tensor([0.5, -0.5]), torch.tensor([0.8, -0.6])  # m, and g of length 1
PIXEL = 40  # a latent of ±20 decodes to a pixel in [0, 1]


class Velocity(nn.Module):
    """The exact velocity of N(m, s² I), either with m and log s trained, or with a trained
    shift of each of K steps."""

    def __init__(self, mean: Tensor, std: float, steps: int):
        super().__init__()
        moments = {"mean": mean.clone(), "log_std": torch.full((2,), float(std)).log()}
        for name, value in moments.items():
            if steps:
                self.register_buffer(name, value)
            else:
                self.register_parameter(name, nn.Parameter(value))
        self.steps = steps
        if steps:
            self.shift = nn.Parameter(torch.zeros(steps, 2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        at, variance = t[:, None], (2 * self.log_std).exp()
        slope = (at - (1 - at) * variance) / ((1 - at) ** 2 * variance + at**2)
        raw = slope * (x - (1 - at) * self.mean) - self.mean
        return raw + self.shift[((1 - t) * self.steps).round().long()] if self.steps else raw


class Gaussian(Denoiser):
    """Two numbers as a clip of two frames; `steps` > 0 trains the velocity's shift at each
    of so many steps instead."""

    def __init__(self, mean: Tensor = MEAN, std: float = 1.0, steps: int = 0):
        self.network = Velocity(mean, std, steps)
        self.path, self.fps, self.shape, self.frame_map = (
            flow(),
            8.0,
            (1, 2, 1, 1),
            [(0, 1), (1, 2)],
        )

    @classmethod
    def tiny(cls) -> Gaussian:
        return cls()

    def encode(self, prompts: Sequence[str]) -> Cond:
        return {"text": torch.zeros(len(prompts), 1)}

    def noise(self, draws: Sequence[torch.Generator]) -> Tensor:
        """All by the first generator, which is quicker than by one generator a sample."""
        return torch.randn(len(draws), *self.shape, generator=draws[0] if draws else None)

    def times(self, n: int) -> list[float]:
        return torch.linspace(1, 0, n + 1, dtype=torch.float64).tolist()

    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self.network(x.flatten(1), t.to(x)).reshape(x.shape)

    def decode(self, latents: Tensor) -> Tensor:
        return (0.5 + latents / PIXEL).transpose(1, 2).expand(-1, -1, -1, 8, 8)

    def encode_video(self, video: Tensor) -> Tensor:
        return (video[..., :1, :1].transpose(1, 2) - 0.5) * PIXEL


class Linear(Reward):
    """g · x0 of a clip, and of each frame its own term, times two so that the mean of the
    curve is the value."""

    differentiable = True

    def forward(self, samples: Samples) -> Score:
        return scored((samples.frames.mean((2, 3, 4)) - 0.5) * PIXEL)


def scored(x: Tensor) -> Score:
    """The score of clips (N, 2)."""
    return Score(x @ REWARD.to(x), 2 * x * REWARD.to(x))


def latents(x: Tensor) -> Tensor:
    """Clips (N, 2) as latents (N, 1, 2, 1, 1)."""
    return x.reshape(-1, 1, 2, 1, 1)


@dataclass
class Chain:
    """A sampler on the exact velocity as a linear recursion in float64, each (K,).

    Step k is x ↦ slope x + pull · shift + std · noise + constant, where `shift` is what is
    added to the velocity, and a change of its end moves the clip `later` times as much.
    """

    slope: Tensor
    pull: Tensor
    std: Tensor
    later: Tensor

    @classmethod
    def of(cls, times: Sequence[float], sampler: str, eta: float, s: float = 1.0) -> Chain:
        at = torch.tensor(times, dtype=torch.float64)
        t, end = at[:-1], at[1:]
        std, keep = transition.coefficients(flow(), sampler, t, end, eta, at[1])
        variance = (1 - t) ** 2 * s**2 + t**2
        # α_s x̂0 + keep ε̂ of the exact means
        slope = (1 - end) * (1 - t) * s**2 / variance + keep * t / variance
        later = slope.flip(0).cumprod(0).flip(0)[1:]
        return cls(
            slope, keep * (1 - t) - (1 - end) * t, std, torch.cat([later, torch.ones(1).double()])
        )

    @property
    def drawn(self) -> float:
        """The clip's variance that the steps' noise brings."""
        return float((self.later * self.std).square().sum())

    @property
    def started(self) -> float:
        """The clip's variance that the first noise brings."""
        return float(self.slope.prod() ** 2)


def kl_to(x: Tensor, mean: Tensor, variance: Tensor | float) -> float:
    """KL of the Gaussian fitted to clips (N, 2) from N(mean, diag variance), in nats."""
    x, inverse = x.double(), torch.eye(2).double() / torch.as_tensor(variance, dtype=torch.float64)
    away, found = x.mean(0) - mean.double(), x.T.cov()
    ratio = inverse @ found
    return float(ratio.trace() - 2 - ratio.logdet() + away @ inverse @ away) / 2

"""DiffusionNFT (arXiv 2509.16117) moves predictions towards good clips and away from bad ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from vidrl.diffusion.segments import pool
from vidrl.training.policy import Policy

from ._forward import Forward
from .base import Batch, Loss

LOWEST_WEIGHT = 1e-5  # the lowest adaptive weight w, by which errors are divided


@dataclass(eq=False, kw_only=True)
class NFT(Forward):
    """NFT, negative-aware fine-tuning, trains the forward process of each segment of a clip.

    v is the network's prediction at x_t, and v_old that of the weights "old". With v± = v_old ±
    β (v − v_old), the clean clips x̂0± that v± imply at x_t, and r_j = A_j/(2 A_max) + ½,

        L = A_max/β · mean of r_j ‖x̂0⁺ − x0‖²_j/w⁺_j + (1 − r_j) ‖x̂0⁻ − x0‖²_j/w⁻_j
            + kl_beta ‖v − v_ref‖²

    where ‖·‖² are means over elements and w±_j = mean |x̂0± − x0|_j, without gradient. While the
    live weights equal the old ones, the gradient is that of A_j ‖x̂0 − x0‖²_j/w_j for every β.
    At the later updates of a round a smaller β lets the policy go further away from the old
    weights.

    Options of the loss: `beta` β, `kl_beta`, and `max_advantage` A_max.
    """

    coefficients: ClassVar[tuple[str, ...]] = ("kl_beta",)

    sample_from: Literal["live", "old", "ema"] = "old"
    beta: float = 1.0
    kl_beta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0 or self.kl_beta < 0:
            raise ValueError(f"expected beta > 0 and kl_beta ≥ 0, got {(self.beta, self.kl_beta)}")

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        x, raw = self.predict(policy, batch)
        old = self.predict_with(policy, batch, "old", raw)
        good, bad = self.errors(policy, batch, x, raw, old)
        r = batch["advantage"].to(good) / (2 * self.max_advantage) + 0.5
        value = self.mean(r * good + (1 - r) * bad, batch.plan) * self.max_advantage / self.beta
        if self.kl_beta:
            value = value + self.kl_beta * self.penalty(policy, batch, raw)
        moved = (raw.detach() - old).square().flatten(1).mean(1)
        metrics = {"positive": good.detach().mean(1), "negative": bad.detach().mean(1)}
        return Loss(value, metrics | {"old_deviate": moved})

    def errors(
        self, policy: Policy, batch: Batch, x: Tensor, raw: Tensor, old: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return ‖x̂0⁺ − x0‖²_j/w⁺_j and ‖x̂0⁻ − x0‖²_j/w⁻_j, both (n, S).

        `raw` is v and `old` is v_old, both at `x`.
        """
        clean, before = (policy.backbone.path.split(v, x, batch["t"])[0] for v in (raw, old))
        # x̂0 is linear in v, so that x̂0± = x̂0_old ± β (x̂0 − x̂0_old)
        error, shift = before - batch["x0"], self.beta * (clean - before)
        good, bad = (
            normalised_error(e, batch.plan.segments) for e in (error + shift, error - shift)
        )
        return good, bad


def normalised_error(error: Tensor, segments: int) -> Tensor:
    """Return mean a² / mean |a| of an error a over each segment, (n, S).

    The denominator is the adaptive weight w: it has no gradient, and is computed in float64 as
    in the public code.

    Example:
        >>> import torch
        >>> error = torch.tensor([1.0, 3.0]).view(1, 1, 2, 1, 1)
        >>> normalised_error(error, 1)  # (1 + 9)/2 over (1 + 3)/2
        tensor([[2.5000]])
    """
    size = pool(error.detach().double().abs(), segments).clamp(min=LOWEST_WEIGHT)
    return pool(error.square(), segments) / size.to(error)

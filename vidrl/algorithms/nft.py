"""DiffusionNFT (arXiv 2509.16117): towards what was good and away from what was bad, on the forward process."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vidrl.policy import Policy
from vidrl.segments import pool

from ._forward import Forward
from .base import Batch, Loss


@dataclass(eq=False, kw_only=True)
class NFT(Forward):
    """Contrast of two implicit policies, one loss a segment.

    v± = v_old ± β (v − v_old); L = mean over rows and segments of (A_max/β) (r_j ‖x̂0⁺ − x0‖²_j/w_j⁺ +
    (1 − r_j) ‖x̂0⁻ − x0‖²_j/w_j⁻) + λ ‖v − v_ref‖², with r_j = A_j/(2 A_max) + ½ and w_j± the mean absolute error of
    x̂0± in segment j, without gradient.

    Options of the loss: `beta` β; `kl` λ of the distance to the reference's predictions.
    """

    beta: float = 1.0
    kl: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0 or self.kl < 0:
            raise ValueError(f"expected beta > 0 and kl ≥ 0, got {self.beta} and {self.kl}")

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        x, raw = self.predict(policy, batch)
        old, top = self.other(policy, batch, "old"), self.max_advantage
        good, bad = (self._off(policy, batch, old + sign * self.beta * (raw - old), x) for sign in (1, -1))
        r = batch["advantage"].to(good) / (2 * top) + 0.5
        value = (top / self.beta * (r * good + (1 - r) * bad)).mean()
        if self.kl:
            value = value + self.kl * self.divergence(policy, batch, raw)
        return Loss(value, {"good": good.detach().mean(1), "bad": bad.detach().mean(1)})

    @staticmethod
    def _off(policy: Policy, batch: Batch, raw: Tensor, x: Tensor) -> Tensor:
        """How far x̂0 is from x0 in each segment, over its size without gradient, (n, S)."""
        away = policy.backbone.path.split(raw, x, batch["t"])[0] - batch["x0"]
        size = pool(away.detach().double().abs(), batch.plan.segments).clamp(min=1e-5)
        return pool(away.square(), batch.plan.segments) / size.to(away)

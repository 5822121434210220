"""DiffusionNFT (arXiv 2509.16117): towards what was good and away from what was bad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from vidrl.diffusion.segments import pool
from vidrl.training.policy import Policy

from ._forward import Forward
from .base import Batch, Loss

LEAST = 1e-5  # of an adaptive weight


@dataclass(eq=False, kw_only=True)
class NFT(Forward):
    """Negative-aware fine-tuning on the forward process, of each segment j of a clip.

    v± = v_old ± β (v − v_old), x̂0± is what v± predicts at x_t, r_j = A_j/(2 A_max) + ½,
    and

        L = A_max/β · mean of r_j ‖x̂0⁺ − x0‖²_j/w⁺_j + (1 − r_j) ‖x̂0⁻ − x0‖²_j/w⁻_j
            + kl_beta ‖v − v_ref‖²

    where ‖·‖² are means over elements and w±_j = mean |x̂0± − x0|_j, held fixed. While the
    live weights equal the old ones, the gradient is that of A_j ‖x̂0 − x0‖²_j/w_j, whatever
    β is. At the later updates of a round a smaller β lets the policy go further away from
    the old one.

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
        old = self.other(policy, batch, "old", raw)
        good, bad = self.errors(policy, batch, x, raw, old)
        r = batch["advantage"].to(good) / (2 * self.max_advantage) + 0.5
        value = self.mean(r * good + (1 - r) * bad, batch.plan) * self.max_advantage / self.beta
        if self.kl_beta:
            value = value + self.kl_beta * self.penalty(policy, batch, raw)
        moved = (raw.detach() - old).square().flatten(1).mean(1)
        seen = {"positive": good.detach().mean(1), "negative": bad.detach().mean(1)}
        return Loss(value, seen | {"old_deviate": moved})

    def errors(
        self, policy: Policy, batch: Batch, x: Tensor, raw: Tensor, old: Tensor
    ) -> tuple[Tensor, Tensor]:
        """‖x̂0⁺ − x0‖²_j/w⁺_j and ‖x̂0⁻ − x0‖²_j/w⁻_j, (n, S), of v = `raw` and v_old =
        `old` at x."""
        clean, before = (policy.backbone.path.split(v, x, batch["t"])[0] for v in (raw, old))
        off, step = before - batch["x0"], self.beta * (clean - before)  # x̂0 is linear in v
        good, bad = (weighed(away, batch.plan.segments) for away in (off + step, off - step))
        return good, bad


def weighed(away: Tensor, segments: int) -> Tensor:
    """‖a‖²_j/w_j of each segment, (n, S): mean square over mean size, this held fixed, in
    float64.

    Example:
        >>> import torch
        >>> weighed(torch.tensor([1.0, 3.0]).view(1, 1, 2, 1, 1), 1)  # (1 + 9)/2 over (1 + 3)/2
        tensor([[2.5000]])
    """
    size = pool(away.detach().double().abs(), segments).clamp(min=LEAST)
    return pool(away.square(), segments) / size.to(away)

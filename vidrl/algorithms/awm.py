"""Advantage-weighted matching (arXiv 2509.25050): matching errors stand for −log p in a
ratio."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, Literal

from torch import Tensor

from vidrl.rewards import Reward
from vidrl.training.policy import Policy

from ._forward import Forward
from .base import Batch, Loss, clipped

LEAST = 1e-10  # keeps the slope of a root finite at e = 0


@dataclass(eq=False, kw_only=True)
class AWM(Forward):
    """PPO's clipped objective of each segment, in which minus the matching error stands for
    the log-density.

    With log p_j = −w(e_j, t) and e_j = ‖v − target‖²_j of segment j,

        L = mean of −min(ρ_j A_j, clip(ρ_j, 1 ± ε√S) A_j)
            + kl_beta ‖v − v_ref‖² + ema_kl_beta ‖v − v_old‖²

    with ρ_j = exp(log p_j − log p_j of the weights that sampled, at the same noise). The
    error of a bad clip can grow without bound. So one of the two distances must hold the
    policy: that to the reference, or that to the moving weights "old" (see `Forward`),
    which `updates` ≥ 2, `decay` > 0 or a `decay_type` keep apart from the live ones.

    Options of the loss: `weighting` w of an error e at level t, "uniform" e, "t" t e,
    "t**2" t² e, "huber" t √e or "ghuber" t eᵖ/p with p = `ghuber_power`; `clip_range` ε at
    S = 1; `kl_beta` and `ema_kl_beta`.
    """

    coefficients: ClassVar[tuple[str, ...]] = ("kl_beta",)

    sample_from: Literal["live", "old"] = "live"
    weighting: Literal["uniform", "t", "t**2", "huber", "ghuber"] = "uniform"
    ghuber_power: float = 0.25
    clip_range: float = 1.0
    kl_beta: float = 0.0
    ema_kl_beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive, others = (self.clip_range, self.ghuber_power), (self.kl_beta, self.ema_kl_beta)
        if min(positive) <= 0 or min(others) < 0:
            raise ValueError(
                "expected clip_range, ghuber_power > 0 and kl_beta, ema_kl_beta ≥ 0, "
                f"got {positive} and {others}"
            )
        if self.weighting != "ghuber" and self.ghuber_power != 0.25:
            raise ValueError(
                'expected weighting = "ghuber" with a ghuber_power, which no other '
                f'weighting reads, got "{self.weighting}": set it, or leave the power out'
            )
        self._held()

    def _held(self) -> None:
        """Refuse a policy that nothing holds, and a moving average that nothing reads."""
        moves = bool(self.decay or self.decay_type)
        if moves and not self.ema_kl_beta and self.sample_from == "live":
            raise ValueError(
                'expected ema_kl_beta > 0 or sample_from = "old" with a decay or a '
                'decay_type, got ema_kl_beta = 0 and "live": nothing would read the '
                "old weights; set one of these, or leave decay and decay_type out"
            )
        if not self.kl_beta and not (self.ema_kl_beta and (self.updates > 1 or moves)):
            raise ValueError(
                "expected a distance that holds the policy, because without one the "
                "errors of bad clips grow without bound, got kl_beta = 0 and "
                f"ema_kl_beta = {self.ema_kl_beta} with updates = {self.updates} and "
                f"decay = {self.decay}: set kl_beta > 0, or ema_kl_beta > 0 with "
                "updates ≥ 2 or decay > 0"
            )

    def setup(self, policy: Policy, reward: Reward, group: int) -> None:
        super().setup(policy, reward, group)
        policy.remember(self._sampler)

    def after(self, policy: Policy, round: int) -> None:
        super().after(policy, round)
        if self._sampler != "old":
            policy.remember(self._sampler)

    @property
    def _sampler(self) -> str:
        """The name of the weights that sampled; live ones need a name of their own if old
        decays."""
        lags = self.decay or self.decay_type
        return "sampler" if self.sample_from == "live" and lags else "old"

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        raw = self.predict(policy, batch)[1]
        before = self.other(policy, batch, self._sampler, raw)
        now, then = (self.log_density(policy, batch, v) for v in (raw, before))
        ratio, clip_range = (now - then).exp(), self.clip_range * sqrt(batch.plan.segments)
        terms = clipped(ratio, batch["advantage"].to(ratio), clip_range)
        value = self.mean(terms, batch.plan)
        if self.kl_beta:
            value = value + self.kl_beta * self.penalty(policy, batch, raw)
        if self.ema_kl_beta:
            same = self._sampler == "old"
            old = before if same else self.other(policy, batch, "old", raw)
            value = value + self.ema_kl_beta * (raw - old).square().mean()
        seen, name = ratio.detach(), "ratio" if self.sample_from == "live" else "off_policy_ratio"
        return Loss(value, {name: seen, "clip_share": ((seen - 1).abs() > clip_range).float()})

    def log_density(self, policy: Policy, batch: Batch, raw: Tensor) -> Tensor:
        """−w(e_j, t), (n, S), which stands for log p of each segment."""
        error = self.error(policy, batch, raw)
        return -weighted(error, batch["t"][:, None], self.weighting, self.ghuber_power)


def weighted(error: Tensor, t: Tensor, how: str, power: float = 0.25) -> Tensor:
    """w(e, t) of errors (n, S) at levels t (n, 1), as the authors' code has it.

    A root is that of e + 1e-10, less its value at e = 0.

    Example:
        >>> import torch
        >>> e, t = torch.tensor([[4.0]]), torch.tensor([[0.5]])
        >>> ways = ("uniform", "t", "t**2", "huber", "ghuber")
        >>> [round(float(weighted(e, t, how)), 4) for how in ways]
        [4.0, 2.0, 1.0, 1.0, 2.8221]
    """
    t = t.to(error)
    if how in ("huber", "ghuber"):
        p, scale = (0.5, 1.0) if how == "huber" else (power, 1 / power)
        return scale * t * ((error + LEAST).pow(p) - LEAST**p)
    return error * t ** {"uniform": 0, "t": 1, "t**2": 2}[how]

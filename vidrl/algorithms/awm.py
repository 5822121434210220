"""AWM is advantage-weighted matching (arXiv 2509.25050): matching errors replace −log p.

A forward process has no cheap log-density. AWM uses minus the matching error in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, Literal

from torch import Tensor

from vidrl.rewards import Reward
from vidrl.training.policy import Policy

from ._forward import Forward
from .base import Batch, Loss, clipped

LEAST = 1e-10  # added under a root, whose slope would be infinite at e = 0


@dataclass(eq=False, kw_only=True)
class AWM(Forward):
    """AWM clips, as PPO does, a ratio of densities whose logarithm is minus the matching error.

    With log p_j = −w(e_j, t) and e_j = ‖v − target‖²_j, the mean over segment j,

        L = mean of −min(ρ_j A_j, clip(ρ_j, 1 ± ε√S) A_j)
            + kl_beta ‖v − v_ref‖² + ema_kl_beta ‖v − v_old‖²

    with ρ_j = exp(log p_j − log p_j of the weights that sampled, at the same noise). The error
    of a bad clip can grow without bound. One of the two distances must therefore limit the
    policy: that to the reference, or that to the moving weights "old" (see `Forward`), which
    differ from the live ones if `updates` ≥ 2, `decay` > 0 or `decay_type` > 0.

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
        self._check_distances()

    def _check_distances(self) -> None:
        """Raise ValueError if no distance limits the policy, or nothing reads the old weights."""
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
        """Return the name of the set of weights that sampled the round.

        If the live weights sample and "old" is a moving average, a third set is needed. If
        "old" is renewed after every round, it equals the live weights that sampled.
        """
        lags = self.decay or self.decay_type
        return "sampler" if self.sample_from == "live" and lags else "old"

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        raw = self.predict(policy, batch)[1]
        sampled = self.predict_with(policy, batch, self._sampler, raw)
        now, then = (self.log_density(policy, batch, v) for v in (raw, sampled))
        ratio, clip_range = (now - then).exp(), self.clip_range * sqrt(batch.plan.segments)
        terms = clipped(ratio, batch["advantage"].to(ratio), clip_range)
        value = self.mean(terms, batch.plan)
        if self.kl_beta:
            value = value + self.kl_beta * self.penalty(policy, batch, raw)
        if self.ema_kl_beta:
            same = self._sampler == "old"
            old = sampled if same else self.predict_with(policy, batch, "old", raw)
            value = value + self.ema_kl_beta * (raw - old).square().mean()
        detached = ratio.detach()
        # The loop checks that a metric called "ratio" is 1 before the first update, which does
        # not hold if other weights than the live ones sampled.
        name = "ratio" if self.sample_from == "live" else "off_policy_ratio"
        clip_share = ((detached - 1).abs() > clip_range).float()
        return Loss(value, {name: detached, "clip_share": clip_share})

    def log_density(self, policy: Policy, batch: Batch, raw: Tensor) -> Tensor:
        """Return −w(e_j, t), (n, S), which replaces log p of each segment."""
        error = self.error(policy, batch, raw)
        return -weighted(error, batch["t"][:, None], self.weighting, self.ghuber_power)


def weighted(error: Tensor, t: Tensor, how: str, power: float = 0.25) -> Tensor:
    """Return w(e, t) of errors e (n, S) at levels t (n, 1), as in the authors' code.

    `how` is the option `weighting` of `AWM`. A root is that of e + 1e-10, less its value at
    e = 0.

    Example:
        >>> import torch
        >>> e, t = torch.tensor([[4.0]]), torch.tensor([[0.5]])
        >>> kinds = ("uniform", "t", "t**2", "huber", "ghuber")
        >>> [round(float(weighted(e, t, how)), 4) for how in kinds]
        [4.0, 2.0, 1.0, 1.0, 2.8221]
    """
    t = t.to(error)
    if how in ("huber", "ghuber"):
        p, scale = (0.5, 1.0) if how == "huber" else (power, 1 / power)
        return scale * t * ((error + LEAST).pow(p) - LEAST**p)
    return error * t ** {"uniform": 0, "t": 1, "t**2": 2}[how]

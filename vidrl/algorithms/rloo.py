"""RLOO (arXiv 2402.14740) is the plain policy gradient, against the mean of the other clips."""

from __future__ import annotations

from dataclasses import dataclass, field

from vidrl.training.policy import Policy

from ._credit import Credited
from ._trajectory import Trajectory
from .base import Batch, Loss


@dataclass(eq=False, kw_only=True)
class RLOO(Credited, Trajectory):
    """RLOO is REINFORCE with a leave-one-out baseline.

    A_i = r_i − 1/(k − 1) Σ_{l ≠ i} r_l of the k clips of a prompt; L = −mean ρ_j A_j + β KL,
    with ρ_j = p_j/p_j,old of segment j. Where the ratio is 1, as in a round of one update, the
    gradient is that of −A_j log p_j; in later updates the ratio corrects for the policy that
    sampled. No ratio is clipped, and no advantage is divided by a std.

    The paper subtracts β log(p/p_ref) from the reward; here the KL, which is known exactly, is
    in the loss.

    Example:
        >>> RLOO().scale, RLOO().updates
        ('leave_one_out', 1)
    """

    updates: int = 1
    # init=False: these are no options, because they define the method
    clip_range: float = field(default=1.0, init=False)  # no ratio is clipped
    scale: str = field(default="leave_one_out", init=False)  # type: ignore[assignment]
    scale_eps: float = field(default=0.0, init=False)
    max_advantage: float = float("inf")

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        step = self.step(policy, batch)
        ratio = self.ratio(step, batch)
        value = -(ratio * batch["advantage"]).mean() + self.penalty(policy, batch, step)
        return Loss(value, {"ratio": ratio.detach()})

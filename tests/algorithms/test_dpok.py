"""DPOK against its published loss, written down independently in float64."""

import pytest
import torch
from published import exact, kl, log_prob, played, same

from vidrl.algorithms.dpok import DPOK
from vidrl.rewards import Score

OPTIONS = {"sampler": "flow_sde", "eta": 0.7, "steps": 6, "updates": 1}


@pytest.mark.parametrize("segments", [1, 3])
def test_the_loss_is_the_published_one(segments):
    """google-research/dpok: −w A clip(ρ, 1 ± ε) + β KL; the paper's KL of a step is (μ −
    μ_pre)²/(2 std²)."""
    made = played(DPOK(beta=0.3, segments=segments, clip_range=1e-3, **OPTIONS))
    (batch,) = made.batches
    new, old = made.step(batch), made.step(batch, "old")
    eps, a, losses, outside = 1e-3 * segments**0.5, batch["advantage"], [], []
    for j in range(segments):
        part = slice(j, j + 1) if segments > 1 else slice(None)
        ratio = torch.exp(log_prob(batch["after"], new, part) - log_prob(batch["after"], old, part))
        outside.append((ratio - 1).abs() > eps)
        losses.append(-a[:, j] * torch.clamp(ratio, 1 - eps, 1 + eps))
    theirs = torch.stack(losses).mean() + 0.3 * kl(new, made.step(batch, "reference")).mean()
    loss = made.algorithm.loss(made.policy, batch)
    assert torch.equal(loss.metrics["clip_share"].bool(), torch.stack(outside, 1))
    assert 0.1 < float(loss.metrics["clip_share"].mean()) < 1
    same(loss.value, theirs, made.policy)


def test_a_ratio_out_of_the_range_has_no_gradient_on_either_side():
    """PPO's minimum would keep the gradient of ρ > 1 + ε where A < 0; then all that is left
    here is the KL's."""
    made = played(DPOK(beta=1e-9, clip_range=1e-12, **OPTIONS))
    (batch,) = made.batches
    loss = made.algorithm.loss(made.policy, batch)
    assert bool(loss.metrics["clip_share"].all())
    found = torch.autograd.grad(loss.value, list(made.policy.weights.values()))
    assert 0 < max(float(one.abs().max()) for one in found) < 1e-8


def test_advantages_are_in_the_unit_of_the_reward():
    """By hand: r − mean of the group, with no std and no bound."""
    algorithm = DPOK(**OPTIONS)
    algorithm.setup(exact(), None, 2)
    plan = algorithm.plan(algorithm.backbone, 0, torch.Generator())
    value = torch.tensor([100.0, 300.0, 1.0, 2.0], dtype=torch.float64)
    made = algorithm.advantages(
        Score(value), torch.tensor([0, 0, 1, 1]), ["a", "a", "b", "b"], plan
    )
    assert made[:, 0].tolist() == [-100.0, 100.0, -0.5, 0.5]


def test_no_kl_is_another_algorithm():
    with pytest.raises(
        ValueError,
        match="expected beta > 0.*got 0: set algorithm.options.beta, or take.*rloo or ddpo",
    ):
        DPOK(beta=0.0)

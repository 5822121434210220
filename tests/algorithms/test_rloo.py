"""RLOO against the paper's estimator, written down independently in float64."""

import pytest
import torch
from published import exact, kl, log_prob, played, same

from vidrl import plugin
from vidrl.algorithms.rloo import RLOO
from vidrl.rewards import Score

OPTIONS = {"sampler": "flow_sde", "eta": 0.7, "steps": 6}
GROUP = torch.arange(8) // 4
REWARD = torch.tensor([0.3, 1.0, 0.2, 4.0, 5.0, 5.5, 9.0, 5.0], dtype=torch.float64)


def baseline(rewards):
    """1/(k − 1) Σ_{l ≠ i} r_l of each of k rewards (arXiv 2402.14740, equation 8)."""
    return torch.stack(
        [torch.cat([rewards[:i], rewards[i + 1 :]]).mean() for i in range(len(rewards))]
    )


def advantages(algorithm, value, curve=None):
    algorithm.setup(exact(), None, 4)
    plan = algorithm.plan(algorithm.backbone, 0, torch.Generator())
    return algorithm.advantages(Score(value, curve), GROUP, [f"{i // 4}" for i in range(8)], plan)


def test_the_baseline_is_the_mean_of_the_others():
    right = torch.cat([REWARD[:4] - baseline(REWARD[:4]), REWARD[4:] - baseline(REWARD[4:])])
    assert torch.allclose(advantages(RLOO(**OPTIONS), REWARD)[:, 0], right, rtol=1e-13)


def test_the_segments_of_a_clip_have_baselines_of_their_own():
    """A curve is credited where it is: r_j sums r_i/F over segment j's frames, (0, 1), (1,
    5), (5, 9) of the toy."""
    curve = torch.rand(8, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = advantages(RLOO(segments=3, **OPTIONS), curve.mean(1), curve)
    sums = torch.stack([curve[:, a:b].sum(1) / 9 for a, b in ((0, 1), (1, 5), (5, 9))], 1)
    right = torch.cat(
        [part - torch.stack([baseline(one) for one in part.T], 1) for part in (sums[:4], sums[4:])]
    )
    assert torch.allclose(got, right, rtol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_whole_clips_and_segments_leave_one_out_alike(alpha):
    """The blend of two credits of one size: of a curve that is the same in every frame,
    each segment's is its share."""
    curve = REWARD[:, None].expand(-1, 9)
    whole = advantages(RLOO(**OPTIONS), REWARD)
    got = advantages(RLOO(segments=3, alpha=alpha, **OPTIONS), REWARD, curve)
    shares = torch.tensor([1, 4, 4], dtype=torch.float64) / 9
    assert torch.allclose(got, whole * ((1 - alpha) + alpha * shares), rtol=1e-12)


def test_the_gradient_is_reinforce_with_that_baseline():
    """∇L = −mean (r_i − baseline_i) ∇ log p at the weights that sampled: 1/k Σ (R_i − ...)
    ∇ log π, over K steps."""
    right = torch.cat([REWARD[:4] - baseline(REWARD[:4]), REWARD[4:] - baseline(REWARD[4:])])
    made = played(RLOO(**OPTIONS), moved=0.0, advantage=advantages(RLOO(**OPTIONS), REWARD))
    (batch,) = made.batches
    assert sorted(set(batch["advantage"][:, 0].tolist())) == pytest.approx(
        sorted(right.unique().tolist())
    )
    theirs = -(batch["advantage"][:, 0] * log_prob(batch["after"], made.step(batch))).mean()
    weights = list(made.policy.weights.values())
    ours = torch.autograd.grad(made.algorithm.loss(made.policy, batch).value, weights)
    for mine, other in zip(ours, torch.autograd.grad(theirs, weights), strict=True):
        assert torch.allclose(mine, other, rtol=1e-5, atol=1e-7 * float(other.abs().max()))


@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_a_later_update_weighs_by_the_ratio_and_clips_nothing(beta):
    made = played(RLOO(beta=beta, updates=2, **OPTIONS), moved=0.05)
    for batch in made.batches:
        new, old = made.step(batch), made.step(batch, "old")
        ratio = torch.exp(log_prob(batch["after"], new) - log_prob(batch["after"], old))
        assert float((ratio - 1).abs().max()) > 0.01
        theirs = (-ratio * batch["advantage"][:, 0]).mean() + beta * kl(
            new, made.step(batch, "reference")
        ).mean()
        same(made.algorithm.loss(made.policy, batch).value, theirs, made.policy)


@pytest.mark.parametrize("name", ["scale", "scale_eps", "clip_range"])
def test_what_the_method_fixes_is_no_option(name):
    with pytest.raises(plugin.BadOption, match=f"unknown option '{name}'|no option.*{name}|{name}"):
        plugin.load("algorithms", "rloo", **{name: 1.0})


def test_a_group_of_one_has_no_other():
    with pytest.raises(ValueError, match="train.group: expected at least 2, got 1"):
        RLOO().check(None, 1)

"""What every algorithm promises, held for each file of the folder."""

import pytest
import torch
from toys import Brightness, experience, recipe, rows, summary

from vidrl import plugin, train
from vidrl.algorithms.base import Algorithm, Batch
from vidrl.backbones.toy import Toy
from vidrl.policy import Policy
from vidrl.rewards import Score
from vidrl.rollout import draws, sample

N, GROUP = 6, torch.tensor([0, 0, 0, 1, 1, 1])


@pytest.fixture(params=plugin.names("algorithms"))
def algorithm(request) -> Algorithm:
    return plugin.load("algorithms", request.param)


@pytest.fixture
def policy() -> Policy:
    return Policy(Toy(), full=True)


def rolled(algorithm, policy, round=0):
    algorithm.setup(policy, Brightness(), 3)
    plan = algorithm.plan(policy.backbone, round, draws(0, [("plan", round)])[0])
    return sample(policy, policy.backbone.encode([f"{i}" for i in range(N)]), draws(0, [(i,) for i in range(N)]), plan)


def credit(algorithm, plan, values):
    curve = torch.tensor(values)[:, None] + torch.rand(N, 9, generator=torch.Generator().manual_seed(1))
    return algorithm.advantages(Score(torch.tensor(values), curve), GROUP, [f"{i}" for i in range(N)], plan)


def batches(algorithm, rollout, advantage) -> list[Batch]:
    return list(algorithm.minibatches(experience(rollout, advantage, group=GROUP)))


def test_a_plan_depends_on_round_and_draw_alone(algorithm):
    for round in (0, 1, 7):
        one, other = (algorithm.plan(Toy.tiny(), round, draws(4, [(round,)])[0]) for _ in range(2))
        assert one == other


def test_credit_is_finite_and_leaves_out_what_is_unscored(algorithm, policy):
    algorithm.setup(policy, Brightness(), 3)
    plan = algorithm.plan(policy.backbone, 0, draws(0, [(0,)])[0])
    made = credit(algorithm, plan, [0.0, 1.0, float("nan"), 5.0, float("nan"), float("nan")])
    assert made.shape == (N, plan.segments) and bool(made.isfinite().all())
    assert torch.equal(made[2:], torch.zeros(4, plan.segments))  # NaN, and a group with one that is scored
    assert bool((made[1] > made[0]).any())


def test_minibatches_of_a_seed_are_the_same_and_their_pairs_weigh_one_in_all(algorithm, policy):
    rollout = rolled(algorithm, policy)
    advantage = torch.randn(N, rollout.plan.segments)
    first, again = (batches(algorithm, rollout, advantage) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one.data)
    for batch in first:
        assert batch.share * len(batch) == pytest.approx(1)
        halves = batch.split(2)
        assert all(torch.equal(torch.cat([half[name] for half in halves]), batch[name]) for name in batch.data)


def test_the_loss_is_finite_and_a_mean_so_that_micro_batches_add_up(algorithm, policy):
    rollout = rolled(algorithm, policy)
    batch = batches(algorithm, rollout, torch.randn(N, rollout.plan.segments))[0]
    weights = list(policy.weights.values())
    loss = algorithm.loss(policy, batch)
    assert loss.value.dim() == 0 and bool(loss.value.isfinite())
    assert not any(value.requires_grad for value in loss.metrics.values())
    whole = torch.autograd.grad(loss.value, weights)
    losses = [algorithm.loss(policy, part).value * len(part) / len(batch) for part in batch.split(4)]
    for one, pieces in zip(whole, zip(*(torch.autograd.grad(x, weights) for x in losses), strict=True), strict=True):
        assert torch.allclose(one, torch.stack(pieces).sum(0), atol=1e-5)
    assert any(float(g.abs().max()) > 0 for g in whole)


def test_the_ratio_starts_at_one_and_the_divergence_at_zero(algorithm, policy):
    rollout = rolled(algorithm, policy)
    for batch in batches(algorithm, rollout, torch.ones(N, rollout.plan.segments)):
        ratio = algorithm.loss(policy, batch).metrics.get("ratio", torch.ones(1))
        assert float((ratio - 1).abs().max()) <= 1e-5
        assert float(algorithm.divergence(policy, batch).detach()) == 0


@pytest.mark.parametrize("name", plugin.names("algorithms"))
def test_it_raises_a_reward(name, tmp_path):
    made = recipe(tmp_path, algorithm={"name": name, "options": {}}, train_rounds=8, train_eval_every=100)
    run = train.run(made)
    assert summary(run)["held_out"]["composite"]["difference"] > 0
    assert len(rows(run)) == 8

"""Branch against BranchGRPO's and TempFlow-GRPO's estimators, written down
independently."""

import math
from dataclasses import replace
from math import prod

import pytest
import torch
from published import exact, log_prob, played, ppo, same
from toys import Brightness, experience

from vidrl.algorithms.branch import Branch, factored
from vidrl.algorithms.grpo import GRPO
from vidrl.rewards import Score
from vidrl.training.rollout import Plan, draws, sample, tree

TREE = {"at": [0, 2, 3], "factors": [2, 3, 2], "steps": 7}
# two trees of twelve leaves
REWARD = torch.randn(24, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def ready(group=12, **options):
    algorithm = Branch(**(TREE | options))
    algorithm.setup(exact(), Brightness(), group)
    return algorithm


def advantages(algorithm, value, curve=None):
    plan = algorithm.plan(algorithm.backbone, 0, draws(0, [("plan", 0)])[0])
    group = torch.arange(len(value)) // algorithm.group
    return plan, algorithm.advantages(
        Score(value, curve), group, [f"{g}" for g in group.tolist()], plan
    )


def node(leaf, depth, children):
    """The number of a leaf's node at a depth."""
    return leaf // prod(children[depth:])


def published(rewards, depth, children, baseline="depth", correction=1, eps=1e-8):
    """BranchGRPO's compute_hierarchical_advantages_by_depth: nodes have the mean reward of
    their leaves."""
    leaves = range(len(rewards))
    value = {
        n: torch.stack([rewards[i] for i in leaves if node(i, depth, children) == n]).mean()
        for n in {node(i, depth, children) for i in leaves}
    }
    nodes = torch.stack([value[n] for n in sorted(value)])
    if baseline == "depth":
        away, spread = nodes - nodes.mean(), nodes.std(correction=correction)
    else:
        away = torch.cat([part - part.mean() for part in nodes.split(children[depth - 1])])
        spread = away.square().mean().sqrt()
    return torch.stack([(away / (spread + eps))[node(i, depth, children)] for i in leaves])


@pytest.mark.parametrize(
    "baseline, scale", [("depth", "unbiased"), ("depth", "group"), ("siblings", "group")]
)
def test_advantages_are_those_of_the_nodes_of_each_depth(baseline, scale):
    """The leaves' own scale drops out of a node's advantage: BranchGRPO takes raw
    rewards."""
    algorithm = ready(baseline=baseline, scale=scale, scale_eps=0.0)
    plan, got = advantages(algorithm, REWARD)
    assert plan.keep == plan.stochastic == (0, 1, 2, 3, 4, 5) and plan.forks == (
        (0, 2),
        (2, 3),
        (3, 2),
    )
    assert got.shape == (24, 6, 1)
    for i, depth in enumerate([1, 1, 2, 3, 3, 3]):
        for half in (slice(0, 12), slice(12, 24)):
            right = published(
                REWARD[half],
                depth,
                [2, 3, 2],
                baseline,
                correction=int(scale == "unbiased"),
                eps=0.0,
            )
            assert torch.allclose(got[half, i, 0], right, rtol=1e-9), (i, half)


def test_a_step_is_credited_for_what_its_own_noise_decided():
    """By hand: the first fork decides 10 or 0, the second adds 1 or 0.

    Among siblings each step has its own ±1; over the depth the second step is credited for
    the first's luck as well.
    """
    value = torch.tensor([10.0, 11.0, 0.0, 1.0])
    options = {"at": [0, 1], "factors": [2, 2], "steps": 3, "scale_eps": 0.0}
    siblings = advantages(ready(4, baseline="siblings", **options), value)[1][..., 0]
    assert torch.allclose(siblings, torch.tensor([[1.0, -1], [1, 1], [-1, -1], [-1, 1]]), atol=1e-5)
    depth = advantages(ready(4, **options), value)[1][..., 0]
    away = torch.tensor([4.5, 5.5, -5.5, -4.5])
    assert torch.allclose(depth[:, 0], torch.tensor([1.0, 1, -1, -1]), atol=1e-5)
    assert torch.allclose(depth[:, 1], away / away.square().mean().sqrt(), atol=1e-5)


def test_segments_are_credited_where_the_curve_says():
    """The first fork moves the first segment, the second the last: each step's advantage is
    zero in the other's."""
    curve = torch.zeros(4, 9)
    curve[:2, 0], curve[::2, 8] = 1.0, 1.0
    options = {"at": [0, 1], "factors": [2, 2], "steps": 3, "baseline": "siblings", "segments": 3}
    _, got = advantages(ready(4, **options), curve.mean(1), curve)
    assert got.shape == (4, 2, 3)
    assert (got[0, 0] > 0.1).tolist() == [True, False, False] and (got[0, 1] > 0.1).tolist() == [
        False,
        False,
        True,
    ]
    assert got.abs().min(1).values.max() == 0


def test_an_unscored_leaf_is_left_out_of_its_nodes():
    value = torch.tensor([10.0, math.nan, 0.0, 1.0])
    _, got = advantages(
        ready(4, at=[0, 1], factors=[2, 2], steps=3, scale="none", baseline="siblings"), value
    )
    assert got[:, 0, 0].tolist() == pytest.approx(
        [(10 - 0.5) / 2, 0.0, -(10 - 0.5) / 2, -(10 - 0.5) / 2]
    )
    assert got[:, 1, 0].tolist() == [0.0, 0.0, -0.5, 0.5]
    plan = Plan([1.0, 0.7, 0.4, 0.0], stochastic=(0, 1), keep=(0, 1), forks=((0, 2), (1, 2)))
    merged, trained = Branch().merge_rows(got, plan)
    # the scored leaves' own
    assert merged[:, 0, 0].tolist() == pytest.approx([4.75, 4.75, -9.5, -9.5])
    assert trained.tolist() == [[True, True], [False, True], [True, True], [False, True]]


# --- the tree


def rolled(algorithm, n, group):
    plan = algorithm.plan(algorithm.backbone, 0, draws(0, [("plan", 0)])[0])
    names = [(0, *divmod(i, group)) for i in range(n)]
    cond = algorithm.backbone.encode([f"{i // group}" for i in range(n)])
    return sample(algorithm.backbone, cond, draws(0, names), plan, tree(plan, 0, names, group))


def test_leaves_of_a_node_are_one_until_it_forks():
    rollout = rolled(ready(), 24, 12)
    alike = [
        [len({tuple(x.flatten().tolist()) for x in rollout.before[half, k]}) for k in range(6)]
        for half in (slice(0, 12), slice(12, 24))
    ]
    assert (
        alike == [[1, 2, 2, 6, 12, 12]] * 2
        and len({tuple(x.flatten().tolist()) for x in rollout.after[:, 5]}) == 24
    )


def test_shared_steps_are_sampled_once():
    calls, algorithm = [], ready()
    predict = algorithm.backbone.predict
    algorithm.backbone.predict = lambda x, t, cond: calls.append(len(x)) or predict(x, t, cond)
    rolled(algorithm, 12, 12)
    assert calls == [2, 2, 6, 12, 12, 12, 12]


@pytest.mark.parametrize("updates, beta", [(1, 0.0), (3, 0.0), (1, 5.0)])
def test_shared_steps_are_trained_once_and_count_for_all_their_leaves(updates, beta):
    """The rows of one update give the gradient of all (leaf, step) rows, of which those of
    a node are equal.

    So does the KL, which is an expectation over trajectories, the leaves: a step that w
    leaves share counts w times.
    """
    algorithm = ready(updates=updates, beta=beta)
    rollout = rolled(algorithm, 24, 12)
    advantage, group = advantages(algorithm, REWARD)[1], torch.arange(24) // 12
    batches = list(algorithm.minibatches(experience(rollout, advantage, group=group)))
    assert sum(map(len, batches)) == 2 * (2 + 2 + 6 + 12 * 3)
    assert sum(float(b["advantage"].sum()) * b.share for b in batches) / updates == pytest.approx(
        0, abs=0.2
    )
    if updates > 1:
        return
    plain = _as_grpo(algorithm)
    every = list(GRPO.minibatches(plain, experience(rollout, advantage, group=group)))
    torch.manual_seed(5)
    from vidrl.training.policy import Policy

    policy = Policy(algorithm.backbone, full=True)
    policy.backbone.network.double()
    policy.remember("reference")
    for weight in policy.weights.values():
        weight.data += 1e-2 * torch.randn_like(weight)
    assert len(every[0]) == 24 * 6
    same(algorithm.loss(policy, batches[0]).value, plain.loss(policy, every[0]).value, policy)
    if beta:  # and not by a hair: the mean over rows alone is another number
        kl = batches[0]["kl_weight"].new_ones(len(batches[0]))
        alone = replace(batches[0], data=dict(batches[0].data) | {"kl_weight": kl})
        apart = [float(algorithm.loss(policy, one).value.detach()) for one in (batches[0], alone)]
        assert abs(apart[0] - apart[1]) > 1e-3 * abs(apart[0]), apart


def _as_grpo(algorithm):
    """The same options without a tree: every leaf has a row of each step."""
    made = GRPO(steps=7, updates=1, beta=algorithm.beta)
    made.backbone = algorithm.backbone
    return made


def test_the_loss_is_the_published_one():
    made = played(
        Branch(
            at=[0, 2],
            factors=[2, 2],
            sampler="flow_sde",
            eta=0.7,
            steps=6,
            updates=1,
            clip_range=1e-4,
        )
    )
    (batch,) = made.batches
    ratio = torch.exp(
        log_prob(batch["after"], made.step(batch))
        - log_prob(batch["after"], made.step(batch, "old"))
    )
    same(
        made.algorithm.loss(made.policy, batch).value,
        ppo(ratio, batch["advantage"][:, 0], 1e-4).mean(),
        made.policy,
    )


def test_one_fork_into_the_group_is_tempflow():
    """An ode up to the step, one draw of noise for each of the group there, an ode after
    it; A = (r − mean)/std."""
    algorithm = ready(
        4, at=[0], factors=[4], window=1, window_schedule="random", step_weight="noise", steps=6
    )
    plans = [algorithm.plan(algorithm.backbone, r, draws(0, [("plan", r)])[0]) for r in range(20)]
    assert {plan.keep for plan in plans} == {(0,), (1,), (2,), (3,), (4,)}
    assert all(
        plan.stochastic == plan.keep and plan.forks == ((plan.keep[0], 4),) for plan in plans
    )
    _, got = advantages(algorithm, REWARD[:4])
    right = (REWARD[:4] - REWARD[:4].mean()) / (REWARD[:4].std(correction=0) + 1e-4)
    assert torch.allclose(got[:, 0, 0], right, rtol=1e-3)


def test_forks_fit_the_group_where_none_are_named():
    assert [factored(n, 9) for n in (2, 6, 8, 12, 7)] == [[2], [2, 3], [2, 2, 2], [2, 2, 3], [7]]
    algorithm = Branch()
    algorithm.setup(exact(), Brightness(), 8)
    assert algorithm.plan(algorithm.backbone, 0, torch.Generator()).forks == (
        (0, 2),
        (3, 2),
        (6, 2),
    )
    algorithm = Branch(steps=3)  # two stochastic steps
    algorithm.setup(exact(), Brightness(), 8)
    assert algorithm.plan(algorithm.backbone, 0, torch.Generator()).forks == ((0, 2), (1, 4))


def test_steps_before_the_first_fork_draw_no_noise():
    plan = ready(4, at=[2], factors=[4], steps=6).plan(exact().backbone, 0, torch.Generator())
    assert plan.stochastic == plan.keep == (2, 3, 4)


@pytest.mark.parametrize(
    "options, group, said",
    [
        (
            {"at": [0, 2], "factors": [2, 2]},
            8,
            "train.group = 4, the product of factors = .2, 2., got 8",
        ),
        ({"at": [0, 2], "factors": [2]}, 2, "as many steps `at` as `factors`"),
        ({"at": [2, 0], "factors": [2, 2]}, 4, "rising steps from 0"),
        ({"at": [0, 1], "factors": [4, 1]}, 4, "2 children"),
        ({"at": [-1], "factors": [4]}, 4, "rising steps from 0"),
        (
            {"at": [0, 9], "factors": [2, 2], "steps": 6},
            4,
            "round's 5 stochastic steps, numbered from 0, got at = .0, 9.",
        ),
        ({"at": [0, 1], "factors": [2, 2], "window": 1}, 4, "round's 1 stochastic steps"),
        ({}, 1, "at least 2, got 1"),
    ],
)
def test_a_tree_that_cannot_be_is_told_before_any_sampling(options, group, said):
    with pytest.raises(ValueError, match=said):
        Branch(**options).setup(exact(), Brightness(), group)

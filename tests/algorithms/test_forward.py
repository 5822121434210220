"""What the forward-process algorithms share: noise levels, noises of a group, rows,
processes, what they refuse."""

from statistics import NormalDist

import pytest
import torch
from noised import GROUP, N, exact, gradient, move, round_of
from toys import Brightness

from vidrl.algorithms._levels import levels, stratified
from vidrl.algorithms.awm import AWM
from vidrl.algorithms.nft import NFT
from vidrl.algorithms.rwr import RWR

TIMES = [1.0, 0.9, 0.7, 0.4, 0.0]
EVERY = pytest.mark.parametrize("kind", [NFT, AWM, RWR])


def rows_of(algorithm, seen):
    return [(batch, i) for batch in algorithm.minibatches(seen) for i in range(len(batch))]


# --- levels


@pytest.mark.parametrize("how", ["uniform", "discrete", "logit_normal"])
def test_levels_of_a_clip_are_spread_over_the_range(how):
    """One in each of so many equally likely parts."""
    u = stratified(500, 4, torch.Generator().manual_seed(0))
    made = levels(u, how, 0.1, 0.95, TIMES)
    assert float(made.min()) >= 0.1 and float(made.max()) <= 0.95
    assert bool((made.diff(dim=1) >= 0).all())
    if how == "discrete":  # 0.4, 0.7 and 0.9 lie in the range
        assert {
            round(t, 3): int((made == t).sum()) // 100 for t in made.unique().tolist()
        }.keys() == {0.4, 0.7, 0.9}


def test_levels_of_the_logit_normal_have_its_quantiles():
    u, z = torch.linspace(0.01, 0.99, 99, dtype=torch.float64), NormalDist()
    ends = [z.cdf(float(torch.tensor(t, dtype=torch.float64).logit())) for t in (0.2, 0.9)]
    expected = [
        1 / (1 + 2.718281828459045 ** -z.inv_cdf(ends[0] + float(x) * (ends[1] - ends[0])))
        for x in u
    ]
    assert levels(u, "logit_normal", 0.2, 0.9, TIMES).tolist() == pytest.approx(expected, rel=1e-9)
    whole = levels(u, "logit_normal", 1e-9, 1.0, TIMES)
    assert whole.tolist() == pytest.approx(
        [1 / (1 + 2.718281828459045 ** -z.inv_cdf(float(x))) for x in u], rel=1e-6
    )


def test_as_many_noises_as_the_sampler_has_steps_visit_each_of_its_times_once():
    """As the public code of DiffusionNFT, which trains every step of the rollout."""
    algorithm, policy = NFT(steps=4, noises=4, levels="discrete", low=0.01, high=1.0), exact()
    seen = round_of(algorithm, policy)
    times = sorted(policy.backbone.times(4)[:-1])
    for clip in range(N):
        own = [
            float(b["t"][i])
            for b, i in rows_of(algorithm, seen)
            if same(b["x0"][i], seen.rollout.latents[clip])
        ]
        assert sorted(own) == pytest.approx(times)


def same(one, other):
    return torch.equal(one, other)


def test_a_range_without_a_time_of_the_sampler_is_told_with_its_cure():
    algorithm = NFT(steps=2, levels="discrete", low=0.6, high=0.9)
    said = "expected one of the sampler's times from .*got none of .* widen the range"
    with pytest.raises(ValueError, match=said):
        algorithm.setup(exact(), Brightness(), 3)


# --- rows and noises


@EVERY
def test_every_clip_is_noised_so_often_and_brings_its_own_credit_and_prompt(kind):
    algorithm, policy = kind(steps=4, noises=3, segments=2), exact()
    seen = round_of(algorithm, policy)
    count = [0] * N
    for batch, i in rows_of(algorithm, seen):
        (clip,) = [c for c in range(N) if same(batch["x0"][i], seen.rollout.latents[c])]
        count[clip] += 1
        assert (
            torch.equal(batch["advantage"][i], seen.advantage[clip])
            and batch.prompts[i] == seen.prompts[clip]
        )
        assert torch.equal(batch.cond["text"][i], seen.rollout.cond["text"][clip])
    assert count == [3] * N


@pytest.mark.parametrize("alike", [True, False])
def test_clips_of_a_group_share_their_noises_where_asked(alike):
    algorithm, policy = NFT(steps=4, noises=2, same_noise=alike), exact()
    seen = round_of(algorithm, policy)
    found = {}
    for batch, i in rows_of(algorithm, seen):
        (clip,) = [c for c in range(N) if same(batch["x0"][i], seen.rollout.latents[c])]
        found.setdefault((float(batch["t"][i]), float(batch["eps"][i].sum())), []).append(
            int(GROUP[clip])
        )
    assert sorted(found.values()) == (
        [[0] * 3, [0] * 3, [1] * 3, [1] * 3] if alike else [[0]] * 6 + [[1]] * 6
    )


def test_under_one_noise_what_equal_clips_have_in_common_cancels():
    """Clips that are equal tell nothing of each other: with one noise their gradients add
    up to exactly that."""
    sizes = {}
    for alike in (True, False):
        algorithm, policy = NFT(steps=4, updates=1, same_noise=alike), exact()
        advantage = torch.tensor([1.0, -2.0, 1.0, 0.5, 0.0, -0.5], dtype=torch.float64)[:, None]
        seen = round_of(algorithm, policy, advantage)
        seen.rollout.latents[:] = seen.rollout.latents[:1]
        (batch,) = algorithm.minibatches(seen)
        sizes[alike] = float(gradient(policy, algorithm.loss(policy, batch).value).abs().max())
    assert sizes[True] < 1e-12 and sizes[False] > 1e-3


# --- what they refuse


@EVERY
@pytest.mark.parametrize(
    "options, said",
    [
        ({"low": 0.5, "high": 0.5}, "0 < low < high ≤ 1"),
        ({"low": 0.9, "high": 0.1}, "0 < low < high ≤ 1"),
        ({"low": 0.0}, "0 < low < high ≤ 1"),
        ({"high": 1.1}, "0 < low < high ≤ 1"),
        ({"noises": 0}, "noises, updates ≥ 1"),
        ({"updates": 0}, "noises, updates ≥ 1"),
        ({"steps": 0}, "expected steps, noises"),
        ({"credit": "influence", "segments": 2}, "samples *without noise"),
        ({"alpha": 2.0}, r"alpha in \[0, 1\]"),
    ],
)
def test_bad_options_are_told_at_once(kind, options, said):
    with pytest.raises(ValueError, match=said):
        kind(**options)


def test_weights_that_nobody_keeps_cannot_sample():
    with pytest.raises(
        ValueError, match='expected train.ema > 0 for algorithm.options.sample_from = "ema"'
    ):
        NFT(sample_from="ema").setup(exact(), Brightness(), 3)


@EVERY
def test_a_group_of_one_has_nobody_to_compare_with(kind):
    with pytest.raises(ValueError, match="train.group"):
        kind().setup(exact(), Brightness(), 1)


def test_more_updates_than_rows_are_told_with_their_cure():
    algorithm, policy = NFT(steps=4, noises=1, updates=7), exact()
    with pytest.raises(ValueError, match="expected at least 7 rows, one an update, got 6: lower"):
        list(algorithm.minibatches(round_of(algorithm, policy)))


def test_a_policy_that_moved_is_not_taken_for_its_reference():
    algorithm, policy = NFT(steps=4), exact()
    batch = next(algorithm.minibatches(round_of(algorithm, policy)))
    assert float(algorithm.divergence(policy, batch).detach()) == 0
    move(policy, 1, size=1e-6)
    assert 0 < float(algorithm.divergence(policy, batch).detach()) < 1e-8

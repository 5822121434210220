"""The estimators of credit: numbers by hand, and a linear-Gaussian clip whose policy
gradient is known."""

import numpy as np
import pytest
import torch

from vidrl import credit
from vidrl.credit import ESTIMATORS, advantages, estimators
from vidrl.credit import parts as composed
from vidrl.credit.estimators import (
    antithetic,
    gls,
    influence_weighted,
    leave_one_out,
    leave_pair_out,
    permuted,
    pooled_covariance,
    posterior,
    scaled,
    step_gains,
    to_latent,
    whole_clip,
)
from vidrl.credit.parts import measured_credit, segment_sums
from vidrl.rewards import Score

NAN = float("nan")
# r_i = Σ_j a_ij u_j, u_j ~ N(0, 1) the noise of segment j: the score of a shift of its mean
# is u_j itself, and the gradient of E mean_i r_i is mean_i a_ij.
MIXING = torch.tensor(
    [[1.0, 0.2, 0.0], [0.8, 0.4, 0.1], [0.2, 1.0, 0.3], [0.0, 0.5, 1.2], [0.1, 0.1, 0.9]]
)
TRUE = MIXING.mean(0)
N = 20_000


def noises(seed=0, n=N):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))


def gradient(credit, u):
    """Mean of A_j u_j, and its standard error."""
    each = credit * u
    return each.mean(0), each.std(0) / len(u) ** 0.5


def groups(n=N, size=8):
    return torch.arange(n) // size


# --- by hand


def test_leave_one_out_is_the_mean_of_the_others():
    values, group = torch.randn(12), torch.tensor([0, 1, 2] * 4)
    others = [
        values[[k for k in range(12) if group[k] == group[i] and k != i]].mean() for i in range(12)
    ]
    assert torch.allclose(leave_one_out(values, group), values - torch.stack(others), atol=1e-6)


def test_leave_one_out_leaves_out_what_is_unscored():
    got = leave_one_out(torch.tensor([1.0, NAN, 4.0, 7.0]), torch.tensor([0, 0, 0, 1]))
    assert got.tolist() == [-3.0, 0.0, 3.0, 0.0]


def test_pooled_covariance_is_numpys_within_groups():
    entries, group = torch.randn(12, 4, dtype=torch.float64), torch.arange(12) // 4
    inside = [np.cov(entries[group == g].T.numpy()) for g in range(3)]
    assert np.allclose(pooled_covariance(entries, group, shrink=0.0), np.mean(inside, 0))
    shrunk, plain = pooled_covariance(entries, group, shrink=0.2).numpy(), np.mean(inside, 0)
    assert np.allclose(np.diag(shrunk), np.diag(plain)) and np.allclose(
        shrunk[0, 1], 0.8 * plain[0, 1]
    )


def test_influence_weights_by_hand():
    """I = (1, 3): c = I · 4/10, so that c · I = ΣI."""
    r = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    credit = influence_weighted(r, torch.tensor([[1.0, 3.0]]), torch.tensor([0, 0]))
    assert torch.allclose(credit, torch.tensor([[2.8], [-2.8]]))  # 2 (1·0.4 + 2·1.2)/2


def test_gls_by_hand():
    """Σ = diag(1, 4), I = (2, 2): Σ⁻¹ I = (2, ½), scaled by 4/5 so that c · I = 4."""
    r = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    sigma = torch.tensor([1.0, 4.0]).diag()
    credit = gls(r, torch.tensor([[2.0, 2.0]]), torch.tensor([0, 0]), ridge=0.0, covariance=sigma)
    assert torch.allclose(credit, torch.tensor([[2.0], [-2.0]]))  # c = (1.6, 0.4), 2 (1.6 + 0.4)/2


def test_posterior_by_hand():
    """Two segments of equal influence on one entry share its deviation, each half."""
    r = torch.tensor([[3.0], [-3.0]])
    credit = posterior(
        r, torch.ones(2, 1, 1), torch.tensor([0, 0]), ridge=0.0, covariance=torch.tensor([[2.0]])
    )
    # of 6, the deviation from the other
    assert torch.allclose(credit, torch.tensor([[3.0, 3.0], [-3.0, -3.0]]))


def test_posterior_sums_to_the_deviation():
    moment = torch.einsum("ij,kj->jik", MIXING, MIXING)
    r, group = noises(n=64) @ MIXING.T, groups(64)
    made = posterior(r, moment, group, ridge=0.0, covariance=moment.sum(0) + 1e-4 * torch.eye(5))
    assert torch.allclose(made.sum(1), leave_one_out(r.mean(1), group), atol=2e-3)


def test_a_moment_of_rank_one_gives_gls_times_a_number():
    moment, group = torch.einsum("ij,kj->jik", MIXING, MIXING), groups(64)
    sigma = moment.sum(0) + 0.5 * torch.eye(5)
    r = noises(n=64) @ MIXING.T
    fit = torch.einsum("ij,ik,kj->j", MIXING, torch.linalg.inv(sigma), MIXING)
    both = [
        posterior(r, moment, group, 0.0, covariance=sigma),
        gls(r, MIXING.T, group, 0.0, covariance=sigma) * fit,
    ]
    assert torch.allclose(*both, atol=1e-4)


def test_step_gains_sum_to_the_whole():
    values = torch.randn(4, 6, 3)
    assert torch.allclose(step_gains(values).sum(1), values[:, -1] - values[:, 0], atol=1e-6)
    with pytest.raises(ValueError, match="of two completions or more"):
        step_gains(torch.ones(3, 1))


def test_permuted_keeps_each_samples_numbers():
    credit = torch.arange(60.0).view(12, 5)
    made = permuted(credit, torch.Generator().manual_seed(0))
    assert torch.equal(made.sort(1).values, credit) and not torch.equal(made, credit)


def test_antithetic_pairs():
    with pytest.raises(ValueError, match="pairs of samples, got 3"):
        antithetic(torch.ones(3, 1))
    made = antithetic(torch.randn(6, 2, 3))
    assert torch.equal(made[::2], -made[1::2])


def test_to_latent_keeps_the_mean():
    share = torch.rand(17, 5)
    curve = torch.randn(3, 17)
    assert torch.allclose(
        to_latent(curve, share / share.sum(1, keepdim=True)).mean(1), curve.mean(1), atol=1e-6
    )
    with pytest.raises(ValueError, match="a map of 17 frames, as the curve has, got 16"):
        to_latent(curve, share[:16])


@pytest.mark.parametrize("scale, expected", [("none", 4.0), ("batch", 4 / 8**0.5), ("group", 1.0)])
def test_scaled_by_hand(scale, expected):
    """Two groups, of root mean square 4 and 2; the sample that was left out counts
    nowhere."""
    credit = torch.tensor([[4.0, -4.0], [0.0, 0.0], [2.0, 2.0], [-2.0, 2.0]])
    got = scaled(credit, torch.tensor([0, 0, 1, 1]), scale, eps=0.0)[0, 0]
    assert float(got) == pytest.approx(expected)
    with pytest.raises(ValueError, match="expected scale"):
        scaled(credit, torch.zeros(4), "std")


# --- against a gradient that is known


@pytest.mark.parametrize("size", [2, 8])
def test_whole_clip_credit_is_unbiased(size):
    u = noises()
    mean, error = gradient(whole_clip((u @ MIXING.T).mean(1), groups(size=size), 3), u)
    assert ((mean - TRUE).abs() < 4 * error).all() and (error < 0.03).all()


@pytest.mark.parametrize("estimator", [influence_weighted, gls])
def test_credit_by_influence_is_unbiased_where_each_segment_has_one_direction(estimator):
    u = noises()
    mean, error = gradient(estimator(u @ MIXING.T, MIXING.T, groups()), u)
    assert ((mean - TRUE).abs() < 4 * error).all()


def test_gls_has_the_least_noise():
    """Of the estimators that keep the sum: whole clip > influence-weighted > gls."""
    u = noises()
    r = u @ MIXING.T + 0.3 * torch.randn(N, 5, generator=torch.Generator().manual_seed(1))
    made = [
        whole_clip(r.mean(1), groups(), 3),
        influence_weighted(r, MIXING.T, groups()),
        gls(r, MIXING.T, groups(), 0.0, 0.0),
    ]
    whole, weighted, least = (float(gradient(one, u)[1].square().sum()) for one in made)
    assert least < 0.9 * weighted and weighted < 0.9 * whole


def test_local_credit_is_biased_under_mixing():
    """Frames 0 and 1 credited to segment 0 and so on: what they do to others' frames is
    lost."""
    u = noises()
    r = u @ MIXING.T
    local = torch.stack([r[:, :2].sum(1), r[:, 2], r[:, 3:].sum(1)], 1) / 5
    mean, error = gradient(leave_one_out(local, groups()), u)
    assert ((TRUE - mean) > 4 * error).all()


def test_permuted_credit_points_nowhere_in_particular():
    u = noises()
    credit = permuted(gls(u @ MIXING.T, MIXING.T, groups()), torch.Generator().manual_seed(0))
    mean, _ = gradient(credit, u)
    assert (mean / TRUE).max() < 0.75


def test_antithetic_noise_is_unbiased_and_quieter_on_even_rewards():
    """With r linear in u and a baseline of the pair, the even part of the noise cancels."""
    u = antithetic(noises())
    r = (u @ MIXING.T + (u @ MIXING.T).square()).mean(1)
    plain = (noises(1) @ MIXING.T + (noises(1) @ MIXING.T).square()).mean(1)
    pairs = groups(size=2)
    # of a pair of mirrored noises, half the difference
    mean, error = gradient(whole_clip(r, pairs, 3) / 2, u)
    assert ((mean - TRUE).abs() < 6 * error).all()
    assert (error < 0.7 * gradient(whole_clip(plain, pairs, 3), noises(1))[1]).all()


# --- as a whole


SPANS = [(0, 2), (2, 3), (3, 5)]


def composite():
    parts = {name: Score(torch.randn(16), None) for name in "ab"}
    for part in parts.values():
        part.frames = torch.randn(16, 5)
        part.value = part.frames.mean(1)
    value = 2 * parts["a"].value + parts["b"].value
    slopes = {"a": torch.full((16,), 2.0), "b": torch.ones(16)}
    curve, weights = 2 * parts["a"].frames + parts["b"].frames, {"a": 2.0, "b": 1.0}
    return Score(value, curve, "frame", parts, weights=weights, slopes=slopes)


def moments(names=("a", "b", "composite")):
    return {
        name: torch.einsum("ij,kj->jik", MIXING, MIXING).expand(4, -1, -1, -1) for name in names
    }


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("per_part", [False, True])
def test_advantages_of_every_estimator(estimator, per_part):
    score, group = composite(), groups(16)
    made = advantages(score, group, SPANS, estimator, 0.5, per_part=per_part, moments=moments())
    assert made.shape == ((16, 4, 3) if estimator in ("influence", "gls", "posterior") else (16, 3))
    assert torch.isfinite(made).all() and made.flatten(1).mean(1)[:8].sum().abs() < 1e-3
    one = advantages(score, group, [(0, 5)], estimator, 0.5, per_part=per_part, moments=moments())
    assert torch.allclose(one, advantages(score, group, [(0, 5)], "whole", per_part=per_part))


def test_segment_sums_add_up_to_the_value():
    """Of a composite with a part that looks further, that part's whole value goes to every
    segment."""
    score = composite()
    assert torch.allclose(segment_sums(score, SPANS).sum(1), score.value, atol=1e-5)
    assert torch.allclose(segment_sums(score, SPANS)[:, 1], score.frames[:, 2] / 5, atol=1e-6)
    score.parts["b"].support = "prefix"
    own = 2 * segment_sums(score.parts["a"], SPANS) + score.parts["b"].value[:, None]
    assert torch.allclose(segment_sums(score, SPANS), own, atol=1e-6)


def test_a_composite_is_credited_part_by_part():
    """Each part by its own influence, times how much the whole rises with it, over one root
    mean square."""
    score, group, given = composite(), groups(16), moments(("a", "b"))
    parts = [measured_credit(name, score.parts[name], group, "gls", given, 0.1) for name in "ab"]
    whole = 2 * parts[0] + parts[1]
    made = advantages(score, group, SPANS, "gls", 1.0, "batch", moments=given)
    assert torch.allclose(made[:, 0], scaled(whole[:, 0], group, "batch"), atol=1e-3)


# a group's own std bends it a little
@pytest.mark.parametrize("scale, atol", [("batch", 0.02), ("group", 0.04)])
def test_parts_weigh_alike_whatever_the_segments(scale, atol):
    """E[A_j u_j] of two parts of unlike locality: in both ways along Σ_p ∇ value_p /
    std_p."""
    draw = torch.Generator().manual_seed(0)
    N, S = 60_000, 5
    u, other = torch.randn(N, S, generator=draw), torch.randn(N, generator=draw)
    near = Score(u.mean(1), u.clone())
    far = Score(3 * u[:, 0] + other, (3 * u[:, :1] + other[:, None]).expand(-1, S), "clip")
    value, weights = near.value + far.value, {"near": 1.0, "far": 1.0}
    slopes = {name: torch.ones(N) for name in weights}
    score = Score(
        value,
        near.frames + far.frames,
        "clip",
        {"near": near, "far": far},
        weights=weights,
        slopes=slopes,
    )
    expected = torch.full((S,), 0.2) / near.value.std()
    expected[0] += 3 / far.value.std()
    spans = [(i, i + 1) for i in range(S)]
    for estimator in ("whole", "segment"):
        made = advantages(
            score, torch.arange(N) // 10, spans, estimator, scale=scale, per_part=True
        )
        got = (made * u).mean(0)
        assert torch.allclose(got / got.norm(), expected / expected.norm(), atol=atol), estimator


def test_a_part_with_a_negative_weight_is_pushed_down():
    score = composite()
    score.weights, score.slopes["b"] = {"a": 1.0, "b": -2.0}, torch.full((16,), -2.0)
    score.slopes["a"] = torch.ones(16)
    score.value = score.parts["a"].value - 2 * score.parts["b"].value
    for estimator in ("whole", "segment"):
        made = advantages(score, groups(16), SPANS, estimator, scale="batch", per_part=True).mean(1)
        assert torch.corrcoef(torch.stack([made, score.value]))[0, 1] > 0.5, estimator
    score.weights["b"] = -1.0
    assert torch.isfinite(advantages(score, groups(16), SPANS, per_part=True)).all()


def test_a_band_credits_what_it_takes_off_and_is_refused_part_by_part():
    """Within the band 0, above it the distance: the sums are the value, and the worst clip
    is not praised."""
    from vidrl.rewards.compose import Composite
    from vidrl.rewards.frame_quality import FrameQuality

    value = torch.tensor([0.1, 0.2, 0.5, 0.9])
    part = Score(value, value[:, None].expand(-1, 5))
    score = Composite({"a": FrameQuality()}, bands={"a": (0.0, 0.3)}).combine({"a": part})
    assert torch.allclose(
        segment_sums(score, SPANS).sum(1), torch.tensor([0.0, 0.0, -0.2, -0.6]), atol=1e-6
    )
    made = advantages(score, torch.zeros(4, dtype=torch.long), SPANS)
    assert (
        (made[3] < made[2]).all() and (made[2] < made[0]).all() and torch.allclose(made[0], made[1])
    )
    with pytest.raises(ValueError, match="per_part of a composite .* band"):
        advantages(score, torch.zeros(4, dtype=torch.long), SPANS, per_part=True)


def test_parts_without_curves_are_told_and_are_whole_clip_credit():
    score = composite()
    for part in score.parts.values():
        part.frames = None
    with pytest.warns(UserWarning, match="a has no curve"):
        made = advantages(score, groups(16), SPANS, scale="batch")
    assert torch.allclose(made, advantages(score, groups(16), SPANS, "whole", scale="batch"))


def test_the_scale_of_a_reward_does_not_matter():
    for estimator in ("whole", "segment"):
        big, small = (
            advantages(
                Score(k * v, k * f),
                groups(16),
                [(i, i + 1) for i in range(5)],
                estimator,
                scale="batch",
            )
            for k in (1.0, 0.1)
            for v, f in [(composite_curve().mean(1), composite_curve())]
        )
        assert torch.allclose(big, small, rtol=0.02, atol=1e-3), estimator


def composite_curve():
    return torch.randn(16, 5, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("members", [4, 8])
def test_the_baseline_of_mirrored_pairs_holds_neither(members):
    """r linear in u: leave_pair_out gives the gradient, leave_one_out n/(n − 1) times as
    much."""
    u = antithetic(torch.randn(80_000, 1, generator=torch.Generator().manual_seed(3)))[:, 0]
    group = torch.arange(len(u)) // members
    assert (leave_pair_out(u, group) * u).mean() == pytest.approx(1.0, abs=0.02)
    assert (leave_one_out(u, group) * u).mean() == pytest.approx(members / (members - 1), abs=0.02)
    with pytest.raises(ValueError, match="pairs of samples within groups"):
        leave_pair_out(u[:6], torch.tensor([0, 0, 0, 1, 1, 1]))


def test_permuted_credit_keeps_each_step():
    credit = torch.arange(24.0).reshape(2, 3, 4)
    made = permuted(credit, torch.Generator().manual_seed(1))
    assert torch.equal(made.sort(2).values, credit)


def test_a_frame_that_no_latent_frame_moves_is_refused():
    with pytest.raises(ValueError, match="every frame is moved by some latent frame"):
        to_latent(torch.ones(1, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


def test_one_unscored_sample_disturbs_nobody():
    score, group = composite(), groups(16)
    score.value[3] = NAN
    made = advantages(score, group, SPANS, "gls", 1.0, moments=moments())
    assert (made[3] == 0).all() and torch.isfinite(made).all()


def test_nothing_within_groups_is_no_credit():
    score = Score(torch.ones(4), torch.ones(4, 5))
    assert (advantages(score, torch.arange(4), SPANS, "gls", 1.0, moments=moments()) == 0).all()
    assert (
        advantages(score, torch.zeros(4), SPANS, "posterior", 1.0, moments=moments()) == 0
    ).all()


def test_moments_that_do_not_fit():
    score, group = composite(), groups(16)
    with pytest.raises(ValueError, match="expected moments of 'b' for gls credit, got none"):
        advantages(score, group, SPANS, "gls", per_part=True, moments=moments(("a",)))
    with pytest.raises(ValueError, match="expected moments of 2 segments for 'composite', got 3"):
        advantages(score, group, [(0, 3), (3, 5)], "gls", moments=moments())
    with pytest.raises(ValueError, match="expected credit to be one of"):
        advantages(score, group, SPANS, "local")


def test_every_estimator_is_to_be_had_from_credit():
    from vidrl import credit

    for module in (estimators, composed):
        public = [
            name for name, one in vars(module).items() if callable(one) and not name.startswith("_")
        ]
        ours = [name for name in public if vars(module)[name].__module__ == module.__name__]
        assert ours and not [
            name for name in ours if name != "checked" and not hasattr(credit, name)
        ]


def test_former_names_are_still_accepted():
    score, group = Score(torch.tensor([1.0, 0.0]), torch.rand(2, 5)), torch.tensor([0, 0])
    assert torch.equal(
        advantages(score, group, SPANS, way="whole"), advantages(score, group, SPANS, "whole")
    )
    assert credit.WAYS == credit.ESTIMATORS and credit.earned is credit.measured_credit
    assert credit.without is credit.mask_samples and credit.shares_of is credit.part_fractions
    assert credit.any_curve is credit.has_curve and credit.scaled_steps is credit.scale_steps

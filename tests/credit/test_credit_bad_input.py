"""What cannot be credited is refused in clear words: vidrl.diffusion.segments, vidrl.credit
and vidrl.credit.estimators on bad input."""

import warnings

import pytest
import torch
from toys import credited

from vidrl import credit
from vidrl.algorithms.grpo import GRPO, clipped
from vidrl.credit import estimators
from vidrl.diffusion import segments
from vidrl.rewards import Score
from vidrl.training.rollout import Plan

NAN, INF = float("nan"), float("inf")
WAN = [(0, 1), (1, 5), (5, 9), (9, 13), (13, 17)]
GROUP = torch.tensor([0, 0, 0, 1, 1, 1])
PLAN = Plan(times=(1.0, 0.5, 0.0), segments=2, stochastic=(0,), keep=(0,))


def entries(samples=6, frames=17):
    return torch.randn(samples, frames)


# --- More segments than latent frames; segments that do not divide them


@pytest.mark.parametrize(
    "cut",
    [
        lambda n: segments.borders(5, n),
        lambda n: segments.frame_spans(WAN, n),
        lambda n: segments.pool(torch.randn(2, 3, 5, 4, 4), n),
        lambda n: credited(
            GRPO(), Score(torch.randn(6), entries()), GROUP, Plan((1.0, 0.0), segments=n), WAN
        ),
    ],
    ids=["borders", "frame_spans", "pool", "GRPO.credit"],
)
@pytest.mark.parametrize("n", [6, 0, -1])
def test_more_segments_than_latent_frames(cut, n):
    with pytest.raises(
        ValueError, match=f"expected 1 to 5 segments, one latent frame or more in each, got {n}"
    ):
        cut(n)


@pytest.mark.parametrize(
    "frames, n, sizes",
    [(5, 2, [3, 2]), (5, 3, [2, 2, 1]), (5, 4, [2, 1, 1, 1]), (21, 4, [6, 5, 5, 5])],
)
def test_segments_that_do_not_divide_the_latents_are_uneven_the_longer_first(frames, n, sizes):
    assert [b - a for a, b in segments.borders(frames, n)] == sizes


@pytest.mark.parametrize("n", [2, 3, 4])
def test_weighted_by_size_uneven_segments_are_the_clip(n):
    """Of log-densities by latent frames; of a curve by pixel frames."""
    each, curve = torch.randn(2, 3, 5, 4, 4), entries(2)
    sizes = torch.tensor([float(b - a) for a, b in segments.borders(5, n)])
    assert torch.allclose(segments.pool(each, n) @ sizes / 5, each.mean((1, 2, 3, 4)), atol=1e-6)
    spans = segments.frame_spans(WAN, n)
    lengths = torch.tensor([float(b - a) for a, b in spans])
    assert torch.allclose(
        segments.pool_frames(curve, spans) @ lengths / 17, curve.mean(1), atol=1e-6
    )


# --- Images


def test_an_image_with_one_segment():
    assert segments.borders(1, 1) == [(0, 1)] and segments.frame_spans([(0, 1)], 1) == [(0, 1)]
    made = credited(
        GRPO(scale="none"),
        Score(torch.tensor([1.0, 3.0]), torch.tensor([[1.0], [3.0]])),
        torch.zeros(2),
        Plan((1.0, 0.0)),
        [(0, 1)],
    )
    assert made.tolist() == [[-1.0], [1.0]]


def test_an_image_with_more_is_refused_by_name():
    with pytest.raises(ValueError, match="got 2: an image has one latent frame, use segments=1"):
        segments.borders(1, 2)


@pytest.mark.parametrize("shape", [(2, 16, 8, 8), (2, 64, 16)], ids=["image", "tokens"])
def test_latents_without_an_axis_of_time_are_not_cut_along_another(shape):
    with pytest.raises(ValueError, match=r"expected \(B, C, L, h, w\) to cut into 2 segments, got"):
        segments.pool(torch.randn(shape), 2)


# --- Curves


def test_a_reward_without_a_curve_has_whole_clip_credit():
    value = torch.tensor([1.0, 2.0, 3.0, NAN, 4.0, 6.0])
    spans = segments.frame_spans(WAN, 3)
    for score in (Score(value), Score(value, entries(), "clip"), Score(value, entries(), "prefix")):
        got = credit.segment_scores(score, spans)
        assert torch.equal(got.nan_to_num(-9), value[:, None].expand(-1, 3).nan_to_num(-9))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = credited(GRPO(segments=2, alpha=1.0), Score(value), GROUP, PLAN, WAN)
    assert torch.equal(made[:, 0], made[:, 1])
    assert torch.allclose(made[:, 0], credit.normalise(value, GROUP))


def test_a_reward_without_a_curve_says_so_once():
    algorithm = GRPO(segments=2, alpha=0.5)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(3):
            credited(algorithm, Score(torch.randn(6)), GROUP, PLAN, WAN)
    told = [str(one.message) for one in said]
    assert (
        len(told) == 1
        and "has no curve over frames: its value is credited to every segment" in told[0]
    )


@pytest.mark.parametrize("alpha, plan", [(0.5, PLAN), (0.0, PLAN), (0.5, Plan((1.0, 0.0)))])
def test_a_reward_with_a_curve_warns_of_nothing(alpha, plan):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        credited(
            GRPO(segments=plan.segments, alpha=alpha),
            Score(torch.randn(6), entries()),
            GROUP,
            plan,
            WAN,
        )


@pytest.mark.parametrize("frames", [1, 5, 16, 18])
def test_a_curve_of_another_number_of_frames(frames):
    score = Score(torch.randn(6), entries(6, frames))
    for cut in (
        lambda: credit.segment_scores(score, segments.frame_spans(WAN, 2)),
        lambda: credited(GRPO(segments=2), score, GROUP, PLAN, WAN),
    ):
        with pytest.raises(
            ValueError,
            match=f"expected a curve of 17 frames, as the latents decode to, got {frames}",
        ):
            cut()


def test_a_part_of_a_composite_with_another_number_of_frames():
    part = Score(torch.randn(6), entries(6, 16))
    whole = Score(
        torch.randn(6),
        entries(),
        parts={"a": part},
        weights={"a": 1.0},
        slopes={"a": torch.ones(6)},
    )
    with pytest.raises(ValueError, match="expected a curve of 17 frames"):
        credit.segment_scores(whole, segments.frame_spans(WAN, 2))


def test_a_curve_of_other_samples():
    with pytest.raises(
        ValueError, match="expected a curve of 3 samples, as there are values, got 4"
    ):
        credit.by_segment(torch.randn(3), entries(4), "frame", segments.frame_spans(WAN, 2))


# --- Influence and covariance


WEIGHTED = [estimators.influence_weighted, estimators.gls]


@pytest.mark.parametrize("estimator", WEIGHTED)
@pytest.mark.parametrize("bad", [NAN, INF])
def test_an_influence_that_is_not_finite(estimator, bad):
    influence = torch.rand(2, 17) + 0.1
    influence[1, 4] = bad
    with pytest.raises(
        ValueError, match="expected a finite influence, got NaN or infinity: measure it again"
    ):
        estimator(entries(), influence, GROUP)


@pytest.mark.parametrize("estimator", WEIGHTED)
def test_a_segment_that_moves_nothing_is_refused_or_gets_no_credit(estimator):
    influence = torch.rand(2, 17) + 0.1
    influence[1] = 0
    try:
        made = estimator(entries(), influence, GROUP)
    except ValueError as error:
        assert "influence" in str(error)
    else:
        assert bool(made.isfinite().all()) and torch.equal(made[:, 1].abs(), torch.zeros(6))


@pytest.mark.parametrize("estimator", WEIGHTED)
@pytest.mark.parametrize("frames", [5, 16])
def test_an_influence_on_another_number_of_entries(estimator, frames):
    with pytest.raises(
        ValueError, match=f"expected an influence on 17 entries, as the curve has, got {frames}"
    ):
        estimator(entries(), torch.rand(2, frames) + 0.1, GROUP)


@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_covariance_that_is_not_finite(bad):
    covariance = torch.eye(17)
    covariance[3, 3] = bad
    with pytest.raises(ValueError, match="expected a covariance"):
        estimators.gls(entries(), torch.rand(2, 17), GROUP, covariance=covariance)


def test_a_singular_covariance_is_refused_and_the_ridge_is_the_cure():
    covariance = torch.ones(17).diag()
    covariance[3, 3] = 0.0  # an entry that nothing moves
    with pytest.raises(ValueError, match="expected a covariance that can be inverted.*raise ridge"):
        estimators.gls(entries(), torch.rand(2, 17), GROUP, ridge=0.0, covariance=covariance)
    assert bool(
        estimators.gls(entries(), torch.rand(2, 17), GROUP, ridge=0.1, covariance=covariance)
        .isfinite()
        .all()
    )


def test_a_covariance_that_is_singular_but_for_rounding_is_refused():
    direction = torch.randn(17, 1)
    covariance = direction @ direction.T  # rank one
    with pytest.raises(ValueError, match="expected a covariance that can be inverted.*raise ridge"):
        estimators.gls(entries(), torch.rand(2, 17), GROUP, ridge=0.0, covariance=covariance)


def test_the_ridge_bounds_the_condition_whatever_the_covariance():
    """λ tr(Σ)/E is at least λ/E of the largest eigenvalue: a condition of at most E/λ +
    1."""
    direction = torch.randn(17, 1)
    made = estimators.gls(entries(), torch.rand(2, 17), GROUP, covariance=direction @ direction.T)
    assert bool(made.isfinite().all()) and float(made.abs().max()) < 100


def test_fewer_samples_than_entries_are_conditioned_by_ridge_and_shrinkage():
    made = estimators.gls(entries(), torch.rand(2, 17) + 0.1, GROUP)
    assert made.shape == (6, 2) and bool(made.isfinite().all())


def test_equal_clips_have_no_credit():
    made = estimators.gls(torch.ones(6, 17), torch.rand(2, 17) + 0.1, GROUP)
    assert torch.equal(made, torch.zeros(6, 2))


SPANS = segments.frame_spans(WAN, 2)
MEASURED = ["influence", "gls", "posterior"]


def moments(frames=17, n=2, steps=1):
    root = torch.rand(steps, n, frames, 3)
    return {"composite": root @ root.mT}


@pytest.mark.parametrize("estimator", MEASURED)
def test_credit_by_influence_that_was_not_measured(estimator):
    for given in (None, {}, {"flicker": moments()["composite"]}):
        with pytest.raises(
            ValueError,
            match=f"expected moments of 'composite' for {estimator} credit, got none: measure",
        ):
            credit.advantages(
                Score(torch.randn(6), entries()), GROUP, SPANS, estimator, moments=given
            )


@pytest.mark.parametrize("estimator", MEASURED)
@pytest.mark.parametrize(
    "given", [moments(16), moments(n=3), moments(5)], ids=["frames", "segments", "latents"]
)
def test_credit_by_the_influence_of_another_clip(estimator, given):
    of = r"expected moments (\(K, S, F, F\) of 17 frames|of 2 segments) for 'composite', got"
    with pytest.raises(ValueError, match=of):
        credit.advantages(Score(torch.randn(6), entries()), GROUP, SPANS, estimator, moments=given)


@pytest.mark.parametrize("estimator", MEASURED)
def test_credit_by_an_influence_that_is_not_finite(estimator):
    given = moments()
    given["composite"][0, 1, 4, 4] = NAN
    with pytest.raises(ValueError, match="expected a finite influence"):
        credit.advantages(Score(torch.randn(6), entries()), GROUP, SPANS, estimator, moments=given)


def test_a_way_that_is_not_there():
    with pytest.raises(
        ValueError, match="expected credit to be one of whole, segment, .* got 'local'"
    ):
        credit.advantages(Score(torch.randn(6), entries()), GROUP, SPANS, "local")


@pytest.mark.parametrize("estimator", ["whole", "segment", *MEASURED])
def test_one_segment_is_the_whole_clip_whatever_the_estimator(estimator):
    """An image, or S = 1: nothing is asked of the curve, or of a measured influence."""
    value = torch.randn(6)
    made = credit.advantages(Score(value, value[:, None]), GROUP, [(0, 1)], estimator)
    assert torch.equal(made, credit.normalise(value, GROUP)[:, None])


# --- Groups


def test_a_group_of_one_has_no_credit():
    group = torch.tensor([0, 0, 0, 1])
    value, curve = torch.randn(4), entries(4)
    assert float(credit.normalise(value, group)[3]) == 0
    assert torch.equal(credit.normalise(curve, group)[3], torch.zeros(17))
    assert torch.equal(estimators.whole_clip(value, group, 2)[3], torch.zeros(2))
    for estimator in WEIGHTED:
        made = estimator(curve, torch.rand(2, 17) + 0.1, group)
        assert torch.equal(made[3].abs(), torch.zeros(2)) and bool((made[:3] != 0).all())


def test_groups_of_one_alone_have_no_covariance():
    with pytest.raises(
        ValueError,
        match="expected groups with two scored samples or more, got 6 samples in 6 groups",
    ):
        estimators.gls(entries(), torch.rand(2, 17) + 0.1, torch.arange(6))
    assert torch.equal(credit.normalise(entries(), torch.arange(6)), torch.zeros(6, 17))


def test_a_group_that_is_all_unscored_has_no_credit_and_moves_no_other():
    value, curve, influence = torch.randn(6), entries(), torch.rand(2, 17) + 0.1
    value[3:], curve[3:] = NAN, NAN
    for of in (
        lambda keep: credit.normalise(value[keep], GROUP[keep]),
        lambda keep: estimators.whole_clip(value[keep], GROUP[keep], 2),
        *(lambda keep, e=e: e(curve[keep], influence, GROUP[keep]) for e in WEIGHTED),
    ):
        made = of(slice(0, 6))
        assert bool((made[3:] == 0).all()) and torch.allclose(made[:3], of(slice(0, 3)), atol=1e-6)


def test_a_round_that_is_all_unscored():
    assert torch.equal(credit.normalise(torch.full((6,), NAN), GROUP), torch.zeros(6))
    made = credited(
        GRPO(segments=2), Score(torch.full((6,), NAN), torch.full((6, 17), NAN)), GROUP, PLAN, WAN
    )
    assert torch.equal(made, torch.zeros(6, 2))
    with pytest.raises(
        ValueError, match="expected groups with two scored samples or more, got 0 samples"
    ):
        estimators.gls(torch.full((6, 17), NAN), torch.rand(2, 17) + 0.1, GROUP)


@pytest.mark.parametrize("of", [credit.normalise, estimators.leave_one_out])
def test_groups_of_other_samples(of):
    with pytest.raises(ValueError, match="expected 6 group numbers, one a sample, got 4"):
        of(torch.randn(6), GROUP[:4])


# --- Shapes that do not match


@pytest.mark.parametrize(
    "ratio, advantage",
    [
        ((3, 3), (3,)),
        ((4, 2), (4,)),
        ((4, 1), (4, 2)),
        ((4, 2), (4, 1)),
        ((4,), (4, 2)),
        ((4, 2), (1, 2)),
    ],
)
def test_advantages_of_another_shape_than_the_ratios(ratio, advantage):
    shapes = (
        rf"expected advantages of the ratios' shape \({', '.join(map(str, ratio))},?\), "
        rf"got \({advantage[0]}"
    )
    with pytest.raises(ValueError, match=shapes):
        clipped(torch.ones(ratio), torch.ones(advantage), 0.1)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3)])
def test_advantages_of_the_ratios_shape(shape):
    assert clipped(torch.ones(shape), torch.ones(shape), 0.1).shape == shape


@pytest.mark.parametrize(
    "whole, local", [((1,), (4, 2)), ((3,), (4, 2)), ((4, 2), (4, 2)), ((4,), (4,))]
)
def test_a_blend_of_other_samples(whole, local):
    with pytest.raises(
        ValueError, match=r"expected whole-clip advantages \(B,\) and segments' \(B, S\), got"
    ):
        credit.blend(torch.randn(whole), torch.randn(local), 0.5)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, NAN])
def test_a_blend_outside_of_its_ends(alpha):
    with pytest.raises(ValueError, match="α in"):
        credit.blend(torch.zeros(2), torch.zeros(2, 2), alpha)

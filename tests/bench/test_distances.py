"""Distances between sets: published formulas by other means, freed of bias, with intervals
that hold the truth."""

import math

import numpy as np
import pytest
from scipy import linalg

from vidrl import plugin
from vidrl.benchmarks.base import Benchmark, assign_blocks
from vidrl.benchmarks.frechet import Frechet
from vidrl.benchmarks.kernel import Kernel

NAMES = plugin.names("benchmarks")


def sets(n=80, m=90, D=6, shift=0.5, scale=1.5, seed=0):
    draw = np.random.default_rng(seed)
    mix = draw.normal(0, 1, (D, D)) / math.sqrt(D)
    return draw.normal(0, 1, (n, D)) @ mix, shift + scale * draw.normal(0, 1, (m, D)) @ mix


def by_sqrtm(x, y):
    shift, S1, S2 = x.mean(0) - y.mean(0), np.cov(x.T), np.cov(y.T)
    return shift @ shift + np.trace(S1 + S2 - 2 * linalg.sqrtm(S1 @ S2).real)


def by_loops(x, y, k, unbiased):
    def mean(a, b, same):
        pairs = [
            k(u, v)
            for i, u in enumerate(a)
            for j, v in enumerate(b)
            if not (same and unbiased and i == j)
        ]
        return sum(pairs) / len(pairs)

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


# --- the contract of every plug-in


@pytest.mark.parametrize("name", NAMES)
def test_every_distance_is_symmetric_and_knows_its_place(name):
    one, (x, y) = plugin.load("benchmarks", name), sets(m=80)
    there, back = one.measure(x, y), one.measure(y, x)
    assert there.value == pytest.approx(back.value) and there.unbiased == pytest.approx(
        back.unbiased, rel=1e-6
    )
    assert there.n == (80, 80) and there.low < there.unbiased < there.high
    far, near, alike = (
        one.measure(*pair).unbiased for pair in ((x, x + 5), (x, x + 1), sets(shift=0, scale=1))
    )
    assert far > near > alike


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_clips_does_not_change_the_published_number(name):
    one, (x, y) = plugin.load("benchmarks", name), sets()
    assert one.biased(x[::-1], y) == pytest.approx(one.biased(x, y))


@pytest.mark.parametrize("name", NAMES)
def test_equal_sets_are_at_distance_zero(name):
    x, _ = sets()
    assert plugin.load("benchmarks", name).biased(x, x) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_few_clips_are_refused_and_more_of_them_marked(name):
    one, (x, y) = plugin.load("benchmarks", name), sets()
    refused = one.measure(x[:9], y)
    assert (
        math.isnan(refused.value)
        and math.isnan(refused.unbiased)
        and "at least 10" in refused.notes[0]
    )
    marked = one.measure(x[:20], y)
    assert math.isfinite(marked.value) and f"fewer than {one.least} clips: 20" in marked.notes


@pytest.mark.parametrize("name", NAMES)
def test_few_prompts_have_no_interval(name):
    one, (x, y) = plugin.load("benchmarks", name), sets(40, 40)
    found = one.measure(x, y, ([i % 3 for i in range(40)], list(range(40))))
    assert (
        math.isfinite(found.value)
        and math.isnan(found.low)
        and "3 prompts in a set" in found.notes[-1]
    )


@pytest.mark.parametrize("name", NAMES)
def test_features_that_do_not_fit_are_refused(name):
    one, (x, y) = plugin.load("benchmarks", name), sets()
    with pytest.raises(ValueError, match=r"\(N, D\) and \(N', D\), got \(80, 6\) and \(90, 5\)"):
        one.measure(x, y[:, :5])
    with pytest.raises(ValueError, match="finite features"):
        one.measure(x, np.where(y == y.max(), np.nan, y))


@pytest.mark.parametrize("name", NAMES)
def test_more_clips_do_not_move_the_unbiased_distance(name):
    one = plugin.load("benchmarks", name)
    few = [one.measure(*sets(30, 30, seed=s)) for s in range(40)]
    many = [one.measure(*sets(300, 300, seed=s)) for s in range(40)]
    gap = [f.unbiased - m.unbiased for f, m in zip(few, many)]
    assert abs(np.mean(gap)) < 3 * np.std(gap) / math.sqrt(40)
    bias = [f.value - m.value for f, m in zip(few, many)]
    assert np.mean(bias) > 3 * np.std(bias) / math.sqrt(40)


# --- Fréchet


@pytest.mark.parametrize(("n", "D"), [(200, 8), (9, 8), (60, 40)])
def test_frechet_is_the_formula_with_scipys_square_root(n, D):
    x, y = sets(n, n + 7, D)
    assert Frechet().biased(x, y) == pytest.approx(by_sqrtm(x, y), rel=1e-6)


def test_frechet_of_fewer_clips_than_features_is_that_of_the_space_they_span():
    x, y = sets(12, 15, 6)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(50, 50)))
    wide = [np.pad(side, ((0, 0), (0, 44))) @ rotation for side in (x, y)]
    assert Frechet().biased(*wide) == pytest.approx(by_sqrtm(x, y), rel=1e-6)
    refused = Frechet().measure(*wide)
    assert math.isnan(refused.value) and "12 clips of 50 features" in refused.notes[0]
    assert "at least 51 are needed; the kernel distance" in refused.notes[0]
    assert math.isfinite(Kernel().measure(*wide).low)


@pytest.mark.parametrize(
    ("n", "value", "ends"),
    [(20, False, False), (21, True, False), (39, True, False), (40, True, True)],
)
def test_the_fewest_clips_of_frechet_follow_the_features(n, value, ends):
    found = Frechet().measure(*sets(n, 90, 20))
    assert math.isfinite(found.value) == value and math.isfinite(found.low) == ends


@pytest.mark.slow
@pytest.mark.parametrize("spectrum", ["flat", "1/k"])
@pytest.mark.parametrize(("D", "times"), [(16, 2), (16, 5), (48, 2)])
def test_the_interval_holds_from_twice_as_many_clips_as_features_on(spectrum, D, times):
    """Two normal sets a shift apart, whose distance is the shift's square."""
    draw, runs = np.random.default_rng(0), 120
    scale = np.ones(D) if spectrum == "flat" else 1 / np.sqrt(1 + np.arange(D))
    shift, hits, given = np.where(np.arange(D) < 10, 0.5, 0.0) * scale, 0, 0
    for _ in range(runs):
        x, y = (
            draw.normal(size=(times * D, D)) * scale,
            draw.normal(size=(times * D, D)) * scale + shift,
        )
        found = Frechet().measure(x, y)
        given, hits = (
            given + math.isfinite(found.low),
            hits + (found.low <= shift @ shift <= found.high),
        )
    assert given >= 0.95 * runs and hits >= 0.90 * given


@pytest.mark.parametrize("name", NAMES)
def test_which_of_two_sets_is_nearer_to_a_third(name):
    """The difference of the two distances, with an interval narrower than those of the
    distances apart."""
    one, draw = plugin.load("benchmarks", name), np.random.default_rng(0)
    real = draw.normal(size=(100, 3))
    first, second = (real + gap + 0.2 * draw.normal(size=(100, 3)) for gap in (1.0, 0.5))
    groups = (range(100), range(100), range(100))
    found = one.nearer(first, second, real, groups)
    apart = [one.measure(side, real, groups[:2]) for side in (first, second)]
    assert found.difference == pytest.approx(apart[0].unbiased - apart[1].unbiased, rel=1e-6)
    assert found.low > 0 and found.high - found.low < sum(side.high - side.low for side in apart)
    back = one.nearer(second, first, real, groups)
    assert back.difference == pytest.approx(-found.difference) and back.low == pytest.approx(
        -found.high
    )
    wide = one.nearer(first, second, real, groups, level=0.99)
    assert wide.low < found.low and wide.high > found.high
    assert math.isnan(one.nearer(first[:5], second, real).low)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shared", [True, False])
def test_two_equal_models_are_not_told_apart_in_more_than_the_level(name, shared):
    """100 draws of two models of one distribution, with prompts in common with the real
    clips, and without."""
    one, wrong = plugin.load("benchmarks", name), 0
    for seed in range(100):
        draw = np.random.default_rng(seed)
        prompts = draw.normal(size=(60, 3)) if shared else np.zeros((60, 3))
        real, first, second = (prompts + draw.normal(size=(60, 3)) for _ in range(3))
        found = one.nearer(first, second, real, (range(60),) * 3 if shared else None)
        wrong += not found.low <= 0 <= found.high
    assert wrong <= 12  # binomial of 100 at 5 %: more in 0.4 %


def test_frechet_by_hand():
    x = np.array([[0.0], [2.0]] * 5)  # variance 10 / 9
    assert Frechet().biased(x, 3 * x + 1) == pytest.approx(3**2 + 10 / 9 * (3 - 1) ** 2)


def test_what_does_not_fall_as_one_by_n_has_no_interval():
    draw, truth = np.random.default_rng(0), 64 * (0.2**2 + 0.3**2)
    x, y = draw.normal(0, 1, (300, 64)), draw.normal(0.2, 1.3, (300, 64))

    class OfAnyNumber(Frechet):
        def fewest_for(self, D):
            return 10, 10

    few, many = OfAnyNumber().measure(x[:48], y[:48]), Frechet().measure(x, y)
    assert (
        math.isnan(few.low)
        and math.isnan(few.unbiased)
        and "does not fall as 1 / N" in few.notes[-1]
    )
    assert many.low < truth < many.high < few.value


# --- kernel


@pytest.mark.parametrize(("degree", "coef"), [(3, 1.0), (2, 0.0)])
def test_kernel_is_the_formula_of_a_loop(degree, coef):
    x, y = sets(12, 15, 4)
    one, k = Kernel(degree, coef), lambda u, v: (u @ v / 4 + coef) ** degree
    assert one.biased(x, y) == pytest.approx(by_loops(x, y, k, False))
    assert one.measure(x, y).unbiased == pytest.approx(by_loops(x, y, k, True))


def test_kernel_has_the_numbers_of_jedis_own_example():
    a, b = (
        np.arange(1.0, 10).reshape(3, 3),
        np.array([[7, 6, 5], [4, 3, 2], [1, 1, 8], [0, 2, 5.0]]),
    )
    assert Kernel(2, 0.0).biased(a, b) == pytest.approx(270.7, abs=0.05)
    assert Kernel(3, 1.0).biased(a, b) == pytest.approx(
        Kernel(3, 1.0, times=100).biased(a, b) / 100
    )


def test_leaving_blocks_out_by_sums_is_leaving_them_out():
    x, y = sets(30, 35, 4)
    parts = assign_blocks(([i // 3 for i in range(30)], [i // 2 for i in range(35)]), most=7)
    whole, left = Kernel().statistics(x, y, parts)
    slowly = Benchmark.statistics(Kernel(), x, y, parts)
    assert whole == pytest.approx(slowly[0]) and left == pytest.approx(slowly[1])


def test_no_degree_is_no_kernel():
    with pytest.raises(ValueError, match="1 or more, got 0"):
        Kernel(degree=0)


# --- intervals


def test_clips_of_one_prompt_are_not_taken_for_independent():
    """Twice the same clips are no more clips: neither a narrower interval nor another
    unbiased distance."""
    x, y = sets(80, 80)
    once = Kernel().measure(x, y, (range(80), range(80, 160)))
    twice = Kernel().measure(
        np.repeat(x, 2, 0),
        np.repeat(y, 2, 0),
        (np.repeat(range(80), 2).tolist(), np.repeat(range(80, 160), 2).tolist()),
    )
    assert twice.high - twice.low == pytest.approx(once.high - once.low, rel=0.1)
    assert twice.unbiased == pytest.approx(once.unbiased, rel=0.02)


def test_prompts_in_common_are_left_out_of_both_sets_at_once():
    x = np.random.default_rng(0).normal(size=(60, 3))
    y = x + 0.5 + 0.01 * np.random.default_rng(1).normal(size=(60, 3))
    paired = Frechet().measure(x, y, (range(60), range(60)))
    apart = Frechet().measure(x, np.random.default_rng(2).permutation(y))
    assert paired.high - paired.low < 0.5 * (apart.high - apart.low)


@pytest.mark.parametrize("name", NAMES)
def test_sets_made_from_the_same_prompts_are_not_nearer_than_they_are(name):
    """Each clip of the second set resembles one of the first: pairs of them, taken for
    independent, would lie."""
    gaps, one = [], plugin.load("benchmarks", name)
    for seed in range(40):
        draw = np.random.default_rng(seed)
        x = draw.normal(0, 1, (40, 3))
        # the same distribution: the truth is 0
        y = 0.9 * x + math.sqrt(1 - 0.9**2) * draw.normal(0, 1, (40, 3))
        gaps.append(one.measure(x, y, (range(40), range(40))).unbiased)
    assert abs(np.mean(gaps)) < 3 * np.std(gaps) / math.sqrt(40)


@pytest.mark.slow
@pytest.mark.parametrize("m", [1, 4])
def test_intervals_hold_the_truth(m):
    draw, hits = np.random.default_rng(0), {"frechet": 0, "kernel": 0}
    shift, scale, D, G, runs = 0.3, 1.3, 6, 60, 400
    truth = {"frechet": D * (shift**2 + (scale - 1) ** 2)}
    big = draw.normal(0, 1, (8000, D)), shift + scale * draw.normal(0, 1, (8000, D))
    truth["kernel"] = Kernel().unbiased(*big)

    def clips():
        both = np.repeat(draw.normal(0, 1, (G, D)), m, 0) + draw.normal(0, 1, (G * m, D))
        return math.sqrt(0.5) * both

    groups = np.repeat(range(G), m).tolist(), np.repeat(range(G, 2 * G), m).tolist()
    for _ in range(runs):
        x, y = clips(), shift + scale * clips()
        for name in hits:
            found = plugin.load("benchmarks", name).measure(x, y, groups)
            hits[name] += found.low <= truth[name] <= found.high
    assert all(0.90 <= hit / runs <= 0.99 for hit in hits.values()), hits

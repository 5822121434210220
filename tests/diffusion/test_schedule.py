"""Which steps draw noise, and how much each counts."""

from collections import Counter
from math import cos, pi, sin

import pytest
import torch
from toys import experience

from vidrl.algorithms.grpo import GRPO
from vidrl.backbones.toy import Toy
from vidrl.diffusion import transition
from vidrl.diffusion.path import flow
from vidrl.diffusion.schedule import (
    WINDOWS,
    may_draw,
    segment_fractions,
    sensitivity,
    step_weights,
    stochastic_steps,
    window_start,
)
from vidrl.diffusion.segments import borders
from vidrl.training.rollout import draws, sample


def shifted(shift, n=20):
    t = torch.linspace(1, 0, n + 1, dtype=torch.float64)
    return (shift * t / (1 + (shift - 1) * t)).tolist()


def published(sampler, t, s, eta, second):
    """|∂mean/∂v|/std from the published means: of the SDEs √Δ/g + g√Δ (1 − t)/(2t); of cps
    by its coefficients."""
    d = t - s
    if sampler == "cps":
        angle = eta * pi / 2
        return (-(1 - s) * t + s * cos(angle) * (1 - t)).abs() / (s * sin(angle))
    level = torch.where(t >= 1, second, t)
    g = eta * (t / (1 - level)).sqrt() if sampler == "flow_sde" else torch.full_like(t, eta)
    return d.sqrt() / g + g * d.sqrt() * (1 - t) / (2 * t)


@pytest.mark.parametrize("sampler, eta", [("flow_sde", 0.7), ("dance_sde", 0.3), ("cps", 0.7)])
@pytest.mark.parametrize("shift", [1, 3, 5])
def test_the_sensitivity_is_the_published_one(sampler, eta, shift):
    at = torch.tensor(shifted(shift), dtype=torch.float64)
    t, s = at[:-2], at[1:-1]
    ours = sensitivity(flow(), sampler, t, s, eta, at[1])
    assert torch.allclose(ours, published(sampler, t, s, eta, at[1]), rtol=1e-9)


def test_it_is_the_gradient_of_the_mean():
    raw = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    step = transition.step(
        flow(), "dance_sde", raw, torch.randn(1, dtype=torch.float64), 0.6, 0.5, 0.3
    )
    (slope,) = torch.autograd.grad(step.mean.sum(), raw)
    t, s = torch.tensor([0.6, 0.5], dtype=torch.float64)
    assert torch.allclose(slope.abs() / step.std, sensitivity(flow(), "dance_sde", t, s, 0.3))


@pytest.mark.parametrize(
    "sampler, eta, spread", [("flow_sde", 0.7, 62), ("cps", 0.7, 101), ("dance_sde", 0.3, 4.1)]
)
def test_at_shift_5_early_steps_get_far_less(sampler, eta, spread):
    """The spread over 20 steps that is known of these samplers, within a tenth."""
    times = shifted(5)
    weights = step_weights(flow(), sampler, times, range(19), eta, "rectified")
    assert weights.mean() == pytest.approx(1) and float(
        weights.max() / weights.min()
    ) == pytest.approx(spread, rel=0.1)
    assert weights[0] > weights[-1]


def test_equalised_steps_count_alike():
    times = shifted(3)
    at = torch.tensor(times, dtype=torch.float64)
    found = sensitivity(flow(), "flow_sde", at[:-2], at[1:-1], 0.7, at[1])
    each = step_weights(flow(), "flow_sde", times, range(19), 0.7, "rectified") * found
    assert torch.allclose(each, each[0].expand(19))


def test_the_window_of_every_schedule():
    draw = torch.Generator().manual_seed(0)
    seen = {how: [window_start(round, 4, 3, how, draw) for round in range(400)] for how in WINDOWS}
    assert seen["progressive"][:13] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 0]
    assert seen["decay"][:9] == [0, 0, 0, 1, 1, 2, 2, 3, 0]
    assert seen["exp_decay"][:7] == [0, 0, 0, 1, 2, 3, 0]
    counts = Counter(seen["random"])
    assert set(counts) == {0, 1, 2, 3} and max(counts.values()) < 140
    with pytest.raises(ValueError, match="expected a schedule out of progressive.*'linear'"):
        window_start(0, 4, 3, "linear", draw)


@pytest.mark.parametrize("segments", [1, 2, 3, 5])
def test_segment_fractions_are_lengths(segments):
    made = segment_fractions(5, segments)
    assert made.mean() == pytest.approx(1)
    lengths = torch.tensor([b - a for a, b in borders(5, segments)], dtype=torch.float64)
    assert torch.allclose(made * 5 / segments, lengths, rtol=1e-14)


def test_the_algorithm_weighs_by_both():
    backbone, draw = Toy(), torch.Generator().manual_seed(0)
    algorithm = GRPO(
        segments=2, steps=6, equalise=True, window=3, window_schedule="random", updates=1
    )
    algorithm.backbone = backbone
    plan = algorithm.plan(backbone, 0, draw)
    expected = step_weights(backbone.path, "dance_sde", plan.times, range(5), 0.3, "rectified")
    expected = expected[list(plan.keep)]
    assert torch.allclose(algorithm.step_weights(plan), expected) and len(plan.keep) == 3
    rollout = sample(backbone, backbone.encode(["a"]), draws(0, [("a",)]), plan)
    (batch,) = algorithm.minibatches(experience(rollout, torch.ones(1, 2)))
    assert torch.allclose(
        batch["advantage"].sort(0).values.double(),
        expected.sort().values[:, None] * torch.tensor([4 / 3, 2 / 3]),
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    "given", [{"window": 1}, {"train_steps": 2}, {"window": 3, "window_schedule": "random"}]
)
def test_an_equalised_step_weighs_the_same_in_every_round(given):
    backbone, algorithm = Toy(), GRPO(sampler="flow_sde", eta=0.7, steps=8, equalise=True, **given)
    algorithm.backbone = backbone
    found, steps = [], set()
    for round in range(12):
        plan = algorithm.plan(backbone, round, torch.Generator().manual_seed(round))
        at = torch.tensor(plan.times, dtype=torch.float64)
        keep = torch.tensor(plan.keep)
        size = sensitivity(backbone.path, "flow_sde", at[keep], at[keep + 1], 0.7, plan.times[1])
        found.append(algorithm.step_weights(plan) * size)
        steps |= set(plan.keep)
    assert len(steps) > 4 and torch.allclose(
        torch.cat(found), found[0][0].expand(len(torch.cat(found))), rtol=1e-5
    )


@pytest.mark.parametrize("how", WINDOWS)
def test_a_window_finds_steps_to_draw_in_whatever_their_lengths(how):
    class Shifted(Toy):
        def times(self, steps):
            return [5 * t / (1 + 4 * t) for t in super().times(steps)]

    algorithm = GRPO(steps=30, window=2, window_schedule=how)
    plans = [algorithm.plan(Shifted(), r, torch.Generator().manual_seed(r)) for r in range(40)]
    assert all(len(plan.stochastic) == 2 for plan in plans)
    with pytest.raises(ValueError, match="take two steps or more"):
        GRPO(steps=1).plan(Toy(), 0, torch.Generator())
    with pytest.raises(ValueError, match="expected window, train_steps"):
        GRPO(window=-1)


# --- steps that may draw noise


def diffusers_grid(shift, steps):
    """FlowMatchEulerDiscreteScheduler's sigmas: shifted, spread evenly down to the
    smallest, shifted again, then 0."""
    moved = lambda t: shift * t / (1 + (shift - 1) * t)  # noqa: E731
    even = torch.linspace(1, float(moved(torch.tensor(1e-3))), steps, dtype=torch.float64)
    return [*moved(even).tolist(), 0.0]


def noise_after(sampler, t, s, eta, second):
    """(fresh, kept) noise of a step on the straight path, from the published formulas."""
    if sampler == "cps":
        return s * sin(eta * pi / 2), s * cos(eta * pi / 2)
    if sampler == "ddim":
        std = eta * s / t * max(t**2 - ((1 - t) / (1 - s)) ** 2 * s**2, 0) ** 0.5
        return std, max(s**2 - std**2, 0) ** 0.5
    std = (
        eta
        * (t - s) ** 0.5
        * ((t / (1 - (second if t == 1 else t))) ** 0.5 if sampler == "flow_sde" else 1)
    )
    return std, s - std**2 / (2 * t)


GRIDS = [("diffusers", diffusers_grid), ("even", lambda shift, steps: shifted(shift, steps))]
NOISES = [
    ("flow_sde", 0.3),
    ("flow_sde", 0.7),
    ("flow_sde", 1.0),
    ("dance_sde", 0.1),
    ("dance_sde", 0.3),
    ("dance_sde", 1.0),
    ("cps", 0.3),
    ("cps", 0.7),
    ("cps", 1.0),
    ("ddim", 0.5),
    ("ddim", 1.0),
]


@pytest.mark.parametrize("grid", [grid for _, grid in GRIDS], ids=[name for name, _ in GRIDS])
@pytest.mark.parametrize("sampler, eta", NOISES)
def test_no_step_draws_noise_that_the_later_steps_cannot_take_away(sampler, eta, grid):
    for shift in (1, 3, 5, 8):
        for steps in (10, 16, 20, 30, 50):
            times = grid(shift, steps)
            chosen = stochastic_steps(flow(), sampler, times, eta)
            for k in chosen:
                fresh, kept = noise_after(sampler, times[k], times[k + 1], eta, times[1])
                assert kept >= 0 and fresh > 0 and times[k] <= 4 * times[k + 1]
            assert steps - 1 not in chosen and len(chosen) >= steps // 3


@pytest.mark.parametrize("shift", [1, 3, 5])
@pytest.mark.parametrize(
    "sampler, eta", [("flow_sde", 0.7), ("dance_sde", 0.3), ("cps", 0.7), ("ddim", 1.0)]
)
@pytest.mark.parametrize("steps", [10, 16, 20])
def test_all_steps_but_the_two_at_the_clean_end_draw_on_diffusers_grids(sampler, eta, shift, steps):
    assert stochastic_steps(flow(), sampler, diffusers_grid(shift, steps), eta) == tuple(
        range(steps - 2)
    )


def test_the_wan_recipes_step_to_the_last_level_draws_nothing():
    """By hand: std 0.3 √(0.183 − 0.0089) = 0.125, 14 times the noise at its end; keep
    0.0089 − 0.125²/(2 · 0.183)."""
    times = diffusers_grid(3, 16)
    assert times[-3:] == pytest.approx([0.183, 0.0089, 0], abs=1e-4)
    at = torch.tensor(times, dtype=torch.float64)
    std, keep = transition.coefficients(flow(), "dance_sde", at[14], at[15], 0.3, strict=False)
    assert float(std) == pytest.approx(0.1252, abs=1e-4) and float(keep) == pytest.approx(
        -0.0339, abs=1e-4
    )
    assert may_draw(flow(), "dance_sde", times, 0.3).tolist() == [True] * 14 + [False] * 2


def test_the_rule_by_hand():
    """dance_sde keeps s − η² (t − s)/(2t): 0.5 − η²/4 and 0.25 − η²/4 here."""
    times = [1.0, 0.5, 0.25, 0.0]
    assert may_draw(flow(), "dance_sde", times, 0.99).tolist() == [True, True, False]
    assert may_draw(flow(), "dance_sde", times, 1.01).tolist() == [True, False, False]
    assert may_draw(flow(), "dance_sde", times, 1.42).tolist() == [False, False, False]
    assert may_draw(flow(), "cps", [1.0, 0.25, 0.06, 0.015, 0.0], 0.5).tolist() == [
        True,
        False,
        True,
        False,
    ]


def test_short_steps_at_the_noisy_end_draw():
    """They decide the motion: at shift 5 the first of thirty steps is shorter than a
    hundredth."""
    times = shifted(5, 30)
    assert times[0] - times[1] < 0.01 and stochastic_steps(flow(), "flow_sde", times, 0.7)[:2] == (
        0,
        1,
    )


@pytest.mark.parametrize(
    "times, sampler, eta",
    [
        ([1.0, 0.001, 0.0], "flow_sde", 0.7),
        ([1.0, 0.0], "cps", 0.5),
        ([1.0, 0.5, 0.25, 0.0], "dance_sde", 3.0),
    ],
)
def test_no_step_that_may_draw_is_an_error_with_a_cure(times, sampler, eta):
    said = (
        f"expected a stochastic step, got none of {len(times) - 1} for {sampler} with eta "
        f"{eta} on the times 1, .*"
    )
    with pytest.raises(ValueError, match=said + "take two steps or more, or lower eta"):
        stochastic_steps(flow(), sampler, times, eta)


def test_steps_of_a_window_are_among_those_that_may_draw():
    class Diffusers(Toy):
        def times(self, steps):
            return diffusers_grid(1, steps)

    algorithm = GRPO(sampler="flow_sde", eta=0.7, steps=10, window=3)
    plans = [algorithm.plan(Diffusers(), r, torch.Generator()) for r in range(12)]
    assert [plan.stochastic[0] for plan in plans] == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]
    assert all(len(plan.stochastic) == 3 and max(plan.stochastic) <= 7 for plan in plans)

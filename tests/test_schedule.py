"""Which steps draw noise, and how much each counts."""

from collections import Counter
from math import cos, pi, sin

import pytest
import torch

from vidrl import transition
from vidrl.algorithms.grpo import GRPO
from vidrl.backbones.toy import Toy
from vidrl.path import flow
from vidrl.schedule import WINDOWS, equaliser, sensitivity, shares, stochastic_steps, window_start
from vidrl.segments import borders


def shifted(shift, n=20):
    t = torch.linspace(1, 0, n + 1, dtype=torch.float64)
    return (shift * t / (1 + (shift - 1) * t)).tolist()


def published(sampler, t, s, eta, second):
    """|∂mean/∂v|/std from the published means: of the SDEs √Δ/g + g√Δ (1 − t)/(2t); of cps by its coefficients."""
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
    step = transition.step(flow(), "dance_sde", raw, torch.randn(1, dtype=torch.float64), 0.6, 0.5, 0.3)
    (slope,) = torch.autograd.grad(step.mean.sum(), raw)
    t, s = torch.tensor([0.6, 0.5], dtype=torch.float64)
    assert torch.allclose(slope.abs() / step.std, sensitivity(flow(), "dance_sde", t, s, 0.3))


@pytest.mark.parametrize("sampler, eta, spread", [("flow_sde", 0.7, 62), ("cps", 0.7, 101), ("dance_sde", 0.3, 4.1)])
def test_at_shift_5_early_steps_get_far_less(sampler, eta, spread):
    """The spread over 20 steps that is known of these samplers, within a tenth."""
    times = shifted(5)
    weights = equaliser(flow(), sampler, times, range(19), eta)
    assert weights.mean() == pytest.approx(1) and float(weights.max() / weights.min()) == pytest.approx(spread, rel=0.1)
    assert weights[0] > weights[-1]


def test_equalised_steps_count_alike():
    times = shifted(3)
    at = torch.tensor(times, dtype=torch.float64)
    found = sensitivity(flow(), "flow_sde", at[:-2], at[1:-1], 0.7, at[1])
    each = equaliser(flow(), "flow_sde", times, range(19), 0.7) * found
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


def test_steps_of_a_window():
    times = [1.0, 0.8, 0.6, 0.4, 0.395, 0.0]
    assert stochastic_steps(times, 0, 0, 0.01) == (0, 1, 2) and stochastic_steps(times, 2, 1, 0.01) == (1, 2)


@pytest.mark.parametrize("segments", [1, 2, 3, 5])
def test_shares_are_lengths(segments):
    made = shares(5, segments)
    assert made.mean() == pytest.approx(1)
    assert torch.allclose(made * 5 / segments, torch.tensor([float(b - a) for a, b in borders(5, segments)]))


def test_the_algorithm_weighs_by_both():
    backbone, draw = Toy(), torch.Generator().manual_seed(0)
    algorithm = GRPO(segments=2, steps=6, equalise=True, window=3, window_schedule="random")
    plan = algorithm.plan(backbone, 0, draw)
    expected = equaliser(backbone.path, "dance_sde", plan.times, range(5), 0.3).float()[list(plan.keep)]
    assert torch.allclose(algorithm.weights, expected) and len(plan.keep) == 3
    assert algorithm.shares.tolist() == pytest.approx([4 / 3, 2 / 3])


@pytest.mark.parametrize("given", [{"window": 1}, {"train_steps": 2}, {"window": 3, "window_schedule": "random"}])
def test_an_equalised_step_weighs_the_same_in_every_round(given):
    backbone, algorithm = Toy(), GRPO(sampler="flow_sde", eta=0.7, steps=8, equalise=True, **given)
    found, steps = [], set()
    for round in range(12):
        plan = algorithm.plan(backbone, round, torch.Generator().manual_seed(round))
        at = torch.tensor(plan.times, dtype=torch.float64)
        keep = torch.tensor(plan.keep)
        size = sensitivity(backbone.path, "flow_sde", at[keep], at[keep + 1], 0.7, plan.times[1])
        found.append(algorithm.weights * size)
        steps |= set(plan.keep)
    assert len(steps) > 4 and torch.allclose(torch.cat(found), found[0][0].expand(len(torch.cat(found))), rtol=1e-5)


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

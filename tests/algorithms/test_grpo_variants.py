"""GRPO's published variants against their formulas, written down independently in
float64."""

import math

import pytest
import torch
from published import dance_sde, exact, kl, log_prob, played, ppo, same

from vidrl.algorithms.grpo import GRPO
from vidrl.backbones.toy import Toy
from vidrl.diffusion.path import discrete, flow
from vidrl.diffusion.schedule import sensitivity, step_weights

# the toy's latent frames of each segment
PARTS = {1: [slice(None)], 3: [slice(0, 1), slice(1, 2), slice(2, 3)]}
GUARD = {"ratio_norm": True, "step_weight": "inverse_length"}


class Warped(Toy):
    """The toy on the grid of flow shift 3, whose steps have uneven lengths."""

    def times(self, n):
        t = torch.linspace(1, 0, n + 1, dtype=torch.float64)
        return (3 * t / (1 + 2 * t)).tolist()


def warped():
    policy = exact()
    policy.backbone.times = lambda n: Warped.times(policy.backbone, n)
    return policy


@pytest.fixture(params=["flow_sde", "dance_sde"])
def sampler(request):
    eta = {"flow_sde": 0.7, "dance_sde": 0.3}[request.param]
    return {"sampler": request.param, "eta": eta, "steps": 6, "updates": 1}


@pytest.fixture
def uneven(monkeypatch):
    """The time grid of flow shift 3 on every toy."""
    monkeypatch.setattr(Toy, "times", Warped.times)


def drawn(algorithm, batch):
    """(t, s) of all steps that may draw noise, of a plan that keeps them all."""
    times = torch.tensor(batch.plan.times, dtype=torch.float64)
    at = torch.tensor(batch.plan.stochastic)
    return times[at], times[at + 1]


def advantage_of(made, batch, parts):
    """A of each row and segment without the weights of steps, from its place in the plan:
    what the variant weighs."""
    weight = made.algorithm.step_weights(batch.plan).double()
    times = torch.tensor(batch.plan.times, dtype=torch.float64)
    row = [batch.plan.keep.index(int((times - t).abs().argmin())) for t in batch["t"]]
    return batch["advantage"] / weight[row][:, None]


@pytest.mark.parametrize("segments", [1, 3])
def test_grpo_guard(sampler, segments, uneven):
    """verl-omni and flow_grpo: ratio = exp((Δ log p + mean (μ − μ_old)²/(2 s²)) s), the
    loss over dt."""
    made = played(GRPO(segments=segments, clip_range=1e-4, **GUARD, **sampler))
    (batch,) = made.batches
    new, old = made.step(batch), made.step(batch, "old")
    scale, dt, eps = new.std.flatten(), batch["t"] - batch["s"], 1e-4 * math.sqrt(segments)
    a, losses, moves = advantage_of(made, batch, segments), [], []
    for j, part in enumerate(PARTS[segments]):
        change = log_prob(batch["after"], new, part) - log_prob(batch["after"], old, part)
        ratio = torch.exp((change + kl(new, old, part)) * scale)
        noise = (batch["after"] - old.mean) / old.std  # the paper's form of it: exp(mean Δμ · ε)
        moves.append(((new.mean - old.mean) * noise)[:, :, part].mean((1, 2, 3, 4)).exp())
        assert torch.allclose(ratio, moves[-1], rtol=1e-9)
        losses.append(ppo(ratio, a[:, j], eps) / dt)
    t, s = drawn(made.algorithm, batch)
    published = torch.stack(losses).mean() / (1 / (t - s)).mean()
    loss = made.algorithm.loss(made.policy, batch)
    assert torch.allclose(loss.metrics["ratio"], torch.stack(moves, 1), rtol=1e-7)
    assert 0 < float(loss.metrics["clip_share"].mean()) <= 1
    same(loss.value, published, made.policy)


def test_the_normalised_ratio_has_no_bias(sampler):
    """E log ρ = −D < 0 for the plain ratio under the policy that sampled, and 0 for
    GRPO-Guard's: by fresh noise."""
    made = played(GRPO(segments=1, **GUARD, **sampler), moved=0.1)
    (batch,) = made.batches
    old, torch_noise = made.step(batch, "old"), torch.Generator().manual_seed(1)
    logs = {"plain": [], "guard": []}
    for _ in range(60):
        noise = torch.randn(batch["x"].shape, generator=torch_noise, dtype=torch.float64)
        batch["after"].copy_(old.mean + old.std * noise)
        batch["old"].copy_(log_prob(batch["after"], old)[:, None])
        step = made.algorithm.step(made.policy, batch)
        with torch.no_grad():
            away = made.algorithm.old_divergence(step, batch)
            logs["plain"].append(made.algorithm.ratio(step, batch).log() / away)
            logs["guard"].append(made.algorithm.normalised_ratio(step, batch).log() / away)
    plain, guard = (torch.stack(logs[name]) for name in ("plain", "guard"))
    error = float(plain.std() / math.sqrt(plain.numel()))
    assert abs(float(plain.mean()) + 1) < 4 * error and abs(float(guard.mean())) < 4 * error < 0.4


@pytest.mark.parametrize("segments", [1, 3])
def test_flow_dppo(sampler, segments):
    """verl-omni: −A ρ, and 0 where mean (μ − μ_old)²/(2 s²) is over δ and the ratio has
    gone A's way already."""
    made = played(GRPO(segments=segments, max_divergence=2e-4, **sampler))
    (batch,) = made.batches
    new, old, a = made.step(batch), made.step(batch, "old"), batch["advantage"]
    losses, blocked = [], []
    for j, part in enumerate(PARTS[segments]):
        ratio = torch.exp(log_prob(batch["after"], new, part) - log_prob(batch["after"], old, part))
        out = ((a[:, j] > 0) & (ratio > 1)) | ((a[:, j] < 0) & (ratio < 1))
        blocked.append((kl(new, old, part) > 2e-4) & out)
        losses.append(torch.where(blocked[-1], 0.0, -a[:, j] * ratio))
    loss = made.algorithm.loss(made.policy, batch)
    assert torch.equal(loss.metrics["clip_share"].bool(), torch.stack(blocked, 1))
    assert 0.1 < float(loss.metrics["clip_share"].mean()) < 0.9
    same(loss.value, torch.stack(losses).mean(), made.policy)


def test_flow_dppo_stops_nothing_within_its_trust_region(sampler):
    made = played(GRPO(segments=1, max_divergence=1e9, **sampler))
    (batch,) = made.batches
    ratio = torch.exp(
        log_prob(batch["after"], made.step(batch))
        - log_prob(batch["after"], made.step(batch, "old"))
    )
    same(
        made.algorithm.loss(made.policy, batch).value,
        (-batch["advantage"][:, 0] * ratio).mean(),
        made.policy,
    )


def test_flash_rectification_by_its_published_table():
    """Flash-GRPO's code holds 1/c of ten steps at flow shift 3 and 20 steps, g = σ_1 σ:
    here computed."""
    times = torch.tensor(Warped.times(Toy.tiny(), 20), dtype=torch.float64)
    t, s = times[:-1], times[1:]
    g, dt = times[1] * t, s - t
    c = torch.sqrt(-dt) / g + g * torch.sqrt(-dt) * (1 - t) / (2 * t)
    assert float(1 / c[0]) == pytest.approx(7.4770, rel=2e-3) and float(1 / c[9]) == pytest.approx(
        3.7754, rel=2e-3
    )


@pytest.mark.parametrize("window", [0, 1])
def test_flash_grpo(sampler, window, uneven):
    """L = mean max(−w A ρ, −w A clip(ρ)), w = (1/c)/mean(1/c), c = √(−dt)/g + g √(−dt) (1 −
    σ)/(2 σ)."""
    # 0: the weights alone, of all steps
    moved = {"window": window, "window_schedule": "random"} if window else {}
    made = played(GRPO(**moved, equalise=True, clip_range=1e-4, **sampler))
    (batch,) = made.batches
    assert len(batch.plan.keep) == (window or len(batch.plan.stochastic)) and len(batch) == 8 * len(
        batch.plan.keep
    )
    ratio = torch.exp(
        log_prob(batch["after"], made.step(batch))
        - log_prob(batch["after"], made.step(batch, "old"))
    )

    def g(t):
        level = torch.where(t == 1, batch.plan.times[1], t)
        return (
            0.7 * torch.sqrt(t / (1 - level))
            if batch.plan.sampler == "flow_sde"
            else torch.full_like(t, 0.3)
        )

    def c(t, s):
        return torch.sqrt(t - s) / g(t) + g(t) * torch.sqrt(t - s) * (1 - t) / (2 * t)

    all_steps = GRPO(**sampler).plan(made.policy.backbone, 0, torch.Generator())
    times, at = (
        torch.tensor(all_steps.times, dtype=torch.float64),
        torch.tensor(all_steps.stochastic),
    )
    w = 1 / c(batch["t"], batch["s"]) / (1 / c(times[at], times[at + 1])).mean()
    a = advantage_of(made, batch, 1)[:, 0]
    # the eight clips' own, unweighted
    assert set((a * 7 / 4).round(decimals=4).abs().tolist()) == {0.5, 1.5, 2.5, 3.5}
    published = torch.maximum(
        -w * a * ratio, -w * a * torch.clamp(ratio, 1 - 1e-4, 1 + 1e-4)
    ).mean()
    same(made.algorithm.loss(made.policy, batch).value, published, made.policy)
    c_ours = sensitivity(
        made.policy.backbone.path,
        sampler["sampler"],
        batch["t"],
        batch["s"],
        sampler["eta"],
        batch.plan.times[1],
    )
    assert torch.allclose(c_ours, c(batch["t"], batch["s"]), rtol=1e-9)


def test_tempflow_weights_rise_with_the_noise_of_the_step(uneven):
    """The paper normalises g √(−dt); its code multiplies by 2.25, whatever the schedule."""
    backbone, steps = Toy.tiny(), (0, 1, 2, 3, 4)
    times = torch.tensor(backbone.times(6), dtype=torch.float64)
    t, s = times[:5], times[1:6]
    g = 0.7 * torch.sqrt(t / (1 - torch.where(t == 1, times[1], t)))
    got = step_weights(backbone.path, "flow_sde", times.tolist(), steps, 0.7, "noise")
    assert torch.allclose(got, g * torch.sqrt(t - s) / (g * torch.sqrt(t - s)).mean(), rtol=1e-12)


def test_tempflow_one_noisy_step_behind_a_common_start(uneven):
    """All clips of a prompt are one until the step, whose noise alone tells them apart; the
    others draw none."""
    algorithm = GRPO(
        sampler="flow_sde",
        eta=0.7,
        steps=6,
        window=1,
        same_start=True,
        step_weight="noise",
        updates=1,
    )
    made = played(algorithm, moved=0.0)
    (batch,) = made.batches
    order = batch["x"][:, 0, 0, 0, 0].sort().values.reshape(2, 4)
    assert (
        len(batch) == 8
        and torch.equal(order[:, :1].expand(-1, 4), order)
        and order[0, 0] != order[1, 0]
    )
    assert len(batch["after"][:, 0, 0, 0, 0].unique()) == 8
    assert batch.plan.stochastic == batch.plan.keep == (0,) and batch.plan.forks == ((0, 0),)


def test_dr_grpo_divides_by_no_std():
    from vidrl.rewards import Score

    algorithm = GRPO(scale="none")
    algorithm.setup(exact(), None, 3)
    value = torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0], dtype=torch.float64)
    group = torch.tensor([0, 0, 0, 1, 1, 1])
    plan = algorithm.plan(algorithm.backbone, 0, torch.Generator())
    got = algorithm.advantages(Score(value), group, ["a"] * 6, plan)[:, 0]
    assert got.tolist() == [-2.0, -1.0, 3.0, 0.0, 0.0, 0.0]


def test_the_weights_of_all_steps_that_may_be_drawn_have_mean_one(uneven):
    for option in (
        {"equalise": True},
        {"step_weight": "noise"},
        {"step_weight": "inverse_length"},
        {},
    ):
        algorithm = GRPO(steps=8, **option)
        algorithm.setup(exact(), None, 4)
        plan = algorithm.plan(algorithm.backbone, 0, torch.Generator())
        weights = algorithm.step_weights(plan)
        assert float(weights.mean()) == pytest.approx(1, abs=1e-6) and bool((weights > 0).all())
        assert bool((weights.diff().abs() > 0).any()) == bool(option)


def test_dance_is_flow_with_a_constant_noise():
    """rl_formulas 2.2: an identity of the two published steps, which the references above
    must have too."""
    from published import flow_sde

    torch.manual_seed(0)
    x, v = torch.randn(2, 4, 1, 1, 1, 1, dtype=torch.float64)
    t, s = torch.full((4,), 0.6, dtype=torch.float64), torch.full((4,), 0.5, dtype=torch.float64)
    one, other = (
        dance_sde(v, x, t, s, 0.9, 0.3),
        flow_sde(v, x, t, s, 0.9, 0.3 / math.sqrt(0.6 / 0.4)),
    )
    assert torch.allclose(one.mean, other.mean, rtol=1e-14) and torch.allclose(
        one.std, other.std, rtol=1e-14
    )


# --- options that cannot be


@pytest.mark.parametrize(
    "path, taken", [(flow(), "dance_sde"), (discrete(torch.linspace(0.98, 0.02, 20)), "ddim")]
)
def test_the_sampler_is_that_of_the_path_where_none_is_named(path, taken):
    backbone = Toy()
    backbone.path = path
    assert GRPO(steps=5).plan(backbone, 0, torch.Generator()).sampler == taken
    assert GRPO(steps=5, sampler="cps").plan(backbone, 0, torch.Generator()).sampler == "cps"


def test_a_named_sampler_that_the_path_does_not_have_is_refused_with_those_that_it_has():
    backbone = Toy()
    backbone.path = discrete(torch.linspace(0.98, 0.02, 20))
    with pytest.raises(
        ValueError, match="dance_sde needs the flow path .*, got a vp path: use ddim or cps"
    ):
        GRPO(steps=5, sampler="dance_sde").plan(backbone, 0, torch.Generator())


@pytest.mark.parametrize(
    "options, said",
    [
        ({"sampler": "ode"}, "stochastic sampler, out of ddim, cps, flow_sde, dance_sde, auto"),
        ({"sampler": "euler"}, "'euler'"),
        ({"ratio_norm": True, "max_divergence": 1e-5}, "0 with ratio_norm, .* got 1e-05"),
        ({"max_divergence": -1.0}, "max_divergence ≥ 0, .* got -1.0"),
        ({"equalise": True, "step_weight": "noise"}, "equalise or step_weight"),
        ({"kl": "time"}, "beta > 0 with kl = 'time', got beta = 0"),
        ({"beta": -0.1}, "beta = -0.1"),
        ({"clip_range": 0.0}, "clip_range = 0.0"),
        ({"steps": 0}, "steps = 0"),
        ({"window_stride": 0}, "window_stride = 0"),
        ({"window_schedule": "random"}, "window > 0 with .* got window = 0"),
        ({"window_stride": 25}, "got window = 0"),
    ],
)
def test_options_that_contradict_each_other_are_told_at_once(options, said):
    with pytest.raises(ValueError, match=said):
        GRPO(**options)


@pytest.mark.parametrize(
    "options, said",
    [
        (
            {"steps": 6, "window": 6},
            "window of at most 5, because 5 of 6 steps may draw noise, got 6: lower it",
        ),
        ({"steps": 6, "train_steps": 6}, "train_steps of at most 5, because 5 draw noise, got 6"),
        (
            {"steps": 6, "window": 2, "train_steps": 3},
            "train_steps of at most 2, because 2 draw noise, got 3",
        ),
        ({"segments": 4}, "1 to 3 segments"),
    ],
)
def test_steps_that_draw_no_noise_are_not_asked_for(options, said):
    """Before any sampling, when the algorithm is told of the model."""
    algorithm = GRPO(**options)
    with pytest.raises(ValueError, match=said):
        algorithm.setup(exact(), None, 4)
        from vidrl.diffusion.segments import frame_spans

        frame_spans(algorithm.backbone.frame_map, algorithm.segments)


def test_a_group_of_one_has_nobody_to_be_compared_with():
    with pytest.raises(ValueError, match="train.group: expected at least 2, got 1"):
        GRPO().check(None, 1)

"""GRPO by segments against hand-computed numbers, Flow-GRPO written down independently, and
a toy that must learn."""

import math

import pytest
import torch
from toys import Brightness, credited, experience, recipe, rows, summary

from vidrl.algorithms.grpo import GRPO, clipped
from vidrl.backbones.toy import Toy
from vidrl.diffusion.transition import SAMPLERS
from vidrl.rewards import Score
from vidrl.training import loop
from vidrl.training.policy import Policy
from vidrl.training.rollout import Rollout, draws, sample

SPANS = [(0, 1), (1, 5), (5, 9)]
GROUP = torch.tensor([0, 0, 0, 1, 1, 1])
NAN = math.nan


def toy(seed: int = 0) -> Policy:
    return Policy(Toy(seed=seed), full=True)


def rolled(algorithm: GRPO, policy: Policy, n: int = 6) -> Rollout:
    algorithm.setup(policy, Brightness(), n)
    plan = algorithm.plan(policy.backbone, 0, draws(0, [("plan",)])[0])
    return sample(
        policy,
        policy.backbone.encode([f"{i}" for i in range(n)]),
        draws(0, [(i,) for i in range(n)]),
        plan,
    )


def batches(algorithm: GRPO, rollout: Rollout, advantage: torch.Tensor) -> list:
    return list(algorithm.minibatches(experience(rollout, advantage, seed=3)))


def moved(policy: Policy, size: float = 0.02) -> None:
    torch.manual_seed(5)
    for p in policy.weights.values():
        p.data += size * torch.randn_like(p)


# --- the objective


def test_the_clipped_objective_by_hand():
    ratio = torch.tensor([0.5, 0.95, 1.0, 1.05, 1.5])
    # positive advantages gain nothing above 1 + ε, negative ones nothing below 1 − ε; the
    # worse of the two counts
    assert clipped(ratio, torch.tensor(2.0), 0.1).tolist() == pytest.approx(
        [-1.0, -1.9, -2.0, -2.1, -2.2]
    )
    assert clipped(ratio, torch.tensor(-2.0), 0.1).tolist() == pytest.approx(
        [1.8, 1.9, 2.0, 2.1, 3.0]
    )


def flow_grpo(raw, x, after, t, s, eta, second):
    """Mean log-density of Flow-GRPO's published sde_step_with_logprob, symbols as there."""
    sigma, dt = t.view(-1, 1, 1, 1, 1), (s - t).view(-1, 1, 1, 1, 1)
    std = torch.sqrt(sigma / (1 - torch.where(sigma == 1, torch.tensor(second), sigma))) * eta
    mean = x * (1 + std**2 / (2 * sigma) * dt) + raw * (1 + std**2 * (1 - sigma) / (2 * sigma)) * dt
    spread = std * torch.sqrt(-dt)
    log_prob = (
        -((after - mean) ** 2) / (2 * spread**2)
        - torch.log(spread)
        - math.log(math.sqrt(2 * math.pi))
    )
    return log_prob.mean(dim=(1, 2, 3, 4))


def test_one_segment_is_flow_grpo():
    algorithm, policy = (
        GRPO(sampler="flow_sde", eta=0.7, steps=5, segments=1, clip_range=1e-3, updates=1),
        toy(),
    )
    rollout, advantage = rolled(algorithm, policy), torch.linspace(-2, 2, 6)[:, None]
    (batch,) = batches(algorithm, rollout, advantage)
    raw = policy.predict(batch["x"], batch["t"].float(), batch.cond).detach()
    old = flow_grpo(
        raw,
        batch["x"],
        batch["after"],
        batch["t"].float(),
        batch["s"].float(),
        0.7,
        rollout.plan.times[1],
    )
    assert torch.allclose(old, batch["old"][:, 0], atol=1e-4)
    moved(policy)
    raw = policy.predict(batch["x"], batch["t"].float(), batch.cond)
    new = flow_grpo(
        raw,
        batch["x"],
        batch["after"],
        batch["t"].float(),
        batch["s"].float(),
        0.7,
        rollout.plan.times[1],
    )
    ratio, a = torch.exp(new - old), batch["advantage"][:, 0]
    published = torch.maximum(-a * ratio, -a * torch.clamp(ratio, 1 - 1e-3, 1 + 1e-3)).mean()
    ours = algorithm.loss(policy, batch)
    assert ours.value.item() == pytest.approx(published.item(), abs=1e-5)
    assert 0.05 < float(ours.metrics["clip_share"].mean()) < 1
    weights = list(policy.weights.values())
    theirs = torch.autograd.grad(published, weights)
    for mine, other in zip(torch.autograd.grad(ours.value, weights), theirs, strict=True):
        assert torch.allclose(mine, other, atol=1e-4 * float(other.abs().max()) + 1e-7)


@pytest.mark.parametrize("segments", [1, 2, 3])
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "ode"])
def test_the_ratio_is_one_before_the_first_update(sampler, segments):
    algorithm, policy = GRPO(sampler=sampler, eta=0.5, steps=6, segments=segments, updates=2), toy()
    rollout = rolled(algorithm, policy)
    assert rollout.log_density.shape == (6, len(rollout.plan.keep), segments)
    for batch in batches(algorithm, rollout, torch.ones(6, segments)):
        ratio = algorithm.loss(policy, batch).metrics["ratio"]
        assert ratio.shape == (len(batch), segments) and float((ratio - 1).abs().max()) <= 1e-5


@pytest.mark.parametrize("segments", [1, 3])
def test_the_clip_range_widens_with_the_root_of_segments(segments):
    """By hand: each old log-density is shifted so that the ratio is known."""
    algorithm, policy = GRPO(steps=4, segments=segments, clip_range=0.01, updates=1), toy()
    (batch,) = batches(algorithm, rolled(algorithm, policy), torch.ones(6, segments))
    limit = 0.01 * math.sqrt(segments)
    for ratio, share in ((1 + 0.9 * limit, 0.0), (1 + 1.1 * limit, 1.0), (1 - 1.1 * limit, 1.0)):
        batch["old"].copy_(algorithm_log(algorithm, policy, batch) - math.log(ratio))
        loss = algorithm.loss(policy, batch)
        assert float(loss.metrics["clip_share"].mean()) == share
        assert loss.value.item() == pytest.approx(-min(ratio, 1 + limit), abs=1e-5)


def algorithm_log(algorithm, policy, batch):
    from vidrl.diffusion import transition
    from vidrl.diffusion.segments import pool

    with torch.no_grad():
        return pool(
            transition.log_density(algorithm.step(policy, batch), batch["after"]),
            batch.plan.segments,
        )


def test_the_first_gradient_is_the_policy_gradient():
    """At ratio 1 the loss's gradient is that of −A log p, whatever the clip range."""
    from vidrl.diffusion import transition
    from vidrl.diffusion.segments import pool

    algorithm, policy = GRPO(steps=4, segments=3, updates=1), toy()
    (batch,) = batches(algorithm, rolled(algorithm, policy), torch.randn(6, 3))
    weights = list(policy.weights.values())
    ours = torch.autograd.grad(algorithm.loss(policy, batch).value, weights)
    log_p = pool(transition.log_density(algorithm.step(policy, batch), batch["after"]), 3)
    for a, b in zip(
        ours, torch.autograd.grad(-(batch["advantage"] * log_p).mean(), weights), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-5)


def test_kl_to_the_reference():
    plain, with_kl, policy = GRPO(steps=4, updates=1), GRPO(steps=4, updates=1, beta=0.5), toy()
    (batch,) = batches(plain, rolled(plain, policy), torch.zeros(6, 1))
    assert with_kl.loss(policy, batch).value.item() == 0  # it is the reference still
    moved(policy)
    live, step = {k: p.clone() for k, p in policy.weights.items()}, plain.step(policy, batch)
    reference = toy()
    kl = ((step.mean - plain.step(reference, batch).mean) ** 2 / (2 * step.std**2)).mean()
    loss = with_kl.loss(policy, batch)
    assert (loss.value - plain.loss(policy, batch).value).item() == pytest.approx(
        0.5 * kl.item(), rel=1e-4
    )
    assert plain.divergence(policy, batch).item() == pytest.approx(kl.item(), rel=1e-5)
    loss.value.backward()  # through the live weights, which are in place again
    assert all(torch.equal(p, live[k]) and p.grad is not None for k, p in policy.weights.items())


# --- which steps


def test_the_window_travels_over_all_steps_and_train_steps_are_drawn_of_it():
    backbone, algorithm = Toy.tiny(), GRPO(steps=6, window=2, window_stride=2)
    plans = [algorithm.plan(backbone, round, draws(0, [(round,)])[0]) for round in range(8)]
    assert [plan.stochastic for plan in plans] == [
        (0, 1),
        (0, 1),
        (1, 2),
        (1, 2),
        (2, 3),
        (2, 3),
        (3, 4),
        (3, 4),
    ]
    algorithm = GRPO(steps=6, train_steps=2)
    plans = [algorithm.plan(backbone, round, draws(0, [(round,)])[0]) for round in range(30)]
    assert all(plan.stochastic == (0, 1, 2, 3, 4) and len(set(plan.keep)) == 2 for plan in plans)
    assert set().union(*(plan.keep for plan in plans)) == {0, 1, 2, 3, 4}
    assert all(list(plan.keep) == sorted(plan.keep) for plan in plans)


def test_every_pair_is_used_once_and_weighs_the_same_in_its_update():
    algorithm, policy = GRPO(steps=6, updates=3), toy()
    rollout = rolled(algorithm, policy, 4)
    made = batches(algorithm, rollout, torch.arange(4.0)[:, None])
    seen = sorted(
        (float(a), float(t))
        for batch in made
        for a, t in zip(batch["advantage"], batch["t"], strict=True)
    )
    assert len(seen) == len(set(seen)) == 4 * 5
    assert all(batch.share * len(batch) == pytest.approx(1) for batch in made)


def test_processes_share_the_minibatches_of_one():
    algorithm, policy = GRPO(steps=4, updates=2), toy()
    rollout, advantage = rolled(algorithm, policy, 4), torch.arange(4.0)[:, None]
    whole = batches(algorithm, rollout, advantage)
    parts = []
    for index in (torch.tensor([0, 1]), torch.tensor([2, 3])):
        fields = (rollout.latents, rollout.before, rollout.after, rollout.log_density)
        part = Rollout(
            {k: v[index] for k, v in rollout.cond.items()},
            *(f[index] for f in fields),
            rollout.plan,
        )
        parts.append(list(algorithm.minibatches(experience(part, advantage, index, seed=3))))
    for one, halves in zip(whole, zip(*parts, strict=True), strict=True):
        assert sum(map(len, halves)) == len(one) and {h.share for h in halves} == {one.share}
        together = torch.cat([h["x"] for h in halves]).flatten(1).sum(1).sort().values
        assert torch.allclose(together, one["x"].flatten(1).sum(1).sort().values)


# --- credit


def plan_of(algorithm):
    return algorithm.plan(Toy.tiny(), 0, torch.Generator())


def scored(values, curve=None, **more) -> Score:
    value = torch.tensor(values)
    return Score(value, value[:, None].repeat(1, 9) if curve is None else curve, **more)


def test_whole_clip_credit_by_hand():
    algorithm = GRPO(alpha=0.0, segments=3)
    made = credited(
        algorithm, scored([1.0, 2.0, 3.0, 5.0, 5.0, 5.0]), GROUP, plan_of(algorithm), SPANS
    )
    one = 1 / (math.sqrt(2 / 3) + 1e-4)
    assert made.shape == (6, 3)
    assert torch.allclose(made[:, 0], torch.tensor([-one, 0, one, 0, 0, 0])) and torch.equal(
        made[:, 0], made[:, 2]
    )


def test_segment_credit_goes_where_the_curve_says():
    curve = torch.zeros(6, 9)
    curve[0, 5:] = 1.0  # better than its group in the last segment, and there alone
    algorithm = GRPO(alpha=1.0, segments=3)
    made = credited(
        algorithm, scored(curve.mean(1).tolist(), curve), GROUP, plan_of(algorithm), SPANS
    )
    assert made[0, 2] > 1 and made[1, 2] < 0 and torch.equal(made[:, :2], torch.zeros(6, 2))


@pytest.mark.parametrize("per_part", [False, True])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_an_unscored_sample_gets_nothing_and_moves_nobody(scale, per_part):
    """Its curve, and parts that were scored, are full of numbers that must not count."""
    algorithm = GRPO(alpha=0.5, segments=3, scale=scale, per_part=per_part)
    plan, torch_curve = plan_of(algorithm), torch.rand(6, 9)

    def credit(values, wild):
        curve = torch_curve.clone()
        curve[1] = wild
        part = Score(torch.tensor([1.0, wild, 3.0, 5.0, 4.0, 5.0]), curve)
        return credited(
            algorithm, Score(torch.tensor(values), curve, parts={"a": part}), GROUP, plan, SPANS
        )

    values = [1.0, NAN, 3.0, 5.0, 4.0, 5.0]
    made = credit(values, 100.0)
    assert torch.equal(made, credit(values, -7.0)) and torch.equal(made[1], torch.zeros(3))
    assert bool(made.isfinite().all()) and float(made[0].abs().max()) > 0


def test_a_group_with_one_scored_sample_gives_no_gradient():
    algorithm = GRPO(segments=3)
    made = credited(
        algorithm, scored([1.0, NAN, NAN, 5.0, 4.0, 5.0]), GROUP, plan_of(algorithm), SPANS
    )
    assert torch.equal(made[:3], torch.zeros(3, 3)) and float(made[4].abs().max()) > 0


def test_parts_are_normalised_before_they_are_weighed():
    """A part of a thousandfold scale counts by its weight alone."""
    small, large = torch.tensor([1.0, 2, 3, 1, 2, 3]), torch.tensor([3e3, 2e3, 1e3, 3e3, 2e3, 1e3])
    parts = {"small": Score(small), "large": Score(large)}
    whole = Score(3 * small + large, parts=parts, weights={"small": 3.0, "large": 1.0})
    algorithm = GRPO(per_part=True)
    made = credited(algorithm, whole, GROUP, plan_of(algorithm), SPANS)[:, 0]
    # and the sum is scaled once more
    assert made.tolist() == pytest.approx([-1, 0, 1, -1, 0, 1], abs=1e-3)
    # else the large part rules
    assert credited(GRPO(), whole, GROUP, plan_of(algorithm), SPANS)[0, 0] > 1


def test_advantages_are_bounded():
    algorithm = GRPO(max_advantage=0.5)
    made = credited(
        algorithm, scored([1.0, 2.0, 9.0, 0.0, 0.0, 1.0]), GROUP, plan_of(algorithm), SPANS
    )
    assert float(made.abs().max()) == 0.5


# --- bad options


@pytest.mark.parametrize(
    "options, said",
    [
        ({"sampler": "ode"}, "stochastic sampler"),
        ({"eta": 0.0}, "eta > 0"),
        ({"updates": 0}, "at least one update"),
        ({"alpha": 1.5}, r"alpha in \[0, 1\]"),
    ],
)
def test_bad_options_are_told_at_once(options, said):
    with pytest.raises(ValueError, match=said):
        GRPO(**options)


def test_a_plan_without_a_stochastic_step_is_an_error():
    with pytest.raises(ValueError, match="expected a stochastic step, got none of 1"):
        GRPO(steps=1).plan(Toy.tiny(), 0, torch.Generator())
    with pytest.raises(ValueError, match="at least 9 rows, one an update, got 6"):
        algorithm = GRPO(steps=2, updates=9)
        batches(algorithm, rolled(algorithm, toy()), torch.zeros(6, 1))


# --- it learns


@pytest.mark.parametrize("segments", [1, 3])
def test_brightness_rises_on_held_out_prompts(tmp_path, segments):
    asked = tmp_path / "held_out.txt"
    asked.write_text("".join(f"a cat and {n} dogs\n" for n in range(48)))
    made = recipe(
        tmp_path,
        algorithm={"name": "grpo", "options": {"steps": 4, "segments": segments, "eta": 0.5}},
        train_rounds=8,
        data_held_out=str(asked),
        data_held_out_n=48,
        train_eval_every=100,
        train_checkpoint_every=100,
    )
    run = loop.run(made)
    composite = summary(run)["held_out"]["composite"]
    assert composite["low"] > 0 and composite["difference"] > 0.02, composite
    means = [row["reward"]["mean"] for row in rows(run)]
    assert sum(means[-3:]) > sum(means[:3])

"""Two sets of weights inside one autocast context give two predictions, although autocast
keeps copies of weights."""

import pytest
import torch
from toys import Brightness, experience

from vidrl import plugin
from vidrl.algorithms.grpo import GRPO
from vidrl.backbones.base import PromptCache
from vidrl.backbones.toy import Toy
from vidrl.config import Train
from vidrl.training.clips import generate
from vidrl.training.held_out import HeldOut
from vidrl.training.policy import Policy
from vidrl.training.processes import Workers
from vidrl.training.rollout import draws, sample
from vidrl.training.update import Updater

pytest.importorskip("diffusers", reason="needs vidrl[train]")
from vidrl.backbones.wan import Wan

HALVES = [torch.bfloat16, torch.float16]
KINDS = ["toy, all weights", "wan, all weights", "wan, LoRA"]
NEAR = 0.03  # relative: what half precision may move a prediction by


def moved(kind: str) -> Policy:
    """A policy far from its reference."""
    full, backbone = "all" in kind, Toy() if "toy" in kind else Wan.tiny()
    policy = Policy(backbone, rank=2, alpha=4, full=full)
    shift(policy)
    return policy


def shift(policy: Policy, seed: int = 1) -> None:
    draw, by = torch.Generator().manual_seed(seed), 0.4 if policy.lora else 0.04
    for p in policy.weights.values():
        p.data += by * torch.randn(p.shape, generator=draw)


def inputs(policy: Policy):
    x = policy.backbone.noise([torch.Generator().manual_seed(3)])
    return x, torch.full((1,), 0.5), policy.backbone.encode(["a red circle"])


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm())


def batch_of(policy: Policy, algorithm: GRPO):
    """A minibatch of one clip that the reference sampled, without autocast."""
    plan = algorithm.plan(policy.backbone, 0, torch.Generator().manual_seed(0))
    cond = policy.backbone.encode(["a red circle"])
    with policy.using("reference"):
        rollout = sample(policy, cond, draws(0, [("x",)]), plan)
    algorithm.setup(policy, Brightness(), 2)
    return next(algorithm.minibatches(experience(rollout, torch.ones(1, plan.segments))))


def gradient(policy: Policy, value: torch.Tensor) -> torch.Tensor:
    found = torch.autograd.grad(value, list(policy.weights.values()), allow_unused=True)
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if g is None else g.flatten()
            for p, g in zip(policy.weights.values(), found, strict=True)
        ]
    )


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_kl_to_the_reference_is_that_of_float32(kind, half):
    policy, algorithm = moved(kind), GRPO(steps=3, updates=1)
    batch = batch_of(policy, algorithm)
    with torch.no_grad():
        expected = float(algorithm.divergence(policy, batch))
        with torch.autocast("cpu", half):
            found = float(algorithm.divergence(policy, batch))
    assert expected > 1e-3 and found == pytest.approx(expected, rel=2 * NEAR)


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_beta_adds_beta_kl_to_the_loss_and_to_its_gradient(kind, half):
    policy, plain, kept = moved(kind), GRPO(steps=3, updates=1), GRPO(steps=3, updates=1, beta=10.0)
    batch = batch_of(policy, plain)
    with torch.no_grad():
        kl = float(plain.divergence(policy, batch))
    expected = gradient(policy, kept.loss(policy, batch).value)
    with torch.autocast("cpu", half):
        without, value = plain.loss(policy, batch).value, kept.loss(policy, batch).value
    assert float((value - without).detach()) == pytest.approx(10 * kl, rel=2 * NEAR)
    assert apart(gradient(policy, value), expected) < 4 * NEAR
    assert apart(gradient(policy, without), expected) > 0.2  # what beta adds is not small


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_average_is_evaluated_although_the_live_weights_ran_in_the_same_context(kind, half):
    policy = moved(kind)
    policy.remember("ema")
    shift(policy, seed=2)
    x = inputs(policy)
    with torch.no_grad():
        live = policy.predict(*x)
        with policy.using("ema"):
            average = policy.predict(*x)
        with torch.autocast("cpu", half):
            seen_live = policy.predict(*x)
            with policy.using("ema"):
                seen = policy.predict(*x)
            again = policy.predict(*x)
    assert apart(average, live) > 4 * NEAR
    assert (
        apart(seen, average) < NEAR
        and apart(seen_live, live) < NEAR
        and torch.equal(again, seen_live)
    )


def changes():
    """Every way in which weights change, by name."""

    def by_state(policy: Policy) -> None:
        state = {key: value.clone() for key, value in policy.state().items()}
        policy.load_state(
            state | {f"live/{key}": state[f"reference/{key}"] for key in policy.weights}
        )

    def by_optimiser(policy: Policy) -> None:
        for p in policy.weights.values():
            p.grad = torch.ones_like(p)
        torch.optim.SGD(policy.weights.values(), lr=0.3).step()

    return {
        "restore": lambda policy: policy.restore("reference"),
        "load_state": by_state,
        "an optimiser": by_optimiser,
        "in place": shift,
    }


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("way", changes())
def test_weights_that_change_inside_a_context_count_at_once(way, half):
    policy = moved("wan, LoRA")
    x = inputs(policy)
    with torch.no_grad(), torch.autocast("cpu", half):
        before = policy.predict(*x)
        changes()[way](policy)
        found = policy.predict(*x)
    with torch.no_grad(), torch.autocast("cpu", half):
        assert torch.equal(found, policy.predict(*x)) and apart(found, before) > NEAR


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_the_network_itself_sees_the_set_in_use(half):
    """Code that calls the backbone rather than the policy."""
    policy = moved("wan, LoRA")
    x = inputs(policy)
    with torch.no_grad(), torch.autocast("cpu", half):
        live = policy.backbone.predict(*x)
        with policy.using("reference"):
            reference = policy.backbone.predict(*x)
        assert torch.equal(policy.backbone.predict(*x), live) and apart(reference, live) > NEAR
        policy.restore("reference")
        assert torch.equal(policy.backbone.predict(*x), reference)


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_a_context_within_a_context_keeps_its_own_precision(half):
    policy = moved("toy, all weights")
    x = inputs(policy)
    plain = policy.predict(*x)
    with torch.autocast("cpu", half):
        outer = policy.predict(*x)
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(policy.predict(*x), plain)
        with policy.using("reference"), torch.autocast("cpu", half):
            reference = policy.predict(*x)
        assert torch.is_autocast_cache_enabled() and torch.equal(policy.predict(*x), outer)
    assert outer.dtype == half and plain.dtype == torch.float32 and apart(reference, outer) > NEAR


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_a_look_without_gradient_takes_no_gradient_from_the_next(half):
    policy = moved("wan, LoRA")
    x = inputs(policy)
    with torch.autocast("cpu", half):
        with torch.no_grad():
            policy.predict(*x)
        with policy.using("reference"), torch.no_grad():
            policy.predict(*x)
        value = policy.predict(*x).square().mean()
    assert gradient(policy, value).abs().max() > 0


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_the_logged_kl_and_the_evaluated_average_under_mixed_precision(half, monkeypatch):
    """What a run writes down, with the trainer's own parts."""
    rows = {}
    for name, context in {
        "plain": torch.autocast("cpu", enabled=False),
        "half": torch.autocast("cpu", half),
    }.items():
        workers, policy = Workers(), Policy(Toy(), full=True)
        monkeypatch.setattr(workers, "autocast", lambda context=context: context)
        made = Updater(
            policy,
            GRPO(steps=3, beta=0.1, updates=1),
            workers,
            Train(learning_rate=0.05, ema=0.9),
            0,
        )
        policy.remember("ema")
        made.proven = True  # the rollout ran without autocast
        made.algorithm.setup(policy, Brightness(), 2)
        plan = made.algorithm.plan(policy.backbone, 0, draws(0, [("plan",)])[0])
        rollout = sample(policy, policy.backbone.encode(["a", "b"]), draws(0, [(0,), (1,)]), plan)
        row = made.update(experience(rollout, torch.tensor([[1.0], [-1.0]])))
        look = HeldOut(
            ["a"], plugin.load("rewards", "flicker"), workers, PromptCache(policy.backbone), steps=2
        )
        rows[name] = (
            row["kl"],
            look.measure(policy, "ema", 1)[1].video,
            look.measure(policy, "live", 1)[1].video,
        )
        with policy.using("ema"):
            alone = generate(policy, ["a"], draws(0, [("held out", 0)]), 2).video
        assert apart(rows[name][1], alone) < 0.01
    assert rows["plain"][0] > 0 and rows["half"][0] == pytest.approx(rows["plain"][0], rel=0.1)
    assert apart(rows["half"][1], rows["plain"][1]) < 0.01 < apart(rows["half"][2], rows["half"][1])

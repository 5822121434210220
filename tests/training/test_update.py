"""Optimiser steps: the same whatever the micro-batch, and none before the ratio is proven
to be 1."""

import math

import pytest
import torch
from torch import nn
from toys import Brightness, experience, recipe, rows

from vidrl import config
from vidrl.algorithms.base import Loss
from vidrl.algorithms.grpo import GRPO
from vidrl.backbones.toy import Toy
from vidrl.config import Train
from vidrl.training import checkpoint, loop
from vidrl.training.policy import Policy
from vidrl.training.processes import Workers
from vidrl.training.rollout import draws, sample
from vidrl.training.update import Updater

N = 6


def updater(algorithm=None, **options) -> Updater:
    made = {"learning_rate": 1e-2, "micro_batch": 0} | options
    return Updater(
        Policy(Toy(), full=True),
        algorithm or GRPO(steps=4, segments=3),
        Workers(),
        Train(**made),
        seed=0,
    )


def rolled(made: Updater):
    made.algorithm.setup(made.policy, Brightness(), N)
    plan = made.algorithm.plan(made.policy.backbone, 0, draws(0, [("plan",)])[0])
    cond = made.policy.backbone.encode([f"{i}" for i in range(N)])
    return sample(made.policy, cond, draws(0, [(i,) for i in range(N)]), plan)


def updated(made: Updater, rollout=None):
    advantage = torch.randn(N, 3, generator=torch.Generator().manual_seed(1))
    return made.update(experience(rollout or rolled(made), advantage))


def distance(a: Updater, b: Updater) -> float:
    pairs = zip(a.policy.weights.values(), b.policy.weights.values(), strict=True)
    return max(float((x - y).detach().abs().max()) for x, y in pairs)


def test_micro_batches_of_any_size_give_the_same_step():
    whole, small = updater(micro_batch=32), updater(micro_batch=2)
    a, b = updated(whole), updated(small)
    assert distance(whole, small) < 1e-4 and distance(whole, updater()) > 1e-3
    assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
    assert a["ratio"]["mean"] == pytest.approx(b["ratio"]["mean"], abs=1e-5)


def test_the_optimiser_step_by_hand():
    """One update of AdamW on the gradient of the mean over all pairs, clipped to the
    norm."""
    made = updater(GRPO(steps=4, segments=3, updates=1), micro_batch=5, max_grad_norm=0.01)
    rollout, by_hand = rolled(made), Policy(Toy(), full=True)
    advantage = torch.randn(N, 3, generator=torch.Generator().manual_seed(1))
    (batch,) = made.algorithm.minibatches(experience(rollout, advantage))
    optimiser = torch.optim.AdamW(
        by_hand.weights.values(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.0
    )
    made.algorithm.loss(by_hand, batch).value.backward()
    norm = nn.utils.clip_grad_norm_(by_hand.weights.values(), 0.01)
    optimiser.step()
    row = made.update(experience(rollout, advantage))
    assert row["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    for name, p in made.policy.weights.items():
        assert torch.allclose(p, by_hand.weights[name], atol=1e-5), name


def test_what_is_reported():
    row = updated(updater())
    assert set(row) == {"learning_rate", "kl", "clip_share", "ratio", "grad_norm", "weight_drift"}
    assert row["learning_rate"] == 1e-2 and 0 < row["weight_drift"] < 1
    assert (
        row["ratio"]["min"] <= row["ratio"]["mean"] <= row["ratio"]["max"]
        and 0 <= row["clip_share"] <= 1
    )
    assert row["kl"] > 0  # after the update


class Dropping(nn.Module):
    """A network that drops a random tenth of what it says."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs):
        return nn.functional.dropout(self.network(*inputs), 0.1, training=True)


def test_a_network_that_says_something_else_in_the_update_is_found_before_it_moves():
    made = updater()
    made.policy.backbone.network = Dropping(made.policy.backbone.network)
    before = made.policy.checksum()
    with pytest.raises(
        RuntimeError, match="expected ratio 1 before the first update, within 1e-05, got .*dropout"
    ):
        updated(made)
    assert made.policy.checksum() == before


def test_a_nan_is_no_ratio_of_one():
    made = updater()
    rollout = rolled(made)
    made.policy.weights["out.bias"].data[0] = float("nan")
    with pytest.raises(RuntimeError, match="got nan off"):
        updated(made, rollout)


def test_a_gradient_that_is_not_finite_stops_the_run():
    made = updater()
    rollout, advantage = rolled(made), torch.full((N, 3), float("inf"))
    before = made.policy.checksum()
    with pytest.raises(
        RuntimeError, match="round 0: the gradient is not finite; lower train.learning_rate"
    ):
        made.update(experience(rollout, advantage))
    assert made.policy.checksum() == before


def test_zero_advantages_move_nothing():
    made = updater()
    before = made.policy.checksum()
    made.update(experience(rolled(made), torch.zeros(N, 3)))
    assert made.policy.checksum() == before


def test_out_of_memory_halves_the_micro_batch_and_loses_nothing(monkeypatch):
    made, plain = updater(micro_batch=16), updater(micro_batch=4)
    loss, reached = made.algorithm.loss, []

    def tight(policy, batch):
        reached.append(len(batch))
        if len(batch) > 4:
            raise torch.cuda.OutOfMemoryError("full")
        return loss(policy, batch)

    monkeypatch.setattr(made.algorithm, "loss", tight)
    updated(made)
    monkeypatch.undo()
    updated(plain)
    assert made.micro_batch == 4 and max(reached) > 4 and distance(made, plain) < 1e-5
    monkeypatch.setattr(
        made.algorithm,
        "loss",
        lambda *_: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("full")),
    )
    with pytest.raises(torch.cuda.OutOfMemoryError):  # one pair at a time is the least
        updated(made)


# --- fp16's loss scale


def scaled(scale: float, **options) -> Updater:
    """An updater whose gradients are scaled as fp16's are; the scaler is the one that
    accelerate makes for a GPU."""
    made = updater(**options)
    made.workers.engine.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return made


def test_a_loss_scale_changes_no_step():
    plain, made = updater(), scaled(1024.0)
    row, other = updated(made), updated(plain)
    assert distance(made, plain) < 1e-6 and row["grad_norm"] == pytest.approx(
        other["grad_norm"], rel=1e-5
    )
    assert row["loss_scale"] == 1024 and row["skipped_steps"] == 0 and "loss_scale" not in other


def overflowing(made: Updater, monkeypatch, first: int) -> None:
    """Let the gradients of the first so many losses overflow."""
    loss, calls = made.algorithm.loss, [0]

    def huge(policy, batch):
        calls[0] += 1
        found = loss(policy, batch)
        return Loss(found.value * float("inf"), found.metrics) if calls[0] <= first else found

    monkeypatch.setattr(made.algorithm, "loss", huge)


def test_an_overflow_leaves_the_step_out_halves_the_scale_and_the_run_goes_on(monkeypatch):
    made = scaled(1024.0, ema=0.5)
    made.policy.remember("ema")
    rollout, before = rolled(made), made.policy.checksum()
    overflowing(made, monkeypatch, 2)
    row = updated(made, rollout)
    assert made.policy.checksum() == before and not made.optimiser.state  # both steps were left out
    assert torch.equal(made.policy.sets["ema"][0], next(iter(made.policy.weights.values())))
    assert row["skipped_steps"] == 2 and row["loss_scale"] == 256 and "grad_norm" not in row
    row = updated(made, rollout)
    assert (
        row["skipped_steps"] == 0 and row["loss_scale"] == 256 and math.isfinite(row["grad_norm"])
    )
    plain = updater()
    updated(plain)
    assert distance(made, plain) < 1e-6  # as if the overflow had not been


def test_one_overflow_among_the_steps_of_a_round_costs_that_step_alone(monkeypatch):
    made = scaled(1024.0)
    rollout = rolled(made)
    overflowing(made, monkeypatch, 1)
    row = updated(made, rollout)
    assert (
        row["skipped_steps"] == 1 and row["loss_scale"] == 512 and math.isfinite(row["grad_norm"])
    )


def test_a_gradient_that_no_scale_makes_finite_stops_the_run(monkeypatch):
    made = scaled(4.0)
    rollout = rolled(made)
    overflowing(made, monkeypatch, 1000)
    with pytest.raises(RuntimeError, match="the gradient is not finite; lower train.learning_rate"):
        for _ in range(9):
            updated(made, rollout)


def test_the_scale_is_kept_in_the_checkpoint_and_an_overflow_is_an_event(tmp_path, monkeypatch):
    made, real = recipe(tmp_path, train_rounds=2), Workers.__init__

    def init(self, *given):
        real(self, *given)
        self.engine.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    monkeypatch.setattr(Workers, "__init__", init)
    trainer = loop.Trainer.from_recipe(config.load(made))
    overflowing(trainer.updater, monkeypatch, 1)
    trainer.go(resume=False)
    assert checkpoint.load(made["run"])["scaler"]["scale"] == 512
    assert [row["loss_scale"] for row in rows(made["run"])] == [512, 512]
    assert [
        (row["round"], row["kind"])
        for row in rows(made["run"], "events")
        if row["kind"] == "overflow"
    ] == [(1, "overflow")]
    again = loop.Trainer.from_recipe(config.load(made))
    again.restart.claim(True)
    again.restart.restore(True)
    assert again.workers.loss_scale == 512


def test_averages_follow_each_optimiser_step():
    made = updater(ema=0.5)
    made.policy.remember("ema")
    start = made.policy.weights["out.bias"].detach().clone()
    seen = []
    step = made.optimiser.step
    made.optimiser.step = lambda *a, **k: (
        step(*a, **k),
        seen.append(made.policy.weights["out.bias"].detach().clone()),
    )
    updated(made)
    assert len(seen) == 2
    expected = 0.5 * (0.5 * start + 0.5 * seen[0]) + 0.5 * seen[1]
    with made.policy.using("ema"):
        assert torch.allclose(made.policy.weights["out.bias"], expected, atol=1e-6)


class Bare(GRPO):
    """An algorithm whose loss returns a tensor."""

    def loss(self, policy, batch):
        return super().loss(policy, batch).value


def test_a_loss_that_is_a_tensor_is_refused_with_what_to_return():
    with pytest.raises(TypeError, match="expected a Loss from Bare.loss, got Tensor: return Loss"):
        updated(updater(Bare(steps=4, segments=3)))

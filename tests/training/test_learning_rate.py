"""vidrl.training.learning_rate: the rate of each round, by hand, by diffusers, and in a run
that is interrupted."""

import math

import pytest
from toys import happened, recipe, rows, weights

from vidrl.training import loop
from vidrl.training.learning_rate import factor


@pytest.mark.parametrize(
    ("schedule", "end", "warmup", "rates"),
    [
        ("constant", 0.1, 0, [1.0, 1.0, 1.0, 1.0, 1.0]),
        ("constant", 0.1, 2, [1 / 3, 2 / 3, 1.0, 1.0, 1.0]),
        ("linear", 0.2, 0, [1.0, 0.8, 0.6, 0.4, 0.2]),
        ("linear", 0.0, 2, [1 / 3, 2 / 3, 1.0, 0.5, 0.0]),
        ("cosine", 0.5, 0, [1.0, 0.75 + math.sqrt(0.5) / 4, 0.75, 0.75 - math.sqrt(0.5) / 4, 0.5]),
        ("cosine", 0.1, 4, [0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
)
def test_five_rounds_by_hand(schedule: str, end: float, warmup: int, rates: list[float]) -> None:
    assert [factor(k, 5, schedule, end, warmup) for k in range(5)] == pytest.approx(rates)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_one_round_trains_at_the_full_rate_and_rounds_beyond_the_last_at_its(schedule: str) -> None:
    assert factor(0, 1, schedule, 0.1) == 1.0
    assert factor(7, 5, schedule, 0.1) == pytest.approx(0.1)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_schedules_are_those_of_diffusers(schedule: str) -> None:
    torch = pytest.importorskip("torch")
    optimization = pytest.importorskip("diffusers.optimization")
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = optimization.get_scheduler(
        schedule, optimiser, num_warmup_steps=0, num_training_steps=9
    )
    for k in range(10):
        assert factor(k, 10, schedule, end=0.0) == pytest.approx(
            optimiser.param_groups[0]["lr"], abs=1e-12
        )
        optimiser.step()
        theirs.step()


FALLING = {
    "train_lr_schedule": "linear",
    "train_lr_end": 0.2,
    "train_warmup": 1,
    "train_eval_every": 100,
}


def rates(run) -> list[float]:
    return [row["learning_rate"] for row in rows(run)]


def test_a_run_logs_its_rates_and_a_resumed_one_repeats_them(tmp_path, monkeypatch) -> None:
    whole = loop.run(recipe(tmp_path / "whole", **FALLING))
    assert rates(whole) == pytest.approx([0.01 * f for f in (1 / 2, 1.0, 2.2 / 3, 1.4 / 3, 0.2)])
    made, ours = recipe(tmp_path / "cut", **FALLING), loop.Trainer._train_round

    def dies(trainer: loop.Trainer):
        if trainer.state.round == 3:
            raise KeyboardInterrupt
        return ours(trainer)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.Trainer, "_train_round", dies)
        loop.run(made)
    run = loop.run(made, resume=True)
    assert weights(run) == weights(whole) and rates(run) == rates(whole)
    constant = loop.run(recipe(tmp_path / "constant", train_eval_every=100))
    assert rates(constant) == [0.01] * 5 and weights(constant) != weights(whole)


@pytest.mark.parametrize(("schedule", "ends"), [("constant", False), ("linear", True)])
def test_more_rounds_end_exactness_only_where_the_rate_falls(
    tmp_path, schedule: str, ends: bool
) -> None:
    """A rate that falls would have fallen more slowly, had the run known of the later
    rounds from its start."""
    # the default, which a constant rate does not read
    end = {"linear": 0.2, "constant": 0.1}[schedule]
    given = FALLING | {"train_lr_schedule": schedule, "train_lr_end": end}
    loop.run(recipe(tmp_path, **given, train_rounds=3))
    run = loop.run(recipe(tmp_path, **given, train_rounds=5), resume=True)
    told = [row["message"] for row in happened(run) if row["kind"] == "exactness"]
    assert [message.endswith(": train.rounds") for message in told] == [True] * ends
    later = [0.01, 0.01] if schedule == "constant" else [0.01 * 1.4 / 3, 0.01 * 0.2]
    assert rates(run)[3:] == pytest.approx(later)

"""The study of the trainer's overhead: what it counts, on a model of a few weights."""

import importlib
import sys
import time
from pathlib import Path

import pytest
import torch

from vidrl.algorithms.grpo import GRPO
from vidrl.backbones.toy import Toy
from vidrl.rewards._scoring.plain import Plain
from vidrl.training.assembly import Options
from vidrl.training.loop import Trainer
from vidrl.training.policy import Policy

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "studies"))


@pytest.fixture(scope="module")
def study():
    return importlib.import_module("overhead")


def brightness(samples):
    return samples.frames.mean((1, 2, 3, 4))


@pytest.fixture
def build(tmp_path):
    def build(reward=brightness, rounds=4):
        return Trainer.from_objects(
            policy=Policy(Toy(), full=True),
            algorithm=GRPO(steps=4),
            reward=reward,
            prompts=["a cat", "a dog"],
            held_out=["a cow", "a bird"],
            folder=tmp_path / "run",
            options=Options(
                rounds=rounds, prompts_per_round=1, group=2, eval_steps=2, eval_every=100
            ),
        )

    return build


def patched(study, trainer):
    """What each attribute that the study patches is, in the owner's own dictionary."""
    owners = [(owner, name) for owner, name, _ in study.targets(trainer)]
    owners += [(trainer, "_train_round"), (trainer.between, "finish")]
    return [vars(owner).get(name) for owner, name in owners]


def test_every_second_of_a_round_is_counted_once(study, build, monkeypatch):
    """With a clock that moves by 1 at each reading, a round lasts as long as there were readings."""
    readings, starts = [0.0], []

    def now():
        readings[0] += 1
        return readings[0]

    trainer = build(rounds=5)
    train_round = trainer._train_round
    monkeypatch.setattr(
        trainer, "_train_round", lambda: starts.append(readings[0]) or train_round()
    )
    found = study.measured(trainer, 1, now)
    assert len(found.rounds) == 3 and len(found.profiled) == 1
    lengths = [b - a for a, b in zip(starts, starts[1:])]
    # the profiler reads the clock at the start of the last round, before `starts` does
    assert [sum(seconds.values()) for seconds in found.rounds[:2]] == lengths[1:3]
    (first, *_) = found.rounds
    assert all(first[name] > 0 for name in study.WORK if name != "text encoder")
    assert all(first[name] > 0 for name in ("sampling", "scoring", "update", "metrics"))


def test_the_seconds_of_a_run_are_not_more_than_it_took(study, build):
    start = time.perf_counter()
    found = study.measured(build(), 1)
    spent = time.perf_counter() - start
    rounds = [*found.rounds, *found.profiled]
    assert 0 < sum(sum(seconds.values()) for seconds in rounds) < spent
    assert all(value >= 0 for seconds in rounds for value in seconds.values())


def test_nothing_stays_patched(study, build):
    trainer = build()
    before = patched(study, trainer)
    study.measured(trainer, 1)
    assert patched(study, trainer) == before
    assert sys.getprofile() is None


def test_nothing_stays_patched_where_the_training_fails(study, build, monkeypatch):
    trainer, rounds = build(), iter([False, False, False, True])
    plan = trainer._plan
    monkeypatch.setattr(trainer, "_plan", lambda: 1 / 0 if next(rounds) else plan())
    before = patched(study, trainer)
    with pytest.raises(ZeroDivisionError):  # in the profiled round
        study.measured(trainer, 1)
    assert patched(study, trainer) == before
    assert sys.getprofile() is None


def test_a_sleep_in_the_trainer_is_overhead_and_the_profile_names_it(study, build, monkeypatch):
    trainer = build()
    plan = trainer._plan
    monkeypatch.setattr(trainer, "_plan", lambda: time.sleep(0.2) or plan())
    found = study.measured(trainer, 1)
    assert all(0.2 <= seconds[study.LOOP] < 0.4 for seconds in found.rounds)
    assert found.functions[0].name == "time.sleep" and found.functions[0].calls == 1
    assert 0.2 <= found.functions[0].seconds < 0.3
    assert "misses the goal" in study.verdict(found.rounds)


def test_a_sleep_in_the_reward_is_none(study, build):
    def slow(samples):
        time.sleep(0.2)
        return brightness(samples)

    found = study.measured(build(slow), 1)
    assert all(seconds["reward"] >= 0.2 for seconds in found.rounds)
    assert all(study.overhead(seconds) < 0.2 for seconds in found.rounds)
    assert not [
        each for each in found.functions if each.name == "time.sleep" and each.seconds > 0.01
    ]


def test_the_reward_is_timed_by_its_class_which_keeps_its_call(study, build):
    trainer = build()
    call = vars(Plain).get("__call__")
    study.measured(trainer, 1)
    assert vars(Plain).get("__call__") is call


def test_too_few_rounds_are_an_error(study, build):
    with pytest.raises(ValueError, match="two others"):
        study.measured(build(rounds=2), 1)


def test_shares_are_medians_and_the_table_has_every_stage(study):
    base = dict.fromkeys((*study.WORK, *study.TRAINER), 0.0)
    rounds = [base | {"decoder": 9.0, "update": second} for second in (1.0, 3.0, 91.0)]
    assert study.row("update", rounds, study.overhead) == "| update | 3.000 | 25.0% |"
    table = "\n".join(study.stages(rounds))
    assert all(f"| {name} |" in table for name in study.WORK)
    assert all(f"| overhead: {name} |" in table for name in study.TRAINER)
    assert "misses the goal of at most 5%" in study.verdict(rounds)
    assert "meets the goal" in study.verdict([base | {"decoder": 99.0, "update": 1.0}])


def test_the_page_has_a_section_of_each_run(study, build):
    found = study.measured(build(), 1)
    text = study.page("python x", study.section("toy", "2 clips a round.", found))
    assert "`python x`" in text and torch.__version__ in text
    assert text.count("\n| `") == study.TOP and "## toy" in text


@pytest.mark.slow
def test_the_recipes_of_the_study(study, tmp_path):
    out = tmp_path / "page.md"
    study.main(["--rounds", "1", "--profiled", "1", "--prompts", "1", "--out", str(out)])
    assert all(f"## {recipe}" in out.read_text() for recipe in study.RECIPES)

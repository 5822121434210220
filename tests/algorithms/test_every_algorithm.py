"""What every algorithm promises, held for each file of the folder.

A new file is found by itself. What it cannot serve is read off the class: `data` says where
its samples come from, its fields which options it has, the plan whether the loop scores,
its advantages whether a tie counts.
"""

import copy
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from every import NAMES, apart, backward, begun, kind, made, norm, options, part
from toys import rows, timeless

from vidrl import config
from vidrl.algorithms.base import Batch
from vidrl.inference.means import interval
from vidrl.rewards import Score
from vidrl.training import checkpoint, loop
from vidrl.training.clips import generate
from vidrl.training.rollout import draws

STORED = Path(__file__).parent / "first_steps.json"
SOURCES = [(name, False) for name in NAMES] + [
    (name, True) for name in NAMES if kind(name).data == "optional pairs"
]


@pytest.fixture(params=SOURCES, ids=[f"{name}{'-pairs' * pairs}" for name, pairs in SOURCES])
def case(request, tmp_path):
    """(trainer, experience) of each algorithm before its first update, online and from
    files."""
    name, pairs = request.param
    return begun(made(tmp_path, name, pairs))


def batches(trainer, seen) -> list[Batch]:
    return list(trainer.algorithm.minibatches(seen))


def plain(value):
    """Something that can be compared with ==."""
    return value.tolist() if isinstance(value, torch.Tensor) else value


# --- the plan and the credit


def test_a_plan_changes_nothing_and_depends_on_round_and_draw_alone(case):
    trainer, _ = case
    algorithm = trainer.algorithm
    before = dict(vars(algorithm))
    for round in (0, 1, 7):
        one, other = (
            algorithm.plan(trainer.backbone, round, draws(4, [(round,)])[0]) for _ in range(2)
        )
        assert one == other and all(0 <= k < len(one.times) - 1 for k in one.keep)
    assert vars(algorithm).keys() == before.keys()
    assert all(plain(vars(algorithm)[key]) == plain(value) for key, value in before.items())


def outcome(trainer, seen):
    """Advantages, batches and first loss of a round; running statistics are put back."""
    algorithm, policy = trainer.algorithm, trainer.policy
    kept = copy.deepcopy(algorithm.state())
    values = torch.linspace(0, 1, len(seen.group))
    score = Score(values, values[:, None] * torch.linspace(0, 2, 9))
    credit = algorithm.advantages(score, seen.group, seen.prompts, seen.rollout.plan)
    algorithm.load_state(kept)
    made = batches(trainer, seen)
    loss = algorithm.loss(policy, made[0]).value.detach()
    return [credit, loss, *(value for batch in made for value in batch.data.values())]


def test_plans_of_other_rounds_change_neither_credit_nor_batches_nor_loss(case):
    """What the later methods need, they read from the plan of the rollout and not from an
    attribute that the last call of `plan` left."""
    trainer, seen = case
    before = outcome(trainer, seen)
    for round in (seen.round, seen.round + 1, 7):
        trainer.algorithm.plan(trainer.backbone, round, draws(9, [(round,)])[0])
    after = outcome(trainer, seen)
    assert len(before) == len(after)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_only_setup_makes_state_that_other_methods_read(case):
    """The attributes are those of `setup` and the options, whatever has been called since; the
    statistics over rounds are those that `state` returns."""
    trainer, seen = case
    algorithm = trainer.algorithm
    before, running = dict(vars(algorithm)), algorithm.state().keys()
    outcome(trainer, seen)
    algorithm.divergence(trainer.policy, batches(trainer, seen)[0])
    algorithm.after(trainer.policy, seen.round)
    assert vars(algorithm).keys() == before.keys()
    changed = {key for key, value in before.items() if vars(algorithm)[key] is not value}
    assert changed <= running


def test_credit_is_finite_one_a_segment_and_none_for_what_is_unscored(case):
    trainer, seen = case
    plan, n = seen.rollout.plan, len(seen.group)
    values = torch.randn(n, generator=torch.Generator().manual_seed(1))
    values[[1, 6]] = torch.nan
    curve = values[:, None] + torch.rand(n, 9, generator=torch.Generator().manual_seed(2))
    credit = trainer.algorithm.advantages(Score(values, curve), seen.group, seen.prompts, plan)
    assert credit.shape in [(n, plan.segments), (n, len(plan.keep), plan.segments)] and bool(
        credit.isfinite().all()
    )
    if plan.forks:  # what a clip shares with others is credited by theirs
        credit = credit[:, -1]
    if trainer.algorithm.data != "clips":  # these need no score
        assert float(credit[[1, 6]].abs().max()) == 0


# what each of them learns from a clip needs no other clip of its prompt
ALONE = ("ddpo", "reward_backprop", "sft")


@pytest.mark.parametrize("name", NAMES)
def test_a_group_of_one_trains_or_is_refused_before_any_compute(name, tmp_path):
    recipe = made(
        tmp_path,
        name,
        train_group=1,
        train_prompts_per_round=4,
        train_rounds=2,
        train_eval_every=1,
        guard={"action": "warn", "bands": {"diversity": [0.0, 9.0]}},
    )
    if name not in ALONE:
        with pytest.raises(ValueError, match="train.group: expected at least 2, got 1"):
            loop.run(recipe)
        return
    run = loop.run(recipe)
    text = (run / "metrics.jsonl").read_text()
    assert "NaN" not in text and "within_group_std" not in text and "zero_std_share" not in text
    assert len(rows(run)) == 2 and rows(run)[-1]["grad_norm"] > 0
    assert (
        "NaN" not in (run / "summary.json").read_text()
        and "nan" not in (run / "report.html").read_text()
    )


def test_pairs_of_files_need_no_group(tmp_path):
    recipe = made(
        tmp_path, "dpo", pairs=True, train_group=1, train_prompts_per_round=4, train_rounds=1
    )
    assert rows(loop.run(recipe))[0]["grad_norm"] > 0


# --- the batches and the loss


def test_minibatches_of_a_seed_are_the_same_and_their_rows_weigh_one_in_all(case):
    trainer, seen = case
    first, again = (batches(trainer, seen) for _ in range(2))
    assert first
    for one, other in zip(first, again, strict=True):
        assert one.data and all(torch.equal(one[name], other[name]) for name in one.data)
        assert one.share * len(one) == pytest.approx(1)
        assert (
            {len(value) for value in one.data.values()}
            == {len(one)}
            == {len(v) for v in one.cond.values()}
        )
    if len(first[0]) > 2:
        other = batches(trainer, replace(seen, seed=seen.seed + 1))[0]
        assert any(not torch.equal(first[0][name], other[name]) for name in other.data)


def test_micro_batches_add_up_to_the_batch(case):
    trainer, seen = case
    batch = batches(trainer, seen)[0]
    loss = trainer.algorithm.loss(trainer.policy, batch)
    assert loss.value.dim() == 0 and bool(loss.value.isfinite())
    assert not any(value.requires_grad for value in loss.metrics.values())
    value, whole = backward(trainer.algorithm, trainer.policy, batch)
    pieces, gradient = backward(trainer.algorithm, trainer.policy, batch, size=3)
    assert (
        norm(whole) > 0
        and apart(whole, gradient) < 1e-5
        and pieces == pytest.approx(value, abs=1e-6)
    )


def test_two_processes_add_up_to_one(case):
    """Whole groups go to each; one that is cut in two is the same again, or refused with
    the cure."""
    trainer, seen = case
    n, each = len(seen.group), int(seen.group.bincount()[0])
    half = n // each // 2 * each
    for mine in (range(half), range(0, n, 2)):
        try:
            shared = [
                batches(trainer, part(seen, list(index)))
                for index in (mine, sorted({*range(n)} - {*mine}))
            ]
        except ValueError as error:
            assert (
                mine != range(half)
                and "in one process" in str(error)
                and "prompts_per_round" in str(error)
            )
            continue
        for one, *two in zip(batches(trainer, seen), *shared, strict=True):
            value, whole = backward(trainer.algorithm, trainer.policy, one)
            values, gradients = zip(
                *(backward(trainer.algorithm, trainer.policy, b) for b in two), strict=True
            )
            assert apart(whole, [a + b for a, b in zip(*gradients, strict=True)]) < 1e-5
            assert sum(values) == pytest.approx(value, abs=1e-6) and sum(map(len, two)) == len(one)


def test_the_ratio_starts_at_one_and_the_divergence_at_zero(case):
    trainer, seen = case
    for batch in batches(trainer, seen):
        ratio = trainer.algorithm.loss(trainer.policy, batch).metrics.get("ratio", torch.ones(1))
        assert float((ratio - 1).abs().max()) <= 1e-5
        assert float(trainer.algorithm.divergence(trainer.policy, batch).detach()) == 0
    for weight in trainer.policy.weights.values():
        weight.data += 0.1
    assert float(trainer.algorithm.divergence(trainer.policy, batch).detach()) > 0


def test_where_all_samples_tie_there_is_nothing_to_learn(case):
    """Of an algorithm that gives ties the advantage 0, and learns from it: its rows have no
    gradient, or are none."""
    trainer, seen = case
    score = Score(torch.ones(len(seen.group)), torch.ones(len(seen.group), 9))
    credit = trainer.algorithm.advantages(score, seen.group, seen.prompts, seen.rollout.plan)
    if seen.pairs is not None or not seen.rollout.plan.scored or float(credit.abs().max()) > 0:
        # files say who is better, or the loss scores for itself, or a sample counts
        # whatever the others are
        return
    for batch in trainer.algorithm.minibatches(replace(seen, advantage=credit)):
        assert norm(backward(trainer.algorithm, trainer.policy, batch)[1]) < 1e-6


@pytest.mark.parametrize("name", [name for name in NAMES if "segments" in options(name)])
@pytest.mark.parametrize("segments", [1, 3])
def test_a_clip_may_be_one_segment_or_one_a_latent_frame(name, segments, tmp_path):
    trainer, seen = begun(made(tmp_path, name, segments=segments))
    assert seen.rollout.plan.segments == segments == seen.advantage.shape[-1]
    _, gradient = backward(trainer.algorithm, trainer.policy, batches(trainer, seen)[0])
    assert 0 < norm(gradient) < float("inf")


SAMPLING = [
    name for name in NAMES if kind(name).data != "clips" and "updates" in options(name, updates=1)
]


@pytest.mark.parametrize("name", SAMPLING)
def test_more_updates_than_a_round_has_rows_are_told_before_anything_is_sampled(name, tmp_path):
    with pytest.raises(
        ValueError,
        match="at least 1000 rows, one an update, got [1-9][0-9]*: lower algorithm.options",
    ):
        loop.Trainer.from_recipe(config.load(made(tmp_path, name, updates=1000)))


# --- runs


def comparable(value):
    """State with its tensors as lists."""
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items()}
    return (
        [comparable(item) for item in value] if isinstance(value, (list, tuple)) else plain(value)
    )


@pytest.mark.parametrize("name, pairs", SOURCES)
def test_a_run_that_was_cut_goes_on_to_the_same_end(name, pairs, tmp_path, monkeypatch):
    whole = loop.run(made(tmp_path / "whole", name, pairs))
    cut, go_on = made(tmp_path / "cut", name, pairs), loop.Trainer._train_round

    def interrupted(trainer):
        if trainer.state.round == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return go_on(trainer)

    monkeypatch.setattr(loop.Trainer, "_train_round", interrupted)
    loop.run(cut)
    monkeypatch.undo()
    assert checkpoint.load(cut["run"])["round"] == 2
    again = loop.run(cut, resume=True)
    ours, theirs = checkpoint.load(again), checkpoint.load(whole)
    assert ours["round"] == theirs["round"] == 3
    for key in ("policy", "algorithm", "optimiser"):
        assert comparable(ours[key]) == comparable(theirs[key]), key
    assert [timeless(row) for row in rows(again)] == [timeless(row) for row in rows(whole)]


def first_step(folder: Path, name: str, pairs: bool) -> list[float]:
    """Of the first minibatch: its loss and the norm of its gradient, and its loss after one
    step of plain descent."""
    trainer, seen = begun(made(folder, name, pairs))
    batch = batches(trainer, seen)[0]
    before, gradient = backward(trainer.algorithm, trainer.policy, batch)
    for weight, slope in zip(trainer.policy.weights.values(), gradient, strict=True):
        weight.data -= 1e-3 / norm(gradient) * slope
    return [before, norm(gradient), backward(trainer.algorithm, trainer.policy, batch)[0]]


@pytest.mark.parametrize("name, pairs", SOURCES)
def test_one_seeded_step_is_the_stored_one(name, pairs, tmp_path):
    """With FIRST_STEPS=write in the environment the numbers are stored anew, where a change
    of them is meant."""
    stored, key = json.loads(STORED.read_text()), f"{name}-pairs" if pairs else name
    found = first_step(tmp_path, name, pairs)
    if os.environ.get("FIRST_STEPS") == "write":
        lines = [
            f"  {json.dumps(k)}: {json.dumps(v)}"
            for k, v in sorted((stored | {key: found}).items())
        ]
        STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    elif key not in stored:
        pytest.skip(
            "no number is stored yet: FIRST_STEPS=write bash scripts/test -k test_one_seeded_step"
        )
    else:
        assert found == pytest.approx(stored[key], rel=1e-4, abs=1e-7)


# --- learning


# Enough clips a round that the seeds agree, steps that a KL can hold, and a clip range that
# such steps do not leave.
LEARNING = {
    "train_prompts_per_round": 4,
    "train_group": 16,
    "train_learning_rate": 3e-3,
    "clip_range": 0.2,
    "train_score_batch": 64,
    "train_micro_batch": 512,
}


def gain(folder: Path, name: str, pairs: bool, seed: int, rounds: int = 6) -> float:
    """How much brighter the clips of held-out prompts are after a few rounds, from the same
    noise."""
    trainer = loop.Trainer.from_recipe(
        config.load(made(folder, name, pairs, **LEARNING) | {"seed": seed})
    )

    def light() -> float:
        prompts = [f"a thing {i}" for i in range(16)]
        clips = generate(trainer.policy, prompts, draws(seed, [(p,) for p in prompts]), steps=6)
        return float(trainer.reward(clips).value.mean())

    before = light()
    for trainer.state.round in range(rounds):
        trainer._train_round()
    return light() - before


@pytest.mark.slow
@pytest.mark.parametrize("name, pairs", SOURCES)
def test_the_held_out_reward_rises(name, pairs, tmp_path):
    found = interval(
        [gain(tmp_path / str(seed), name, pairs, seed) for seed in range(8)], unit="seeds"
    )
    assert found.low > 0, found

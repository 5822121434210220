"""What a recipe sets in vain is told, value by value, with the reason."""

import json

import pytest
from toys import recipe, rows, with_clips

from vidrl import config, plugin
from vidrl.rewards import load
from vidrl.training import loop
from vidrl.training.unread import unread

PAIRS = {"data": {"pairs": "pairs.jsonl"}}


def said(name, options, reward="flicker", **sections):
    """The values that are told."""
    table = {"run": "r", "algorithm": {"name": name, "options": options}} | sections
    made = config.build(table, files=False)
    told = unread(made, plugin.load("algorithms", name, **options), load(reward))
    assert all(" is not used: " in one for one in told)
    return [one.partition(" is not used: ")[0] for one in told]


@pytest.mark.parametrize(
    "name, options, told",
    [
        ("grpo", {"segments": 1, "alpha": 0.5}, ["alpha = 0.5"]),
        ("grpo", {"segments": 5, "credit": "whole", "alpha": 0.5}, ["alpha = 0.5"]),
        ("grpo", {"segments": 5, "alpha": 0.5}, []),
        ("grpo", {"scale": "none", "scale_eps": 1e-3}, ["scale_eps = 0.001"]),
        ("grpo", {"max_divergence": 1e-3, "clip_range": 1e-2}, ["clip_range = 0.01"]),
        ("grpo", {"per_part": True}, ["per_part = True"]),
        ("ddpo", {"estimator": "sf", "clip_range": 1e-2}, ["clip_range = 0.01"]),
        ("ddpo", {"clip_range": 1e-2}, []),
        ("dpo", {"steps": 4, "sample_from": "ema", "pairs": 3, "scale": "batch"}, []),
    ],
)
def test_options_that_another_option_or_the_reward_makes_idle(name, options, told):
    assert said(name, options) == [f"algorithm.options.{one}" for one in told]
    assert said(name, options, reward="default") == [
        f"algorithm.options.{one}" for one in told if "per_part" not in one
    ]


def test_options_of_sampling_and_of_credit_are_idle_where_pairs_of_files_are_learned_from():
    sampling = {
        "steps": 4,
        "sample_from": "ema",
        "pairs": 3,
        "scale": "batch",
        "max_advantage": 2.0,
    }
    found = said("dpo", sampling | {"noises": 2, "segments": 2, "same_noise": True}, **PAIRS)
    assert {one.split()[0].rpartition(".")[2] for one in found} == set(sampling)
    # the levels are the sampler's times
    found = said("dpo", {"steps": 4, "levels": "discrete", "noises": 2}, **PAIRS)
    assert found == []
    # the defaults say nothing
    assert said("kto", {"steps": 10, "sample_from": "live"}, **PAIRS) == []


def test_values_of_sections_that_are_switched_off():
    assert said(
        "grpo", {}, bench={"every": 3}, data={"strict": True}, guard={"action": "warn"}
    ) == ["bench.every = 3", "data.strict = True", "guard.action = 'warn'"]
    on = {
        "bench": {"every": 3, "suite": "orbit"},
        "guard": {"action": "warn", "bands": {"x": [0, 1]}},
    }
    assert said("grpo", {}, **on) == []


def test_a_run_tells_them_before_its_first_round(tmp_path, capsys):
    made = recipe(
        tmp_path, algorithm={"name": "dpo", "options": {"steps": 3, "noises": 2}}, train_rounds=1
    )
    run = loop.run(with_clips(tmp_path, made, pairs=True))
    notes = [row["message"] for row in rows(run, "events") if row["kind"] == "note"]
    told = "algorithm.options.steps = 3 is not used: the clips are those of data.pairs"
    assert any(one.startswith(told) for one in notes)
    assert "note: algorithm.options.steps = 3 is not used" in capsys.readouterr().err
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["round"] == 1

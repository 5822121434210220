"""What a recipe costs: arithmetic against hand-computed numbers, and against runs that
happened."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from vidrl import cli, config, cost, plugin
from vidrl.algorithms.dpo import DPO
from vidrl.backbones.toy import Toy
from vidrl.backbones.wan import Wan
from vidrl.cost import cards, counting, skeleton, table, tracing, work
from vidrl.cost.calibrate import Pace

ROOT = Path(__file__).parents[2]
DEMO = "scripts/recipes/study.toml"


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def said(capsys, *arguments):
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as left:
        status = left.code
    return (status, *capsys.readouterr())


def toy(tmp_path, **train):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\na blue square\n")
    options = {"rounds": 2, "prompts_per_round": 2, "group": 2, "eval_steps": 4} | train
    return config.build(
        {
            "run": str(tmp_path / "run"),
            "backbone": {"name": "toy", "options": {}},
            "policy": {"full": True},
            "algorithm": {"name": "grpo", "options": {"steps": 5, "train_steps": 2, "updates": 2}},
            "reward": {"name": "flicker"},
            "data": {"prompts": str(prompts), "held_out": str(prompts), "held_out_n": 2},
            "train": options,
        }
    )


# --- tracing


def test_flops_of_a_convolution_and_of_attention_by_hand():
    with tracing.shapes():
        conv, x = nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.empty(2, 3, 10, 10)
        assert tracing.trace(lambda: conv(x))[0] == 2 * 2 * 8 * 100 * 27
        q = torch.empty(2, 4, 16, 32)
        attend = torch.nn.functional.scaled_dot_product_attention
        assert tracing.trace(lambda: attend(q, q, q))[0] == 2 * 2 * 2 * 4 * 16 * 16 * 32


def test_peak_counts_what_lives_and_forgets_what_died():
    with tracing.shapes():
        x = torch.empty(1000)
        assert tracing.trace(lambda: (x + 1) + 1, [x])[1] == 8000
        assert tracing.trace(lambda: ((x + 1) + 1) + 1, [x])[1] == 8000


def test_peak_knows_gradient_checkpointing():
    from torch.utils.checkpoint import checkpoint

    def chain(block, x, wrapped, n=16):
        for _ in range(n):
            x = checkpoint(block, x, use_reentrant=False) if wrapped else block(x)
        x.sum().backward()

    with tracing.shapes():
        x = torch.empty(1000, 64, requires_grad=True)
        block = nn.Sequential(*[nn.Tanh() for _ in range(8)])
        plain, wrapped = (
            tracing.trace(lambda w=w: chain(block, x, w), [x])[1] for w in (False, True)
        )
    assert plain >= 16 * 8 * 256_000 and wrapped <= plain / 4


def test_drop_numbers_keeps_shapes_and_what_is_trained():
    layer = nn.Linear(3, 4).requires_grad_(False)
    layer.bias.requires_grad_(True)
    with tracing.shapes():
        tracing.drop_numbers(layer)
    assert (
        layer.weight.shape == (4, 3) and not layer.weight.requires_grad and layer.bias.requires_grad
    )


# --- architectures


def test_the_known_transformer_is_the_released_size():
    recipe = config.load("scripts/recipes/wan_1.3b.toml")
    made = skeleton.read(recipe.backbone).build(1, 1)
    two = skeleton.read(recipe.backbone).build(2, 1)
    one, more = (sum(p.numel() for p in wan.network.parameters()) for wan in (made, two))
    assert 1.41e9 < one + 29 * (more - one) < 1.45e9  # the card says 1.3B, the file holds 1.42e9
    assert (
        made.shape == (16, 9, 30, 52) and made.guidance == 5 and made.network.device.type == "meta"
    )


def test_a_line_through_two_depths_is_the_whole_network():
    recipe = config.load(DEMO)
    blueprint = skeleton.read(recipe.backbone)
    amp = work._autocast("no")
    deep = work._network(recipe, blueprint.build(4, 1), 2, amp)
    line = work._extrapolated(
        lambda n: work._network(recipe, blueprint.build(n, 1), 2, amp), 4, (2, 3)
    )
    assert line == pytest.approx(deep, rel=0.01) and line[0] == deep[0] and line[2] == deep[2]


def test_a_skeleton_is_the_model(tmp_path):
    real = Wan("assets/tiny-wan-32", text_length=24)
    made = skeleton.read(config.load(DEMO).backbone).build()
    assert (
        made.shape == real.shape
        and made.frame_map == real.frame_map
        and made.times(7) == real.times(7)
    )
    assert {n: p.shape for n, p in made.network.named_parameters()} == {
        n: p.shape for n, p in real.network.named_parameters()
    }


# --- counting


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["algorithm.options.beta=0.1"],
        ["train.ema=0.9", "train.eval_every=1"],
        ["train.rounds=4", "train.eval_every=1", "train.eval_n=1"],
        ["algorithm.options.window=2", "algorithm.options.train_steps=0", "train.rounds=4"],
    ],
)
def test_calls_are_those_of_a_run(tmp_path, monkeypatch, given):
    from vidrl.training import loop

    recipe = config.load(toy(tmp_path), given)
    told = counting.count(
        recipe, plugin.load("algorithms", "grpo", **recipe.algorithm.options), Toy.tiny(), 32
    )
    seen, real = [], Toy.predict
    monkeypatch.setattr(
        Toy, "predict", lambda self, x, t, cond: (seen.append(len(x)), real(self, x, t, cond))[1]
    )
    loop.run(recipe)
    assert sum(seen) == told.run
    assert told.rounds[0] == {
        "sampling": 20,
        "update": 8,
        "reference": 8 if "beta" in str(given) else 0,
        "divergence": 8,
    }
    assert told.evaluation == 16


def test_calls_of_a_tree_are_those_of_a_run(tmp_path, monkeypatch):
    """By hand: two trees of four leaves fork at the first and third of four noisy steps.

    The five steps of a tree have 2 2 4 4 4 calls, and its rows are 2 2 4 4.
    """
    from vidrl.training import loop

    recipe = config.load(
        toy(tmp_path, group=4), ["algorithm.name=branch", "algorithm.options.train_steps=0"]
    )
    told = counting.count(
        recipe, plugin.load("algorithms", "branch", **recipe.algorithm.options), Toy.tiny(), 32
    )
    seen, real = [], Toy.predict
    monkeypatch.setattr(
        Toy, "predict", lambda self, x, t, cond: (seen.append(len(x)), real(self, x, t, cond))[1]
    )
    loop.run(recipe)
    assert told.rounds[0] == {
        "sampling": 2 * 16,
        "update": 2 * 12,
        "reference": 0,
        "divergence": 2 * 12,
    }
    assert sum(seen) == told.run


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nft", {"kl_beta": 0.1}),
        ("awm", {}),
        ("dpo", {}),
        ("kto", {}),
        ("rwr", {}),
        ("reward_backprop", {}),
        ("reward_backprop", {"way": "draft", "last": 2}),
        ("ddpo", {}),
        ("dpok", {}),
    ],
)
def test_calls_of_every_family_are_those_of_a_run(tmp_path, monkeypatch, name, options):
    from vidrl.training import loop

    recipe = config.load(toy(tmp_path, rounds=3, group=4))
    table = recipe.to_dict() | {"algorithm": {"name": name, "options": {"steps": 5} | options}}
    recipe = config.build(table)
    told = counting.count(
        recipe, plugin.load("algorithms", name, **recipe.algorithm.options), Toy.tiny(), 32
    )
    seen, real = [], Toy.predict
    monkeypatch.setattr(
        Toy, "predict", lambda self, x, t, cond: (seen.append(len(x)), real(self, x, t, cond))[1]
    )
    loop.run(recipe)
    assert sum(seen) == told.run


def test_a_loss_that_scores_for_itself_by_hand(tmp_path):
    """Four clips; the loop decodes none, and the loss decodes each once, forward and
    backward."""
    table = toy(tmp_path).to_dict() | {
        "algorithm": {"name": "reward_backprop", "options": {"steps": 5, "updates": 1}}
    }
    found = cost.estimate(config.build(table), pace=lambda recipe: pace())
    assert found.seconds["decode"] == found.seconds["reward"] == 0 == found.flops["decode"]
    # four rows; a divergence asks two sets of weights
    assert found.seconds["update"] == 4 * 3 + 8 * 1
    flops = found.flops
    network = 4 * flops["call_with_backward"] + 8 * flops["call"]
    assert flops["update"] == network + 2 * 4 * flops["decode_a_clip"]


class OfPairs(DPO):
    """DPO that takes the pairs of files where a recipe names them."""

    data = "optional pairs"


def test_a_round_of_files_samples_and_scores_nothing(tmp_path):
    """Four clips under two noises each; two pairs of clips under three noises, which ask
    for both clips of a pair."""
    recipe = toy(tmp_path)
    clips = counting.count(recipe, plugin.load("algorithms", "sft", noises=2), Toy.tiny(), 32)
    assert (
        clips.rounds[0]["sampling"] == clips.first.scored == 0
        and clips.rounds[0]["update"] == 4 * 2
    )
    paired = replace(recipe, data=replace(recipe.data, pairs="pairs.jsonl"))
    pairs = counting.count(paired, OfPairs(noises=3), Toy.tiny(), 32)
    assert (
        pairs.rounds[0]["sampling"] == pairs.first.scored == 0
        and pairs.rounds[0]["update"] == 2 * 3 * 2
    )


def test_a_row_of_a_pair_is_timed_once(tmp_path):
    """Two prompts of two clips: two pairs under one noise in two updates; a row asks
    twice."""
    options = {"steps": 5, "noises": 1, "updates": 2}
    table = toy(tmp_path).to_dict() | {"algorithm": {"name": "dpo", "options": options}}
    found = cost.estimate(config.build(table), pace=lambda recipe: pace())
    assert found.calls["update"] == 4 and found.calls["micro_batch"] == 1
    extra = found.calls["reference"] + found.calls["divergence"]
    assert found.seconds["update"] == 2 * 3 + extra


def test_a_gate_and_an_ema_cost_what_they_cost(tmp_path):
    algorithm = {
        "name": "nft",
        "options": {"steps": 5, "kl_beta": 0.1, "gate": 0.5, "sample_from": "ema"},
    }
    table = toy(tmp_path, ema=0.9).to_dict() | {"algorithm": algorithm}
    assert cost.estimate(config.build(table), measure=False).calls["sampling"] == 4 * 5


# --- the whole


def pace(**given):
    made = {
        "forward": 1.0,
        "backward": 3.0,
        "decode": 2.0,
        "reward": 5.0,
        "encode": 0.5,
        "resident": 1e9,
        "peak": 2e9,
    }
    return Pace(**made | given)


def test_seconds_of_a_measured_machine_by_hand(tmp_path):
    found = cost.estimate(toy(tmp_path), pace=lambda recipe: pace())
    assert found.seconds == pytest.approx(
        {
            "sample": 20 * 1 + 2 * 0.5,
            "decode": 8,
            "reward": 20,
            "update": 8 * 3 + 8 * 1,
            "round": 81,
            "evaluation": 16 * 1 + 4 * 2 + 2 * 5,
            "run": 2 * 81 + 2 * 34,
        }
    )
    assert found.basis == cost.MEASURED
    kept = found.memory["host"] - found.memory["host: clips decoded and scored at once"]
    assert found.memory["peak resident"] == pytest.approx(2e9 + kept)


def test_seconds_on_a_card_are_flops_over_its_peak(tmp_path):
    found = cost.estimate(toy(tmp_path), gpu="a100-40", utilisation=0.5)
    assert found.seconds["update"] == pytest.approx(found.flops["update"] / (19.5e12 * 0.5))
    assert (
        found.basis == cost.ESTIMATE and math.isnan(found.seconds["reward"]) and found.card["fits"]
    )
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["seconds"]["reward"] is None


def test_memory_parts_by_hand(tmp_path):
    recipe = toy(tmp_path, rollouts_on_cpu=False)
    found = cost.estimate(recipe, measure=False).memory
    weights = sum(p.numel() for p in Toy.tiny().network.parameters())
    assert (
        found["trained weights"] == 4 * weights
        and found["gradient, optimiser and copies"] == 16 * weights
    )
    trajectories = 4 * 4 * (1 + 2 * 2) * 3 * 3 * 4 * 4
    assert found["kept trajectories"] == trajectories and "host: rollout" not in found
    away = cost.estimate(toy(tmp_path), measure=False).memory
    assert away["kept trajectories"] == 0 and away["host: rollout"] >= trajectories


def test_host_memory_by_hand(tmp_path):
    """A clip of the toy is 9 x 3 x 32 x 32 float32; a round has 2 x 2 clips, an evaluation
    2 and their 2 twins."""
    clip, toys_condition = 4 * 9 * 3 * 32 * 32, Toy.tiny().encode(["x"])["text"].nbytes
    found = cost.estimate(toy(tmp_path, score_batch=3, show=1), measure=False).memory
    assert (
        found["host: clips decoded and scored at once"] == 3 * clip
        and found["host: shown clips"] == 2 * 2 * clip
    )
    assert found["host: thumbnails"] == 4 * 9 * 3 * 16 * 16 * 4
    assert found["host: kept conditions"] == (2 + 2) * toys_condition
    assert found["host"] == sum(value for name, value in found.items() if name.startswith("host: "))


@pytest.mark.slow
def test_host_and_device_memory_do_not_grow_with_the_number_of_clips(tmp_path):
    """81 frames of 480 x 832: 388 MB a clip, and 256 of them would be 99 GB."""
    few, many = (
        cost.estimate(
            config.load(
                "scripts/recipes/wan_1.3b.toml",
                [
                    f"train.group={group}",
                    "train.rounds=1",
                    "backbone.options.frames=81",
                    "backbone.options.height=480",
                    "backbone.options.width=832",
                ],
            ),
            gpu="h100-80",
        ).memory
        for group in (4, 64)
    )
    clip = 4 * 81 * 3 * 480 * 832
    assert (
        few["host: clips decoded and scored at once"]
        == many["host: clips decoded and scored at once"]
        == 4 * clip
    )
    assert many["host: text encoder"] > 11e9  # UMT5-XXL in bfloat16: the recipe offloads it
    assert many["stage: decoding"] == few["stage: decoding"]
    # the samples' latents alone wait for the update, for each clip; a prompt's condition is kept once
    assert 15.9 * few["host: rollout"] < many["host: rollout"] < 16 * few["host: rollout"]
    assert many["host"] - many["host: rollout"] < 20e9


def test_the_demo_is_told_as_it_is(capsys):
    status, out, _ = said(capsys, "cost", DEMO, "--gpu", "rtx4090-24", "--json")
    told = json.loads(out)
    assert (
        status == 0 and told["shape"]["latent"] == [16, 5, 4, 4] and told["shape"]["tokens"] == 80
    )
    assert (told["shape"]["frames"], told["shape"]["pixels"], told["shape"]["segments"]) == (
        17,
        [32, 32],
        5,
    )
    assert (told["calls"]["sampling"], told["calls"]["update"]) == (480, 192)
    assert told["calls"]["divergence"] == 2 * told["calls"]["micro_batch"] == 32


def test_a_card_too_small_is_told_with_what_to_do():
    memory = {"peak": 30e9}
    assert not cost._fits(memory, cards.find("rtx4090-24")) and cost._fits(
        memory, cards.find("a100-40")
    )
    recipe = config.load(
        "scripts/recipes/wan_1.3b.toml",
        ["train.micro_batch=8", "backbone.options.gradient_checkpointing=false"],
    )
    advice = cost._advice(recipe, memory, 8)
    assert (
        advice[0].startswith("train.micro_batch=2") and "gradient_checkpointing=true" in advice[1]
    )
    offload = "backbone.options.text_encoder=offload"
    assert not any(one.startswith(offload) for one in advice)  # the recipe has it already
    kept = replace(recipe.backbone, options={**recipe.backbone.options, "text_encoder": "keep"})
    advice = cost._advice(replace(recipe, backbone=kept), memory, 8)
    assert any(one.startswith(offload) for one in advice)


def test_units():
    assert table.scaled(999.0, "B") == "999 B" and table.scaled(2.5e15, "FLOP") == "2.5 PFLOP"
    assert table.duration(119) == "119.0 s" and table.duration(7200) == "2.0 h"


def test_text_says_that_a_card_is_not_measured(capsys, tmp_path):
    made = table.text(table.blocks(cost.estimate(toy(tmp_path), gpu="h100-80")))
    assert made.count("estimate, not measured") >= 2 and "35% of its peak 989 TFLOP/s" in made


# --- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [DEMO, "--gpu", "h200"],
            "did you mean h200-141? known: a100-40, a100-80, h100-80, h200-141, l40s-48, rtx4090-24",
        ),
        ([DEMO, "train.roundz=3"], "did you mean 'train.rounds'"),
        (["nothing.toml"], "nothing.toml: expected a TOML file, found none"),
        ([DEMO, "algorithm.options.segments=9", "--no-measure"], "expected 1 to 5 segments"),
        (
            [DEMO, "backbone.options.model=no/such/folder"],
            "give a folder that holds transformer/config.json",
        ),
        ([DEMO, "backbone.options.model=docs"], "docs, which has no transformer/config.json"),
        (
            [DEMO, "--gpu", "h100-80", "--utilisation", "1.5"],
            "expected a utilisation in (0, 1], got 1.5",
        ),
        ([DEMO, "--gpu", "h100-80", "--measure"], "but a card was named"),
        (["scripts/recipes/wan_1.3b.toml", "--measure"], "are not here"),
    ],
)
def test_bad_input_is_told_in_one_message(capsys, arguments, message):
    status, out, err = said(capsys, "cost", *arguments)
    assert (
        status == 2
        and out == ""
        and err.startswith("vidrl: ")
        and message in err
        and "Traceback" not in err
    )


# --- against runs that happened


RUN = """
import json, sys, time
from types import SimpleNamespace
from vidrl import config, cost, train
from vidrl.training import record
from vidrl.backbones.wan import Wan
from vidrl.cost.calibrate import Bench, peak
recipe = config.load("scripts/recipes/study.toml", [f"run={sys.argv[2]}", "train.rounds=3", "train.prompts_per_round=2", "data.held_out_n=4"])
if sys.argv[1] == "cost":
    made = cost.estimate(recipe, pace=lambda r: Bench(r, time.process_time).measure()).to_dict()
    print("RESULT" + json.dumps(made))
else:
    record.time = SimpleNamespace(perf_counter=time.process_time)
    calls, real = [], Wan.predict
    Wan.predict = lambda self, x, t, cond: (calls.append(len(x)), real(self, x, t, cond))[1]
    folder = train.run(recipe)
    rows = [json.loads(line)["seconds"] for line in open(folder / "metrics.jsonl")]
    print("RESULT" + json.dumps({"seconds": rows, "calls": sum(calls), "peak": peak()}))
"""


def child(which, folder):
    """One process's own CPU seconds and memory: another's work on this machine does not
    count."""
    made = subprocess.run(
        [sys.executable, "-c", RUN, which, str(folder)], capture_output=True, text=True, check=True
    )
    return json.loads(made.stdout.rpartition("RESULT")[2])


@pytest.mark.slow
def test_a_calibration_foretells_the_calls_and_the_memory_of_a_run(tmp_path):
    """Seconds depend on what else the machine does: they are only compared in their order."""
    told, real = child("cost", tmp_path / "none"), child("run", tmp_path / "run")
    assert told["calls"]["run"] == real["calls"]
    assert told["memory"]["peak resident"] == pytest.approx(real["peak"], rel=0.2)
    seconds = sorted(sum(row.values()) for row in real["seconds"])[1]
    assert 1 / 3 < told["seconds"]["round"] / seconds < 3

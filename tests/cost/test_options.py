"""The memory options of a recipe change the traced peak by amounts computed by hand."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from vidrl import cli, config, cost
from vidrl.attention import AttentionError
from vidrl.cost import (
    Target,
    cards,
    choices,
    counting,
    families,
    fit,
    memory,
    skeleton,
    stored,
    tracing,
    work,
)

ROOT = Path(__file__).parents[2]
WAN = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def network():
    """Two blocks of a layer of 64 x 128 weights in bfloat16, and a layer outside of them."""
    block = [nn.Sequential(nn.Linear(128, 64, bias=False), nn.Linear(64, 128, bias=False))] * 1
    made = nn.Sequential(
        nn.Linear(128, 128, bias=False),
        nn.ModuleList([*block, nn.Sequential(nn.Linear(128, 128, bias=False))]),
    )
    return made.to(torch.bfloat16).requires_grad_(False)


# --- quantization


@pytest.mark.parametrize(("kind", "each"), [("none", 2), ("fp8", 1), ("int8", 1), ("nf4", 0.5625)])
def test_bytes_of_a_quantized_network_by_hand(kind, each):
    """The blocks have 2 * 64 * 128 + 128 * 128 weights; the layer outside stays bfloat16."""
    made = network()
    with tracing.shapes():
        tracing.drop_numbers(made)
        packed = stored.quantize(made, kind)
    assert stored.frozen_bytes(made) == 2 * 128 * 128 + each * 2 * 128 * 128
    assert packed == (0 if kind == "none" else 2 * 128 * 128)


def test_a_packed_layer_unpacks_one_weight_at_a_time_and_has_the_same_flops():
    """A chain of 8 layers of 256 x 256: one full weight beside a row of activations."""
    peaks = {}
    for kind in ("none", "nf4"):
        chain = nn.Sequential(nn.ModuleList([nn.Linear(256, 256, bias=False) for _ in range(8)]))
        chain.to(torch.bfloat16).requires_grad_(False)
        with tracing.shapes():
            tracing.drop_numbers(chain)
            stored.quantize(chain, kind)
            x = torch.empty(1, 256, dtype=torch.bfloat16, requires_grad=True)

            def run(layers=chain[0], x=x):
                for layer in layers:
                    x = layer(x)
                x.sum().backward()

            peaks[kind] = tracing.trace(run, [*chain.parameters(), x])
    weight, row = 2 * 256 * 256, 2 * 256
    assert peaks["none"][0] == peaks["nf4"][0] == 2 * 8 * 2 * 256 * 256
    assert peaks["none"][1] < 20 * row
    assert weight <= peaks["nf4"][1] <= weight + 20 * row


def test_fp8_has_the_bytes_of_diffusers_layerwise_casting():
    """An independent reference: the storage that diffusers itself makes of a block's layers."""
    pytest.importorskip("diffusers", reason="needs vidrl[train]")
    from diffusers.hooks import apply_layerwise_casting

    cast, packed = network(), network()
    apply_layerwise_casting(cast[1], torch.float8_e4m3fn, torch.bfloat16)
    with tracing.shapes():
        tracing.drop_numbers(packed)
        stored.quantize(packed, "fp8")
    assert stored.frozen_bytes(cast) == stored.frozen_bytes(packed)


# --- activations


def test_saved_activations_leave_the_device_and_are_counted():
    """Eight tanh of 1000 floats save their results: 32 kB on the device, or on the host."""
    found = {}
    with tracing.shapes():
        x = torch.empty(1000, requires_grad=True)
        for on in (False, True):

            def run(on=on):
                with stored.in_host_memory(on, [x]) as saved:
                    y = x
                    for _ in range(8):
                        y = y.tanh()
                    loss = y.sum()
                    del y
                loss.backward()
                found[on, "host"] = saved.bytes

            found[on] = tracing.trace(run, [x])[1]
    assert found[False, "host"] == 0 and found[True, "host"] == 8 * 4000
    assert found[False] >= 8 * 4000 and found[True] <= 4 * 4000


# --- parts of the whole


def plan(given=("train.rollouts_on_cpu=false",), shards=1, processes=1):
    """The plan of a Wan-1.3B recipe, with a trace of numbers that are easy to add."""
    recipe = config.load("scripts/recipes/wan_1.3b.toml", given)
    found = work.Network(1, 2, 3, 4, 5, 6, 2800, 10, block=80, layers=2400, layer=30, packed=1200)
    weights = {"network": 2800.0, "text encoder": 1100.0, "decoder": 500.0}
    done = work.Work(
        1, 3, 1, 1, weights, 10.0, 7.0, 2, 4, 6, 1, 1, True, network=replace_saved(found, 900)
    )
    backbone = families.Skeleton(WAN, {"num_frames": 33, "height": 240, "width": 416}, 1)
    calls = counting.Calls(
        64,
        4,
        [{"sampling": 64, "update": 64, "reference": 0, "divergence": 0}],
        counting.Round({}, 64, 64, 64, 0),
        1,
        1,
        1,
        1,
    )
    return memory.Plan(recipe, backbone, calls, done, 1, processes, shards)


def replace_saved(found, saved):
    return found._replace(saved=saved)


def with_choices(monkeypatch, made, **given):
    """The device and host bytes of a plan with other choices."""
    chosen = replace(made.chosen, **given)
    monkeypatch.setattr(choices, "read", lambda recipe: chosen)
    found = memory.device(made) | memory.host(made)
    monkeypatch.undo()
    return found


def test_a_text_encoder_is_on_the_device_on_the_host_or_gone(monkeypatch):
    made = plan()
    keep, offload, drop = (
        with_choices(monkeypatch, made, text_encoder=way) for way in ("keep", "offload", "drop")
    )
    assert keep["text encoder"] == 1100 and keep["host: text encoder"] == 0
    assert offload["text encoder"] == 0 and offload["host: text encoder"] == 1100
    assert drop["text encoder"] == drop["host: text encoder"] == 0
    # an offloaded encoder visits the network; one that is dropped has left before the network comes
    assert offload["stage: encoding"] == 1100 and drop["stage: encoding"] == 0
    assert drop["first: text encoder and decoder"] == 1100 + 500
    assert drop["peak"] == offload["peak"], "another stage is larger than the encoders"


def test_dropped_text_encoders_are_the_peak_where_they_are_larger_than_the_rest(monkeypatch):
    made = plan()
    weights = {**made.work.weights, "text encoder": 1e12}
    made = replace(made, work=replace(made.work, weights=weights))
    assert with_choices(monkeypatch, made, text_encoder="drop")["peak"] == 1e12 + 500
    # what group offloading leaves on the device is there from the start
    found = with_choices(monkeypatch, made, text_encoder="drop", group_offload=True)
    assert found["peak"] == 1e12 + 500 + 2800 - 2400 + 30


def test_group_offloading_holds_one_layer_of_the_blocks(monkeypatch):
    found = with_choices(monkeypatch, plan(), group_offload=True)
    assert found["network"] == 2800 - 2400 + 30 and found["host: network"] == 2400


def test_a_lora_in_float32_has_sixteen_bytes_a_weight_and_its_reference(monkeypatch):
    """The weight, its gradient and AdamW's two moments are 16 bytes; the reference adds 4."""
    found = with_choices(monkeypatch, plan())
    assert found["trained weights"] + found["gradient, optimiser and copies"] == 10 * (16 + 4)


def test_rollouts_on_the_cpu_leave_a_piece_on_the_device(monkeypatch):
    made = plan()
    here, away = (with_choices(monkeypatch, made, rollouts_on_cpu=on) for on in (False, True))
    one = 4 * (1 + 2 * 4) * 16 * 9 * 30 * 52  # a clip: its latents, before and after of 4 steps
    assert here["kept trajectories"] == 64 * one and away["kept trajectories"] == 0
    assert away["host: rollout"] >= 64 * one
    assert here["stage: sampling"] == 2 + 64 * one and away["stage: sampling"] == 2 + one


def test_saved_activations_are_on_the_host(monkeypatch):
    assert (
        with_choices(monkeypatch, plan(), activation_offload=True)["host: saved activations"] == 900
    )


def test_processes_share_the_clips_and_shards_the_weights():
    one, four, sharded = (memory.device(p) for p in (plan(), plan(processes=4), plan(shards=4)))
    assert four["kept trajectories"] == one["kept trajectories"] / 4
    assert four["network"] == one["network"] and sharded["network"] == 2800 / 4 + 80
    assert sharded["trained weights"] == one["trained weights"] / 4
    alone, all_four = (memory.host(p) for p in (plan(), plan(processes=4)))
    assert all_four["host: text encoder"] == 4 * alone["host: text encoder"]


# --- families without weights


@pytest.mark.parametrize(
    ("model", "billions"),  # the number in the model's name or card
    [
        ("Lightricks/LTX-Video", 1.92),
        ("THUDM/CogVideoX-2b", 1.69),
        ("stabilityai/stable-diffusion-3.5-medium", 2.24),
        ("black-forest-labs/FLUX.1-dev", 11.9),
        ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", 5.0),
        ("hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v", 8.33),
    ],
)
def test_a_known_family_has_the_weights_of_the_release(model, billions):
    call = {"height": 256, "width": 256, "num_frames": 1}
    depth = families.find(model)["network"]["num_layers"]
    if "dual_attention_layers" in families.find(model)["network"]:
        weights = numbers(families.Skeleton(model, call))
    else:
        one, two = (numbers(families.Skeleton(model, call, n)) for n in (1, 2))
        weights = one + (depth - 1) * (two - one)
    assert weights == pytest.approx(billions * 1e9, rel=0.01)


def numbers(backbone):
    return sum(p.numel() for p in backbone.network.parameters())


def test_the_skeleton_of_wan_predicts_as_the_backbone_wan_does():
    """Two blocks: the driven family and the backbone `wan` count the same FLOPs of a call."""
    recipe = config.load("scripts/recipes/wan_1.3b.toml", ["backbone.options.frames=5"])
    call = {"height": 240, "width": 416, "num_frames": 5}
    flops = []
    for made in (
        skeleton.read(recipe.backbone).build(2, 1),
        families.Skeleton(WAN, call, 2, torch.bfloat16),
    ):
        with tracing.shapes(), torch.no_grad():
            tracing.drop_numbers(made.network)
            x, t, cond = torch.empty(1, *made.shape), torch.empty(1), work._condition(made, 1)
            flops.append(tracing.trace(lambda m=made: m.predict(x, t, cond))[0])  # noqa: B023
    assert flops[0] == flops[1] > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"height": 250}, "expected height to be a multiple of 16, got 250"),
        ({"num_frames": 32}, "expected the number of frames to be 4 k + 1, got 32"),
    ],
)
def test_a_size_that_a_family_does_not_make_is_refused(call, message):
    with pytest.raises(ValueError, match=message.replace("+", r"\+")):
        families.Skeleton(WAN, call, 1)


# --- fitting a card


class Fake:
    """A cost that falls by known bytes for each option, and rises by known seconds."""

    saves = {"gradient_checkpointing": 20e9, "micro_batch": 6e9, "dtype": 10e9, "score_batch": 0}
    takes = {"gradient_checkpointing": 30.0, "micro_batch": 0.0, "dtype": -10.0, "score_batch": 0.0}

    def __call__(self, recipe, target, memo):
        chosen = choices.read(recipe)
        on = {
            "gradient_checkpointing": chosen.gradient_checkpointing,
            "micro_batch": recipe.train.micro_batch == 1,
            "dtype": chosen.dtype == "bfloat16",
        }
        peak = 50e9 - sum(self.saves[name] for name, is_on in on.items() if is_on)
        taken = 100.0 + sum(self.takes[name] for name, is_on in on.items() if is_on)
        fits = cost._fits({"peak": peak}, target.card)
        facts = {"fits": fits, "name": target.card.name}
        return cost.Cost("r", {}, {}, {}, {"peak": peak}, {"round": taken}, "", facts, [])


def searched(monkeypatch, card, *given):
    monkeypatch.setattr(fit, "of_target", Fake())
    options = ["backbone.options.gradient_checkpointing=false", "backbone.options.dtype=float32"]
    recipe = config.load("scripts/recipes/wan_1.3b.toml", [*options, "train.micro_batch=4", *given])
    return fit.search(recipe, Target(cards.find(card)))


def test_the_cheapest_set_that_fits_is_found(monkeypatch):
    """50 GB into 48: the dtype would cost no time either, but changes the numbers."""
    found = searched(monkeypatch, "l40s-48")
    assert found.fits and found.overrides == ["train.micro_batch=1"]
    assert found.rows[0].saved == 6e9 and found.rows[0].slower == 0


def test_a_small_card_needs_more_options_and_no_others(monkeypatch):
    """50 GB into 24 needs 28: checkpointing and one of the others that suffices."""
    found = searched(monkeypatch, "rtx4090-24")
    assert found.overrides == [
        "backbone.options.dtype=bfloat16",
        "backbone.options.gradient_checkpointing=true",
    ]
    assert [row.peak for row in found.rows] == [40e9, 20e9] and found.after.memory["peak"] == 20e9
    config.load("scripts/recipes/wan_1.3b.toml", found.overrides)


@pytest.mark.parametrize(
    "given, refused",
    [
        ("parallel.shard=fsdp", ("quantization", "group_offload")),
        ("backbone.options.compile=true", ("fp8", "group_offload")),
    ],
)
def test_no_set_has_options_that_the_recipe_refuses(given, refused):
    recipe = config.load("scripts/recipes/wan_1.3b.toml", [given])
    sets = fit._sets(list(fit._groups(recipe)))
    chosen = [[option.override for option in one] for one in sets if fit._allowed(recipe, one)]
    assert chosen and not any(word in text for one in chosen for text in one for word in refused)


def test_split_tokens_are_not_estimated_as_whole_ones():
    recipe = config.load("scripts/recipes/wan_1.3b.toml", ["parallel.context=2"])
    with pytest.raises(ValueError, match="the estimate knows no split tokens"):
        cost.check_processes(recipe, 2)


def test_where_nothing_fits_the_larger_cards_are_named(monkeypatch):
    monkeypatch.setattr(Fake, "saves", dict.fromkeys(Fake.saves, 1e9))
    found = searched(monkeypatch, "rtx4090-24")
    assert not found.fits and found.after.memory["peak"] == 47e9
    assert found.larger == ["a100-80", "h100-80", "h200-141"]


def test_a_recipe_that_fits_needs_no_option(monkeypatch):
    found = searched(monkeypatch, "h100-80")
    assert found.fits and found.rows == [] and found.before is found.after


def said(capsys, *arguments):
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as left:
        status = left.code
    return (status, *capsys.readouterr())


def test_the_command_prints_overrides_and_writes_the_recipe(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(fit, "of_target", Fake())
    given = ["backbone.options.gradient_checkpointing=false", "backbone.options.dtype=float32"]
    out = tmp_path / "fitted.toml"
    recipe = "scripts/recipes/wan_1.3b.toml"
    arguments = [recipe, *given, "--gpu", "rtx4090-24", "--fit"]
    status, text, _ = said(capsys, "cost", *arguments, "--out", out)
    assert status == 0 and "backbone.options.gradient_checkpointing=true  20 GB" in text
    line = text.splitlines()[-1].strip()
    assert line.startswith(f"vidrl train {recipe} ") and line.endswith("checkpointing=true")
    assert tomllib.loads(out.read_text())["backbone"]["options"]["gradient_checkpointing"] is True
    status, text, _ = said(capsys, "cost", *arguments, "--json")
    assert json.loads(text)["fits"] is True and status == 0


def test_the_command_leaves_with_1_if_nothing_fits(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(fit, "of_target", Fake())
    monkeypatch.setattr(Fake, "saves", dict.fromkeys(Fake.saves, 1e9))
    out = tmp_path / "fitted.toml"
    status, text, _ = said(
        capsys,
        "cost",
        "scripts/recipes/wan_1.3b.toml",
        "--gpu",
        "rtx4090-24",
        "--fit",
        "--out",
        out,
    )
    assert status == 1 and "NOTHING FITS" in text and "a100-80" in text and not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fit"], "expected --gpu CARD with --fit"),
        (["--gpu", "h200", "--fit"], "did you mean h200-141"),
        (["--gpu", "h100-80", "--out", "x.toml"], "expected --fit with --out"),
        (["--gpu", "h100-80", "--processes", "0"], "expected a whole number of at least 1"),
        (["--gpu", "h100-80", "--processes", "-2"], "expected a whole number of at least 1"),
        (["--gpu", "h100-80", "--processes", "7"], "processes that divide the 64 clips"),
    ],
)
def test_bad_input_is_told_in_one_message(capsys, arguments, message):
    status, out, err = said(capsys, "cost", "scripts/recipes/wan_1.3b.toml", *arguments)
    assert status == 2 and out == "" and message in err and "Traceback" not in err


def test_the_layers_that_are_counted_as_quantised_are_those_that_quantisation_takes():
    from vidrl.backbones import _quantization

    class Network(nn.Module):
        _keep_in_fp32_modules = ("wide",)

        def __init__(self):
            super().__init__()
            parts = {"narrow": nn.Linear(2, 2), "wide": nn.Linear(2, 2), "lora": nn.Linear(2, 2)}
            self.blocks = nn.ModuleList([nn.ModuleDict(parts)])
            self.embedder = nn.Linear(2, 2)

    network = Network().requires_grad_(False)
    network.blocks[0]["lora"].requires_grad_(True)
    assert _quantization.layers(network) == ["blocks.0.narrow", "blocks.0.lora"]
    assert stored.linear_layers(network) == [network.blocks[0]["narrow"]]


def test_a_misspelt_kernel_is_refused_and_one_of_another_machine_is_not():
    table = {"run": "r", "backbone": {"name": "wan", "options": {"model": WAN}}}
    options = table["backbone"]["options"]
    options |= {"attention": "flash3", "rollout_attention": "sage"}
    choices.read(config.build(table, files=False))
    options["rollout_attention"] = "sgae"
    with pytest.raises(AttentionError, match="got 'sgae': did you mean 'sage'"):
        choices.read(config.build(table, files=False))

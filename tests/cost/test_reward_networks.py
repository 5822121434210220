"""What learned rewards cost on a card: FLOPs by hand, bytes of a real pass, seconds and peak."""

import math

import pytest
import torch
from test_cost_scoring import recipe

from vidrl import cost
from vidrl.cost import cards, reward_networks, scoring
from vidrl.cost.tracing import trace

transformers = pytest.importorskip("transformers")

LARGE = "clip:openai/clip-vit-large-patch14"


def flops_of_vit(tokens, width, inner, layers, patch, projection):
    """Two a multiply-add: four products and two of the feed-forward, and the two of attention."""
    layer = 2 * tokens * (4 * width**2 + 2 * width * inner) + 4 * tokens**2 * width
    return layers * layer + 2 * (tokens - 1) * 3 * patch**2 * width + 2 * width * projection


def test_the_flops_of_a_frame_are_those_of_the_products_by_hand():
    found = reward_networks.of_source(LARGE, "float32")
    assert found.flops == flops_of_vit(257, 1024, 4096, 24, 14, 768)
    # the published file has 428 million weights
    assert found.weights == pytest.approx(4 * 428e6, rel=2e-3)
    half = reward_networks.of_source(LARGE, "bfloat16")
    assert (half.flops, half.weights) == (found.flops, found.weights / 2)


@pytest.mark.parametrize("source", list(reward_networks.table()["networks"]))
def test_every_network_of_the_table_is_built(source):
    found = reward_networks._traced(source, "float32")
    assert found.flops > 1e10 and found.weights > 1e8 and found.alive > 1e6


def test_the_bytes_of_a_frame_are_those_of_a_real_pass(monkeypatch):
    """A network of two layers, with numbers, against the same one on shapes."""
    entry = {"class": "ViTModel", "side": 64, "config": {"num_hidden_layers": 2, "image_size": 64}}
    monkeypatch.setitem(reward_networks.table()["networks"], "tiny", entry)
    found = reward_networks._traced("tiny", "float32")
    real = transformers.ViTModel(transformers.ViTConfig(**entry["config"])).eval()
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        flops, alive = trace(lambda: real(pixel_values=pixels), [*real.parameters(), pixels])
    assert (found.flops, found.weights) == (flops, 4 * sum(p.numel() for p in real.parameters()))
    assert found.alive == pytest.approx(alive, rel=0.01)


def test_the_rewards_of_the_table_have_its_options_and_known_defaults():
    for name in reward_networks.table()["rewards"]:
        found = reward_networks.of_reward(name, {}, 9, 4)
        assert not isinstance(found, str), found
        assert found.precision == "float32" and found.resident > found.alive > 0


def test_options_of_the_reward_and_the_budget_are_counted():
    frame = reward_networks.of_source(LARGE, "bfloat16")

    def found(memory=0.0, **options):
        given = {"dtype": "bfloat16", "model": LARGE} | options
        return reward_networks.of_reward("aesthetic", given, 9, 4, memory)

    plain = found()
    assert plain.precision == "bfloat16" and plain.flops == 9 * frame.flops
    assert plain.alive == 16 * frame.alive and found(chunk=2).alive == 2 * frame.alive
    assert found(chunk=100).alive == 36 * frame.alive  # all frames of the four clips
    assert found(3.5 * frame.alive / 1e9).alive == 3 * frame.alive
    assert found(0.5 * frame.alive / 1e9).alive == frame.alive
    assert found(frames=3).flops == 3 * frame.flops
    away = found(offload=True)
    assert (away.resident, away.alive) == (0, 16 * frame.alive + frame.weights)


def test_what_is_not_known_says_why():
    unknown = reward_networks.of_reward
    assert "my/own is not in" in unknown("aesthetic", {"model": "clip:my/own"}, 9, 4)
    assert "efficientnet is not in" in unknown(
        "feature_consistency", {"encoder": "efficientnet"}, 9, 4
    )
    assert unknown("feature_consistency", {"encoder": "dino"}, 9, 4).flops > 0
    mixed = recipe(parts={"aesthetic": 1.0, "niqe": 1.0})
    found = scoring.of_recipe(mixed, (9, 64, 64), 4, 0)
    assert math.isnan(found.moved) and "the recipe has niqe" in found.note


def test_seconds_weights_and_bytes_are_in_the_round_and_the_peak():
    card = cards.CARDS["a100-40"]
    found = cost.estimate(recipe(name="aesthetic"), gpu="a100-40")
    frame = reward_networks.of_source(LARGE, "float32")
    assert found.memory["reward's networks"] == frame.weights
    a_clip = found.seconds["reward"] / 4
    read = a_clip * card.float32 * cards.UTILISATION / frame.flops
    assert read == pytest.approx(round(read)) and read >= 1
    without = cost.estimate(recipe(name="niqe"), gpu="a100-40")
    assert found.memory["peak"] > without.memory["peak"] + frame.weights


def test_a_composite_is_the_sum_of_its_parts():
    size = (9, 64, 64)
    both = recipe(parts={"default": 1.0, "aesthetic": {"options": {"dtype": "bfloat16"}}, "hps": 1})
    found = scoring.of_recipe(both, size, 4, 0)
    single = [scoring.of_recipe(recipe(name=name), size, 4, 0) for name in ("default", "hps")]
    frame = reward_networks.of_source(LARGE, "bfloat16")
    assert found.moved == single[0].moved and found.resident == single[1].resident + frame.weights
    assert found.flops == single[1].flops | {"bfloat16": 9 * frame.flops}
    card = cards.CARDS["a100-40"]
    assert found.seconds(card, 0.5) == pytest.approx(
        found.moved / card.bandwidth
        + 9 * frame.flops / (card.bfloat16 * 0.5)
        + single[1].flops["float32"] / (card.float32 * 0.5)
    )

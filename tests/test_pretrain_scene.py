"""The script that trained the embedded model of scenes: its latents, its loss and its files."""

import ast
import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch

from vidrl.backbones.scene import Scene
from vidrl.synthetic import scenes, splat

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))


@pytest.fixture(scope="module")
def script():
    return importlib.import_module("pretrain_scene")


def test_latents_of_the_corpus_are_what_the_backbone_decodes(script) -> None:
    latents, words = script.examples(3, seed=1)
    caption, tokens = next(scenes.corpus(1, 4))
    model = Scene("assets/tiny-scene", views=4, size=16)
    expected = splat.render(splat.blobs(tokens[None]), splat.cameras(4), 16)
    torch.testing.assert_close(model.decode(latents[:1]), expected)
    assert torch.equal(words[:1], model.encode([caption])["words"])


def test_latents_of_moving_scenes_have_the_place_of_each_arc(script) -> None:
    latents, words = script.examples(2, 1, moving=True)
    caption, tokens = next(scenes.corpus(1, 8, moving=True))
    assert latents.shape == (2, 8, 8, scenes.BLOBS, 1)
    assert torch.equal(latents[0, ..., 0].permute(1, 2, 0), tokens)
    assert torch.equal(words[:1], Scene.tiny().encode([caption])["words"])


def test_the_loss_of_the_true_velocity_is_zero(script) -> None:
    x0 = script.examples(4, seed=2)[0]

    def true(x, t, words):
        return (x - x0) / t.view(-1, 1, 1, 1, 1)  # ε - x0, of x = (1 - t) x0 + t ε

    assert script.loss(true, x0, None, torch.Generator().manual_seed(0)) < 1e-6


def test_training_writes_a_model_that_the_backbone_loads(script, tmp_path) -> None:
    script.train(tmp_path / "new", steps=2, batch=2, pool=4)
    model = Scene(str(tmp_path / "new"), views=4, size=16)
    assert model.shape == (8, 4, 20, 1)
    row = json.loads((tmp_path / "new" / "pretraining.jsonl").read_text())
    assert row["step"] == 2 and row["loss"] > 0


def test_the_embedded_prompts_are_the_scripts(script, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(script, "PROMPTS", tmp_path)
    script.write_prompts()
    for kind in ("scenes", "moving_scenes"):
        made = {}
        for split in ("train", "held_out"):
            name = f"{kind}_{split}.txt"
            made[split] = (tmp_path / name).read_text()
            assert made[split] == (Path("assets/prompts") / name).read_text()
        train, held_out = (text.splitlines() for text in made.values())
        assert len(held_out) == 128 and len({*train, *held_out}) == len(train) + 128
        moving = [any(scenes.parse(caption).motions) for caption in [*train, *held_out]]
        assert all(moving) if kind == "moving_scenes" else not any(moving)


@pytest.mark.parametrize("moving", [False, True])
def test_no_held_out_caption_is_in_the_corpus(moving) -> None:
    held_out = {scene.caption for scene in scenes.scenes("held_out", moving=moving)}
    made = scenes.corpus(1, 2, moving)
    assert held_out.isdisjoint({next(made)[0] for _ in range(1000)})


@pytest.mark.parametrize(
    ("name", "moving"), [("tiny-scene", False), ("tiny-scene-4d", True)], ids=str
)
def test_a_card_has_the_numbers_of_its_training(script, name, moving) -> None:
    folder = Path("assets") / name
    card = " ".join((folder / "README.md").read_text().split())
    config = json.loads((folder / "config.json").read_text())
    last = json.loads((folder / "pretraining.jsonl").read_text().splitlines()[-1])
    weights = sum(x.numel() for x in Scene(str(folder)).network.parameters())
    assert config == (script.MOVING if moving else script.CONFIG)
    assert last["step"] == (script.MOVING_STEPS if moving else script.STEPS)
    pool = script.MOVING_POOL if moving else script.POOL
    assert f"{last['step']} steps of 64 scenes, {last['cpu_seconds']:.0f} s of CPU time" in card
    assert f"{pool:,} scenes" in card and f"| {weights / 1e6:.2f} M |" in card
    assert f"for each of {config['arcs']} arcs" in card
    assert f"{config['depth']} layers of width {config['width']}" in card


@pytest.mark.slow
def test_the_verifier_reads_what_the_card_of_moving_scenes_says(script, capsys) -> None:
    """Other CPUs round otherwise, so that single orbits of the 128 may differ."""
    script.check(Path("assets/tiny-scene-4d"), 128, 20, moving=True)
    found = ast.literal_eval(capsys.readouterr().out)
    card = " ".join(Path("assets/tiny-scene-4d/README.md").read_text().split())
    for name in ("colours", "shapes", "relation", "motion"):
        said = re.search(rf"{name} ([\d.]+) %", card)
        assert float(said[1]) / 100 == pytest.approx(found[name], abs=0.02)
    said = re.search(r"([\d.]+) % of the orbits show one rigid scene", card)
    assert float(said[1]) / 100 == pytest.approx(found["rigid"], abs=0.02)

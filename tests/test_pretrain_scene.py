"""The script that trained the embedded model of scenes: its latents, its loss and its files."""

import importlib
import json
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

"""The script that trained the embedded model of worlds: its clips, its loss and its files."""

import importlib
import json
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch

from vidrl.backbones.world import World, latents_of
from vidrl.data import picture, prompts
from vidrl.synthetic import agent_verifier, agents

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))


@pytest.fixture(scope="module")
def script():
    return importlib.import_module("pretrain_world")


def test_clips_of_the_corpus_are_drawn_from_their_states(script) -> None:
    clips, actions = script.examples(3, seed=1)
    for clip, numbers, (words, states) in zip(
        clips, actions, islice(agents.corpus(1, 4), 3), strict=True
    ):
        torch.testing.assert_close(clip, agents.render(states))
        assert [list(agents.ACTIONS)[i] for i in numbers] == words


def test_the_loss_of_the_true_clip_is_zero(script) -> None:
    clips, actions = script.examples(2, seed=2)
    x0 = latents_of(clips, script.ACTIONS)

    def true(x, t, frame, numbers):
        return x0

    assert script.loss(true, clips, actions, torch.Generator().manual_seed(0)) < 1e-9


def test_training_writes_a_model_that_the_backbone_loads(script, tmp_path) -> None:
    script.train(tmp_path / "new", steps=2, batch=2)
    model = World(str(tmp_path / "new"))
    assert model.shape == (6, 4, 36, 36) and model.words == list(agents.ACTIONS)
    row = json.loads((tmp_path / "new" / "pretraining.jsonl").read_text())
    assert row["step"] == 2 and row["loss"] > 0


def test_the_embedded_prompts_are_the_scripts(script, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(script, "PROMPTS", tmp_path)
    script.write_prompts()
    for split in ("train", "held_out"):
        name = f"agents_{split}.jsonl"
        assert (tmp_path / name).read_text() == (Path("assets/prompts") / name).read_text()
        for number in (0, 100):
            made, kept = (
                picture.read(folder / f"agents_{split}" / f"{number:03d}.png")
                for folder in (tmp_path, Path("assets/prompts"))
            )
            assert torch.equal(made, kept)
        asked = prompts.read(Path("assets/prompts") / name, strict=True)
        assert len(agent_verifier.wanted(asked[-1])) == 5

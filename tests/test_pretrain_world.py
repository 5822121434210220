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


def test_half_of_the_prompts_push_the_box() -> None:
    """Every second first frame is beside the box, and all of its prompts push; in both splits."""
    first = {}
    for split, (starts, each) in (("train", (128, 4)), ("held_out", (128, 1))):
        asked = prompts.read(Path(f"assets/prompts/agents_{split}.jsonl"), strict=True)
        states = [agent_verifier.wanted(prompt) for prompt in asked]
        pushed = torch.tensor([agents.pushes(found) for found in states]).double()
        odd = torch.arange(starts).repeat_interleave(each) % 2 == 1
        assert len(asked) == starts * each and bool((pushed[odd].amax(1) == 1).all())
        assert 0.5 <= float(pushed.amax(1).mean()) < 0.6
        # without such prompts, 4 % of the actions would push
        assert 0.15 < float(pushed.mean()) < 0.25
        # any first half of the prompts is as balanced
        assert 0.5 <= float(pushed[: len(asked) // 2].amax(1).mean()) < 0.6
        first[split] = {found[0] for found in states}
        assert len(first[split]) == starts
    assert first["train"].isdisjoint(first["held_out"])


def test_the_embedded_prompts_are_the_scripts(script, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(script, "PROMPTS", tmp_path)
    script.write_prompts()
    assert "train {'prompts': 0.543, 'actions': 0.194}" in capsys.readouterr().out
    for split in ("train", "held_out"):
        name = f"agents_{split}.jsonl"
        assert (tmp_path / name).read_text() == (Path("assets/prompts") / name).read_text()
        for number in (0, 101):
            made, kept = (
                picture.read(folder / f"agents_{split}" / f"{number:03d}.png")
                for folder in (tmp_path, Path("assets/prompts"))
            )
            assert torch.equal(made, kept)
        asked = prompts.read(Path("assets/prompts") / name, strict=True)
        assert len(agent_verifier.wanted(asked[-1])) == 5

"""The backbone of worlds: what it refuses, its actions, its causality and its files.
tests/backbones/test_contract.py holds the promises of all backbones."""

import json

import pytest
import torch
from safetensors.torch import save_file

from vidrl import config, plugin
from vidrl.backbones.world import World
from vidrl.data import picture
from vidrl.data.prompt import Prompt
from vidrl.training import evaluate

MODEL = "assets/tiny-world"


@pytest.fixture
def image(tmp_path):
    file = tmp_path / "frame.png"
    picture.write(file, torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0)))
    return file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("left jump", "expected actions of this world, stay, left, right, got 'jump'"),
        ("left", "expected 2 actions in a prompt, got 1"),
        ("left left left", "expected 2 actions in a prompt, got 3"),
        ("", "expected 2 actions in a prompt, got 0"),
    ],
)
def test_prompts_that_are_no_actions_are_refused(image, text, message) -> None:
    with pytest.raises(ValueError, match=message):
        World.tiny().check_prompts([Prompt(text, {"image": image})])


def test_prompts_without_the_last_frame_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="expected prompts with image, which World needs"):
        World.tiny().encode(["left left"])
    picture.write(tmp_path / "wide.png", torch.zeros(3, 12, 16))
    with pytest.raises(ValueError, match="an image of 12 x 12 pixels.*got 16 x 12"):
        World.tiny().encode([Prompt("left left", {"image": tmp_path / "wide.png"})])


def test_a_folder_that_holds_no_model_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="expected a model of worlds, .*got .*/nowhere: name"):
        World("nowhere")
    with pytest.raises(ValueError, match="expected actions of 1 or more.*got -1"):
        World(actions=-1)
    sizes = {"side": 12, "length": 2, "patch": 6, "frames": 2, "width": 16, "depth": 1}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    with pytest.raises(ValueError, match="and a list of words, actions"):
        World(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(sizes | {"actions": ["stay"]}))
    with pytest.raises(ValueError, match="found no file"):
        World(str(tmp_path))
    save_file({"a": torch.zeros(2)}, tmp_path / "network.safetensors")
    with pytest.raises(ValueError, match="must be of one model"):
        World(str(tmp_path))


def test_a_later_action_changes_no_earlier_frame(image) -> None:
    model, one = World.tiny(), World(actions=1)
    x = model.noise([torch.Generator().manual_seed(0)])
    t = torch.full((1,), 0.5)
    predicted = [
        model.predict(x, t, model.encode([Prompt(text, {"image": image})]))
        for text in ("left stay", "left right", "right stay")
    ]
    assert torch.equal(predicted[0][:, :, 0], predicted[1][:, :, 0])
    assert not torch.allclose(predicted[0][:, :, 1], predicted[1][:, :, 1], atol=1e-5)
    assert not torch.allclose(predicted[0][:, :, 0], predicted[2][:, :, 0], atol=1e-5)
    # so a model of one action makes the first frames of a longer clip
    alone = one.predict(x[:, :, :1], t, one.encode([Prompt("left", {"image": image})]))
    torch.testing.assert_close(alone, predicted[0][:, :, :1])


def test_a_clip_begins_with_the_given_frame_and_is_read_back(image) -> None:
    model = World.tiny()
    cond = model.encode([Prompt("left stay", {"image": image})])
    latents = model.noise([torch.Generator().manual_seed(0)]).clamp(-1, 1)
    clip = model.decode_with(latents, cond)
    torch.testing.assert_close(clip[0, 0], picture.read(image))
    torch.testing.assert_close(model.encode_video(clip), latents, atol=1e-5, rtol=1e-4)


def test_most_steps_are_at_high_noise() -> None:
    times = World.tiny().times(4)
    assert times == pytest.approx([1, 0.9, 0.75, 0.5, 0])
    with pytest.raises(ValueError, match="expected at least one step, got 0"):
        World.tiny().times(0)


def test_the_embedded_model_is_small_and_complete() -> None:
    model = plugin.load("backbones", "world", model=MODEL, actions=1)
    assert model.shape == (6, 1, 36, 36) and model.clip_shape == (3, 3, 36, 36)
    assert sum(p.numel() for p in model.network.parameters()) * 4 < 4e6


def test_the_recipe_is_right_and_its_unknown_options_are_refused() -> None:
    recipe = config.load("scripts/recipes/tiny_world.toml")
    evaluate.check_recipe(recipe)
    reward = evaluate.build_reward(recipe.reward)
    judge = "vidrl.synthetic.agent_verifier:ActionVerifier"
    assert reward.weights[judge] == 0 and judge in recipe.guard.bands
    recipe = config.load("scripts/recipes/tiny_world.toml", ["backbone.options.action=1"])
    with pytest.raises(plugin.BadOption, match="did you mean 'actions'"):
        evaluate.check_recipe(recipe)

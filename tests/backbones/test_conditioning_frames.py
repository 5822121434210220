"""vidrl.backbones._conditioning_frames: latent frames that a picture gives are not the policy's."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="needs vidrl[train]")

from families import FAMILIES, picture

from vidrl.backbones._latent_layout import Layout, _match_draws
from vidrl.backbones.pipeline import Pipeline
from vidrl.data.prompt import Prompt

HOLDS = ["ltx_condition", "wan22_5b_i2v"]  # their first latent frame


def driven(name: str, **call: object) -> Pipeline:
    family = FAMILIES[name]
    return Pipeline(family.build(), {**family.call, **call})


def image(name: str, seed: int = 0) -> object:
    return FAMILIES[name].picture(FAMILIES[name].call, seed)


def test_free_frames_take_over_the_pixels_of_conditioned_frames() -> None:
    every = Layout((2, 4, 1, 1), 1, 4, False, [(0, 1), (1, 5), (5, 9), (9, 13)])
    layout = every.without_frames((0, 3))
    theirs = torch.arange(8.0).view(1, 2, 4, 1, 1)
    assert layout.shape == (2, 2, 1, 1) and layout.frame_map == [(0, 5), (5, 13)]
    assert layout.to_vidrl(theirs).flatten().tolist() == [1, 2, 5, 6]
    assert layout.to_pipeline(layout.to_vidrl(theirs)).flatten().tolist() == [
        0,
        1,
        2,
        0,
        0,
        5,
        6,
        0,
    ]
    assert layout.with_all_frames().shape == (2, 4, 1, 1) and every.without_frames(()) is every


def test_free_tokens_carry_gradient() -> None:
    layout = Layout((6, 2), 0, 3, False, [(0, 1), (1, 5), (5, 9)]).without_frames((1,))
    x = torch.ones(1, *layout.shape, requires_grad=True)
    theirs = layout.to_pipeline(x)
    assert theirs[0, :, 0].tolist() == [1, 1, 0, 0, 1, 1]
    (theirs * torch.arange(6.0)[:, None]).sum().backward()
    assert x.grad is not None and x.grad[0, 0, :, :, 0].tolist() == [[0, 1], [4, 5]]


@pytest.mark.parametrize("name", HOLDS)
def test_the_latents_of_a_held_first_frame_are_left_out(name: str) -> None:
    given = {"image": image(name)} if name == "ltx_condition" else {}  # which runs without as well
    backbone = driven(name, **given)
    assert backbone.layout.conditioned == (0,) and backbone.layout.length == 3
    assert backbone.shape[1] == 2 and backbone.frame_map == [(0, 5), (5, 9)]


@pytest.mark.parametrize("name", ["wan", "ltx_i2v", "wan_i2v", "svd", "flux_kontext"])
def test_a_pipeline_that_holds_no_frame_keeps_all(name: str) -> None:
    assert driven(name).layout.conditioned == ()


def test_a_seed_draws_the_pipelines_own_noise_beside_a_given_frame() -> None:
    backbone = driven("ltx_condition", image=image("ltx_condition"))
    row = backbone.encode(["a"])["row"].tolist()[0]
    backbone.runner.seed = 11
    first = backbone.layout.to_vidrl(backbone.runner.initial_latents(row))
    assert torch.equal(backbone.noise([torch.Generator().manual_seed(11)]), first)


def test_the_places_of_a_draw_are_found_beside_numbers_that_were_not_drawn() -> None:
    drawn = np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    made = np.array([[4.0, 9.0, 1.0, 3.0], [8.0, 9.0, 5.0, 7.0]])
    order = _match_draws(drawn, made)
    assert order is not None and order.tolist() == [3, 1, 0, 2]
    assert _match_draws(drawn, made + 0.5) is None
    assert _match_draws(drawn, np.array([[1.0, 1.0, 2.0, 3.0], [5.0, 5.0, 6.0, 7.0]])) is None


def test_a_picture_that_gives_a_frame_is_refused_where_the_call_brings_none(tmp_path: Path) -> None:
    """The pipeline runs without a picture too; then it holds no frame."""
    backbone = driven("ltx_condition")
    picture(*backbone.size, seed=0).save(tmp_path / "a.png")
    backbone.encode(["a", Prompt("b", {"negative_prompt": "low"})])
    with pytest.raises(ValueError, match="give no latent frame.*got 'a', whose.*frames 0: "):
        backbone.encode([Prompt("a", {"image": str(tmp_path / "a.png")})])


@pytest.mark.parametrize("name", HOLDS)
def test_a_clip_becomes_the_latents_of_its_free_frames(name: str) -> None:
    backbone = driven(name, image=image(name))
    video = torch.rand(1, *backbone.clip_shape, generator=torch.Generator().manual_seed(0))
    latents = backbone.encode_video(video)
    assert latents.shape == (1, *backbone.shape)
    decoding = backbone.decode_hook
    decoding.recorded = []
    backbone.decode(latents)
    (reached,), decoding.recorded = decoding.recorded, None
    made = backbone.encoder(2 * video.transpose(1, 2) - 1).latent_dist.mode()
    assert torch.allclose(reached[:, :, 1:], made[:, :, 1:], atol=1e-4)
    assert (reached[:, :, 0] - made[:, :, 0]).abs().max() > 1e-2  # the given picture's


def test_a_last_image_that_a_model_cannot_take_is_refused_with_the_prompts(tmp_path: Path) -> None:
    """Wan's network for one picture joins the features of two to a text of one prompt."""
    from PIL import Image

    file = tmp_path / "a.png"
    Image.new("RGB", (32, 32)).save(file)
    backbone, first = driven("wan_i2v"), {"image": str(file)}
    both = Prompt("a cat", {**first, "last_image": str(file)})
    backbone.check_prompts([Prompt("a cat", first)])
    told = "got 'a cat' with image, last_image: RuntimeError.*: take last_image out of the prompt"
    for _ in range(2):  # a second attempt is refused as well
        with pytest.raises(ValueError, match=told):
            backbone.check_prompts([Prompt("a cat", first), both])
    backbone.encode([Prompt("a cat", first)])
    driven("wan22_i2v").check_prompts([both])  # which takes it

"""The script that trained assets/tiny-i2v: its corpus, its text encoder, its loss and its prompts."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from vidrl.data import picture, prompts
from vidrl.synthetic import films, world

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))


@pytest.fixture(scope="module")
def script():
    return importlib.import_module("pretrain_camera")


def test_the_corpus_is_the_same_each_time_and_holds_no_held_out_scene(script) -> None:
    first, again = (list(script.corpus(range(12))) for _ in range(2))
    assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    held = {film.scene.caption.split(" while")[0] for film in films.films("held_out")}
    captions = {caption.split(" while")[0] for caption, _ in script.corpus(range(60))}
    assert not held & captions
    assert first[0][1].shape == (script.FRAMES, 3, script.SIZE, script.SIZE)


def test_clips_of_the_corpus_show_the_camera_of_their_captions(script, monkeypatch) -> None:
    shown, render = [], world.render
    monkeypatch.setattr(world, "render", lambda scene, *a: shown.append(scene) or render(scene, *a))
    captions = [caption for caption, _ in script.corpus(range(60))]
    assert [scene.caption for scene in shown] == captions
    assert {scene.camera for scene in shown} == set(world.CAMERAS)


def test_grey_follows_the_first_picture(script) -> None:
    (caption, clip), (same, given) = next(script.corpus(range(1))), next(script.given(range(1)))
    assert same == caption and torch.equal(given[0], clip[0])
    assert bool((given[1:] == 0.5).all())


def test_the_loss_is_zero_for_the_true_velocity(script) -> None:
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(6, 32, 5, 4, 4, generator=draw)
    table = torch.zeros(2, script.tiny.TEXT_LENGTH, 64)
    data = script.Corpus(latents, table, torch.zeros(6, dtype=torch.long), latents)

    def true_velocity(seen, time, words, return_dict):
        """Read x0 from the condition, which here is the whole clip."""
        x, mask, given = seen.split([32, script.MASKS, 32], 1)
        assert bool((mask[:, :, 0] == 1).all()) and not bool(mask[:, :, 1:].any())
        return ((x - given) / (time / 1000).view(-1, 1, 1, 1, 1),)

    assert script.loss(true_velocity, script.tiny.PaddedText(), data, step=1) < 1e-6


def test_at_first_the_transformer_is_that_of_tiny_wan(script) -> None:
    from diffusers import WanTransformer3DModel

    draw = torch.Generator().manual_seed(0)
    x, given = (torch.randn(2, 32, 5, 4, 4, generator=draw) for _ in range(2))
    words, t = torch.randn(2, 6, 64, generator=draw), torch.tensor([900.0, 100.0])
    own = WanTransformer3DModel.from_pretrained("assets/tiny-wan/transformer")
    with torch.no_grad():
        expected = own(x, t, words, return_dict=False)[0]
        seen = torch.cat([x, script.conditions(given)], 1)
        found = script.new_transformer()(seen, t, words, return_dict=False)[0]
    torch.testing.assert_close(found, expected)


def test_the_text_encoder_tells_the_camera_from_the_thing() -> None:
    """ "left" after "pans" differs from "left" after "moves"; with tiny-wan's encoder hardly."""
    from transformers import AutoTokenizer, UMT5EncoderModel

    caption = "a red cross moves left slowly on a striped background while the camera pans left"
    tokens = AutoTokenizer.from_pretrained("assets/tiny-i2v/tokenizer")(
        caption, return_tensors="pt"
    )
    moves, pans = (i for i, word in enumerate(caption.split()) if word == "left")

    def distance(folder: str) -> float:
        encoder = UMT5EncoderModel.from_pretrained(f"assets/{folder}/text_encoder").eval()
        with torch.no_grad():
            found = encoder(**tokens).last_hidden_state[0]
        return float((found[moves] - found[pans]).norm() / found[moves].norm())

    assert distance("tiny-wan") < 0.4
    assert distance("tiny-i2v") > 0.7


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_each_prompt_begins_with_the_picture_of_its_film(split) -> None:
    asked = prompts.read(f"assets/prompts/cameras_{split}.jsonl")
    listed = films.films(split)
    assert len(asked) == len(listed) == 5 * films.COUNT[split]
    for prompt, (scene, _, seed) in list(zip(asked, listed, strict=True))[::35]:
        assert str(prompt) == scene.caption
        first = world.render(scene, 64, 17, 8.0, seed).video[0]
        shown = picture.read(prompt.references["image"])
        torch.testing.assert_close(shown, first, atol=0.5 / 255 + 1e-6, rtol=0)


def test_no_scene_and_no_seed_is_in_both_splits() -> None:
    train, held = films.films("train"), films.films("held_out")
    assert not {film.scene for film in train} & {film.scene for film in held}
    assert not {film.seed for film in train} & {film.seed for film in held}

"""A prompt is its text, and what goes with it; an image is read as a pipeline is given
it."""

import copy
import json
import multiprocessing
import pickle

import numpy as np
import pytest
import torch

from vidrl.data import picture
from vidrl.data.prompt import Prompt, of
from vidrl.data.prompts import Prompt as Public

cat = Prompt("a cat runs", {"image": "cat.png", "negative_prompt": "blur"})


def test_a_prompt_is_its_text():
    assert (
        Public is Prompt and isinstance(cat, str) and len(cat) == 10 and f"{cat}!" == "a cat runs!"
    )
    assert json.dumps([cat]) == '["a cat runs"]' and cat[2:5] == "cat"
    for plain in (str(cat), cat + "!", cat.upper(), cat.strip(), f"{cat}"):
        assert type(plain) is str and not of(plain)


def test_equality_and_hash_include_the_references():
    same, other = (
        Prompt("a cat runs", {"negative_prompt": "blur", "image": "cat.png"}),
        Prompt(cat, {"image": "b.png"}),
    )
    assert same == cat and hash(same) == hash(cat) and (same != cat) is False
    text = "a cat runs"
    assert (
        cat != text
        and text != cat
        and other != cat
        and (cat == text, text == cat) == (False, False)
    )
    assert {cat: 1, other: 2, "a cat runs": 3} == {"a cat runs": 3, same: 1, other: 2}
    assert "a cat runs" not in [cat, other] and cat in {other, same}
    bare = Prompt("a cat runs")
    assert (
        bare == "a cat runs" and hash(bare) == hash("a cat runs") and {"a cat runs": 1}[bare] == 1
    )


def test_copies_and_pickles_keep_the_references():
    bare = Prompt(cat)  # made of another prompt, it keeps what goes with it
    made = [
        bare,
        copy.copy(cat),
        copy.deepcopy([cat])[0],
        *(pickle.loads(pickle.dumps(cat, p)) for p in range(2, 6)),
    ]
    assert all(
        type(one) is Prompt and one == cat and one.references == cat.references for one in made
    )
    assert not Prompt(cat, {}).references
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(dict_of, (cat,)) == {"image": "cat.png", "negative_prompt": "blur"}


def dict_of(prompt):
    return dict(prompt.references)


def test_a_prompt_cannot_be_changed():
    for change in (lambda: setattr(cat, "references", {}), lambda: delattr(cat, "references")):
        with pytest.raises(AttributeError, match="make another one"):
            change()
    with pytest.raises(TypeError):
        cat.references["image"] = "other.png"
    given = {"image": "cat.png"}
    made = Prompt("a cat", given)
    given["image"] = "other.png"
    assert made.references["image"] == "cat.png"


@pytest.mark.parametrize(
    ("references", "told"),
    [
        ({"seed": "3"}, "negative|image.*got 'seed'"),
        ({"prompt": "a"}, "got 'prompt'"),
        ({1: "a"}, "got 1"),
        ({"image": ""}, "path of a file as the reference image, got ''"),
        ({"image": 3}, "got 3"),
        ({"negative_prompt": None}, "a text as the reference negative_prompt, got None"),
    ],
)
def test_a_reference_has_the_name_of_an_argument_and_a_path_or_a_text(references, told):
    with pytest.raises(ValueError, match=told):
        Prompt("a cat", references)


def test_files_and_texts_are_told_by_name(tmp_path):
    prompt = Prompt(
        "a",
        {
            "last_image": tmp_path / "b.png",
            "mask": "m.png",
            "prompt_2": "c",
            "negative_prompt": "d",
        },
    )
    assert prompt.files.keys() == {"last_image", "mask"} and prompt.texts == {
        "prompt_2": "c",
        "negative_prompt": "d",
    }
    assert prompt.files["last_image"] == tmp_path / "b.png"
    with pytest.raises(KeyError, match="file 'image'; the files of 'a' are: last_image, mask"):
        prompt.picture()


# --- images


def saved(path, array, mode=None, **options):
    from PIL import Image

    Image.fromarray(np.asarray(array, dtype=np.uint8) if mode != "I;16" else array).save(
        path, **options
    )
    return path


def test_a_picture_is_read_as_it_was_saved(tmp_path):
    rgb = np.arange(2 * 3 * 3).reshape(2, 3, 3) * 10
    seen = Prompt("a", {"image": saved(tmp_path / "a.png", rgb)}).picture()
    assert seen.dtype == torch.float32 and torch.equal(
        seen, torch.from_numpy(rgb).permute(2, 0, 1).float() / 255
    )
    grey = picture.read(saved(tmp_path / "grey.png", rgb[..., 0]))
    assert torch.equal(grey, (torch.from_numpy(rgb[..., 0]).float() / 255).expand(3, 2, 3))


def test_exif_turns_a_picture_upright(tmp_path):
    from PIL import Image

    turned, exif = np.zeros((2, 4, 3)), Image.Exif()
    turned[:, :2] = 255  # the left half is white: the camera was held so that it is the upper half
    exif[0x0112] = 6  # turn by 90 degrees, clockwise
    seen = picture.read(saved(tmp_path / "a.png", turned, exif=exif))
    assert seen.shape == (3, 4, 2) and seen[:, :2].eq(1).all() and seen[:, 2:].eq(0).all()


def test_what_is_transparent_shows_white(tmp_path):
    rgba = [[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]]
    seen = picture.read(saved(tmp_path / "a.png", rgba))[:, 0].T
    assert torch.allclose(seen, torch.tensor([[1.0, 0, 0], [1, 1, 1], [0.8, 0.8, 0.8]]))


def test_sixteen_bits_keep_their_range(tmp_path):
    seen = picture.read(
        saved(tmp_path / "a.png", np.array([[0, 257 * 100, 65535]], dtype=np.uint16), "I;16")
    )
    assert torch.equal((seen[:, 0] * 255).round(), torch.tensor([0.0, 100, 255]).expand(3, 3))


def test_a_film_is_read_by_the_reader_of_clips(tmp_path):
    from vidrl.rewards import video

    clip = (torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 255).byte()
    video.write(tmp_path / "a.mp4", clip, 8.0)
    prompt = Prompt(
        "a",
        {"video": tmp_path / "a.mp4", "image": saved(tmp_path / "a.png", np.full((2, 2, 3), 51))},
    )
    assert (
        torch.equal(prompt.film(), video.read(tmp_path / "a.mp4")[0].float() / 255)
        and len(prompt.film()) == 5
    )
    assert torch.equal(prompt.film("image"), prompt.picture()[None])
    with pytest.raises(picture.BadPicture, match="could not read .*a.mp4"):
        prompt.picture("video")


def test_what_is_no_image_is_refused_with_its_name(tmp_path):
    whole = saved(
        tmp_path / "whole.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    ).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "ghost.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for name in ("cut", "text", "empty", "ghost"):
        with pytest.raises(picture.BadPicture, match=f"PNG, JPEG.*{name}.png"):
            picture.read(tmp_path / f"{name}.png")
    for name, told in (("none.png", "found none"), ("", "found a folder")):
        with pytest.raises(FileNotFoundError, match=told):
            picture.read(tmp_path / name)


def test_an_animation_and_a_picture_above_8k_are_refused(tmp_path):
    from PIL import Image

    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(picture.BadPicture, match="got an animation"):
        picture.read(tmp_path / "a.webp")
    Image.new("1", (8192, 4097)).save(tmp_path / "large.png")
    with pytest.raises(picture.BadPicture, match="up to 33554432 pixels, got 8192 x 4097.*shrink"):
        picture.read(tmp_path / "large.png")

"""The backbone of scenes: what it refuses, its arcs, its words and its files.
tests/backbones/test_contract.py holds the promises of all backbones."""

import json

import pytest
import torch
from safetensors.torch import save_file

from vidrl import config, plugin
from vidrl.backbones._scene_net import SceneNet
from vidrl.backbones.scene import WORDS, Scene
from vidrl.synthetic import scenes
from vidrl.training import evaluate


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 1}, "expected an orbit of 2 views or more, got 1"),
        ({"views": 0}, "expected an orbit of 2 views or more, got 0"),
        ({"size": 4}, "expected views of 8 pixels or more, got size = 4"),
        ({"model": "assets/tiny-wan"}, "expected a model of scenes, a folder with config.json"),
        ({"model": "nowhere"}, "expected a model of scenes, .*got nowhere"),
    ],
)
def test_what_cannot_be_an_orbit_is_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        Scene(**options)


def test_more_arcs_than_views_are_refused(tmp_path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"arcs": 4, "width": 16, "depth": 1, "heads": 2})
    )
    with pytest.raises(ValueError, match="one view for each of 4 arcs, got 3 views: raise views"):
        Scene(str(tmp_path), views=3)
    with pytest.raises(ValueError, match="found no file"):
        Scene(str(tmp_path))
    save_file({"a": torch.zeros(2)}, tmp_path / "network.safetensors")
    with pytest.raises(ValueError, match="must be of one model"):
        Scene(str(tmp_path))
    (tmp_path / "config.json").write_text('{"arcs": 0}')
    with pytest.raises(ValueError, match="expected the numbers arcs, width, depth, heads"):
        Scene(str(tmp_path))


def test_an_orbit_of_one_view_is_refused_before_a_model_is_read(monkeypatch) -> None:
    monkeypatch.setattr(Scene, "_build", lambda *_: pytest.fail("a model was read"))
    recipe = config.load("scripts/recipes/tiny_3d.toml", ["backbone.options.views=1"])
    with pytest.raises(ValueError, match="expected an orbit of 2 views or more, got 1"):
        evaluate.check_recipe(recipe)


def test_an_arc_shows_its_own_blobs() -> None:
    model = Scene.tiny()
    z = model.noise([torch.Generator().manual_seed(0)])
    changed = z.clone()
    changed[:, :, 1] += 1.0
    differs = (model.decode(z) - model.decode(changed)).abs().amax((0, 2, 3, 4)) > 0
    assert differs.tolist() == [False] * 3 + [True] * 3
    # a piece of an orbit, as algorithms decode that need a gradient of few frames
    torch.testing.assert_close(model.decode(z)[:, :3], model.decode(z[:, :, :1]))
    with pytest.raises(ValueError, match="expected 1 to 2 segments"):
        from vidrl.diffusion.segments import borders

        borders(len(model.frame_map), 3)


def test_blobs_far_outside_the_picture_leave_it_empty() -> None:
    model = Scene.tiny()
    z = torch.full((1, *model.shape), 0.0)
    z[:, 0] = 50.0
    z[:, 1] = 50.0
    views = model.decode(z)
    assert views.isfinite().all() and (views - views.amin()).max() < 1e-4


def test_long_captions_are_cut_and_named() -> None:
    model, long = Scene.tiny(), " ".join(["red"] * (WORDS + 1))
    assert model.truncated(["a red cube", long]) == [long]
    words = model.encode([long, "a red cube", "A RED cube", "a zebra cube"])["words"]
    assert words.shape == (4, WORDS) and torch.equal(words[1], words[2])
    assert words[1, 3:].sum() == 0 and words[3, 1] not in (words[1, 1], 0)
    assert model.encode([])["words"].shape == (0, WORDS)


def test_the_network_hears_the_order_of_words() -> None:
    net = SceneNet(8, 2, scenes.BLOBS, WORDS, 40, 16, 1)
    x, t = torch.randn(2, 8, 2, scenes.BLOBS, 1), torch.full((2,), 0.5)
    words = torch.arange(WORDS).expand(2, -1).clone()
    words[1, :2] = words[1, :2].flip(0)
    found = net(x[:1].expand(2, -1, -1, -1, -1), t, words)
    assert not torch.allclose(found[0], found[1], atol=1e-5)


def test_the_embedded_model_is_small_and_complete() -> None:
    model = plugin.load("backbones", "scene", model="assets/tiny-scene", views=8, size=16)
    assert model.shape == (8, 4, 20, 1) and model.clip_shape == (8, 3, 16, 16)
    assert sum(p.numel() for p in model.network.parameters()) * 4 < 4e6


def test_shapes_do_not_depend_on_numbers() -> None:
    """So that `vidrl cost` can trace a scene without computing it."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = Scene.tiny()
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert model.decode(torch.zeros(2, 8, 2, 20, 1)).shape == (2, 6, 3, 16, 16)

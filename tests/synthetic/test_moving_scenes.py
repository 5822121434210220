"""Scenes in which one thing moves while the camera goes round: truth, reward and verifier."""

import pytest
import torch

from vidrl.rewards import Samples, load
from vidrl.synthetic import paths, scene_fit, scene_verifier, scenes, splat

VIEWS, ARCS = 24, 8
SCENES = scenes.scenes("held_out", 6, moving=True)
CAPTIONS = [scene.caption for scene in SCENES]


def film(fault=None, arcs: int = ARCS) -> torch.Tensor:
    """The views of the scenes, each with the fault in question."""
    draw = torch.Generator().manual_seed(0)
    found = [scenes.filmed(scene, draw, paths.times(arcs)) for scene in SCENES]
    for tokens in found if fault else ():
        fault(tokens, draw)
    made = splat.blobs(torch.stack(found).repeat_interleave(VIEWS // arcs, 1))
    return splat.render(made, splat.cameras(VIEWS), 32)


@pytest.fixture(scope="module")
def clean() -> torch.Tensor:
    return film()


def fit(views, captions=CAPTIONS) -> torch.Tensor:
    return scene_fit.SceneFit()(Samples(views, captions, 8.0)).value


# Truth


def test_a_thing_travels_its_path_and_all_else_rests() -> None:
    for scene in SCENES[:6]:
        tokens = scenes.filmed(scene, torch.Generator().manual_seed(1), paths.times(4))
        for thing, motion in zip(scenes.THINGS, scene.motions, strict=True):
            middle = tokens[:, thing, :3].mean(1) / 2
            height = middle[:, 1] - middle[:, 1].mean()
            wanted = paths.profile(motion, paths.times(4))
            wanted = wanted - wanted.mean()
            travel = float(height @ wanted / (wanted @ wanted)) if motion else 0.0
            assert 0.45 <= travel <= 0.6 if motion else travel == 0
            torch.testing.assert_close(height, travel * wanted, atol=1e-5, rtol=0)
            torch.testing.assert_close(middle[:, ::2], middle[:1, ::2].expand(4, -1))


def test_heights_by_hand() -> None:
    quarter = torch.tensor([0.25])
    found = [float(paths.profile(motion, quarter)) for motion in ("", *paths.MOTIONS)]
    assert found == pytest.approx([0.0, -0.25, 0.25, 0.75 - 2 / 3])
    with pytest.raises(ValueError, match="expected a motion of rising, sinking, bouncing"):
        paths.profile("flying", quarter)


def test_captions_of_moving_scenes_are_read_back_and_none_is_in_two_sets() -> None:
    every = scenes.moving_scenes()
    assert all(scenes.parse(scene.caption) == scene for scene in every[::7])
    held = {scene.caption for scene in scenes.scenes("held_out", moving=True)}
    train = {scene.caption for scene in scenes.scenes("train", moving=True)}
    still = {scene.caption for scene in scenes.all_scenes()}
    assert len(held) == 128 and len(train) == 6352 and not held & train and not still & held
    made = scenes.corpus(0, ARCS, moving=True)
    found = [next(made) for _ in range(20)]
    assert {caption for caption, _ in found} <= train
    assert all(tokens.shape == (ARCS, scenes.BLOBS, 8) for _, tokens in found)


def test_a_path_out_of_the_picture_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(scenes, "_TRAVEL", (2.5, 2.5))
    with pytest.raises(ValueError, match="expected things that stay in the picture"):
        scenes.filmed(SCENES[0], torch.Generator(), paths.times(4))


# The reward and the verifier


def test_motion_that_the_caption_asks_for_is_no_fault(clean) -> None:
    """The part `steady` of a thing on its path is that of a thing at rest."""
    assert scene_verifier.verify(clean, CAPTIONS).all.all()
    assert fit(clean).min() > 0.8

    def steady(views, wanted):
        pairs = zip(views, wanted, strict=True)
        return torch.stack([scene_fit.parts(clip, scene)["steady"].mean() for clip, scene in pairs])

    rest = [scenes.parse(scene.caption.replace(word(scene), "")) for scene in SCENES]
    assert (steady(clean, SCENES) - steady(film(scenes.stall), rest)).abs().mean() < 0.06
    assert (steady(clean, rest) < steady(clean, SCENES) - 0.15).all()


def word(scene) -> str:
    return f"{scene.motion or scene.other_motion} "


@pytest.mark.parametrize("fault", scenes.MOVING_FAULTS)
def test_faults_of_motion_lower_both_and_are_named(clean, fault) -> None:
    worse = film(fault)
    verdict = scene_verifier.verify(worse, CAPTIONS)
    assert not verdict.motion.any() and verdict.colours.all() and verdict.relation.all()
    assert (fit(worse) < fit(clean) - 0.08).all()


def test_a_thing_that_jumps_is_a_fault_under_any_caption(clean) -> None:
    jumps = film(scenes.shift)
    assert scene_verifier.verify(jumps, CAPTIONS).all.float().mean() < 0.2
    assert fit(jumps).mean() < fit(clean).mean() - 0.08


def test_an_orbit_at_rest_does_not_fulfil_a_caption_of_motion_nor_the_reverse(clean) -> None:
    rest = [scene.caption.replace(word(scene), "") for scene in SCENES]
    # a short path of a large thing may still count as one place
    assert scene_verifier.verify(clean, rest).all.float().mean() < 0.5
    assert (fit(clean, rest) < fit(clean) - 0.04).all()
    assert scene_verifier.verify(film(scenes.stall), rest).all.all()


def test_rewards_of_films_do_not_take_smooth_motion_for_a_fault() -> None:
    """segment_seam of things on their paths is that of things at rest; that of jumps is lower."""
    seam = load("segment_seam", every=VIEWS // ARCS)
    found = {
        fault: float(seam(Samples(film(fault)[:6], CAPTIONS[:6], 8.0)).value.mean())
        for fault in (None, scenes.stall, scenes.shift)
    }
    assert abs(found[None] - found[scenes.stall]) < 0.03
    assert found[scenes.shift] < found[None] - 0.1


def test_the_gradient_lets_a_thing_rise() -> None:
    """From a thing at rest, under a caption that asks it to rise."""
    scene = scenes.parse("a rising red cube left of a blue ball")
    start = scenes.made(scene, torch.Generator().manual_seed(0)).repeat(ARCS, 1, 1)[None]
    z, reward = start.clone().requires_grad_(), scene_fit.SceneFit()
    orbit = splat.cameras(VIEWS)
    for _ in range(8):
        made = splat.blobs(z.repeat_interleave(VIEWS // ARCS, 1))
        views = splat.render(made, orbit, 24)
        (slope,) = torch.autograd.grad(reward(Samples(views, [scene.caption], 8.0)).value.sum(), z)
        z = (z + 3.0 * slope).detach().requires_grad_()
    height = z[0, :, :8, 1].mean(1).detach()
    assert height[-1] > height[0] + 0.05

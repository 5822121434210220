"""vidrl.synthetic.camera_fit: the camera that a caption asks for, on rendered truth."""

from dataclasses import replace

import pytest
import torch

from vidrl.rewards import Samples
from vidrl.synthetic import camera_fit, verifier, world
from vidrl.synthetic.corruptions import corrupt

PANS = [camera for camera in world.CAMERAS if camera != "static"]
GROUND = world.Scene("cross", "blue", "left", "slow", "speckled")


def clip(scene: world.Scene, seed: int = 0) -> torch.Tensor:
    return world.render(scene, 32, 17, 8.0, seed).video


def fit(clips: torch.Tensor, scenes: list[world.Scene]) -> torch.Tensor:
    captions = [scene.caption for scene in scenes]
    return camera_fit.CameraFit()(Samples(clips, captions, 8.0)).value


def test_the_camera_of_the_caption_explains_the_ground_best() -> None:
    cameras = list(world.CAMERAS)
    for i, camera in enumerate(cameras):
        found = camera_fit.explained(clip(replace(GROUND, camera=camera), seed=3), 8.0).mean(1)
        assert int(found.argmax()) == i and found[i] > 0.95


def test_each_wrong_camera_scores_less_than_the_right_one() -> None:
    scenes = [replace(GROUND, camera=camera) for camera in world.CAMERAS]
    clips = torch.stack([clip(scene, seed=3) for scene in scenes])
    right = fit(clips, scenes)
    assert right.min() > 1
    for by in range(1, len(scenes)):
        assert (fit(clips, scenes[by:] + scenes[:by]) < right - 0.05).all()


def test_stripes_along_which_the_camera_moves_gain_nothing() -> None:
    """Rest explains them as well, so that they score at most 1, as ground at rest does."""
    x = torch.arange(32) / 32
    stripes = (0.45 + 0.1 * torch.sin(14 * x)).expand(1, 17, 3, 32, 32)  # upright stripes
    pans = {camera: replace(GROUND, camera=camera) for camera in PANS}
    up = float(fit(stripes, [pans["up"]]))
    assert 0.95 < up <= 1 + 1e-4
    assert float(fit(stripes, [pans["left"]])) < up - 0.2


def test_ground_without_texture_scores_less_than_ground_at_rest() -> None:
    """A policy could else gain by wiping the ground clean."""
    asked = replace(GROUND, camera="left")
    plain = fit(clip(replace(GROUND, background="dark"))[None], [asked])
    rest, right = (fit(clip(scene)[None], [asked]) for scene in (GROUND, asked))
    assert plain.abs() < 0.05 < plain + 0.4 < rest < right


def test_the_object_does_not_count() -> None:
    asked = [replace(GROUND, camera="up", motion=motion) for motion in ("rest", "right", "circle")]
    found = fit(torch.stack([clip(scene) for scene in asked]), asked)
    assert found.max() - found.min() < 0.1


def test_the_gradient_moves_the_ground() -> None:
    """Pixels of a ground at rest follow the gradient until the pan explains them better."""
    asked = replace(GROUND, camera="left")
    x = clip(GROUND)[None].clone().requires_grad_()
    before = float(fit(x, [asked]))
    for _ in range(10):
        (slope,) = torch.autograd.grad(fit(x, [asked]).sum(), x)
        x = (x + 20 * slope).clamp(0, 1).detach().requires_grad_()
    assert float(fit(x, [asked])) > before + 0.1


@pytest.mark.parametrize("fault", camera_fit.CameraFit.lowered_by)
def test_faults_lower_it(fault) -> None:
    scenes = [replace(GROUND, camera=camera) for camera in PANS]
    clips = torch.stack([clip(scene, i) for i, scene in enumerate(scenes)])
    worse = torch.stack([corrupt(one, fault, seed=i) for i, one in enumerate(clips)])
    assert (fit(worse, scenes) < fit(clips, scenes) - 0.1).all()


def test_other_captions_and_pictures_are_not_scored() -> None:
    one = clip(GROUND)[None]
    reward = camera_fit.CameraFit()
    assert reward(Samples(one, ["a cat"], 8.0)).value.isnan().all()
    assert reward(Samples(one[..., :16], [GROUND.caption], 8.0)).value.isnan().all()


def test_the_verifier_of_things_reads_clips_under_a_moving_camera() -> None:
    scenes = [
        replace(scene, camera=PANS[i % 4])
        for i, scene in enumerate(world.scenes("held_out", 60))
        if scene.background in ("striped", "speckled")
    ]
    clips = torch.stack([clip(scene, i) for i, scene in enumerate(scenes)])
    assert verifier.verify(clips, [scene.caption for scene in scenes]).all.float().mean() > 0.95

"""vidrl.synthetic.motion_fit: high for the motion of the caption, low for others, with gradient."""

from dataclasses import replace

import pytest
import torch

from vidrl.rewards import Samples
from vidrl.synthetic import world
from vidrl.synthetic.motion_fit import MotionFit

SCENES = world.scenes("held_out", 32)
VIDEO = torch.stack([world.render(scene, 32, 16, seed=i).video for i, scene in enumerate(SCENES)])


def fit(video: torch.Tensor, captions: list[str]) -> torch.Tensor:
    return MotionFit()(Samples(video, captions, 8.0)).value


def test_the_motion_of_the_caption_fits_best() -> None:
    right = fit(VIDEO, [scene.caption for scene in SCENES])
    assert float(right.mean()) > 0.75
    for motion in world.MOTIONS:
        other = fit(
            VIDEO, [replace(scene, motion=motion, speed="fast").caption for scene in SCENES]
        )
        changed = torch.tensor([scene.motion != motion for scene in SCENES])
        assert float((other[changed] < right[changed]).float().mean()) > 0.9


def test_a_step_by_hand() -> None:
    """The object stands where it should move: each step misses 0.04 widths of 8 a second."""
    still = world.render(world.Scene("square", "red", "rest"), 32, 4).video[None]
    assert float(fit(still, ["a red square stays still on a dark background"])) > 0.98
    asked = world.Scene("square", "red", "left", "fast").caption
    assert float(fit(still, [asked])) == pytest.approx(
        float(torch.tensor(-0.04 / 0.03).exp()), 0.01
    )


def test_another_prompt_is_not_scored_and_the_gradient_is_finite() -> None:
    assert fit(VIDEO[:1], ["a cat runs"]).isnan().all()
    video = VIDEO[:2].clone().requires_grad_()
    fit(video, [scene.caption for scene in SCENES[:2]]).sum().backward()
    assert video.grad is not None and bool(video.grad.isfinite().all())
    assert float(video.grad.abs().sum()) > 0

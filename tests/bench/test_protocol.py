"""How a file becomes the clip that is measured."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from _clips import moving, write

from vidrl.bench.clip import Clip
from vidrl.bench.protocol import Protocol, canonical, digest, selected_frames
from vidrl.rewards import Samples, video
from vidrl.rewards.jerk import Jerk
from vidrl.rewards.video import Unreadable, read


def test_a_hash_names_all_of_it_and_nothing_else():
    one = Protocol(decoder="decord 0.6.0")
    others = [
        dataclasses.replace(one, **change)
        for change in ({"fps": 8}, {"side": 64}, {"frames": 3}, {"decoder": "decord 0.6.1"})
    ]
    assert len({one.hash, *(other.hash for other in others)}) == 5
    assert Protocol(8, decoder="d").hash == Protocol(8.0, decoder="d").hash
    assert canonical({"b": (1.0, None), "a": True}) == '{"a":true,"b":[1,null]}'


@pytest.mark.parametrize(
    "fps, goal, stride",
    [
        (24, 8, 3),
        (30, 8, 4),
        (25, 8, 3),
        (30, 24, 1),
        (25, 24, 1),
        (30, 15, 2),
        (24, 16, 2),
        (16.0003, 16, 1),
        (23.976, 8, 3),
        (15.9967, 16, 1),
        (6, 8, 1),
    ],
)
def test_frames_are_left_out_evenly(fps, goal, stride):
    protocol = Protocol(fps=goal)
    assert protocol.chosen(50, fps) == list(range(0, 50, stride))
    assert protocol.rate(fps) == pytest.approx(fps / stride, rel=2e-3)


def slide(fps, seconds=2.0, speed=60.0):
    """A texture that moves evenly, filmed at `fps`."""
    ground = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 255, (96, 400, 3)).astype(np.uint8), (0, 0), 3
    )
    ground = cv2.normalize(ground, None, 0, 255, cv2.NORM_MINMAX)
    shifts = [
        np.float32([[1, 0, -20 - speed * t / fps], [0, 1, 0]])
        for t in range(round(seconds * fps) + 1)
    ]
    return torch.from_numpy(
        np.stack([cv2.warpAffine(ground, at, (160, 96), flags=cv2.INTER_CUBIC) for at in shifts])
    )


@pytest.mark.parametrize("fps", [16.0, 24.0, 25.0, 30.0])
def test_even_motion_stays_even_at_another_rate(tmp_path, fps):
    """The frames nearest to the moments of 8 a second are 2 and 3 apart by turns, of 24 at
    16; jerk was -0.45."""
    path = video.write(tmp_path / "a.mkv", slide(fps).permute(0, 3, 1, 2), fps, lossless=True)
    for goal in (8.0, 10.0, 16.0):
        clip = Clip(path, Protocol(fps=goal))
        value = Jerk()(Samples(clip.read()[None], [""], clip.fps)).value.item()
        assert value > -0.05, (fps, goal, value)


def test_numbers_of_frames_chosen_otherwise_do_not_compare():
    """Until 0.1, --fps chose the frame on screen at each moment."""
    before = digest({"fps": 8, "side": 0, "frames": 0, "decoder": "d"})
    assert Protocol(fps=8, decoder="d").hash != before
    assert Protocol(decoder="d").hash == digest({"fps": 0, "side": 0, "frames": 0, "decoder": "d"})


def test_what_is_slower_smaller_or_shorter_stays_as_it_is(tmp_path):
    path = write(tmp_path / "a.mkv", fps=8.0, frames=9)
    clip = Clip(path, Protocol(fps=24, side=512, frames=100))
    assert (clip.fps, clip.size, clip.frames) == (8.0, (48, 32), 9)
    assert torch.equal(clip.read(), read(path)[0])


def test_frames_are_chosen_capped_and_shrunk_with_antialiasing(tmp_path):
    path = write(tmp_path / "a.mkv", fps=24.0, frames=40, side=64)
    clip = Clip(path, Protocol(fps=8, side=16, frames=5))
    seen = clip.read()
    assert (clip.fps, clip.size, clip.frames, tuple(seen.shape)) == (
        8.0,
        (20, 16),
        5,
        (5, 3, 16, 20),
    )
    wanted = torch.nn.functional.interpolate(
        read(path)[0][0:15:3], size=(16, 20), mode="bilinear", antialias=True, align_corners=False
    )
    assert torch.equal(seen, wanted)


def test_reading_stops_after_the_last_chosen_frame():
    asked = []

    def pieces():
        for start in range(0, 100, 10):
            asked.append(start)
            yield torch.arange(start, start + 10)

    assert torch.cat(list(selected_frames(pieces(), [0, 3, 12]))).tolist() == [0, 3, 12]
    assert asked == [0, 10]


def test_an_image_is_a_clip_of_one_frame(tmp_path):
    picture = (moving(1)[0] * 255).to(torch.uint8)
    cv2.imwrite(str(tmp_path / "ä.png"), picture.flip(0).permute(1, 2, 0).numpy())
    clip = Clip(tmp_path / "ä.png", Protocol())
    assert (clip.frames, clip.size, clip.reader) == (1, (48, 32), "opencv") and torch.equal(
        clip.read()[0], picture
    )
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(Unreadable, match="could not read"):
        Clip(tmp_path / "b.png", Protocol())


def test_numbers_below_zero_are_refused():
    with pytest.raises(ValueError, match="protocol's side to be 0"):
        Protocol(side=-1)

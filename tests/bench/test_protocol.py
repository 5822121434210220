"""How a file becomes the clip that is measured."""

import dataclasses

import cv2
import pytest
import torch
from _clips import moving, write

from vidrl.bench.clip import Clip
from vidrl.bench.protocol import Protocol, canonical, kept, on_screen
from vidrl.rewards.video import Unreadable, read


def test_a_hash_names_all_of_it_and_nothing_else():
    one = Protocol(decoder="decord 0.6.0")
    others = [dataclasses.replace(one, **change) for change in (
        {"fps": 8}, {"side": 64}, {"frames": 3}, {"decoder": "decord 0.6.1"})]
    assert len({one.hash, *(other.hash for other in others)}) == 5
    assert Protocol(8, decoder="d").hash == Protocol(8.0, decoder="d").hash
    assert canonical({"b": (1.0, None), "a": True}) == '{"a":true,"b":[1,null]}'


@pytest.mark.parametrize("fps, goal, count", [(24, 8, 8), (30, 8, 8), (30, 24, 24), (25, 24, 24), (30, 15, 15)])
def test_a_second_of_video_gives_as_many_frames_as_asked_for(fps, goal, count):
    times = [t / fps for t in range(fps)]
    chosen = on_screen(times, goal)
    assert len(chosen) == count
    for tick, t in enumerate(chosen):  # the frame that is seen at that moment
        assert times[t] <= tick / goal + 1e-3 < times[t] + 1 / fps + 2e-3


def test_uneven_time_stamps_are_followed():
    assert on_screen([0.0, 0.01, 0.02, 0.5, 0.51, 1.0], 2.0) == [0, 3, 5]


def test_what_is_slower_smaller_or_shorter_stays_as_it_is(tmp_path):
    path = write(tmp_path / "a.mkv", fps=8.0, frames=9)
    clip = Clip(path, Protocol(fps=24, side=512, frames=100))
    assert (clip.fps, clip.size, clip.frames) == (8.0, (48, 32), 9)
    assert torch.equal(clip.read(), read(path)[0])


def test_frames_are_chosen_capped_and_shrunk_with_antialiasing(tmp_path):
    path = write(tmp_path / "a.mkv", fps=24.0, frames=40, side=64)
    clip = Clip(path, Protocol(fps=8, side=16, frames=5))
    seen = clip.read()
    assert (clip.fps, clip.size, clip.frames, tuple(seen.shape)) == (8.0, (20, 16), 5, (5, 3, 16, 20))
    wanted = torch.nn.functional.interpolate(read(path)[0][0:15:3], size=(16, 20), mode="bilinear", antialias=True,
                                             align_corners=False)
    assert torch.equal(seen, wanted)


def test_reading_stops_after_the_last_chosen_frame():
    asked = []

    def pieces():
        for start in range(0, 100, 10):
            asked.append(start)
            yield torch.arange(start, start + 10)

    assert torch.cat(list(kept(pieces(), [0, 3, 12]))).tolist() == [0, 3, 12]
    assert asked == [0, 10]


def test_an_image_is_a_clip_of_one_frame(tmp_path):
    picture = (moving(1)[0] * 255).to(torch.uint8)
    cv2.imwrite(str(tmp_path / "ä.png"), picture.flip(0).permute(1, 2, 0).numpy())
    clip = Clip(tmp_path / "ä.png", Protocol())
    assert (clip.frames, clip.size, clip.reader) == (1, (48, 32), "opencv") and torch.equal(clip.read()[0], picture)
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(Unreadable, match="could not read"):
        Clip(tmp_path / "b.png", Protocol())


def test_numbers_below_zero_are_refused():
    with pytest.raises(ValueError, match="protocol's side to be 0"):
        Protocol(side=-1)

"""Clips are resampled to equal times, and even motion stays even.

The tests check which times are chosen and which frames are copied.
"""

from fractions import Fraction

import numpy as np
import pytest
import torch

from vidrl.rewards import Samples, score_files, video
from vidrl.rewards._files import resampling
from vidrl.rewards._files.resampling import at_rate, even_times, is_even, longest_stretch, resample
from vidrl.rewards.jerk import Jerk


def sliding(times, speed=60.0):
    """A texture that slides at constant speed, filmed at `times`, uint8 (F, 3, 96, 160)."""
    cv2 = pytest.importorskip("cv2")
    noise = np.random.default_rng(0).integers(0, 255, (96, 600, 3)).astype(np.uint8)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    moves = [np.float32([[1, 0, -20 - speed * t], [0, 1, 0]]) for t in times]
    frames = [cv2.warpAffine(texture, move, (160, 96), flags=cv2.INTER_CUBIC) for move in moves]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def jerk(frames, fps):
    return Jerk()(Samples(frames[None], [""], fps)).value.item()


EVEN = [i / 30 for i in range(91)]
LEFT_OUT = {
    "30 then 10": EVEN[:46] + EVEN[48::3],
    "every third left out": [t for i, t in enumerate(EVEN) if i % 3 != 2],
    "in pairs": [t for i, t in enumerate(EVEN) if i % 6 < 2],
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_a_film_with_frames_left_out_is_measured_on_frames_of_its_own(kind):
    times = LEFT_OUT[kind]
    wanted = even_times([round(t, 3) for t in times], tick=0.001)  # as a .mkv rounds them
    assert is_even(wanted) and len(wanted) >= 16
    assert all(min(abs(t - own) for own in times) < 1e-3 for t in wanted)


def test_uneven_times_keep_even_motion_even():
    draw = np.random.default_rng(1)
    times = [t + draw.uniform(-0.008, 0.008) for t in EVEN[:45]]
    wanted = even_times(times)
    mended = torch.cat(list(resample(sliding(times).split(8), times, wanted)))
    rate = (len(wanted) - 1) / (wanted[-1] - wanted[0])
    as_if_even, constant = jerk(sliding(times), 30.0), jerk(sliding(EVEN[:45]), 30.0)
    assert constant > -0.01 and as_if_even < -0.3
    assert jerk(mended, rate) > -0.1
    true = sliding(wanted)[:, :, 8:-8, 16:-16].float()
    assert (mended[:, :, 8:-8, 16:-16].float() - true).abs().mean() < 1.0


def test_a_lower_rate_keeps_even_motion_even():
    """Going from 30 to 8 frames a second, the nearest frames would alternate between 3 and 4."""
    film, wanted = sliding(EVEN), [i / 8 for i in range(25)]
    nearest = film[[round(t * 30) for t in wanted]]
    assert jerk(nearest, 8.0) < -0.3 and jerk(at_rate(film, EVEN, 8.0), 8.0) > -0.05


def test_frames_at_the_wanted_times_are_taken_as_they_are():
    film = torch.randint(0, 256, (7, 3, 16, 16), dtype=torch.uint8)
    times = [0.0, 0.1, 0.2, 0.3, 0.6, 0.9, 1.2]
    pieces = list(resample(film.split(2), times, [0.0, 0.3, 0.6, 0.9, 1.2]))
    assert torch.equal(torch.cat(pieces), film[[0, 3, 4, 5, 6]]) and max(map(len, pieces)) <= 2
    assert torch.equal(torch.cat(list(resample([film], times, [-1.0, 1.2, 5.0]))), film[[0, 6, 6]])
    with pytest.raises(ValueError, match="expected 7 frames.*got 3"):
        list(resample([film[:3]], times, [0.0, 1.2]))


def test_rounded_stamps_are_even_and_late_frames_are_not():
    for fps in (8, 12, 16, 23.976, 24, 25, 30, 48, 60, 120):
        assert is_even([round(i / fps, 3) for i in range(200)], tick=0.001), fps
    for fps in (10, 16, 24, 25, 30):
        assert is_even([round(i / fps, 2) for i in range(200)], tick=0.01), fps  # .gif
    # rounded by who wrote the file
    assert is_even([round(i / 16 * 600) / 600 for i in range(49)], tick=1 / 90000)
    assert is_even([round(i / 60, 3) for i in range(200)], tick=1 / 90000)
    late = [i / 16 for i in range(200)]
    late[100] += 0.02
    assert not is_even(late, tick=0.001)
    # one left out of an .avi
    assert not is_even([i / 16 + (i >= 50) / 16 for i in range(100)], tick=1 / 16)


def test_a_long_pause_makes_no_frames_without_end():
    times = [0.0, 0.01, 0.02, 0.03, 1000.0, 1000.01, 1000.02]
    assert len(even_times(times)) <= 4 * len(times)
    assert longest_stretch(times, lambda i: False) == (0, 4)
    assert longest_stretch(times, lambda i: True) == (0, 7)
    # a slow film has no gap
    assert longest_stretch([0.0, 10.0, 20.0, 30.0], lambda i: False) == (0, 4)


def test_a_picture_between_two_is_where_things_then_are():
    first, second = sliding([0.0, 0.1])
    middle = sliding([0.025])[0]
    found = resampling.frame_between(first, second, 0.25)
    assert (found.float() - middle.float())[:, 4:-4, 8:-8].abs().mean() < 1.0
    assert (first.float() - middle.float())[:, 4:-4, 8:-8].abs().mean() > 5.0


# --- a frame rate that varies


def test_a_variable_frame_rate_is_measured_by_true_times(tmp_path):
    """Frames of one even film left out in several ways: the jerk is that of the film, not
    that of uneven steps."""
    kinds = {**LEFT_OUT, "one second without": EVEN[:30] + EVEN[60:], "all": EVEN}
    for name, times in kinds.items():
        written(tmp_path / f"{name}.mp4", sliding(times), times)
    rows = {
        row["path"].rsplit("/")[-1][:-4]: row for row in score_files([tmp_path], {"jerk": Jerk()})
    }
    film = rows.pop("all")
    assert film["note"] is None and film["frames"] == 91 and film["value"]["jerk"] > -0.02
    for name, row in rows.items():
        assert row["value"]["jerk"] == pytest.approx(film["value"]["jerk"], abs=0.03), name
        assert "its frame rate varies" in row["note"] and video.Video(
            row["path"]
        ).times == pytest.approx(kinds[name])
    assert "a gap without frames ends the stretch" in rows["one second without"]["note"]


def written(path, frames, times):
    av = pytest.importorskip("av", reason="PyAV writes video; pip install av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=30, options={"crf": "8", "x264-params": "mbtree=0"}
        )
        stream.width, stream.height, stream.pix_fmt = frames.shape[3], frames.shape[2], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 600)
        for array, time in zip(frames.permute(0, 2, 3, 1).numpy(), times, strict=True):
            frame = av.VideoFrame.from_ndarray(array.copy(), format="rgb24")
            frame.pts, frame.time_base = round(time * 600), Fraction(1, 600)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())

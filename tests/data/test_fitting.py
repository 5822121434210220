"""Files as clips of a generator: frames by time, pixels about the middle, and nothing
enlarged or repeated."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from vidrl.data.fitting import Unfit, fitted
from vidrl.rewards import video

pytest.importorskip("av", reason="needs vidrl[train]")


def steps(frames: int, height: int = 32, width: int = 32) -> Tensor:
    """Frame i has the level i / 40."""
    return (torch.arange(frames) / 40).view(-1, 1, 1, 1).expand(frames, 3, height, width)


def file(folder: Path, clip: Tensor, fps: float) -> Path:
    video.write(folder / "clip.mp4", clip, fps)
    return folder / "clip.mp4"


def levels(clip: Tensor) -> list[int]:
    return (clip.float().mean((1, 2, 3)) * 40 / 255).round().int().tolist()


@pytest.mark.parametrize(
    "fps, expected",
    [
        (8.0, list(range(9))),  # the model's own rate: the first frames
        (8.05, list(range(9))),  # nearly so: no frame is made
        (16.0, list(range(0, 18, 2))),
        (24.0, list(range(0, 27, 3))),
    ],
)
def test_frames_are_those_of_the_models_times(tmp_path, fps, expected):
    made = fitted(file(tmp_path, steps(30), fps), (9, 3, 32, 32), 8.0)
    assert made.shape == (9, 3, 32, 32) and made.dtype == torch.uint8 and levels(made) == expected


def test_a_rate_that_does_not_divide_moves_the_nearer_frame(tmp_path):
    made = levels(fitted(file(tmp_path, steps(30), 12.0), (9, 3, 32, 32), 8.0))
    assert made[::2] == [0, 3, 6, 9, 12] and all(
        a <= b for a, b in zip(made, made[1:], strict=False)
    )


def test_the_middle_is_kept_and_shapes_keep_their_proportions(tmp_path):
    """A white square of 32 in the middle of 128 x 64: at 32 x 32 it is 16, in the
    middle."""
    clip = torch.zeros(5, 3, 64, 128)
    clip[..., 16:48, 48:80] = 1
    made = fitted(file(tmp_path, clip, 8.0), (5, 3, 32, 32), 8.0).float() / 255
    square = torch.zeros(32, 32)
    square[8:24, 8:24] = 1
    assert (made.mean((0, 1)) - square).abs().mean() < 0.03


@pytest.mark.parametrize(
    "clip, fps, told",
    [
        (steps(9, 32, 24), 8.0, "expected 32 x 32 pixels or more, got 24 x 32"),
        (steps(9, 24, 32), 8.0, "expected 32 x 32 pixels or more, got 32 x 24"),
        (steps(8), 8.0, "expected 9 frames at 8 a second, .* got 8 at 8.*longer"),
        (steps(20), 24.0, "expected 9 frames at 8 a second, .* got 20 at 24.*longer"),
    ],
)
def test_a_clip_that_would_have_to_be_enlarged_or_repeated_is_refused(tmp_path, clip, fps, told):
    with pytest.raises(Unfit, match=told):
        fitted(file(tmp_path, clip, fps), (9, 3, 32, 32), 8.0)


def test_what_is_no_video_says_so(tmp_path):
    (tmp_path / "clip.mp4").write_text("no video")
    with pytest.raises(video.Unreadable, match="clip.mp4"):
        fitted(tmp_path / "clip.mp4", (9, 3, 32, 32), 8.0)
    with pytest.raises(FileNotFoundError):
        fitted(tmp_path / "gone.mp4", (9, 3, 32, 32), 8.0)

"""A large clip on a CPU is scored a few frames at a time, with the numbers of the whole clip."""

import pytest
import torch

from vidrl.rewards import Samples, compose, default
from vidrl.rewards.base import Reward


class Counted(Reward):
    """Mean light, which keeps the most frames that it has seen at once."""

    most = 0

    def terms(self, samples):
        self.most = max(self.most, samples.video.shape[1])
        return samples.frames.mean((2, 3, 4))


def clip(kind=torch.float32, clips=1, frames=27):
    torch.manual_seed(0)
    start = torch.nn.functional.interpolate(torch.rand(clips, 3, 12, 16), scale_factor=6)
    video = torch.stack([start.roll(2 * t, -1) for t in range(frames)], 1)
    return (255 * video).byte() if kind == torch.uint8 else video


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
@pytest.mark.parametrize("fps", [8.0, 24.0])
def test_the_numbers_are_those_of_the_whole_clip(monkeypatch, kind, fps):
    reward, samples = default(), Samples(clip(kind), ["a thing moves left"], fps)
    whole = reward(samples)
    monkeypatch.setattr(compose, "LARGE", 1000)
    found = reward(Samples(clip(kind), ["a thing moves left"], fps))
    assert torch.allclose(found.value, whole.value, rtol=1e-6, atol=1e-7)
    assert torch.allclose(found.frames, whole.frames, rtol=1e-4, atol=1e-5)
    assert found.parts.keys() == whole.parts.keys() and found.why == whole.why == [None]


def test_a_large_clip_is_seen_a_few_frames_at_a_time(monkeypatch):
    monkeypatch.setattr(compose, "LARGE", 1000)
    counted = Counted()
    value = compose.Composite({"light": counted})(Samples(clip(), [""], 8.0)).value
    assert counted.most == compose.FRAMES
    assert torch.allclose(value, clip().mean((1, 2, 3, 4)))


@pytest.mark.parametrize("case", ["small", "two clips", "a gradient", "a reference"])
def test_other_clips_are_scored_whole(monkeypatch, case):
    monkeypatch.setattr(compose, "LARGE", 10**9 if case == "small" else 1000)
    monkeypatch.setattr(compose, "PIECE", 10**9)
    video = clip(clips=2 if case == "two clips" else 1)
    counted = Counted()
    counted.differentiable = True
    samples = Samples(
        video.requires_grad_(case == "a gradient"),
        [""] * len(video),
        8.0,
        video.detach() if case == "a reference" else None,
    )
    score = compose.Composite({"light": counted})(samples)
    assert counted.most == 27 and score.value.requires_grad == (case == "a gradient")


def test_a_broken_frame_of_a_large_clip_has_its_number_in_the_reason(monkeypatch):
    video = clip()
    video[0, 19] = torch.nan
    whole = default()(Samples(video, [""], 8.0))
    monkeypatch.setattr(compose, "LARGE", 1000)
    found = default()(Samples(video, [""], 8.0))
    assert found.why == whole.why and "19" in str(found.why[0])
    assert torch.isnan(found.value).all()

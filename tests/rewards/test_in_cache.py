"""Arithmetic on a few frames at a time gives what all frames at once give."""

import pytest
import torch

from vidrl.rewards._flow import in_cache as module
from vidrl.rewards._flow.in_cache import in_cache


def light(frames, first, shift):
    """A measure of each frame, of the first frame of its clip and of one number of its own."""
    return (frames - first).abs().mean((2, 3, 4)) + shift


@pytest.mark.parametrize("numbers", [1, 200, 600, 10**6])
@pytest.mark.parametrize(("clips", "frames"), [(1, 1), (1, 7), (5, 2), (3, 5), (2, 0)])
def test_pieces_give_the_numbers_of_the_whole(monkeypatch, numbers, clips, frames):
    """A frame has 192 numbers, so that pieces hold 1 frame, 3 frames, several clips or all."""
    monkeypatch.setattr(module, "NUMBERS", numbers)
    draw = torch.Generator().manual_seed(0)
    video, first = (torch.rand(clips, n, 3, 8, 8, generator=draw) for n in (frames, 1))
    shift = torch.rand(clips, frames, generator=draw)
    assert torch.equal(in_cache(light, video, first, shift), light(video, first, shift))


def test_a_piece_holds_few_frames_and_a_gradient_keeps_all_together(monkeypatch):
    monkeypatch.setattr(module, "NUMBERS", 600)
    seen = []

    def mean(part):
        seen.append(part.shape[:2].numel())
        return part.mean((2, 3, 4))

    video = torch.rand(2, 7, 3, 8, 8)
    in_cache(mean, video)
    assert sum(seen) == 14 and max(seen) == 3
    in_cache(mean, video.requires_grad_()).sum().backward()
    assert seen[-1] == 14 and video.grad is not None

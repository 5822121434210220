"""The option reward.memory: frames of a forward pass by what one frame takes, on a CPU."""

import pytest
import torch
from torch import nn

from vidrl import config
from vidrl.rewards import Reward, Samples, encoders
from vidrl.rewards._networks import hub
from vidrl.rewards._networks.budget import GB, Alive, allowed, budget
from vidrl.training.evaluate import build_reward

SIDE = 10
FRAME = 3 * SIDE * SIDE * 4  # bytes of a frame in float32


class Counting(nn.Module):
    """A network that keeps three copies of its frames alive, and counts frames a pass."""

    def __init__(self):
        super().__init__()
        self.passes = []

    def forward(self, frames):
        self.passes.append(len(frames))
        first = 2 * frames
        second = first + frames
        return (first * second).mean((1, 2, 3))


class Read(Reward):
    """A reward whose network reads frames in chunks of two."""

    learned = differentiable = True

    def __init__(self):
        super().__init__()
        self.network = Counting()

    def terms(self, samples):
        frames = samples.frames
        return hub.chunked(self.network, 2, frames.flatten(0, 1)).unflatten(0, frames.shape[:2])


def clips(frames=12):
    draw = torch.Generator().manual_seed(0)
    return Samples(torch.rand(2, frames, 3, SIDE, SIDE, generator=draw), ["", ""], 8.0)


def passes(memory, samples=None):
    reward = Read()
    reward.memory = memory
    score = reward(clips() if samples is None else samples)
    return reward.network.passes, score.value


def test_the_peak_of_a_pass_is_that_of_the_tensors_that_it_makes():
    frames, layer = torch.rand(1, 3, SIDE, SIDE), nn.Linear(SIDE, SIDE)
    with Alive() as one, torch.no_grad():
        Counting()(frames)
    # first, second, their product and its mean; not the frames themselves
    assert one.peak == 3 * FRAME + 4
    with Alive() as other, torch.no_grad():
        layer(frames.view(3, SIDE, SIDE)[:, ::1])
    assert other.peak <= 2 * FRAME  # no weights and no view of the frames


def test_without_a_budget_the_chunk_decides():
    assert passes(0.0)[0] == [2] * 12 and allowed() == 0


def test_within_a_budget_as_many_frames_are_read_as_fit():
    plain = passes(0.0)[1]
    for frames, expected in ((1, [1] * 24), (5, [1, 5, 5, 5, 5, 3]), (100, [1, 23])):
        found, value = passes(frames * 3.1 * FRAME / GB)
        assert found == expected
        torch.testing.assert_close(value, plain)


def test_a_frame_above_the_budget_is_read_alone_with_a_warning():
    with pytest.warns(UserWarning, match="for one frame or clip, and reward.memory allows"):
        assert passes(FRAME / GB)[0] == [1] * 24


def test_with_gradients_the_chunk_decides_because_all_chunks_stay():
    samples = clips(4)
    samples.video.requires_grad_()
    assert passes(100 * FRAME / GB, samples)[0] == [2] * 4


def test_the_budget_of_a_composite_is_that_of_its_parts_and_ends_with_it():
    reward = build_reward(config.RewardSection(parts={"flicker": 1.0}, memory=2.0))
    seen = []
    terms = reward.parts["flicker"].terms
    reward.parts["flicker"].terms = lambda samples: seen.append(allowed()) or terms(samples)
    reward(clips())
    assert set(seen) == {2 * GB} and allowed() == 0
    with budget(1.0), budget(0.0):
        assert allowed() == GB


def test_an_encoder_reads_by_the_budget():
    network = Counting()
    vision = encoders.Vision(
        hub.Network(lambda: network), lambda model: lambda x: x, lambda model, x: model(x)
    )
    network.dtype = torch.float32
    with budget(8 * 3.1 * FRAME / GB):
        vision(clips().video[0])
    assert network.passes == [1, 8, 3]


def test_the_recipe_sets_the_budget_and_refuses_a_negative_one():
    assert build_reward(config.RewardSection(name="flicker", memory=1.5)).memory == 1.5
    assert build_reward(config.RewardSection()).memory == 0
    with pytest.raises(ValueError, match="expected reward.memory of 0 GB or more, got -1"):
        config.RewardSection(memory=-1.0)

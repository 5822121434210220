"""The bytes of the reward on a card, against a count on a pretended GPU."""

import math
import weakref
from pathlib import Path

import pytest
import torch
from pretend_gpu import OnGpu, PretendGpu
from torch.utils._pytree import tree_leaves

from vidrl import config, cost, rewards
from vidrl.cost import cards, scoring, table

PROMPTS = Path(__file__).parents[2] / "assets" / "prompts"


class Count(PretendGpu):
    """Counts the bytes that operations on the GPU read and write, and those alive at the peak."""

    def __init__(self):
        super().__init__()
        self.moved = self.alive = self.peak = 0
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if not func.is_view:
            tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, OnGpu)]
            self.moved += sum(t.numel() * t.element_size() for t in tensors)
        for tensor in tree_leaves(out):
            if isinstance(tensor, OnGpu):
                self._allocate(tensor.host.untyped_storage())
        return out

    def _allocate(self, storage):
        key, size = storage.data_ptr(), storage.nbytes()
        if size and key not in self.seen:
            self.seen.add(key)
            self.alive += size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._release, key, size)

    def _release(self, key, size):
        self.seen.discard(key)
        self.alive -= size


def test_the_bytes_of_the_default_composite_are_those_of_a_count():
    frames, height, width = size = 7, 40, 56
    clip = torch.rand(1, frames, 3, height, width, generator=torch.Generator().manual_seed(0))
    with Count() as gpu, torch.no_grad():
        clip = clip.to("cuda:0")
        before = gpu.alive
        rewards.default()(rewards.Samples(clip, ["a disc"], 8.0))
    moved, alive = scoring.default_composite(size)
    assert gpu.moved == pytest.approx(moved, rel=0.04)
    assert gpu.peak - before == pytest.approx(alive, rel=0.02)


def test_large_frames_are_measured_at_192_pixels_and_one_clip_at_a_time():
    moved, alive = scoring.default_composite((81, 480, 832), 4)
    assert moved == pytest.approx(67_000 * 80 * 192 * 332.8)
    assert alive == pytest.approx(497 * 80 * 192 * 332.8)
    # 12 clips of 9 x 64 x 80 have fewer than 1.7 million numbers
    assert scoring.default_composite((9, 64, 80), 40)[1] == 497 * 8 * 64 * 80 * 12


def recipe(**reward):
    given = {"run": "r", "backbone": {"name": "toy", "options": {}}, "reward": reward}
    given["algorithm"] = {"name": "grpo", "options": {"steps": 5, "train_steps": 2}}
    names = {"prompts": "train", "held_out": "held_out"}
    given["data"] = {key: f"{PROMPTS}/everyday_{name}.txt" for key, name in names.items()}
    given["data"]["held_out_n"] = 8
    given["train"] = {"rounds": 2, "prompts_per_round": 2, "group": 2, "eval_steps": 4}
    return config.build(given | {"policy": {"full": True}}, files=False)


@pytest.mark.parametrize(
    ("reward", "in_loss", "why"),
    [
        ({"name": "flicker"}, 0, "default composite"),
        ({"parts": {"flicker": 1.0}}, 0, "default composite"),
        ({"workers": 2}, 0, "CPU"),
        ({}, 8, "gradient"),
    ],
)
def test_other_rewards_are_unknown_with_the_reason(reward, in_loss, why):
    found = scoring.of_recipe(recipe(**reward), (9, 64, 64), 4, in_loss)
    assert math.isnan(found.moved) and math.isnan(found.alive)
    assert "unknown" in found.note and why in found.note


def known(*given):
    return scoring.Scoring(2e12, 3e9, "counted")


def test_seconds_and_bytes_of_the_reward_are_in_the_round_and_the_peak(monkeypatch):
    without = cost.estimate(recipe(name="flicker"), gpu="a100-40")
    monkeypatch.setattr(scoring, "of_recipe", known)
    found = cost.estimate(recipe(), gpu="a100-40")
    # four clips, each 2e12 bytes at 2.039e12 a second
    assert found.seconds["reward"] == pytest.approx(4 * 2e12 / cards.CARDS["a100-40"].bandwidth)
    assert found.seconds["round"] == pytest.approx(
        without.seconds["round"] + found.seconds["reward"]
    )
    clips = found.memory["host: clips decoded and scored at once"]
    assert found.memory["stage: reward"] == pytest.approx(clips + 3e9)
    parts = [name for name in found.memory if not name.startswith(("stage", "peak", "host"))]
    assert found.memory["peak"] == pytest.approx(
        sum(found.memory[name] for name in parts) + found.memory["stage: reward"]
    )


def test_the_table_says_why_a_reward_is_unknown():
    shown = table.text(table.blocks(cost.estimate(recipe(name="flicker"), gpu="a100-40")))
    assert "only the bytes of the default composite have been counted" in shown
    assert "a round, without the reward" in shown and "stage: reward" in shown


def test_without_a_card_the_reward_has_no_bytes_of_a_card():
    assert "stage: reward" not in cost.estimate(recipe(), measure=False).memory

"""The arms of the study time_to_reward that stand beside it: their formulas, and two rounds
of training."""

import sys
from dataclasses import replace
from math import sqrt
from pathlib import Path

import pytest
import torch
from noised import exact as noised_policy
from noised import gradient, move, prediction, round_of, spans
from published import log_prob, played, ppo, same

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "studies"))

from _time_to_reward_arms import ARMS, RECIPE, ROOT, missing
from _time_to_reward_chunks import ChunkNFT, shortened
from _time_to_reward_vipo import ViPO, allocation, features, importance

from vidrl import config
from vidrl.algorithms.grpo import GRPO
from vidrl.algorithms.nft import NFT
from vidrl.training import loop

OPTIONS = {"sampler": "flow_sde", "eta": 0.7, "steps": 5, "updates": 2}
TOY = ('backbone.name="toy"', "backbone.options={latent_frames=5}", "policy.full=true")
LITTLE = (
    "train.rounds=2",
    "train.prompts_per_round=1",
    "train.group=4",
    "algorithm.options.steps=6",
)


@pytest.mark.parametrize("name", ["vipo", "chunks"])
def test_an_outside_arm_trains(name, tmp_path):
    arm = ARMS[name]
    assert missing(arm) == ""
    recipe = config.load(
        ROOT / RECIPE, [f'run="{tmp_path / "run"}"', *arm.overrides(3e-3), *TOY, *LITTLE]
    )
    lines = (loop.run(recipe) / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2 and '"grad_norm": 0.0,' not in lines[0]


# The map


def test_the_features_of_a_cell_by_hand():
    """Two latent frames, of one and of two frames, cut into 1 x 2 cells of 2 x 2 pixels."""
    video = torch.zeros(1, 3, 3, 2, 4)
    video[0, 0, 0, :, 2:] = 0.6  # the right half is red in the first frame; its light is 0.2
    video[0, 1, :, 0, :2] = 0.9  # in the second frame the upper row of the left half is white
    found = features(video, [(0, 1), (1, 3)], (1, 2))[0]
    left, right = [0.225, 0.225, 0.225, sqrt(0.81 / 4 - 0.225**2), 0.45], [0, 0, 0, 0, 0.2 / 2]
    expected = [[0, 0, 0, 0, 0], [0.6, 0, 0, 0, 0], left, right]
    assert torch.allclose(found, torch.tensor(expected), atol=1e-6)


def test_components_count_by_the_variance_they_explain():
    """a, b of unit variance and correlation 0.577: components a + b and b − a, of shares (1
    ± 0.577)/2.

    a + b, (2.73, 0.42, −1.58, −1.58), scaled is (1, 0.464, 0, 0); b − a, (−0.73, 1.58,
    −0.42, −0.42), is (0, 1, 0.134, 0.134), of which a − b would have most cells high.
    """
    cells = torch.tensor([[[3.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [-1.0, -1.0]]])
    expected = torch.tensor([[0.78868, 0.57735, 0.02831, 0.02831]])
    assert torch.allclose(importance(cells), expected, atol=1e-4)


def test_the_few_cells_that_differ_count_high_dark_or_bright():
    bright, dark = ([[[5.0], [5.0], [5.0], [5.0 + d], [5.0 + d / 2]]] for d in (2, -2))
    for cells in (bright, dark):
        assert torch.allclose(
            importance(torch.tensor(cells)), torch.tensor([[0.0, 0, 0, 1, 0.5]]), atol=1e-6
        )


def test_a_map_has_mean_one_and_is_high_where_something_moves():
    video = torch.full((2, 9, 3, 16, 16), 0.3)
    for frame in range(9):
        # a square that goes right; the second clip is flat
        video[0, frame, :, 4:8, frame : frame + 4] = 0.9
    found = allocation(video, [(0, 1), (1, 5), (5, 9)], (4, 4))
    assert found.shape == (2, 3, 4, 4) and float(found.min()) >= 0
    assert torch.allclose(found.mean((1, 2, 3)), torch.ones(2)) and torch.equal(
        found[1], torch.ones(3, 4, 4)
    )
    assert float(found[0, :, 1].mean()) > 2 and float(found[0, :, 3].mean()) < 0.5
    assert int(found[0, 0].flatten().argmax()) == 4 and int(found[0, 2].flatten().argmax()) in (
        5,
        6,
    )


# ViPO


def test_vipo_is_a_clipped_ratio_a_cell_times_the_map():
    round_ = played(ViPO(**OPTIONS, clip_range=1e-3), moved=3e-2)
    for batch in round_.batches:
        where = batch["map"]
        new, old = round_.step(batch), round_.step(batch, "old")
        total = 0
        for l in range(3):
            for y in range(4):
                for x in range(4):
                    cell = (
                        slice(None),
                        slice(None),
                        slice(l, l + 1),
                        slice(y, y + 1),
                        slice(x, x + 1),
                    )
                    ends = [
                        log_prob(batch["after"][cell], step._replace(mean=step.mean[cell]))
                        for step in (new, old)
                    ]
                    a = batch["advantage"][:, 0] * where[:, l, y, x]
                    total = total + ppo((ends[0] - ends[1]).exp(), a, 1e-3 * sqrt(48)).mean() / 48
        made = round_.algorithm.loss(round_.policy, batch)
        assert 0.05 < float(made.metrics["clip_share"].mean()) < 0.95
        same(made.value, total, round_.policy, rel=1e-6)


def test_the_map_of_a_batch_is_that_of_its_clips():
    """Each map has mean 1, and rows of one clip have one map."""
    round_ = played(ViPO(**OPTIONS))
    maps = torch.cat([batch["map"] for batch in round_.batches])
    assert torch.allclose(maps.mean((1, 2, 3)), torch.ones(len(maps)))
    assert (
        len(torch.unique(maps.round(decimals=5), dim=0)) == 8 and round_.algorithm.maps is not None
    )
    round_.algorithm.after(round_.policy, 0)
    assert round_.algorithm.maps is None


def test_with_a_flat_map_the_first_gradient_is_that_of_grpo():
    vipo, grpo = played(ViPO(**OPTIONS), moved=0.0), played(GRPO(**OPTIONS), moved=0.0)
    for one, other in zip(vipo.batches, grpo.batches, strict=True):
        data = dict(one.data) | {"map": torch.ones_like(one["map"])}
        mine = gradient(
            vipo.policy, vipo.algorithm.loss(vipo.policy, replace(one, data=data)).value
        )
        theirs = gradient(grpo.policy, grpo.algorithm.loss(grpo.policy, other).value)
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-6 * float(theirs.abs().max()))
        shaped = gradient(vipo.policy, vipo.algorithm.loss(vipo.policy, one).value)
        assert float((shaped - theirs).norm() / theirs.norm()) > 0.05


@pytest.mark.parametrize("more", [{"segments": 3}, {"ratio_norm": True}, {"max_divergence": 1e-3}])
def test_vipo_refuses_what_the_map_replaces(more):
    with pytest.raises(ValueError, match="segments = 1"):
        ViPO(**OPTIONS, **more)


# Chunks


@pytest.mark.parametrize("most, some", [(0.5, False), (1.8, True)])
def test_nft_with_steps_of_bounded_norm_by_segment(most, some):
    """The loss of NFT in which Δv of a segment has been shortened, written for one segment
    of one row after another."""
    algorithm = ChunkNFT(steps=4, segments=2, beta=0.3, max_drift=most, max_advantage=2.0)
    policy = noised_policy()
    seen = round_of(algorithm, policy)
    move(policy, 2, size=3e-2)
    short = 0
    for batch in algorithm.minibatches(seen):
        (x, v), (_, old) = prediction(policy, batch), prediction(policy, batch, "old")
        total = 0
        for i in range(len(batch)):
            t, x0 = float(batch["t"][i]), batch["x0"][i]
            for j, (share, frames) in enumerate(spans(2)):
                change = (v - old)[i][:, frames]
                length = float(change.detach().norm())
                change, short = (
                    (change * most / change.norm(), short + 1) if length > most else (change, short)
                )
                r = torch.clamp(batch["advantage"][i, j] / 2.0, -1, 1) / 2 + 0.5
                for chance, sign in ((r, 0.3), (1 - r, -0.3)):
                    away = x[i][:, frames] - t * (old[i][:, frames] + sign * change) - x0[:, frames]
                    w = max(float(away.detach().abs().mean()), 1e-5)
                    total = total + share * 2.0 / 0.3 * chance * (away**2).mean() / w / len(batch)
        same(algorithm.loss(policy, batch).value, total, policy)
    assert 0 < short < 2 * 24 if some else short == 2 * 24


def test_a_wide_bound_is_nft_and_a_shortened_segment_has_no_gradient_along_its_step():
    change = torch.tensor([3.0, 4.0, 0.0, 0.0]).view(1, 1, 4, 1, 1).requires_grad_()
    (found,) = torch.autograd.grad((shortened(change, 2, 1.0) * change.detach()).sum(), change)
    assert found.flatten().tolist() == pytest.approx([0.0] * 4, abs=1e-6)
    policy, losses = noised_policy(), []
    for algorithm in (ChunkNFT(steps=4, segments=2, max_drift=1e9), NFT(steps=4, segments=2)):
        seen = round_of(algorithm, policy)
        move(policy, 2)
        losses.append(
            gradient(policy, algorithm.loss(policy, next(algorithm.minibatches(seen))).value)
        )
        move(policy, 2, size=-1e-2)
    assert torch.allclose(losses[0], losses[1], atol=1e-9)


def test_a_bound_of_nothing_is_refused():
    with pytest.raises(ValueError, match="max_drift > 0"):
        ChunkNFT(max_drift=0.0)

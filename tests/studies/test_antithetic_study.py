"""The study of antithetic pairs: its noise, against numbers that are known."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from vidrl.credit import estimators

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "studies"))


@pytest.fixture(scope="module")
def study():
    return importlib.import_module("antithetic")


def toy(study, reward, B=4000):
    """Gradients r(ε) ε of one number, in groups as the study makes them: (B, kinds, 1, 1,
    2, 1)."""
    draw = torch.Generator().manual_seed(0)
    free, half = torch.randn(B, 2, 8, generator=draw), torch.randn(B, 2, 4, generator=draw)
    paired = torch.stack([half, -half], -1).flatten(-2)
    made = []
    group = torch.zeros(8, dtype=torch.long)
    for noise, baseline in ((free, estimators.leave_one_out), (paired, estimators.leave_pair_out)):
        away = baseline(reward(noise).movedim(-1, 0), group).movedim(0, -1)
        made.append((away * noise).mean(-1))
    return torch.stack(made, 1)[:, :, None, None, :, None]


@pytest.mark.parametrize(
    "reward, least, most",
    [
        (
            lambda e: e,
            0.45,
            0.60,
        ),  # odd: a pair says the same twice, save for what the baseline adds
        (lambda e: e.square(), 100.0, float("inf")),  # even: mirrored clips cancel
    ],
)
def test_what_is_even_cancels_and_what_is_odd_is_said_twice(study, reward, least, most):
    noise = study.noise_of(toy(study, reward), torch.eye(1)).mean(0)[:, 0, 0]
    ratio = noise[0] / noise[1].abs().clamp(min=1e-6)
    assert least < ratio < most, ratio


def test_a_mirror_has_minus_the_noise_and_the_same_start(study):
    class Bench:
        def noise(self, name, number, members):
            made = torch.randn(members, 3, 2, generator=torch.Generator().manual_seed(number))
            return torch.cat([made[:1, :1].expand(members, 1, 2), made], 1)

    noise = study.noises(Bench(), 5)
    assert torch.equal(noise[16::2, 1:], -noise[17::2, 1:]) and len(noise) == 32
    assert (noise[:, 0] == noise[0, 0]).all() and not torch.equal(noise[0, 1:], -noise[1, 1:])

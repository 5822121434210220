"""vidrl.diffusion.path against hand-computed numbers and diffusers' noising."""

import pytest
import torch
from torch import Tensor

from vidrl.diffusion.path import PREDICTIONS, Path, discrete, flow

CUMPROD = torch.linspace(0.99, 0.02, 50, dtype=torch.float64)  # an arbitrary falling ᾱ
PATHS = {"flow": flow, "vp": lambda predicts: discrete(CUMPROD, predicts)}
TIMES = [0.02, 0.5, 0.98]


def pair(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn(3, 2, 4, dtype=dtype), torch.randn(3, 2, 4, dtype=dtype)


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("t", [*TIMES, torch.tensor(TIMES)])
def test_round_trip_and_all_predictions_agree(kind: str, t: Tensor | float) -> None:
    x0, eps = pair()
    for predicts in PREDICTIONS:
        path = PATHS[kind](predicts)
        x = path.noise(x0, eps, t)
        clean, noise = path.split(path.target(x0, eps, t), x, t)
        assert torch.allclose(clean, x0, atol=1e-12) and torch.allclose(noise, eps, atol=1e-12), (
            predicts
        )


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_any_prediction_splits_on_the_path(kind: str, predicts: str) -> None:
    """Whatever the network says, x̂0 and ε̂ are of the x it was shown."""
    path, (x, raw) = PATHS[kind](predicts), pair()
    for t in TIMES:
        assert torch.allclose(path.noise(*path.split(raw, x, t), t), x, atol=1e-12)


@pytest.mark.parametrize(
    "predicts, target", [("flow", -3.0), ("eps", -1.0), ("x0", 2.0), ("v", 0.75 * -1 - 0.25 * 2)]
)
def test_flow_by_hand(predicts: str, target: float) -> None:
    path, x0, eps = flow(predicts), torch.tensor([[2.0]]), torch.tensor([[-1.0]])
    assert path.noise(x0, eps, 0.25).item() == 1.25  # 0.75 · 2 − 0.25
    assert path.target(x0, eps, 0.25).item() == target


def test_discrete_is_diffusers_noising() -> None:
    ddpm = pytest.importorskip("diffusers", reason="needs vidrl[train]").DDPMScheduler(
        num_train_timesteps=100
    )
    path, (x0, eps) = discrete(ddpm.alphas_cumprod, "v"), pair(torch.float32)
    level = torch.tensor([0, 37, 99])
    t = (level + 1) / 100
    assert torch.allclose(path.noise(x0, eps, t), ddpm.add_noise(x0, eps, level), atol=1e-6)
    assert torch.allclose(path.target(x0, eps, t), ddpm.get_velocity(x0, eps, level), atol=1e-6)


def test_time_zero_is_clean() -> None:
    x0, eps = pair()
    assert torch.equal(flow().noise(x0, eps, 0.0), x0) and torch.equal(
        discrete(CUMPROD).noise(x0, eps, 0.0), x0
    )
    assert torch.equal(flow().noise(x0, eps, 1.0), eps)


def test_a_time_a_sample_is_each_sample_at_its_time() -> None:
    x0, eps = pair()
    together = flow().noise(x0, eps, torch.tensor(TIMES, dtype=torch.float64))
    alone = [flow().noise(x0[i : i + 1], eps[i : i + 1], t) for i, t in enumerate(TIMES)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize(
    "given, kept",
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_arithmetic_is_float32_or_better(given: torch.dtype, kept: torch.dtype) -> None:
    x0, eps = pair(given)
    path = flow()
    results = (path.noise(x0, eps, 0.3), path.target(x0, eps, 0.3), *path.split(eps, x0, 0.3))
    assert {result.dtype for result in results} == {kept}


def test_half_precision_prediction_costs_no_more_than_its_own_rounding() -> None:
    x0, eps = pair(torch.float32)
    path = flow()
    clean, _ = path.split(path.target(x0, eps, 0.5).bfloat16(), path.noise(x0, eps, 0.5), 0.5)
    exact = path.noise(x0, eps, 0.5) - 0.5 * (eps - x0).bfloat16().float()
    assert torch.allclose(clean, exact, atol=1e-6)


def test_unknown_prediction() -> None:
    with pytest.raises(
        ValueError,
        match="expected predicts to be one of flow, eps, v, x0, got 'velocity'",
    ):
        Path(lambda t: t, lambda t: t, "velocity")

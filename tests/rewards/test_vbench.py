"""The VBench-compatible rewards against plain re-computations of the published arithmetic,
line by line."""

import math

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vidrl.rewards import Samples, vbench
from vidrl.rewards._scoring.long_clips import Stream
from vidrl.rewards._vbench import networks
from vidrl.rewards.base import Reward
from vidrl.rewards.vbench_aesthetic import VbenchAesthetic
from vidrl.rewards.vbench_background_consistency import VbenchBackgroundConsistency
from vidrl.rewards.vbench_camera_motion import VbenchCameraMotion, labels
from vidrl.rewards.vbench_dynamic_degree import VbenchDynamicDegree
from vidrl.rewards.vbench_i2v_background import VbenchI2vBackground
from vidrl.rewards.vbench_i2v_subject import VbenchI2vSubject
from vidrl.rewards.vbench_imaging import VbenchImaging
from vidrl.rewards.vbench_motion_smoothness import VbenchMotionSmoothness
from vidrl.rewards.vbench_static_filter import VbenchStaticFilter
from vidrl.rewards.vbench_subject_consistency import VbenchSubjectConsistency
from vidrl.rewards.vbench_temporal_flickering import VbenchTemporalFlickering
from vidrl.synthetic import world


def noise(
    frames: int, height: int = 40, width: int = 56, seed: int = 0, clips: int = 1
) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(
        0, 256, (clips, frames, 3, height, width), generator=draw, dtype=torch.uint8
    )


def smooth(frames: int, height: int = 40, width: int = 56) -> torch.Tensor:
    """A clip whose embeddings are alike, but not the same."""
    draw = torch.Generator().manual_seed(0)
    ends = (torch.rand(1, 3, 5, 7, generator=draw) for _ in range(2))
    start, end = (F.interpolate(picture, (height, width), mode="bilinear") for picture in ends)
    mix = torch.linspace(0, 1, frames).view(-1, 1, 1, 1)
    return ((start * (1 - mix) + end * mix) * 255).round().to(torch.uint8)[None]


def value(reward, video, fps=8.0, prompt="", **more) -> float:
    return reward(Samples(video, [prompt] * len(video), fps, **more)).value[0].item()


# --- temporal flickering


def published_flickering(video: torch.Tensor) -> float:
    frames = [frame.permute(1, 2, 0).numpy() for frame in video]
    steps = [
        np.mean(cv2.absdiff(np.float32(a), np.float32(b))) for a, b in zip(frames[:-1], frames[1:])
    ]
    return (255.0 - np.mean(steps)) / 255.0


@pytest.mark.parametrize("frames", [2, 3, 8])
@pytest.mark.parametrize("layout", ["as decoded", "contiguous", "strided"])
def test_flickering_is_the_published_number(frames, layout):
    video = noise(frames)
    wanted = published_flickering(video[0])
    if layout == "as decoded":
        video = video.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    if layout == "strided":
        video = torch.cat([video, video], -1)[..., :56]
    assert value(VbenchTemporalFlickering(), video) == pytest.approx(wanted, abs=1e-6)
    assert value(VbenchTemporalFlickering(), video.float() / 255) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("frames", [3, 600])
def test_flickering_is_summed_in_float64_whatever_the_clip_is_stored_in(dtype, frames):
    """The sum is exact for the stored values; in half precision it is off by up to 2e-4."""
    video = (noise(frames, 17, 33).double() / 255).to(dtype)
    wanted = 1 - (video[:, 1:].double() - video[:, :-1].double()).abs().mean().item()
    for clip in (video, video.clone().requires_grad_()):
        score = VbenchTemporalFlickering()(Samples(clip, [""], 8.0)).value
        assert score.item() == pytest.approx(wanted, abs=1.2e-7) and score.dtype in (
            torch.float32,
            torch.float64,
        )


def test_the_mean_of_a_long_curve_is_exact_to_the_last_bit():
    levels = (
        torch.tensor([0, 7] * 2000, dtype=torch.uint8)
        .view(1, -1, 1, 1, 1)
        .expand(1, -1, 3, 8, 8)
        .contiguous()
    )
    assert value(VbenchTemporalFlickering(), levels) == pytest.approx(248 / 255, abs=6e-8)
    stream = VbenchTemporalFlickering().stream(8.0)
    for piece in levels[0].split(500):
        stream.update(piece)
    assert stream.result().value.item() == pytest.approx(248 / 255, abs=6e-8)


class _SecondDifference(Reward):
    """A reward whose terms need the two frames before a piece."""

    lookahead = 2

    def terms(self, samples):
        return samples.frames.diff(n=2, dim=1).abs().mean((2, 3, 4))


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("cuts", [(1, 2, 3, 9), (4, 9), (9,)])
def test_flickering_in_pieces_of_any_length_in_one_reused_buffer(alone, cuts):
    """Its terms are those of the whole clip, also where another reward keeps more frames."""
    video = noise(9)
    rewards = {"flickering": VbenchTemporalFlickering()}
    stream = Stream(rewards if alone else rewards | {"other": _SecondDifference()}, 8.0, "")
    for start, end in zip((0, *cuts), cuts, strict=False):
        buffer = video[0, start:end].permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        stream.update(buffer if start % 2 else buffer.contiguous())  # two orders in memory
        buffer.zero_()
    whole = VbenchTemporalFlickering()(Samples(video, [""], 8.0))
    assert torch.equal(stream.result()["flickering"].frames, whole.frames)


def test_flickering_of_one_frame_is_inapplicable_and_of_a_still_is_one():
    score = VbenchTemporalFlickering()(Samples(noise(1), [""], 8.0))
    assert score.value.isnan().all() and score.why[0].startswith("inapplicable")
    assert value(VbenchTemporalFlickering(), noise(1).expand(1, 5, 3, 40, 56)) == 1.0


def test_flickering_ranks_a_clean_pan_below_flicker_as_the_card_says():
    wide = F.interpolate(torch.rand(1, 3, 8, 24), (64, 192), mode="bilinear")[0]
    pan = torch.stack([wide[..., 8 * t : 8 * t + 64] for t in range(9)])
    light = pan[:1] * torch.tensor([1.0, 0.95] * 4 + [1.0]).view(-1, 1, 1, 1)
    still = pan[:1].expand_as(pan)
    scores = [value(VbenchTemporalFlickering(), clip[None]) for clip in (pan, light, still)]
    assert scores[0] < scores[1] < scores[2]


# --- dynamic degree and static filter


def constant_flow(first, second):
    """x flow of as many pixels as the red channel rose by, the same everywhere but for a
    corner that is faster."""
    rise = (
        (second - first)[:, :1].mean((2, 3), keepdim=True).expand(-1, 1, *first.shape[-2:]).clone()
    )
    rise[..., :8, :8] *= 2
    return torch.cat([rise, torch.zeros_like(rise)], 1)


def published_speed(first, second, share):
    height, width = first.shape[-2:]
    ht, wd = (((height // 8) + 1) * 8 - height) % 8, (((width // 8) + 1) * 8 - width) % 8
    border = [wd // 2, wd - wd // 2, ht // 2, ht - ht // 2]
    a, b = (F.pad(x[None].float(), border, mode="replicate") for x in (first, second))
    u, v = constant_flow(a, b)[0].numpy()
    rad = np.sqrt(np.square(u) + np.square(v)).flatten()
    return np.mean(abs(np.sort(-rad))[: int(len(rad) * share)]).item()


def published_dynamic_degree(video, fps):
    frames = video[:: max(1, round(fps / 8))]
    threshold, needed = 6.0 * (min(frames.shape[-2:]) / 256.0), round(4 * (len(frames) / 16.0))
    count = 0
    for a, b in zip(frames[:-1], frames[1:]):
        count += published_speed(a, b, 0.05) > threshold
        if count >= needed:
            return True
    return False


def published_static_filter(video):
    frames = list(video)
    threshold, needed = 3.0 * (min(video.shape[-2:]) / 256.0), round(2 * (len(frames) / 16.0))
    ends = zip(frames[:-1] + [frames[0], frames[-1]], frames[1:] + [frames[-1], frames[0]])
    speeds = [published_speed(a, b, 0.02) for a, b in ends]
    if sum(s > threshold for s in speeds[:-2]) > needed:
        return False
    return not any(s > threshold * needed * 2 for s in speeds[-2:])


def steps(*rises: int, height: int = 60, width: int = 75) -> torch.Tensor:
    levels = torch.tensor([100, *rises]).cumsum(0).to(torch.uint8)
    return levels.view(1, -1, 1, 1, 1).expand(1, -1, 3, height, width).contiguous()


CASES = [
    (0,) * 7,
    (3,) * 7,
    (3,) + (0,) * 10,
    (3, 0, 3) + (0,) * 6,
    (0,) * 15 + (3, 3),
    (1,) * 14,
    (2, 0) * 8,
    (0,),
    (2,),
    (0, 0, 5, 0, 0, 0, 0),
    (1, -1) * 10,
    (3, 3, 3) + (0,) * 12,
    (3, 3, 3, 3) + (0,) * 12,
]


@pytest.mark.parametrize("fps", [8.0, 12.0, 20.0, 24.0, 30.0])
def test_dynamic_degree_is_the_published_answer(fps):
    reward = VbenchDynamicDegree(network=constant_flow)
    answers = [
        (value(reward, steps(*case), fps), published_dynamic_degree(steps(*case)[0], fps))
        for case in CASES
    ]
    assert [got for got, _ in answers] == [float(wanted) for _, wanted in answers]
    assert {wanted for _, wanted in answers} == {True, False}


def test_static_filter_is_the_published_answer():
    reward = VbenchStaticFilter(network=constant_flow)
    answers = [
        (value(reward, steps(*case)), published_static_filter(steps(*case)[0])) for case in CASES
    ]
    assert [got for got, _ in answers] == [float(wanted) for _, wanted in answers]
    assert {wanted for _, wanted in answers} == {True, False}


def test_the_quirks_of_dynamic_degree():
    reward = VbenchDynamicDegree(network=constant_flow)
    assert value(reward, steps(0)) == 1.0  # two frames at rest are dynamic
    assert value(reward, steps(0, 0)) == 0.0
    # 1 pixel a frame, 2 in the corner: the class changes with the stated rate alone
    moving = steps(*(1,) * 30)
    assert value(reward, moving, 8.0) != value(reward, moving, 24.0)


@pytest.mark.parametrize(
    "reward",
    [
        VbenchDynamicDegree(network=constant_flow, chunk=2),
        VbenchStaticFilter(network=constant_flow, chunk=2),
    ],
)
def test_flow_answers_in_pieces(reward):
    for case in CASES:
        video, stream = steps(*case), reward.stream(24.0)
        for piece in video[0].split(3):
            stream.update(piece)
        assert stream.result().value.item() == value(reward, video, 24.0)


def test_without_a_flow_the_error_says_what_to_pass():
    with pytest.raises(RuntimeError, match="raft:PATH"):
        value(VbenchDynamicDegree(), steps(0))
    with pytest.raises(ValueError, match="'diss'"):
        value(VbenchStaticFilter(flow="diss"), steps(0))


def test_raft_by_its_path_is_given_zero_to_one(monkeypatch):
    from vidrl.rewards._flow import raft

    def load(path):
        assert path == "a/file.pth"
        return lambda first, second: (
            constant_flow(255 * first, 255 * second) * (1 if first.max() <= 1 else math.nan)
        )

    monkeypatch.setattr(raft, "load", load)
    for case in CASES[:4]:
        by_path, given = (
            VbenchDynamicDegree(flow="raft:a/file.pth"),
            VbenchDynamicDegree(network=constant_flow),
        )
        assert value(by_path, steps(*case)) == value(given, steps(*case))


def test_dynamic_degree_sees_motion_by_the_classical_flow():
    reward = VbenchDynamicDegree(flow="dis")
    fast = world.render(world.Scene("square", "blue", "right", "fast", "light"), 64, 17).video[None]
    assert value(reward, fast) == 1.0 and value(reward, fast[:, :1].expand_as(fast)) == 0.0


# --- consistencies


def resize(images, mode):
    """torchvision's Resize(224, antialias=False) on float tensors."""
    height, width = images.shape[-2:]
    short, long = (width, height) if width <= height else (height, width)
    new_short, new_long = 224, int(224 * long / short)
    size = [new_long, new_short] if width <= height else [new_short, new_long]
    return F.interpolate(images, size=size, mode=mode, align_corners=False)


def standardise(images, mean, std):
    return (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def dino_images(video):
    return standardise(
        resize(video.float(), "bilinear").div(255), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )


def clip_images(video):
    images = resize(video.float(), "bicubic")
    top, left = (int(round((side - 224) / 2.0)) for side in images.shape[-2:])
    images = images[..., top : top + 224, left : left + 224].div(255)
    return standardise(
        images, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    )


@torch.no_grad()
def published_consistency(network, images):
    total = 0.0
    for i in range(len(images)):
        feature = F.normalize(network(images[i : i + 1]), dim=-1, p=2)
        if i == 0:
            first = feature
        else:
            before = max(0.0, F.cosine_similarity(former, feature).item())  # noqa: F821  set below, as published
            start = max(0.0, F.cosine_similarity(first, feature).item())
            total += (before + start) / 2
        former = feature  # noqa: F841
    return total / (len(images) - 1)


@pytest.mark.parametrize(
    "size", [(40, 56), (56, 40), (224, 224), (17, 33), (704, 1280), (480, 848), (544, 960)]
)
def test_subject_consistency_is_the_published_number(size):
    reward, video = VbenchSubjectConsistency.tiny(), smooth(4, *size)
    wanted = published_consistency(reward.network, dino_images(video[0]))
    assert value(reward, video) == pytest.approx(wanted, abs=1e-6) and wanted < 1 - 1e-5


@pytest.mark.parametrize(
    "size", [(40, 57), (56, 40), (17, 33), (33, 17), (704, 1280), (480, 848), (1080, 1920)]
)
def test_background_consistency_is_the_published_number(size):
    reward, video = VbenchBackgroundConsistency.tiny(), smooth(4, *size)
    wanted = published_consistency(reward.network, clip_images(video[0]))
    assert value(reward, video) == pytest.approx(wanted, abs=1e-6) and wanted < 1 - 1e-5


@pytest.mark.parametrize("frames", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_consistencies_of_few_and_of_many_frames_are_the_published_numbers(frames):
    video = smooth(frames, 17, 33)
    for cls, prepare in (
        (VbenchSubjectConsistency, dino_images),
        (VbenchBackgroundConsistency, clip_images),
    ):
        reward = cls.tiny()
        wanted = published_consistency(reward.network, prepare(video[0]))
        assert value(reward, video) == pytest.approx(wanted, abs=1e-6)
    reward, image = VbenchI2vSubject.tiny(), smooth(1, 40, 50)
    prepared = standardise(centre(pillow(image[0, 0], (256, 320), "BICUBIC")), *vbench.IMAGENET)
    wanted = published_faithfulness(reward.network, prepared, square_images(video[0], True))
    assert value(reward, video, reference=image) == pytest.approx(wanted, abs=2e-5)


@pytest.mark.parametrize(
    "cls",
    [
        VbenchSubjectConsistency,
        VbenchBackgroundConsistency,
        VbenchI2vSubject,
        VbenchI2vBackground,
        VbenchMotionSmoothness,
    ],
)
def test_one_frame_is_inapplicable_to_what_compares_frames(cls):
    score = cls.tiny()(Samples(noise(1, 17, 33), [""], 8.0))
    assert score.value.isnan().all() and score.why[0].startswith("inapplicable")


def test_positions_of_a_wide_frame_are_dinos():
    """Keys' cubic (a = -0.75) at the places that a scale of 24.1 / 14 and 14.1 / 14 gives,
    edges repeated."""

    def weights(place: float) -> dict[int, float]:
        def cubic(d: float) -> float:
            d, a = abs(d), -0.75
            return (
                ((a + 2) * d - (a + 3)) * d * d + 1
                if d <= 1
                else ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
            )

        base = math.floor(place)
        return {base + i: cubic(place - base - i) for i in range(-1, 3)}

    codes = torch.randn(1, 1 + 196, 3, dtype=torch.float64)
    grid, got = codes[0, 1:].view(14, 14, 3), vbench.dino_positions(codes, 14, 24)
    assert torch.equal(got[0, 0], codes[0, 0]) and torch.equal(
        vbench.dino_positions(codes, 14, 14), codes
    )
    for row, column in ((0, 0), (5, 23), (13, 11)):
        ys, xs = weights((row + 0.5) * 14 / 14.1 - 0.5), weights((column + 0.5) * 14 / 24.1 - 0.5)
        wanted = sum(
            wy * wx * grid[min(max(y, 0), 13), min(max(x, 0), 13)]
            for y, wy in ys.items()
            for x, wx in xs.items()
        )
        torch.testing.assert_close(got[0, 1 + 24 * row + column], wanted)


def test_a_vit_of_another_shape_of_picture_uses_them(monkeypatch):
    asked, network = [], vbench.tiny_dino()
    plain = vbench.dino_positions
    held = lambda codes, *grid: asked.append(grid) or plain(codes, *grid)  # noqa: E731
    monkeypatch.setattr(networks, "dino_positions", held)
    assert network(torch.rand(1, 3, 224, 398)).shape == (1, 24) and asked == [(14, 24)]


def test_consistency_by_hand_and_below_zero():
    """Embeddings (1, 0), (0, 1), (-1, 0): 0 and 0, then 0 and max(0, -1)."""
    pairs = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [-1.0, 0.0]]]])
    assert vbench.consistency(pairs).tolist() == [[0.0, 0.0]]
    half = torch.tensor([[[[2.0, 0.0], [3.0, 3.0]]]])
    assert vbench.consistency(half).item() == pytest.approx(math.sqrt(0.5))


def test_each_frame_is_embedded_once_whole_or_in_pieces():
    seen = []

    def network(images):
        seen.append(len(images))
        return images.mean((2, 3))

    reward = VbenchSubjectConsistency(network=network, chunk=4)
    reward(Samples(smooth(9), [""], 8.0))
    assert seen == [4, 4, 1]
    seen.clear()
    stream = reward.stream(8.0)
    for piece in smooth(9)[0].split(2):
        stream.update(piece)
    stream.result()
    assert sum(seen) == 9


@pytest.mark.parametrize("frames", [3, 4, 5, 8])
def test_motion_smoothness_is_the_published_number(frames):
    def network(first, second):
        assert first.shape[-2:] == (48, 64)
        return 0.3 * first + 0.7 * second

    video = noise(frames)
    images = [frame.permute(1, 2, 0).numpy() for frame in video[0]]
    scores = []
    for a, real, b in zip(images[0::2], images[1::2], images[2::2]):
        guess = 0.3 * (torch.from_numpy(a) / 255.0) + 0.7 * (torch.from_numpy(b) / 255.0)
        guess = (guess.numpy() * 255.0).clip(0, 255).astype(np.uint8)
        scores.append(np.mean(cv2.absdiff(real, guess)))
    wanted = (255.0 - np.mean(scores)) / 255.0
    assert len(scores) == (frames - 1) // 2
    assert value(VbenchMotionSmoothness(network=network), video) == pytest.approx(wanted, abs=2e-6)


def test_motion_smoothness_never_looks_at_the_last_of_an_even_number():
    video, reward = noise(6), VbenchMotionSmoothness.tiny()
    other = video.clone()
    other[:, 5] = 0
    assert value(reward, video) == value(reward, other)
    other[:, 4] = 0
    assert value(reward, video) != value(reward, other)


def test_motion_smoothness_cuts_to_whole_levels():
    """Frames 0, 1, 1: the guess 0.5 is cut to 0, so the error is 1 level, not 0 or a
    half."""
    video = torch.tensor([0, 1, 1], dtype=torch.uint8).view(1, 3, 1, 1, 1).expand(1, 3, 3, 16, 16)
    assert value(VbenchMotionSmoothness.tiny(), video) == pytest.approx(254 / 255, abs=1e-7)
    with pytest.raises(RuntimeError, match="non-commercial"):
        value(VbenchMotionSmoothness(), video)


# --- marks of single frames


def test_aesthetic_is_the_published_number():
    reward, video = VbenchAesthetic.tiny(), smooth(3)
    with torch.no_grad():
        z = F.normalize(reward.network(clip_images(video[0])), dim=-1, p=2)
        wanted = (reward.head(z).squeeze() / 10).mean().item()
    assert value(reward, video) == pytest.approx(wanted, abs=1e-6)


def test_aesthetic_head_from_a_file(tmp_path):
    head = torch.nn.Linear(16, 1)
    torch.save(head.state_dict(), tmp_path / "head.pth")
    network = VbenchAesthetic.tiny().network
    from_file = VbenchAesthetic(head=str(tmp_path / "head.pth"), network=network)
    assert value(from_file, smooth(2)) == value(
        VbenchAesthetic(head=head, network=network), smooth(2)
    )
    with pytest.raises(RuntimeError, match="sa_0_4_vit_l_14_linear"):
        value(VbenchAesthetic(network=network), smooth(2))


def test_a_pickle_of_code_is_not_loaded(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("the pickle ran",))

    torch.save({"weight": Evil()}, tmp_path / "head.pth")
    with pytest.raises(pickle.UnpicklingError):
        value(
            VbenchAesthetic(head=str(tmp_path / "head.pth"), network=lambda x: x.mean((2, 3))),
            smooth(2),
        )


@pytest.mark.parametrize(
    ("size", "seen"), [((40, 56), (40, 56)), ((300, 700), (219, 512)), ((700, 300), (512, 219))]
)
def test_imaging_sees_at_most_512_pixels_and_is_a_hundredth(size, seen):
    shapes = []

    def network(images):
        shapes.append(tuple(images.shape[-2:]))
        return 100 * images.mean((1, 2, 3))

    video = smooth(2, *size)
    images = F.interpolate(video[0] / 255.0, size=seen, mode="bilinear", align_corners=False)
    got = value(VbenchImaging(network=network), video)
    assert got == pytest.approx(images.mean().item(), abs=1e-6) and set(shapes) == {seen}
    with pytest.raises(RuntimeError, match="musiq_spaq"):
        value(VbenchImaging(), video)


# --- image to video


@torch.no_grad()
def published_faithfulness(network, image, images):
    wanted = F.normalize(network(image), dim=-1, p=2)
    to_image, between, former = [], [], None
    for i in range(len(images)):
        feature = F.normalize(network(images[i : i + 1]), dim=-1, p=2)
        if i != 0:
            between.append(max(0.0, F.cosine_similarity(former, feature).item()))
        to_image.append(max(0.0, F.cosine_similarity(wanted, feature).item()))
        former = feature
    return 0.4 * np.max(to_image) + 0.3 * np.mean(between) + 0.3 * np.min(between)


def pillow(image, size, filter_name):
    from PIL import Image

    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    resized = picture.resize(size[::-1], getattr(Image.Resampling, filter_name))
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None] / 255


def test_i2v_subject_is_the_published_number():
    reward, video, image = VbenchI2vSubject.tiny(), smooth(4), noise(1, 300, 420, seed=3)
    prepared = standardise(centre(pillow(image[0, 0], (256, 358), "BICUBIC")), *vbench.IMAGENET)
    wanted = published_faithfulness(reward.network, prepared, square_images(video[0], True))
    assert value(reward, video, reference=image) == pytest.approx(wanted, abs=2e-5)


def square_images(video, antialias):
    """Resize(256, BICUBIC), CenterCrop(224), div(255), Normalize, of VBench-I2V since July
    2024."""
    height, width = video.shape[-2:]
    longer = int(256 * max(height, width) / min(height, width))
    size = (256, longer) if height <= width else (longer, 256)
    images = F.interpolate(
        video.float(), size=size, mode="bicubic", align_corners=False, antialias=antialias
    )
    return standardise(centre(images).div(255), *vbench.IMAGENET)


def centre(images):
    """torchvision's CenterCrop(224)."""
    top, left = (int(round((side - 224) / 2.0)) for side in images.shape[-2:])
    return images[..., top : top + 224, left : left + 224]


SIZES = [
    (704, 1280),
    (480, 848),
    (544, 960),
    (1280, 704),
    (17, 33),
    (33, 17),
    (256, 256),
    (431, 600),
    (1080, 1920),
]


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_i2v_frames_are_prepared_as_published_at_every_size(size, antialias):
    video = noise(2, *size)[0]
    got = VbenchI2vSubject(network=len, antialias=antialias).prepare(video / 255)
    torch.testing.assert_close(got, square_images(video, antialias), atol=2e-5, rtol=1e-5)
    wide = F.interpolate(
        video.float(), size=(224, 224), mode="bicubic", align_corners=False, antialias=antialias
    )
    got = VbenchI2vBackground(network=len, antialias=antialias).prepare(video / 255)
    torch.testing.assert_close(got, wide / 255, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_i2v_images_are_prepared_as_pillow_does(size):
    """Nearly all values are equal, and a few differ by one or two grey levels.

    Pillow rounds the weights of its kernel to integers.
    """
    image, (height, width) = smooth(1, *size)[0], size
    longer = int(256 * max(size) / min(size))
    published = centre(
        pillow(image[0], (256, longer) if height <= width else (longer, 256), "BICUBIC")
    )
    deviation = torch.tensor(vbench.IMAGENET[1]).view(3, 1, 1)
    got = VbenchI2vSubject(network=len).prepare_image(image / 255)
    gap = (got - standardise(published, *vbench.IMAGENET)).abs() * deviation * 255
    assert got.shape[-2:] == (224, 224) and gap.max() < 2.5 and (gap > 0.5).float().mean() < 0.03
    gap = (
        VbenchI2vBackground(network=len).prepare_image(image / 255)
        - pillow(image[0], (224, 224), "BICUBIC")
    ).abs()
    assert gap.max() * 255 < 2.5 and (gap * 255 > 0.5).float().mean() < 0.03


def test_i2v_background_is_the_published_number():
    reward, video, image = VbenchI2vBackground.tiny(), smooth(4), smooth(1, 300, 420)
    prepared = pillow(image[0, 0], (224, 224), "BICUBIC")
    size = {"size": (224, 224), "mode": "bicubic", "align_corners": False}
    frames = F.interpolate(video[0].float(), **size, antialias=True).div(255)
    wanted = published_faithfulness(reward.network, prepared, frames)
    assert value(reward, video, reference=image) == pytest.approx(wanted, abs=2e-5)
    frames = F.interpolate(video[0].float(), **size).div(255)
    wanted = published_faithfulness(reward.network, prepared, frames)
    reward.antialias = False
    assert value(reward, video, reference=image) == pytest.approx(wanted, abs=2e-5)


def test_one_faithful_frame_is_enough_for_the_image_term():
    """Embeddings (0, 1) three times and (1, 0) once, image (1, 0): 0.4 + 0.3 · 2/3 + 0."""
    z = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    pairs = torch.stack([z[:-1], z[1:]], 1)[None]
    scores = vbench.faithfulness(pairs, torch.tensor([[1.0, 0.0]]), (0.4, 0.3, 0.3))
    assert scores.mean().item() == pytest.approx(0.4 + 0.3 * 2 / 3)


def test_i2v_without_an_image_is_inapplicable():
    score = VbenchI2vSubject(network=lambda x: x.mean((2, 3)))(Samples(smooth(3), [""], 8.0))
    assert score.value.isnan().all() and "reference" in score.why[0]


def grid(move) -> torch.Tensor:
    """Points (2, 100, 2) of a 64 x 64 picture in the first and the last frame."""
    line = torch.linspace(4, 60, 10)
    y, x = torch.meshgrid(line, line, indexing="ij")
    first = torch.stack([x, y], -1)
    return torch.stack([first, move(first)]).view(2, 100, 2)


@pytest.mark.parametrize(
    ("move", "names"),
    [
        (lambda p: p, {"static"}),
        (lambda p: p + torch.tensor([-3.0, 0.0]), {"pan_right"}),
        (lambda p: p + torch.tensor([3.0, 0.0]), {"pan_left"}),
        (lambda p: p + torch.tensor([0.0, 3.0]), {"tilt_up"}),
        (lambda p: p + torch.tensor([0.0, -3.0]), {"tilt_down"}),
        (lambda p: p + torch.tensor([3.0, 3.0]), {"pan_left", "tilt_up"}),
        (lambda p: p + (p - 35) * torch.tensor([0.1, 0.1]), {"zoom_in"}),
        (lambda p: p - (p - 35) * torch.tensor([0.1, 0.1]), {"zoom_out"}),
        (lambda p: p.trunc() + 0.9, {"static"}),  # positions are cut to whole pixels
    ],
)
def test_camera_labels(move, names):
    assert labels(grid(move), 64) == names


def test_camera_motion_by_a_tracker_and_by_the_flow():
    def tracker(video, grid_size):
        assert grid_size == 10 and video.max() > 1
        return grid(lambda p: p + torch.tensor([3.0, 0.0]))[None], None

    clip = world.render(
        world.Scene("square", "blue", "down", "fast", "speckled", camera="left"), 64, 9
    )
    video = clip.video[None]
    for reward in (VbenchCameraMotion(network=tracker), VbenchCameraMotion(flow="dis")):
        assert value(reward, video, prompt="a square, camera pans left") == 1.0
        assert value(reward, video, prompt="a square, camera pans right") == 0.0
    score = reward(Samples(video, ["a square"], 8.0))
    assert score.value.isnan().all() and "names no camera motion" in score.why[0]
    with pytest.raises(RuntimeError, match="non-commercial"):
        value(VbenchCameraMotion(), video, prompt="camera static")


# --- totals


def test_totals_by_hand():
    given = {
        "subject consistency": 0.9,
        "background_consistency": 0.95,
        "temporal_flickering": 0.98,
        "motion_smoothness": 0.99,
        "dynamic_degree": 0.4,
        "aesthetic_quality": 0.6,
        "imaging_quality": 0.65,
        "object_class": 0.8,
        "multiple_objects": 0.5,
        "human_action": 0.9,
        "color": 0.85,
        "spatial_relationship": 0.6,
        "scene": 0.4,
        "appearance_style": 0.24,
        "temporal_style": 0.24,
        "overall_consistency": 0.26,
    }
    quality = (
        (0.9 - 0.1462) / 0.8538
        + (0.95 - 0.2615) / 0.7385
        + (0.98 - 0.6293) / 0.3707
        + (0.99 - 0.706) / 0.2915
        + 0.5 * 0.4
        + 0.6
        + 0.65
    ) / 6.5
    semantic = (
        0.8
        + 0.5
        + 0.9
        + 0.85
        + 0.6
        + 0.4 / 0.8222
        + (0.24 - 0.0009) / 0.2846
        + 0.24 / 0.364
        + 0.26 / 0.364
    ) / 9
    got = vbench.totals(given)
    assert got["quality"] == pytest.approx(quality) and got["semantic"] == pytest.approx(semantic)
    assert got["total"] == pytest.approx(0.8 * quality + 0.2 * semantic) and got["missing"] == []


# What scripts/cal_final_score.py and scripts/cal_i2v_final_score.py of Vchitect/VBench
# (commit 45e79ec) compute, written anew from their tables: (least, most, weight) in the
# order of their lists.
SUBJECT, BACKGROUND, WHOLE = (0.1462, 1.0, 1), (0.2615, 1.0, 1), (0.0, 1.0, 1)
T2V = {
    "quality": {
        "subject_consistency": SUBJECT,
        "background_consistency": BACKGROUND,
        "temporal_flickering": (0.6293, 1.0, 1),
        "motion_smoothness": (0.706, 0.9975, 1),
        "aesthetic_quality": WHOLE,
        "imaging_quality": WHOLE,
        "dynamic_degree": (0.0, 1.0, 0.5),
    },
    "semantic": {
        "object_class": WHOLE,
        "multiple_objects": WHOLE,
        "human_action": WHOLE,
        "color": WHOLE,
        "spatial_relationship": WHOLE,
        "scene": (0.0, 0.8222, 1),
        "appearance_style": (0.0009, 0.2855, 1),
        "temporal_style": (0.0, 0.364, 1),
        "overall_consistency": (0.0, 0.364, 1),
    },
}
TO_IMAGE = {
    "i2v": {"camera_motion": (0.0, 1.0, 0.1), "i2v_subject": SUBJECT, "i2v_background": BACKGROUND},
    "quality": {
        "subject_consistency": SUBJECT,
        "background_consistency": BACKGROUND,
        "motion_smoothness": (0.706, 0.9975, 1),
        "dynamic_degree": (0.0, 1.0, 0.5),
        "aesthetic_quality": WHOLE,
        "imaging_quality": WHOLE,
    },
}


def script(given, tables, shares):
    """The script: absent dimensions are set to 0, all are scaled and weighted, sums are
    divided by sums of weights."""
    sums = {}
    for name, table in tables.items():
        filled = {dim: given.get(dim, 0) for dim in table}
        scaled = [
            (filled[dim] - low) / (high - low) * weight
            for dim, (low, high, weight) in table.items()
        ]
        sums[name] = sum(scaled) / sum(weight for _, _, weight in table.values())
    return {
        **sums,
        "total": sum(sums[name] * share for name, share in shares.items()) / sum(shares.values()),
    }


@pytest.mark.parametrize(
    ("reckon", "tables", "shares"),
    [
        (vbench.totals, T2V, {"quality": 4, "semantic": 1}),
        (vbench.i2v_totals, TO_IMAGE, {"quality": 1.0, "i2v": 1.0}),
    ],
)
def test_totals_are_those_of_vbenchs_script_whatever_is_missing(reckon, tables, shares):
    draw = np.random.default_rng(0)
    names = [dim for table in tables.values() for dim in table]
    for known in [
        names,
        [],
        *([name] for name in names),
        *([one for one in names if one != name] for name in names),
    ]:
        given = {name: float(draw.random()) for name in known}
        wanted = script(given, tables, shares)
        got = reckon(given)
        assert {part: got[part] for part in wanted} == pytest.approx(wanted, abs=1e-12)
        assert got["missing"] == [name for name in got["missing"] if name not in given]
        assert len(got["missing"]) == len(names) - len(given)
        for lost in (math.nan, None):  # an unscored dimension is a missing one
            assert reckon({**dict.fromkeys(names, lost), **given}) == got


def test_the_script_makes_missing_dimensions_negative():
    got = vbench.totals({"temporal_flickering": 0.97, "dynamic_degree": 0.6})
    found = [round(got[name], 4) for name in ("quality", "semantic", "total")]
    assert found == [-0.2659, -0.0004, -0.2128] and len(got["missing"]) == 14
    one_lost = {name: most for name, (_, most, _) in (vbench.QUALITY | vbench.SEMANTIC).items()} | {
        "motion_smoothness": math.nan
    }
    assert vbench.totals(one_lost)["quality"] == pytest.approx((5.5 - 0.706 / 0.2915) / 6.5)
    with pytest.raises(ValueError, match="missing: motion_smoothness.*raw score 0"):
        vbench.totals(one_lost, strict=True)


def test_an_entry_of_a_result_file_is_told_from_a_score():
    with pytest.raises(ValueError, match="'color' as one number, got list: of an entry"):
        vbench.totals({"color": [0.5, [{"video_path": "a.mp4", "video_results": 0.5}]]})


def test_percentages_are_told_from_raw_scores():
    """VBench's tables hold percentages, which its formula would take for scores a hundred
    times too good."""
    for reckon in (vbench.totals, vbench.i2v_totals):
        with pytest.warns(
            UserWarning, match="'motion_smoothness', in .* got 97: divide percentages by 100"
        ):
            reckon({"motion_smoothness": 97.0})


def test_an_unknown_dimension_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'dynamic_degree'"):
        vbench.totals({"dynamic_degre": 0.5})
    with pytest.raises(ValueError, match="no dimension 'temporal_flickering'"):
        vbench.i2v_totals({"temporal_flickering": 0.5})


def test_i2v_totals_by_hand():
    given = {
        "camera_motion": 0.5,
        "i2v_subject": 0.95,
        "i2v_background": 0.96,
        "subject_consistency": 0.9,
        "background_consistency": 0.95,
        "motion_smoothness": 0.99,
        "dynamic_degree": 0.4,
        "aesthetic_quality": 0.6,
        "imaging_quality": 0.65,
    }
    to_image = (0.1 * 0.5 + (0.95 - 0.1462) / 0.8538 + (0.96 - 0.2615) / 0.7385) / 2.1
    quality = (
        (0.9 - 0.1462) / 0.8538
        + (0.95 - 0.2615) / 0.7385
        + (0.99 - 0.706) / 0.2915
        + 0.2
        + 0.6
        + 0.65
    ) / 5.5
    got = vbench.i2v_totals(given)
    assert got["i2v"] == pytest.approx(to_image) and got["quality"] == pytest.approx(quality)
    assert got["total"] == pytest.approx((to_image + quality) / 2)


def test_aggregation_differs_where_lengths_do():
    long, short = [0.5] * 9, [1.0]
    assert vbench.aggregate([long, short], "frames") == pytest.approx(0.55)
    assert vbench.aggregate([long, short], "videos") == pytest.approx(0.75)
    assert vbench.aggregate([long, long]) == vbench.aggregate([long, long], "videos")
    assert vbench.aggregate([[math.nan], [0.25]]) == 0.25 and math.isnan(vbench.aggregate([]))
    with pytest.raises(ValueError, match="'frames' or 'videos'"):
        vbench.aggregate([long], "gpus")

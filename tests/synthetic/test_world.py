"""vidrl.synthetic.world: is the truth that comes with a clip true of its pixels?"""

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, max_pool2d

from vidrl.data.prompt import Prompt
from vidrl.synthetic import scenes as orbits
from vidrl.synthetic import world
from vidrl.synthetic.world import (
    CAMERAS,
    COLOURS,
    MOTIONS,
    SHAPES,
    Clip,
    Scene,
    parse,
    render,
    scenes,
    trajectory,
)


def warp(frames: Tensor, flow: Tensor) -> Tensor:
    """What frame t looks like by frame t + 1: frames (F − 1, C, H, W) fetched along a
    forward flow (F − 1, 2, H, W)."""
    size = frames.shape[-1]
    points = world.pixel_grid(size) * size + flow.permute(0, 2, 3, 1)
    return grid_sample(frames, 2 * points / size - 1, align_corners=False, padding_mode="border")


def some(n: int, seed: int = 0) -> list[Scene]:
    draw = random.Random(seed)
    return [
        replace(scene, camera=draw.choice(list(CAMERAS)))
        for scene in draw.sample(world.all_scenes(), n)
    ]


def edges(clip: Clip) -> Tensor:
    """Pixels near the outline, in frame t or where the flow leads in t + 1: there a pixel
    is half object."""
    band = max_pool2d(((clip.mask > 0) & (clip.mask < 1)).float()[:, None], 3, 1, 1)
    return (band[:-1, 0] > 0) | (warp(band[1:], clip.flow)[:, 0] > 0)


def rim(mask: Tensor) -> Tensor:
    """The pixels along the picture's border, (F, 4 size)."""
    return torch.cat([mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1]], 1)


def whole(mask: Tensor) -> Tensor:
    """In which frames nothing of the object is cut off, (F,)."""
    return rim(mask).amax(1) == 0


# Flow, occlusion, tracks


@pytest.mark.parametrize("size, frames, fps", [(32, 17, 8.0), (64, 9, 8.0), (48, 9, 4.0)])
def test_true_flow_explains_the_next_frame(size: int, frames: int, fps: float) -> None:
    """Outside occlusion, brightness stays along the flow: to 0.02 inside object and
    background (that is bilinear interpolation of texture), and to 0.012 on average with the
    anti-aliased outlines; measured 0.0184 and 0.0113."""
    for i, scene in enumerate(some(40, seed=size)):
        clip = render(scene, size, frames, fps, seed=i)
        error = (warp(clip.video[1:], clip.flow) - clip.video[:-1]).abs().amax(1)
        seen = ~clip.occluded
        assert error[seen & ~edges(clip)].max() < 0.02, scene
        assert error[seen].mean() < 0.012, scene
        assert seen.float().mean() > 0.8 and (seen & ~edges(clip)).float().mean() > 0.6, scene


def test_a_wrong_flow_does_not() -> None:
    """The test above would see a flow that is backward, still, or has its axes
    exchanged."""
    clip = render(Scene("cross", "blue", "right", "fast", "speckled", "down"), seed=1)
    inside = ~clip.occluded & ~edges(clip)

    def error(flow: Tensor) -> float:
        return float((warp(clip.video[1:], flow) - clip.video[:-1]).abs().amax(1)[inside].mean())

    assert all(
        error(wrong) > 3 * error(clip.flow)
        for wrong in (-clip.flow, 0 * clip.flow, clip.flow.flip(1))
    )


def test_occlusion_is_what_the_flow_cannot_explain() -> None:
    clip = render(Scene("square", "red", "right", "fast", "light"), size=64, seed=2)
    error = (warp(clip.video[1:], clip.flow) - clip.video[:-1]).abs().amax(1)
    assert clip.occluded.any() and error[clip.occluded].mean() > 20 * error[~clip.occluded].mean()


def test_flow_by_hand() -> None:
    """A fast object crosses 0.32 widths a second, a camera pans 0.15; on 64 pixels at 8
    frames a second."""
    clip = render(Scene("circle", "red", "left", "fast", "striped", "down"), size=64, seed=0)
    inside = clip.mask[:-1] == 1
    x, y = clip.flow[:, 0], clip.flow[:, 1]
    assert (
        torch.allclose(x[inside], torch.tensor(-0.32 * 64 / 8), atol=1e-4)
        and y[inside].abs().max() < 1e-4
    )
    outside = clip.mask[:-1] == 0
    assert (
        torch.allclose(y[outside], torch.tensor(-0.15 * 64 / 8), atol=1e-4)
        and x[outside].abs().max() < 1e-4
    )


def test_growth_is_flow_from_the_centre() -> None:
    clip = render(Scene("square", "red", "grow", "slow"), size=64, seed=0)
    offset = world.pixel_grid(64) * 64 - clip.tracks[0]
    inside = clip.mask[0] == 1
    rate = torch.tensor(0.35 / 8).exp() - 1
    assert torch.allclose(clip.flow[0].permute(1, 2, 0)[inside], offset[inside] * rate, atol=1e-3)


@pytest.mark.parametrize("size, frames, fps", [(32, 17, 8.0), (96, 5, 2.0)])
def test_tracks_are_the_objects_centroids(size: int, frames: int, fps: float) -> None:
    """To a tenth of a pixel, while all of it is in the picture; a triangle's track only
    moves with its centroid."""
    for i, scene in enumerate(some(30, seed=1)):
        clip = render(scene, size, frames, fps, seed=i)
        centroid = (
            torch.einsum("fhw,hwc->fc", clip.mask, world.pixel_grid(size))
            / clip.mask.sum((1, 2))[:, None]
            * size
        )
        off = (centroid - clip.tracks)[whole(clip.mask)]
        if scene.shape == "triangle":
            size_of = clip.mask.sum((1, 2)).sqrt()[whole(clip.mask), None]
            off = off - (off / size_of).mean(0) * size_of
        assert len(off) > 1 and off.abs().max() < 0.1, scene


def test_mask_is_where_the_colour_is() -> None:
    clip = render(Scene("cross", "green", "circle", background="dark"), seed=4)
    chroma = clip.video.amax(1) - clip.video.amin(1)
    assert torch.allclose(chroma, clip.mask * chroma.max(), atol=1e-5)


# Motion


def test_paths_by_hand() -> None:
    seconds = torch.tensor([0.0, 1.0, 2.0])
    right = trajectory("right", "slow", seconds, 0.0)
    assert torch.allclose(right, torch.tensor([[-0.16, 0, 0], [0, 0, 0], [0.16, 0, 0]]), atol=1e-6)
    up = trajectory("up", "fast", seconds, 0.0)
    assert torch.allclose(up[:, 1], torch.tensor([0.32, 0.0, -0.32])) and up[:, 0].abs().max() == 0
    # a quarter, a half of 2.4 s
    round_ = trajectory("circle", "slow", torch.tensor([0.0, 0.6, 1.2]), 0.0)
    assert torch.allclose(
        round_[:, :2], torch.tensor([[0.24, 0], [0, 0.24], [-0.24, 0]]), atol=1e-6
    )
    bounce = trajectory("bounce", "fast", torch.tensor([0.0, 0.65, 1.3]), 0.0)  # floor, top, floor
    assert torch.allclose(bounce[:, 1], torch.tensor([0.26, -0.26, 0.26]), atol=1e-5)
    assert torch.allclose(
        trajectory("grow", "slow", seconds, 0.0)[:, 2], torch.tensor([-0.35, 0.0, 0.35])
    )
    assert trajectory("rest", "slow", seconds, 0.5).abs().max() == 0


def test_a_straight_path_stays_in_the_picture_however_long() -> None:
    path = trajectory("left", "fast", torch.arange(0, 20, 0.1), 0.0)
    assert float(path[0, 0] - path[-1, 0]) == pytest.approx(0.7, abs=1e-4)


def test_the_object_stays_in_the_picture() -> None:
    """All of it in most frames, and never gone."""
    for i, scene in enumerate(some(60, seed=2)):
        mask = render(scene, seed=i).mask
        assert whole(mask).float().mean() > 0.5, scene
        assert mask.sum((1, 2)).min() > 20 and rim(mask).mean(1).max() < 0.15, scene


def test_speed_is_per_second_whatever_the_frame_rate_and_size() -> None:
    scene = Scene("circle", "red", "right", "slow")
    coarse, fine = render(scene, 32, 9, 4.0), render(scene, 64, 17, 8.0)
    assert torch.allclose(coarse.tracks / 32, fine.tracks[::2] / 64, atol=1e-5)


def test_rest_is_still_unless_the_camera_moves() -> None:
    still = render(Scene("cross", "blue", "rest", background="speckled"))
    assert (
        still.flow.abs().max() == 0
        and not still.occluded.any()
        and still.video.diff(dim=0).abs().max() == 0
    )
    panned = render(Scene("cross", "blue", "rest", background="speckled", camera="left"))
    assert panned.video.diff(dim=0).abs().amax((1, 2, 3)).min() > 0.01


# Scenes, captions, splits


def test_every_scene_has_its_own_caption_which_reads_back() -> None:
    everything = [replace(s, camera=c) for s in world.all_scenes() for c in CAMERAS]
    assert len({s.caption for s in everything}) == len(everything)
    assert all(parse(s.caption) == s for s in everything)


@pytest.mark.parametrize("module", [world, orbits])
def test_a_prompt_with_a_picture_reads_as_its_caption(module) -> None:
    caption = module.scenes("held_out", 1)[0].caption
    assert module.parse(Prompt(caption, {"image": "first.png"})) == module.parse(caption)


def test_parse_refuses_other_words() -> None:
    told = "expected a caption of vidrl.synthetic.world such as 'a blue cross .*', got 'a dog'"
    with pytest.raises(ValueError, match=told):
        parse("a dog")


def test_held_out_is_fixed_balanced_and_disjoint() -> None:
    held, train = scenes("held_out"), scenes("train")
    assert held == scenes("held_out", seed=9) and len(held) == len({s.caption for s in held}) == 256
    assert not {s.caption for s in held} & {s.caption for s in train}
    assert len(held) + len(train) == len(world.all_scenes())
    assert set(Counter(s.motion for s in held).values()) == {256 // len(MOTIONS)}
    for axis, options in (("shape", SHAPES), ("colour", COLOURS)):
        counts = Counter(getattr(s, axis) for s in held)
        assert len(counts) == len(options) and min(counts.values()) > 0.6 * 256 / len(options), (
            counts
        )


def test_any_beginning_of_held_out_shows_every_motion() -> None:
    assert {s.motion for s in scenes("held_out", 8)} == set(MOTIONS)


def test_train_draws_by_seed() -> None:
    assert scenes("train", 20, seed=1) == scenes("train", 20, seed=1) != scenes("train", 20, seed=2)
    assert len(scenes("train", 5000)) == 5000
    with pytest.raises(ValueError, match='expected split "train" or "held_out", got \'test\''):
        scenes("test")


# Rendering


def test_rendering_is_deterministic_and_its_seed_matters() -> None:
    scene = Scene("triangle", "pink", "bounce", "fast", "striped")
    first, same, other = render(scene, seed=5), render(scene, seed=5), render(scene, seed=6)
    for field in ("video", "flow", "occluded", "tracks", "mask"):
        assert torch.equal(getattr(first, field), getattr(same, field))
    assert not torch.equal(first.video, other.video)


def test_shape_and_colour_leave_path_and_background_alone() -> None:
    one, two = (
        render(Scene("cross", "blue", "circle"), seed=5),
        render(Scene("square", "red", "circle"), seed=5),
    )
    assert torch.equal(one.tracks, two.tracks)
    outside = (one.mask == 0) & (two.mask == 0)
    assert torch.equal(
        one.video.permute(1, 0, 2, 3)[:, outside], two.video.permute(1, 0, 2, 3)[:, outside]
    )


def test_background_is_what_lies_behind() -> None:
    for scene in some(8, seed=3):
        clip = render(scene, seed=3)
        behind = world.background(scene, seed=3)
        assert torch.allclose(
            (clip.video - behind).abs().amax(1)[clip.mask == 0], torch.zeros(()), atol=1e-6
        )


@pytest.mark.parametrize(
    "size, frames, fps", [(32, 17, 8.0), (64, 33, 16.0), (17, 2, 1.0), (32, 1, 8.0)]
)
def test_shapes_and_ranges(size: int, frames: int, fps: float) -> None:
    for scene in some(4, seed=size):
        clip = render(scene, size, frames, fps)
        assert (
            clip.video.shape == (frames, 3, size, size)
            and clip.video.min() >= 0
            and clip.video.max() <= 1
        )
        assert clip.flow.shape == (frames - 1, 2, size, size) and clip.occluded.shape == (
            frames - 1,
            size,
            size,
        )
        assert clip.tracks.shape == (frames, 2) and clip.occluded.dtype == torch.bool
        assert (clip.caption, clip.fps, clip.scene) == (scene.caption, fps, scene)
        assert all(getattr(clip, field).isfinite().all() for field in ("video", "flow", "tracks"))

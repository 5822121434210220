"""Camera motion and object motion are separated, at speeds that can be computed by hand."""

import math

import pytest
import torch

from vidrl.rewards import Samples
from vidrl.rewards._flow.camera import Camera, camera, similarity
from vidrl.rewards._flow.things import split_motion
from vidrl.rewards.camera_object import PARTS, CameraObject
from vidrl.rewards.flow import Motion
from vidrl.synthetic import world

SIDE = 64
DIAGONAL = SIDE * math.sqrt(2)


def texture(height: int = 160, width: int = 160, seed: int = 0) -> torch.Tensor:
    """Smooth random ground, (3, H, W) in [0.1, 0.9]."""
    draw = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 3, height // 4, width // 4, generator=draw)
    return (
        torch.nn.functional.interpolate(noise, (height, width), mode="bicubic")[0].clamp(0, 1) * 0.8
        + 0.1
    )


def sliding(x: float, y: float, frames: int = 9) -> torch.Tensor:
    """Return a window over a still image, whose content moves by (x, y) pixels per frame."""
    ground = texture()
    corners = [(48 - round(y * t), 48 - round(x * t)) for t in range(frames)]
    return torch.stack([ground[:, top : top + SIDE, left : left + SIDE] for top, left in corners])


def scaled(zoom: float, roll: float, frames: int = 9) -> torch.Tensor:
    """A still under a camera that zooms in by `zoom` (log) and rolls clockwise by `roll`
    radians a frame."""
    ground = texture()[None]
    rows = []
    for t in range(frames):
        c, s = math.cos(roll * t), math.sin(roll * t)
        turn = torch.tensor([[c, -s, 0.0], [s, c, 0.0]])[None] * math.exp(-zoom * t) * SIDE / 160
        grid = torch.nn.functional.affine_grid(turn, [1, 3, SIDE, SIDE], align_corners=False)
        rows.append(torch.nn.functional.grid_sample(ground, grid, align_corners=False)[0])
    return torch.stack(rows)


def parts(video: torch.Tensor, fps: float = 8.0, **options) -> dict[str, float]:
    score = CameraObject(**options)(Samples(video[None], [""], fps))
    return {name: part.value.item() for name, part in score.parts.items()}


@pytest.mark.parametrize(("x", "y"), [(1, 0), (-2, 0), (0, 2), (2, -1)])
def test_a_pan_over_a_still_is_the_cameras(x, y):
    """Content that moves by (x, y) pixels a frame: the camera pans by -x and tilts up by y,
    at 8 frames a second."""
    found = parts(sliding(x, y))
    assert found["pan"] == pytest.approx(-x * 8 / DIAGONAL, abs=0.005)
    assert found["tilt"] == pytest.approx(y * 8 / DIAGONAL, abs=0.005)
    assert found["camera"] == pytest.approx(math.hypot(x, y) * 8 / DIAGONAL, abs=0.005)
    assert found["object"] < 0.01 and abs(found["zoom"]) < 0.02 and abs(found["roll"]) < 0.02


@pytest.mark.parametrize(("zoom", "roll"), [(0.02, 0.0), (-0.02, 0.0), (0.0, 0.02), (0.02, -0.02)])
def test_zoom_and_roll_by_hand(zoom, roll):
    found = parts(scaled(zoom, roll))
    assert found["zoom"] == pytest.approx(zoom * 8, abs=0.02)
    assert found["roll"] == pytest.approx(roll * 8, abs=0.02)
    assert found["object"] < 0.02 and abs(found["pan"]) < 0.01 and abs(found["tilt"]) < 0.01


@pytest.mark.parametrize("background", world.BACKGROUNDS)
@pytest.mark.parametrize(("speed", "widths"), [("slow", 0.16), ("fast", 0.32)])
def test_a_thing_that_moves_alone_leaves_the_camera_at_rest(background, speed, widths):
    clip = world.render(world.Scene("circle", "red", "left", speed, background), SIDE, 17, seed=3)
    found = parts(clip.video)
    assert found["camera"] < 0.006
    assert found["object"] == pytest.approx(widths / math.sqrt(2), rel=0.15)


def test_a_thing_under_a_moving_camera():
    """Object motion is measured in the picture.

    A thing that keeps its place in the picture while the ground pans is the only thing that
    moves, at the speed of the pan.
    """
    scene = world.Scene("circle", "red", "rest", "slow", "speckled", "left")
    found = parts(world.render(scene, SIDE, 17, seed=3).video)
    assert found["pan"] == pytest.approx(-0.15 / math.sqrt(2), abs=0.01)
    assert found["object"] == pytest.approx(0.15 / math.sqrt(2), abs=0.02)


def test_mirrored_and_reversed():
    video = sliding(2, 0)
    there, mirror, back = parts(video), parts(video.flip(-1)), parts(video.flip(0))
    for other in (mirror, back):
        assert other["pan"] == pytest.approx(-there["pan"], abs=0.003)
        assert other["camera"] == pytest.approx(there["camera"], abs=0.003)


def test_frozen_earns_nothing_and_shaking_on_the_spot_hardly_anything():
    still = texture()[:, :SIDE, :SIDE].expand(9, 3, SIDE, SIDE)
    assert max(parts(still).values()) == 0
    shaken = torch.stack([still[t].roll((t % 2) * 2, -1) for t in range(9)])
    assert parts(shaken)["camera"] < 0.02 and parts(shaken)["object"] < 0.05


@pytest.mark.parametrize("what", ["object", "camera"])
def test_frame_rate_and_size_change_little(what):
    """Within 20 % at 8, 12, 24 and 30 frames a second and at 48, 64 and 128 pixels."""
    camera = "static" if what == "object" else "right"
    scene = world.Scene(
        "square", "blue", "down" if what == "object" else "rest", "fast", "speckled", camera
    )
    looks = [(fps, 64) for fps in (8, 12, 24, 30)] + [(8, 48), (8, 128)]
    clips = [
        world.render(scene, size, round(1.5 * fps) + 1, fps, seed=2).video for fps, size in looks
    ]
    values = [parts(clip, fps)[what] for clip, (fps, _) in zip(clips, looks, strict=True)]
    assert max(values) < 1.2 * min(values), values


def test_the_value_is_the_part_asked_for_and_is_cut_at_most():
    video = sliding(2, 0)
    samples = Samples(video[None], [""], 8.0)
    score = CameraObject("camera")(samples)
    assert (
        set(score.parts) == set(PARTS)
        and score.weights["camera"] == 1
        and score.weights["object"] == 0
    )
    torch.testing.assert_close(score.value, score.parts["camera"].value)
    low = CameraObject("camera", most=0.1)(samples)
    assert low.value.item() == pytest.approx(0.1) and low.slopes["camera"].item() == 0


def test_a_clip_that_cannot_be_scored_has_no_parts_scored_either():
    video = torch.stack([sliding(1, 0), sliding(1, 0)])
    video[1, 2] = math.nan
    score = CameraObject()(Samples(video, ["", ""], 8.0))
    assert (
        score.parts["pan"].value.isnan().tolist() == [False, True]
        and "frame 2" in score.parts["pan"].why[1]
    )


@pytest.mark.parametrize("options", [{"what": "both"}, {"most": 0.0}])
def test_bad_options_say_so(options):
    with pytest.raises(ValueError, match="expected"):
        CameraObject(**options)


def test_the_map_lies_on_the_thing():
    clip = world.render(world.Scene("circle", "red", "left", "fast", "speckled"), SIDE, 9, seed=3)
    drawn = CameraObject()(Samples(clip.video[None], [""], 8.0), maps=True).maps["object"][0]
    inside = clip.mask > 0.5
    assert drawn[0].isnan().all() and drawn[-1].isnan().all()
    far = torch.nn.functional.max_pool2d(clip.mask[4:5], 21, 1, 10)[0] == 0
    assert drawn[4][inside[4]].mean() > 10 * drawn[4][far].mean()


def test_the_fit_withstands_outliers():
    """The true similarity, a third of the picture moving otherwise."""
    shift, turn = torch.tensor(0.01 - 0.02j), torch.tensor(0.02 + 0.01j)
    truth = Camera(shift.view(1, 1), turn.view(1, 1), torch.ones(1, 1), torch.ones(1, 1))
    flow = truth.flow(48, 64)
    flow[..., 8:40, 10:42] = torch.tensor([5.0, -3.0]).view(2, 1, 1)
    frames = texture(48, 64)[None, None]
    found = camera(flow, frames, torch.ones(1, 1, 48, 64))
    assert (
        abs(found.shift.item() - shift.item()) < 2e-4
        and abs(found.turn.item() - turn.item()) < 2e-3
    )
    assert 0.6 < found.agreement.item() < 0.8
    there = found.shift + found.turn * 0.1 + 0.1
    back = found.flip()
    assert abs((there + back.shift + back.turn * there - 0.1).item()) < 1e-6


def test_a_similarity_by_hand():
    at = torch.tensor([0.1 + 0.2j, -0.3j, 0.4 + 0j, -0.2 - 0.1j])
    shift, turn = similarity(at, (0.5 - 1j) + (0.1 + 0.3j) * at, torch.tensor([1.0, 2.0, 3.0, 1.0]))
    assert abs(shift.item() - (0.5 - 1j)) < 1e-3 and abs(turn.item() - (0.1 + 0.3j)) < 1e-3


def test_nothing_moves_beside_an_exact_camera():
    frames = sliding(1, 0)[None]
    flow = torch.zeros(1, 8, 2, SIDE, SIDE)
    flow[:, :, 0] = 1
    assert split_motion(Motion(frames, flow, -flow)).lasting.max() < 1e-3

"""The words of a prompt are read, and the clip that follows them has the highest score."""

import math
from dataclasses import replace

import pytest
import torch

from vidrl.rewards import Samples
from vidrl.rewards._prompts.motion_words import WantedMotion, wanted_motion
from vidrl.rewards.motion_target import MotionTarget, band, circling, rested
from vidrl.synthetic import world

LEFT, RIGHT, UP, DOWN = (-1, 0), (1, 0), (0, -1), (0, 1)
PAN_LEFT, PAN_RIGHT, TILT_UP, IN, OUT = (
    (-1, 0, 0, 0),
    (1, 0, 0, 0),
    (0, 1, 0, 0),
    (0, 0, 1, 0),
    (0, 0, -1, 0),
)
NOTHING = WantedMotion()
CAPTIONS = {
    "a ball bounces quickly": WantedMotion(path="bounce", pace=2.0),
    "a balloon rises into the sky": WantedMotion(UP),
    "Leaves fall from the tree": WantedMotion(DOWN),
    "an apple falls to the ground": WantedMotion(DOWN),
    "a plane flies up and to the right": WantedMotion((1, -1)),
    "a boat sails from right to left": WantedMotion(LEFT),
    "a car drives across the frame to the left": WantedMotion(LEFT),
    "a snail crawls to the right": WantedMotion(RIGHT, pace=0.5),
    "a kite drifts gently upward": WantedMotion(UP, pace=0.5),
    "a rocket lifts off quickly": WantedMotion(UP, pace=2.0),
    "the elevator goes down": WantedMotion(DOWN),
    "a wheel rotates quickly": WantedMotion(path="spin", pace=2.0),
    "a moth circles around a lamp": WantedMotion(path="circle"),
    "a balloon shrinks": WantedMotion(path="shrink"),
    "a train comes towards the camera": WantedMotion(path="grow"),
    "the cat does not move": WantedMotion(rest=True),
    "a still lake where a boat moves left": WantedMotion(LEFT),
    "the camera slowly zooms in on her face": WantedMotion(camera=IN, pace=0.5),
    "zoom out to reveal the valley": WantedMotion(camera=OUT),
    "drone shot flying forward over a forest": WantedMotion(camera=IN),
    "camera pans from left to right across the skyline": WantedMotion(camera=PAN_RIGHT),
    "the camera tilts up to the ceiling": WantedMotion(camera=TILT_UP),
    "a dog runs left behind the camera that pans left": WantedMotion(LEFT, camera=PAN_LEFT),
    "static camera, a dog runs to the right": WantedMotion(RIGHT, still_camera=True),
    "the camera does not move as a bird flies up": WantedMotion(UP, still_camera=True),
    "fixed shot of a race car at rest": WantedMotion(still_camera=True, rest=True),
    "a photographer with a camera walks left": WantedMotion(LEFT),
    "A golden retriever is running toward the right side of the frame.": WantedMotion(RIGHT),
    "Camera moving left to right along a bookshelf": WantedMotion(camera=PAN_RIGHT),
    "A slow dolly in toward a door": WantedMotion(camera=IN, pace=0.5),
    "A hot air balloon slowly ascends above the fields": WantedMotion(UP, pace=0.5),
    "a bead slides from top to bottom": WantedMotion(DOWN),
    "Snowflakes falling gently at night": WantedMotion(DOWN, pace=0.5),
    "The Earth rotates in space, static camera": WantedMotion(path="spin", still_camera=True),
    "The camera is static while a cat walks left": WantedMotion(LEFT, still_camera=True),
    "No camera movement. A leaf drifts down.": WantedMotion(DOWN, still_camera=True),
    "A ball rolls quickly to the left, then stops": WantedMotion(LEFT, pace=2.0),
    "a flower growing out of the ground": WantedMotion(path="grow"),
    # what must not fool it
    "Niagara Falls in winter": NOTHING,
    "night falls over the city": NOTHING,
    "a baby falls asleep": NOTHING,
    "a woman raises her left hand": NOTHING,
    "a man eats fast food on the right side of the street": NOTHING,
    "the dog doesn't move left": NOTHING,
    "the camera never zooms in": NOTHING,
    'a sign that says "move left" stands by the road': NOTHING,
    "a sign reading 'zoom in' on a wall": NOTHING,
    "a car zooms past": NOTHING,
    "she tilts her head up": NOTHING,
    "a frying pan on the left burner": NOTHING,
    "a man walks up to the counter": NOTHING,
    "she sits down and looks up": NOTHING,
    "the train slows down": NOTHING,
    "a pendulum swings left and right": NOTHING,
    "two dogs: one runs left and one runs right": NOTHING,
    "red circles on a wall": NOTHING,
    "a bouncer at the door of a club": NOTHING,
    "high-rise buildings in the fall": NOTHING,
    "water drops on a leaf": NOTHING,
    "he goes right away": NOTHING,
    "the camera orbits around a statue": NOTHING,
    "A left-handed guitarist plays a song": NOTHING,
    "The right answer is written on the board": NOTHING,
    "people walking up and down the stairs": NOTHING,
    "A statue that never moves": NOTHING,
}


@pytest.mark.parametrize(("caption", "meaning"), CAPTIONS.items(), ids=list(CAPTIONS))
def test_captions_are_read(caption, meaning):
    assert wanted_motion(caption) == meaning


def test_every_caption_of_the_world_is_read():
    headings = {"left": LEFT, "right": RIGHT, "up": UP, "down": DOWN}
    cameras = {
        "static": (0, 0, 0, 0),
        "left": PAN_LEFT,
        "right": PAN_RIGHT,
        "up": TILT_UP,
        "down": (0, -1, 0, 0),
    }
    for scene in world.all_scenes()[::7]:
        for camera, numbers in cameras.items():
            read = wanted_motion(replace(scene, camera=camera).caption)
            assert read.heading == headings.get(scene.motion, (0, 0)) and read.camera == numbers
            assert read.rest == (scene.motion == "rest")
            assert read.path == (
                scene.motion if scene.motion in ("bounce", "circle", "grow") else ""
            )


def judged(video: torch.Tensor, prompts: list[str], fps: float = 8.0) -> list[float]:
    """One clip under several prompts, its flow computed once."""
    several = [Samples(video[None], [prompt], fps) for prompt in prompts]
    for samples in several:
        object.__setattr__(samples, "_memo", several[0]._memo)
    return [MotionTarget()(samples).value.item() for samples in several]


@pytest.mark.parametrize(
    ("background", "camera"), [("dark", "static"), ("speckled", "static"), ("speckled", "left")]
)
@pytest.mark.parametrize("motion", ["left", "right", "up", "down"])
def test_the_right_direction_beats_every_wrong_one(motion, background, camera):
    for speed in ("slow", "fast"):
        scene = world.Scene("square", "red", motion, speed, background, camera)
        video = world.render(scene, 32, 17, seed=4).video
        others = [
            m for m in ("left", "right", "up", "down", "bounce", "circle", "grow") if m != motion
        ]
        right, *wrong = judged(
            video, [scene.caption, *(replace(scene, motion=m).caption for m in others)]
        )
        assert right > 0.9 and right > max(wrong) + 0.1, (speed, right, wrong)


@pytest.mark.parametrize("motion", ["bounce", "circle", "grow", "rest"])
@pytest.mark.parametrize("speed", ["slow", "fast"])
def test_the_right_path_beats_every_other(motion, speed):
    if (motion, speed) == ("rest", "fast"):
        pytest.skip("rest has one speed")
    scene = world.Scene("square", "red", motion, speed, "speckled")
    video = world.render(scene, 32, 17, seed=4).video
    others = [m for m in world.MOTIONS if m != motion]
    right, *wrong = judged(
        video, [scene.caption, *(replace(scene, motion=m).caption for m in others)]
    )
    assert right > 0.6 and right > max(wrong) + 0.1, (right, wrong)


def test_the_right_pace_beats_the_wrong_one():
    for speed, other in (("slow", "fast"), ("fast", "slow")):
        scene = world.Scene("circle", "blue", "right", speed, "striped")
        video = world.render(scene, 32, 17, seed=1).video
        right, wrong = judged(video, [scene.caption, replace(scene, speed=other).caption])
        assert right > wrong + 0.1


def still(frames: int = 9) -> torch.Tensor:
    noise = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    return (
        torch.nn.functional.interpolate(noise, (160, 160), mode="bicubic")[0]
        .clamp(0, 1)
        .expand(frames, -1, -1, -1)
    )


def window(step: tuple[float, float] = (0, 0), zoom: float = 0.0, side: int = 64) -> torch.Tensor:
    """A still whose content moves by `step` pixels and grows by `zoom` (log) a frame, (9,
    3, side, side)."""
    frames = []
    for t, ground in enumerate(still()):
        scale = math.exp(-zoom * t) * side / 160
        at = torch.tensor([[scale, 0, -step[0] * t / 80], [0, scale, -step[1] * t / 80]])[None]
        grid = torch.nn.functional.affine_grid(at, [1, 3, side, side], align_corners=False)
        frames.append(torch.nn.functional.grid_sample(ground[None], grid, align_corners=False)[0])
    return torch.stack(frames)


def test_a_camera_that_pans_left_moves_the_picture_right():
    left, right, up, zoom, rest = judged(
        window((1.5, 0)),
        [
            "the camera pans left",
            "the camera pans right",
            "the camera tilts up",
            "zoom in",
            "static camera",
        ],
    )
    assert left > 0.9 and max(right, up, zoom) < 0.05 and rest < 0.1


def test_a_camera_that_tilts_up_moves_the_picture_down_and_one_that_zooms_in_expands_it():
    up, down = judged(window((0, 1.5)), ["the camera tilts up", "the camera tilts down"])
    assert up > 0.9 and down < 0.05
    closer, away, left = judged(
        window(zoom=0.02), ["zoom in", "the camera zooms out", "the camera pans left"]
    )
    assert closer > 0.9 and max(away, left) < 0.1


def test_a_frozen_clip_wins_only_where_rest_is_asked():
    frozen = still()[:, :, :64, :64]
    prompts = ["a cat, motionless", "static camera", "it moves left", "zoom in", "it spins"]
    assert judged(frozen, prompts) == [1, 1, 0, 0, 0]


def test_a_prompt_that_asks_nothing_of_motion_is_inapplicable():
    video = world.render(world.Scene("circle", "red", "left"), 32, 9).video
    score = MotionTarget()(
        Samples(torch.stack([video, video]), ["a bowl of fruit", "it moves left"], 8.0)
    )
    assert score.value.isnan().tolist() == [True, False]
    assert score.why[0].startswith("inapplicable: the prompt asks nothing") and score.why[1] is None


@pytest.mark.parametrize("prompt", ["a square moves left", "a square moves left quickly"])
def test_frame_rate_and_size_change_little(prompt):
    """Within 0.05 at 8, 12, 24 and 30 frames a second and at 32 and 96 pixels."""
    scene = world.Scene("square", "blue", "left", "fast", "speckled")
    looks = [(fps, 32) for fps in (8, 12, 24, 30)] + [(8, 96)]
    clips = [
        world.render(scene, size, round(1.5 * fps) + 1, fps, seed=2).video for fps, size in looks
    ]
    values = [judged(clip, [prompt], fps)[0] for clip, (fps, _) in zip(clips, looks, strict=True)]
    assert min(values) > 0.9 and max(values) - min(values) < 0.05, values


def test_the_curve_says_when_it_went_the_right_way():
    """Left for eight steps, then back for two."""
    video = world.render(world.Scene("square", "red", "left", "fast", "dark"), 32, 9, seed=0).video
    there_and_more = torch.cat([video, video.flip(0)[1:3]])
    curve = MotionTarget()(Samples(there_and_more[None], ["it moves left"], 8.0)).frames[0]
    assert curve[2:7].mean() > curve[9:].mean() + 0.1


def test_the_band_by_hand():
    """Below: 1.5 u^2 / (u^2 + 0.5) at u = 1/2 is 0.375 / 0.75 = 0.5; above: high /
    speed."""
    torch.testing.assert_close(
        band(torch.tensor([0.5, 3.0, 10.0]), 1.0, 5.0), torch.tensor([0.5, 1.0, 0.5])
    )
    fit, curve = rested(torch.tensor([0.1, 0.3]), 0.1)
    assert fit.item() == pytest.approx(0.25) and curve.tolist() == pytest.approx([1, 1 / 9])


def test_going_to_and_fro_is_no_circle():
    to_and_fro = torch.tensor([[1.0, 0.1], [-1.0, 0.1]]).repeat(5, 1)
    assert circling(to_and_fro) < 0.05


@pytest.mark.parametrize("options", [{"low": 0}, {"typical": 2.0}, {"high": 0.1}])
def test_bad_bands_say_so(options):
    with pytest.raises(ValueError, match="expected 0 < low < typical < high"):
        MotionTarget(**options)

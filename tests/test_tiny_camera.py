"""The recipe of a moving camera, and the embedded image-to-video model that it trains."""

import pytest
import torch

from vidrl import config, plugin
from vidrl.data import picture, prompts
from vidrl.report.run_folder import read
from vidrl.rewards import Samples
from vidrl.synthetic import camera_fit, verifier, world
from vidrl.training import evaluate

RECIPE = "scripts/recipes/tiny_camera.toml"
CAMERA, THING = "vidrl.synthetic.camera_fit:CameraFit", "vidrl.synthetic.motion_fit:MotionFit"


def test_the_recipe_is_right() -> None:
    loaded = config.load(RECIPE)
    evaluate.check_recipe(loaded)
    reward = evaluate.build_reward(loaded.reward)
    judges = {"camera_object", "motion_target", "dynamic_degree"}
    assert {name for name, weight in reward.weights.items() if weight == 0} == judges
    assert reward.weights[CAMERA] > reward.weights[THING] > 0
    assert "verifier" in loaded.guard.bands


@pytest.fixture(scope="module")
def asked() -> list[str]:
    """The prompts of one held-out scene under each of the five cameras."""
    return prompts.read("assets/prompts/cameras_held_out.jsonl")[5:10]


@pytest.fixture(scope="module")
def model():
    options = config.load(RECIPE).backbone.options
    return plugin.load("backbones", "pipeline", **options)


@pytest.fixture(scope="module")
def clips(model, asked) -> torch.Tensor:
    cond = model.encode(asked)
    noise = model.noise([torch.Generator().manual_seed(i) for i in range(len(asked))])
    return model.decode_with(model.generate(noise, cond, steps=8), cond)


def test_clips_begin_with_the_given_picture(clips, asked) -> None:
    given = picture.read(asked[0].references["image"])
    error = (clips[:, 0] - given).square().mean((1, 2, 3))
    assert bool((error < 1e-3).all())  # 30 dB, the autoencoder's own error


def test_the_model_shows_the_thing_and_most_cameras_of_the_captions(clips, asked) -> None:
    samples = Samples(clips, asked, 8.0)
    verdict = verifier.verify(clips, list(asked), samples.fps)
    assert bool((verdict.shape & verdict.colour).all())
    fits = torch.stack([camera_fit.explained(clip, 8.0).mean(1) for clip in clips])
    wanted = [list(world.CAMERAS).index(world.parse(text).camera) for text in asked]
    assert (fits.argmax(1) == torch.tensor(wanted)).sum() >= 3


def test_the_plain_pipeline_makes_the_same_clip(model, asked) -> None:
    from diffusers import WanImageToVideoPipeline

    pipe = WanImageToVideoPipeline.from_pretrained("assets/tiny-i2v", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    noise = model.noise([torch.Generator().manual_seed(3)])
    plain = pipe(
        image=picture.image(asked[1].references["image"]),
        prompt=str(asked[1]),
        height=64,
        width=64,
        num_frames=17,
        num_inference_steps=4,
        guidance_scale=1.0,
        max_sequence_length=24,
        latents=noise,
        output_type="pt",
    ).frames
    cond = model.encode(asked[1:2])
    own = model.decode_with(model.generate(noise, cond, steps=4), cond)
    torch.testing.assert_close(own, plain, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # 50 s of CPU time; other work may share the machine
def test_the_camera_follows_captions_better_and_the_thing_stays(tmp_path) -> None:
    """The recipe, shortened: the reward of the camera rises beyond doubt on held-out prompts, and
    the verifier, which no reward reads, does not fall."""
    from vidrl.training import loop

    changes = [
        f"run={tmp_path / 'run'}",
        "train.rounds=3",
        "train.prompts_per_round=8",
        "train.show=2",
        "train.eval_every=100",
        "train.eval_n=0",
        "data.held_out_n=30",
    ]
    found = read(loop.run(config.load(RECIPE, changes)))
    assert found.held_out[CAMERA]["low"] > 0
    for name in ("verifier", "identity"):
        assert found.held_out[name]["after"] >= 0.965 * found.held_out[name]["before"]

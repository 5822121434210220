"""The main job on the embedded model: train a LoRA, sample with it here and in plain
diffusers, and meet the bar."""

import json
import subprocess
import sys

import pytest
import torch

from vidrl.backbones.wan import Wan
from vidrl.synthetic import verifier, world
from vidrl.training import loop
from vidrl.training.clips import generate
from vidrl.training.policy import load_adapter

MODEL = "assets/tiny-wan-32"


def pipeline():
    from diffusers import WanPipeline

    pipe = WanPipeline.from_pretrained(MODEL)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeds(first, n):
    return [torch.Generator().manual_seed(first + i) for i in range(n)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two rounds of the demo's recipe; one thread, one process."""
    folder = tmp_path_factory.mktemp("run") / "short"
    from vidrl import config

    changes = [
        f"run={folder}",
        "train.rounds=2",
        "train.prompts_per_round=2",
        "train.group=4",
        "data.held_out_n=8",
        "train.eval_every=2",
        "train.learning_rate=3e-3",
        "guard.action=warn",
        "train.show=2",
    ]
    return loop.run(config.load("scripts/recipes/study.toml", changes))


@pytest.mark.slow
def test_a_run_leaves_everything_that_looking_back_needs(run):
    summary = json.loads((run / "summary.json").read_text())
    assert {"composite", "verifier", "dynamic_degree"} <= set(summary["held_out"])
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    for name in (
        "config.toml",
        "report.html",
        "timelines.json",
        "credit.json",
        "clips/before/0001.mp4",
        "clips/after/0001.mp4",
    ):
        assert (run / name).is_file(), name


@pytest.mark.slow
def test_plain_diffusers_with_the_lora_makes_what_vidrl_makes(run):
    prompts = [scene.caption for scene in world.scenes("held_out", 2)]
    ours = generate(
        load_adapter(Wan(model=MODEL), run / "lora"), prompts, seeds(5, 2), steps=6
    ).video
    pipe = pipeline()
    bare = pipe(
        prompts,
        height=32,
        width=32,
        num_frames=17,
        num_inference_steps=6,
        guidance_scale=1.0,
        generator=seeds(5, 2),
        output_type="pt",
    ).frames
    pipe.load_lora_weights(str(run / "lora"))
    theirs = pipe(
        prompts,
        height=32,
        width=32,
        num_frames=17,
        num_inference_steps=6,
        guidance_scale=1.0,
        generator=seeds(5, 2),
        output_type="pt",
    ).frames
    assert (ours - theirs).abs().max() < 1e-4
    assert (bare - theirs).abs().max() > 1e-3  # the LoRA does something


@pytest.mark.slow
def test_vidrl_sample_writes_the_clips_of_a_lora(run, tmp_path):
    prompt = world.scenes("held_out", 1)[0].caption
    command = [
        "sample",
        "--model",
        MODEL,
        "--lora",
        str(run / "lora"),
        "--prompt",
        prompt,
        "--out",
        str(tmp_path),
        "--steps",
        "4",
    ]
    subprocess.run([sys.executable, "-m", "vidrl", *command], check=True)
    from vidrl.rewards import video

    assert video.read(tmp_path / "0000.mp4")[0].shape[-2:] == (32, 32)


@pytest.mark.slow
def test_the_embedded_model_meets_its_bar_in_plain_diffusers():
    captions = [scene.caption for scene in world.scenes("held_out", 128)]
    pipe, verdicts = pipeline(), []
    for start in range(0, 128, 64):
        part = captions[start : start + 64]
        video = pipe(
            part,
            height=32,
            width=32,
            num_frames=17,
            num_inference_steps=20,
            guidance_scale=1.0,
            generator=seeds(start, 64),
            output_type="pt",
        ).frames
        verdicts.append(verifier.verify(video, part))
    share = {
        word: torch.cat([getattr(v, word) for v in verdicts]).float().mean()
        for word in ("colour", "shape", "motion")
    }
    assert share["colour"] >= 0.90 and share["shape"] >= 0.80 and share["motion"] >= 0.80, share

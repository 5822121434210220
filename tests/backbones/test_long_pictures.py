"""Image-to-video pipelines continue a clip: the last frame of a chunk is the next one's image."""

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="needs vidrl[train]")

from families import FAMILIES, picture

from vidrl.backbones import _picture_continuation
from vidrl.backbones.long import Long
from vidrl.backbones.pipeline import Pipeline
from vidrl.data.prompt import Prompt
from vidrl.diffusion import transition
from vidrl.training.chunks import sample, split
from vidrl.training.rollout import Plan, draws


def long_of(name: str, chunks: int = 2, **call: object) -> Long:
    family = FAMILIES[name]
    options = {"call": {**family.call, **call}}
    return Long(family.build(), chunks=chunks, base="pipeline", options=options)


@pytest.mark.parametrize("name", ["wan_i2v", "wan22_5b_i2v"])
def test_a_chunk_of_a_picture_pipeline_follows_the_last_frame(name, tmp_path):
    long = long_of(name)
    pipeline = long.base
    assert isinstance(pipeline, Pipeline)
    height, width = pipeline.clip_shape[2:]
    picture(height, width, 0).save(tmp_path / "start.png")
    prompts = [Prompt("a red circle", {"image": str(tmp_path / "start.png")})]
    frames = pipeline.clip_shape[0]
    assert long.frame_map[-1][1] == 2 * frames - 1
    cond, times = long.encode(prompts), long.times(3)
    plan = Plan(times, "cps", 0.3, 2, stochastic=(0,), keep=(0,), chunks=2)
    made = sample(long, cond, draws(0, [("a",)]), plan)
    chunks = split(made, long)
    first, second = chunks.cond["row"].tolist()
    halves = chunks.latents
    begun = pipeline.decode_with(halves[:1], {"row": torch.tensor([first])})
    image = np.asarray(pipeline.runner.table[second].references["image"])
    last = (255 * begun[0, -1]).round().byte().permute(1, 2, 0).numpy()
    assert np.abs(image.astype(int) - last).max() <= 1
    clip = long.decode_with(made.latents, cond)
    assert clip.shape[1] == 2 * frames - 1 and torch.equal(clip[:, :frames], begun)
    step = chunks.plan.step(long, chunks.before[:, 0], 0, chunks.cond)
    again = transition.log_density(step, chunks.after[:, 0]).flatten(1).mean(1)
    assert torch.allclose(again, chunks.log_density[:, 0, 0], atol=1e-3)


def test_a_pipeline_without_a_picture_is_refused():
    with pytest.raises(ValueError, match="got WanPipeline, which takes no image"):
        long_of("wan")


def test_the_oldest_pictures_are_freed(monkeypatch, tmp_path):
    monkeypatch.setattr(_picture_continuation, "ROWS", 2)
    long = long_of("wan_i2v", chunks=2)
    number = long.base.dry_row
    size = long.base.clip_shape[2:]
    rows = [long.continued._row(number, picture(*size, seed)) for seed in range(4)]
    table = long.base.runner.table
    assert [bool(table[row].references) for row in rows] == [False, False, True, True]
    assert long.continued._row(number, picture(*size, 3)) == rows[3]

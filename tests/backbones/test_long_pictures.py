"""Image-to-video pipelines continue a clip: the last frame of a chunk is the next one's image."""

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="needs vidrl[train]")

from families import FAMILIES, picture

from vidrl.backbones import _picture_continuation
from vidrl.backbones.base import rows
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
    first, later = rows(chunks.cond, slice(0, 1)), rows(chunks.cond, slice(1, 2))
    assert first["row"].tolist() == later["row"].tolist() == cond["row"].tolist()
    begun = pipeline.decode_with(chunks.latents[:1], {"row": cond["row"]})
    last = (255 * begun[0, -1]).round().byte()
    assert torch.equal(later["pictures"][0, 0], last)
    (row,) = long.continued._rows(later)["row"].tolist()
    image = np.asarray(pipeline.runner.table[row].references["image"])
    assert np.array_equal(image, last.permute(1, 2, 0).numpy())
    clip = long.decode_with(made.latents, cond)
    assert clip.shape[1] == 2 * frames - 1 and torch.equal(clip[:, :frames], begun)
    step = chunks.plan.step(long, chunks.before[:, 0], 0, chunks.cond)
    again = transition.log_density(step, chunks.after[:, 0]).flatten(1).mean(1)
    assert torch.allclose(again, chunks.log_density[:, 0, 0], atol=1e-3)


def test_a_pipeline_without_a_picture_is_refused():
    with pytest.raises(ValueError, match="got WanPipeline, which takes no image"):
        long_of("wan")


@pytest.fixture
def i2v(tmp_path):
    """A model of two chunks, three prompts with an image, and a plan."""
    long = long_of("wan_i2v")
    prompts = []
    for number in range(3):
        file = tmp_path / f"{number}.png"
        picture(*long.base.clip_shape[2:], number).save(file)
        prompts.append(Prompt("a red circle", {"image": str(file)}))
    plan = Plan(long.times(2), "cps", 0.3, 2, stochastic=(0,), keep=(0,), chunks=2)
    return long, prompts, plan


def test_a_picture_that_was_dropped_is_made_again(monkeypatch, i2v):
    """The pipeline keeps one row, and each chunk is still predicted under its own picture."""
    monkeypatch.setattr(_picture_continuation, "ROWS", 1)
    long, prompts, plan = i2v
    made = sample(long, long.encode(prompts), draws(0, [(i,) for i in range(3)]), plan)
    chunks = split(made, long)
    for i in (3, 4, 5, 3):
        one = rows(chunks.cond, slice(i, i + 1))
        step = chunks.plan.step(long, chunks.before[i : i + 1, 0], 0, one)
        again = transition.log_density(step, chunks.after[i : i + 1, 0]).mean()
        assert torch.allclose(again, chunks.log_density[i, 0, 0], atol=1e-3)
    assert len(long.continued.rows) == 1


def test_rows_of_one_call_are_never_dropped(monkeypatch, i2v):
    monkeypatch.setattr(_picture_continuation, "ROWS", 1)
    long, prompts, _ = i2v
    cond = {**long.encode(prompts), "follows": torch.ones(3)}
    size = long.base.clip_shape[1:]
    cond["pictures"] = torch.arange(3, dtype=torch.uint8)[:, None, None, None, None].expand(
        3, 1, *size
    )
    found = long.continued._rows(cond)["row"].tolist()
    images = [long.base.runner.table[row].references["image"] for row in found]
    assert [int(np.asarray(image).max()) for image in images] == [0, 1, 2]


def test_a_chunk_is_decoded_once_for_the_next_one(i2v):
    """While sampling, each chunk but the last; for the clip, each chunk once more."""
    long, prompts, plan = i2v
    calls, decode = [], long.base.decode_with
    long.base.decode_with = lambda x, cond: calls.append(len(x)) or decode(x, cond)
    cond = long.encode(prompts)
    made = sample(long, cond, draws(0, [(i,) for i in range(3)]), plan)
    assert sum(calls) == 3
    split(made, long)
    assert sum(calls) == 3, "the conditions were made when the chunks were sampled"
    long.decode_with(made.latents, cond)
    assert sum(calls) == 3 + 6

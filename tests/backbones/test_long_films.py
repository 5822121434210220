"""A pipeline that takes a film sees the last frames of the chunk before, not one alone."""

import pytest
import torch

pytest.importorskip("diffusers", reason="needs vidrl[train]")

from _chunks import learn_a_round, log_density
from diffusers import CogVideoXVideoToVideoPipeline
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
from families import FAMILIES, clips
from families.contract import targets

from vidrl.backbones.base import extended, rows
from vidrl.backbones.long import Long
from vidrl.data.prompt import Prompt
from vidrl.diffusion import transition
from vidrl.training.chunks import sample, split
from vidrl.training.rollout import Plan, draws

LTX = FAMILIES["ltx_condition"]
CALL = {**LTX.call, "num_frames": 17}
HISTORY, STEPS = 5, 4  # two latent frames: one frame, and four


def film(frames: int) -> list:
    return [LTX.picture(CALL, seed) for seed in range(frames)]


def long_of(frames: int = HISTORY, history: int = HISTORY, **call: object) -> Long:
    options = {"call": {**CALL, "video": film(frames), **call}}
    return Long(LTX.build(), chunks=2, base="pipeline", options=options, history=history)


@pytest.fixture(scope="module")
def long():
    return long_of()


@pytest.fixture(scope="module")
def made(long):
    plan = Plan(long.times(STEPS), "cps", 0.3, 2, stochastic=(2,), keep=(2,), chunks=2)
    return sample(long, long.encode(["a red circle"]), draws(0, [("a",)]), plan)


def test_only_free_latent_frames_are_sampled(long, made):
    """17 frames are 5 latent frames, of which the film gives two."""
    assert long.base.layout.conditioned == (0, 1) and long.base.shape[1] == 3
    assert long.frame_map == [(0, 9), (9, 13), (13, 17), (17, 21), (21, 25), (25, 29)]
    assert made.latents.shape[2] == 6 and made.log_density.shape == (1, 1, 2)


def test_the_given_frames_are_the_last_ones_of_the_chunk_before(long, made):
    chunks, row = split(made, long), {"row": torch.tensor([0])}
    first = long.base.decode_with(chunks.latents[:1], row)
    assert torch.equal(chunks.cond["pictures"][1], (255 * first[0, -5:]).round().byte())
    clip = long.decode_with(made.latents, row)
    assert clip.shape[1] == 29 and torch.equal(clip[:, :17], first)
    later = long.continued._rows({name: v[1:] for name, v in chunks.cond.items()})
    begun = long.base.decode_with(chunks.latents[1:], later)
    assert torch.equal(clip[:, 17:], begun[:, HISTORY:])


def test_a_continued_chunk_is_the_pipelines_own(long, made):
    """By diffusers alone: the film as the condition at frame 0, of the same noise."""
    cond = split(made, long).cond
    (row,) = long.continued._rows({k: v[1:] for k, v in cond.items()})["row"].tolist()
    given = long.base.runner.table[row].references["video"]
    assert len(given) == HISTORY
    times, base = long.times(STEPS), long.base
    x = base.layout.to_vidrl(base.runner.initial_latents(row))
    for t, s in zip(times[:-1], times[1:], strict=True):
        raw = long.predict(x, torch.tensor([t]), {k: v[1:] for k, v in cond.items()})
        x = transition.step(base.path, "ode", raw, x, t, s).mean
    found = base.decode_with(x, {"row": torch.tensor([row])})
    asked = {**CALL, "prompt": "a red circle"}
    own = clips(LTX.build(), {**asked, "conditions": LTXVideoCondition(video=given)}, STEPS)
    assert torch.allclose(found, own, atol=1e-5)
    other = clips(LTX.build(), {**asked, "conditions": LTXVideoCondition(image=given[0])}, STEPS)
    assert not torch.allclose(found, other, atol=1e-4)


def test_the_density_of_a_chunk_depends_on_each_given_frame(long, made):
    chunks = split(made, long)

    def log(cond):
        return log_density(chunks, long, 2, cond)

    ratio = (log(chunks.cond) - chunks.log_density[:, 0, 0]).exp()
    assert torch.allclose(ratio, torch.ones(2), atol=1e-6)
    for frame in range(HISTORY):
        pictures = chunks.cond["pictures"].clone()
        pictures[:, frame] = 255
        moved = log(extended(chunks.cond, {"pictures": pictures})) - log(chunks.cond)
        assert moved[0] == 0 and moved[1] != 0


def test_each_clip_of_a_batch_goes_on_after_its_own_end():
    """The pipeline gives the first row's film to all rows, and first chunks have equal films."""
    long = long_of()
    plan = Plan(long.times(STEPS), "cps", 0.3, 2, stochastic=(2,), keep=(2,), chunks=2)
    made = sample(long, long.encode(["a red circle"] * 2), draws(0, [("a",), ("b",)]), plan)
    later = rows(split(made, long).cond, torch.tensor([2, 3]))
    levels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1, 1)
    later = extended(later, {"pictures": levels.expand_as(later["pictures"])})
    x, t = made.latents.tensor_split(2, 2)[1], torch.full((2,), long.times(STEPS)[1])
    with torch.no_grad():
        together = long.predict(x, t, later)
        alone = [long.predict(x[i : i + 1], t[:1], rows(later, torch.tensor([i]))) for i in (0, 1)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_a_round_of_grpo_learns_from_chunks(tmp_path):
    long = long_of()
    learn_a_round(long, tmp_path, targets=targets(long.base))


@pytest.mark.parametrize(
    "frames, history, told",
    [
        (5, 9, "history = 9 .*got a film of 5 frames, of which the pipeline takes 5 unchanged"),
        (6, 6, "history = 6 .*got a film of 6 frames, of which the pipeline takes 5 unchanged"),
        (17, 17, "shorter than a chunk of 17 frames, .*got a film of 17 frames with history = 17"),
        (25, 5, "shorter than a chunk of 17 frames, .*got a film of 25 frames with history = 5"),
    ],
)
def test_a_film_of_another_length_is_refused(frames, history, told):
    with pytest.raises(ValueError, match=told):
        long_of(frames, history)


def test_a_pipeline_that_makes_the_whole_film_anew_is_refused():
    """Its clips are as long as the film, so that a shorter film would not help."""
    family = FAMILIES["cogvideox"]
    pipe = CogVideoXVideoToVideoPipeline(**family.build().components)
    own = {name: value for name, value in family.call.items() if name != "num_frames"}
    call = {**own, "video": film(9), "strength": 1.0}
    with pytest.raises(ValueError, match="of which the pipeline takes none unchanged: use a pipe"):
        Long(pipe, base="pipeline", options={"call": call}, history=9)


@pytest.mark.parametrize("strength", [0.2, 0.5, 0.9])
def test_frames_that_are_held_in_early_steps_alone_are_refused(strength):
    """The pipeline denoises the given frames, too, from the time 1 - strength on."""
    with pytest.raises(ValueError, match="holds the given frames in some steps .*strength = 1"):
        long_of(strength=strength)


def test_several_frames_without_a_film_are_refused():
    with pytest.raises(ValueError, match="a film of 5 frames .*options.options.call.video"):
        Long(LTX.build(), base="pipeline", options={"call": CALL}, history=5)
    family = FAMILIES["ltx_i2v"]
    options = {"call": {**family.call, "image": family.picture(family.call)}}
    with pytest.raises(ValueError, match="takes a film for history = 5, got LTXImageToVideo"):
        Long(family.build(), base="pipeline", options=options, history=5)


def test_frames_that_would_stay_the_same_in_all_chunks_are_refused():
    picture = LTX.picture(CALL, 0)
    with pytest.raises(ValueError, match="no image in .*call with history = 5"):
        long_of(image=picture)
    with pytest.raises(ValueError, match="no video in .*call with history = 1"):
        long_of(history=1, image=picture)


def test_a_prompt_with_frames_that_chunks_do_not_begin_with_is_refused(long):
    with pytest.raises(ValueError, match="which is what Long reads, got 'a cat' with image"):
        long.check_prompts([Prompt("a cat", {"image": "cat.png"})])


def test_several_frames_are_refused_before_a_pipeline_is_read():
    with pytest.raises(ValueError, match="a film for history = 2, got WanPipeline"):
        Long.check_options({"model": "assets/tiny-wan-32", "base": "pipeline", "history": 2})

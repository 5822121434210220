"""Pipelines that denoise sound beside video: what the policy sees, and what is refused."""

import copy
import functools

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers", reason="needs vidrl[train]")

from families import FAMILIES, PROMPTS

from vidrl.backbones._joint_latents import _columns
from vidrl.backbones.base import rows
from vidrl.backbones.pipeline import Pipeline
from vidrl.data.prompt import Prompt
from vidrl.diffusion import transition
from vidrl.diffusion.segments import pool
from vidrl.training.rollout import draws

FAMILY, STEPS, SEED = FAMILIES["ltx2"], 4, 7
VIDEO = 64  # numbers of a latent frame's video: 4 channels of 4 x 4 latents


@functools.cache
def driven() -> Pipeline:
    return Pipeline(FAMILY.build(), FAMILY.call, seed=SEED)


def row() -> Tensor:
    return driven().encode(PROMPTS[:1])["row"]


def predicted(x: Tensor, time: float = 0.5) -> Tensor:
    with torch.no_grad():
        return driven().predict(x, torch.tensor([time]), {"row": row()})


def noise() -> Tensor:
    return driven().noise(draws(0, [("a",)]))


def test_each_latent_frame_holds_the_sound_of_its_pixel_frames() -> None:
    """5 frames at 25 a second have 5 latents of sound, each of 4 numbers: 1, 2 and 2 of
    them."""
    backbone = driven()
    assert backbone.frame_map == [(0, 1), (1, 3), (3, 5)]
    assert backbone.layout.column.T.tolist() == [
        [0, 1, 2, 3, -1, -1, -1, -1],
        list(range(4, 12)),
        list(range(12, 20)),
    ]
    assert backbone.shape == (VIDEO + 8, 3, 1, 1)


def test_columns_hold_each_number_once() -> None:
    frames = torch.tensor([0, 1, 1, 0, 1])
    column, place = _columns(frames, 2)
    assert column.tolist() == [[0, 1], [3, 2], [-1, 4]]
    assert column.flatten()[place].tolist() == [0, 1, 2, 3, 4]


def test_the_layout_is_undone_exactly() -> None:
    layout = driven().layout
    theirs = torch.randn(2, *layout.pipeline_shape)
    ours = layout.to_vidrl(theirs)
    assert torch.equal(layout.to_pipeline(ours), theirs)
    assert ours[:, VIDEO + 4 :, 0].eq(0).all() and ours.ne(0).sum() == theirs.numel()


def test_noise_is_the_video_and_the_sound_that_the_pipeline_draws() -> None:
    backbone = driven()
    (own,) = backbone.layout.to_vidrl(backbone.runner.initial_latents(int(row())))
    drawn = backbone.noise([torch.Generator().manual_seed(SEED)])[0]
    assert torch.equal(drawn, own)


@torch.no_grad()
def test_the_rollout_gives_the_pipelines_own_latents_of_video_and_of_sound() -> None:
    backbone, pipe = driven(), FAMILY.build()
    x = backbone.noise([torch.Generator().manual_seed(SEED)])
    times = backbone.times(STEPS)
    for t, s in zip(times[:-1], times[1:], strict=True):
        x = transition.step(backbone.path, "ode", predicted(x, t), x, t, s).mean
    video, sound = pipe(
        **FAMILY.ask(PROMPTS[0]),
        num_inference_steps=STEPS,
        output_type="latent",
        generator=torch.Generator().manual_seed(SEED),
        return_dict=False,
    )
    mean, std = (getattr(pipe.audio_vae, f"latents_{name}") for name in ("mean", "std"))
    theirs = backbone.layout.to_pipeline(x)
    assert torch.allclose(
        theirs[:, -20:].view(1, 5, 4) * std + mean, sound.transpose(1, 2).flatten(2), atol=1e-5
    )
    packed = pipe._pack_latents(video).flatten(1)  # its autoencoder's mean and std are 0 and 1
    assert torch.allclose(theirs[:, :-20], packed, atol=1e-5)


def test_video_depends_on_sound_and_sound_on_video() -> None:
    x = noise()
    louder, lighter = x.clone(), x.clone()
    louder[:, VIDEO], lighter[:, 0] = louder[:, VIDEO] + 1, lighter[:, 0] + 1
    plain = predicted(x)
    assert (predicted(louder) - plain)[:, :VIDEO].abs().max() > 1e-4
    assert (predicted(lighter) - plain)[:, VIDEO:].abs().max() > 1e-4


def test_places_without_a_number_stay_0_and_have_no_say_in_the_ratio() -> None:
    backbone, x = driven(), noise()
    raw = predicted(x)
    step = transition.step(backbone.path, "dance_sde", raw, x, 0.5, 0.4, 0.3)
    after = step.sample(backbone.noise(draws(0, [("b",)])))
    other = transition.step(backbone.path, "dance_sde", 1.1 * raw, x, 0.5, 0.4, 0.3)
    ratio = transition.log_density(other, after) - transition.log_density(step, after)
    for held in (x, raw, after, ratio):
        assert held[:, VIDEO + 4 :, 0].eq(0).all()
        assert held[:, : VIDEO + 4].ne(0).all()


def test_the_density_of_a_segment_is_of_the_sound_of_its_time() -> None:
    backbone, x = driven(), noise()
    step = transition.step(backbone.path, "dance_sde", predicted(x), x, 0.5, 0.4, 0.3)
    theirs = backbone.layout.to_pipeline(step.mean)
    theirs[:, -1] += 1  # the last number of the sound
    moved = backbone.layout.to_vidrl(theirs)
    before, after = (pool(transition.log_density(step, at), 3) for at in (step.mean, moved))
    assert (after - before).ne(0).tolist() == [[False, False, True]]


def test_clips_without_sound_do_not_become_latents() -> None:
    backbone = driven()
    assert not backbone.encodes_video
    with pytest.raises(NotImplementedError, match="got LTX2Pipeline, whose latents hold sound"):
        backbone.encode_video(torch.zeros(1, *backbone.clip_shape))


# What is refused, and what is not


def copying(then) -> Pipeline:
    """A driven pipeline that copies its scheduler, and then does what `then` says."""
    pipe = FAMILIES["wan"].build()

    class Copying(type(pipe)):
        def prepare_latents(self, *given, **named):
            then(self, copy.deepcopy(self.scheduler))
            return super().prepare_latents(*given, **named)

    pipe.__class__ = Copying
    return Pipeline(pipe, FAMILIES["wan"].call)


def test_a_copy_of_the_scheduler_that_steps_nothing_changes_nothing() -> None:
    one = copying(lambda pipe, copied: None)
    two = Pipeline(FAMILIES["wan"].build(), FAMILIES["wan"].call)
    assert one.shape == two.shape
    x, t = two.noise(draws(0, [("a",)])), torch.tensor([0.5])
    with torch.no_grad():
        first, second = (each.predict(x, t, each.encode(PROMPTS[:1])) for each in (one, two))
    assert torch.equal(first, second)


def test_a_copy_that_steps_in_place_of_the_scheduler_is_refused() -> None:
    def replace(pipe, copied) -> None:
        pipe.scheduler = copied

    with pytest.raises(ValueError, match="can drive, got Copying: copies of its scheduler step"):
        copying(replace)


def test_sound_at_other_times_than_the_video_is_refused() -> None:
    pipe = FAMILY.build()

    class Hurried(type(pipe.scheduler)):
        @functools.wraps(type(pipe.scheduler).set_timesteps)
        def set_timesteps(self, *given, **named):
            super().set_timesteps(*given, **named)
            if self.number:
                self.sigmas = self.sigmas / 2

    pipe.scheduler = Hurried.from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match="what it denoises together is at several times at once"):
        Pipeline(pipe, FAMILY.call)


def test_a_scheduler_of_its_own_for_the_sound_is_refused() -> None:
    family = FAMILIES["ltx2_condition"]
    pipe = family.build()
    pipe.register_modules(audio_scheduler=copy.deepcopy(pipe.scheduler))
    told = "its audio_scheduler steps as well; leave audio_scheduler out"
    with pytest.raises(ValueError, match=told):
        Pipeline(pipe, family.call)
    pipe.audio_scheduler = None
    assert Pipeline(pipe, family.call).shape == driven().shape


def test_sound_may_be_left_out_where_the_pipeline_can() -> None:
    family = FAMILIES["kandinsky6"]
    both, video = (
        Pipeline(family.build(), {**family.call, "sample_audio": sound}) for sound in (True, False)
    )
    assert both.shape == (4 * 2 * 2 + 8, 2, 1, 1) and len(both.runner.parts.sizes) == 2
    assert sorted(video.shape) == [2, 2, 2, 4] and video.encodes_video


@torch.no_grad()
def test_rows_of_two_times_have_their_own_pictures_where_the_call_has_one(tmp_path) -> None:
    """The call's one picture does not serve two rows at once; the rows' own do."""
    family = FAMILIES["ltx2_i2v"]
    backbone = Pipeline(family.build(), {**family.call, "image": family.picture(family.call)})
    for i in range(2):
        family.picture(family.call, seed=i).save(tmp_path / f"{i}.png")
    cond = backbone.encode(
        [Prompt(text, {"image": tmp_path / f"{i}.png"}) for i, text in enumerate(PROMPTS)]
    )
    x, t = backbone.noise(draws(0, [("a",), ("b",)])), torch.tensor([0.5, 0.9])
    both = backbone.predict(x, t, cond)
    alone = [
        backbone.predict(x[i : i + 1], t[i : i + 1], rows(cond, slice(i, i + 1))) for i in range(2)
    ]
    assert torch.allclose(both, torch.cat(alone), atol=1e-5)

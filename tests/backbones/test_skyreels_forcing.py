"""SkyReels-V2 with diffusion forcing: the clips, and the continued ones, of its own pipeline."""

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="needs vidrl[train]")

from _chunks import check_rollout_on_the_host, learn_a_round, log_density
from families import wan as parts
from families.parts import t5, tokenizer, wan_vae

from vidrl import cost
from vidrl.backbones import _wan_pipelines
from vidrl.backbones.long import Long
from vidrl.backbones.wan import Wan
from vidrl.diffusion import transition
from vidrl.training import model_source
from vidrl.training.chunks import sample, split
from vidrl.training.rollout import Plan, draws

TEXT = {"guidance": 3.0, "negative_prompt": "low quality", "text_length": 16}
SIZE = {"height": 16, "width": 16, "frames": 5, "fps": 24.0}  # a chunk of two latent frames
HISTORY, STEPS, SEED = 2, 4, 3


def pipeline(blocks: int = 1):
    """Tiny random weights. UniPC of first order steps as Euler does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = parts.network(
            diffusers.SkyReelsV2Transformer3DModel,
            inject_sample_info=True,
            num_frame_per_block=blocks,
        )
        text, vae = t5(), wan_vae()
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=3.0,
        solver_order=1,
        disable_corrector=list(range(STEPS)),
    )
    pipe = diffusers.SkyReelsV2DiffusionForcingPipeline(
        tokenizer(), text.eval(), network.eval(), vae.eval(), scheduler
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def long_of() -> Long:
    return Long(pipeline(), chunks=2, options={**SIZE, **TEXT}, history=HISTORY)


@pytest.fixture(scope="module")
def long():
    return long_of()


def own(pipe, frames: int, fps: int = 24, **call: object) -> torch.Tensor:
    """The latents of the pipeline's own call."""
    return pipe(
        "a red circle",
        negative_prompt="low quality",
        height=16,
        width=16,
        num_frames=frames,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        max_sequence_length=16,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
        fps=fps,
        return_dict=False,
        **call,
    )[0]


def rolled(denoiser, x, cond, sigmas):
    for t, s in zip(sigmas[:-1], sigmas[1:], strict=True):
        raw = denoiser.predict(x, torch.full((len(x),), t), cond)
        x = transition.step(denoiser.path, "ode", raw, x, t, s).mean
    return x


@torch.no_grad()
@pytest.mark.parametrize("fps", [16, 24])
def test_a_clip_is_the_pipelines_own(fps):
    pipe = pipeline()
    wan = Wan(pipe, **{**SIZE, "frames": 13, "fps": float(fps)}, **TEXT)
    noise = torch.randn(1, *wan.shape, generator=torch.Generator().manual_seed(SEED))
    found = rolled(wan, noise, wan.encode(["a red circle"]), wan.times(STEPS))
    expected = own(pipe, 13, fps, base_num_frames=13)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(expected, own(pipe, 13, 40 - fps, base_num_frames=13), atol=1e-4)
    pixels = wan.decode(found)
    assert pixels.shape == (1, 13, 3, 16, 16)


@torch.no_grad()
def test_continued_chunks_are_those_of_the_pipelines_own_long_video(long):
    """Windows of 4 latent frames, of which 2 are history: the new ones are chunks of 2."""
    pipe, history = long.base.pipe, HISTORY
    expected = own(pipe, 29, base_num_frames=13, overlap_history=5)
    assert expected.shape[2] == 8  # 4, 2 and 2
    draw = torch.Generator().manual_seed(SEED)
    size = (1, 16, 4, 2, 2)
    torch.randn(size, generator=draw)
    cond, before = long.encode(["a red circle"]), expected[:, :, :4]
    for start in (4, 6):
        noise = torch.randn(size, generator=draw)[:, :, history:]
        cond = long.following(cond, before)
        before = rolled(long, noise, cond, long.times(STEPS))
        assert torch.allclose(before, expected[:, :, start : start + 2], atol=1e-5)
    without = rolled(long, noise, long.following(cond, before), long.times(STEPS))
    assert not torch.allclose(without, before, atol=1e-4), "the history changes the chunk"


def test_log_densities_are_those_of_the_new_frames(long):
    plan = Plan(long.times(STEPS), "cps", 0.3, 2, stochastic=(1,), keep=(1,), chunks=2)
    made = sample(long, long.encode(["a", "b"]), draws(0, [(0,), (1,)]), plan)
    chunks = split(made, long)
    assert chunks.latents.shape[2] == 2 and chunks.cond["history"].shape[2] == HISTORY
    again = log_density(chunks, long, 1, chunks.cond)
    assert torch.allclose(again, chunks.log_density[:, 0, 0], atol=1e-5)


def test_a_round_of_grpo_learns_from_chunks(tmp_path):
    run, pipe = learn_a_round(long_of(), tmp_path), pipeline()
    plain = own(pipe, 5)
    pipe.load_lora_weights(run / "lora")
    assert not torch.equal(own(pipe, 5), plain)


def test_a_folder_is_driven_by_wan(tmp_path):
    assert model_source.OWN == _wan_pipelines.NAMES
    pipeline().save_pretrained(tmp_path)
    assert model_source.resolve(model=str(tmp_path)).backbone == "wan"
    wan = Wan(str(tmp_path), **SIZE, **TEXT)
    assert torch.equal(
        wan.network.patch_embedding.weight, pipeline().transformer.patch_embedding.weight
    )
    assert Wan(str(tmp_path), height=16, width=16).frame_map[-1][1] == 97


@torch.no_grad()
def test_the_pipeline_makes_the_same_clip_with_the_scheduler_that_the_note_names():
    """The released checkpoints carry UniPC of second order; their guide sets flow_shift = 8."""
    pipe = pipeline()
    pipe.scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True
    )
    wan = Wan(pipe, **{**SIZE, "frames": 13}, **TEXT, flow_shift=8.0)
    # 1 - k (1 - 0.001) / n, shifted once: 8 s / (1 + 7 s)
    expected = [8 * s / (1 + 7 * s) for s in (1.0, 0.75025, 0.5005, 0.25075)]
    assert wan.times(STEPS) == pytest.approx([*expected, 0.0], abs=1e-6)
    noise = torch.randn(1, *wan.shape, generator=torch.Generator().manual_seed(SEED))
    found = wan.generate(noise, wan.encode(["a red circle"]), STEPS)
    assert not torch.allclose(found, own(pipe, 13, base_num_frames=13), atol=1e-4)
    (note,) = wan.notes
    pipe.scheduler = eval(
        note.split("until pipe.scheduler = ")[1], {**vars(diffusers), "pipe": pipe}
    )
    assert torch.allclose(found, own(pipe, 13, base_num_frames=13), atol=1e-5)
    assert not Wan(pipe, **SIZE, **TEXT).notes


def test_more_frames_than_the_checkpoints_were_trained_with_are_told():
    """97 frames are 25 latent frames, and the history makes 30; 77 frames and the history 25."""
    size = {**SIZE, "frames": 97}
    long = Long(pipeline(), chunks=2, options={**size, **TEXT}, history=5)
    assert "30 latent frames at once" in long.notes[-1]
    assert long.notes[-1].endswith("options.frames = 77 keeps to")
    fitting = Long(pipeline(), chunks=2, options={**size, **TEXT, "frames": 77}, history=5)
    assert fitting.notes == fitting.base.notes


def test_networks_of_asynchronous_blocks_are_refused():
    with pytest.raises(ValueError, match="num_frame_per_block = 1, got 5"):
        Wan(pipeline(blocks=5))


def test_an_estimate_of_cost_is_refused(tmp_path):
    from vidrl.config import Backbone

    pipeline().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="WanTransformer3DModel .*got SkyReelsV2Transformer3D"):
        cost.skeleton.read(Backbone("wan", {"model": str(tmp_path)}))


def test_a_gpu_keeps_its_rollout_on_the_host():
    check_rollout_on_the_host(long_of())

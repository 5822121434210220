"""Helios: clips of chunks that see all chunks before, as its own pipeline makes them."""

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="needs vidrl[train]")

from _chunks import check_rollout_on_the_host, learn_a_round, log_density
from families.parts import t5, tokenizer, wan_vae

from vidrl.backbones.base import extended
from vidrl.backbones.long import Long
from vidrl.backbones.wan import Wan
from vidrl.training.chunks import sample, split
from vidrl.training.rollout import Plan, draws

TEXT = {"guidance": 3.0, "negative_prompt": "low quality", "text_length": 16}
FRAMES, LATENTS, STEPS, SEED = 25, 7, 4, 3
SIZE = {"height": 16, "width": 32, "frames": FRAMES, "fps": 24.0}


def scheduler(**options):
    given = {"shift": 1.0, "stages": 1, "stage_range": [0, 1], "scheduler_type": "euler"}
    return diffusers.HeliosScheduler(**given, **options)


def pipeline(schedule=None):
    """Tiny random weights; Euler steps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = diffusers.HeliosTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=32,
            freq_dim=256,
            ffn_dim=32,
            num_layers=2,
            rope_dim=(4, 4, 4),
        )
        text, vae = t5(), wan_vae()
    own = schedule or scheduler(use_dynamic_shifting=True)
    parts = (tokenizer(), text.eval(), vae.eval(), own, network.eval())
    pipe = diffusers.HeliosPipeline(*parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def long_of(chunks: int = 4, pipe=None) -> Long:
    return Long(pipe or pipeline(), chunks=chunks, options={**SIZE, **TEXT})


@pytest.fixture(scope="module")
def long():
    return long_of()


def own(pipe, chunks: int, kind: str = "latent") -> torch.Tensor:
    """What the pipeline's own call makes."""
    return pipe(
        "a red circle",
        negative_prompt="low quality",
        height=16,
        width=32,
        num_frames=chunks * FRAMES,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        max_sequence_length=16,
        generator=torch.Generator().manual_seed(SEED),
        output_type=kind,
        num_latent_frames_per_chunk=LATENTS,
        return_dict=False,
    )[0]


@torch.no_grad()
@pytest.mark.parametrize("shifts", [True, False])
def test_clips_of_chunks_are_the_pipelines_own(shifts):
    """Four chunks of 7 latent frames: the last one sees the first frame and 19 of 21."""
    pipe = pipeline(scheduler(use_dynamic_shifting=shifts))
    long = long_of(4, pipe)
    noise = torch.cat(
        [long.chunk_noise([draw]) for draw in [torch.Generator().manual_seed(SEED)] * 4], 2
    )
    cond = long.encode(["a red circle"])
    found, expected = long.generate(noise, cond, STEPS), own(pipe, 4)
    assert found.shape == expected.shape == (1, 16, 4 * LATENTS, 2, 4)
    assert torch.allclose(found, expected, atol=1e-5)
    pixels, made = long.decode(found), own(pipe, 4, "pt")
    assert pixels.shape[1] == 4 * FRAMES == long.frame_map[-1][1]
    assert made.shape[1] == 97  # the pipeline cuts its clip to 4 k + 1 frames
    assert torch.allclose(pixels[:, :97], made, atol=1e-5)


def test_the_first_frame_and_the_last_nineteen_are_given(long):
    cond, made = long.following(long.encode(["a"]), None), list[torch.Tensor]()
    for seed in range(4):
        draw = torch.Generator().manual_seed(seed)
        made.append(torch.randn(1, *long.base.shape, generator=draw))
        cond = long.following(cond, made[-1])
    assert torch.equal(cond["history"], torch.cat(made, 2)[:, :, -19:])
    assert torch.equal(cond["first_frame"], made[0][:, :, :1])


def test_the_density_of_a_chunk_depends_on_those_before(long):
    long = long_of(2)
    plan = Plan(long.times(STEPS), "cps", 0.3, 2, stochastic=(2,), keep=(2,), chunks=2)
    made = sample(long, long.encode(["a", "b"]), draws(0, [(0,), (1,)]), plan)
    chunks = split(made, long)

    def log(cond):
        return log_density(chunks, long, 2, cond)

    ratio = (log(chunks.cond) - chunks.log_density[:, 0, 0]).exp()
    assert torch.allclose(ratio, torch.ones(4), atol=1e-5)
    for name in ("history", "first_frame"):
        without = extended(chunks.cond, {name: 0 * chunks.cond[name]})
        moved = (log(without) - log(chunks.cond)).abs()
        assert moved[:2].max() < 1e-6 and moved[2:].min() > 1e-5


def test_a_round_of_grpo_learns_from_chunks(tmp_path):
    run, pipe = learn_a_round(long_of(2), tmp_path), pipeline()
    plain = own(pipe, 1)
    pipe.load_lora_weights(run / "lora")
    assert not torch.equal(own(pipe, 1), plain)


def test_a_folder_is_driven_by_wan_with_a_note_about_its_scheduler(tmp_path):
    multistep = diffusers.HeliosScheduler(stages=1, stage_range=[0, 1])
    pipeline(multistep).save_pretrained(tmp_path)
    Long.check_options({"model": str(tmp_path)})
    wan = Wan(str(tmp_path), **TEXT)
    assert wan.clip_shape == (33, 3, 384, 640) and wan.fps == 24
    assert (
        'HeliosScheduler.from_config(pipe.scheduler.config, scheduler_type="euler")' in wan.notes[0]
    )
    assert not Wan(pipeline(), **SIZE).notes


def test_a_history_is_refused_before_the_weights_are_read(tmp_path):
    index = '{"_class_name": "HeliosPipeline", "_diffusers_version": "0.42.0"}'
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(ValueError, match="no history with Helios.* got history = 2"):
        Long.check_options({"model": str(tmp_path), "history": 2})
    Long.check_options({"model": str(tmp_path)})


def test_another_pipeline_is_sent_to_the_backbone_that_drives_it(tmp_path):
    index = '{"_class_name": "LTXConditionPipeline", "_diffusers_version": "0.42.0"}'
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(ValueError, match='HeliosPipeline, got a LTXCond.*base = "pipeline"'):
        Long.check_options({"model": str(tmp_path)})


def test_what_helios_does_not_take_is_refused():
    with pytest.raises(ValueError, match="no history with Helios.* got history = 2"):
        Long(pipeline(), options={**SIZE, **TEXT}, history=2)
    with pytest.raises(ValueError, match="no flow_shift with Helios.* got 3"):
        Wan(pipeline(), **SIZE, flow_shift=3.0)
    with pytest.raises(ValueError, match="one stage.* got {'stages': 3"):
        Wan(pipeline(diffusers.HeliosScheduler()), **SIZE)


def test_a_gpu_keeps_its_rollout_on_the_host():
    check_rollout_on_the_host(long_of(2))

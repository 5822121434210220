"""vidrl.backbones.wan against diffusers' own pipeline, loaded from the same folder."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

diffusers = pytest.importorskip("diffusers", reason="needs vidrl[train]")
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanPipeline
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model

from vidrl.attention import AttentionError
from vidrl.backbones.wan import Wan
from vidrl.data.prompt import Prompt
from vidrl.synthetic import world

TINY_WAN = Path(__file__).parents[2] / "assets" / "tiny-wan"
PROMPTS = ["a red circle moves left", "a blue cross stays still"]
SMALL = {"height": 16, "width": 32, "frames": 9, "text_length": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wan")
    Wan.tiny().pipe.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def wan(folder: Path) -> Wan:
    return Wan(str(folder), **SMALL)


def seeds(n: int = len(PROMPTS)) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(7 + i) for i in range(n)]


def plain(path: Path, shift: float | None = None) -> WanPipeline:
    """Diffusers alone, with the flow Euler scheduler."""
    pipe = WanPipeline.from_pretrained(path)
    pipe.set_progress_bar_config(disable=True)
    if shift is not None:
        pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    return pipe


def clips(
    pipe: WanPipeline,
    prompts: list[str],
    steps: int,
    guidance: float = 1.0,
    negative: str = "",
    **size: int,
) -> Tensor:
    return pipe(
        prompts,
        negative_prompt=negative,
        height=size["height"],
        width=size["width"],
        num_frames=size["frames"],
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=seeds(len(prompts)),
        max_sequence_length=size["text_length"],
        output_type="pt",
    ).frames


def rollout(wan: Wan, prompts: list[str], steps: int) -> Tensor:
    with torch.no_grad():
        return wan.decode(wan.generate(wan.noise(seeds(len(prompts))), wan.encode(prompts), steps))


@pytest.mark.parametrize("guidance, negative", [(1.0, ""), (4.0, ""), (4.0, "a green square")])
@pytest.mark.parametrize("steps, shift, text_length", [(2, 1.0, 12), (5, 3.0, 24)])
def test_rollout_is_the_pipelines(
    folder: Path, steps: int, shift: float, text_length: int, guidance: float, negative: str
) -> None:
    size = SMALL | {"text_length": text_length}
    expected = clips(plain(folder, shift), PROMPTS, steps, guidance, negative, **size)
    wan = Wan(str(folder), guidance=guidance, negative_prompt=negative, flow_shift=shift, **size)
    got = rollout(wan, PROMPTS, steps)
    assert got.shape == expected.shape == (2, 9, 3, 16, 32)
    assert (got - expected).abs().max() < 1e-4
    assert expected.std() > 0.01  # and there is something to compare


def test_every_choice_changes_the_clip(folder: Path) -> None:
    """Or the comparison above would not tell a right guidance, shift or negative prompt
    from a wrong one."""
    base = rollout(Wan(str(folder), **SMALL), PROMPTS, 3)
    for choice in (
        {"guidance": 4.0},
        {"flow_shift": 5.0},
        {"guidance": 4.0, "negative_prompt": "a green square"},
    ):
        changed = rollout(Wan(str(folder), **SMALL, **choice), PROMPTS, 3)
        assert (changed - base).abs().max() > 1e-3, choice
        base = changed


FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}


@pytest.mark.parametrize(
    "own",
    [FlowMatchEulerDiscreteScheduler(shift=3.0), UniPCMultistepScheduler(flow_shift=3.0, **FLOW)],
)
def test_times_are_diffusers_sigmas_of_the_checkpoints_shift(folder: Path, own: object) -> None:
    pipe = plain(folder)
    pipe.scheduler = own
    euler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    euler.set_timesteps(20)
    times = Wan(pipe, **SMALL).times(20)
    assert times == euler.sigmas.tolist() and times[0] == 1 and times[-1] == 0


def test_shift_is_applied_twice_and_the_last_step_starts_at_sigma_min() -> None:
    """Diffusers' flow Euler shifts its trained levels, then the schedule between their ends
    again."""

    def shifted(t: float) -> float:
        return 3 * t / (1 + 2 * t)

    wan = Wan.tiny()
    times = Wan(wan.pipe, flow_shift=3.0, height=16, width=16, frames=5).times(3)
    low = shifted(1 / 1000)
    assert times == pytest.approx([1, shifted((1 + low) / 2), shifted(low), 0], rel=1e-5)


def test_noise_is_the_pipelines(wan: Wan) -> None:
    expected = wan.pipe.prepare_latents(
        2, 4, 16, 32, 9, torch.float32, torch.device("cpu"), seeds()
    )
    assert torch.equal(wan.noise(seeds()), expected)


def test_text_is_zero_after_the_caption(wan: Wan) -> None:
    text = wan.encode(["a red circle"])["text"][0]
    used = len(wan.pipe.tokenizer("a red circle").input_ids)
    assert text[:used].abs().sum(-1).min() > 0 and text[used:].abs().max() == 0


def test_frame_map_is_causal(wan: Wan) -> None:
    """A latent moves no frame before its own span, and does move its first one."""
    assert wan.frame_map == [(0, 1), (1, 5), (5, 9)]
    z = torch.randn(1, *wan.shape)
    before = wan.decode(z)
    for latent, (start, _) in enumerate(wan.frame_map):
        moved = z.clone()
        moved[:, :, latent] += 1.0
        change = (wan.decode(moved) - before).abs().amax((0, 2, 3, 4))
        assert change[:start].sum() == 0 and change[start] > 1e-4


@pytest.mark.parametrize("checkpointing", [False, True])
def test_decode_is_differentiable(folder: Path, wan: Wan, checkpointing: bool) -> None:
    other = Wan(str(folder), **SMALL, gradient_checkpointing=checkpointing, decode_chunk=1)
    z = torch.randn(2, *wan.shape, requires_grad=True)
    weight = torch.randn(2, 9, 3, 16, 32)
    (gradient,) = torch.autograd.grad((other.decode(z) * weight).sum(), z)
    (expected,) = torch.autograd.grad((wan.decode(z) * weight).sum(), z)
    assert gradient.abs().flatten(2).amax(2).min() > 0  # of every clip and channel
    assert (gradient - expected).abs().max() < 1e-5 * expected.abs().max()


def test_decode_in_pieces_is_decode_at_once(folder: Path, wan: Wan) -> None:
    z = torch.randn(5, *wan.shape)
    at_once = Wan(str(folder), **SMALL, decode_chunk=5).decode(z)
    for chunk in (1, 2):
        wan.decode_chunk = chunk
        assert torch.allclose(wan.decode(z), at_once, atol=1e-6)


def test_prediction_with_checkpointing_has_the_same_gradient(folder: Path, wan: Wan) -> None:
    cond, t = wan.encode(PROMPTS), torch.tensor([0.9, 0.3])
    saving = Wan(str(folder), **SMALL, gradient_checkpointing=True)
    gradients = []
    for each in (wan, saving):
        x = torch.randn(2, *wan.shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
        gradients.append(torch.autograd.grad(each.predict(x, t, cond).square().sum(), x)[0])
    assert gradients[0].abs().max() > 0 and torch.allclose(*gradients, atol=1e-5)


def test_all_weights_come_frozen(wan: Wan) -> None:
    parts = (wan.network, wan.pipe.vae, wan.pipe.text_encoder)
    assert not any(p.requires_grad for part in parts for p in part.parameters())
    assert not any(part.training for part in parts)


# LoRA


def adapted(folder: Path, **config: object) -> tuple[Wan, dict[str, Tensor]]:
    """A backbone with a LoRA whose output is not zero, and the adapter's weights."""
    wan = Wan(str(folder), **SMALL)
    inject_adapter_in_model(LoraConfig(**config), wan.network)
    for name, parameter in wan.network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return wan, get_peft_model_state_dict(wan.network)


@pytest.mark.parametrize("targets", [["to_q", "to_v"], "all-linear"])
def test_plain_diffusers_reads_the_lora(
    folder: Path, tmp_path: Path, targets: list[str] | str
) -> None:
    config = {"r": 2, "lora_alpha": 5, "target_modules": targets}
    wan, weights = adapted(folder, **config)
    wan.save_lora(tmp_path, weights, config)
    pipe = plain(folder)
    without = clips(pipe, PROMPTS, 3, **SMALL)
    pipe.load_lora_weights(str(tmp_path))
    with_lora = clips(pipe, PROMPTS, 3, **SMALL)
    assert (rollout(wan, PROMPTS, 3) - with_lora).abs().max() < 1e-4
    assert (with_lora - without).abs().max() > 1e-2


def test_lora_round_trip(folder: Path, tmp_path: Path) -> None:
    config = {"r": 2, "lora_alpha": 5, "target_modules": {"to_v", "to_q"}}
    wan, weights = adapted(folder, **config)
    wan.save_lora(tmp_path, weights, config)
    read, read_config = wan.load_lora(tmp_path)
    assert read.keys() == weights.keys() and all(torch.equal(read[k], weights[k]) for k in read)
    assert read_config == {"r": 2, "lora_alpha": 5, "target_modules": ["to_q", "to_v"]}


def test_lora_of_a_full_peft_configuration(folder: Path, tmp_path: Path) -> None:
    wan, weights = adapted(folder, r=2, lora_alpha=5, target_modules=["to_q"])
    wan.save_lora(tmp_path, weights, wan.network.peft_config["default"].to_dict())
    again = LoraConfig(**wan.load_lora(tmp_path)[1])
    assert (again.r, again.lora_alpha, set(again.target_modules)) == (2, 5, {"to_q"})


def test_lora_without_metadata_is_read_as_diffusers_reads_it(folder: Path, tmp_path: Path) -> None:
    wan, weights = adapted(
        folder,
        r=3,
        lora_alpha=3,
        target_modules=["to_q"],
        rank_pattern={"blocks.0.attn1.to_q": 1},
        alpha_pattern={"blocks.0.attn1.to_q": 1},
    )
    WanPipeline.save_lora_weights(tmp_path, weights)
    read, config = wan.load_lora(tmp_path)
    fresh = Wan(str(folder), **SMALL)
    inject_adapter_in_model(LoraConfig(**config), fresh.network)
    fresh.network.load_state_dict(
        {k.replace(".weight", ".default.weight"): v for k, v in read.items()}, strict=False
    )
    pipe = plain(folder)
    pipe.load_lora_weights(str(tmp_path))
    expected = clips(pipe, PROMPTS, 2, **SMALL)
    assert (rollout(wan, PROMPTS, 2) - expected).abs().max() < 1e-4
    assert (rollout(fresh, PROMPTS, 2) - expected).abs().max() < 1e-4


# Options


def test_vidrl_json_gives_the_size_and_options_overrule_it(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    WanPipeline.from_pretrained(folder).save_pretrained(own)
    (own / "vidrl.json").write_text(
        json.dumps({"height": 32, "width": 48, "frames": 13, "fps": 8.0})
    )
    assert (Wan(str(own)).shape, Wan(str(own)).fps) == ((4, 4, 4, 6), 8.0)
    assert Wan(str(own), frames=1, fps=4.0).shape == (4, 1, 4, 6)
    # what Wan 2.1 was trained for
    assert (Wan(str(folder)).shape, Wan(str(folder)).fps) == ((4, 21, 60, 104), 16.0)


def test_bfloat16_is_of_the_network_alone(folder: Path) -> None:
    wan = Wan(str(folder), dtype="bfloat16", height=16, width=16, frames=1, text_length=4)
    raw = wan.predict(wan.noise(seeds()), torch.full((2,), 0.5), wan.encode(PROMPTS))
    assert (
        raw.dtype == torch.float32
        and wan.network.dtype == torch.bfloat16
        and wan.pipe.vae.dtype == torch.float32
    )


def test_a_prompt_that_is_cut_is_named_and_warned_of_once() -> None:
    """`truncated` names a prompt exactly where its end changes nothing of the condition."""
    wan = Wan.tiny()  # it reads 16 tokens, and the last of them ends the text
    fits, cut = "a red circle moves left " * 3, "a red circle moves left " * 3 + "still"
    assert wan.truncated([fits, cut, "a circle"]) == [cut]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wan.encode([fits, "a circle"])
    with pytest.warns(
        UserWarning, match="reads 16 tokens, and does not see the end of 'a red.*text_length"
    ) as told:
        first, second = (wan.encode([f"{cut} {end}"])["text"] for end in ("left", "blue"))
    assert len(told) == 1 and torch.equal(first, second)
    wan.text_length = 17
    assert wan.truncated([cut]) == []


def test_a_negative_prompt_that_is_cut_is_warned_of() -> None:
    wan = Wan.tiny()
    wan.guidance, wan.negative_prompt = 2.0, "a red circle " * 8
    with pytest.warns(UserWarning, match="does not see the end of 'a red circle"):
        wan.encode(["a circle"])


def test_offloaded_text_encoder_encodes_the_same(folder: Path, wan: Wan) -> None:
    other = Wan(str(folder), **SMALL, offload_text=True)
    assert torch.equal(other.encode(PROMPTS)["text"], wan.encode(PROMPTS)["text"])


def test_an_attention_kernel_is_used_once_proven(folder: Path, wan: Wan) -> None:
    other, cond = Wan(str(folder), **SMALL, attention="_native_math"), wan.encode(PROMPTS)
    x, t = wan.noise(seeds()), torch.full((2,), 0.5)
    assert torch.allclose(other.predict(x, t, cond), wan.predict(x, t, cond), atol=1e-5)
    assert other.attention_switch.choice == "math"
    # one of self-attention and one of the text in each block
    calls = other.attention_switch.proofs["attention"].calls
    assert calls == {"kernel": 2 * len(other.network.blocks)}
    with pytest.raises(AttentionError, match="sageattention is not installed"):
        Wan(str(folder), **SMALL, attention="sage")


def test_another_librarys_choice_for_the_process_has_no_effect(folder: Path, wan: Wan) -> None:
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as registry

    before, cond = registry._active_backend, wan.encode(PROMPTS)
    x, t = wan.noise(seeds()), torch.full((2,), 0.5)
    expected = Wan(str(folder), **SMALL, attention="math").predict(x, t, cond)
    assert registry._active_backend == before
    # this backend does not run on a CPU
    registry.set_active_backend("_native_cudnn")
    try:
        for name in ("sdpa", "math"):
            found = Wan(str(folder), **SMALL, attention=name).predict(x, t, cond)
            assert torch.allclose(found, expected, atol=1e-5)
    finally:
        registry.set_active_backend(before)


def test_an_attention_kernel_is_proven_anew_under_autocast(folder: Path, wan: Wan) -> None:
    other, cond = Wan(str(folder), **SMALL, attention="math"), wan.encode(PROMPTS)
    x, t = wan.noise(seeds()), torch.full((2,), 0.5)
    other.predict(x, t, cond)
    assert other.attention_switch.proofs["attention"].rounding == 0
    with torch.autocast("cpu", torch.bfloat16):
        other.predict(x, t, cond)
    assert other.attention_switch.proofs["attention"].rounding > 0


@pytest.mark.parametrize(
    "option, words",
    [
        ({"height": 20}, "height to be a multiple of 16, got 20: take 16"),
        ({"width": 8}, "width to be a multiple of 16, got 8: take 16"),
        ({"frames": 16}, r"frames to be 4 k \+ 1, got 16: take 13"),
        ({"frames": 0}, "frames: expected a whole number of at least 1, got 0"),
        ({"guidance": 0.5}, "guidance ≥ 1"),
        ({"decode_chunk": 0}, "decode_chunk ≥ 1"),
    ],
)
def test_bad_options(wan: Wan, option: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Wan(wan.pipe, **(SMALL | option))


def test_a_folder_that_is_no_pipeline(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"expected a diffusers folder .* no model_index.json: name a folder"
    ):
        Wan(str(tmp_path))
    with pytest.raises(
        ValueError, match="expected a diffusers folder .* got 'no/such/folder/here'"
    ):
        Wan("no/such/folder/here")
    with pytest.raises(
        ValueError, match="expected a diffusers folder .* got 'owner/not-in-the-cache'"
    ):
        Wan("owner/not-in-the-cache")
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": "StableDiffusionPipeline"})
    )
    with pytest.raises(ValueError, match="got a StableDiffusionPipeline"):
        Wan(str(tmp_path))
    with pytest.raises(ValueError, match="a folder, a hub id or a WanPipeline or .*, got int"):
        Wan(3)


def test_pipelines_it_cannot_drive(folder: Path) -> None:
    pipe = plain(folder)
    pipe.register_to_config(expand_timesteps=True)
    with pytest.raises(ValueError, match=r"expected a Wan 2.1 .* got a Wan 2.2"):
        Wan(pipe)
    pipe = plain(folder)
    pipe.scheduler = UniPCMultistepScheduler()
    with pytest.raises(
        ValueError, match="scheduler of flow prediction, got UniPCMultistepScheduler of epsilon"
    ):
        Wan(pipe, **SMALL)


def test_other_errors(wan: Wan, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 step or more, got 0"):
        wan.times(0)
    with pytest.raises(
        ValueError, match="prompts of text alone, which is what Wan reads, got 'a' with image"
    ):
        wan.encode([Prompt("a", {"image": "a.png"})])
    with pytest.raises(ValueError, match="expected a folder with one LoRA file"):
        wan.load_lora(tmp_path)


@pytest.mark.skipif(
    not (TINY_WAN / "model_index.json").exists(), reason="assets/tiny-wan is not there yet"
)
@pytest.mark.parametrize("guidance, text_length", [(1.0, 512), (3.0, 32)])
def test_rollout_of_the_embedded_model(guidance: float, text_length: int) -> None:
    wan = Wan(
        str(TINY_WAN), height=64, width=64, frames=17, guidance=guidance, text_length=text_length
    )
    prompts = [scene.caption for scene in world.scenes("held_out", 2)]
    size = {"height": 64, "width": 64, "frames": 17, "text_length": text_length}
    assert (
        rollout(wan, prompts, 4) - clips(plain(TINY_WAN), prompts, 4, guidance, **size)
    ).abs().max() < 1e-4


# --- an offloaded text encoder


def test_an_offloaded_text_encoder_visits_once_for_all_new_prompts(
    wan: Wan, folder: Path, monkeypatch
) -> None:
    from vidrl.backbones.base import PromptCache

    guided = Wan(str(folder), **SMALL, guidance=3.0, negative_prompt="still", offload_text=True)
    trips, embedded, real = [], [], guided._embed
    monkeypatch.setattr(guided.pipe.text_encoder, "to", lambda device: trips.append(str(device)))
    monkeypatch.setattr(guided, "_embed", lambda texts: (embedded.extend(texts), real(texts))[1])
    cache, prompts = PromptCache(guided), ["a red circle", "the blue square", "a green cross"]
    made = cache([*prompts, *prompts])
    assert trips == ["cpu", "cpu"]  # there and back: this machine's device is a CPU
    assert sorted(embedded) == sorted([*prompts, "still"])  # the negative prompt is encoded once
    cache.learn(prompts)
    assert len(trips) == 2
    whole = Wan(str(folder), **SMALL, guidance=3.0, negative_prompt="still").encode(
        [*prompts, *prompts]
    )
    assert all(torch.allclose(made[name], whole[name], atol=1e-5) for name in whole)
    assert len({cond["negative"].data_ptr() for cond in cache.kept.values()}) == 1


def test_a_text_encoder_goes_back_where_encoding_fails(folder: Path, monkeypatch) -> None:
    made, trips = Wan(str(folder), **SMALL, offload_text=True), []
    monkeypatch.setattr(made.pipe.text_encoder, "to", lambda device: trips.append(str(device)))
    monkeypatch.setattr(
        made, "_embed", lambda texts: (_ for _ in ()).throw(torch.OutOfMemoryError("full"))
    )
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            made.encode(["a"])
    assert len(trips) == 4


def test_latents_of_clips_are_those_of_the_video_to_video_pipeline(wan: Wan) -> None:
    """diffusers' WanVideoToVideoPipeline adds noise of level t to a clip's latents; at
    level 0 they are left."""
    video = torch.rand(2, *wan.clip_shape, generator=torch.Generator().manual_seed(0))
    latents = wan.encode_video(video)
    pipe = diffusers.WanVideoToVideoPipeline(
        wan.pipe.tokenizer,
        wan.pipe.text_encoder,
        wan.pipe.transformer,
        wan.pipe.vae,
        UniPCMultistepScheduler(),
    )
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    pipe.scheduler.scale_noise = lambda sample, timestep, noise: sample
    with torch.no_grad():
        theirs = pipe.prepare_latents(
            2 * video.transpose(1, 2) - 1, 2, wan.shape[0], 16, 32, torch.float32
        )
    assert torch.allclose(latents, theirs, atol=1e-5) and latents.std() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-wan", "tiny-wan-32"])
def test_the_embedded_models_decode_what_they_encode(name: str) -> None:
    """The mean error is a sixteenth of the clips' own spread: 0.0153 and 0.0157 of 0.245
    measured."""
    wan = Wan(str(TINY_WAN.with_name(name)), text_length=24)
    frames, _, size, _ = wan.clip_shape
    video = torch.stack(
        [world.render(scene, size, frames, wan.fps).video for scene in world.scenes("held_out", 4)]
    )
    latents = wan.encode_video(video)
    again = wan.decode(latents)
    assert (again - video).abs().mean() < 0.02 < video.std() / 10
    # standardised, as noise is
    assert abs(float(latents.mean())) < 0.1 and 0.7 < float(latents.std()) < 1.3


@pytest.mark.parametrize("name", ["wan", "pipeline"])
def test_a_mistyped_folder_is_not_asked_of_the_hub(name):
    from vidrl import plugin

    with pytest.raises(ValueError, match="there is no such folder"):
        plugin.load("backbones", name, model="assets/tiny-wam")

"""vidrl.backbones.pipeline against the call of the pipelines that it drives, in memory and
with random weights."""

import functools
import json
import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vidrl.algorithms.base import Batch
from vidrl.backbones.base import rows
from vidrl.backbones.pipeline import Pipeline
from vidrl.data.prompt import Prompt
from vidrl.diffusion import transition
from vidrl.diffusion.segments import pool
from vidrl.training.policy import Policy, load_adapter
from vidrl.training.rollout import Plan, draws, sample

pytest.importorskip("diffusers", reason="needs vidrl[train]")

from families import FAMILIES, PROMPTS, clips, picture

STEPS = 4
NAMES = ["wan", "cogvideox", "ltx", "sd15", "svd"]


def made(name: str, call=(), **options) -> Pipeline:
    return Pipeline(FAMILIES[name].build(), {**FAMILIES[name].call, **dict(call)}, **options)


@functools.cache
def driven(name: str) -> Pipeline:
    return made(name)


@functools.cache
def pictures(height: int, width: int) -> tuple[Path, ...]:
    """A picture for each prompt, of the clip's size."""
    folder = Path(tempfile.mkdtemp())
    for i in range(len(PROMPTS)):
        picture(height, width, seed=i).save(folder / f"{i}.png")
    return tuple(sorted(folder.iterdir()))


def asked(backbone: Pipeline) -> list[str]:
    """The prompts, with a picture each where the pipeline needs one."""
    if not backbone.needs:
        return list(PROMPTS)
    files = pictures(*backbone.size)
    return [Prompt(text, {"image": file}) for text, file in zip(PROMPTS, files, strict=True)]


def conditions(backbone: Pipeline, n: int = 2):
    return backbone.encode(asked(backbone)[:n])


def own_clips(name: str, backbone: Pipeline, call: dict, seed: int) -> Tensor:
    """The clips of the pipeline's own call, each prompt alone, with the scheduler that the
    drive took."""
    family, pipe = FAMILIES[name], FAMILIES[name].build()
    pipe.scheduler = type(backbone.probe).__bases__[1].from_config(backbone.probe.config)
    found = []
    for i, prompt in enumerate(PROMPTS):
        given = family.ask(prompt, **call)
        given |= {"image": picture(*backbone.size, seed=i)} if backbone.needs else {}
        found.append(clips(pipe, given, STEPS, seed))
    return torch.cat(found)


def first_latents(backbone: Pipeline, cond, seed: int) -> Tensor:
    """The latents with which each row's own call enters its loop, in vidrl's
    coordinates."""
    backbone.runner.seed = seed
    scale = backbone.probe.scale(backbone.probe.grid[0])
    return torch.cat(
        [
            backbone.layout.to_vidrl(backbone.runner.initial_latents(row) / scale)
            for row in cond["row"].tolist()
        ]
    )


def rolled(backbone: Pipeline, x: Tensor, cond) -> Tensor:
    times = backbone.times(STEPS)
    for t, s in zip(times[:-1], times[1:], strict=True):
        raw = backbone.predict(x, torch.full((len(x),), t), cond)
        x = transition.step(backbone.path, "ode", raw, x, t, s).mean
    return x


@pytest.mark.parametrize(
    "name, call", [*((name, {}) for name in NAMES), ("cogvideox", {"use_dynamic_cfg": True})]
)
@torch.no_grad()
def test_the_rollout_gives_the_pixels_of_the_pipelines_own_call(name: str, call: dict) -> None:
    """Dynamic guidance depends on the number of the step, and on how many there are."""
    backbone = made(name, call) if call else driven(name)
    cond = conditions(backbone)
    backbone.times(STEPS)
    x = first_latents(backbone, cond, seed=7)
    pixels = backbone.decode_with(rolled(backbone, x, cond), cond)
    own = own_clips(name, backbone, call, seed=7)
    assert pixels.shape == own.shape and torch.allclose(pixels, own, atol=1e-5)
    assert own.std() > 0.02 and not torch.allclose(own[0], own[1], atol=1e-3)
    one = rows(cond, slice(1, 2))
    alone = backbone.decode_with(rolled(backbone, x[1:], one), one)
    assert torch.allclose(alone, own[1:], atol=1e-5)


def test_a_pipeline_of_films_makes_one_frame() -> None:
    """Its other lengths are 4 k + 1, and those that are near one frame are rounded to one
    frame."""
    backbone = made("wan", {"num_frames": 1})
    assert backbone.frame_map == [(0, 1)] and backbone.shape[1] == 1
    assert backbone.decode(torch.zeros(1, *backbone.shape)).shape[1] == 1


@pytest.mark.parametrize("name", ["wan", "cogvideox", "ltx", "sd15"])
def test_a_seed_draws_the_pipelines_own_noise(name: str) -> None:
    backbone = driven(name)
    first = first_latents(backbone, conditions(backbone, 1), seed=11)
    assert torch.allclose(backbone.noise([torch.Generator().manual_seed(11)]), first, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_ratio_is_one_at_shuffled_times_and_every_lora_weight_has_a_gradient(name: str) -> None:
    backbone = made(name)
    policy = Policy(backbone, rank=2, alpha=2)
    sampler, eta = ("dance_sde", 0.3) if backbone.path.kind == "flow" else ("ddim", 1.0)
    times = backbone.times(STEPS)
    cond = conditions(backbone)
    rollout = sample(
        policy, cond, draws(0, [("a",), ("b",)]), Plan(times, sampler, eta, 1, (0, 1), (0, 1))
    )
    row, step = [0, 1, 1, 0], torch.tensor([0, 1, 0, 1])
    at = torch.tensor(times)
    x = rollout.before[row, step]
    raw = policy.predict(x, at[step], rows(cond, torch.tensor(row)))
    gaussian = rollout.plan.gaussian(backbone, raw, x, at[step], at[step + 1])
    density = pool(transition.log_density(gaussian, rollout.after[row, step]), 1)
    ratio = (density - rollout.log_density[row, step]).exp()
    assert (ratio - 1).abs().max() < 1e-5
    ratio.sum().backward()
    ups = [w for key, w in policy.weights.items() if "lora_B" in key]
    assert ups and all(w.grad is not None and w.grad.abs().max() > 0 for w in ups)


@pytest.mark.parametrize("name", NAMES)
def test_split_undoes_noise_at_every_time(name: str) -> None:
    backbone = driven(name)
    draw = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(2, *backbone.shape, generator=draw) for _ in range(2))
    for t in [*backbone.times(STEPS)[1:-1], 0.5]:
        x = backbone.path.noise(x0, eps, t)
        clean, noise = backbone.path.split(backbone.path.target(x0, eps, t), x, t)
        assert torch.allclose(clean, x0, atol=1e-4) and torch.allclose(noise, eps, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_decode_carries_gradient(name: str) -> None:
    backbone = driven(name)
    z = backbone.noise([torch.Generator().manual_seed(0)]).requires_grad_()
    backbone.decode(z).square().sum().backward()
    assert (
        z.grad is not None and z.grad.isfinite().all() and z.grad.abs().amax((0, 1, 3, 4)).min() > 0
    )


# Conditions


def test_rows_of_one_time_are_run_together_and_no_row_changes_another() -> None:
    backbone = driven("wan")
    times = torch.tensor([0.9, 0.5, 0.9])
    x = backbone.noise(draws(0, [(i,) for i in range(3)]))
    cond = backbone.encode([*PROMPTS, PROMPTS[0]])
    with torch.no_grad():
        whole = backbone.predict(x, times, cond)
        each = [
            backbone.predict(x[i : i + 1], times[i : i + 1], rows(cond, slice(i, i + 1)))
            for i in range(3)
        ]
    assert torch.allclose(whole, torch.cat(each), atol=1e-5)
    assert (whole[0] - whole[2]).abs().max() > 1e-3


def test_a_pipeline_whose_rows_depend_on_their_company_runs_them_alone() -> None:
    backbone = made("latte")
    x, t, cond = (
        backbone.noise(draws(0, [("a",), ("b",)])),
        torch.full((2,), 0.501),
        conditions(backbone),
    )
    with torch.no_grad():
        together = backbone.predict(x, t, cond)
        alone = backbone.predict(x[1:], t[1:], rows(cond, slice(1, 2)))
    assert torch.equal(together[1:], alone)
    backbone._rows_depend = False  # the pipeline itself mixes the rows
    with torch.no_grad():
        assert (backbone.predict(x, t, cond)[1:] - alone).abs().max() > 1e-3


def test_encoders_run_once_a_prompt_and_a_negative_prompt_once_for_all() -> None:
    backbone = made("wan")
    calls: list[int] = []
    encoder = backbone.frozen["text_encoder"]
    encoder.encoder.register_forward_hook(lambda *_: calls.append(1))
    cond, x = backbone.encode(PROMPTS), backbone.noise(draws(0, [("a",), ("b",)]))
    with torch.no_grad():
        for t in (0.9, 0.5, 0.9):
            backbone.predict(x, torch.full((2,), t), cond)
    assert sum(calls) <= 2 + 2  # the two prompts, and the two other texts of the proof of company
    assert backbone.encoder_cache.bytes > 0


def test_a_small_memory_forgets_and_computes_again() -> None:
    backbone = made("wan")
    cond, x = backbone.encode(PROMPTS), backbone.noise(draws(0, [("a",), ("b",)]))
    with torch.no_grad():
        first = backbone.predict(x, torch.full((2,), 0.5), cond)
        backbone.encoder_cache.limit = 1
        again = [backbone.predict(x, torch.full((2,), 0.5), cond) for _ in range(2)]
    assert (
        torch.equal(again[0], first)
        and torch.equal(again[1], first)
        and len(backbone.encoder_cache.kept) == 1
    )


def test_a_prompt_brings_its_own_negative_prompt() -> None:
    backbone = driven("wan")
    x, t = backbone.noise(draws(0, [("a",)])), torch.tensor([0.5])
    own = Prompt(PROMPTS[0], {"negative_prompt": "a cat runs slowly"})
    with torch.no_grad():
        plain, changed = (
            backbone.predict(x, t, backbone.encode([one])) for one in (PROMPTS[0], own)
        )
    assert (plain - changed).abs().max() > 1e-3
    told = made("wan", {"negative_prompt": "a cat runs slowly"})
    with torch.no_grad():
        assert torch.allclose(told.predict(x, t, told.encode([PROMPTS[0]])), changed, atol=1e-6)


def test_a_prompt_brings_a_picture_which_is_brought_to_the_clips_size(tmp_path: Path) -> None:
    backbone = made("svd")
    picture(40, 60).save(tmp_path / "start.png")
    cond = backbone.encode([Prompt("a", {"image": tmp_path / "start.png"})])
    found = backbone.runner.table[int(cond["row"])].references["image"]
    assert (found.height, found.width) == backbone.size
    with pytest.raises(ValueError, match="expected prompts with image, which Pipeline needs"):
        backbone.encode(["a plain text"])
    with pytest.raises(ValueError, match="which is what Pipeline reads, got 'a' with image"):
        driven("wan").encode([Prompt("a", {"image": tmp_path / "start.png"})])
    for_all = made("svd", {"image": str(tmp_path / "start.png")})
    assert not for_all.needs
    x, t = backbone.noise(draws(0, [("a",)])), torch.tensor([backbone.times(STEPS)[1]])
    with torch.no_grad():
        expected = backbone.predict(x, t, cond)
        for_all.times(STEPS)
        assert torch.allclose(for_all.predict(x, t, for_all.encode(["a"])), expected, atol=1e-5)


def test_prompts_beyond_the_limit_of_the_text_encoder_are_told() -> None:
    backbone = driven("wan")
    long = "a red circle " * 8
    assert backbone.truncated(["a red circle", long]) == [long]
    assert driven("sd15").truncated(["a " * 70, "a " * 90]) == ["a " * 90]
    # the advice names an option only where the pipeline's call takes it
    assert backbone.longer.startswith("Raise backbone.options.call.max_sequence_length, or")
    assert driven("sd15").longer == "Shorten them"


# Pixels to latents


@pytest.mark.parametrize("name", ["wan", "cogvideox", "ltx", "sd15"])
@torch.no_grad()
def test_what_reaches_the_decoder_of_encoded_clips_is_what_the_encoder_made(name: str) -> None:
    backbone = driven(name)
    clip = torch.rand(1, *backbone.clip_shape, generator=torch.Generator().manual_seed(0))
    latents = backbone.encode_video(clip)
    assert latents.shape == (1, *backbone.shape)
    backbone.decode_hook.recorded = []
    backbone.decode(latents)
    reached, backbone.decode_hook.recorded = torch.cat(backbone.decode_hook.recorded), None
    pixels = 2 * clip - 1
    pixels = pixels.transpose(1, 2) if reached.dim() == 5 else pixels[0]
    assert torch.allclose(reached, backbone.encoder(pixels).latent_dist.mode(), atol=1e-4)


@torch.no_grad()
def test_a_trained_autoencoder_gives_back_the_latents_that_were_decoded() -> None:
    from vidrl.backbones.wan import Wan

    backbone, wan = (
        Pipeline("assets/tiny-wan-32", {"guidance_scale": 1.0}),
        Wan("assets/tiny-wan-32"),
    )
    assert (backbone.shape, backbone.frame_map, backbone.fps) == (wan.shape, wan.frame_map, wan.fps)
    prompts = Path("assets/prompts/world_train.txt").read_text().splitlines()[:1]
    latents = backbone.generate(backbone.noise(draws(0, [("a",)])), backbone.encode(prompts), 6)
    clip = backbone.decode(latents)
    assert torch.allclose(clip, wan.decode(latents), atol=1e-5)
    assert torch.allclose(backbone.encode_video(clip), wan.encode_video(clip), atol=1e-5)
    back = backbone.encode_video(clip)
    assert (back - latents).square().mean() < 0.1 * latents.square().mean()


# LoRA files


@pytest.mark.parametrize("name", ["wan", "sd15"])
def test_a_lora_is_read_by_the_pipeline_and_by_vidrl(name: str, tmp_path: Path) -> None:
    policy = trained(made(name))
    policy.save(tmp_path)
    again = load_adapter(made(name), tmp_path)
    x, cond, t = probed(policy.backbone)
    with torch.no_grad():
        expected = policy.predict(x, t, cond)
        assert torch.allclose(
            again.predict(x, t, again.backbone.encode(PROMPTS)), expected, atol=1e-5
        )
        pipe = FAMILIES[name].build()
        pipe.load_lora_weights(tmp_path)
        plain = Pipeline(pipe, FAMILIES[name].call)
        assert torch.allclose(plain.predict(x, t, plain.encode(PROMPTS)), expected, atol=1e-5)


def test_two_experts_have_a_file_each_and_one_may_be_trained_alone(tmp_path: Path) -> None:
    policy = trained(made("wan22"))
    policy.save(tmp_path / "both")
    files = {path.name for path in (tmp_path / "both").iterdir()}
    assert files == {"pytorch_lora_weights.safetensors", "transformer_2_lora_weights.safetensors"}
    again = load_adapter(made("wan22"), tmp_path / "both")
    assert again.weights.keys() == policy.weights.keys()
    assert all(torch.equal(again.weights[key], value) for key, value in policy.weights.items())
    alone = made("wan22", train=("transformer_2",))
    assert alone.network is alone.networks["transformer_2"]
    with pytest.raises(ValueError, match="did you mean 'transformer_2'"):
        made("wan22", train=("transformer2",))


def test_a_pipeline_without_a_lora_format_says_so_before_training(tmp_path: Path) -> None:
    backbone = made("latte")
    assert "cannot load a LoRA into its transformer" in backbone.adapter_notes[0]
    policy = trained(backbone)
    policy.save(tmp_path)
    again = load_adapter(made("latte"), tmp_path)
    assert all(torch.equal(again.weights[key], value) for key, value in policy.weights.items())
    assert not driven("wan").adapter_notes


def trained(backbone: Pipeline) -> Policy:
    policy = Policy(backbone, rank=2, alpha=4)
    draw = torch.Generator().manual_seed(3)
    for weight in policy.weights.values():
        weight.data.copy_(0.3 * torch.randn(weight.shape, generator=draw))
    return policy


def probed(backbone: Pipeline):
    t = torch.full((2,), backbone.times(STEPS)[1])
    return backbone.noise(draws(0, [("a",), ("b",)])), conditions(backbone), t


# Wrong inputs


@pytest.mark.parametrize(
    "call, told",
    [
        ({"hieght": 16}, "did you mean 'height'"),
        ({"prompt": "a cat"}, "'prompt', which vidrl gives the pipeline itself"),
        ({"height": 20}, "divisible by 16.*nearest is height = 16"),
        ({"num_frames": 8}, "num_frames = 8.*nearest is num_frames = 9"),
    ],
)
def test_arguments_that_a_pipeline_does_not_take_are_refused(call, told) -> None:
    with pytest.raises(ValueError, match=told):
        made("wan", call)


def test_what_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got str|no model_index.json"):
        Pipeline(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="one component of a pipeline"):
        Pipeline(tmp_path)
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": "NextYearPipeline", "_diffusers_version": "9.9"})
    )
    with pytest.raises(
        ValueError, match="NextYearPipeline, which was saved by 9.9: install a newer diffusers"
    ):
        Pipeline(tmp_path)
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": "StableAudioPipeline", "_diffusers_version": "0.1"})
    )
    with pytest.raises(ValueError, match="StableAudioPipeline, which makes sound alone: name"):
        Pipeline(tmp_path)  # whose parts are not looked for
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": "ShapEPipeline", "_diffusers_version": "0.1"})
    )
    with pytest.raises(ValueError, match="ShapEPipeline, which makes 3D shapes.*backbone scene"):
        Pipeline(tmp_path)
    with pytest.raises(ValueError, match="a pipeline in memory, got Linear"):
        Pipeline(nn.Linear(1, 1))
    pipe = FAMILIES["wan"].build()
    pipe.text_encoder = None
    with pytest.raises(ValueError, match="got None as text_encoder"):
        Pipeline(pipe, FAMILIES["wan"].call)


def test_conditioning_noise_that_is_renewed_in_each_step_is_refused() -> None:
    family = FAMILIES["ltx_condition"]
    backbone = made(
        "ltx_condition", {"image_cond_noise_scale": 0.3, "image": family.picture(family.call)}
    )
    cond = backbone.encode([Prompt("a", {"image": pictures(*backbone.size)[0]})])
    with pytest.raises(ValueError, match="new random numbers in each step.*image_cond_noise_scale"):
        backbone.predict(backbone.noise(draws(0, [("a",)])), torch.tensor([0.5]), cond)


def test_nan_of_the_network_stays_in_its_row() -> None:
    backbone = made("wan")
    x, cond, t = probed(backbone)
    x[0] = torch.nan
    with torch.no_grad():
        raw = backbone.predict(x, t, cond)
        pixels = backbone.decode(x)
    assert raw[0].isnan().all() and raw[1].isfinite().all()
    assert pixels[0].isnan().any() and pixels[1].isfinite().all()


# The optimiser's rows


def test_rows_are_sorted_by_time_and_keep_what_belongs_to_them() -> None:
    t = torch.tensor([0.2, 0.9, 0.2, 0.5])
    batch = Batch(
        {"t": t, "n": torch.arange(4)},
        {"row": torch.arange(4)},
        list("abcd"),
        0.25,
        Plan([1.0, 0.0]),
    )
    made = batch.by_time()
    assert made["n"].tolist() == [1, 3, 0, 2] and made.cond["row"].tolist() == [1, 3, 0, 2]
    assert made.prompts == ["b", "d", "a", "c"] and made["t"].tolist() == sorted(
        t.tolist(), reverse=True
    )
    untimed = Batch({"n": torch.arange(4)}, {}, list("abcd"), 0.25, Plan([1.0, 0.0]))
    assert untimed.by_time() is untimed

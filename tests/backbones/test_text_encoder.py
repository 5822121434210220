"""Text encoders that a run frees once all its prompts are encoded."""

import pytest
import torch
from toys import recipe

pytest.importorskip("diffusers", reason="needs vidrl[train]")

from families import FAMILIES, PROMPTS
from pretend_gpu import PretendGpu
from safetensors.torch import load_file
from torch import nn

from vidrl import config
from vidrl.backbones import _tiny
from vidrl.backbones.base import PromptCache
from vidrl.backbones.pipeline import Pipeline
from vidrl.backbones.toy import Toy
from vidrl.backbones.wan import Wan
from vidrl.training import loop
from vidrl.training.assembly import encode_first, no_callback
from vidrl.training.rollout import draws

WAN = {"height": 16, "width": 16, "frames": 5, "text_length": 16, "guidance": 2.0}
TEXTS = [str(prompt) for prompt in PROMPTS]


def backbone(name: str, **options):
    if name == "own wan":
        return Wan(_tiny.pipeline(), **WAN, **options)
    return Pipeline(FAMILIES[name].build(), FAMILIES[name].call, **options)


def predicted(made, cond) -> torch.Tensor:
    x = made.noise(draws(0, [(text,) for text in TEXTS])).to(made.device)
    with torch.no_grad():
        return made.predict(x, torch.full((len(x),), 0.5, device=x.device), cond).cpu()


def text_encoders(made) -> list[nn.Module]:
    own = [getattr(getattr(made, "pipe", None), "text_encoder", None)]
    driven = [part for name, part in getattr(made, "frozen", {}).items() if "encoder" in name]
    return [part for part in (*own, *driven) if part is not None]


def places(modules) -> set[str]:
    return {weight.device.type for module in modules for weight in module.parameters()}


@pytest.mark.parametrize(
    "name", ["own wan", "cogvideox", pytest.param("flux", marks=pytest.mark.slow)]
)
def test_after_the_text_encoders_are_freed_the_encoded_prompts_predict_alike(name: str) -> None:
    plain, made = backbone(name), backbone(name, text_encoder="drop")
    cache = PromptCache(made)
    cache.complete(TEXTS)
    made.drop_encoders()
    assert places(text_encoders(made)) == {"meta"}
    # an encoder may round a text of a batch otherwise than the text alone
    torch.testing.assert_close(predicted(made, cache(TEXTS)), predicted(plain, plain.encode(TEXTS)))
    latents = made.noise(draws(0, [("a",)]))
    assert torch.equal(made.decode(latents), plain.decode(latents))
    with pytest.raises(ValueError, match="before it freed its text encoders.*offload"):
        cache(["a prompt that nobody named"])


def test_prompts_that_host_memory_cannot_hold_are_refused_before_the_encoders_go() -> None:
    cache = PromptCache(Toy(), limit=10)
    with pytest.raises(MemoryError, match='got 3 prompts of .*text_encoder = "offload"'):
        cache.complete(["a cat", "a dog", "a cow"])


def test_outputs_that_the_pipeline_had_to_forget_are_refused_before_the_encoders_go() -> None:
    """A pipeline keeps the outputs itself, and its conditions are numbers of rows alone."""
    made = backbone("cogvideox", text_encoder="drop")
    made.encoder_cache.limit = made.encoder_cache.bytes + 1
    PromptCache(made).complete(TEXTS)
    with pytest.raises(MemoryError, match='got more: set .*text_encoder = "offload"'):
        made.drop_encoders()
    assert not any(weight.is_meta for weight in made.frozen["text_encoder"].parameters())


def test_former_options_mean_offload() -> None:
    former, named = (
        backbone("own wan", offload_text=True),
        backbone("own wan", text_encoder="offload"),
    )
    assert former.offload_text and named.offload_text and not named.drops_encoders
    assert (
        not backbone("own wan").offload_text
        and backbone("own wan", text_encoder="drop").offload_text
    )


def test_a_run_encodes_all_its_prompts_once_and_then_frees_the_encoders(tmp_path) -> None:
    """Also those of the held-out evaluation and of the callback between rounds."""
    _tiny.pipeline().save_pretrained(tmp_path / "model")
    order: list[str] = []

    class Callback:
        def encode_with(self, cache: PromptCache) -> None:
            cache.complete(["of the callback"])

        def __call__(self, round, policy, weights, workers, ends) -> None:
            order.append(f"round {round}")
            assert policy.backbone.pipe.text_encoder.device.type == "meta"

    def values(name: str, **options) -> dict:
        few = {"train_prompts_per_round": 1, "train_group": 2, "train_eval_steps": 2}
        made = recipe(tmp_path / name, train_rounds=1, **few)
        made["backbone"] = {
            "name": "wan",
            "options": {"model": str(tmp_path / "model"), **WAN, **options},
        }
        made["policy"] = {"lora_rank": 2}
        made["algorithm"] = {"name": "grpo", "options": {"steps": 3}}
        return made

    loop.run(values("dropped", text_encoder="drop"), callback=Callback())
    loop.run(values("kept"))
    assert order == ["round 0", "round 1"]
    dropped, kept = (
        load_file(tmp_path / name / "run" / "lora" / "pytorch_lora_weights.safetensors")
        for name in ("dropped", "kept")
    )
    assert dropped.keys() == kept.keys()
    assert all(torch.equal(dropped[key], kept[key]) for key in kept)


@pytest.mark.parametrize(
    "name", ["own wan", "cogvideox", pytest.param("flux", marks=pytest.mark.slow)]
)
def test_encoders_that_are_freed_and_the_network_are_never_on_the_gpu_together(
    name: str, monkeypatch
) -> None:
    """Each call of `to` moves one module; after each, at most one of the two is on the GPU."""
    made, plain = backbone(name, text_encoder="drop"), backbone(name)
    encoders, seen = text_encoders(made), [(False, False)]
    move = nn.Module.to

    def watched(module: nn.Module, *args, **kwargs) -> nn.Module:
        moved = move(module, *args, **kwargs)
        state = "cuda" in places(encoders), "cuda" in places([made.network])
        seen.extend([state] if state != seen[-1] else [])
        return moved

    with PretendGpu() as gpu:
        cache = PromptCache(made)
        monkeypatch.setattr(nn.Module, "to", watched)
        encode_first(cache, TEXTS, torch.device("cuda:0"), no_callback)
        without_encoders = gpu.living()
        made.to("cuda:0")
        found = predicted(made, cache(TEXTS))
    # the encoders come once, and stay until the last prompt is encoded; then the network comes
    assert seen == [(False, False), (True, False), (False, False), (False, True)]
    autoencoder = getattr(made, "autoencoder", None)
    kept = sum(w.nbytes for w in autoencoder.parameters()) if autoencoder is not None else 0
    smallest = min(sum(w.nbytes for w in part.parameters()) for part in encoders)
    assert without_encoders - kept < smallest / 2, "the weights of an encoder stayed"
    torch.testing.assert_close(found, predicted(plain, plain.encode(TEXTS)))


@pytest.mark.parametrize("name", ["own wan", "wan", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_offloaded_encoders_encode_on_the_gpu(name: str) -> None:
    """Pipelines of diffusers put the tokens where the encoder is, which is the host before."""
    made, plain = backbone(name, text_encoder="offload"), backbone(name)
    with PretendGpu() as gpu:
        made.to("cuda:0")
        operations = gpu.operations
        found = predicted(made, made.encode(TEXTS))
        assert gpu.operations > operations and places(text_encoders(made)) == {"cpu"}
    torch.testing.assert_close(found, predicted(plain, plain.encode(TEXTS)))


def test_a_run_frees_the_encoders_before_the_network_moves(tmp_path, monkeypatch) -> None:
    seen = list[set[str]]()
    move = Wan.to
    monkeypatch.setattr(
        Wan,
        "to",
        lambda made, device: seen.append(places(text_encoders(made))) or move(made, device),
    )
    _tiny.pipeline().save_pretrained(tmp_path / "model")
    made = recipe(tmp_path, train_prompts_per_round=1, train_group=2)
    options = {"model": str(tmp_path / "model"), **WAN, "text_encoder": "drop"}
    made["backbone"] = {"name": "wan", "options": options}
    made["policy"] = {"lora_rank": 2}
    made["algorithm"] = {"name": "grpo", "options": {"steps": 3}}
    loop.Trainer.from_recipe(config.load(made)).close()
    assert seen == [{"meta"}]

"""LoRA files of four formats: the names that other programs know, and the same merged
weights in each of them."""

import json
import re
import stat

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers", reason="needs vidrl[train]")
from diffusers import WanPipeline
from diffusers.loaders.lora_conversion_utils import (
    _convert_musubi_wan_lora_to_diffusers,
    _convert_non_diffusers_wan_lora_to_diffusers,
)
from peft import LoraConfig, PeftModel

from vidrl import lora
from vidrl.backbones.wan import Wan
from vidrl.lora import names
from vidrl.lora.file import Lora
from vidrl.training.policy import Policy

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
ALL = [*ATTENTION, "ffn.net.0.proj", "ffn.net.2"]
COMFYUI = re.compile(
    r"^diffusion_model\.blocks\.\d+\.(((self|cross)_attn\.[qkvo])|ffn\.[02])"
    r"\.(lora_[AB]\.weight|alpha)$"
)
KOHYA = re.compile(
    r"^lora_unet_blocks_\d+_(((self|cross)_attn_[qkvo])|ffn_[02])\.(lora_(down|up)\.weight|alpha)$"
)


def made(targets=ALL, mixed=False, block=None) -> Lora:
    """A LoRA of Wan.tiny with numbers that are not 0; `mixed`: ranks and alphas that differ
    by module."""
    network, draw = dict(Wan.tiny().network.named_modules()), torch.Generator().manual_seed(0)
    ends, inside = (
        tuple(f".{target}" for target in targets),
        "" if block is None else f"blocks.{block}.",
    )
    chosen = [name for name in network if name.endswith(ends) and name.startswith(inside)]
    pairs, alphas = {}, {}
    for i, name in enumerate(chosen):
        out, into = network[name].weight.shape
        rank = 2 + i % 2 if mixed else 2
        pairs[name] = {
            "lora_A.weight": torch.randn(rank, into, generator=draw),
            "lora_B.weight": torch.randn(out, rank, generator=draw) / 5,
        }
        alphas[name] = 3.0 + i % 3 if mixed else 5.0
    return Lora(pairs, alphas)


def by_hand(one: Lora) -> dict[str, torch.Tensor]:
    """W + alpha / rank · B A, in float64."""
    weights = {key: value.double() for key, value in Wan.tiny().network.state_dict().items()}
    for name, pair in one.pairs.items():
        a, b = pair["lora_A.weight"].double(), pair["lora_B.weight"].double()
        weights[f"{name}.weight"] += one.alphas[name] / len(a) * b @ a
    return weights


def by_vidrl(path) -> dict[str, torch.Tensor]:
    return Policy(Wan.tiny(), lora=str(path), full=True).backbone.network.state_dict()


def by_diffusers(path) -> dict[str, torch.Tensor]:
    pipe = Wan.tiny().pipe
    pipe.load_lora_weights(str(path))
    pipe.fuse_lora(components=["transformer"])
    pipe.unload_lora_weights()
    return pipe.transformer.state_dict()


def by_peft(path) -> dict[str, torch.Tensor]:
    return PeftModel.from_pretrained(Wan.tiny().network, str(path)).merge_and_unload().state_dict()


def assert_same(found, expected) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key].double(), value, rtol=0, atol=1e-6, msg=key)


READERS = {
    "comfyui": [by_vidrl, by_diffusers],
    "kohya": [by_vidrl, by_diffusers],
    "diffusers": [by_vidrl, by_diffusers],
    "peft": [by_vidrl, by_peft],
}


def written(one: Lora, form: str, folder):
    out = folder / (f"{form}.safetensors" if form in ("comfyui", "kohya") else form)
    file = lora.write(one, form, out)
    return out, file


@pytest.mark.parametrize("mixed", [False, True], ids=["one rank", "mixed ranks"])
@pytest.mark.parametrize("form", lora.FORMATS)
def test_merged_weights_are_those_by_hand_in_every_reader(form, mixed, tmp_path):
    one = made(mixed=mixed)
    out, _ = written(one, form, tmp_path)
    expected = by_hand(one)
    assert (
        max(
            float((expected[k] - v.double()).abs().max())
            for k, v in Wan.tiny().network.state_dict().items()
        )
        > 0.1
    )
    for read in READERS[form]:
        assert_same(read(out), expected)


@pytest.mark.parametrize("block", [None, 1], ids=["all blocks", "block 1 alone"])
@pytest.mark.parametrize("form", lora.FORMATS)
def test_a_file_of_the_attention_alone_is_read(form, block, tmp_path):
    """diffusers' converter of kohya's names raises KeyError for such a file, so vidrl reads
    that one by itself."""
    one = made(ATTENTION, block=block)
    out, _ = written(one, form, tmp_path)
    for read in READERS[form]:
        if (form, read) != ("kohya", by_diffusers):
            assert_same(read(out), by_hand(one))


@pytest.mark.parametrize("form, known", [("comfyui", COMFYUI), ("kohya", KOHYA)])
def test_every_name_is_one_that_the_other_program_maps_and_every_module_has_its_alpha(
    form, known, tmp_path
):
    _, file = written(made(), form, tmp_path)
    tensors = load_file(file)
    assert len(tensors) == 3 * 2 * 10 and all(known.match(key) for key in tensors)
    assert [float(v) for key, v in tensors.items() if key.endswith(".alpha")] == [5.0] * 20


def test_peft_names_begin_with_base_model_model(tmp_path):
    out, file = written(made(), "peft", tmp_path)
    assert all(key.startswith("base_model.model.blocks.") for key in load_file(file))
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 2, 5)


@pytest.mark.parametrize("second", lora.FORMATS)
@pytest.mark.parametrize("first", lora.FORMATS)
def test_any_format_becomes_any_other_without_loss(first, second, tmp_path):
    one = made(mixed=True)
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    again = lora.read(
        written(lora.read(written(one, first, tmp_path / "a")[0]), second, tmp_path / "b")[0]
    )
    assert again.alphas == one.alphas and again.pairs.keys() == one.pairs.keys()
    assert all(
        torch.equal(again.pairs[n][k], v) for n, pair in one.pairs.items() for k, v in pair.items()
    )


def test_a_trained_policy_comes_back_from_every_format(tmp_path):
    """alpha, targets and weights, and the prediction."""
    policy = Policy(Wan.tiny(), rank=2, alpha=7, targets=["to_q", "ffn"])
    torch.manual_seed(0)
    for p in policy.weights.values():
        p.data = torch.randn_like(p) / 5
    policy.save(tmp_path / "lora")
    noise = policy.backbone.noise([torch.Generator().manual_seed(0)])
    x = noise, torch.tensor([0.5]), policy.backbone.encode(["a red"])
    for form in lora.FORMATS:
        out, _ = written(lora.read(tmp_path / "lora"), form, tmp_path)
        again = Policy(Wan.tiny(), lora=str(out))
        assert again.lora["lora_alpha"] == 7 and again.weights.keys() == policy.weights.keys()
        with torch.no_grad():
            torch.testing.assert_close(again.predict(*x), policy.predict(*x), rtol=0, atol=1e-6)


def test_files_have_the_mode_of_any_new_file(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    mode = stat.S_IMODE(plain.stat().st_mode)
    Policy(Wan.tiny(), rank=2).save(tmp_path / "lora")
    Policy(Wan.tiny(), full=True).save(tmp_path / "full")
    for form in lora.FORMATS:
        written(made(), form, tmp_path)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) == 8 and {stat.S_IMODE(file.stat().st_mode) for file in files} == {mode}
    assert mode & stat.S_IRGRP


# --- names


def every_module() -> dict[str, str]:
    """The authors' names of all modules of an image-to-video Wan, with diffusers' names by
    diffusers' own converter."""
    old = [f"blocks.0.{name}" for name in names.BLOCK] + [
        n for n in names.OUTSIDE_BLOCKS if n != "patch_embedding"
    ]
    state = {}
    for i, name in enumerate(old):
        state |= {
            f"diffusion_model.{name}.lora_A.weight": torch.full((1, 1), float(i)),
            f"diffusion_model.{name}.lora_B.weight": torch.full((1, 1), float(i)),
        }
    converted = _convert_non_diffusers_wan_lora_to_diffusers(state)
    return {
        old[int(value)]: key.removeprefix("transformer.").removesuffix(".lora_A.weight")
        for key, value in converted.items()
        if "lora_A" in key
    }


def test_the_table_of_names_is_that_of_diffusers_converter():
    expected = every_module()
    assert len(expected) == len(names.BLOCK) + len(names.OUTSIDE_BLOCKS) - 1
    for old, new in expected.items():
        assert names.to_diffusers(f"diffusion_model.{old}") == new and names.to_original(new) == old
        assert names.to_diffusers(f"lora_unet_{old.replace('.', '_')}") == new


def test_kohya_names_are_read_as_diffusers_converter_reads_them(tmp_path):
    _, file = written(made(mixed=True), "kohya", tmp_path)
    theirs, ours = _convert_musubi_wan_lora_to_diffusers(load_file(file)), lora.read(file)
    for name, pair in ours.pairs.items():
        b, a = (theirs[f"transformer.{name}.{part}.weight"] for part in ("lora_B", "lora_A"))
        torch.testing.assert_close(
            b @ a, ours.scale(name) * pair["lora_B.weight"] @ pair["lora_A.weight"]
        )


OTHER_WORDS = {
    "diffusers' older words": lambda name, part: (
        f"transformer.{name}.lora.{'down' if part == 'A' else 'up'}.weight"
    ),
    "no prefix": lambda name, part: f"{name}.lora_{part}.weight",
    "an adapter's name": lambda name, part: f"{names.to_original(name)}.lora_{part}.default.weight",
    "the authors' checkpoint": lambda name, part: (
        f"model.diffusion_model.{names.to_original(name)}.lora_{part}.weight"
    ),
    "lora_down with dots": lambda name, part: (
        f"diffusion_model.{names.to_original(name)}.lora_{'down' if part == 'A' else 'up'}.weight"
    ),
}


@pytest.mark.parametrize("words", OTHER_WORDS)
def test_other_words_for_the_same_tensors(words, tmp_path):
    one = made()
    state = {
        OTHER_WORDS[words](name, part): pair[f"lora_{part}.weight"]
        for name, pair in one.pairs.items()
        for part in "AB"
    }
    save_file(state, tmp_path / "any.safetensors")
    found = lora.read(tmp_path)
    assert found.pairs.keys() == one.pairs.keys() and not found.spare
    # no alpha anywhere: the rank, as diffusers and ComfyUI take it
    assert set(found.alphas.values()) == {2}


# --- numbers


def test_half_precision_files_are_read_without_more_rounding(tmp_path):
    """alpha / rank of 5 / 3 folded into bf16 weights would round them again."""
    one = made(mixed=True)
    half = {
        name: {k: v.bfloat16().float() for k, v in pair.items()} for name, pair in one.pairs.items()
    }
    for form in ("comfyui", "kohya"):
        _, file = written(Lora(half, one.alphas), form, tmp_path)
        save_file(
            {k: v if k.endswith("alpha") else v.bfloat16() for k, v in load_file(file).items()},
            file,
        )
        assert_same(by_vidrl(file), by_hand(Lora(half, one.alphas)))


def test_rank_stabilised_scale_of_peft(tmp_path):
    """peft's use_rslora divides alpha by the root of the rank."""
    one = made()
    out, _ = written(one, "peft", tmp_path)
    config = LoraConfig(r=2, lora_alpha=5, use_rslora=True, target_modules=ALL)
    config.save_pretrained(str(out))
    assert_same(by_vidrl(out), {k: v.double() for k, v in by_peft(out).items()})
    assert lora.read(out).alphas["blocks.0.attn1.to_q"] == pytest.approx(5 * 2**0.5)


def test_patterns_of_peft_are_applied_as_peft_applies_them(tmp_path):
    one = made(ATTENTION)
    out, _ = written(one, "peft", tmp_path)
    LoraConfig(
        r=2,
        lora_alpha=5,
        target_modules=ATTENTION,
        alpha_pattern={"attn1.to_q": 9, r"blocks\.1\..*to_v": 1},
    ).save_pretrained(str(out))
    found = lora.read(out).alphas
    assert (
        found["blocks.0.attn1.to_q"],
        found["blocks.1.attn2.to_v"],
        found["blocks.0.attn2.to_q"],
    ) == (9, 1, 5)
    assert_same(by_vidrl(out), {k: v.double() for k, v in by_peft(out).items()})


def test_a_bias_counts_once_and_a_change_by_zero_is_no_misfit(tmp_path):
    """diff_b of the authors' names, as CausVid's and lightx2v's files have it, checked with
    diffusers."""
    one = made()
    _, file = written(one, "comfyui", tmp_path)
    state = load_file(file)
    state |= {
        "diffusion_model.blocks.0.ffn.2.diff_b": torch.arange(24.0) / 10,
        "diffusion_model.blocks.0.norm3.diff": torch.zeros(24),
    }
    save_file({k: v for k, v in state.items() if not k.endswith(".alpha")}, file)
    expected = {k: v.double() for k, v in by_diffusers(file).items()}
    plain = Wan.tiny().network.state_dict()["blocks.0.ffn.net.2.bias"].double()
    torch.testing.assert_close(
        expected["blocks.0.ffn.net.2.bias"] - plain, torch.arange(24.0).double() / 10
    )
    assert_same(by_vidrl(file), expected)
    save_file(state, file)  # with alpha, which scales A and B and not the bias
    assert_same(
        {"x": by_vidrl(file)["blocks.0.ffn.net.2.bias"]}, {"x": expected["blocks.0.ffn.net.2.bias"]}
    )
    again, _ = written(lora.read(file), "comfyui", tmp_path / "again")
    torch.testing.assert_close(
        load_file(again)["diffusion_model.blocks.0.ffn.2.diff_b"], torch.arange(24.0) / 10
    )
    with pytest.raises(ValueError, match="kohya has no place for the biases"):
        written(lora.read(file), "kohya", tmp_path / "again")


def test_other_families_are_told_which_formats_work(tmp_path):
    one = Lora(
        {"transformer_blocks.0.attn.to_q": made().pairs["blocks.0.attn1.to_q"]},
        {"transformer_blocks.0.attn.to_q": 2.0},
    )
    for form in ("comfyui", "kohya"):
        with pytest.raises(
            ValueError, match="the one family whose original names are known.*diffusers or peft"
        ):
            written(one, form, tmp_path)
    for form in ("diffusers", "peft"):
        assert lora.read(written(one, form, tmp_path)[0]).pairs.keys() == one.pairs.keys()


def test_the_saved_file_says_what_it_is(tmp_path):
    _, file = written(made(), "comfyui", tmp_path)
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["format"] == "pt"
    assert WanPipeline.lora_state_dict(str(file))  # diffusers finds it by itself

"""A LoRA of which a part has no place in the network is refused, with names; nothing is
left out without a word."""

import re
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers", reason="needs vidrl[train]")
from vidrl import lora
from vidrl.backbones.wan import Wan
from vidrl.training.policy import Policy, load_adapter

FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """The tensors of a file that fits Wan.tiny, which has blocks 0 and 1."""
    folder = tmp_path_factory.mktemp("lora")
    policy = Policy(Wan.tiny(), rank=2, alpha=4)
    for p in policy.weights.values():
        p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) / 5
    policy.save(folder)
    return load_file(folder / FILE)


def put(folder, tensors):
    save_file({key: value.clone() for key, value in tensors.items()}, folder / FILE)
    return folder


def renamed(state, old, new):
    return {key.replace(old, new): value for key, value in state.items()}


V = "transformer.blocks.1.attn1.to_v"
WRONG = {
    "a lora_B is missing": (
        lambda s: {k: v for k, v in s.items() if k != f"{V}.lora_B.weight"},
        r"15 modules fit, 1 names.*blocks\.1\.attn1\.to_v has no lora_B, only lora_A",
    ),
    "a lora_A is missing": (
        lambda s: {k: v for k, v in s.items() if k != f"{V}.lora_A.weight"},
        r"blocks\.1\.attn1\.to_v has no lora_A, only lora_B",
    ),
    "half of the names are wrong": (
        lambda s: renamed(s, "attn1", "atn1"),
        r"8 modules fit, 8 names.*blocks\.0\.atn1\.to_k names no module: the nearest is "
        r"blocks\.0\.attn1\.to_k.*and 4 more",
    ),
    "blocks beyond the model": (
        lambda s: s | renamed({k: v for k, v in s.items() if "s.0." in k}, "s.0.", "s.9."),
        r"16 modules fit, 8 names.*the network has blocks\.0 to blocks\.1",
    ),
    "a tensor of another kind": (
        lambda s: s | {f"{V}.dora_scale": torch.ones(24)},
        r"15 modules fit, 1 names.*attn1\.to_v is of DoRA",
    ),
    "an alpha of nothing": (
        lambda s: s | {"transformer.blocks.1.attn1.to_w.alpha": torch.tensor(2.0)},
        r"attn1\.to_w has no lora_A and lora_B, only alpha",
    ),
    "a norm": (
        lambda s: (
            s
            | {
                "transformer.blocks.0.norm2.lora_A.weight": torch.ones(2, 24),
                "transformer.blocks.0.norm2.lora_B.weight": torch.ones(24, 2),
            }
        ),
        r"blocks\.0\.norm2 names a FP32LayerNorm, which takes no LoRA",
    ),
    "matrices that do not fit each other": (
        lambda s: s | {f"{V}.lora_A.weight": torch.ones(3, 24)},
        r"shapes \(3, 24\) and \(24, 2\), which do not fit each other",
    ),
    "a tensor given twice": (
        lambda s: s | {"diffusion_model.blocks.1.self_attn.v.lora_A.weight": torch.ones(2, 24)},
        r"is a second lora_A of blocks\.1\.attn1\.to_v",
    ),
    "a change of a whole weight": (
        lambda s: s | {"transformer.blocks.0.norm2.diff": torch.ones(24)},
        r"norm2\.diff is no tensor of a plain LoRA",
    ),
}


@pytest.mark.parametrize("full", [False, True], ids=["LoRA", "all weights"])
@pytest.mark.parametrize("kind", WRONG)
def test_a_part_that_does_not_fit_is_refused_by_name(kind, full, state, tmp_path):
    change, words = WRONG[kind]
    put(tmp_path, change(state))
    with pytest.raises(ValueError, match=re.compile(words, re.DOTALL)) as caught:
        Policy(Wan.tiny(), lora=str(tmp_path), full=full)
    assert "policy.lora_partial = true" in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("kind", WRONG)
def test_what_fits_is_used_where_a_person_allows_it_with_a_warning(kind, state, tmp_path):
    change, words = WRONG[kind]
    put(tmp_path, change(state))
    with pytest.warns(UserWarning, match=re.compile(words + ".*left out", re.DOTALL)):
        policy = load_adapter(Wan.tiny(), tmp_path, partial=True)
    whole = load_adapter(Wan.tiny(), put(tmp_path, state))
    assert set(policy.weights) <= set(whole.weights) and len(policy.weights) >= 16
    same = [torch.equal(p, whole.weights[name]) for name, p in policy.weights.items()]
    assert same.count(False) <= 1  # of a tensor that is given twice, one is used


def test_a_file_of_which_no_module_fits_is_refused_even_then(state, tmp_path):
    put(tmp_path, renamed(state, "transformer.", "unet."))
    with pytest.raises(
        ValueError, match=r"(?s)0 modules fit, 16 names.*The file is of another model"
    ) as caught:
        load_adapter(Wan.tiny(), tmp_path, partial=True)
    assert "unet.blocks.0.attn1.to_k" in str(caught.value)


def test_a_lora_of_another_size_of_the_model_is_named_so(state, tmp_path):
    wide = {
        key: torch.randn(v.shape[0], 48) if "lora_A" in key else torch.randn(48, v.shape[1])
        for key, v in state.items()
    }
    with pytest.raises(
        ValueError, match=r"a weight of \(48, 48\), the network's is \(24, 24\).*another size"
    ):
        load_adapter(Wan.tiny(), put(tmp_path, wide))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("partial", [False, True])
def test_numbers_that_are_not_finite_are_always_refused(number, partial, state, tmp_path):
    bad = dict(state)
    bad[f"{V}.lora_A.weight"] = torch.full((2, 24), number)
    with pytest.raises(
        ValueError, match=r"NaN or infinity in 1 tensors, as blocks\.1\.attn1\.to_v\.lora_A"
    ):
        load_adapter(Wan.tiny(), put(tmp_path, bad), partial)


@pytest.mark.parametrize("part", ["attn1", "blocks.0"])
def test_a_lora_of_fewer_modules_is_whole(part, state, tmp_path):
    """Attention of one kind, one block: peft and diffusers put adapters where the file
    names modules, and no others."""
    some = {key: value for key, value in state.items() if f".{part}." in key}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        policy = load_adapter(Wan.tiny(), put(tmp_path, some))
    assert len(policy.weights) == len(some) == 16
    policy.save(tmp_path / "again")
    assert load_file(tmp_path / "again" / FILE).keys() == some.keys()


def test_what_is_no_lora_file_is_told_apart(state, tmp_path):
    where = tmp_path / "runs" / "none"
    with pytest.raises(
        ValueError, match="which does not exist: name what training saved"
    ) as caught:
        load_adapter(Wan.tiny(), where)
    assert "offline" not in str(caught.value) and str(where) in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="one LoRA file .* which holds nothing"):
        load_adapter(Wan.tiny(), tmp_path / "empty")
    for name in ("a", "b"):
        save_file(state, tmp_path / f"{name}.safetensors")
    with pytest.raises(
        ValueError, match="which holds a.safetensors, b.safetensors: name the file itself"
    ):
        load_adapter(Wan.tiny(), tmp_path)
    assert load_adapter(Wan.tiny(), tmp_path / "a.safetensors").weights
    (tmp_path / "run" / "lora").mkdir(parents=True)
    with pytest.raises(ValueError, match="a run's folder: name .*run/lora"):
        load_adapter(Wan.tiny(), tmp_path / "run")
    (tmp_path / "x.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a LoRA as \*.safetensors, got .*x.pt"):
        load_adapter(Wan.tiny(), tmp_path / "x.pt")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:5000])
    with pytest.raises(ValueError, match="expected a file of safetensors, got .*cut.safetensors"):
        load_adapter(Wan.tiny(), tmp_path / "cut.safetensors")
    save_file({"blocks.0.attn1.to_q.hada_w1_a": torch.ones(2, 2)}, tmp_path / "loha.safetensors")
    with pytest.raises(
        ValueError, match="expected pairs of lora_A and lora_B .* as blocks.0.attn1.to_q.hada_w1_a"
    ):
        load_adapter(Wan.tiny(), tmp_path / "loha.safetensors")


def test_a_configuration_that_is_no_plain_lora_is_refused(state, tmp_path):
    from peft import LoraConfig

    put(tmp_path, state)
    for options in ({"use_dora": True}, {"init_lora_weights": "pissa"}):
        LoraConfig(r=2, target_modules=["to_q"], **options).save_pretrained(str(tmp_path))
        with pytest.raises(ValueError, match="expected a plain LoRA in .* convert it"):
            lora.read(tmp_path)


ALPHA = f"{V}.alpha"
CONFIG = "lora_adapter_metadata"
ODD = {
    "alpha of two numbers": (
        {ALPHA: torch.ones(2)},
        {},
        r"one number as blocks\.1\.attn1\.to_v\.alpha.*shape \(2,\)",
    ),
    "alpha of no number": (
        {ALPHA: torch.ones(0)},
        {},
        r"one number as blocks\.1\.attn1\.to_v\.alpha.*shape \(0,\)",
    ),
    "alpha 0": ({ALPHA: torch.zeros(())}, {}, "an alpha other than 0 in .* got 0 for 1 modules"),
    "alpha 0 and a bias": (
        {ALPHA: torch.zeros(()), f"{V}.diff_b": torch.ones(24)},
        {},
        "an alpha other than 0",
    ),
    "a bias of another size": (
        {f"{V}.diff_b": torch.ones(5)},
        {},
        r"to_v has a bias of shape \(5,\), the network's is \(24,\)",
    ),
    "broken metadata": (
        {},
        {CONFIG: "{oops"},
        "configuration of a LoRA as JSON in the metadata of .*'{oops'",
    ),
    "metadata of another kind": (
        {},
        {CONFIG: "null"},
        "a JSON object, in the metadata of .*'null'",
    ),
    "a list": ({}, {CONFIG: "[1]"}, "a JSON object, in the metadata of"),
}


@pytest.mark.parametrize(
    "end", ["dora_scale", "lora_magnitude_vector", "lora_magnitude_vector.default.weight"]
)
def test_a_pair_of_dora_is_left_out_whole(end, state, tmp_path):
    """Its matrices without its magnitude would be another change than the one that was
    trained."""
    with pytest.warns(UserWarning, match="to_v is of DoRA"):
        policy = load_adapter(
            Wan.tiny(), put(tmp_path, state | {f"{V}.{end}": torch.ones(24)}), partial=True
        )
    assert len(policy.weights) == len(state) - 2 and not any(
        "blocks.1.attn1.to_v" in key for key in policy.weights
    )
    every = {key.replace("lora_A.weight", end): torch.ones(24) for key in state if "lora_A" in key}
    with pytest.raises(ValueError, match="expected pairs of lora_A and lora_B .* is of DoRA"):
        load_adapter(Wan.tiny(), put(tmp_path, state | every), partial=True)


@pytest.mark.parametrize("kind", ODD)
def test_odd_numbers_and_configurations_are_refused_by_file_and_name(kind, state, tmp_path):
    more, meta, words = ODD[kind]
    save_file(state | more, tmp_path / FILE, metadata=meta)
    with pytest.raises(ValueError, match=f"(?s){words}"):
        load_adapter(Wan.tiny(), tmp_path)


def test_a_broken_adapter_config_is_refused_by_name_and_a_null_alpha_is_the_rank(state, tmp_path):
    bare = {
        f"base_model.model.{key.removeprefix('transformer.')}": value
        for key, value in state.items()
    }
    save_file(bare, tmp_path / "adapter_model.safetensors")
    config = tmp_path / "adapter_config.json"
    config.write_text('{"lora_alpha": null, "r": 2}')
    assert set(lora.read(tmp_path).alphas.values()) == {2.0}
    config.write_text("{")
    with pytest.raises(ValueError, match="as JSON in .*adapter_config.json"):
        lora.read(tmp_path)

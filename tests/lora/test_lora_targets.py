"""Targets as people write them: each of them matches something, or is refused with the
nearest name."""

import pytest
from torch import nn

pytest.importorskip("diffusers", reason="needs vidrl[train]")
from vidrl.backbones.wan import Wan
from vidrl.lora import resolve
from vidrl.training.policy import Policy


def trained(targets) -> set[str]:
    """The modules of block 0, and those outside of blocks, that a policy of these targets
    trains."""
    names = {
        name.split(".lora_")[0] for name in Policy(Wan.tiny(), rank=2, targets=targets).weights
    }
    return {name.removeprefix("blocks.0.") for name in names if not name.startswith("blocks.1.")}


BOTH = ["attn1.", "attn2."]
PROJECTIONS = {f"{a}{p}" for a in BOTH for p in ("to_q", "to_k", "to_v", "to_out.0")}


@pytest.mark.parametrize(
    "targets, expected",
    [
        (["to_q", "to_k", "to_v", "to_out.0"], PROJECTIONS),
        (["to_q", "to_k", "to_v", "to_out"], PROJECTIONS),
        (["attn1", "attn2"], PROJECTIONS),
        (["attn2.to_q"], {"attn2.to_q"}),
        (["ffn"], {"ffn.net.0.proj", "ffn.net.2"}),
        (["ffn.net.0.proj", "ffn.net.2"], {"ffn.net.0.proj", "ffn.net.2"}),
        ([".*to_q"], {"attn1.to_q", "attn2.to_q"}),
        ([r"blocks\.\d+\.attn1\.to_(q|k)", "ffn.net.2"], {"attn1.to_q", "attn1.to_k", "ffn.net.2"}),
        ([r".*\.ffn"], {"ffn.net.0.proj", "ffn.net.2"}),
        (["proj_out", "patch_embedding"], {"proj_out", "patch_embedding"}),
        ("to_q", {"attn1.to_q", "attn2.to_q"}),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
def test_what_targets_mean(targets, expected):
    assert trained(targets) == expected


def test_one_block_alone():
    names = {
        name.split(".lora_")[0] for name in Policy(Wan.tiny(), rank=2, targets=["blocks.1"]).weights
    }
    assert len(names) == 10 and all(name.startswith("blocks.1.") for name in names)


def test_all_linear_is_every_linear_module():
    linear = {n for n, m in Wan.tiny().network.named_modules() if isinstance(m, nn.Linear)}
    names = {
        name.split(".lora_")[0]
        for name in Policy(Wan.tiny(), rank=2, targets=["all-linear"]).weights
    }
    assert names == linear and "blocks.0.ffn.net.2" in names


@pytest.mark.parametrize(
    "targets, words",
    [
        (["to_q", "to_kk"], r"'to_kk' matches no module, the nearest is 'to_k'"),
        (
            ["to_q", "q_projj", "ffn.1"],
            r"'q_projj' matches no module.*"
            r"'ffn.1' matches no module, the nearest is 'ffn.net.2'",
        ),
        (
            ["nothing"],
            r"'nothing' matches no module. The network has attn1.to_k, attn1.to_out.0, attn1.to_q",
        ),
        (["to_q", ".*to_x"], r"'.\*to_x' matches no module, the nearest is"),
        (["to_q", "*to_k"], r"'\*to_k' matches no module, the nearest is 'to_k'"),
        (
            ["to_q", "norm2"],
            r"'norm2' matches blocks.0.norm2, a FP32LayerNorm, which holds no Linear or Conv "
            r"module",
        ),
        (["to_q", ""], r"'' matches no module"),
        ([], "expected at least one module, got an empty list"),
    ],
    ids=str,
)
def test_a_target_that_matches_nothing_is_refused_among_ones_that_do(targets, words):
    with pytest.raises(ValueError, match=f"policy.lora_targets: .*{words}"):
        Policy(Wan.tiny(), rank=2, targets=targets)


def test_the_usual_targets_go_to_the_file_as_they_were_written():
    usual = ["to_q", "to_k", "to_v", "to_out.0"]
    assert resolve(Wan.tiny().network, usual) == usual
    assert resolve(Wan.tiny().network, ["to_out", "ffn"]) == [
        "to_out.0",
        "ffn.net.0.proj",
        "ffn.net.2",
    ]

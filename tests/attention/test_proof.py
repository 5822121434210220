"""A kernel passes the proof on random tensors only if its output and its gradients are right."""

import pytest
import torch

from vidrl import attention
from vidrl.attention import proof


def reference(q, k, v):
    return proof.formula(q, k, v)


def test_a_right_kernel_is_proven():
    attention.prove("fake", "cpu", kernel=reference)
    attention.prove("fake", "cpu", torch.bfloat16, kernel=reference)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (lambda q, k, v: reference(q, k, v).detach(), "gives no gradient of the query"),
        (lambda q, k, v: reference(q.detach(), k, v), "gives no gradient of the query"),
        (lambda q, k, v: reference(q, k.detach() + 0 * k, v), "gradient of the key is 1 away"),
        (lambda q, k, v: 1.01 * reference(q, k, v), "output is 0.01 away"),
        (lambda q, k, v: reference(q, k, v) * float("nan"), "output is nan away"),
        (lambda q, k, v: q.no_such_thing, "does not run on cpu in torch.float32: AttributeError"),
    ],
)
def test_a_wrong_kernel_is_refused_with_the_reason(kernel, message):
    with pytest.raises(attention.AttentionError, match=message):
        attention.prove("fake", "cpu", kernel=kernel)


def test_inference_asks_for_no_gradient():
    attention.prove(
        "fake", "cpu", training=False, kernel=lambda q, k, v: reference(q, k, v).detach()
    )


@pytest.mark.parametrize("name", ["sage", "sage_hub", "_sage_qk_int8_pv_fp16_cuda"])
def test_sage_is_refused_in_training_whatever_it_computes(name):
    with pytest.raises(
        attention.AttentionError, match="inference only, SageAttention.*rollout_att"
    ):
        attention.prove(name, "cpu")


def test_kernels_on_this_machine():
    attention.prove("sdpa", "cpu")
    attention.prove("math", "cpu")
    attention.prove("flash", "cpu", masked=True)
    with pytest.raises(attention.AttentionError, match="'cudnn' cannot be used: it needs a CUDA"):
        attention.prove("cudnn", "cpu")
    with pytest.raises(attention.AttentionError, match="'flahs'.*did you mean 'flash'"):
        attention.prove("flahs", "cpu")
    assert attention.choose(["cudnn", "math", "sdpa"], "cpu") == "math"
    with pytest.raises(attention.AttentionError, match="cudnn.*sage.*use 'sdpa'"):
        attention.choose(["cudnn", "sage"], "cpu")


# --- masks and mixed types


def test_a_kernel_that_drops_the_mask_is_refused_where_the_network_passes_one():
    deaf = lambda q, k, v, mask=None: reference(q, k, v)  # noqa: E731  as diffusers drops what a backend cannot take
    attention.prove("fake", "cpu", kernel=deaf)
    with pytest.raises(attention.AttentionError, match="'fake with a boolean mask': its output is"):
        attention.prove("fake", "cpu", kernel=deaf, masked=True)
    boolean = lambda q, k, v, mask=None: proof.formula(  # noqa: E731
        q, k, v, mask if mask is None or mask.dtype == torch.bool else None
    )
    with pytest.raises(
        attention.AttentionError, match="'fake with an additive mask': its output is"
    ):
        attention.prove("fake", "cpu", kernel=boolean, masked=True)
    three = lambda q, k, v: reference(q, k, v)  # noqa: E731
    with pytest.raises(
        attention.AttentionError, match="does not run on cpu in torch.float32 with a boolean mask"
    ):
        attention.prove("fake", "cpu", kernel=three, masked=True)
    attention.prove("fake", "cpu", kernel=proof.formula, masked=True)
    attention.prove("sdpa", "cpu", masked=True)
    attention.prove("math", "cpu", torch.bfloat16, masked=True)
    assert attention.choose(["math"], "cpu", masked=True) == "math"


def test_a_hidden_key_has_no_say_in_the_proof_itself():
    """The reference obeys both masks: against softmax written out."""
    q, k, v = proof._inputs("cpu", (torch.float32,) * 3, False)
    weights = torch.einsum("bqhc,bkhc->bhqk", q, k) / 8
    weights[1, :, :, 40:] = -torch.inf
    expected = torch.einsum("bhqk,bkhc->bqhc", weights.softmax(-1), v)
    for mask in list(proof._masks("cpu", torch.float32).values())[1:]:
        assert torch.allclose(proof.formula(q, k, v, *mask), expected, atol=1e-5)


def test_a_kernel_of_one_type_is_refused_where_autocast_mixes_types():
    def flash(q, k, v):
        if len({q.dtype, k.dtype, v.dtype}) > 1:
            raise RuntimeError("query and key must have the dtype of value")
        return reference(q, k, v)

    mixed = (torch.float32, torch.float32, torch.bfloat16)
    attention.prove("fake", "cpu", torch.bfloat16, kernel=flash)
    with pytest.raises(
        attention.AttentionError,
        match="mixed types of autocast .query torch.float32, key torch.float32"
        ", value torch.bfloat16; train.mixed_precision = 'no'",
    ):
        attention.prove("fake", "cpu", mixed, kernel=flash)
    attention.prove(
        "fake", "cpu", mixed, kernel=lambda q, k, v: reference(q.to(v.dtype), k.to(v.dtype), v)
    )


def test_the_types_are_those_of_the_present_context(monkeypatch):
    half = torch.bfloat16
    assert attention.dtypes("cpu", torch.float32) == (torch.float32,) * 3
    assert attention.dtypes("cpu", half) == (half,) * 3
    with torch.autocast("cpu", half):
        # on a CPU the normalisation keeps the type
        assert attention.dtypes("cpu", torch.float32) == (half,) * 3
        # on CUDA it does not
        monkeypatch.setattr(proof, "rms_norm", lambda x, shape: x.float())
        assert attention.dtypes("cpu", torch.float32) == (torch.float32, torch.float32, half)


# --- in a model


def test_networks_that_pass_a_mask_are_told_apart():
    import diffusers

    assert not attention.takes_mask(tiny_wan())
    for name in (
        "HunyuanVideoTransformer3DModel",
        "LTXVideoTransformer3DModel",
        "MochiTransformer3DModel",
    ):
        assert attention.takes_mask(getattr(diffusers, name)), name


def tiny_wan():
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=16,
        ffn_dim=16,
        num_layers=1,
        rope_max_seq_len=16,
    ).eval()

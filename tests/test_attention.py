"""An attention backend is used only after it ran, forward and backward, and agreed with
torch's."""

import pytest
import torch

from vidrl import attention


def reference(q, k, v):
    return attention._torch_attention(q, k, v)


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
    with pytest.raises(attention.AttentionError, match="inference only: SageAttention quantises"):
        attention.prove(name, "cpu", kernel=reference)
    attention.prove(name, "cpu", training=False, kernel=reference)


def test_diffusers_backends_on_this_machine():
    attention.prove("native", "cpu")
    attention.prove("_native_math", "cpu")
    with pytest.raises(attention.AttentionError, match="'_native_cudnn' does not run on cpu"):
        attention.prove("_native_cudnn", "cpu")
    with pytest.raises(
        attention.AttentionError, match="got 'no_such_backend': known: .*_native_math"
    ):
        attention.prove("no_such_backend", "cpu")
    assert attention.choose(["_native_cudnn", "_native_math", "native"], "cpu") == "_native_math"
    with pytest.raises(attention.AttentionError, match="_native_cudnn.*sage.*cure: use 'native'"):
        attention.choose(["_native_cudnn", "sage"], "cpu")


# --- masks and mixed types


def test_a_kernel_that_drops_the_mask_is_refused_where_the_network_passes_one():
    deaf = lambda q, k, v, mask=None: reference(q, k, v)  # noqa: E731  as diffusers drops what a backend cannot take
    attention.prove("fake", "cpu", kernel=deaf)
    with pytest.raises(attention.AttentionError, match="'fake with a boolean mask': its output is"):
        attention.prove("fake", "cpu", kernel=deaf, masked=True)
    boolean = lambda q, k, v, mask=None: attention._torch_attention(  # noqa: E731
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
    attention.prove("fake", "cpu", kernel=attention._torch_attention, masked=True)
    attention.prove("native", "cpu", masked=True)
    attention.prove("_native_math", "cpu", torch.bfloat16, masked=True)
    assert attention.choose(["_native_math"], "cpu", masked=True) == "_native_math"


def test_a_hidden_key_has_no_say_in_the_proof_itself():
    """The reference obeys both masks: against softmax written out."""
    q, k, v = attention._inputs("cpu", (torch.float32,) * 3, False)
    weights = torch.einsum("bqhc,bkhc->bhqk", q, k) / 8
    weights[1, :, :, 40:] = -torch.inf
    expected = torch.einsum("bhqk,bkhc->bqhc", weights.softmax(-1), v)
    for mask in list(attention._masks("cpu", torch.float32).values())[1:]:
        assert torch.allclose(attention._torch_attention(q, k, v, *mask), expected, atol=1e-5)


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
        monkeypatch.setattr(attention, "rms_norm", lambda x, shape: x.float())
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


class Old:
    """A processor without a switch."""


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda model: setattr(model.blocks[0].attn2, "processor", Old()),
            "WanTransformer3DModel: its processors Old",
        ),
        (
            lambda model: model.blocks.__delitem__(0),
            "WanTransformer3DModel: it has no attention processors",
        ),
    ],
)
def test_a_network_without_a_switch_is_refused_by_name_and_left_as_it_was(change, message):
    model = tiny_wan()
    change(model)
    for run in (
        lambda: attention.put(model, "_native_math"),
        lambda: attention.using(model, "_native_math").__enter__(),
    ):
        with pytest.raises(attention.AttentionError, match=message):
            run()
    assert attention.put(model, "native") is not None  # torch's own attention is what it has anyway
    with pytest.raises(attention.AttentionError, match="Linear: it has no attention processors"):
        attention.put(torch.nn.Linear(1, 1), "_native_math")


def test_one_models_backend_is_not_anothers():
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as registry

    one, other, before = tiny_wan(), tiny_wan(), registry._active_backend
    with attention.using(one, "_native_math"):
        assert registry._active_backend == before
        assert other.blocks[0].attn1.processor._attention_backend is None


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


def test_the_model_and_the_default_are_restored():
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as registry

    model = tiny_wan()
    inputs = {
        "hidden_states": torch.randn(1, 4, 2, 4, 4),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": torch.randn(1, 3, 8),
    }

    def backends():
        return [
            str(block.attn1.processor._attention_backend) for block in model.blocks
        ], registry._active_backend

    before, expected = backends(), model(**inputs).sample
    with attention.using(model, "_native_math"):
        assert backends() != before
        assert torch.allclose(model(**inputs).sample, expected, atol=1e-5)
    assert backends() == before
    with pytest.raises(RuntimeError, match="inside"), attention.using(model, "_native_math"):
        raise RuntimeError("inside")
    assert backends() == before
    with pytest.raises(attention.AttentionError), attention.using(model, "_native_cudnn"):
        pass
    assert backends() == before

"""An attention backend is used only after it ran, forward and backward, and agreed with torch's."""

import pytest
import torch

from vidrl import attention


def reference(q, k, v):
    return attention._torch_attention(q, k, v)


def test_a_right_kernel_is_proven():
    attention.prove("fake", "cpu", kernel=reference)
    attention.prove("fake", "cpu", torch.bfloat16, kernel=reference)


@pytest.mark.parametrize(("kernel", "message"), [
    (lambda q, k, v: reference(q, k, v).detach(), "gives no gradient of the query"),
    (lambda q, k, v: reference(q.detach(), k, v), "gives no gradient of the query"),
    (lambda q, k, v: reference(q, k.detach() + 0 * k, v), "gradient of the key is 1 away"),
    (lambda q, k, v: 1.01 * reference(q, k, v), "output is 0.01 away"),
    (lambda q, k, v: reference(q, k, v) * float("nan"), "output is nan away"),
    (lambda q, k, v: q.no_such_thing, "does not run on cpu in torch.float32: AttributeError"),
])
def test_a_wrong_kernel_is_refused_with_the_reason(kernel, message):
    with pytest.raises(attention.AttentionError, match=message):
        attention.prove("fake", "cpu", kernel=kernel)


def test_inference_asks_for_no_gradient():
    attention.prove("fake", "cpu", training=False, kernel=lambda q, k, v: reference(q, k, v).detach())


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
    with pytest.raises(attention.AttentionError, match="'no_such_backend' does not run"):
        attention.prove("no_such_backend", "cpu")
    assert attention.choose(["_native_cudnn", "_native_math", "native"], "cpu") == "_native_math"
    with pytest.raises(attention.AttentionError, match="_native_cudnn.*sage.*cure: use 'native'"):
        attention.choose(["_native_cudnn", "sage"], "cpu")


def tiny_wan():
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4,
                                 out_channels=4, text_dim=8, freq_dim=16, ffn_dim=16, num_layers=1,
                                 rope_max_seq_len=16).eval()


def test_the_model_and_the_default_are_restored():
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as registry

    model = tiny_wan()
    inputs = {"hidden_states": torch.randn(1, 4, 2, 4, 4), "timestep": torch.tensor([500]),
              "encoder_hidden_states": torch.randn(1, 3, 8)}

    def backends():
        return [str(block.attn1.processor._attention_backend) for block in model.blocks], registry._active_backend

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

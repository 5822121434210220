"""A switched network uses the kernel, whatever its processors are, and no other network does."""

import copy
import threading

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

pytest.importorskip("diffusers", reason="needs vidrl[train]")

from diffusers.models.attention import Attention
from diffusers.models.attention_processor import (
    AttnProcessor,
    AttnProcessor2_0,
    JointAttnProcessor2_0,
)

from vidrl import attention
from vidrl.attention import switch as module
from vidrl.attention.reference import written_out

HALF = torch.bfloat16


@pytest.fixture
def counted():
    """A registered kernel that counts its calls, of half precision and without masks."""
    calls = []

    def call(q, k, v, mask, causal, scale):
        calls.append((q.dtype, k.dtype, v.dtype))
        return written_out(q, k, v, mask, causal, scale)

    attention.register(attention.Kernel("counted", "a stand-in", call, masks=False))
    yield calls
    del attention.KERNELS["counted"]


def layer(processor=None, **options) -> Attention:
    torch.manual_seed(0)
    made = Attention(query_dim=16, heads=2, dim_head=8, **options)
    made.set_processor(processor or AttnProcessor2_0())
    return made.eval()


def x(seed=1):
    return torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(seed))


def test_a_layer_of_a_unet_uses_the_kernel_and_another_layer_does_not(counted):
    one, other = layer(), layer()
    expected = one(x())
    with attention.used([one], "counted") as switches:
        torch.testing.assert_close(one(x()), expected)
        assert len(counted) == 1
        torch.testing.assert_close(other(x()), expected)
        scaled_dot_product_attention(*torch.randn(3, 1, 1, 4, 8))
        assert len(counted) == 1 and switches[0].calls == {"kernel": 1}
    one(x())
    assert len(counted) == 1 and type(one) is Attention


def test_joint_attention_uses_the_kernel(counted):
    joint = layer(JointAttnProcessor2_0(), added_kv_proj_dim=16, context_pre_only=False, out_dim=16)
    expected = joint(x(), encoder_hidden_states=x(2))
    with attention.used([joint], "counted"):
        found = joint(x(), encoder_hidden_states=x(2))
    assert len(counted) == 1
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_an_error_inside_restores_the_network_and_the_thread(counted):
    one = layer()
    with pytest.raises(RuntimeError, match="stop"), attention.used([one], "counted"):
        one(x())
        with pytest.raises(RuntimeError):
            one(torch.zeros(2, 6, 3))  # too few channels
        scaled_dot_product_attention(*torch.randn(3, 1, 1, 4, 8))
        assert len(counted) == 1
        raise RuntimeError("stop")
    one(x())
    assert len(counted) == 1 and "_vidrl_switch" not in vars(one)


def test_contexts_nest(counted):
    one = layer()
    with attention.used([one], "counted"):
        with attention.used([one], "math"):
            one(x())
            assert not counted
        one(x())
        assert len(counted) == 1


def test_a_layer_that_checkpointing_computes_again_uses_the_kernel_in_the_backward_pass(counted):
    one, given = layer(), x().requires_grad_()
    with attention.used([one], "counted"):
        out = checkpoint(one, given, use_reentrant=False)
        assert len(counted) == 1
        # the gradients of a GPU are computed by another thread
        thread = threading.Thread(target=lambda: out.sum().backward())
        thread.start()
        thread.join()
    assert len(counted) == 2 and given.grad is not None


def test_a_call_with_a_mask_goes_to_torch_and_is_counted(counted):
    one, mask = layer(), torch.zeros(2, 6)
    mask[1, 4:] = -1e4
    expected = one(x(), attention_mask=mask)
    with attention.used([one], "counted") as switches:
        torch.testing.assert_close(one(x(), attention_mask=mask), expected)
        one(x())
    assert switches[0].calls == {"a mask": 1, "kernel": 1}


def test_the_kernel_gets_one_type_where_autocast_mixes_types(counted):
    """On CUDA the normalisation of query and key gives float32, and the value is bfloat16."""
    one = layer(qk_norm="rms_norm")
    for norm in (one.norm_q, one.norm_k):
        norm.register_forward_hook(lambda *given: given[-1].float())
    with torch.autocast("cpu", HALF):
        expected = one(x())
        with attention.used([one], "counted"):
            found = one(x())
    assert counted == [(HALF, HALF, HALF)] and found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)


def test_a_type_that_the_kernel_does_not_take_is_named():
    half = attention.Kernel("half", "a stand-in", written_out, dtypes=(HALF,))
    with attention.used([layer()], half) as switches:
        (switch,) = switches
    with pytest.raises(attention.AttentionError, match="of bfloat16, got float32: set train.mixed"):
        switch.attend(*torch.randn(3, 1, 1, 4, 8))
    eight = torch.randn(3, 1, 1, 4, 8).to(torch.float8_e4m3fn)
    with pytest.raises(
        attention.AttentionError, match="got float8_e4m3fn: let the network compute"
    ):
        switch.attend(*eight)


def test_fewer_heads_of_keys_are_repeated_for_a_kernel(counted):
    q, k = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8)
    made = module.Switch(attention.KERNELS["counted"])
    torch.testing.assert_close(
        made.attend(q, k, k, enable_gqa=True),
        scaled_dot_product_attention(q, k, k, enable_gqa=True),
    )


def test_a_copy_of_a_switched_network_is_switched_and_keeps_its_own_weights(counted):
    one = layer()
    attention.put(one, "counted")
    other = copy.deepcopy(one)
    other.to_v.weight.data.zero_()
    assert isinstance(other, Attention) and not torch.equal(one(x()), other(x()))
    assert len(counted) == 2


def test_a_hook_that_replaces_forward_keeps_the_kernel(counted):
    """Offloading puts a function of its own in the place of a module's forward."""
    one = layer()
    former = one.forward
    one.forward = lambda *given, **named: former(*given, **named)
    with attention.used([one], "counted"):
        one(x())
    one.forward = former
    assert len(counted) == 1


def test_a_compiled_layer_uses_the_kernel():
    one, given = layer(), x()
    expected = one(given)
    with attention.used([one], "math"):
        torch.testing.assert_close(torch.compile(one, backend="eager")(given), expected)


def test_processors_that_write_attention_out_are_not_reached(counted):
    one = layer(AttnProcessor())
    with attention.used([one], "counted") as switches:
        one(x())
    assert not counted and not switches[0].calls


def test_a_network_without_attention_is_refused_unless_torch_is_asked_for():
    with pytest.raises(attention.AttentionError, match="Linear: it has no attention modules"):
        attention.put(torch.nn.Linear(1, 1), "math")
    assert attention.put(torch.nn.Linear(1, 1), "native") == []

"""The run's own network proves a kernel: a wrong, ignored or incomplete one is refused."""

import pytest
import torch

pytest.importorskip("diffusers", reason="needs vidrl[train]")

from vidrl import attention
from vidrl.attention import in_place
from vidrl.attention.reference import written_out
from vidrl.backbones._tiny import pipeline
from vidrl.backbones.wan import Wan
from vidrl.training.policy import Policy


def wan(**options) -> Wan:
    made = Wan(pipeline(), height=16, width=16, frames=5, text_length=16, **options)
    Policy(made, rank=2)
    return made


@pytest.fixture
def kernel():
    """Register a kernel of this function, and forget it afterwards."""

    def make(call, **facts):
        attention.register(attention.Kernel("fake", "a stand-in", call, **facts))

    yield make
    attention.KERNELS.pop("fake", None)


def proven(name="fake", **options):
    made = wan(attention=name, **options)
    made.ready()
    return made.attention_switch.proofs["attention"]


def test_a_right_kernel_is_proven_with_its_gradients(kernel):
    kernel(written_out)
    proof = proven()
    assert proof.output < 1e-6 and proof.gradient < 1e-6 and proof.ratio == 0
    assert proof.calls == {"kernel": 4}  # two blocks of self- and cross-attention


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda *a: 1.01 * written_out(*a), "its prediction is 0.00.* away"),
        (lambda *a: written_out(*a) * float("nan"), "its prediction is nan away"),
        (lambda *a: written_out(*a).detach(), "gives no gradient of .*lora_B"),
        (lambda q, *a: written_out(q.detach(), *a), "gives no gradient of .*to_q.lora_B"),
        (
            lambda q, k, v, *a: written_out(q, k, 2 * v - v.detach(), *a),
            "its gradient of the trained weights is 0.* away|gradient of the latents",
        ),
        (lambda q, *a: q.no_such_thing, "does not run in WanTransformer3DModel.*AttributeError"),
    ],
)
def test_a_wrong_kernel_is_refused_with_the_reason(kernel, call, message):
    kernel(call)
    with pytest.raises(attention.AttentionError, match=message):
        proven()


def test_a_kernel_that_differs_without_gradients_changes_the_ratio_and_is_refused(kernel):
    def call(q, k, v, *others):
        low = 1.0 if torch.is_grad_enabled() else 0.9
        return low * written_out(q, k, v, *others)

    kernel(call)
    with pytest.raises(attention.AttentionError, match="a ratio that is .* away from 1"):
        proven()


def test_half_precision_accepts_rounded_weights_and_refuses_more(kernel):
    from functools import partial

    kernel(partial(written_out, rounded=True))
    with torch.autocast("cpu", torch.bfloat16):
        proof = proven()
        assert 0 < proof.output <= proof.rounding < 4e-2
        kernel(lambda *a: 0.5 * written_out(*a))
        with pytest.raises(attention.AttentionError, match="is .* away from the formula's"):
            proven()


def test_a_half_precision_kernel_is_proven_where_autocast_mixes_types(kernel):
    """On CUDA the normalisation of query and key gives float32, and the value is bfloat16."""
    kernel(written_out, dtypes=(torch.bfloat16, torch.float16))
    made = wan(attention="fake")
    for block in made.network.blocks:
        for norm in (block.attn1.norm_q, block.attn1.norm_k):
            norm.register_forward_hook(lambda *given: given[-1].float())
    with pytest.raises(attention.AttentionError, match="got float32: set train.mixed_precision"):
        made.ready()
    with torch.autocast("cpu", torch.bfloat16):
        made.ready()
    assert made.attention_switch.proofs["attention"].calls == {"kernel": 4}


def test_a_kernel_that_takes_no_call_is_ignored_and_refused(kernel, monkeypatch):
    from vidrl.attention import switch

    monkeypatch.setattr(switch, "left_to_torch", lambda *given: "a mask")
    kernel(written_out, masks=False)
    with pytest.raises(attention.AttentionError, match="is ignored.*none of its calls .4 calls"):
        proven()


def test_processors_of_somebodys_own_are_named(kernel):
    class Fixed:
        def __call__(self, attn, hidden_states, *given, **named):
            return hidden_states

    kernel(written_out)
    made = wan(attention="fake")
    for block in made.network.blocks:
        block.attn1.processor = block.attn2.processor = Fixed()
    with pytest.raises(attention.AttentionError, match="ignored.*processors Fixed do not call"):
        made.ready()
    assert {type(b.attn1).__name__ for b in made.network.blocks} == {"WanAttention"}


def test_a_kernel_in_whose_place_torch_runs_another_is_refused(kernel):
    flash = attention.KERNELS["flash"]
    kernel(attention.KERNELS["math"].call, operator=flash.operator)
    with pytest.raises(attention.AttentionError, match="ignored.*torch ran its math kernel in its"):
        proven()
    assert proven("flash").calls == {"kernel": 4}


def test_flex_has_no_backward_pass_on_a_cpu():
    with pytest.raises(attention.AttentionError, match="'flex' does not run in Wan.*on cpu"):
        proven("flex")
    made = wan(attention="flex")
    with torch.no_grad():
        made.ready()  # sampling alone asks for no gradient
    assert made.attention_switch.proofs["attention"].gradient is None


def test_checkpointed_blocks_are_proven_too(kernel):
    kernel(written_out)
    assert proven(gradient_checkpointing=True).gradient < 1e-6


def test_a_long_prediction_is_compared_with_torchs_kernel(kernel, monkeypatch):
    monkeypatch.setitem(in_place.WRITTEN_OUT, "cpu", 1.0)
    kernel(written_out)
    assert proven().reference == "sdpa"


def test_the_ratio_of_two_predictions_by_hand():
    made = wan()
    trial = made._trial()
    raw = torch.zeros_like(trial.latents)
    assert in_place.ratio(trial, raw, raw) == 1
    # dance_sde: mean = (1 - s)(x - t raw) + keep (x + (1 - t) raw), keep = s - std² / 2t
    t, s = trial.times
    std = 0.3 * (t - s) ** 0.5
    slope = -(1 - s) * t + (s - std**2 / (2 * t)) * (1 - t)
    draw = torch.randn(raw.shape, generator=torch.Generator().manual_seed(2))
    gap = slope * 0.01
    expected = ((draw**2 - (draw - gap / std) ** 2) / 2).mean().exp()
    assert in_place.ratio(trial, raw, raw + 0.01) == pytest.approx(float(expected), rel=1e-4)

"""`auto` measures the kernels on the shapes of a prediction, and chooses the fastest that is right."""

import time

import pytest
import torch

pytest.importorskip("diffusers", reason="needs vidrl[train]")

from vidrl import attention
from vidrl.attention import measure
from vidrl.attention.reference import written_out
from vidrl.backbones._tiny import pipeline
from vidrl.backbones.wan import Wan

CPU = torch.device("cpu")


def wan(**options) -> Wan:
    return Wan(pipeline(), height=16, width=16, frames=5, text_length=16, **options)


@pytest.fixture
def kernel():
    made = []

    def make(name, call, **facts):
        attention.register(attention.Kernel(name, "a stand-in", call, **facts))
        made.append(name)

    yield make
    for name in made:
        del attention.KERNELS[name]


def test_the_shapes_are_those_of_a_prediction_of_the_runs_size():
    made = wan()
    shapes = attention.recorded(made.attention_switch.predict)
    found = {(shape.query, shape.key): count for shape, count in shapes.items()}
    tokens = 2 * 1 * 1 * 4  # two latent frames of 2 x 2 patches
    heads = (2, 12)
    own, text = (1, heads[0], tokens, heads[1]), (1, heads[0], 16, heads[1])
    assert found == {(own, own): 2, (own, text): 2}


def test_the_fastest_right_kernel_is_chosen_and_others_have_a_reason(kernel, monkeypatch):
    seconds = {"sdpa": 1.0, "quick": 0.5, "wrong": 0.1, "slow": 2.0, "close": 0.98}
    kernel("quick", written_out)
    kernel("wrong", lambda *given: 2 * written_out(*given))
    kernel("slow", written_out)
    kernel("close", written_out)
    kernel("blind", written_out, backward=False)
    kernel("absent", written_out, package="no_such_module", cure="pip install it")
    measured = measure.measured
    monkeypatch.setattr(
        measure,
        "measured",
        lambda k, *rest: (
            measure.Row(k.name, 0.1, seconds[k.name]) if k.name in seconds else measured(k, *rest)
        ),
    )
    made = wan()
    made.ready()
    shapes = attention.recorded(made.attention_switch.predict)
    names = ["slow", "sdpa", "wrong", "quick", "blind", "absent"]
    report = measure.fastest(shapes, [made._trial()], CPU, True, names)
    assert report.choice == "quick" and report.proof.kernel == "quick"
    rows = {row.kernel: row.reason for row in report.rows}
    assert rows["wrong"].startswith("refused: attention 'wrong' in WanTransformer3DModel: its pred")
    assert rows["blind"] == "it has no backward pass, and is for rollouts only"
    assert rows["absent"] == "the module no_such_module is not installed: pip install it"
    # a kernel must be 3 % faster than torch's choice
    report = measure.fastest(shapes, [made._trial()], CPU, True, ["close", "sdpa"])
    assert report.choice == "sdpa" and report.proof is None


def test_a_kernel_is_measured_forward_and_backward_with_masks(kernel):
    calls = []

    def call(q, k, v, mask, causal, scale):
        calls.append((q.dtype, mask.dtype, q.requires_grad))
        time.sleep(0.01)
        return written_out(q, k, v, mask)

    kernel("own", call)
    shape = measure.Shape(
        (1, 2, 5, 4), (1, 2, 7, 4), (torch.float32,) * 3, torch.bool, (1, 1, 1, 7)
    )
    row = measure.measured(attention.KERNELS["own"], {shape: 3}, CPU)
    assert row.forward >= 0.03 and row.both >= 0.03 and row.peak is None and not row.reason
    assert set(calls) == {(torch.float32, torch.bool, False), (torch.float32, torch.bool, True)}


def test_a_kernel_that_fails_has_its_error_as_the_reason(kernel):
    def call(*given):
        raise RuntimeError("head width 4 is not supported\nmore")

    kernel("own", call)
    shape = measure.Shape((1, 2, 5, 4), (1, 2, 7, 4), (torch.float32,) * 3, None)
    row = measure.measured(attention.KERNELS["own"], {shape: 1}, CPU)
    assert row.reason == "RuntimeError: head width 4 is not supported" and row.both is None


def test_auto_tries_all_kernels_of_this_machine_and_keeps_its_table():
    made = wan(attention="auto")
    made.ready()
    switch = made.attention_switch
    assert switch.choice in ("sdpa", "flash")
    table = switch.to_dict()
    assert table["wanted"] == "auto" and table["measured"]["shapes"][0]["calls"] == 2
    rows = {row["kernel"]: row for row in table["measured"]["rows"]}
    assert set(rows) == set(attention.KERNELS) - set(measure.LEFT_OUT)
    assert rows["sdpa"]["both"] > 0 and "not installed" in rows["flash3"]["reason"]

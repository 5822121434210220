"""Weights: which are trained, how named sets come and go, and what a saved adapter brings back."""

import pytest
import torch

from vidrl.backbones.toy import Toy
from vidrl.policy import Policy, load_adapter

pytest.importorskip("diffusers", reason="needs vidrl[train]")
from vidrl.backbones.wan import Wan

TARGETS = ("to_q", "to_v")


def full() -> Policy:
    return Policy(Toy(), full=True)


@pytest.fixture(scope="module")
def wan():
    return Wan.tiny


def inputs(backbone):
    x = backbone.noise([torch.Generator().manual_seed(i) for i in range(2)])
    return x, torch.full((2,), 0.5), backbone.encode(["a red circle", "still"])


def predicted(policy: Policy) -> torch.Tensor:
    with torch.no_grad():
        return policy.predict(*inputs(policy.backbone))


def shift(policy: Policy, by: float = 0.1) -> None:
    torch.manual_seed(1)
    for p in policy.weights.values():
        p.data += by * torch.randn_like(p)


# --- LoRA ------------------------------------------------------------------------------------------------------------


def test_a_new_lora_trains_alone_and_changes_nothing_yet(wan):
    plain = wan()
    with torch.no_grad():
        before = plain.predict(*inputs(plain))
    policy = Policy(plain, rank=4, alpha=4, targets=TARGETS)
    assert torch.equal(predicted(policy), before)
    assert policy.weights and all("lora_" in name for name in policy.weights)
    assert {p.shape[0] for n, p in policy.weights.items() if "lora_A" in n} == {4}
    trained = {name for name, p in plain.network.named_parameters() if p.requires_grad}
    assert trained == set(policy.weights)
    policy.predict(*inputs(plain)).square().mean().backward()
    assert all(p.grad is not None for p in policy.weights.values())
    shift(policy)
    assert not torch.allclose(predicted(policy), before)


def test_the_lora_of_a_bf16_network_is_float32(wan):
    backbone = wan()
    backbone.network.to(torch.bfloat16)
    policy = Policy(backbone, rank=2, targets=TARGETS)
    assert {p.dtype for p in policy.weights.values()} == {torch.float32}
    frozen = [p for name, p in backbone.network.named_parameters() if name not in policy.weights]
    assert torch.bfloat16 in {p.dtype for p in frozen}


def test_the_same_seed_gives_the_same_lora_and_leaves_the_global_generator_alone(wan):
    state = torch.get_rng_state()
    one, other = (Policy(wan(), rank=4, seed=s).checksum() for s in (3, 3))
    assert one == other != Policy(wan(), rank=4, seed=4).checksum()
    backbone, state = wan(), torch.get_rng_state()
    Policy(backbone, rank=4)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_saved_lora_comes_back_and_is_the_reference_of_a_run_that_starts_from_it(wan, tmp_path):
    policy = Policy(wan(), rank=4, alpha=8, targets=TARGETS)
    shift(policy)
    policy.save(tmp_path)
    again = load_adapter(wan(), tmp_path)
    assert set(again.weights) == set(policy.weights)
    assert torch.allclose(predicted(again), predicted(policy), atol=1e-5)
    shift(again, 0.3)
    assert not torch.allclose(predicted(again), predicted(policy), atol=1e-3)
    with again.using("reference"):
        assert torch.allclose(predicted(again), predicted(policy), atol=1e-5)


def test_all_weights_are_saved_and_come_back(tmp_path):
    policy = full()
    shift(policy)
    policy.save(tmp_path / "lora")
    assert load_adapter(Toy(), tmp_path / "lora").checksum() == policy.checksum()


# --- named sets ------------------------------------------------------------------------------------------------------


def test_the_reference_is_what_it_was_and_live_returns_even_after_an_error():
    policy = full()
    first, live = predicted(policy), policy.weights["out.bias"]
    shift(policy)
    moved = predicted(policy)
    with pytest.raises(KeyError, match="inner"), policy.using("reference"):
        assert torch.equal(predicted(policy), first)
        raise KeyError("inner")
    assert torch.equal(predicted(policy), moved) and policy.weights["out.bias"] is live
    with policy.using("live"):
        assert torch.equal(predicted(policy), moved)


def test_a_visit_to_the_reference_leaves_the_live_graph_whole():
    """As the KL term does: forward live, forward reference, then backward."""
    policy = full()
    shift(policy)
    x = inputs(policy.backbone)
    weights = list(policy.weights.values())
    expected = torch.autograd.grad(policy.predict(*x).square().sum(), weights)
    value = policy.predict(*x).square().sum()
    with policy.using("reference"), torch.no_grad():
        policy.predict(*x)
    assert all(torch.equal(a, b) for a, b in zip(expected, torch.autograd.grad(value, weights), strict=True))


def test_an_unknown_set_is_named_and_live_is_no_name():
    policy = full()
    with pytest.raises(KeyError, match="live, reference, got 'old'"), policy.using("old"):
        pass
    with pytest.raises(ValueError, match="other than live"):
        policy.remember("live")


def test_a_moving_average_by_hand():
    policy = full()
    policy.weights["out.bias"].data.fill_(1.0)
    policy.remember("ema", 0.9)  # new: starts at live
    policy.weights["out.bias"].data.fill_(2.0)
    policy.remember("ema", 0.9)
    with policy.using("ema"):
        assert policy.weights["out.bias"].tolist() == pytest.approx([1.1] * 3)
    policy.remember("ema")
    with policy.using("ema"):
        assert policy.weights["out.bias"].tolist() == [2.0] * 3


def test_a_state_brings_everything_back_in_place():
    policy = full()
    policy.remember("ema")
    shift(policy)
    state = {key: value.clone() for key, value in policy.state().items()}
    live, checksum = policy.weights["out.bias"], policy.checksum()
    shift(policy, 0.5)
    policy.remember("ema")
    policy.remember("old")
    policy.load_state(state)
    assert policy.checksum() == checksum and policy.weights["out.bias"] is live
    assert set(policy.sets) == {"reference", "ema"}  # what the state does not hold is forgotten
    assert all(torch.equal(value, state[key]) for key, value in policy.state().items())
    policy.remember("ema")
    assert not torch.equal(policy.state()["ema/out.bias"], state["ema/out.bias"])  # no memory is shared


def test_the_checksum_tells_the_last_bit():
    policy = full()
    before = policy.checksum()
    policy.weights["out.bias"].data[0] = torch.nextafter(policy.weights["out.bias"].data[0], torch.tensor(1.0))
    assert policy.checksum() != before


def test_restore_makes_a_set_live():
    policy = full()
    before = policy.checksum()
    shift(policy)
    policy.restore("reference")
    assert policy.checksum() == before
    shift(policy)
    policy.restore("reference")  # the set itself was not moved along
    assert policy.checksum() == before

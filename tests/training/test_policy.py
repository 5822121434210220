"""Weights: which are trained, how named sets come and go, and what a saved adapter brings
back."""

import pytest
import torch

from vidrl.backbones.toy import Toy
from vidrl.training.policy import Policy, load_adapter

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


# --- LoRA


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


def loud(wan, tmp_path, **options) -> Policy:
    """A LoRA that is far from zero, saved to tmp_path."""
    policy = Policy(wan(), rank=3, alpha=7, **options)
    shift(policy, 0.3)
    policy.save(tmp_path)
    return policy


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_a_lora_file_is_read_to_the_last_bit_whatever_the_networks_precision(wan, tmp_path, half):
    """bf16 has 8 bits of mantissa: rounding would be off by up to 2e-3 of a weight."""
    policy, backbone = loud(wan, tmp_path), wan()
    backbone.network.to(half)
    again = load_adapter(backbone, tmp_path)
    assert {p.dtype for p in again.weights.values()} == {torch.float32}
    assert all(torch.equal(p, policy.weights[name]) for name, p in again.weights.items())
    again.save(tmp_path / "again")
    assert load_adapter(wan(), tmp_path / "again").checksum() == policy.checksum()


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_all_weights_of_a_half_precision_network_predict_and_learn(half):
    """The weights are float32 and compute under autocast: near what the network itself
    predicts, in finer steps."""
    plain, backbone = (
        Wan(Wan.tiny().pipe, height=16, width=16, frames=5, text_length=16) for _ in range(2)
    )
    for one in (plain, backbone):
        one.network.to(getattr(torch, half))
        one._dtype = getattr(torch, half)
    policy = Policy(backbone, full=True)
    assert {p.dtype for p in policy.weights.values()} == {torch.float32}
    x = inputs(backbone)
    with torch.no_grad():
        expected = plain.predict(*x)
    assert (predicted(policy) - expected).norm() < 0.03 * expected.norm()
    policy.predict(*x).square().mean().backward()
    assert all(
        p.grad is not None and p.grad.dtype == torch.float32 for p in policy.weights.values()
    )
    weight = policy.weights["blocks.0.attn1.to_q.weight"]
    before = weight.detach().clone()
    weight.data += 1e-5  # half precision would lose it
    assert torch.allclose(weight - before, torch.tensor(1e-5), atol=1e-7)


def test_all_weights_are_read_to_the_last_bit_into_a_half_precision_network(wan, tmp_path):
    policy = Policy(wan(), full=True)
    shift(policy, 0.01)
    policy.save(tmp_path)
    backbone = wan()
    backbone.network.to(torch.bfloat16)
    again = load_adapter(backbone, tmp_path)
    assert again.checksum() == policy.checksum()
    with again.using("reference"):
        assert again.checksum() == policy.checksum()


@pytest.mark.parametrize("half", [None, torch.bfloat16])
def test_all_weights_start_from_the_lora_that_is_named(wan, tmp_path, half):
    """As peft's merge_and_unload: W + alpha / rank · B A, which is the reference too."""
    adapted = loud(wan, tmp_path, targets=TARGETS)
    backbone = wan()
    if half:
        backbone.network.to(half)
    base = {name: p.detach().float().clone() for name, p in backbone.network.named_parameters()}
    merged = Policy(backbone, lora=str(tmp_path), full=True)
    assert merged.weights.keys() == base.keys() and merged.lora is None
    for name, p in merged.weights.items():
        pair = [
            adapted.weights.get(name.replace("weight", f"lora_{part}.default.weight"))
            for part in "BA"
        ]
        expected = base[name] if pair[0] is None else base[name] + 7 / 3 * pair[0] @ pair[1]
        torch.testing.assert_close(p.detach(), expected.detach(), rtol=0, atol=1e-6)
        assert p.requires_grad and p.dtype == torch.float32
    assert torch.equal(merged.sets["reference"][0], next(iter(merged.weights.values())))
    if not half:
        assert torch.allclose(predicted(merged), predicted(adapted), atol=1e-5)


def test_a_lora_of_convolutions_and_of_a_part_of_the_modules_is_merged_as_it_computes(
    wan, tmp_path
):
    """patch_embedding is a 3D convolution of one pixel, which peft does not merge."""
    adapted = loud(wan, tmp_path, targets=["patch_embedding", "ffn", "blocks.0.attn1"])
    merged = Policy(wan(), lora=str(tmp_path), full=True)
    base = dict(wan().network.named_parameters())
    changed = {name for name, p in merged.weights.items() if not torch.equal(p, base[name])}
    assert (
        changed == {name.split(".lora_")[0] + ".weight" for name in adapted.weights}
        and len(changed) == 9
    )
    assert torch.allclose(predicted(merged), predicted(adapted), atol=1e-5)


def test_all_weights_go_on_from_all_weights(tmp_path):
    policy = full()
    shift(policy)
    policy.save(tmp_path)
    assert Policy(Toy(), lora=str(tmp_path), full=True).checksum() == policy.checksum()
    with pytest.raises(NotImplementedError, match="no adapter format"):
        Policy(Toy(), lora=str(tmp_path))


def test_weights_of_another_network_are_refused(wan, tmp_path):
    full().save(tmp_path)
    with pytest.raises(
        ValueError, match="expected the .* weights of the network .* differ by name or shape"
    ):
        load_adapter(wan(), tmp_path)
    with pytest.raises(ValueError, match="differ by name or shape, as"):
        load_adapter(Toy(width=4), tmp_path)
    broken = full()
    broken.weights["out.bias"].data[0] = torch.nan
    broken.save(tmp_path)
    with pytest.raises(ValueError, match="NaN or infinity in 1 tensors, as out.bias"):
        load_adapter(Toy(), tmp_path)


# --- named sets


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
    assert all(
        torch.equal(a, b)
        for a, b in zip(expected, torch.autograd.grad(value, weights), strict=True)
    )


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
    # no memory is shared
    assert not torch.equal(policy.state()["ema/out.bias"], state["ema/out.bias"])


def test_the_checksum_tells_the_last_bit():
    policy = full()
    before = policy.checksum()
    policy.weights["out.bias"].data[0] = torch.nextafter(
        policy.weights["out.bias"].data[0], torch.tensor(1.0)
    )
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

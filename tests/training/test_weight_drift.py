"""vidrl.training.weight_drift: against the matrices themselves, and as a number of each
round and a guard of a run."""

import math

import pytest
import torch
from torch import Tensor, nn
from toys import happened, recipe, rows, summary

from vidrl import config, lora
from vidrl.backbones import _tiny
from vidrl.backbones.toy import Toy
from vidrl.training import evaluate, loop
from vidrl.training.policy import Policy, load_adapter
from vidrl.training.weight_drift import weight_drift


def effective(policy: Policy) -> list[Tensor]:
    """W + s B A of each layer with a LoRA, by merging a copy of the network, as peft
    would."""
    from copy import deepcopy

    network = deepcopy(policy.backbone.network)
    names = [name for name, module in network.named_modules() if hasattr(module, "lora_A")]
    lora.merge(network)
    return [network.get_submodule(name).weight.detach().double() for name in names]


def norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(one.square().sum()) for one in tensors))


def shaken(policy: Policy, size: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for p in policy.weights.values():
        p.data += size * torch.randn(p.shape, generator=draw)


def adapted(**options) -> Policy:
    names = [
        name
        for name, module in Toy.tiny().network.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv3d))
    ]
    return Policy(Toy.tiny(), rank=3, alpha=6, targets=names, **options)


@pytest.mark.parametrize("size", [0.0, 1e-5, 0.3])
def test_the_drift_of_a_lora_is_that_of_the_merged_matrices(size: float) -> None:
    policy = adapted()
    before = effective(policy)
    shaken(policy, size, 1)
    after = effective(policy)
    by_hand = norm([a - b for a, b in zip(after, before, strict=True)]) / norm(before)
    assert weight_drift(policy) == pytest.approx(by_hand, rel=1e-3, abs=1e-9) and (by_hand > 0) == (
        size > 0
    )


def test_the_drift_of_a_lora_that_goes_on_counts_from_where_it_began(tmp_path) -> None:
    """The reference is the network with the LoRA that was loaded: neither its matrices
    alone nor the bare network."""
    policy = adapted()
    shaken(policy, 0.3, 1)
    policy.remember("reference")
    assert weight_drift(policy) == pytest.approx(0.0, abs=1e-7)
    before = effective(policy)
    shaken(policy, 0.1, 2)
    policy.remember("ema")
    after = effective(policy)
    by_hand = norm([a - b for a, b in zip(after, before, strict=True)]) / norm(before)
    assert weight_drift(policy) == weight_drift(policy, "ema") == pytest.approx(by_hand, rel=1e-5)
    assert weight_drift(policy, "reference") == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize(
    "kind, package, near",
    [("fp8", "", 0.01), ("int8", "torchao", 0.01), ("nf4", "bitsandbytes", 0.1)],
)
def test_the_drift_of_a_lora_on_quantised_weights(kind: str, package: str, near: float) -> None:
    """Weights in 4 bits are stored as a column of bytes, and int8 of torchao multiplies nothing."""
    if package:
        pytest.importorskip(package)
    wan = pytest.importorskip("vidrl.backbones.wan")
    size = {"height": 16, "width": 16, "frames": 5, "text_length": 16}
    drifts = []
    for quantization in ("none", kind):
        model = wan.Wan(_tiny.pipeline(), **size, quantization=quantization)
        policy = Policy(model, rank=2, alpha=2)
        shaken(policy, 0.3, 1)
        drifts.append(weight_drift(policy))
    assert drifts[1] == pytest.approx(drifts[0], rel=near) and drifts[0] > 0


def test_the_drift_of_all_weights_by_hand() -> None:
    policy = Policy(Toy.tiny(), full=True)
    whole = norm([p.detach().double() for p in policy.weights.values()])
    next(iter(policy.weights.values())).data.flatten()[0] += 0.25
    assert weight_drift(policy) == pytest.approx(0.25 / whole)


def test_a_run_logs_its_drift_and_evaluations_know_it(tmp_path) -> None:
    run = loop.run(recipe(tmp_path, train_rounds=3, train_eval_every=1))
    drifts = [row["weight_drift"] for row in rows(run)]
    assert 0 < drifts[0] < 1 and drifts == pytest.approx(
        [row["measures"]["weight_drift"]["mean"] for row in rows(run, "evals")][1:]
    )
    live, base = load_adapter(Toy(), run / "lora").weights, Policy(Toy(), full=True).weights
    by_hand = norm([(live[k] - base[k]).detach().double() for k in base])
    assert drifts[-1] == pytest.approx(
        by_hand / norm([p.detach().double() for p in base.values()]), rel=1e-6
    )
    assert rows(run, "evals")[0]["measures"]["weight_drift"]["mean"] == 0
    assert (
        "weight_drift" not in summary(run)["held_out"]
        and "weight drift" in (run / "report.html").read_text()
    )


def test_a_band_of_the_drift_is_of_the_drift_itself(tmp_path) -> None:
    free = loop.run(recipe(tmp_path / "free", train_rounds=4, train_eval_every=1))
    drifts = [row["weight_drift"] for row in rows(free)]
    assert drifts == sorted(drifts)
    guard = {"action": "stop", "bands": {"weight_drift": [0.0, (drifts[1] + drifts[2]) / 2]}}
    run = loop.run(recipe(tmp_path / "held", train_rounds=4, train_eval_every=1, guard=guard))
    told = [row for row in happened(run) if row["kind"] == "guard"]
    assert [row["round"] for row in told] == [
        3
    ] and "of the norm of the base model's weights" in told[0]["message"]
    assert told[0]["message"].endswith("left band") and summary(run)["status"] == "guard"
    assert summary(run)["held_out"]["weight_drift"]["after"] == pytest.approx(drifts[1])
    assert summary(run)["guards"]["weight_drift"]["verdict"] == "stays in band"


@pytest.mark.parametrize("band", ["weight_drfit", "motion"])
def test_a_band_of_what_no_evaluation_has_is_told_before_any_clip(
    tmp_path, monkeypatch, band: str
) -> None:
    made = recipe(
        tmp_path,
        guard={"bands": {band: [0.0, 1.0]}},
        reward={"parts": {"flicker": 1.0, "frame_quality": 1.0}},
    )
    monkeypatch.setattr(Toy, "predict", lambda *_: pytest.fail("a clip was made"))
    with pytest.raises(
        ValueError, match=f"guard.bands.{band}: expected a held-out measure: .*known: composite"
    ):
        loop.Trainer.from_recipe(config.load(made))


def test_the_names_known_before_are_those_that_are_measured(tmp_path) -> None:
    prompts = tmp_path / "captions.txt"
    from vidrl.synthetic import world

    prompts.write_text("\n".join(scene.caption for scene in world.scenes("held_out")[:5]) + "\n")
    made = loop.Trainer.from_recipe(
        config.load(
            recipe(
                tmp_path,
                reward={"parts": {"flicker": 1.0, "frame_quality": 1.0}},
                data_held_out=str(prompts),
            )
        )
    )
    measures, _, _ = made.held_out.measure(made.policy, "live", 8)
    assert (
        sorted(made.held_out.names()) == sorted(measures)
        and evaluate.values(measures)["weight_drift"] == 0
    )

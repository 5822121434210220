"""Rollouts by another kernel: densities of the update's kernel, a measured drift, one choice."""

import json
import os
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers", reason="needs vidrl[train]")

from groups import in_group
from toys import Brightness

from vidrl import attention, config
from vidrl.algorithms.grpo import GRPO
from vidrl.algorithms.nft import NFT
from vidrl.attention import measure
from vidrl.attention.reference import written_out
from vidrl.backbones._tiny import pipeline
from vidrl.backbones.wan import Wan
from vidrl.training import kernels
from vidrl.training.loop import Options, Trainer
from vidrl.training.policy import Policy
from vidrl.training.processes import Workers
from vidrl.training.rollout import Plan, draws, sample


def eight_bits(x):
    scale = x.abs().amax() / 127
    return (x / scale).round() * scale


@pytest.fixture(autouse=True)
def low():
    """A kernel of low precision without a backward pass, as sage; it counts its calls."""
    calls = []

    def call(q, k, v, mask, causal, scale):
        calls.append(torch.is_grad_enabled())
        # 0.8: an error that shows in a tiny network of random weights
        return written_out(eight_bits(q), eight_bits(k), 0.8 * v, mask, causal, scale).detach()

    attention.register(attention.Kernel("low", "a stand-in", call, backward=False))
    yield calls
    del attention.KERNELS["low"]


def wan(**options) -> Wan:
    return Wan(pipeline(), height=16, width=16, frames=5, fps=8.0, text_length=16, **options)


def trainer(folder: Path, rounds=1, algorithm=None, **options) -> Trainer:
    torch.manual_seed(0)
    return Trainer.from_objects(
        policy=Policy(wan(**options), rank=2),
        algorithm=algorithm or GRPO(steps=4, updates=1),
        reward=Brightness(),
        prompts=["a red circle", "a blue square"],
        held_out=["a green circle", "a green square"],
        folder=folder,
        options=Options(
            rounds=rounds, prompts_per_round=1, group=2, eval_every=9, eval_steps=2, show=0
        ),
    )


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_rollouts_use_their_kernel_and_the_ratio_is_1_with_the_updates(tmp_path, low):
    run = trainer(tmp_path / "run", rollout_attention="low").go()
    assert low and not any(low)  # sampled without gradients, and nothing else
    (row,) = rows(run)
    assert row["ratio"]["min"] == pytest.approx(1, abs=1e-5)
    assert row["ratio"]["max"] == pytest.approx(1, abs=1e-5)
    drift = row["rollout_drift"]
    assert 1e-6 < drift["mean"] <= drift["max"] < 0.5
    kept = json.loads((run / "attention.json").read_text())
    assert (kept["choice"], kept["rollout"]) == ("sdpa", "low")
    assert kept["proofs"]["rollout_attention"]["output"] > 1e-4
    events = (run / "events.jsonl").read_text()
    assert "rollouts use the attention kernel low and updates sdpa: old log-densities" in events


def test_an_algorithm_without_densities_has_no_drift_and_its_note_says_so(tmp_path, low):
    run = trainer(tmp_path / "run", algorithm=NFT(steps=3), rollout_attention="low").go()
    events = (run / "events.jsonl").read_text()
    assert "keeps no log-densities, so that rollout_drift is not measured" in events
    assert low and "rollout_drift" not in rows(run)[0]


def test_without_the_new_densities_the_ratio_would_not_be_1(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "densities_again", lambda policy, rollout: rollout)
    with pytest.raises(RuntimeError, match="expected ratio 1 before the first update"):
        trainer(tmp_path / "run", rollout_attention="low").go()


def test_held_out_clips_and_predictions_outside_rollouts_use_the_updates_kernel(low):
    made = wan(rollout_attention="low")
    plan = Plan(made.times(4), stochastic=(0,), keep=(0,))
    cond = made.encode(["a red circle"])
    sample(made, cond, draws(0, [("a",)]), plan)
    proof = len(low)
    sample(made, cond, draws(0, [("a",)]), plan)
    assert len(low) == proof  # the proof alone has called it
    with made.attention_switch.sampling(made.device):
        sample(made, cond, draws(0, [("a",)]), plan)
    assert len(low) > proof
    with pytest.raises(RuntimeError, match="inside"), made.attention_switch.sampling(made.device):
        raise RuntimeError("inside")
    used = len(low)
    sample(made, cond, draws(0, [("a",)]), plan)
    assert len(low) == used


def test_new_densities_by_the_same_kernel_are_the_old_ones():
    made = wan()
    plan = Plan(made.times(4), stochastic=(0, 1), keep=(0, 1, 2), segments=2, means=True)
    cond = made.encode(["a red circle", "a blue square"])
    drawn = sample(made, cond, draws(0, [("a",), ("b",)]), plan)
    again = kernels.densities_again(made, drawn)
    torch.testing.assert_close(again.log_density, drawn.log_density)
    torch.testing.assert_close(again.mean, drawn.mean)
    assert again.after is drawn.after and not again.log_density[:, 2].any()


def test_a_kernel_without_a_backward_pass_is_refused_for_the_update(tmp_path):
    with pytest.raises(attention.AttentionError, match="'low' is for inference.*rollout_attention"):
        trainer(tmp_path / "run", attention="low")


def test_a_rollout_kernel_that_computes_something_else_is_refused(tmp_path):
    attention.register(
        attention.Kernel("low", "zeros", lambda *given: -9 * written_out(*given), backward=False)
    )
    with pytest.raises(attention.AttentionError, match="expected at most 0.5"):
        trainer(tmp_path / "run", rollout_attention="low")


def test_one_kernel_measures_no_drift_and_writes_nothing(tmp_path):
    run = trainer(tmp_path / "run").go()
    assert "rollout_drift" not in rows(run)[0] and not (run / "attention.json").exists()


def test_a_resumed_run_keeps_what_auto_chose(tmp_path):
    run = trainer(tmp_path / "run", attention="auto").go()
    file = run / "attention.json"
    kept = json.loads(file.read_text())
    assert f"attention = 'auto' uses {kept['choice']}: " in (run / "events.jsonl").read_text()
    kept["choice"] = "math"  # as if another kernel had been the fastest on another day
    file.write_text(json.dumps(kept))
    resumed = trainer(tmp_path / "run", rounds=2, attention="auto")
    assert resumed.backbone.attention_switch.choice == "math"
    resumed.go(resume=True)
    again = json.loads(file.read_text())
    assert again["choice"] == "math" and again["measured"] == kept["measured"]
    assert again["proofs"]["attention"]["kernel"] == "math"


def on_rank_1(wrong):
    """The formula of attention, which one process of two computes in another way."""

    def call(*given):
        return wrong(*given) if os.environ.get("RANK") == "1" else written_out(*given)

    return call


def broken(*given):
    raise RuntimeError("out of luck")


@pytest.fixture
def candidates(monkeypatch):
    """Kernels that fail on process 1 alone, each at another point, and one that is right."""
    seconds = {"fails": 0.1, "wrong": 0.2, "absent": 0.3, "right": 0.5, "sdpa": 1.0}
    calls = {"fails": broken, "wrong": lambda *given: 2 * written_out(*given)}
    for name in ("fails", "wrong", "absent", "right"):
        call = on_rank_1(calls.get(name, written_out))
        attention.register(attention.Kernel(name, "a stand-in", call))

    def measured(kernel, *rest):
        second = os.environ.get("RANK") == "1"
        if kernel.name not in seconds or (kernel.name == "absent" and second):
            return measure.Row(kernel.name, reason="it is not here")
        # the clock of process 1 finds sdpa the fastest, and does not decide
        both = 0.01 if kernel.name == "sdpa" and second else seconds[kernel.name]
        return measure.Row(kernel.name, 0.1, both)

    monkeypatch.setattr(measure, "measured", measured)
    yield
    for name in ("fails", "wrong", "absent", "right"):
        del attention.KERNELS[name]


@pytest.mark.parametrize("shard", ["fsdp", "none"])
def test_all_processes_come_to_one_verdict_and_none_waits(tmp_path, candidates, shard):
    """With shared weights, a process that left a prediction would let the other one wait."""
    pytest.importorskip("accelerate")

    def body(rank: int) -> None:
        workers = Workers(parallel=config.Parallel(shard=shard, timeout=60.0))

        def made(wanted: str) -> Wan:
            backbone = wan(attention=wanted, gradient_checkpointing=True)
            policy = Policy(backbone, rank=2)
            if workers.sharded:
                policy.shard(workers.mesh())
            return backbone

        backbone = made("auto")
        with kernels.agreed(backbone, workers):
            backbone.ready()
        switch = backbone.attention_switch
        assert switch.choice == "right" and switch.proofs["attention"].kernel == "right"
        reasons = {row["kernel"]: row["reason"] for row in switch.measured["rows"]}
        by = "process 1: " if rank == 0 else ""
        assert reasons["fails"].startswith(f"refused: {by}attention 'fails' does not run")
        assert reasons["wrong"].startswith(f"refused: {by}attention 'wrong' in ")
        assert reasons["absent"] == "process 1: it is not here" and not reasons["right"]
        # the network works after the refusals, and with the same numbers
        with torch.no_grad():
            found = backbone.attention_switch.predict()
        both = workers.everywhere(found)
        assert torch.equal(both[:1], both[1:])
        named = made("fails")
        refused = pytest.raises(attention.AttentionError, match=f"^{by}attention 'fails' does not")
        with refused, kernels.agreed(named, workers):
            named.ready()

    assert in_group(tmp_path, body) == [0, 0], [p.read_text() for p in tmp_path.glob("error.*")]


def test_only_the_main_process_needs_the_file_of_an_earlier_start(tmp_path):
    """A process of another machine would measure alone, and wait for the others' numbers."""
    pytest.importorskip("accelerate")
    kept = {"wanted": "auto", "choice": "math", "measured": {"rows": []}}
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "attention.json").write_text(json.dumps(kept))

    def body(rank: int) -> None:
        made = trainer(tmp_path / str(rank), attention="auto")
        assert made.backbone.attention_switch.choice == "math"

    assert in_group(tmp_path, body) == [0, 0], [p.read_text() for p in tmp_path.glob("error.*")]

"""Processes that share the weights give the numbers of one process, and none waits for ever."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from groups import in_group, launched, trained
from test_processes import close, last_weights
from torch import nn
from toys import recipe, rows, timeless

from vidrl import config
from vidrl.algorithms.base import Batch
from vidrl.backbones.toy import Toy
from vidrl.recipe.recipe_text import BadRecipe
from vidrl.training import checkpoint, evaluate, loop, sharding
from vidrl.training.lockstep import Lockstep, labels
from vidrl.training.pieces import Pieces
from vidrl.training.policy import Policy
from vidrl.training.processes import Workers
from vidrl.training.rollout import Plan
from vidrl.training.weight_drift import weight_drift

FSDP = config.Parallel(shard="fsdp")


def errors(folder: Path) -> list[str]:
    return [path.read_text() for path in folder.glob("error.*")]


def wan(folder: Path, algorithm: dict, full: bool = False, **changes) -> dict:
    """Rounds of the small Wan model."""
    options = {"model": "assets/tiny-wan-32", "text_length": 24}
    return recipe(
        folder,
        backbone={"name": "wan", "options": options | changes.pop("options", {})},
        policy={"full": True} if full else {"lora_rank": 3},
        algorithm=algorithm,
        data_held_out_n=3,
        train_rounds=2,
        train_prompts_per_round=1,
        train_group=4,
        train_eval_steps=2,
        train_learning_rate=1e-3,
        **changes,
    )


def alike(one: Path, other: Path) -> None:
    """Two runs have equal curves and evaluations, 1e-5, and weights that moved alike, 1 %.

    Adam divides by the gradient's size, and so enlarges the rounding of gradients near 0:
    single weights of data parallel processes that share nothing differ from one process's by
    a fraction of a step as well.
    """
    for name in ("metrics", "evals"):
        for a, b in zip(rows(one, name), rows(other, name), strict=True):
            keys = ["measures"] if name == "evals" else timeless(a).keys()
            close({key: a[key] for key in keys}, {key: b[key] for key in keys}, 1e-5)
    own, found = last_weights(one), last_weights(other)
    assert own.keys() == found.keys()
    apart = moved = 0.0
    for name, value in own.items():
        apart += float((value - found[name]).square().sum())
        moved += float((value - own[f"reference/{name.partition('/')[2]}"]).square().sum())
    assert moved > 0 and apart**0.5 < 0.01 * moved**0.5


# --- without processes


def test_the_mesh_has_a_replica_a_machine_or_as_many_as_asked():
    assert sharding.mesh_shape("fsdp", 4, 2) == (4,)
    assert sharding.mesh_shape("hsdp", 16, 2) == (2, 8)
    assert sharding.mesh_shape("hsdp", 4, 1, 2) == (2, 2)
    with pytest.raises(ValueError, match="divisor of the 4 processes, got 3"):
        sharding.mesh_shape("hsdp", 4, 1, 3)


def test_one_process_cannot_share_and_replicas_are_of_hsdp(tmp_path):
    # an error that names the model would show that it was looked for
    absent = {"name": "wan", "options": {"model": "no/such/model"}}
    with pytest.raises(ValueError, match="expected several processes for 'fsdp', got one"):
        loop.run(recipe(tmp_path, parallel={"shard": "fsdp"}, backbone=absent))
    for section in ({"shard": "fsdp", "replicas": 2}, {"shard": "hsdp", "replicas": 1}):
        with pytest.raises(BadRecipe, match="parallel.replicas: expected 0, or 2 or more with"):
            config.build(recipe(tmp_path, parallel=section))
    with pytest.raises(BadRecipe, match="more than 0 seconds"):
        config.build(recipe(tmp_path, parallel={"timeout": 0}))


def test_blocks_are_those_that_diffusers_names():
    from vidrl.backbones.wan import Wan

    network = Wan.tiny().network
    assert [id(block) for block in sharding.blocks(network)] == list(map(id, network.blocks))
    assert sharding.roots(nn.ModuleDict({"a": network})) == [network]


@pytest.mark.parametrize("options", [{"quantization": "fp8"}, {"group_offload": True}])
def test_weights_that_are_quantised_or_offloaded_are_refused_before_a_model_is_read(
    tmp_path, options
):
    made = config.build(
        wan(tmp_path, {"name": "grpo"}, options=options, parallel={"shard": "fsdp"})
    )
    with pytest.raises(BadRecipe, match='parallel.shard: expected "none" with backbone.options'):
        evaluate.check_recipe(made)


def test_weights_of_one_byte_are_refused():
    network = nn.Linear(2, 2, bias=False).to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match="FSDP2 spreads no quantised weights"):
        sharding.shard(network, None)


def test_labels_group_the_rows_that_one_call_predicts():
    batch = Batch({"t": torch.tensor([0.9, 0.9, 0.4, 0.1])}, {}, ["a"] * 4, 0.25, Plan([1.0, 0.0]))
    toy = Toy()
    found = {}
    for kind in ("rows", "times", "time"):
        toy.calls_depend_on = kind
        found[kind] = labels(batch, toy).tolist()
    assert found["rows"] == [0, 0, 0, 0] and found["times"] == [0, 0, -1, -2]
    assert found["time"] == pytest.approx([0.9, 0.9, 0.4, 0.1])


def test_first_chunks_and_later_ones_have_labels_of_their_own():
    """They are separate calls of the network, so that a process with both would call it twice."""
    cond = {"follows": torch.tensor([0.0, 1.0, 1.0, 0.0])}
    batch = Batch({"t": torch.tensor([0.9, 0.9, 0.4, 0.1])}, cond, ["a"] * 4, 0.25, Plan([1, 0]))
    toy, later = Toy(), cond["follows"] > 0
    expected = {
        "rows": ([0, 0], [0, 0]),
        "times": ([0, -1], [0, -1]),
        "time": ([0.9, 0.1], [0.9, 0.4]),
    }
    for toy.calls_depend_on, (first, after) in expected.items():
        found = labels(batch, toy)
        assert found[~later].tolist() == pytest.approx(first)
        assert found[later].tolist() == pytest.approx([x - 1e6 for x in after], rel=1e-12)
        assert not set(found[later].tolist()) & set(found[~later].tolist())


# --- in two processes


def batch_of(values: list[float]) -> Batch:
    x = torch.tensor(values).view(-1, 1)
    return Batch({"x": x, "t": x[:, 0]}, {"text": x}, ["own"] * len(x), 0.1, Plan([1.0, 0.0]))


def test_micro_batches_are_alike_on_every_process_and_each_row_counts_once(tmp_path):
    """Process 0 has three rows and process 1 one, then none."""
    cases = {
        ("rows", 2): [[3, 2, 1], [3]],
        ("times", 2): [[3, 3, 1], [2]],
        ("time", 2): [[3, 3, 1], [2]],
        ("time", 1): [[], [2, 2]],
        ("rows", 4): [[], []],
    }

    def body(rank: int) -> None:
        workers = Workers(parallel=FSDP)
        policy = Policy(Toy(), full=True)
        for (kind, size), values in cases.items():
            policy.backbone.calls_depend_on = kind
            batch = batch_of([float(value) for value in values[rank]])
            found = Lockstep(workers, policy).micro_batches(batch, size, ["first"])
            shapes = torch.tensor([[len(micro.batch)] for micro in found])
            both = workers.all(shapes.view(-1, 1)).view(2, -1)
            assert torch.equal(both[0], both[1]), (kind, both)
            mine = [micro.batch["x"].flatten().tolist() for micro in found if micro.counts]
            assert sum(mine, []) == sorted(map(float, values[rank]), reverse=True)
            for micro in found:
                assert 0 < len(micro.batch) <= size and torch.equal(
                    micro.batch["x"], micro.batch.cond["text"]
                )
            if kind == "time":
                times = [micro.batch["t"] for micro in found]
                assert all(len(set(t.tolist())) == 1 for t in times)
                all_times = workers.all(torch.stack([t[0] for t in times])).view(2, -1)
                assert torch.equal(all_times[0], all_times[1])

    assert in_group(tmp_path, body) == [0, 0], errors(tmp_path)


def test_named_sets_checkpoints_and_memory_of_shared_weights(tmp_path):
    """What one process does to a policy, two that share its weights do as well."""

    def body(rank: int) -> None:
        workers, alone = Workers(parallel=FSDP), Policy(Toy(), full=True)
        policy = Policy(Toy(), full=True)
        policy.shard(workers.mesh())
        with torch.no_grad():
            for own in (alone, policy):
                own.remember("ema")
                for p in own.weights.values():
                    sharding.local(p).mul_(1.5)
                own.remember("ema", 0.9)
        held = sum(sharding.local(p).numel() for p in policy.weights.values())
        every = sum(p.numel() for p in alone.weights.values())
        # half of the rows each; the last layer has three outputs, which two does not divide
        assert abs(held - every / 2) < 300
        assert policy.checksum() == alone.checksum()
        assert weight_drift(policy) == pytest.approx(0.5, abs=1e-6)
        cond = policy.backbone.encode(["a cat", "a dog"])
        x = policy.backbone.noise([torch.Generator().manual_seed(i) for i in range(2)])
        t = torch.tensor([0.5, 0.7])
        for name in ("live", "reference", "ema", "live"):
            with torch.no_grad(), policy.using(name), alone.using(name):
                both = policy.predict(x, t, cond), alone.predict(x, t, cond)
            assert torch.allclose(*both, atol=1e-6), name
        state, expected = policy.state(), alone.state()
        if rank == 0:
            assert all(torch.allclose(state[k], v, atol=1e-6) for k, v in expected.items())
        policy.restore("reference")
        assert sharding.equal(zip(policy.sets["reference"], policy.weights.values(), strict=True))
        policy.load_state(expected)
        assert policy.checksum() == alone.checksum() and policy.sets.keys() == alone.sets.keys()
        # memory runs out on process 1 alone: both halve, and work once more
        pieces, tried = Pieces(8), []
        pieces.together = Lockstep(workers, policy).failed

        def work(size: int) -> int:
            with torch.no_grad():
                policy.predict(x, t, cond)
            tried.append(size)
            if rank and size > 4:
                raise torch.OutOfMemoryError("full")
            return size

        assert pieces.attempt(8, work) == 4 and tried == [8, 4] and pieces.size == 4

    assert in_group(tmp_path, body) == [0, 0], errors(tmp_path)


def test_a_round_of_two_processes_that_share_the_weights_is_that_of_one(tmp_path):
    """A LoRA on Wan, where micro-batches of three rows leave process 1 fewer than process 0."""
    algorithm = {"name": "grpo", "options": {"steps": 3, "segments": 2, "eta": 0.5, "beta": 0.1}}
    changes = {"train_ema": 0.5, "train_checkpoint_every": 1}
    one = loop.run(wan(tmp_path / "one", algorithm, **changes))
    shared = wan(tmp_path / "two", algorithm, parallel={"shard": "fsdp"}, **changes)
    two = trained(shared)
    alike(one, two)
    own, found = (
        (run / "lora" / "pytorch_lora_weights.safetensors").stat().st_size for run in (one, two)
    )
    assert own == found


# --- slow: other algorithms, all weights, four processes


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, full, options",
    [
        ("nft", False, {}),
        ("grpo", True, {"gradient_checkpointing": True}),
        ("nft", True, {}),
    ],
)
def test_each_kind_of_training_gives_the_numbers_of_one_process(tmp_path, name, full, options):
    algorithm = {"name": name, "options": {"steps": 3}}
    made = [wan(tmp_path / one, algorithm, full, options=dict(options)) for one in ("one", "two")]
    made[1]["parallel"] = {"shard": "fsdp"}
    alike(loop.run(made[0]), trained(made[1]))


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["fsdp", "hsdp"])
def test_four_processes_give_the_numbers_of_one(tmp_path, shard):
    algorithm = {"name": "nft", "options": {"steps": 3}}
    parallel = {"shard": shard} | ({"replicas": 2} if shard == "hsdp" else {})
    changes = {"data_held_out_n": 5}
    one = loop.run(recipe(tmp_path / "one", algorithm=algorithm, train_rounds=2, **changes))
    made = recipe(tmp_path / "four", algorithm=algorithm, train_rounds=2, **changes)
    alike(one, trained(made | {"parallel": parallel}, n=4))


@pytest.mark.slow
def test_a_run_saved_by_two_goes_on_by_one_and_by_four(tmp_path):
    """The checkpoint holds whole tensors, so that any number of processes reads it."""
    whole = loop.run(recipe(tmp_path / "whole", train_rounds=4, train_ema=0.9))
    for n in (1, 4):
        made = recipe(tmp_path / str(n), train_rounds=2, train_ema=0.9)
        trained(made | {"parallel": {"shard": "fsdp"}})
        assert checkpoint.load(made["run"])["round"] == 2
        made["train"]["rounds"] = 4
        if n == 1:
            loop.run(made, resume=True)
        else:
            trained(made | {"parallel": {"shard": "hsdp", "replicas": 2}}, resume=True, n=4)
        alike(whole, Path(made["run"]))
        said = [row["message"] for row in rows(made["run"], "events") if row["kind"] == "change"]
        assert any(f"processes: 2 -> {n}" in message for message in said)


@pytest.mark.slow
def test_a_killed_process_ends_the_other_with_the_reason(tmp_path):
    made = recipe(
        tmp_path,
        reward={"name": "toys:Slow", "options": {"seconds": 0.2}},
        parallel={"shard": "fsdp"},
        train_rounds=100,
    )
    with launched(made) as child:
        while len(rows(made["run"])) < 1:
            assert child.poll() is None, child.stdout.read()
            time.sleep(0.05)
        found = subprocess.run(["ps", "--ppid", str(child.pid), "-o", "pid="], capture_output=True)
        victim = max(map(int, found.stdout.split()))
        os.kill(victim, signal.SIGKILL)
        start = time.monotonic()
        said = child.communicate(timeout=60)[0]
    assert time.monotonic() - start < 30
    assert child.returncode and "of 2 was killed by SIGKILL" in said, said

"""A round's samples wait where they are wanted, with each prompt's condition once."""

import pytest
import torch
from toys import recipe, weights

from vidrl.algorithms.base import Batch
from vidrl.backbones.base import PromptCache, SharedCond, on, rows
from vidrl.backbones.toy import Toy
from vidrl.training import loop
from vidrl.training.rollout import Level, Plan, decoded_pieces, draws, sample
from vidrl.training.update import Updater

CPU = torch.device("cpu")
PLAN = {"times": [1.0, 0.6, 0.3, 0.0], "stochastic": (0, 1), "keep": (0, 1), "means": True}


def test_the_conditions_of_a_group_are_those_of_its_prompt() -> None:
    cache = PromptCache(Toy())
    prompts = ["a cat", "a dog", "a cat", "a cat"]
    shared = cache.shared(prompts, CPU)
    assert len(shared.table["text"]) == 2
    assert torch.equal(shared["text"], cache(prompts)["text"])
    part = rows(shared, torch.tensor([3, 1]))
    assert isinstance(part, SharedCond) and part.table is shared.table
    assert torch.equal(on(part, CPU)["text"], cache(["a cat", "a dog"])["text"])


@pytest.mark.parametrize("forks", [(), ((0, 0),)])
def test_all_that_a_rollout_keeps_goes_where_it_is_wanted(forks: tuple) -> None:
    """The device "meta" stands for another one: nothing can be computed with its tensors."""
    toy, noise = Toy(), draws(0, [("a",), ("b",)])
    above = [Level([0, 0], draws(0, [("root",)]))] if forks else []
    cond = PromptCache(toy).shared(["a cat", "a cat"], CPU)
    made = sample(toy, cond, noise, Plan(**PLAN, forks=forks), above, torch.device("meta"))
    kept = made.latents, made.before, made.after, made.log_density, made.mean
    assert {value.device.type for value in kept} == {"meta"}
    assert made.before.shape == (2, 2, *toy.shape) and made.cond is cond


def test_latents_in_another_place_are_moved_piece_by_piece(monkeypatch) -> None:
    toy, moved = Toy(), []
    latents = toy.noise(draws(0, [("a",), ("b",), ("c",)]))
    real = torch.Tensor.to

    def to(tensor, device, *rest):
        moved.append(tuple(tensor.shape)) if isinstance(device, torch.device) else None
        return real(tensor, device, *rest)

    monkeypatch.setattr(torch.Tensor, "to", to)
    cond = PromptCache(toy).shared(["a cat"] * 3, CPU)
    moved.clear()
    found = list(decoded_pieces(toy, latents, ["a cat"] * 3, cond, 2))
    assert [len(samples) for samples in found] == [2, 1]
    assert [shape for shape in moved if shape[1:] == toy.shape] == [
        (2, *toy.shape),
        (1, *toy.shape),
    ]


@pytest.mark.parametrize("algorithm", ["grpo", "nft", "dpo", "d3po"])
def test_the_update_moves_one_micro_batch_at_a_time(tmp_path, monkeypatch, algorithm) -> None:
    """The loss sees plain conditions of the micro-batch; the rollout has each prompt's once."""
    sizes, tables = [], []
    real, real_update = Batch.to, Updater.update

    def to(batch, device):
        assert isinstance(batch.cond, SharedCond)
        sizes.append(len(batch))
        found = real(batch, device)
        assert type(found.cond) is dict and len(found.cond["text"]) == len(batch)
        return found

    def update(updater, experience, *rest):
        tables.append(len(experience.rollout.cond.table["text"]))
        return real_update(updater, experience, *rest)

    monkeypatch.setattr(Batch, "to", to)
    monkeypatch.setattr(Updater, "update", update)
    values = recipe(tmp_path, train_micro_batch=2, train_rounds=1)
    values["algorithm"] = {"name": algorithm}
    loop.run(values)
    assert tables == [values["train"]["prompts_per_round"]]
    assert sizes and max(sizes) <= 2


def test_where_a_rounds_samples_wait_changes_no_weight(tmp_path) -> None:
    for name, on_cpu in (("host", True), ("device", False)):
        loop.run(recipe(tmp_path / name, train_rollouts_on_cpu=on_cpu, train_rounds=2))
    assert weights(tmp_path / "host" / "run") == weights(tmp_path / "device" / "run")

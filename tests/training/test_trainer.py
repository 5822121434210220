"""The trainer, driven by Python objects without a recipe."""

from pathlib import Path

import pytest
import torch
from toys import PROMPTS, Brightness, recipe, rows, summary, weights

from vidrl import config
from vidrl.algorithms.base import Algorithm
from vidrl.algorithms.grpo import GRPO
from vidrl.algorithms.sft import SFT
from vidrl.backbones.toy import Toy
from vidrl.report import run_report
from vidrl.training import checkpoint, loop
from vidrl.training.assembly import Options
from vidrl.training.checkpoint import RunFolderError
from vidrl.training.loop import Trainer
from vidrl.training.policy import Policy

GIVEN = {  # what `toys.recipe` says in [train]
    "prompts_per_round": 2,
    "group": 4,
    "eval_every": 2,
    "eval_steps": 3,
    "checkpoint_every": 2,
    "learning_rate": 1e-2,
    "show": 1,
}


class Mine(Toy):
    """A denoiser that the package does not know."""


def trainer(folder: Path, rounds: int = 3, **changes) -> Trainer:
    objects = {
        "policy": Policy(Mine(), full=True),
        "algorithm": GRPO(steps=4, segments=3, eta=0.5),
        "reward": Brightness(),
        "prompts": PROMPTS,
        "held_out": PROMPTS,
        "folder": folder,
        "options": Options(rounds=rounds, **GIVEN),
    }
    return Trainer.from_objects(**(objects | changes))


def test_three_rounds_of_objects_are_those_of_the_recipe_that_says_the_same(tmp_path):
    by_recipe = loop.run(recipe(tmp_path, train_rounds=3))
    by_objects = trainer(tmp_path / "objects").go()
    assert weights(by_objects) == weights(by_recipe)
    ours, theirs = rows(by_objects, "evals"), rows(by_recipe, "evals")
    assert ours == theirs and len(rows(by_objects)) == 3


def test_a_run_of_objects_resumes_to_the_same_weights(tmp_path):
    whole = trainer(tmp_path / "whole", rounds=4).go()
    trainer(tmp_path / "cut", rounds=2).go()
    with pytest.raises(RunFolderError, match="holds this run already"):
        trainer(tmp_path / "cut", rounds=4).go()
    resumed = trainer(tmp_path / "cut", rounds=4).go(resume=True)
    assert weights(resumed) == weights(whole)
    assert checkpoint.load(resumed)["round"] == 4


def test_other_prompts_or_another_algorithm_are_another_run(tmp_path):
    trainer(tmp_path, rounds=2).go()
    with pytest.raises(RunFolderError, match="data.prompts: 5 prompts -> 2 prompts"):
        trainer(tmp_path, rounds=3, prompts=PROMPTS[:2]).go(resume=True)
    with pytest.raises(RunFolderError, match="algorithm.options.eta: 0.5 -> 0.25"):
        trainer(tmp_path, rounds=3, algorithm=GRPO(steps=4, segments=3, eta=0.25)).go(resume=True)


def test_the_folder_names_the_objects_and_has_a_page(tmp_path):
    run = trainer(tmp_path).go()
    recorded = config.load(run / "config.toml", files=False)
    assert recorded.backbone.name == "test_trainer:Mine"
    assert recorded.algorithm.options["eta"] == 0.5 and recorded.train.rounds == 3
    assert (run / "prompts.txt").read_text().split() == (run / "held_out.txt").read_text().split()
    assert "composite" in run_report.table(run) and summary(run)["status"] == "finished"


def test_a_plain_function_is_a_reward_and_a_callback_is_called(tmp_path):
    seen = []

    def light(samples):
        return samples.frames.mean((1, 2, 3, 4))

    def callback(round, policy, weights, workers, ends):
        seen.append((round, weights, ends))

    options = Options(**(GIVEN | {"rounds": 2}), ema=0.5, seed=1)
    run = trainer(
        tmp_path, reward=light, callback=callback, options=options, algorithm=GRPO(steps=4)
    ).go()
    assert seen == [(0, "ema", False), (1, "ema", False), (2, "ema", True)]
    assert rows(run)[-1]["reward"]["mean"] > 0


def test_an_algorithm_of_ones_own_is_driven(tmp_path):
    class Gentle(GRPO):
        """GRPO with a tenth of the loss."""

        def loss(self, policy, batch):
            loss = super().loss(policy, batch)
            return type(loss)(loss.value / 10, loss.metrics)

    assert issubclass(Gentle, Algorithm)
    run = trainer(tmp_path, rounds=1, algorithm=Gentle(steps=4, segments=3, eta=0.5)).go()
    assert rows(run)[0]["grad_norm"] > 0


def test_guards_hold_objects_too(tmp_path):
    guard = config.Guard(bands={"weight_drift": (0.0, 1e-9)})
    run = trainer(tmp_path, options=Options(rounds=4, guard=guard, **GIVEN)).go()
    assert summary(run)["status"] == "guard"


def test_what_cannot_be_trained_without_a_recipe_is_refused(tmp_path):
    with pytest.raises(ValueError, match="learns from clips of files needs a recipe"):
        trainer(tmp_path, algorithm=SFT())
    with pytest.raises(ValueError, match="at least one prompt"):
        trainer(tmp_path, prompts=[])
    with pytest.raises(config.BadRecipe, match="train.group: expected at least 1, got 0"):
        trainer(tmp_path, options=Options(group=0))
    assert not (tmp_path / "config.toml").exists()


def test_a_policy_moves_with_its_named_weights():
    policy = Policy(Toy(), full=True)
    policy.remember("old")
    assert policy.to("cpu") is policy and set(policy.sets) == {"reference", "old"}
    assert all(torch.is_tensor(value) for value in policy.sets["old"])


def test_the_former_names_still_work(tmp_path):
    from vidrl import train

    seen = []
    made = config.load(recipe(tmp_path / "a", train_rounds=2))
    assert train.run(made, look=lambda *given: seen.append(given[0])) and seen == [0, 1, 2]
    other = config.load(recipe(tmp_path / "b", train_rounds=2))
    assert isinstance(train.Trainer(other, lambda *given: None), loop.Trainer)

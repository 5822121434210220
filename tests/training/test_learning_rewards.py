"""A reward that learns beside the policy: when it does, exact resumption, and what is refused."""

import json

import pytest
import torch
from toys import recipe, rows

from vidrl import config
from vidrl.report.run_folder import read
from vidrl.rewards import Reward, Samples
from vidrl.training import loop


class Learner(Reward):
    """Nearness of the mean light to what the last refresh saw, shifted by the rounds."""

    learns = True

    def __init__(self) -> None:
        super().__init__()
        self.level, self.seen = 0.0, list[int]()

    def terms(self, samples: Samples):
        return -(samples.frames.mean((2, 3, 4)) - self.level - 0.1).abs()

    def check_learns(self) -> None:
        pass

    def refresh(self, samples: Samples, round: int) -> dict[str, float]:
        self.level = float(samples.frames.double().mean())
        self.seen.append(round)
        return {"level": self.level}

    def state(self):
        return {"level": self.level, "seen": self.seen}

    def load_state(self, state) -> None:
        self.level, self.seen = state["level"], list(state["seen"])

    def save(self, path) -> None:
        path.write_text(json.dumps(self.state()))


def made(folder, **more):
    return recipe(
        folder, reward={"name": "test_learning_rewards:Learner"}, train_checkpoint_every=1, **more
    )


def test_it_learns_before_the_first_evaluation_and_after_each_round(tmp_path):
    trainer = loop.Trainer.from_recipe(config.load(made(tmp_path, train_rounds=2)))
    run = trainer.go()
    assert trainer.reward.seen == [0, 0, 1]
    assert all(row["learning_rewards"]["learner"]["level"] > 0 for row in rows(run))
    assert (run / "rewards" / "learner.safetensors").is_file()
    notes = [row["message"] for row in read(run).events if row["kind"] == "note"]
    assert any("learner learns during the run" in note for note in notes)


def test_a_resumed_run_ends_as_one_that_was_never_interrupted(tmp_path):
    whole = loop.Trainer.from_recipe(config.load(made(tmp_path / "a", train_rounds=3)))
    whole.go()
    recipe = made(tmp_path / "b", train_rounds=3)
    first = loop.Trainer.from_recipe(config.load(recipe))
    kept = first.between.run

    def stopping():
        kept()
        if first.state.round == 1:
            first.state.stop = "interrupted"

    first.between.run = stopping
    first.go()
    again = loop.Trainer.from_recipe(config.load(recipe))
    again.go(resume=True)
    assert again.reward.state() == whole.reward.state()
    for key, value in whole.policy.weights.items():
        assert torch.equal(value, again.policy.weights[key])


def test_processes_that_would_learn_apart_are_refused(tmp_path):
    reward = {"name": "test_learning_rewards:Learner", "workers": 1}
    with pytest.raises(ValueError, match="expected one process without reward.workers for learner"):
        loop.Trainer.from_recipe(config.load(recipe(tmp_path, reward=reward)))
    with pytest.raises(ValueError, match="got none: set its option real"):
        loop.Trainer.from_recipe(
            config.load(recipe(tmp_path / "x", reward={"name": "discriminator"}))
        )

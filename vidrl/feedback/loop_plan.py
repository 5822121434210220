"""Say which step of a loop label → fit → train comes next, from the files of its folder.

The folder OUT of a loop holds recipe.toml, prompts.txt, loop.json, the store taste.db, and, for
round k = 1, 2, …:

- clips/0, clips/1, …: the clips of the base model, and of the policy after each round, of the same
  prompts and the same noise;
- rewards/k: the reward that `vidrl fit` fitted to all answers so far;
- runs/k: the run that trains on this reward, from the policy of the round before.

Round 1 asks about pairs of clips/0. Each later round k asks about pairs of a clip of clips/k−2 and
a clip of clips/k−1, so that people say whether the training helped, and the next fit sees clips
of the policy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidrl import config
from vidrl.feedback.store import Answer, Store
from vidrl.lookup.grammar import counted
from vidrl.rewards._files import manifests
from vidrl.rewards._files.atomic_file import write_bytes
from vidrl.training import checkpoint

REWARD = "fitted"
LEAST = 20  # answers of a round: `vidrl fit` refuses fewer


class LoopError(ValueError):
    """A loop that cannot begin or go on."""


@dataclass(frozen=True)
class Plan:
    """What a loop does.

    - `out`: its folder; `rounds`: how often it labels, fits and trains.
    - `count`: answers of a round, of all raters together; `samples`: clips of each prompt.
    - `unfamiliar`: by how much the share of clips outside those of the labels may rise by the
      training; above, further labels are asked for.
    - `features`: those of `vidrl fit`.
    """

    out: Path
    rounds: int = 2
    count: int = 60
    samples: int = 3
    unfamiliar: float = 0.05
    features: str = "rewards,picture"
    seed: int = 0

    @property
    def recipe(self) -> Path:
        """Return the recipe, with the overrides of the command that began the loop."""
        return self.out / "recipe.toml"

    @property
    def prompts(self) -> Path:
        """Return the file of the prompts of the clips that are judged."""
        return next(iter(sorted(self.out.glob("prompts.*"))), self.out / "prompts.txt")

    @property
    def store(self) -> Path:
        """Return the store of all answers."""
        return self.out / "taste.db"

    def clips(self, number: int) -> Path:
        """Return the folder of the clips of the policy after a round, 0 for the base model."""
        return self.out / "clips" / str(number)

    def reward(self, number: int) -> Path:
        """Return the folder of the reward of a round."""
        return self.out / "rewards" / str(number)

    def run(self, number: int) -> Path:
        """Return the run folder of a round."""
        return self.out / "runs" / str(number)

    def judged(self, number: int) -> list[Path]:
        """Return the folders whose clips are compared in a round."""
        first = max(number - 2, 0)
        return [self.clips(n) for n in range(first, number)]


@dataclass(frozen=True)
class Step:
    """One step: its name, its round, the words of the vidrl command that does it, and why."""

    name: str  # sample, label, fit, train, measure
    number: int
    words: tuple[str, ...] = ()
    why: str = ""


def model_key(recipe: config.Recipe) -> str:
    """Return the key of the recipe that names the folder of the fitted reward.

    Raises LoopError where neither the reward nor a part of it is `fitted`.

    >>> model_key(config.build({"run": "x", "reward": {"name": "fitted"}}, files=False))
    'reward.options.model'
    """
    if recipe.reward.name == REWARD:
        return "reward.options.model"
    if REWARD in recipe.reward.parts:
        return f"reward.parts.{REWARD}.options.model"
    raise LoopError(
        "expected a recipe whose reward is `fitted`, which the loop fits to the answers, got "
        f"{recipe.reward.name or 'a composite without this part'}: use "
        "scripts/recipes/tiny_taste.toml, or add reward.name=fitted"
    )


def next_step(plan: Plan, rounds: Mapping[int, Mapping[str, Any]]) -> Step | None:
    """Return the first step that is not done; None where the loop is at its end.

    `rounds` holds what was measured after each round, by its number.
    """
    if not _sampled(plan, 0):
        return Step("sample", 0, _sample_words(plan, 0), "clips of the base model")
    for number in range(1, plan.rounds + 1):
        step = _step_of_round(plan, number, number in rounds)
        if step is not None:
            return step
        if not asks_again(plan, rounds[number]):
            return None
    return None


def asks_again(plan: Plan, measured: Mapping[str, Any]) -> bool:
    """Return whether the policy has left the clips of the labels, so that labels are asked for."""
    rise = float(measured["unfamiliar_after"]) - float(measured["unfamiliar_before"])
    return rise > plan.unfamiliar + 1e-9


def _step_of_round(plan: Plan, number: int, measured: bool) -> Step | None:
    """Return the first step of a round that is not done."""
    status = checkpoint.status(plan.run(number))
    answers = answered(plan, number)
    if status == "new" and answers < plan.count:
        why = f"{counted(plan.count - answers, 'answers are')} missing of {plan.count}"
        return Step("label", number, _label_words(plan, number), why)
    if status == "new" and not is_fitted(plan, number):
        return Step("fit", number, _fit_words(plan, number), "all answers so far")
    if status != "finished":
        return Step("train", number, _train_words(plan, number), "on the fitted reward")
    if not _sampled(plan, number):
        return Step("sample", number, _sample_words(plan, number), "clips of the trained policy")
    return None if measured else Step("measure", number)


# --- the words of the commands


def _sample_words(plan: Plan, number: int) -> tuple[str, ...]:
    source = ["--run", str(plan.run(number))] if number else ["--recipe", str(plan.recipe)]
    clips = ["--samples", str(plan.samples), "--seed", str(plan.seed)]
    prompts = ["--prompts", str(plan.prompts)]
    out = ["--out", str(plan.clips(number)), "--overwrite"]  # of a call that was killed
    return ("sample", *source, *prompts, *clips, *out)


def _label_words(plan: Plan, number: int) -> tuple[str, ...]:
    folders = map(str, plan.judged(number))
    most = str(plan.count + plan.count // 4 + 5)  # of one rater, pairs shown again with them
    goal = ("--count", most, "--until", str(plan.count))
    # a reward of the round before says which pairs it is unsure about
    unsure = ("--reward", str(plan.reward(number - 1))) if number > 1 else ()
    return ("label", *folders, "--store", str(plan.store), *goal, *unsure)


def _fit_words(plan: Plan, number: int) -> tuple[str, ...]:
    features = ("--features", plan.features)
    return ("fit", str(plan.store), "--out", str(plan.reward(number)), *features)


def _train_words(plan: Plan, number: int) -> tuple[str, ...]:
    recipe = config.load(plan.recipe, files=False)
    values = [f"run={plan.run(number)}", f"{model_key(recipe)}={plan.reward(number)}"]
    if number > 1:
        values.append(f"policy.lora={plan.run(number - 1) / 'lora'}")
    return ("train", str(plan.recipe), *values, "--resume")


# --- what is done


def doubt(plan: Plan, number: int) -> str:
    """Return why the reward of a round may follow noise; "" where it agrees better than chance.

    The reward must agree with more than half of the held-out choices, with the whole 95 % interval.
    """
    facts = json.loads((plan.reward(number) / "fit.json").read_text())["facts"]
    found = facts["accuracy"]
    if found and (found["low"] or 0) > 0.5:
        return ""
    known = found and found["value"] is not None
    ends = (
        f", 95 % interval {found['low']:.2f} to {found['high']:.2f}"
        if known and found["low"] is not None
        else ""
    )
    agrees = (
        f"agrees with {100 * found['value']:.0f} % of {found['choices']}" if known else "has no"
    )
    return (
        f"the reward of round {number} {agrees} held-out choices{ends}: this is not above chance "
        "beyond doubt, so that training on the reward could follow noise. Give more answers "
        "(raise --count), or add --train-anyway"
    )


def is_fitted(plan: Plan, number: int) -> bool:
    """Return whether the reward of a round was fitted to the answers that the store has now."""
    path = plan.reward(number).with_suffix(".json")
    return path.is_file() and json.loads(path.read_text())["answers"] == answers_hash(plan)


def write_fitted(plan: Plan, number: int, answers: str) -> None:
    """Note that the reward of a round was fitted to answers of this hash."""
    write_bytes(plan.reward(number).with_suffix(".json"), json.dumps({"answers": answers}).encode())


def answers_hash(plan: Plan) -> str:
    """Return a hash of the answers that hold: an undo, or another store, gives another hash."""
    clicks = [answer.click for answer in _answers(plan)]
    return hashlib.sha256(json.dumps(clicks).encode()).hexdigest()


def why_not(step: Step, status: int, again: bool) -> str:
    """Return what to do after a step whose command failed; `again`: whether the step is next."""
    cure = "the same command does this step again"
    if step.name == "fit" and status != 130:
        cure = "mend what the message above says; where answers are too few, raise --count"
    if not again:
        cure = (
            "the same command goes on without what is named above; to sample these clips again, "
            "delete prompts.csv in the folder of the clips first"
        )
    return f"{step.name} ended with exit status {status}: {cure}"


def answered(plan: Plan, number: int) -> int:
    """Return how many answers a round has: choices of its pairs, those shown again left out."""
    return sum(is_of_round(plan, number, answer) for answer in _answers(plan))


def _answers(plan: Plan) -> list[Answer]:
    """Return the answers of the store that hold; none without a store."""
    if not plan.store.is_file():
        return []
    store = Store(plan.store)
    try:
        return store.answers()
    finally:
        store.close()


def is_of_round(plan: Plan, number: int, answer: Answer) -> bool:
    """Return whether an answer counts for a round: a choice between clips of its folders."""
    if answer.skipped or answer.reason not in ("random", "informative"):
        return False
    shown = sorted(str(Path(clip.path).parent.resolve()) for clip in answer.shown)
    folders = sorted(str(folder.resolve()) for folder in plan.judged(number))
    return shown == (folders if len(folders) == 2 else folders * 2)


def _sampled(plan: Plan, number: int) -> bool:
    """Return whether the clips of a policy are there: the table, which is written last, and files.

    Clips that were deleted are sampled again, of the same noise.
    """
    folder = plan.clips(number)
    table = folder / "prompts.csv"
    if not table.is_file():
        return False
    return all((folder / Path(row.path).name).is_file() for row in manifests.read_rows(table))

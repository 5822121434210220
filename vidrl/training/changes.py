"""List the values that a person may change when a run is resumed.

`vidrl train --help` and docs/guides/resume.md show the same list. Every other value of a recipe
identifies the run: a change of such a value is refused, with the old and the new value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidrl.recipe import toml

ABSENT = "(absent)"


@dataclass(frozen=True)
class Allowed:
    """A value that may change, or a section of which every value may change."""

    # The dotted name of the value or the section.
    key: str
    # What follows from a change, as `vidrl train --help` says it.
    effect: str
    # When the weights may differ from those of a run without the change. "weights": always;
    # "guards": where a guard has a band, because the guard sees other numbers; "schedule":
    # where `train.lr_schedule` is not "constant"; "nothing": never, to the last bit.
    touches: str

    def holds(self, key: str) -> bool:
        """Return whether this entry is about a dotted key."""
        return key == self.key or key.startswith(f"{self.key}.")


@dataclass(frozen=True)
class Change:
    """A value of a recipe that differs from the recorded value."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.old)} -> {_shown(self.new)}"


MAY_CHANGE = (
    Allowed(
        "train.rounds",
        "the run goes on until that many rounds are done in all; a learning rate that falls, falls "
        "until then",
        "schedule",
    ),
    Allowed("train.time_limit", "each start may train for that many seconds", "nothing"),
    Allowed("train.learning_rate", "from the next update on", "weights"),
    Allowed("train.lr_schedule", "from the next update on", "weights"),
    Allowed("train.lr_end", "from the next update on", "schedule"),
    Allowed("train.warmup", "from the next update on", "weights"),
    Allowed("train.weight_decay", "from the next update on", "weights"),
    Allowed("train.max_grad_norm", "from the next update on", "weights"),
    Allowed(
        "train.ema",
        "from the next update on; a new average begins with the trained weights",
        "weights",
    ),
    Allowed("train.micro_batch", "gradients are summed in another order", "weights"),
    Allowed(
        "train.score_batch", "clips are decoded and scored in pieces of another size", "weights"
    ),
    Allowed("reward.memory", "networks read another number of frames at once", "weights"),
    Allowed("reward.workers", "a worker scores with one thread", "weights"),
    Allowed("train.rollouts_on_cpu", "where a round's samples wait for the update", "nothing"),
    Allowed("train.mixed_precision", "the base model is evaluated again", "weights"),
    Allowed("train.max_unscored", "from the next round on", "nothing"),
    Allowed("train.eval_every", "from the next round on", "guards"),
    Allowed("train.eval_n", "the base model is evaluated again", "guards"),
    Allowed("train.eval_steps", "the base model is evaluated again", "guards"),
    Allowed("data.held_out", "the base model is evaluated again", "guards"),
    Allowed("data.held_out_n", "the base model is evaluated again", "guards"),
    Allowed("guard", "from the next evaluation on", "guards"),
    Allowed("train.checkpoint_every", "from the next round on", "nothing"),
    Allowed("train.keep_checkpoints", "from the next checkpoint on", "nothing"),
    Allowed("train.show", "from the next evaluation on", "nothing"),
    Allowed("train.trackers", "from the next round on", "nothing"),
    Allowed("bench", "from the next round on", "nothing"),
    Allowed(
        "backbone.options.decode_chunk", "clips are decoded in pieces of another size", "weights"
    ),
    Allowed("backbone.options.gradient_checkpointing", "less memory, more time", "weights"),
    Allowed("backbone.options.activation_offload", "less memory, more time", "nothing"),
    Allowed("backbone.options.group_offload", "less memory, more time", "nothing"),
    Allowed("backbone.options.vae_tiling", "clips are decoded in tiles", "weights"),
    Allowed("backbone.options.vae_slicing", "clips are decoded one by one", "weights"),
    Allowed("backbone.options.compile", "other kernels compute the same blocks", "weights"),
    Allowed("backbone.options.text_encoder", "less memory, more time", "weights"),
    Allowed("backbone.options.offload_text", "less memory, more time", "weights"),
    Allowed(
        "backbone.options.attention", "another implementation of the same attention", "weights"
    ),
    Allowed(
        "backbone.options.rollout_attention", "rollouts are sampled by another kernel", "weights"
    ),
    Allowed("parallel.timeout", "how long a process waits for another one", "nothing"),
    Allowed("parallel", "weights or tokens are spread over the processes otherwise", "weights"),
    Allowed("processes", "how many share the work (--processes)", "weights"),
    Allowed("threads", "how many each process uses on a CPU (OMP_NUM_THREADS)", "weights"),
    Allowed("device", "another GPU, or a CPU", "weights"),
    Allowed("versions", "of vidrl and of the packages it uses", "weights"),
)
# Files that may move: their content is compared, and not their path.
IDENTIFIED_BY_CONTENT = (
    "data.prompts",
    "data.held_out",
    "data.clips",
    "data.pairs",
    "backbone.options.model",
    "policy.lora",
)


def between(
    old: Mapping[str, Any], new: Mapping[str, Any], ignore: Iterable[str] = ()
) -> list[Change]:
    """Return the values in which two nested tables differ, by dotted key.

    An empty table counts as a missing table. `ignore`: keys, or sections, to leave out.

    >>> [str(change) for change in between({"a": {"b": 1}}, {"a": {"b": 2}, "c": "x"})]
    ['a.b: 1 -> 2', 'c: (absent) -> "x"']
    """
    before, after = (
        {key: value for key, value in toml.flat(table) if value != {}} for table in (old, new)
    )
    ignored = [Allowed(name, "", "") for name in ignore]
    keys = [key for key in {**before, **after} if not any(entry.holds(key) for entry in ignored)]
    found = [Change(key, before.get(key, ABSENT), after.get(key, ABSENT)) for key in keys]
    return [change for change in found if change.old != change.new]


def allowed(key: str) -> Allowed | None:
    """Return the entry of `MAY_CHANGE` for a dotted key; None for a value that must stay.

    >>> allowed("guard.bands.exposure").key, allowed("seed")
    ('guard', None)
    """
    return next((entry for entry in MAY_CHANGE if entry.holds(key)), None)


def refused(found: Sequence[Change]) -> list[Change]:
    """Return the changes that are not allowed, because they would make a different run."""
    return [change for change in found if allowed(change.key) is None]


def inexact(found: Sequence[Change], guarded: bool, scheduled: bool = False) -> list[str]:
    """Return the keys whose changes let the weights differ from those of an unchanged run.

    `guarded`: guards have bands. `scheduled`: the learning rate depends on the number of
    rounds.
    """
    ending = ["weights", *["guards"] * guarded, *["schedule"] * scheduled]
    return [
        change.key
        for change in found
        if (entry := allowed(change.key)) is not None and entry.touches in ending
    ]


def listed(width: int = 41) -> str:
    """Return `MAY_CHANGE` as `vidrl train --help` shows it, one line for each entry."""
    return "\n".join(f"  {entry.key:{width}} {entry.effect}" for entry in MAY_CHANGE)


def _shown(value: Any) -> str:
    return value if value == ABSENT else toml.spell(value)

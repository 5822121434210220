"""Rows of several times in one run, for pipelines where the time reaches nothing but the
network.

A pipeline is at one time at once, so rows of several times would need a run each. But most
pipelines use the time for one thing: they tell it to the network, as a number for each row.
There, one run of any of the times serves all rows, if the network is told each row's own
time.

Whether a pipeline is of that kind is found out by looking at every step of its schedule,
with a network that does not compute and answers each call alike. The network's arguments
must be the same in every step but for the time, and so must be what reaches the scheduler:
then neither guidance nor anything else depends on the time or on the number of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._drive import Drive, Look

Rule = Callable[[Tensor, int], Tensor]  # (timestep, number of levels) → what a network is told
RULES: tuple[Rule, ...] = (
    lambda told, levels: told,
    lambda told, levels: told / levels,
    lambda told, levels: 1 - told / levels,
    lambda told, levels: (levels - told) / levels,
)


@dataclass(frozen=True)
class Telling:
    """How a network is told the time: by which of the leaves of its arguments, and how
    often.

    `copies`: how many times the rows of a run stand in the network's batch, as 2 with
    guidance.
    """

    rules: Mapping[int, Rule]
    copies: int

    def told(self, leaves: Sequence[Any], timesteps: Tensor, levels: int) -> list[Any]:
        """The leaves of a call with the time of each row."""
        changed = list(leaves)
        for place, rule in self.rules.items():
            changed[place] = rule(timesteps, levels).repeat(self.copies).to(leaves[place])
        return changed


class Mixed:
    """Predictions of rows of several times in one run; for each schedule it is found out
    whether they can be."""

    def __init__(self, drive: Drive):
        self.drive, self.known = drive, dict[int, Telling | None]()

    def can(self, row: int, two: Tensor) -> bool:
        """Whether rows of several times run together; `two` are any latents of two rows."""
        steps = self.drive.steps
        if steps not in self.known:
            with torch.no_grad():
                self.known[steps] = telling(self.drive, row, two)
        return self.known[steps] is not None

    def predict(self, rows: Sequence[int], latents: Tensor, times: Sequence[float]) -> Tensor:
        """What reaches the scheduler where each row is at its own time."""
        how, probe = self.known[self.drive.steps], self.drive.probe
        assert how is not None
        told = torch.tensor([probe.timestep(t) for t in times], dtype=probe.timesteps.dtype)
        levels = probe.config.num_train_timesteps
        with self.drive.changing(lambda leaves: how.told(leaves, told, levels)):
            return self.drive.predict(rows, latents, times[0])


def telling(drive: Drive, row: int, two: Tensor) -> Telling | None:
    """How the network is told the time, or None where the time reaches more than the
    network."""
    grid, rows = drive.probe.grid[:-1], [row, row]
    looks = [drive.look(rows, two, t) for t in grid]
    first, calls = looks[0], range(len(looks[0].calls))
    if len(looks) < 2 or any(not _alike(first, look) for look in looks):
        return None
    turned = drive.look(rows, two.unflatten(0, (2, -1)).flip(0).flatten(0, 1), grid[0])
    found = [_rules([look.calls[n] for look in looks], drive.probe) for n in calls]
    copies = {_copies(*pair) for pair in zip(first.calls, turned.calls, strict=True)}
    rules, number = found[0], copies.pop()
    if rules is None or number is None or copies or any(other != rules for other in found):
        return None
    return Telling(rules, number)


def _alike(one: Look, other: Look) -> bool:
    """Whether two turns call the networks alike, and make the same of the same answers."""
    same_calls = one.networks == other.networks
    return same_calls and torch.equal(one.prediction, other.prediction)


def _rules(calls: Sequence[Sequence[Any]], probe: Any) -> dict[int, Rule] | None:
    """By place, the rule of each leaf that changes from step to step; None where one has
    none."""
    if len({len(leaves) for leaves in calls}) > 1:
        return None
    told = torch.tensor(probe.told, dtype=probe.timesteps.dtype)
    found: dict[int, Rule] = {}
    for place, column in enumerate(zip(*calls, strict=True)):
        if all(_same(column[0], other) for other in column):
            continue
        rule = _rule(column, told, probe.config.num_train_timesteps)
        if rule is None:
            return None
        found[place] = rule
    return found or None


def _rule(column: Sequence[Any], told: Tensor, levels: int) -> Rule | None:
    """The rule that makes one leaf of every step, a number for each row, of the
    timesteps."""
    if not all(isinstance(leaf, Tensor) and leaf.dim() < 2 for leaf in column):
        return None
    if not all(bool((leaf == leaf.reshape(-1)[0]).all()) for leaf in column):
        return None
    values = torch.stack([leaf.reshape(-1)[0] for leaf in column]).cpu()
    made = ((rule, rule(told, levels).to(values.dtype)) for rule in RULES)
    return next((rule for rule, own in made if torch.equal(own, values)), None)


def _copies(leaves: Sequence[Any], turned: Sequence[Any]) -> int | None:
    """How often the rows stand one after the other in a network's batch.

    The two rows have changed places in `turned`. So must the rows of every leaf that
    differs; None where they have not, as where the copies of a row stand together.
    """
    differ = [(a, b) for a, b in zip(leaves, turned, strict=True) if not _same(a, b)]
    sizes = {len(a) for a, _ in differ if isinstance(a, Tensor) and a.dim()}
    size = sizes.pop() if len(sizes) == 1 else 1
    if size % 2 or not all(
        torch.equal(b, a.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)) for a, b in differ
    ):
        return None
    return size // 2


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    return a is b or (type(a) is type(b) and not isinstance(a, Tensor) and bool(a == b))

"""Run rows of several times in one batch, if only the network depends on the time.

A pipeline's call is at one time, so rows of several times would need a run each. But most
pipelines use the time for one purpose: they pass it to the network, as a number for each
row. There one run at any of the times serves all rows, if the network receives each row's
own time instead.

Whether a pipeline is of that kind is found by dry runs of every step of its schedule, in
which the network does not compute and answers each call alike. The network's arguments must
be the same in every step but for the time, and so must the prediction that reaches the
scheduler: then neither guidance nor anything else depends on the time or on the step
number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._runner import DryIteration, Runner, same

Rule = Callable[[Tensor, int], Tensor]  # (timesteps, number of levels) → the network's time
# The formulas by which diffusers' pipelines compute the network's time from the timestep.
RULES: tuple[Rule, ...] = (
    lambda timesteps, levels: timesteps,
    lambda timesteps, levels: timesteps / levels,
    lambda timesteps, levels: 1 - timesteps / levels,
    lambda timesteps, levels: (levels - timesteps) / levels,
)


@dataclass(frozen=True)
class TimeArgument:
    """The leaves of a network's arguments that hold the time, and how each is computed.

    `rules`: place of the leaf → its rule. `copies`: how many times the rows of a run are
    repeated in the network's batch; 2 with guidance.
    """

    rules: Mapping[int, Rule]
    copies: int

    def replace_time(self, leaves: Sequence[Any], timesteps: Tensor, levels: int) -> list[Any]:
        """Return the leaves of a call with the time of each row."""
        changed = list(leaves)
        for place, rule in self.rules.items():
            changed[place] = rule(timesteps, levels).repeat(self.copies).to(leaves[place])
        return changed


class MixedTimes:
    """Predictions of rows of several times in one run, where the pipeline allows it.

    The check runs once for each schedule, since a schedule sets which steps exist.
    """

    def __init__(self, runner: Runner):
        self.runner, self.time_argument_of = runner, dict[int, TimeArgument | None]()

    def supports(self, row: int, latents_of_two: Tensor) -> bool:
        """Return whether rows of several times run together; checked with latents of two rows."""
        steps = self.runner.steps
        if steps not in self.time_argument_of:
            with torch.no_grad():
                self.time_argument_of[steps] = find_time_argument(self.runner, row, latents_of_two)
        return self.time_argument_of[steps] is not None

    def predict(self, rows: Sequence[int], latents: Tensor, times: Sequence[float]) -> Tensor:
        """Return what reaches the scheduler with rows at their own times; call `supports` first."""
        time_argument, probe = self.time_argument_of[self.runner.steps], self.runner.probe
        assert time_argument is not None
        timesteps = torch.tensor([probe.timestep(t) for t in times], dtype=probe.timesteps.dtype)
        levels = probe.config.num_train_timesteps
        with self.runner.changed_arguments(
            lambda leaves: time_argument.replace_time(leaves, timesteps, levels)
        ):
            return self.runner.predict(rows, latents, times[0])


def find_time_argument(runner: Runner, row: int, latents_of_two: Tensor) -> TimeArgument | None:
    """Return how the network gets the time; None if the time reaches more than the network."""
    grid, rows = runner.probe.grid[:-1], [row, row]
    iterations = [runner.dry_iteration(rows, latents_of_two, t) for t in grid]
    first, calls = iterations[0], range(len(iterations[0].calls))
    if len(iterations) < 2 or any(
        not _same_iteration(first, iteration) for iteration in iterations
    ):
        return None
    # The same rows in the other order: shows how rows are repeated in the network's batch.
    swapped = runner.dry_iteration(
        rows, latents_of_two.unflatten(0, (2, -1)).flip(0).flatten(0, 1), grid[0]
    )
    found = [_rules([iteration.calls[n] for iteration in iterations], runner.probe) for n in calls]
    copies = {_copies(*pair) for pair in zip(first.calls, swapped.calls, strict=True)}
    rules, number = found[0], copies.pop()
    if rules is None or number is None or copies or any(other != rules for other in found):
        return None
    return TimeArgument(rules, number)


def _same_iteration(one: DryIteration, other: DryIteration) -> bool:
    """Return whether two iterations call the networks alike and combine the answers alike."""
    same_calls = one.networks == other.networks
    return same_calls and torch.equal(one.prediction, other.prediction)


def _rules(calls: Sequence[Sequence[Any]], probe: Any) -> dict[int, Rule] | None:
    """Return the rule of each leaf that changes between steps; None if one of them has no rule."""
    if len({len(leaves) for leaves in calls}) > 1:
        return None
    timesteps = torch.tensor(probe.schedule_timesteps, dtype=probe.timesteps.dtype)
    found: dict[int, Rule] = {}
    for place, column in enumerate(zip(*calls, strict=True)):
        if all(same(column[0], other) for other in column):
            continue
        rule = _rule(column, timesteps, probe.config.num_train_timesteps)
        if rule is None:
            return None
        found[place] = rule
    return found or None


def _rule(column: Sequence[Any], timesteps: Tensor, levels: int) -> Rule | None:
    """Return the rule that computes one leaf, a number for each row, from the timesteps."""
    if not all(isinstance(leaf, Tensor) and leaf.dim() < 2 for leaf in column):
        return None
    if not all(bool((leaf == leaf.reshape(-1)[0]).all()) for leaf in column):
        return None
    values = torch.stack([leaf.reshape(-1)[0] for leaf in column]).cpu()
    made = ((rule, rule(timesteps, levels).to(values.dtype)) for rule in RULES)
    return next((rule for rule, own in made if torch.equal(own, values)), None)


def _copies(leaves: Sequence[Any], swapped: Sequence[Any]) -> int | None:
    """Return how often the rows are repeated, one batch after the other, in a network's batch.

    In `swapped` the two rows have changed places. So must the rows of every leaf that
    differs; None if they have not, for example if the copies of a row are neighbours.
    """
    differ = [(a, b) for a, b in zip(leaves, swapped, strict=True) if not same(a, b)]
    sizes = {len(a) for a, _ in differ if isinstance(a, Tensor) and a.dim()}
    size = sizes.pop() if len(sizes) == 1 else 1
    if size % 2 or not all(
        torch.equal(b, a.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)) for a, b in differ
    ):
        return None
    return size // 2

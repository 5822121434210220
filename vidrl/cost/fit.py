"""Find the memory options with which a recipe fits a card, the set that costs least time first.

The search takes the options that the recipe's backbone has. Each option has an estimate of
the seconds that it adds to a round (`vidrl.cost.seconds`); sets of options are tried in the
order of the sum, until the traced peak of a set fits.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from vidrl import config, plugin
from vidrl.config import Recipe

from . import Cost, Target, cards, choices, of_target
from .work import Memo

# In the order in which options that cost the same are tried: first those that leave the numbers as
# they are. The value is the override; the text says what the option does.
OPTIONS: tuple[tuple[str, str, str], ...] = (
    ("backbone.options.text_encoder", "drop", "each prompt is encoded once, then it is freed"),
    ("backbone.options.offload_text", "true", "the text encoder visits the card to encode"),
    ("backbone.options.offload", "true", "the text encoders visit the card to encode"),
    ("train.rollouts_on_cpu", "true", "trajectories wait in host memory"),
    ("train.score_batch", "1", "one clip is decoded and scored at a time"),
    ("backbone.options.decode_chunk", "1", "one clip is decoded at a time"),
    ("train.micro_batch", "1", "one row is updated at a time; the same gradient"),
    ("backbone.options.gradient_checkpointing", "true", "activations are computed again"),
    ("backbone.options.activation_offload", "true", "activations wait in host memory"),
    ("backbone.options.group_offload", "true", "linear layers of blocks come from host memory"),
    ("backbone.options.dtype", "bfloat16", "half the weights; the numbers differ"),
    ("backbone.options.vae_tiling", "true", "the decoder works on tiles; seams may show"),
    ("backbone.options.quantization", "fp8", "a byte a weight; the numbers differ"),
    ("backbone.options.quantization", "nf4", "half a byte a weight; the numbers differ"),
)
# Options of which one replaces the other.
INSTEAD = {"offload_text": "text_encoder", "offload": "text_encoder"}


@dataclass(frozen=True)
class Option:
    """One override that may lower the peak."""

    key: str
    value: str
    about: str

    @property
    def override(self) -> str:
        """The override as `vidrl train` takes it."""
        return f"{self.key}={self.value}"


@dataclass(frozen=True)
class Row:
    """What an option saves and costs after the options above it."""

    option: Option
    saved: float
    """Bytes of the peak."""
    slower: float
    """The seconds that a round takes more, as a fraction of those of the recipe as it is."""
    peak: float
    """Bytes of the peak with this option and those above."""


@dataclass(frozen=True)
class Fit:
    """The result of a search: the options in order, and whether the recipe fits with them."""

    before: Cost
    after: Cost
    rows: list[Row]
    fits: bool
    larger: list[str]
    """The cards that hold the smallest peak, where nothing fits this card."""

    @property
    def overrides(self) -> list[str]:
        """The overrides for `vidrl train` and `vidrl.config.load`."""
        return [row.option.override for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        table = [
            {"override": r.option.override, "saved": r.saved, "slower": r.slower, "peak": r.peak}
            for r in self.rows
        ]
        peaks = {"peak_before": self.before.memory["peak"], "peak": self.after.memory["peak"]}
        return {"fits": self.fits, "options": table, "larger": self.larger, **peaks}


def search(recipe: Recipe, target: Target) -> Fit:
    """Return the cheapest set of options with which a checked recipe fits the target's card.

    If no set fits, the result has all options, and names the cards that would do.
    """
    memo = Memo()
    cost = partial(_cost, recipe, target, memo)
    before = cost(())
    if before.card["fits"]:
        return Fit(before, before, [], True, [])
    groups = list(_groups(recipe))
    valid = [chosen for chosen in _sets(groups) if _allowed(recipe, chosen)]
    most, smallest = _smallest(valid, cost)
    if not smallest.card["fits"]:
        rows = _rows(before, most, cost)
        return Fit(before, smallest, rows, False, cards.larger(smallest.memory["peak"]))
    alone = {option: _seconds(cost((option,))) for levels in groups for option in levels}
    for chosen in _ranked(valid, alone, _seconds(before)):
        after = cost(chosen)
        if after.card["fits"]:
            needed = _needed(recipe, chosen, cost)
            ordered = tuple(sorted(needed, key=lambda option: alone[option]))
            return Fit(before, cost(needed), _rows(before, ordered, cost), True, [])
    raise AssertionError("the set of all options fits, and is one of the sets")


def _cost(recipe: Recipe, target: Target, memo: Memo, chosen: Sequence[Option]) -> Cost:
    """Return the cost of the recipe with some options."""
    given = config.load(recipe, [option.override for option in chosen], files=False)
    return of_target(given, target, memo=memo)


def _seconds(cost: Cost) -> float:
    """Return the seconds of a round, without a reward whose seconds are unknown."""
    return float(cost.seconds["round"])


def _groups(recipe: Recipe) -> Iterator[list[Option]]:
    """Yield the options that the recipe can take, with those of one key together."""
    takes = inspect.signature(plugin.find("backbones", recipe.backbone.name)).parameters
    found: dict[str, list[Option]] = {}
    for entry in OPTIONS:
        option = Option(*entry)
        section, name = option.key.rsplit(".", 1)
        known = name in takes if section == "backbone.options" else hasattr(recipe.train, name)
        if known and INSTEAD.get(name) not in takes and _changes(recipe, option):
            found.setdefault(option.key, []).append(option)
    yield from found.values()


def _changes(recipe: Recipe, option: Option) -> bool:
    """Return whether an option makes the recipe smaller than it is."""
    if recipe.policy.full and option.key.endswith(("quantization", "group_offload", "dtype")):
        return False  # all weights are trained, and stay float32 on the device
    given = config.load(recipe, [option.override], files=False)
    if option.key.startswith("train."):
        name = option.key.removeprefix("train.")
        now, then = getattr(recipe.train, name), getattr(given.train, name)
        return bool(now != then)
    return choices.read(given) != choices.read(recipe) and not _undone(recipe, option)


def _undone(recipe: Recipe, option: Option) -> bool:
    """Return whether an option would undo a stronger one of the recipe."""
    now = choices.read(recipe)
    stronger = {
        "dtype": now.dtype != "float32",
        "quantization": now.quantization == "nf4" or now.quantization == option.value,
        "text_encoder": now.text_encoder == "drop",
    }
    return stronger.get(option.key.rsplit(".", 1)[1], False)


def _sets(groups: Sequence[Sequence[Option]]) -> list[tuple[Option, ...]]:
    """Return all sets with at most one option of each group."""
    return [
        tuple(option for option in chosen if option is not None)
        for chosen in product(*[[None, *levels] for levels in groups])
    ]


def _allowed(recipe: Recipe, chosen: Sequence[Option]) -> bool:
    """Return whether a backbone takes the options together."""
    now = choices.read(recipe)
    on = {option.key.rsplit(".", 1)[1]: option.value for option in chosen}
    offloads = now.group_offload or "group_offload" in on
    moves = offloads or now.activation_offload or "activation_offload" in on
    recomputes = now.gradient_checkpointing or "gradient_checkpointing" in on
    kind = on.get("quantization", now.quantization)
    replaced = offloads or kind == "fp8"
    return not (
        (moves and not recomputes)
        or (offloads and kind == "nf4")
        # a compiled block does not see weights that are replaced while it runs
        or (replaced and bool(recipe.backbone.options.get("compile")))
        # FSDP2 spreads plain weights alone
        or ((offloads or kind != "none") and recipe.parallel.shard != "none")
    )


def _smallest(valid: Sequence[tuple[Option, ...]], cost: Any) -> tuple[tuple[Option, ...], Cost]:
    """Return the set of the smallest peak, out of those to which no option can be added."""
    whole = [frozenset(option.key for option in chosen) for chosen in valid]
    largest = [
        chosen
        for chosen, keys in zip(valid, whole, strict=True)
        if not any(keys < other for other in whole) and _last_levels(chosen)
    ]
    found = [(chosen, cost(chosen)) for chosen in largest]
    return min(found, key=lambda pair: pair[1].memory["peak"])


def _last_levels(chosen: Sequence[Option]) -> bool:
    """Return whether a set takes the strongest quantization that its other options allow."""
    offloads = any(option.key.endswith("group_offload") for option in chosen)
    values = [option.value for option in chosen if option.key.endswith("quantization")]
    return not values or offloads or values == ["nf4"]


def _ranked(
    sets: Sequence[tuple[Option, ...]], alone: Mapping[Option, float], before: float
) -> list[tuple[Option, ...]]:
    """Return sets in the order of their estimated cost, the cheapest first.

    An option that saves time counts as free, so that it is not used where it is not needed. Of
    sets that cost the same, the one with fewer options comes first.
    """
    added = {option: max(0.0, value - before) for option, value in alone.items()}
    places = {entry[:2]: place for place, entry in enumerate(OPTIONS)}

    def rank(chosen: Sequence[Option]) -> tuple[float, int, int]:
        last = sum(places[option.key, option.value] for option in chosen)
        return sum(added[option] for option in chosen), len(chosen), last

    return sorted(sets, key=rank)


def _needed(recipe: Recipe, chosen: Sequence[Option], cost: Any) -> tuple[Option, ...]:
    """Return the options without those that the fit does not need, the dearest tried first."""
    kept = list(chosen)
    for option in reversed(chosen):
        fewer = [other for other in kept if other is not option]
        if _allowed(recipe, fewer) and cost(fewer).card["fits"]:
            kept = fewer
    return tuple(kept)


def _rows(before: Cost, ordered: Sequence[Option], cost: Any) -> list[Row]:
    """Return what each option saves and costs after those above it."""
    rows = []
    last = before
    for n, option in enumerate(ordered, 1):
        now = cost(ordered[:n])
        slower = (_seconds(now) - _seconds(last)) / _seconds(before)
        peak = now.memory["peak"]
        rows.append(Row(option, last.memory["peak"] - peak, slower, peak))
        last = now
    return rows

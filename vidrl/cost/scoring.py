"""Estimate what the reward costs on a card: bytes that are alive, and bytes that are moved.

The default composite is known. It has no weights and no products of matrices: each of its
operations reads and writes the card's memory, so its time is that of the bytes moved. Of learned
rewards, the networks of `reward_networks` are known, whose time is that of their FLOPs.

Legend: P pixels of a frame as the composite measures it (shorter side at most 192), F frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan
from typing import Any

from vidrl.config import Recipe, RewardSection
from vidrl.rewards._scoring.recipe_parts import parse
from vidrl.rewards.compose import PIECE
from vidrl.rewards.flow import SIZE

from . import reward_networks
from .cards import Card

# Bytes for each pixel P and pair of neighbouring frames, with the flow "torch", as counted on a
# pretended GPU over 5 to 49 frames and shorter sides of 48 to 480 pixels, on clips that move, rest
# or are noise: 65 500 to 67 800 bytes are the arguments and results of all operations, and 496
# bytes are alive at the peak, beside the clips. tests/cost/test_cost_scoring.py counts again.
MOVED = 67_000.0
ALIVE = 497.0


@dataclass(frozen=True)
class Scoring:
    """The bytes that the reward moves for a clip, and has alive at once; NaN where unknown.

    `alive` is beside the clips. `note` says how the bytes were found, or why they are unknown.
    `flops` are those of the networks for a clip, by the precision of their products; `resident`
    are the bytes of their weights that stay on the card.
    """

    moved: float
    alive: float
    note: str
    flops: Mapping[str, float] = field(default_factory=dict)
    resident: float = 0.0

    def seconds(self, card: Card, utilisation: float) -> float:
        """Return the seconds of a clip on a card, NaN where unknown."""
        products = [card.seconds(n, precision, utilisation) for precision, n in self.flops.items()]
        return self.moved / card.bandwidth + sum(products)


def of_recipe(recipe: Recipe, clip: tuple[int, int, int], clips: int, in_loss: float) -> Scoring:
    """Return what the recipe's reward costs on a card.

    `clip`: frames, height and width; `clips`: how many are scored at once; `in_loss`: how many
    the loss scores itself.
    """
    found = [
        _part(name, options, recipe, clip, clips) for name, options in parts(recipe.reward).items()
    ]
    reason = _unknown(recipe, in_loss) or next((one for one in found if isinstance(one, str)), "")
    if reason:
        return Scoring(nan, nan, f"the reward is unknown: {reason}")
    known = [one for one in found if not isinstance(one, str)]
    flops: dict[str, float] = {}
    for one in known:
        for precision, number in one.flops.items():
            flops[precision] = flops.get(precision, 0.0) + number
    return Scoring(
        sum(one.moved for one in known),
        max(one.alive for one in known),
        f"the reward: {'; '.join(dict.fromkeys(one.note for one in known))}; its seconds leave out "
        "the launch of kernels",
        flops,
        sum(one.resident for one in known),
    )


def parts(section: RewardSection) -> dict[str, dict[str, Any]]:
    """Return the options of each reward of a section, by name.

    Example:
        >>> parts(RewardSection(parts={"default": 1.0, "aesthetic": {"options": {"chunk": 4}}}))
        {'default': {}, 'aesthetic': {'chunk': 4}}
    """
    if not section.parts:
        return {section.name or "default": dict(section.options)}
    return {name: dict(parse(name, entry).options) for name, entry in section.parts.items()}


def _part(
    name: str, options: dict[str, Any], recipe: Recipe, clip: tuple[int, int, int], clips: int
) -> Scoring | str:
    """Return what one reward of the recipe costs, or why that is unknown."""
    if name == "default":
        if clip[0] < 5:
            return "the default composite was counted on clips of 5 frames or more"
        moved, alive = default_composite(clip, clips)
        return Scoring(
            moved, alive, "bytes counted at other sizes, for each pixel and pair of frames"
        )
    if name not in reward_networks.table()["rewards"]:
        learned = ", ".join(reward_networks.table()["rewards"])
        return (
            "only the bytes of the default composite have been counted, and the networks of "
            f"{learned}; the recipe has {name}"
        )
    found = reward_networks.of_reward(name, options, clip[0], clips, recipe.reward.memory)
    if isinstance(found, str):
        return found
    note = (
        "FLOPs and bytes of its networks, for each frame, on shapes; texts and the resizing of "
        "frames are left out"
    )
    return Scoring(0.0, found.alive, note, {found.precision: found.flops}, found.resident)


def _unknown(recipe: Recipe, in_loss: float) -> str:
    """Return why the cost of any reward is unknown in a recipe; empty where it is known."""
    if recipe.reward.workers:
        return "reward.workers score on the CPU"
    return "the loss scores the clips itself, with gradient" if in_loss else ""


def default_composite(clip: tuple[int, int, int], clips: int = 1) -> tuple[float, float]:
    """Return the bytes that the default composite moves for a clip, and has alive at once.

    moved = 67 000 P (F - 1). The flow takes at most 32 pairs of frames at once, but other parts
    take all frames of a piece of clips, so alive = 497 P (F - 1) for each clip of a piece is an
    upper bound for clips of more than 33 frames.

    Example:
        >>> default_composite((33, 384, 640), 4)
        (131727360000.0, 977141760.0)
    """
    frames, height, width = clip
    pixels = height * width * min(1.0, SIZE / min(height, width)) ** 2
    at_once = min(clips, max(1, int(PIECE / (3 * frames * pixels))))
    pairs = frames - 1
    return MOVED * pixels * pairs, ALIVE * pixels * pairs * at_once

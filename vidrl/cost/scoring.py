"""Estimate what the reward costs on a card: bytes that are alive, and bytes that are moved.

Only the default composite is known. It has no weights and no products of matrices: each of its
operations reads and writes the card's memory, so its time is that of the bytes moved.

Legend: P pixels of a frame as the composite measures it (shorter side at most 192), F frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

from vidrl.config import Recipe
from vidrl.rewards.compose import PIECE
from vidrl.rewards.flow import SIZE

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
    """

    moved: float
    alive: float
    note: str


def of_recipe(recipe: Recipe, clip: tuple[int, int, int], clips: int, in_loss: float) -> Scoring:
    """Return what the recipe's reward costs on a card.

    `clip`: frames, height and width; `clips`: how many are scored at once; `in_loss`: how many
    the loss scores itself.
    """
    reason = _unknown(recipe, clip[0], in_loss)
    if reason:
        return Scoring(nan, nan, f"the reward is unknown: {reason}")
    moved, alive = default_composite(clip, clips)
    return Scoring(
        moved,
        alive,
        "the reward: bytes counted at other sizes, for each pixel and pair of frames; its seconds "
        "leave out the launch of kernels",
    )


def _unknown(recipe: Recipe, frames: int, in_loss: float) -> str:
    """Return why the cost of the recipe's reward is unknown; empty where it is known."""
    reward = recipe.reward
    if reward.parts or reward.name not in ("", "default"):
        return "only the bytes of the default composite have been counted"
    if reward.workers:
        return "reward.workers score on the CPU"
    if in_loss:
        return "the loss scores the clips itself, with gradient"
    return "" if frames >= 5 else "the default composite was counted on clips of 5 frames or more"


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

"""Foretell what `vidrl influence` will cost, from the cost of a recipe.

Legend: T steps of the sampler, K stochastic steps, L latent frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from vidrl.config import Recipe
from vidrl.credit.influence import DECODER_PROMPTS, DECODER_STEPS
from vidrl.training.influence_plan import influence_plan

from . import Cost, skeleton
from .table import Block, duration, scaled


@dataclass(frozen=True)
class InfluenceCost:
    """The work of one measurement of the influence; `flops` and `seconds` are NaN if unknown."""

    clips: int
    calls: int
    decoded: int
    scored: int
    flops: float
    seconds: float

    def to_dict(self) -> dict[str, float | None]:
        """Return the numbers by name; NaN becomes None, which JSON has."""
        return {name: None if value != value else value for name, value in asdict(self).items()}


def calls_of_a_clip(steps: int, stochastic: Sequence[int], latent_frames: int) -> int:
    """Return the denoiser calls that one clip takes, T + Σ_k (L + 1) (T − k − 1).

    The clip itself takes T calls. At each stochastic step k it is finished L + 1 times.

    Example:
        >>> calls_of_a_clip(3, [0, 1], latent_frames=2)
        12
    """
    return steps + sum((latent_frames + 1) * (steps - k - 1) for k in stochastic)


def of_recipe(recipe: Recipe, found: Cost, prompts: int, members: int) -> InfluenceCost:
    """Return the cost of `vidrl influence` with a recipe whose cost is known.

    `found`: the cost of the recipe in one process. `prompts` and `members` are the options of
    `vidrl influence`. Raises ValueError for an algorithm whose sampling draws no noise.
    """
    backbone = skeleton.read(recipe.backbone).outline()
    plan = influence_plan(recipe, backbone)[0]
    frames, clips = backbone.shape[1], prompts * members
    shown = min(prompts, DECODER_PROMPTS)  # clips of the decoder's map
    calls = clips * calls_of_a_clip(len(plan.times) - 1, plan.stochastic, frames)
    scored = clips * (1 + len(plan.stochastic) * (frames + 1))
    calls, decoded = calls + shown * DECODER_STEPS, scored + shown * (frames + 1)
    flops = calls * found.flops["call"] + decoded * found.flops["decode_a_clip"]
    return InfluenceCost(
        clips, calls, decoded, scored, flops, _seconds(found, calls, decoded, scored)
    )


def _seconds(found: Cost, calls: int, decoded: int, scored: int) -> float:
    """Return the seconds, from those of a round's stages; a card's are without the reward."""
    if not found.seconds:
        return float("nan")
    seconds, clips = found.seconds, found.calls["clips"]
    reward = seconds["reward"] if seconds["reward"] == seconds["reward"] else 0.0
    return (
        calls * seconds["sample"] / found.calls["sampling"]
        + decoded * seconds["decode"] / clips
        + scored * reward / clips
    )


def block(cost: InfluenceCost, found: Cost) -> Block:
    """Return the part of the table about the influence."""
    without = bool(found.seconds) and found.seconds["reward"] != found.seconds["reward"]
    return Block(
        f"Influence of {cost.clips:,} clips, measured by `vidrl influence`",
        [
            ("denoiser calls", f"{cost.calls:,}"),
            ("clips decoded", f"{cost.decoded:,}"),
            ("clips scored", f"{cost.scored:,}"),
            ("FLOPs", scaled(cost.flops, "FLOP")),
            ("seconds, without the reward" if without else "seconds", duration(cost.seconds)),
        ],
    )

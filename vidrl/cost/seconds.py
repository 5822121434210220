"""Estimate the seconds of a round: from FLOPs and bytes on a card, or from measured times."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, isnan, nan

from vidrl.config import Recipe

from .calibrate import Pace
from .cards import LINK, Card
from .choices import BYTES
from .counting import Calls
from .memory import Plan


def with_totals(
    stages: dict[str, float], recipe: Recipe, calls: Calls, evaluation: float
) -> dict[str, float]:
    """Add the seconds of a round, an evaluation and the run."""
    round_seconds = sum(stages.values())
    return {
        **stages,
        "round": round_seconds,
        "evaluation": evaluation,
        "run": round_seconds * recipe.train.rounds + evaluation * calls.whole_evaluations,
    }


def measured(recipe: Recipe, calls: Calls, pace: Pace, processes: int = 1) -> dict[str, float]:
    """Return the seconds of each stage from the times measured on this machine."""
    first, n = calls.rounds[0], calls.first.scored
    extra_calls = first["reference"] + first["divergence"]
    stages = {
        "sample": first["sampling"] * pace.forward + recipe.train.prompts_per_round * pace.encode,
        "decode": n * pace.decode,
        "reward": n * pace.reward,
        "update": calls.first.rows * pace.backward + extra_calls * pace.forward,
    }
    evaluation = calls.evaluation * pace.forward + calls.evaluated_clips * pace.decode
    evaluation += recipe.data.held_out_n * pace.reward
    stages = {name: value / processes for name, value in stages.items()}
    return with_totals(stages, recipe, calls, evaluation / processes)


def on_card(
    plan: Plan, flops: Mapping[str, float], card: Card, utilisation: float
) -> dict[str, float]:
    """Return the seconds of network, decoder and text encoder on a card, and of moved bytes.

    A reward that `scoring` does not know is NaN, and in no sum.
    """
    recipe, calls = plan.recipe, plan.calls
    half = recipe.train.mixed_precision != "no" or plan.chosen.dtype != "float32"
    dense = "bfloat16" if half else "float32"
    text = "float32" if plan.chosen.dtype == "float32" else "bfloat16"
    stages = {
        "sample": card.seconds(flops["sample"], dense, utilisation)
        + card.seconds(flops["encode"], text, utilisation),
        "decode": card.seconds(flops["decode"], "tf32", utilisation),
        "update": card.seconds(flops["update"], dense, utilisation),
    }
    evaluation = card.seconds(flops["evaluation"], dense, utilisation)
    evaluation += card.seconds(flops["evaluation_decode"], "tf32", utilisation)
    stages = {name: value / plan.processes for name, value in stages.items()}
    for name, value in moved(plan, card).items():
        stages[name] += value
    a_clip = plan.scoring.seconds(card, utilisation) if plan.scoring else nan
    if isnan(a_clip):
        found = with_totals(stages, recipe, calls, evaluation / plan.processes)
        return {**found, "reward": nan}
    stages["reward"] = calls.first.scored * a_clip / plan.processes
    evaluation += recipe.data.held_out_n * a_clip
    return with_totals(stages, recipe, calls, evaluation / plan.processes)


def moved(plan: Plan, card: Card) -> dict[str, float]:
    """Return the seconds that the memory options add to the stages of a round.

    Bytes that move between host and device take 1 / `LINK` each, and wait for nothing else:
    no copy overlaps with the computation. A packed weight is read, and written and read in
    half precision, at the bandwidth of the card's memory.
    """
    done, chosen = plan.work, plan.chosen
    first = plan.calls.rounds[0]
    found, micro = done.network, plan.micro * plan.processes
    forwards = ceil(first["sampling"] / micro)
    updates = ceil(first["update"] / micro)
    passes = 3 if chosen.gradient_checkpointing else 2  # of the weights, in an update
    sampled = 0.0
    updated = 0.0
    if chosen.text_encoder == "offload":
        sampled += 2 * done.weights["text encoder"] / LINK
    if found is not None and chosen.group_offload:
        sampled += forwards * found.layers / LINK
        updated += updates * passes * found.layers / LINK
    if found is not None and chosen.quantization != "none":
        each = found.packed * (BYTES[chosen.quantization] + 4) / card.bandwidth
        sampled += forwards * each
        updated += updates * passes * each
    if found is not None and chosen.activation_offload:
        updated += updates * 2 * found.saved / LINK
    return {"sample": sampled, "decode": 0.0, "update": updated}

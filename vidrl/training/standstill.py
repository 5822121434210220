"""Find out from metrics.jsonl whether training has stopped to move the weights, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
# How many rounds in a row must not move the weights: a single one may be chance.
ROUNDS = 3
# A gradient norm below AdamW's epsilon: the epsilon swallows such a gradient.
NO_GRADIENT = 1e-8
# A change of weight_drift in one round that is below the resolution of float32.
NO_CHANGE = 1e-7


def standstill(rows: Sequence[Row]) -> str:
    """Return a warning where the last rounds of a run did not move the weights; else "".

    A round did not move the weights where its `grad_norm` is about 0, or where its
    `weight_drift` is that of the round before. Both numbers exist for algorithms with and
    without ratios. A ratio of 1 alone proves nothing, because it is 1 in the first update
    of every round. The warning comes once, with the third such round in a row.

    Example:
        >>> still = {"grad_norm": 0.0, "weight_drift": 0.0, "zero_std_share": 1.0}
        >>> rows = [{"round": k} | still for k in (1, 2, 3)]
        >>> standstill(rows)[:63], standstill(rows[:2])
        ('the weights did not move in rounds 1 to 3: all clips of a group', '')
    """
    last = rows[-ROUNDS:]
    still = [_still(row, before) for row, before in zip(rows, [{}, *rows], strict=False)]
    if len(last) < ROUNDS or not all(still[-ROUNDS:]) or any(still[-ROUNDS - 1 : -ROUNDS]):
        return ""
    ratio = " The ratio was 1 throughout." if all(_is_one(row.get("ratio")) for row in last) else ""
    rounds = f"{last[0]['round']} to {last[-1]['round']}"
    return f"the weights did not move in rounds {rounds}: {_why(last)}.{ratio}"


def _still(row: Row, before: Row) -> bool:
    """Return whether a round did not move the weights.

    `before` is the row of the round before, and empty where there is none: before round 1
    the drift is 0. A row that an earlier version wrote may lack a number, and then that
    number decides nothing.
    """
    norm, drift = row.get("grad_norm"), row.get("weight_drift")
    earlier = 0.0 if row.get("round") == 1 else before.get("weight_drift")
    no_gradient = norm is not None and norm < NO_GRADIENT
    if drift is None or earlier is None:
        return no_gradient
    return no_gradient or abs(drift - earlier) < NO_CHANGE


def _why(rows: Sequence[Row]) -> str:
    """Return the likeliest cause, with its cure."""
    norms = [row["grad_norm"] for row in rows if row.get("grad_norm") is not None]
    if not norms and any(row.get("skipped_steps") for row in rows):
        return (
            "every optimiser step was left out, because its gradient overflowed: lower "
            'train.learning_rate, or use train.mixed_precision = "bf16" or "no"'
        )
    if max(norms, default=0.0) >= NO_GRADIENT:
        return (
            f"there is a gradient (grad_norm {max(norms):.3g}), but steps of learning rate "
            f"{max(row.get('learning_rate', 0.0) for row in rows):.3g} are lost in rounding: "
            "raise train.learning_rate or train.lr_end"
        )
    # a round without scores trains on pairs from files
    if not norms and not any("zero_std_share" in row for row in rows):
        return (
            "no pair says which clip is better: give each pair of data.pairs a label of 1 or -1, "
            "or leave the labels out where the chosen clip is better in every segment"
        )
    if not norms or all(row.get("zero_std_share", 0.0) >= 1 for row in rows):
        return (
            "all clips of a group got the same reward, so there is nothing to learn from: raise "
            "train.group, let the sampler draw more noise (algorithm.options.eta), or use a reward "
            "that sees a difference between them"
        )
    return (
        "the gradient is 0: look for a LoRA that adds nothing (policy.lora_alpha far below "
        "policy.lora_rank, a policy.lora whose scale is 0, policy.lora_targets without effect), "
        "advantages that are all 0, and clips whose ratios all lie outside "
        "algorithm.options.clip_range"
    )


def _is_one(ratio: Any) -> bool:
    """Return whether a ratio's smallest and largest value are 1, but for rounding."""
    return (
        isinstance(ratio, Mapping) and abs(ratio["min"] - 1) < 1e-6 and abs(ratio["max"] - 1) < 1e-6
    )

"""Whether training stands still, told from the rows of metrics.jsonl: rounds that do not
move the weights, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
ROUNDS = 3  # one round without movement may be chance
NO_GRADIENT = 1e-8  # AdamW's epsilon: a smaller gradient is lost in it
NO_CHANGE = 1e-7  # of weight_drift in a round: about the resolution of float32


def standstill(rows: Sequence[Row]) -> str:
    """What to tell a person after these rounds, the last ones of a run; "" where the
    weights move.

    A round stands still where its `grad_norm` is about 0, or where `weight_drift` is what
    it was after the round before. That holds for algorithms with ratios and without; a
    ratio of 1 throughout says nothing by itself, because it is 1 in the first update of
    each round. It is told once, with the third such round in a row.

    Example:
        >>> rows = [{"round": k, "grad_norm": 0.0, "weight_drift": 0.0, "zero_std_share": 1.0} for k in (1, 2, 3)]
        >>> standstill(rows)[:63], standstill(rows[:2])
        ('the weights did not move in rounds 1 to 3: all clips of a group', '')
    """
    last = rows[-ROUNDS:]
    still = [_still(row, before) for row, before in zip(rows, [{}, *rows], strict=False)]
    if len(last) < ROUNDS or not all(still[-ROUNDS:]) or any(still[-ROUNDS - 1 : -ROUNDS]):
        return ""
    ratio = " The ratio was 1 throughout." if all(_one(row.get("ratio")) for row in last) else ""
    return f"the weights did not move in rounds {last[0]['round']} to {last[-1]['round']}: {_why(last)}.{ratio}"


def _still(row: Row, before: Row) -> bool:
    """`before` is the row of the round before, empty where none is known: before the first
    round the drift is 0.

    A row of an earlier version may lack a number; nothing is concluded from what is not
    there.
    """
    norm, now, then = row.get("grad_norm"), row.get("weight_drift"), before.get("weight_drift")
    then = 0.0 if row.get("round") == 1 else then
    gone = norm is not None and norm < NO_GRADIENT
    return gone or now is not None and then is not None and abs(now - then) < NO_CHANGE


def _why(rows: Sequence[Row]) -> str:
    """The likeliest cause, with its cure."""
    norms = [row["grad_norm"] for row in rows if row.get("grad_norm") is not None]
    if not norms and any(row.get("skipped_steps") for row in rows):
        return (
            "every optimiser step was left out, because its gradient overflowed: lower train.learning_rate, or use "
            'train.mixed_precision = "bf16" or "no"'
        )
    if max(norms, default=0.0) >= NO_GRADIENT:
        return (
            f"there is a gradient (grad_norm {max(norms):.3g}), but steps of learning rate "
            f"{max(row.get('learning_rate', 0.0) for row in rows):.3g} are lost in rounding: raise "
            "train.learning_rate or train.lr_end"
        )
    # such a round scored nothing: files of pairs
    if not norms and not any("zero_std_share" in row for row in rows):
        return (
            "no pair says which clip is better: give each pair of data.pairs a label of 1 or -1, or leave the "
            "labels out where the chosen clip is better in every segment"
        )
    if not norms or all(row.get("zero_std_share", 0.0) >= 1 for row in rows):
        return (
            "all clips of a group got the same reward, so there is nothing to learn from: raise train.group, let "
            "the sampler draw more noise (algorithm.options.eta), or use a reward that sees a difference between "
            "them"
        )
    return (
        "the gradient is 0: look for a LoRA that adds nothing (policy.lora_alpha far below policy.lora_rank, a "
        "policy.lora whose scale is 0, policy.lora_targets without effect), advantages that are all 0, and clips "
        "whose ratios all lie outside algorithm.options.clip_range"
    )


def _one(ratio: Any) -> bool:
    return (
        isinstance(ratio, Mapping) and abs(ratio["min"] - 1) < 1e-6 and abs(ratio["max"] - 1) < 1e-6
    )

"""Measure what a round of a loop did: by its reward, by people, and by the guards of its run.

Legend: N prompts, S clips of each prompt; "before" is the policy that a round began with, "after"
the policy that it trained. Both have clips of the same prompts and the same noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vidrl import plugin
from vidrl.feedback.loop_plan import Plan, is_of_round
from vidrl.feedback.store import GIVEN, Answer, Store
from vidrl.inference.means import Interval
from vidrl.inference.proportions import proportion_interval
from vidrl.rewards import Samples, video
from vidrl.rewards._files import manifests

Row = dict[str, Any]
Values = dict[str, tuple[float, float]]  # of each clip: its value and its unfamiliarity


def of_round(plan: Plan, number: int) -> Row:
    """Return what the reward of a round says of its policy, before and after, ready for JSON.

    - `unfamiliar_before`, `unfamiliar_after`: the share of clips that lie outside the clips of the
      labels (the reward's part `unfamiliar` above 1), of which the reward's value is a guess.
    - `wins`: the mean of σ(u_after − u_before) over the pairs of clips of one noise: how often the
      raters' model expects that people prefer the clip after the training; with its interval over
      prompts. Pairs with a clip that is not scored are left out.
    """
    reward = plugin.load("rewards", "fitted", model=str(plan.reward(number)))
    before, prompts = scored(reward, plan.clips(number - 1))
    after, _ = scored(reward, plan.clips(number))
    names = [name for name in before if name in after]
    chances = [win(after[name][0] - before[name][0]) for name in names]
    return {
        "unfamiliar_before": share_unfamiliar(before),
        "unfamiliar_after": share_unfamiliar(after),
        "wins": _row(proportion_interval(chances, [prompts[name] for name in names])),
    }


def scored(reward: Any, folder: Path) -> tuple[Values, dict[str, str]]:
    """Return the value and the unfamiliarity of each clip of a folder, and the clips' prompts."""
    found: Values = {}
    rows = manifests.read_rows(folder / "prompts.csv")
    prompts = {Path(row.path).name: row.prompt for row in rows}
    for name, prompt in prompts.items():
        frames, fps = video.read(folder / name)
        score = reward(Samples(frames[None].float() / 255, [prompt], fps))
        found[name] = float(score.value[0]), float(score.parts["unfamiliar"].value[0])
    return found, prompts


def share_unfamiliar(values: Values) -> float:
    """Return the share of clips whose value is a guess; a clip that is not scored counts.

    >>> share_unfamiliar({"a": (0.1, 0.5), "b": (2.0, 1.5), "c": (math.nan, math.nan)})
    0.6666666666666666
    """
    return sum(not far <= 1 for _, far in values.values()) / max(len(values), 1)


def win(gap: float) -> float:
    """Return σ(gap), the probability with which the clip of the larger utility is chosen.

    NaN where a clip is not scored.

    >>> win(0.0), win(-1000.0), win(math.nan)
    (0.5, 0.0, nan)
    """
    return 0.0 if gap < -700 else 1 / (1 + math.exp(-gap))


def of_people(plan: Plan, number: int) -> Row:
    """Return what people said in round `number` + 1 of the training in round `number`.

    - `wins`: how often people preferred the clip after the training, ties counting half, over
      pairs that were drawn at random.
    - `agreement`: how often the reward of the round, which saw none of these answers, agrees with
      a decided choice.
    """
    if not plan.store.is_file():
        return {}
    store = Store(plan.store)
    try:
        rows = [row for row in store.answers() if is_of_round(plan, number + 1, row)]
        aspect = store.questionnaire.axes[-1].name
    finally:
        store.close()
    if not rows:
        return {}
    after = plan.clips(number).resolve()
    choices = [found for row in rows if (found := _choice(row, aspect, after)) is not None]
    return {
        "wins": _row(_shares([one for one in choices if one["reason"] == "random"])),
        "agreement": _row(_agreement(plan, number, choices)),
    }


def _choice(row: Answer, aspect: str, after: Path) -> Row | None:
    """Return the choice of the clip after the training (1, 0 or −1), with both clips."""
    given = GIVEN.get(row.given.get(aspect, ""))
    if given is None:
        return None
    first, second = (Path(clip.path) for clip in row.shown)
    swapped = second.resolve().is_relative_to(after)
    new, old = (second, first) if swapped else (first, second)
    choice = -given if swapped else given
    return {"choice": choice, "new": new, "old": old, "prompt": row.prompt, "reason": row.reason}


def _shares(choices: Sequence[Row]) -> Interval:
    wins = [(1 + one["choice"]) / 2 for one in choices]
    return proportion_interval(wins, [one["prompt"] for one in choices])


def _agreement(plan: Plan, number: int, choices: Sequence[Row]) -> Interval:
    """Return the share of decided choices of which the reward of a round is right."""
    reward = plugin.load("rewards", "fitted", model=str(plan.reward(number)))
    new, _ = scored(reward, plan.clips(number))
    old, _ = scored(reward, plan.clips(number - 1))
    there = [one for one in choices if one["new"].name in new and one["old"].name in old]
    gaps = [(one, new[one["new"].name][0] - old[one["old"].name][0]) for one in there]
    decided = [(one, gap) for one, gap in gaps if one["choice"] and math.isfinite(gap)]
    right = [float(gap * one["choice"] > 0) for one, gap in decided]
    return proportion_interval(right, [one["prompt"] for one, _ in decided])


def _row(found: Interval) -> Mapping[str, Any]:
    """Return an interval as JSON can hold it, with null for what is not known."""
    numbers = {name: getattr(found, name) for name in ("mean", "low", "high")}
    finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
    return {**finite, "n": found.n, "why": found.note}

"""The card of a fitted reward, in words (README.md) and in pictures (card.html), from the fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidrl.lookup.grammar import counted
from vidrl.report.charts import TEMPLATE, Line, chart, number
from vidrl.report.render import inlined, macro, render
from vidrl.rewards._fitted.folder import Taste, need_trust

# What more of a feature means, in words; rewards say it by their own names.
MEANING = {
    "picture.light": "brighter pictures",
    "picture.contrast": "more contrast",
    "picture.colour": "stronger colours",
    "picture.warmth": "more red than blue",
    "picture.green": "more green",
    "picture.detail": "more fine detail",
    "picture.change": "more change between frames",
    "picture.popping": "more that jumps and comes back",
    "motion_consistency": "steadier motion of things",
    "warp_error": "less change that motion does not explain",
    "flicker": "less flicker",
    "drift": "less drift of colour, light and detail",
    "dynamic_degree": "motion at a natural speed",
    "frame_quality": "better single frames",
    "pumping": "less pumping of sharpness",
    "freeze": "fewer frozen frames",
    "jerk": "smoother paths of points",
    "camera_object": "faster motion of things",
    "cut": "fewer cuts",
}
USE = """\
In a recipe: `[reward] name = "fitted"`, and in `[reward.options]` `model = "THIS_FOLDER"`. A gap of
d between the values of two clips means that the better clip is chosen with probability σ(d). The
part `uncertainty` is the standard deviation of a value; where the part `unfamiliar` is above 1, a
clip is unlike those of the fit. The option `caution = k` lowers each value by k standard
deviations."""
SURE = 2.0  # standard errors from 0 above which a weight is named a finding


def sentences(taste: Taste) -> list[str]:
    """Return what the fit found, in sentences."""
    facts = taste.facts
    found = _liked(taste)
    if "accuracy" in facts:
        found.append(_accuracy(facts))
        found += _beside(facts["rivals"])
    else:
        found.append(f"{_unmeasured(facts)}.")
    found += _form(taste)
    if abs(facts["side"]) > 0.2:
        place = "first" if facts["side"] > 0 else "second"
        found.append(
            f"The raters leaned to the clip that was shown {place}, by {abs(facts['side']):.2f} "
            "logits; the fit takes this out."
        )
    return found


def _liked(taste: Taste) -> list[str]:
    """Return what the people went by; a nonlinear head has slopes without errors."""
    weights = taste.facts["weights"]
    if taste.form != "linear":
        up, down = ([row for row in weights if sign * row["weight"] > 0][:5] for sign in (1, -1))
        rise = f"rises most with {_list(list(map(_phrase, up)))}" if up else ""
        fall = f"falls most with {_list(list(map(_phrase, down)))}" if down else ""
        return [
            f"The value {' and '.join(filter(None, (rise, fall)))}: slopes of a line through the "
            "values of the nonlinear head, which have no standard errors."
        ]
    liked = [_phrase(row) for row in weights if row["weight"] > 0 and _sure(row)][:5]
    disliked = [_phrase(row) for row in weights if row["weight"] < 0 and _sure(row)][:5]
    found = [f"These people preferred {_list(liked)}."] if liked else []
    found += [f"They chose against {_list(disliked)}."] if disliked else []
    return found or ["No single feature stands out from its error: the labels are few, or mixed."]


def _unmeasured(facts: Mapping[str, Any]) -> str:
    """Return that nothing was measured on held-out labels, and why."""
    return (
        "Agreement on held-out labels, calibration and the comparison with other rewards were not "
        f"measured, because {facts.get('unmeasured', 'the fit has no such record')}"
    )


def _accuracy(facts: Mapping[str, Any]) -> str:
    own = facts["accuracy"]
    if own["value"] is None:
        return f"Agreement on held-out choices was not measured, because {own['note']}."
    unit = "prompts" if facts["split"] == "prompt" else "pairs, whose clips the fit had seen,"
    stands = "" if own["answers"] == own["choices"] else f" for {own['answers']:g} answers"
    counted = f"{own['choices']} decided choices{stands}"
    return (
        f"On choices of {unit} that were held out, the reward agrees with the raters in "
        f"{_percent(own)} of {counted} (chance is 50 %)."
    )


def _beside(rivals: list[dict[str, Any]]) -> list[str]:
    if not rivals or rivals[0]["value"] is None:
        return []
    best = rivals[0]
    gain = best["difference"]
    low, high = gain["low"], gain["high"]
    if low is None:
        return [f"The best reward without fitting, {best['name']}, agrees in {_percent(best)}."]
    verdict = "more" if low > 0 else "less" if high < 0 else "no more beyond doubt"
    return [
        f"The best reward without fitting on these choices, {best['name']}, agrees in "
        f"{_percent(best)}; the fitted one agrees {verdict} (difference {100 * gain['mean']:+.1f} "
        f"points, 95 % interval {100 * low:+.1f} to {100 * high:+.1f})."
    ]


NONLINEAR = "nonlinear (a small network that reads three frames at a time)"


def _form(taste: Taste) -> list[str]:
    other = taste.facts.get("nonlinear")
    if other is None:
        asked = f"The head is {NONLINEAR}, as the option form asks."
        return ["The head is linear." if taste.form == "linear" else asked]
    if taste.form == "linear":
        return [
            f"The head is linear: one that is {NONLINEAR} did not explain held-out choices better "
            "beyond doubt."
        ]
    if not other["beyond_doubt"]:
        return [
            f"The head is {NONLINEAR}, as the option form asks; it did not explain held-out "
            "choices better than a linear one beyond doubt."
        ]
    return [f"The head is {NONLINEAR}: it explained held-out choices better than a linear one."]


def _sure(row: Mapping[str, Any]) -> bool:
    """Return whether a weight is a finding; one without an error is none."""
    return row["error"] is not None and abs(row["weight"]) > SURE * row["error"]


def _phrase(row: Mapping[str, Any]) -> str:
    name = row["feature"]
    return f"{MEANING.get(name, f'a higher {name}')} ({number(row['weight'], sign=True, digits=2)})"


def _list(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _percent(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return "– %"
    ends = (
        f" ({100 * row['low']:.0f} to {100 * row['high']:.0f} %)"
        if row["low"] is not None and row["high"] is not None
        else ""
    )
    return f"{100 * row['value']:.1f} %{ends}"


# --- README.md


def readme(taste: Taste, audit: Mapping[str, Any] | None = None, command: str = "") -> str:
    """Return the card as Markdown."""
    facts = taste.facts
    blocks = [
        f"# A reward for the aspect {facts['aspect']}, fitted to people's labels",
        " ".join(sentences(taste)),
        "## Use",
        f"    vidrl score clips/ --reward fitted --option model=THIS_FOLDER{trust(taste)}",
        USE,
        "## Labels",
        _bullets(_labels(facts)),
        "## Weights",
        _weights_table(facts),
    ]
    if "accuracy" not in facts:
        blocks += ["## Held-out agreement", f"{_unmeasured(facts)}."]
    elif facts["accuracy"]["value"] is None:
        blocks += ["## Held-out agreement", _accuracy(facts), *_more(facts)]
    else:
        blocks += ["## Held-out agreement", _rivals_table(facts), *_more(facts)]
    blocks += ["## Audit", _audit(audit), "## Limits", _bullets(_limits(facts))]
    if command:
        blocks += ["## Command", f"    {command}"]
    return "\n\n".join(blocks) + "\n"


def trust(taste: Taste) -> str:
    """Return the option with which a fit to features that name code is read, or nothing."""
    return " --option trusted=true" if need_trust(taste.features) else ""


def _labels(facts: Mapping[str, Any]) -> list[str]:
    low, high = facts["frames"]
    rates = sorted({f"{rate:g}" for rate in facts["rates"]}, key=float)
    length = f"{low}" if low == high else f"{low} to {high}"
    every = facts["answers"]
    stand = "" if every == facts["choices"] else f"that stand for {every:g} answers, "
    rows = [
        f"{counted(facts['choices'], 'choices')}, {stand}{facts['ties']} of them ties; "
        f"{counted(facts['points'], 'points')}; "
        f"{counted(facts['local'], 'comparisons of segments or marked faults')}",
        f"{counted(facts['clips'], 'clips')} of {length} frames at {' to '.join(rates)} frames a "
        f"second, of {counted(facts['prompts'], 'prompts')}",
        counted(len(facts["raters"]), "named raters"),
        *facts["notes"],
    ]
    if facts["lost"]:
        first = next(iter(facts["lost"].items()))
        rows.append(
            f"{counted(len(facts['lost']), 'clips')} left out, with their labels; the first is "
            f"{first[0]}: {first[1]}"
        )
    return rows


def _weights_table(facts: Mapping[str, Any]) -> str:
    rows = [
        f"| {row['feature']} | {MEANING.get(row['feature'], '')} | {row['weight']:+.2f} | "
        f"{'' if row['error'] is None else format(row['error'], '.2f')} |"
        for row in facts["weights"]
    ]
    slopes = any(row["error"] is None for row in facts["weights"])
    head = [
        "A weight is the slope of a line through the values of the nonlinear head: the gain in "
        "logits for one standard deviation of the feature among the clips, without an error."
        if slopes
        else "A weight is the gain in logits for one standard deviation of the feature among the "
        "clips.",
        "",
        "| feature | more of it means | weight | standard error |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *rows])


def _rivals_table(facts: Mapping[str, Any]) -> str:
    rows = [f"| **fitted** | {_percent(facts['accuracy'])} | |"]
    for row in facts["rivals"]:
        gain = row["difference"]
        ends = (
            f" ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})"
            if gain["low"] is not None
            else ""
        )
        rows.append(f"| {row['name']} | {_percent(row)} | {100 * (gain['mean'] or 0):+.1f}{ends} |")
    return "\n".join(["| reward | agreement | fitted less this, points |", "|---|---|---|", *rows])


def _more(facts: Mapping[str, Any]) -> list[str]:
    found = [_calibration(facts)]
    if facts["learning_curve"]:
        steps = ", ".join(
            f"{row['labels']}: {100 * row['accuracy']:.0f} %" for row in facts["learning_curve"]
        )
        found.append(f"Agreement by the number of choices that were learned: {steps}.")
    if facts["by_rater"]:
        rows = [
            f"{row['rater']}: {_percent(row)}"
            if row["value"] is not None
            else f"{row['rater']}: not measured, because {row['note']}"
            for row in facts["by_rater"]
        ]
        found.append(
            "A rater whose choices, points and marks the fit did not see, on clips that it may "
            "have seen:\n\n" + _bullets(rows)
        )
    else:
        found.append(
            "Agreement with a rater whom the fit did not see is not known: the labels name fewer "
            "than two raters."
        )
    return found


def _calibration(facts: Mapping[str, Any]) -> str:
    found = facts["reliability"]
    if found["error"] is None:
        own = facts["accuracy"]
        why = own["note"] if own["value"] is None else found["why"]
        factor = f"The reward's values were multiplied by {facts['temperature']:.2f}."
        return f"Calibration: not measured, because {why}. {factor}"
    return (
        f"Calibration: the mean distance of predicted and observed shares is "
        f"{100 * found['error']:.1f} points. Here the predictions of each fold were multiplied by "
        "the factor that suits the other folds; the reward's values were multiplied by "
        f"{facts['temperature']:.2f}, the factor that suits all."
    )


def _audit(audit: Mapping[str, Any] | None) -> str:
    if audit is None:
        return (
            "No result: the audit was left out, or it did not end. "
            "`vidrl audit fitted --option model=THIS_FOLDER` shows what raises the reward."
        )
    lines = [f"{audit['outcome']}: {audit['verdict']}"]
    if audit["wins"]:
        lines.append(f"Changes that raised the reward: {', '.join(audit['wins'])}.")
    return "\n\n".join(lines)


def _limits(facts: Mapping[str, Any]) -> list[str]:
    rows = [
        "The reward knows clips like those of its labels only; clips of other sizes, rates or "
        "lengths are unfamiliar.",
        "A feature that no label varied has no weight, whatever people think of it.",
    ]
    if facts.get("split") == "pair":
        rows.append(
            "All labels share prompts or clips, so the agreement was measured on clips that the "
            "fit had seen, and is too high."
        )
    return rows


def _bullets(rows: list[str]) -> str:
    return "\n".join(f"- {row}" for row in rows)


# --- card.html


def page(taste: Taste, audit: Mapping[str, Any] | None = None) -> str:
    """Return the card as one HTML page with pictures."""
    facts = taste.facts
    return render(
        "feedback/fit.html",
        style=inlined("report/templates/report.css"),
        aspect=facts["aspect"],
        sentences=sentences(taste),
        labels=_labels(facts),
        weights=_weight_rows(facts),
        reliability=_reliability(facts),
        growth=_growth(facts),
        rivals=_rival_rows(facts),
        clips=_clips(facts),
        audit=_audit(audit),
    )


def _weight_rows(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    ends = [abs(row["weight"]) + SURE * (row["error"] or 0) for row in facts["weights"]]
    rows = []
    for row in facts["weights"]:
        weight, error = row["weight"], SURE * (row["error"] or 0)
        style = "" if not _sure(row) else "up" if weight > 0 else "down"
        drawn = _bar(weight - error, weight, weight + error, max(ends), style)
        rows.append(
            {
                "name": row["feature"],
                "meaning": MEANING.get(row["feature"], ""),
                "weight": number(weight, sign=True, digits=2),
                "drawn": drawn,
            }
        )
    return rows


def _bar(low: float, middle: float, high: float, reach: float, style: str) -> Any:
    """Draw an interval on an axis from −reach to reach, which all rows share."""

    def place(value: float) -> float:
        return 50 + 48 * value / (reach or 1.0)

    ends = (place(low), place(high))
    return macro(TEMPLATE, "interval", style=style, zone=None, bar=ends, dot=place(middle))


def _reliability(facts: Mapping[str, Any]) -> Any:
    if facts.get("reliability", {}).get("error") is None:
        return None
    bins = facts["reliability"]["bins"]
    ideal = Line("ideal", [0.0, 1.0], [0.0, 1.0], "before")
    predicted, observed = ([b[key] for b in bins] for key in ("predicted", "observed"))
    seen = Line("observed", predicted, observed, "after", dots=True)
    return chart([ideal, seen], span=(0, 1), axis="predicted", title="reliability")


def _growth(facts: Mapping[str, Any]) -> Any:
    rows = facts.get("learning_curve") or []
    if len(rows) < 2:
        return None
    line = Line(
        "agreement",
        [row["labels"] for row in rows],
        [row["accuracy"] for row in rows],
        low=[row["low"] for row in rows],
        high=[row["high"] for row in rows],
        dots=True,
    )
    return chart([line], axis="choices", title="agreement by the number of choices", level=0.5)


def _rival_rows(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for row in (one for one in facts.get("rivals", []) if one["value"] is not None):
        gain = row["difference"]
        mean = gain["mean"] or 0.0
        low, high = (mean if gain[end] is None else gain[end] for end in ("low", "high"))
        style = "up" if low > 0 else "down" if high < 0 else ""
        drawn = _bar(low, mean, high, 0.6, style)  # agreement differs by 0.5 at most, and its error
        rows.append({"name": row["name"], "agreement": _percent(row), "drawn": drawn})
    return rows


def _clips(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": Path(one["clip"]).name,
            "value": number(one["value"], sign=True, digits=3),
            "chart": chart(
                [Line("utility", list(range(len(one["curve"]))), one["curve"])],
                axis="frame",
                title=f"utility over time of {Path(one['clip']).name}",
                level=0.0,
            ),
        }
        for one in facts["extremes"]
    ]

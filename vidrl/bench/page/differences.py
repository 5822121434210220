"""The comparisons of two sets: all dimensions on one axis, in standard deviations of clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vidrl.bench.page.facts import (
    Chip,
    Results,
    Row,
    compared,
    difference,
    dim_name,
    exceeds_least_relevant,
    few,
    has_enough_clips,
    is_withheld,
    least_relevant,
    margin_verdict,
    mean,
    probability,
    scale,
    significant_side,
    verdict,
)
from vidrl.bench.pairing import NAME, PROMPT, SEED, UNPAIRED
from vidrl.bench.sample_size import detectable_difference, prompts_needed
from vidrl.report.charts import number

REACHES = (0.5, 1.0, 2.0, 3.0)  # where an axis may end, standard deviations
INSIDE = {
    "equivalent": "within plus and minus",
    "not worse": "above minus",
    "not better": "below plus",
}
OPEN = 3  # tables of pairs of sets that are open; with more tables all are closed
PAIRED = {
    SEED: "Clips of one prompt and seed are paired.",
    PROMPT: "All clips of a prompt are compared with all of the other set's clips of it.",
    NAME: "Files of one name are paired.",
    UNPAIRED: "The sets have too little in common to be paired: the means of all clips are "
    "compared.",
}
STYLES = {1: "up", 0: "", -1: "down"}  # CSS classes, by the verdict
SIZES = (
    "dimension",
    "effect size",
    "margin",
    "interval, all together",
    "p",
    "p, corrected",
    "win rate",
    "pairs",
    "prompts",
    "found at 80 % power from",
    "prompts that find this difference",
    "notes",
)


def differences(results: Results) -> dict[str, Any] | None:
    """Return the data of the section; None where there is one set."""
    pairs = compared(results)
    if not pairs:
        return None
    bare = [dim_name(dim) for dim in results["dims"] if dim.get("relevant") is None]
    return {
        "paired": _paired(results),
        "family": _family(results),
        "unmeasured": bare,  # dimensions on which any difference beyond doubt counts
        "pairs": [_pair(results, *names, rows) for names, rows in pairs.items()],
        "closed": len(pairs) > OPEN,
    }


def _paired(results: Results) -> str:
    """Say how clips were paired, in one sentence for each way that occurs."""
    ways = dict.fromkeys(row.get("paired_by") or PROMPT for row in results["comparisons"])
    return " ".join(PAIRED.get(way) or f"Clips are paired by {way}." for way in ways)


def _family(results: Results) -> str:
    """Say for how many comparisons the p values are corrected."""
    sets, primary = len(results["sets"]), (results.get("claims") or {}).get("primary")
    of_sets = f" and all {sets * (sets - 1) // 2} pairs of sets" if sets > 2 else ""
    if primary:
        return (
            f" (of {primary}, which was named first, for the pairs of sets alone; of the others "
            f"for all dimensions{of_sets}, and only where {primary} differs too)"
        )
    return f" for all dimensions{of_sets} (Holm)"


def _pair(results: Results, first: str, second: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the table of two sets, with the counts that its title says where it is closed."""
    reach = _reach(results, rows)
    verdicts = [verdict(results, row) for row in rows]
    return {
        "first": first,
        "second": second,
        "better": verdicts.count(1),
        "worse": verdicts.count(-1),
        "open": verdicts.count(0),
        "rows": [_row(results, row, reach) for row in rows],
        "scale": [
            {"left": _place(at, reach), "words": number(at, sign=at != 0)} for at in _ticks(reach)
        ],
        "sizes": {"head": SIZES, "rows": [_sizes(results, row) for row in rows]},
    }


def _row(results: Results, row: Row, reach: float) -> dict[str, Any]:
    """Return the comparison of two sets on one dimension."""
    one, two = (mean(results, row[side], row["dim"])[0] for side in ("first", "second"))
    gap, low, high = difference(row)
    return {
        "style": STYLES[verdict(results, row)],
        "dim": _dim(results, row),
        "chip": _chip(results, row),
        "one": one,
        "two": two,
        "gap": gap,
        "plot": _forest(results, row, reach),
        "interval": f"{low} to {high}" if row.get("low") is not None else "–",
        "p": probability(row.get("p_holm")),
        "wins": _wins(row),
    }


def _dim(results: Results, row: Row) -> str:
    dims = [dim for dim in results["dims"] if dim["name"] == row["dim"]]
    return dim_name(dims[0] if dims else {"name": row["dim"]})


def _chip(results: Results, row: Row) -> Chip | None:
    """Return the label of a comparison: the first reason that limits what may be concluded."""
    notes = _notes(row)
    if not row.get("n"):
        return Chip("no pairs", notes, bad=True)
    if not has_enough_clips(results, row):
        return Chip(few(results, row), notes, bad=True)
    if is_withheld(results, row):
        return Chip("clips without a number", notes, bad=True)
    if significant_side(results, row) and not exceeds_least_relevant(results, row):
        words = f"re-encoding alone makes {number(least_relevant(results, row['dim']))}"
        return Chip("not relevant", words, bad=True)
    if word := margin_verdict(results, row):
        words = (
            f"the interval of all differences together lies {INSIDE[word]} the margin, "
            f"{number(row['margin'])}"
        )
        return Chip(word, words)
    return Chip("note", notes) if notes else None


def _notes(row: Row) -> str:
    return "; ".join(map(str, row.get("notes") or []))


def _forest(results: Results, row: Row, reach: float) -> dict[str, Any]:
    """Return a dot at the difference and a bar over its interval, on the shared axis.

    Numbers are in standard deviations between clips. Without an interval there is only the
    axis. A dot that lies beyond the axis is drawn at its end with its number.
    """
    std = scale(results, row)
    ticks = [{"left": _place(at, reach), "zero": at == 0} for at in _ticks(reach)]
    if std is None or row.get("difference") is None or row.get("low") is None:
        return {"ticks": ticks, "words": ""}
    low, middle, high = (row[key] / std for key in ("low", "difference", "high"))
    texts = [number(value, sign=True, digits=2) for value in (middle, low, high)]
    left, right = _place(low, reach), _place(high, reach)
    return {
        "ticks": ticks,
        "words": f"{texts[0]} standard deviations, {texts[1]} to {texts[2]}",
        "left": left,
        "width": max(right - left, 0.6),
        "dot": _place(middle, reach),
        "far": "" if abs(middle) <= reach else "over" if middle > 0 else "under",
        "value": texts[0],
    }


def _sizes(results: Results, row: Row) -> list[Any]:
    """Return the row of the table of effect sizes, in the order of SIZES."""
    return [
        _dim(results, row),
        number(row.get("effect"), sign=True),
        number(least_relevant(results, row["dim"])),
        _interval(row, "all_low", "all_high"),
        probability(row.get("p")),
        probability(row.get("p_holm")),
        _win_rate(row),
        row.get("n") or 0,
        row.get("prompts") or "–",
        *_prompts_needed(results, row),
        _notes(row),
    ]


def _interval(row: Row, low: str, high: str) -> str:
    return f"{number(row.get(low))} to {number(row.get(high))}" if row.get(low) is not None else "–"


def _prompts_needed(results: Results, row: Row) -> list[str]:
    """Return the least difference that these prompts find, and the prompts that this one needs."""
    if row.get("spread") is None:
        return ["–", "–"]
    family = sum(one.get("spread") is not None for one in results["comparisons"])
    needed = prompts_needed(row["spread"], row["difference"], family)
    return [
        number(detectable_difference(row["spread"], row["groups"], family)),
        "–" if needed is None else f"about {needed}",
    ]


def _win_rate(row: Row) -> str:
    """Return the win rate and its interval, in percent."""
    if row.get("win_rate") is None:
        return "–"
    ends = ""
    if row.get("win_low") is not None:
        ends = f" ({100 * row['win_low']:.0f} to {100 * row['win_high']:.0f})"
    return f"{100 * row['win_rate']:.0f} %{ends}"


def _wins(row: Row) -> dict[str, Any] | None:
    """Return the prompts that the second set wins, ties and loses, as words and as bars."""
    counts = [row.get(key) or 0 for key in ("wins", "ties", "losses")]
    if not sum(counts):
        return None
    styles = zip(("plus", "tie", "minus"), counts, strict=True)
    return {
        "words": " / ".join(map(str, counts)),
        "bars": [{"style": style, "count": count} for style, count in styles if count],
    }


def _reach(results: Results, rows: Sequence[Row]) -> float:
    """Return the smallest end of the axis that shows every interval, or the largest end."""
    most = 0.0
    for row in rows:
        std = scale(results, row)
        if std and row.get("low") is not None:
            most = max(most, abs(row["low"]) / std, abs(row["high"]) / std)
    return next((reach for reach in REACHES if most <= reach), REACHES[-1])


def _ticks(reach: float) -> list[float]:
    step = 0.25 if reach == 0.5 else 0.5 if reach == 1.0 else 1.0
    return [k * step for k in range(-round(reach / step), round(reach / step) + 1)]


def _place(value: float, reach: float) -> float:
    """Return the place of a value on the axis in percent; 2 % on both sides are left free."""
    return 50 + 48 * min(1.0, max(-1.0, value / reach))

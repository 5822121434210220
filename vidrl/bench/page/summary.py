"""The summary: every set on every dimension, its mean and interval over the marks of its
clips."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from vidrl.bench.page.facts import (
    Results,
    Row,
    best_set,
    dim_name,
    few,
    group_letters,
    hue,
    mean,
    plural,
    told,
)
from vidrl.report.charts import number

FAR = 3.0  # quartile ranges beyond the quartiles: Tukey's far out, drawn at the edge


def summary(results: Results) -> str:
    """The section."""
    blocks = "".join(_block(results, dim) for dim in results["dims"])
    bold = " Bold: better than every other set beyond doubt." if len(results["sets"]) > 1 else ""
    bold += (
        " Sets with a letter in common are not told apart; a is the best."
        if len(results["sets"]) > 2
        else ""
    )
    head = "".join(
        f'<span role="columnheader">{name}</span>'
        for name in ("", "mean", "95 % interval", "every clip, the mean and its interval", "clips")
    )
    return (
        f'<section id="summary"><h2>Every dimension</h2><p class="note">Each mark is a clip; the dot is the mean, '
        f"the bar its 95 % interval, from resampled prompts, each with all its clips. Each dimension has its own "
        f'axis, shared by the sets; right is better.{bold}</p><div class="measures" role="table" '
        f'aria-label="Every dimension"><div class="measure head" role="row">{head}</div>{blocks}</div>'
        f"{_spreads(results)}</section>"
    )


def _block(results: Results, dim: Row) -> str:
    """A dimension: its name and card, then one row a set on one axis."""
    low, high = _ends(results, dim["name"])
    told_apart = group_letters(results, dim["name"]) if len(results["sets"]) > 2 else {}
    rows = "".join(
        _row(
            results,
            one["name"],
            dim["name"],
            values(one, dim["name"]),
            (low, high),
            told_apart.get(one["name"], ""),
        )
        for one in results["sets"]
    )
    about = f"<p>{escape(dim['about'])}</p>" if dim.get("about") else ""
    compatible = (
        '<span class="chip">VBench\'s arithmetic</span>' if dim.get("profile") == "vbench" else ""
    )
    ends = (
        f"<span>{number(low)}</span><span>{number(high)}</span>"
        if high > low
        else f"<span>{number(low)}</span>"
    )
    drawn = any(values(one, dim["name"]) for one in results["sets"])
    alone = (
        marks(results, told(results, results["sets"][0]["name"], dim["name"]))
        if len(results["sets"]) == 1
        else ""
    )
    under = f'<div class="axis" aria-hidden="true"><i></i><div>{ends}</div></div>' if drawn else ""
    return (
        f'<div class="of" role="row"><div role="rowheader"><h3>{dim_name(dim)}{compatible}{alone}</h3>{about}'
        f"</div></div>{rows}{under}"
    )


def _ends(results: Results, dim: str) -> tuple[float, float]:
    """The axis of a dimension: of its clips, and of the intervals of all sets."""
    low, high = axis([value for one in results["sets"] for value in values(one, dim)])
    rows = [
        row
        for one in results["sets"]
        if (row := told(results, one["name"], dim)).get("low") is not None
    ]
    return min([low, *(row["low"] for row in rows)]), max([high, *(row["high"] for row in rows)])


def _row(
    results: Results,
    name: str,
    dim: str,
    found: Sequence[float],
    ends: tuple[float, float],
    letter: str,
) -> str:
    row = told(results, name, dim)
    middle, low, high = mean(results, name, dim)
    strong = ' class="best"' if best_set(results, dim) == name else ""
    interval = f"{low} to {high}" if row.get("low") is not None else "–"
    group = f'<small class="letters"> {letter}</small>' if letter else ""
    cells = (
        f'<span role="cell"{strong}>{middle}{group}</span><span role="cell" class="range">{interval}</span>'
        f'<span role="cell">{strip(row, found, ends)}</span><span role="cell" class="count">{_count(row)}</span>'
    )
    colour = hue(results, [one["name"] for one in results["sets"]].index(name))
    who = (
        f'<span><i class="key {colour}"></i>{escape(name)}</span>{marks(results, row)}'
        if len(results["sets"]) > 1
        else "all clips"
    )
    return (
        f'<div class="measure {colour}" role="row"><span role="rowheader" class="who">{who}'
        f"</span>{cells}</div>{_noted(row)}"
    )


def _noted(row: Row) -> str:
    """What is to be known of a number beside what its marks say."""
    notes = [
        note for note in row.get("notes") or [] if not note.startswith(("fewer than", "saturated"))
    ]
    return f'<p class="noted">{escape("; ".join(notes))}</p>' if notes else ""


def marks(results: Results, row: Row) -> str:
    """Chips for what weakens a number: too few clips, saturation, values that are not
    there."""
    chips, why = [], escape("; ".join(row.get("notes") or []))
    if not row.get("n"):
        chips.append('<span class="chip out">unscored</span>')
    elif not row.get("enough", True):
        chips.append(f'<span class="chip out" title="{why}">{escape(few(results, row))}</span>')
    if row.get("saturated"):
        chips.append(f'<span class="chip out" title="{why}">saturated</span>')
    if row.get("unscored") and row.get("n"):
        chips.append(f'<span class="chip">{escape(str(row["unscored"]))} unscored</span>')
    return "".join(chips)


def strip(row: Row, found: Sequence[float], ends: tuple[float, float]) -> str:
    """The clips as marks on an axis, the mean as a dot, its interval as a bar."""
    if not found or row.get("mean") is None:
        return '<div class="strip none"></div>'
    places = sorted({round(place(value, ends), 1) for value in found})
    ticks = "".join(f"M{at:g},0V1" for at in places)
    bar = _bar(row, ends)
    ends_told = f"{number(min(found))} to {number(max(found))}"
    words = f"mean {number(row['mean'])}, {plural(len(found), 'clip')} from {ends_told}"
    return (
        f'<div class="strip" role="img" aria-label="{words}" title="{words}"><svg viewBox="0 0 100 1" '
        f'preserveAspectRatio="none" aria-hidden="true"><path d="{ticks}"/></svg>{bar}'
        f'<i class="dot" style="left:{place(row["mean"], ends):.2f}%"></i></div>'
    )


def axis(found: Sequence[float]) -> tuple[float, float]:
    """The ends of a dimension's axis: its values, less what lies far out.

    >>> axis([0.0, 1.0, 2.0, 3.0, 4.0]), axis([1.0, 1.1, 1.2, 1.3, 50.0]), axis([])
    ((0.0, 4.0), (1.0, 1.9), (0.0, 0.0))
    """
    if not found:
        return (0.0, 0.0)
    ranked = sorted(found)
    lower, upper = (ranked[round(q * (len(ranked) - 1))] for q in (0.25, 0.75))
    reach = FAR * (upper - lower) or ranked[-1] - ranked[0]
    return max(ranked[0], lower - reach), min(ranked[-1], upper + reach)


def place(value: float, ends: tuple[float, float]) -> float:
    """Where a value stands on an axis, in percent, from 1 to 99; the middle of an axis
    without length."""
    low, high = ends
    share = (value - low) / (high - low) if high > low else 0.5
    return 1 + 98 * min(1.0, max(0.0, share))


def values(one: Row, dim: str) -> list[float]:
    """The scored values of a set on a dimension."""
    return [clip["value"][dim] for clip in one["clips"] if clip["value"].get(dim) is not None]


def _bar(row: Row, ends: tuple[float, float]) -> str:
    if row.get("low") is None or row.get("high") is None:
        return ""
    left, right = place(row["low"], ends), place(row["high"], ends)
    return f'<i class="bar" style="left:{left:.2f}%;width:{max(right - left, 0.4):.2f}%"></i>'


def _spreads(results: Results) -> str:
    """How far clips are apart, and how much of it is between clips of one prompt."""
    rows = "".join(
        _spread(dim, one["name"], told(results, one["name"], dim["name"]))
        for dim in results["dims"]
        for one in results["sets"]
    )
    head = "".join(
        f'<th scope="col">{name}</th>'
        for name in (
            "dimension",
            "set",
            "std of clips",
            "std between prompts",
            "std within a prompt",
            "its share of the variance",
        )
    )
    return (
        f'<details><summary>Spread of the clips, and within a prompt</summary><div class="scroll"><table><thead>'
        f"<tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _spread(dim: Row, name: str, row: Row) -> str:
    share = row.get("within_prompt_share")
    cells = [
        dim_name(dim),
        escape(name),
        number(row.get("std")),
        number(row.get("between_prompt_std")),
        number(row.get("within_prompt_std")),
        "–" if share is None else f"{100 * share:.0f} %",
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _count(row: Row) -> str:
    if not row.get("n"):
        return "0"
    prompts = row.get("prompts")
    n = escape(str(row["n"]))
    return f"{n}<small> / {plural(prompts, 'prompt')}</small>" if prompts and prompts > 1 else n

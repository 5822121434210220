"""The comparisons of two sets: all dimensions at once on one axis, in standard deviations
between clips."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from vidrl.bench.page.facts import (
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
    listed,
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
OPEN = 3  # tables of pairs of sets that stand open; more are closed
PAIRED = {
    SEED: "Clips of one prompt and seed are paired.",
    PROMPT: "All clips of a prompt are compared with all of the other set's clips of it.",
    NAME: "Files of one name are paired.",
    UNPAIRED: "The sets have too little in common to be paired: the means of all clips are compared.",
}
STYLES = {1: "up", 0: "", -1: "down"}


def differences(results: Results) -> str:
    """The section; empty where there is one set."""
    pairs = compared(results)
    if not pairs:
        return ""
    shown = [
        _table(results, first, second, rows, len(pairs) > 1)
        for (first, second), rows in pairs.items()
    ]
    titles = [_titled(results, *names, rows) for names, rows in pairs.items()]
    tables = (
        "".join(shown)
        if len(shown) <= OPEN
        else "".join(
            f"<details><summary>{title}</summary>{table}</details>"
            for title, table in zip(titles, shown, strict=True)
        )
    )
    return (
        f'<section id="differences"><h2>{"Difference" if len(pairs) == 1 else "Differences"}</h2>'
        f'<p class="note">{_paired(results)} The dot is the mean difference, the bar its 95 % interval, from '
        f"resampled prompts; both are divided by the standard deviation between clips, so that all dimensions "
        f'share one axis. <span class="up">Teal</span>: better beyond doubt, <span class="down">orange</span>: '
        f"worse. Beyond doubt means: p &lt; 0.05 after correction{_family(results)}; also where every clip without "
        f"a number counts as the worst; and more than the least relevant difference, which a re-encoding that "
        f"nobody sees makes. Grey: the clips do not tell, or too little to matter. Wins, ties and losses count "
        f"prompts.{_unmeasured(results)}</p>{tables}</section>"
    )


def _titled(results: Results, first: str, second: str, rows: Sequence[Row]) -> str:
    """The title of a closed table, with what it says."""
    said = [verdict(results, row) for row in rows]
    return (
        f"{escape(second)} against {escape(first)}: better on {said.count(1)}, worse on {said.count(-1)}, not told "
        f"apart on {said.count(0)}"
    )


def _family(results: Results) -> str:
    """What p values are corrected for."""
    sets, primary = len(results["sets"]), (results.get("claims") or {}).get("primary")
    of_sets = f" and all {sets * (sets - 1) // 2} pairs of sets" if sets > 2 else ""
    if primary:
        return (
            f" (of {escape(primary)}, which was named first, for the pairs of sets alone; of the others for all "
            f"dimensions{of_sets}, and only where {escape(primary)} differs too)"
        )
    return f" for all dimensions{of_sets} (Holm)"


def _unmeasured(results: Results) -> str:
    """The dimensions on which any sure difference counts."""
    bare = [dim_name(dim) for dim in results["dims"] if dim.get("relevant") is None]
    return f" No least relevant difference is known of {listed(bare)}." if bare else ""


def _paired(results: Results) -> str:
    """How clips were paired, a sentence a way."""
    ways = dict.fromkeys(row.get("paired_by") or PROMPT for row in results["comparisons"])
    return " ".join(PAIRED.get(way) or f"Clips are paired by {escape(way)}." for way in ways)


def _table(results: Results, first: str, second: str, rows: Sequence[Row], several: bool) -> str:
    reach = _reach(results, rows)
    title = f"<h4>{escape(second)} against {escape(first)}</h4>" if several else ""
    names = (
        "",
        escape(first),
        escape(second),
        "difference",
        "",
        "95 % interval",
        "p, corrected",
        "wins / ties / losses",
    )
    styles = ("dim", "one", "two", "gap", "plot", "range", "p", "wtl")
    head = "".join(
        f'<span role="columnheader" class="{style}">{name}</span>'
        for style, name in zip(styles, names, strict=True)
    )
    body = "".join(_row(results, row, reach) for row in rows)
    return (
        f'{title}<div class="compare" role="table" aria-label="{escape(second)} against {escape(first)}">'
        f'<div class="versus head" role="row">{head}</div>{body}{_scale(first, second, reach)}</div>'
        f"{_sizes(results, rows)}"
    )


def _row(results: Results, row: Row, reach: float) -> str:
    dim = next((dim for dim in results["dims"] if dim["name"] == row["dim"]), {"name": row["dim"]})
    one, two = (mean(results, row[side], row["dim"])[0] for side in ("first", "second"))
    gap, low, high = difference(row)
    style = STYLES[verdict(results, row)]
    interval = f"{low} to {high}" if row.get("low") is not None else "–"
    cells = [
        ("one", one),
        ("two", two),
        ("gap", gap),
        ("plot", forest(results, row, reach)),
        ("range", interval),
        ("p", probability(row.get("p_holm"))),
        ("wtl", _wins(row)),
    ]
    drawn = "".join(
        f'<span role="cell" class="{name}"{_named(row, name)}>{cell}</span>' for name, cell in cells
    )
    return (
        f'<div class="versus {style}" role="row"><span role="rowheader" class="dim">{dim_name(dim)}'
        f"{_chip(results, row)}</span>{drawn}</div>"
    )


def _named(row: Row, name: str) -> str:
    """The set of a mean, which a narrow page says beside it."""
    side = {"one": "first", "two": "second"}.get(name)
    return f' data-name="{escape(row[side])}"' if side else ""


def _chip(results: Results, row: Row) -> str:
    notes = "; ".join(map(str, row.get("notes") or []))
    if not row.get("n"):
        return f'<span class="chip out" title="{escape(notes)}">no pairs</span>'
    if not has_enough_clips(results, row):
        return f'<span class="chip out" title="{escape(notes)}">{escape(few(results, row))}</span>'
    if is_withheld(results, row):
        return f'<span class="chip out" title="{escape(notes)}">clips without a number</span>'
    if significant_side(results, row) and not exceeds_least_relevant(results, row):
        words = f"re-encoding alone makes {number(least_relevant(results, row['dim']))}"
        return f'<span class="chip out" title="{words}">not relevant</span>'
    if word := margin_verdict(results, row):
        words = f"the interval of all differences together lies {INSIDE[word]} the margin, {number(row['margin'])}"
        return f'<span class="chip" title="{words}">{word}</span>'
    return f'<span class="chip" title="{escape(notes)}">note</span>' if notes else ""


def forest(results: Results, row: Row, reach: float) -> str:
    """A dot at the difference and a bar over its interval, in standard deviations between
    clips."""
    std = scale(results, row)
    lines = "".join(
        f'<i class="tick{" zero" if at == 0 else ""}" style="left:{_place(at, reach):.2f}%"></i>'
        for at in _ticks(reach)
    )
    if std is None or row.get("difference") is None or row.get("low") is None:
        return f'<div class="shared">{lines}</div>'
    low, middle, high = (row[key] / std for key in ("low", "difference", "high"))
    left, right = _place(low, reach), _place(high, reach)
    said = [number(value, sign=True, digits=2) for value in (middle, low, high)]
    words = f"{said[0]} standard deviations, {said[1]} to {said[2]}"
    far = (
        f'<b class="{"over" if middle > 0 else "under"}">{said[0]}</b>'
        if abs(middle) > reach
        else ""
    )
    return (
        f'<div class="shared" role="img" aria-label="{words}" title="{words}">{lines}'
        f'<i class="bar" style="left:{left:.2f}%;width:{max(right - left, 0.6):.2f}%"></i>'
        f'<i class="dot" style="left:{_place(middle, reach):.2f}%"></i>{far}</div>'
    )


def _sizes(results: Results, rows: Sequence[Row]) -> str:
    """Effect sizes, p before correction, and what was paired."""
    names = {dim["name"]: dim_name(dim) for dim in results["dims"]}
    head = "".join(
        f'<th scope="col">{name}</th>'
        for name in (
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
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td>{cell}</td>"
            for cell in [
                names.get(row["dim"], escape(row["dim"])),
                number(row.get("effect"), sign=True),
                number(least_relevant(results, row["dim"])),
                probability(row.get("p")),
                probability(row.get("p_holm")),
                escape(str(row.get("n") or 0)),
                escape(str(row.get("prompts") or "–")),
                escape("; ".join(map(str, row.get("notes") or []))),
            ]
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<details><summary>Effect sizes and pairs</summary><div class="scroll"><table><thead><tr>{head}</tr>'
        f"</thead><tbody>{body}</tbody></table></div></details>"
    )


def _ends(row: Row, low: str, high: str) -> str:
    return f"{number(row.get(low))} to {number(row.get(high))}" if row.get(low) is not None else "–"


def _needs(results: Results, row: Row) -> list[str]:
    """The least difference that the prompts find, and how many prompts find the one that is
    there."""
    if row.get("spread") is None:
        return ["–", "–"]
    family = sum(one.get("spread") is not None for one in results["comparisons"])
    few = prompts_needed(row["spread"], row["difference"], family)
    return [
        number(detectable_difference(row["spread"], row["groups"], family)),
        "–" if few is None else f"about {few}",
    ]


def _rate(row: Row) -> str:
    """The win rate and its interval, in percent."""
    if row.get("win_rate") is None:
        return "–"
    ends = (
        f" ({100 * row['win_low']:.0f} to {100 * row['win_high']:.0f})"
        if row.get("win_low") is not None
        else ""
    )
    return f"{100 * row['win_rate']:.0f} %{ends}"


def _reach(results: Results, rows: Sequence[Row]) -> float:
    """The smallest end of the axis that shows every interval, or the largest there is."""
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
    return 50 + 48 * min(1.0, max(-1.0, value / reach))


def _scale(first: str, second: str, reach: float) -> str:
    """The axis under the rows."""
    labels = "".join(
        f'<span style="left:{_place(at, reach):.2f}%">{number(at, sign=at != 0)}</span>'
        for at in _ticks(reach)
    )
    ends = f"<em>← {escape(first)} better</em><em>{escape(second)} better →</em>"
    return (
        f'<div class="versus under" aria-hidden="true"><div class="plot"><div class="labels">{labels}</div>{ends}'
        f"</div></div>"
    )


def _wins(row: Row) -> str:
    counts = [row.get(key) or 0 for key in ("wins", "ties", "losses")]
    total = sum(counts)
    if not total:
        return "–"
    bars = "".join(
        f'<i class="{style}" style="flex-grow:{escape(str(count))}"></i>'
        for style, count in zip(("plus", "tie", "minus"), counts, strict=True)
        if count
    )
    return f'<span>{escape(" / ".join(map(str, counts)))}</span><span class="share" aria-hidden="true">{bars}</span>'

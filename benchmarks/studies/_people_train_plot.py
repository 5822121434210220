"""Draw the picture of the study people_train as SVG text: gains of arms, and long runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from vidrl.inference.means import interval

Rows = Sequence[dict[str, Any]]
INKS = {
    "fitted": "#0b7a75",
    "true": "#c2571a",
    "default": "#3b4252",
    "permuted": "#777f8a",
    "dpo": "#8f6bb3",
    "kto": "#d1495b",
    "few": "#0b7a75",
    "cautious": "#8f6bb3",
}
WIDE, HIGH = 330, 240  # of a panel
LEFT, TOP = 70, 50  # the corner of the first panel
GAP = 90  # between the panels
LOWEST = -1.5  # of the left axis


def picture(rows: Rows) -> str:
    """Return the SVG: the gain of every run on the left, the course of long runs on the right."""
    drawn = [*_dots(rows), *_courses(rows)]
    width, height = 2 * (LEFT + WIDE) + GAP, TOP + HIGH + 60
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        'font-family="ui-sans-serif,system-ui,Helvetica,Arial,sans-serif" font-size="11" '
        f'fill="#1b1c1e"><rect width="{width}" height="{height}" rx="10" fill="#ffffff"/>'
        f"{''.join(drawn)}</svg>\n"
    )


def _dots(rows: Rows) -> Iterable[str]:
    """Draw the gain of each run as a dot, and the mean of each arm with its interval."""
    arms = [arm for arm in INKS if arm not in ("few", "cautious") and _gains(rows, arm)]
    every = [value for arm in arms for value in _gains(rows, arm)]
    low, high = _range([0.0, *(max(value, LOWEST) for value in every)])
    yield _text(LEFT, TOP - 20, "gain in true utility, a dot for each seed", 'font-weight="600"')
    yield from _axis(LEFT, low, high)
    for n, arm in enumerate(arms):
        yield from _arm(LEFT + WIDE * (n + 0.5) / len(arms), arm, _gains(rows, arm), low, high)


def _arm(x: float, arm: str, values: Sequence[float], low: float, high: float) -> Iterable[str]:
    """Draw the runs of an arm; a run below the axis is an arrow with its number."""
    found, ink = interval(values), INKS[arm]
    for value in values:
        y = _y(value, low, high)
        if value >= low:
            yield f'<circle cx="{x - 8:.1f}" cy="{y:.1f}" r="3" fill="{ink}" opacity="0.5"/>'
    below = [value for value in values if value < low]
    for place, value in enumerate(sorted(below, reverse=True)):
        y = TOP + HIGH - 13 * (len(below) - 1 - place)
        yield _text(x - 2, y, f"↓ {value:.1f}", f'fill="{ink}" text-anchor="end"')
    # what lies below the axis is cut off
    ends = [_y(min(max(end, low), high), low, high) for end in (found.low, found.high)]
    if found.mean >= low:
        mean = _y(found.mean, low, high)
        yield f'<path d="M{x:.1f},{mean:.1f}h14" stroke="{ink}" stroke-width="3"/>'
    if found.low == found.low:  # too few seeds have no interval
        yield f'<path d="M{x + 7:.1f},{ends[0]:.1f}V{ends[1]:.1f}" stroke="{ink}"/>'
    yield _text(x, TOP + HIGH + 18, arm, f'fill="{ink}" text-anchor="middle"')


def _courses(rows: Rows) -> Iterable[str]:
    """Draw the true utility (line) and the fitted reward (dashed) of the long runs."""
    left = LEFT + WIDE + GAP
    runs = [row for row in rows if row["arm"] in ("few", "cautious")]
    if not runs:
        return
    curves = [(row["arm"], name, _risen(row, name)) for row in runs for name in ("true", "fitted")]
    low, high = _range([value for _, _, curve in curves for value in curve])
    last = max(row["rounds"][-1] for row in runs)
    title = "60 labels: rise of the true utility (line) and the fitted reward (dashes)"
    yield _text(left - 40, TOP - 20, title, 'font-weight="600"')
    yield from _axis(left, low, high)
    for row in runs:
        for name, dash in (("true", ""), ("fitted", ' stroke-dasharray="5 3"')):
            points = "L".join(
                f"{left + WIDE * at / last:.1f},{_y(value, low, high):.1f}"
                for at, value in zip(row["rounds"], _risen(row, name), strict=True)
            )
            yield f'<path d="M{points}" fill="none" stroke="{INKS[row["arm"]]}"{dash}/>'
    yield _text(left + WIDE / 2, TOP + HIGH + 18, f"rounds, 0 to {last}", 'text-anchor="middle"')
    for n, (arm, words) in enumerate((("few", "without caution"), ("cautious", "caution 1"))):
        yield _text(left + 8, TOP + 14 + 15 * n, words, f'fill="{INKS[arm]}"')


def _gains(rows: Rows, arm: str) -> list[float]:
    curves = [row["measures"]["true"] for row in rows if row["arm"] == arm]
    return [curve[-1] - curve[0] for curve in curves]


def _risen(row: dict[str, Any], name: str) -> list[float]:
    curve = row["measures"][name]
    return [value - curve[0] for value in curve]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis: the values with a margin."""
    margin = 0.08 * (max(values) - min(values)) or 1.0
    return min(values) - margin, max(values) + margin


def _y(value: float, low: float, high: float) -> float:
    return TOP + HIGH * (high - value) / (high - low)


def _axis(left: float, low: float, high: float) -> Iterable[str]:
    """Draw the line of zero, and the two ends of the axis."""
    zero = _y(0.0, low, high)
    yield f'<path d="M{left},{zero:.1f}h{WIDE}" stroke="#b8bcc4"/>'
    for value in (low, 0.0, high):
        yield _text(
            left - 8, _y(value, low, high) + 4, f"{value:+.2f}", 'fill="#62656b" text-anchor="end"'
        )


def _text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{words}</text>'

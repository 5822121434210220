"""Draw the plot of the study time_to_reward as SVG text.

The left panel shows the gain against CPU seconds, the right one the ratios of times.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import isfinite, log2
from typing import Any

from _time_to_reward_arms import PLAIN
from _time_to_reward_times import gain_at

from vidrl.inference.means import interval

INKS = (
    "#3b4252",
    "#d1495b",
    "#2a7f9e",
    "#e09f3e",
    "#5b8c5a",
    "#8f6bb3",
    "#b5651d",
    "#777f8a",
    "#c2185b",
    "#00796b",
)
DASHES = ("", "6 3", "2 3")
GREY = 'fill="#62656b"'
WIDE, HIGH = 620, 380  # size of the left panel
LEFT, TOP = 60, 40  # its upper left corner
POINTS = 25  # the budget is divided into so many intervals to draw a curve


def picture(study: Any) -> str:
    """Return the SVG with the curves on the left and the ratios on the right."""
    curves = {arm: curve(study, arm) for arm in study.arms}
    parts = [
        *axes(study, curves),
        *(line for arm in study.arms for line in drawn(study, arm, curves)),
    ]
    parts += ratios(study, LEFT + WIDE + 170)
    width, height = LEFT + WIDE + 560, max(TOP + HIGH + 50, TOP + 24 * len(study.arms) + 60)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" '
        f'font-family="ui-sans-serif,system-ui,Helvetica,Arial,sans-serif" '
        f'font-size="11" fill="#1b1c1e">'
        f'<rect width="{width}" height="{height}" rx="10" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


Point = tuple[float, float, float, float]  # x, mean, low, high


def curve(study: Any, arm: str) -> list[Point]:
    """Return the mean gain with its 95 % interval along steady CPU seconds.

    The curve ends where the first run of the arm ends, because a mean over fewer runs would
    jump.
    """
    runs, found = list(study.finals(arm).values()), []
    for i in range(POINTS + 1):
        at = study.budgets["steady"] * i / POINTS
        gains = [gain_at(run, at, study.x(run, "steady")) for run in runs]
        if not all(map(isfinite, gains)):
            break
        over = interval(gains, unit="pairs")
        low, high = (over.low, over.high) if isfinite(over.low) else (over.mean, over.mean)
        found.append((at, over.mean, low, high))
    return found


def scale(study: Any, curves: dict[str, list[Point]]) -> tuple[float, float]:
    """Return the least and the greatest gain that is drawn."""
    means = [value for points in curves.values() for _, value, _, _ in points]
    return min([0.0, *means]) - 0.05, max([study.target, *means]) * 1.1


def place(study: Any, curves: dict[str, list[Point]], x: float, y: float) -> tuple[float, float]:
    """Return the position of a point in the left panel, in SVG units."""
    low, high = scale(study, curves)
    y = min(max(y, low), high)
    return LEFT + WIDE * x / study.budgets["steady"], TOP + HIGH * (1 - (y - low) / (high - low))


def text(x: float, y: float, words: str, more: str = "") -> str:
    """Return one label as SVG."""
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(words)}</text>'


def axes(study: Any, curves: dict[str, list[Point]]) -> list[str]:
    """Return the frame, the ticks and the line of the target."""
    low, high = scale(study, curves)
    end, y = study.budgets["steady"], place(study, curves, 0, study.target)[1]
    step = 0.25 if high - low < 2 else 0.5
    ticks = [k * step for k in range(int(high / step) + 1)]
    parts = [
        f'<rect x="{LEFT}" y="{TOP}" width="{WIDE}" height="{HIGH}" fill="none" stroke="#c9ccd1"/>',
        text(LEFT, TOP - 10, "gain of the held-out composite, mean and 95 % interval", GREY),
        text(LEFT + WIDE, TOP + HIGH + 30, "CPU seconds of training, steady", 'text-anchor="end"'),
        f'<path d="M{LEFT},{y:.1f}h{WIDE}" stroke="#9aa0a6" stroke-dasharray="4 3"/>',
        text(LEFT + WIDE - 4, y - 4, f"target {study.target:+.2f}", f'text-anchor="end" {GREY}'),
    ]
    parts += [
        text(LEFT - 6, place(study, curves, 0, t)[1] + 4, f"{t:.2f}", 'text-anchor="end"')
        for t in ticks
    ]
    quarters = [(LEFT + WIDE * k / 4, f"{end * k / 4:.0f}") for k in range(5)]
    return parts + [
        text(x, TOP + HIGH + 15, words, 'text-anchor="middle"') for x, words in quarters
    ]


def style(arms: Sequence[str], arm: str) -> tuple[str, str]:
    """Return the colour and the dashes of an arm."""
    i = list(arms).index(arm)
    return INKS[i % len(INKS)], DASHES[i // len(INKS) % len(DASHES)]


def drawn(study: Any, arm: str, curves: dict[str, list[Point]]) -> list[str]:
    """Return the curve of one arm and the band of its intervals."""
    ink, dash = style(study.arms, arm)
    points = curves[arm]
    if len(points) < 2:
        return []
    upper = [place(study, curves, x, high) for x, _, _, high in points]
    lower = [place(study, curves, x, low) for x, _, low, _ in reversed(points)]
    middle = [place(study, curves, x, value) for x, value, _, _ in points]
    pen = f'fill="none" stroke="{ink}" stroke-width="2" stroke-dasharray="{dash}"'
    return [
        f'<polygon points="{joined(upper + lower)}" fill="{ink}" opacity=".08"/>',
        f'<polyline points="{joined(middle)}" {pen}/>',
        text(middle[-1][0] + 3, middle[-1][1] - 3, arm, f'fill="{ink}"'),
    ]


def joined(points: Sequence[tuple[float, float]]) -> str:
    """Format points as an SVG list of coordinates."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def ratios(study: Any, left: float) -> list[str]:
    """Draw plain's steady CPU seconds to the target over each arm's, on a log2 axis."""
    found = {arm: study.ratio(PLAIN, arm, "steady") for arm in study.arms if arm != PLAIN}
    wide = 340
    # the axis shows log2 from −2 (a quarter) to 6 (64 times); ratios beyond lie on its ends
    at = lambda ratio: left + wide * (min(max(log2(ratio), -2.0), 6.0) + 2) / 8  # noqa: E731
    bottom = TOP + 24 * len(found) + 6
    parts = [text(left - 130, TOP - 10, "plain's CPU seconds to the target / the arm's", GREY)]
    for tick in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64):
        dash = "" if tick == 1 else ' stroke-dasharray="2 4"'
        parts += [
            f'<path d="M{at(tick):.1f},{TOP}V{bottom}" stroke="#c9ccd1"{dash}/>',
            text(at(tick), bottom + 14, f"{tick:g}×", f'text-anchor="middle" {GREY}'),
        ]
    order = sorted(found, key=lambda arm: -found[arm].value if isfinite(found[arm].value) else 0)
    for i, arm in enumerate(order):
        y, one = TOP + 24 * i + 18, found[arm]
        ink, _ = style(study.arms, arm)
        parts.append(
            text(
                left - 8,
                y + 4,
                f"{arm} ({one.pairs - one.cut} of {one.pairs})",
                'text-anchor="end"',
            )
        )
        if isfinite(one.low):
            parts.append(
                f'<path d="M{at(one.low):.1f},{y}H{at(one.high):.1f}" '
                f'stroke="{ink}" stroke-width="3"/>'
            )
        if isfinite(one.value):
            parts.append(f'<circle cx="{at(one.value):.1f}" cy="{y}" r="4" fill="{ink}"/>')
    return parts

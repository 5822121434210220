"""The page of a run: one HTML file that holds everything it shows.

Each function here turns one kind of file of the run folder into plain data;
templates/run.html holds the HTML. The larger sections have modules of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vidrl.lookup.grammar import counted
from vidrl.training.guards import LEFT, OUTSIDE

from ..charts import Line, chart, decimals, interval, number, places
from ..render import inlined, render
from ..run_folder import Row, Run, side
from .credit import credit_section
from .film import given, player
from .headline import warnings
from .influence import influence_section
from .suite import suite_section

# The metrics that are drawn as a single line: title → keys in a row of metrics.jsonl.
SINGLE = {
    "clip share": ("clip_share",),
    "KL to the reference": ("kl",),
    "gradient norm": ("grad_norm",),
    "learning rate": ("learning_rate",),
    "weight drift": ("weight_drift",),
    "spread within a group": ("reward", "within_group_std"),
    "groups without spread": ("zero_std_share",),
    "unscored": ("unscored_share",),
    "diversity within a group": ("diversity",),
    "squared error on the clips of files": ("error",),
    "squared error on data.clips": ("data_error",),
}
# The CSS class of a row of the table, by how its measure changed.
STYLES = {"better": "up", "worse": "down", "rose": "moved", "fell": "moved"}


def page(run: Run) -> str:
    """Return the page as HTML."""
    return render(
        "report/run.html",
        style=inlined("report/templates/report.css"),
        script=inlined("report/templates/report.js"),
        name=run.folder.resolve().name,
        lede=_lede(run),
        warnings=warnings(run),
        facts=_facts(run),
        clips=_clips(run),
        held_out=_held_out(run),
        people=_people(run),
        curves=_curves(run),
        suite=suite_section(run),
        credit=credit_section(run),
        influence=influence_section(run),
        events=_events(run),
        config=run.config_text,
        versions=run.summary.get("versions", {}),
    )


# --- the head and the table


def _lede(run: Run) -> dict[str, Any]:
    """Return the parts of the sentence under the title: how the composite changed."""
    row = run.held_out.get("composite")
    if row is None:
        return {"compared": False, "rounds": len(run.metrics)}
    count = row.get("n") or (run.evals[-1].get("n") if run.evals else None)
    moved = {1: "rose", -1: "fell"}.get(side(row), "did not move measurably")
    before, after, change, low, high = _numbers(row)
    has_interval = row["low"] is not None
    running = run.summary.get("status") == "running"
    return {
        "compared": True,
        "rounds": run.summary["rounds"] if running else None,
        "prompts": f"{count:.0f} held-out prompts" if count else "held-out prompts",
        "verdict": moved if has_interval else "changed",
        "before": before,
        "after": after,
        "change": change,
        "interval": (low, high) if has_interval else None,
        "reason": row.get("note") or "it has no interval",
    }


def _numbers(row: Mapping[str, Any]) -> list[str]:
    """Return before, after, difference, low and high, with decimals that fit the interval."""
    digits = places(0.0 if row["low"] is None else row["high"] - row["low"])
    plain = [decimals(row[side], places=digits) for side in ("before", "after")]
    return plain + [
        decimals(row[side], sign=True, places=digits) for side in ("difference", "low", "high")
    ]


def _facts(run: Run) -> list[tuple[str, Any]]:
    """Return the facts under the title, without those that the run folder does not hold."""
    backbone, algorithm = (run.config.get(name, {}) for name in ("backbone", "algorithm"))
    seconds = run.summary.get("train_seconds") or (
        run.metrics[-1].get("total_seconds") if run.metrics else None
    )
    found = [
        ("status", run.summary.get("status", "unfinished")),
        ("rounds", run.summary.get("rounds", len(run.metrics))),
        ("training time", seconds and f"{seconds // 60:.0f} min {seconds % 60:.0f} s"),
        ("model", backbone.get("options", {}).get("model", backbone.get("name"))),
        ("algorithm", algorithm.get("name")),
        ("seed", run.config.get("seed")),
        ("device", run.summary.get("device")),
    ]
    return [(name, value) for name, value in found if value is not None]


def _people(run: Run) -> list[str]:
    """Return what the reward says of itself, and how often people would choose the new clips."""
    sentences = list(run.summary.get("remarks", []))
    for name, row in run.summary.get("choices", {}).items():
        known = row["low"] is not None
        ends = f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]" if known else ""
        sentences.append(
            f"By {name}, the people whose labels were fitted would choose the clip after training "
            f"over the clip before it in {100 * row['share']:.1f} %{ends} of choices without ties, "
            f"on {counted(row['n'], 'held-out prompts')}. This is the reward's own estimate: only "
            "new labels show whether it holds."
        )
    return sentences


def _held_out(run: Run) -> list[dict[str, Any]]:
    """Return the rows of the table in three groups: the composite, its parts, other measures."""
    parts = [name for name in run.parts if name != "composite"]
    others = [name for name in run.held_out if name not in (*parts, "composite")]
    groups = {
        "": [name for name in ("composite",) if name in run.held_out],
        "Parts of the reward": parts,
        "Guards and truth": others,
    }
    return [
        {"title": title, "rows": [_held_out_row(run, name) for name in names]}
        for title, names in groups.items()
        if names
    ]


def _held_out_row(run: Run, name: str) -> dict[str, Any]:
    row = run.held_out[name]
    before, after, difference, low, high = _numbers(row)
    style = STYLES.get(run.change(name), "")
    return {
        "name": name,
        "chips": _chips(run, name),
        "before": before,
        "after": after,
        "difference": difference,
        "plot": interval(row["low"], row["high"], row["difference"], run.allowed(name), style),
        "note": row.get("note") or "",
        "interval": "none" if row["low"] is None else f"{low} to {high}",
    }


def _chips(run: Run, name: str) -> list[dict[str, Any]]:
    """Return the labels of a measure: the verdict of its guard, and a change beyond doubt."""
    verdict, change = run.verdict(name), run.change(name)
    chips = [{"words": verdict, "bad": verdict in (LEFT, OUTSIDE)}] if verdict else []
    # a reward that is optimised is expected to change, so that only other measures are labelled
    if change and name != "composite" and name not in run.parts:
        chips.append({"words": change, "bad": change == "worse"})
    return chips


# --- clips


def _clips(run: Run) -> dict[str, Any] | None:
    """Return the clips before and after training, with their curves over the frames."""
    if not run.timelines:
        return None
    images = all(str(row["file"]).endswith(".png") for row in run.timelines)
    return {"images": images, "cards": [_clip(run, row, images) for row in run.timelines]}


def _clip(run: Run, row: Row, is_image: bool) -> dict[str, Any]:
    # an image has no curve over time: its parts are listed as numbers
    curves = {} if is_image else _paired_curves(row)
    composite = curves.pop("composite", None)
    return {
        "prompt": row["prompt"],
        "given": "" if is_image else given(run, row, "clips", "after"),
        "sides": [
            {
                "name": side,
                "player": player(run.clip("clips", side, row["file"])),
                "value": number(row[side].get("value")),
            }
            for side in ("before", "after")
        ],
        "facts": _part_values(row) if is_image else [],
        "chart": _frames_chart(run, "composite", composite) if composite else "",
        "parts": [(name, _frames_chart(run, name, pair)) for name, pair in curves.items()],
    }


def _paired_curves(row: Row) -> dict[str, list[Any]]:
    """Return the curves before and after training by name; None for a side without one."""
    before, after = (row[side].get("curves", {}) for side in ("before", "after"))
    return {name: [before.get(name), after.get(name)] for name in {**before, **after}}


def _part_values(row: Row) -> list[tuple[str, str]]:
    """Return an image's parts before and after training: each is one number."""
    before, after = (row[side].get("parts") or {} for side in ("before", "after"))
    return [
        (name, f"{number(value)} → {number(after.get(name))}")
        for name, value in before.items()
        if value is not None
    ]


def _frames_chart(run: Run, name: str, pair: Sequence[Sequence[float | None] | None]) -> str:
    """Draw the curves before and after training over the frames of a clip."""
    sides = zip(("before", "after"), pair, strict=True)
    # the value of frame t is drawn in the middle of its cell [t, t + 1)
    lines = [
        Line(side, [frame + 0.5 for frame in range(len(curve))], curve, side)
        for side, curve in sides
        if curve
    ]
    length = max((len(line.y) for line in lines), default=1)
    segments = run.credit[0].get("segments", []) if run.credit else []
    return chart(
        lines,
        borders=[start for start, _ in segments if 0 < start < length],
        span=(0, length),
        axis="frame",
        cells=True,
        title=f"{name}, frame by frame",
    )


# --- learning curves


def _curves(run: Run) -> list[dict[str, Any]]:
    """Return a card for each metric that any round recorded."""
    if not run.metrics:
        return []
    held_out = ["composite", *run.config.get("guard", {}).get("bands", {})]
    parts = run.metrics[-1].get("parts", {})
    cards = [
        _band_curve(run, "reward of the training clips", ("reward",)),
        *(_held_out_curve(run, name) for name in held_out),
        *(_band_curve(run, f"part: {name}", ("parts", name)) for name in parts),
        _ratio(run),
        *(_single_curve(run, title, path) for title, path in SINGLE.items()),
    ]
    return [card for card in cards if card]


def _card(title: str, last: Any, drawn: str, digits: int = 3) -> dict[str, Any]:
    return {"title": title, "value": number(last, digits=digits), "chart": drawn}


def _single_curve(run: Run, title: str, path: Sequence[str]) -> dict[str, Any] | None:
    y = _column(run.metrics, *path)
    if all(value is None for value in y):
        return None
    line = Line(title, _rounds(run.metrics), y)
    return _card(title, y[-1], chart([line], axis="round", title=title))


def _band_curve(run: Run, title: str, path: tuple[str, ...]) -> dict[str, Any] | None:
    """Return the mean of a metric with a band of one standard deviation on both sides."""
    mean, std = (_column(run.metrics, *path, name) for name in ("mean", "std"))
    if all(value is None for value in mean):  # rounds whose clips no reward has scored
        return None
    low, high = (
        [None if m is None or s is None else m + sign * s for m, s in zip(mean, std, strict=True)]
        for sign in (-1, 1)
    )
    line = Line(title, _rounds(run.metrics), mean, low=low, high=high)
    return _card(title, mean[-1], chart([line], axis="round", title=title))


def _ratio(run: Run) -> dict[str, Any] | None:
    """Return the ratio with its range; the horizontal line is 1, where no weight has changed."""
    mean, low, high = (_column(run.metrics, "ratio", name) for name in ("mean", "min", "max"))
    if all(value is None for value in mean):
        return None
    line = Line("mean", _rounds(run.metrics), mean, low=low, high=high)
    # ratios differ from 1 only in late digits
    drawn = chart([line], axis="round", title="ratio", level=1.0, digits=6)
    return _card("ratio", mean[-1], drawn, digits=6)


def _held_out_curve(run: Run, name: str) -> dict[str, Any] | None:
    """Return a held-out measure at every evaluation.

    Evaluations between rounds may measure only the first prompts (`eval_n`). Then all points
    are of these prompts, so that they can be compared.
    """
    comparable = [row.get("first") or row for row in run.evals]
    y = _column(comparable, "measures", name, "mean")
    if all(value is None for value in y):
        return None
    count = next((row["first"].get("n") for row in run.evals if row.get("first")), None)
    title = f"{name}, first {count} prompts" if count else name
    line = Line(name, _rounds(run.evals), y, dots=True)
    drawn = chart([line], axis="round", title=f"held-out {title}")
    return _card(f"held out: {title}", y[-1], drawn)


def _rounds(rows: Sequence[Row]) -> list[float]:
    return [row["round"] for row in rows]


def _column(rows: Sequence[Row], *path: str) -> list[float | None]:
    """Return the number at a path of keys in every row; None where there is no number."""
    return [_at(row, path) for row in rows]


def _at(row: Any, path: Sequence[str]) -> float | None:
    for name in path:
        row = row.get(name) if isinstance(row, Mapping) else None
    return row if isinstance(row, (int, float)) else None


def _events(run: Run) -> list[dict[str, Any]]:
    return [
        {
            "round": number(row.get("round")),
            "kind": row.get("kind", ""),
            "message": row.get("message", ""),
        }
        for row in run.events
    ]

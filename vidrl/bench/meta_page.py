"""Format the meta-evaluation as Markdown and as an SVG picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vidrl.audit.hacks import HACKS
from vidrl.audit.page import GAIN, LOSS, NONE
from vidrl.bench.detection import FEWEST_SOURCES
from vidrl.bench.export import code_line, plain_markdown
from vidrl.report.charts import decimals
from vidrl.report.render import render

# Pixels of the picture: width and height of a cell, margins for the names of dims (left)
# and corruptions (top).
CELL, HIGH = 34, 27
LEFT, TOP = 196, 84
TITLES = {
    "all": "all clips",
    "world": "scenes of vidrl.synthetic.world",
    "real": "pieces of real videos",
}
PROFILES = {"vidrl": "vidrl", "vbench": "others' arithmetic"}

ABOUT = """\
Every clip is corrupted and then saved with loss, and compared with four saved versions of
the sound clip. The numbers are areas under the ROC curve. 1: the corruption always lowers
the dim's score. 0.5: it changes the score no more than saving does. Below 0.5: **it raises
the score**. *Paired*: a corrupted clip against its own sound version. *Unpaired*: against
sound clips of other sources, as where the original is not known. Intervals are 95 %, over
source videos. *Lowered*, *open* and *raised* count the corruptions at full strength that a
person could see (docs/guides/audit.md) by the paired interval: above 0.5, around it, below
it. *Corrected* counts those that remain when p is corrected by Holm's method over all these
corruptions of a dim: of many uncorrected intervals a few miss 0.5 by chance."""


def page(found: Mapping[str, Any], picture: str) -> str:
    """Return the Markdown page."""
    versions = ", ".join(f"{name} {version}" for name, version in found.get("versions", {}).items())
    counted = {source: found["clips"][source] for source in _shown_sources(found)}
    clips = ", ".join(
        f"{n['clips']} {TITLES[source]} ({n['videos']} sources)" for source, n in counted.items()
    )
    parts = [
        "# Which faults lower a dim, and which raise it",
        "",
        code_line(found.get("command", "")),
        versions,
        "",
        f"{clips}; strengths {', '.join(f'{s:g}' for s in found['strengths'])}.",
        "",
        ABOUT,
        "",
        f"![areas by dim and corruption]({picture})",
        "",
        summary(found),
        "",
        *failings(found),
    ]
    parts += [
        f"## {TITLES[source].capitalize()}, strength 1: paired area × "
        f"100\n\n{matrix(found, source)}\n"
        for source in counted
    ]
    return "\n".join([*parts, *_notes(found)])


def summary(found: Mapping[str, Any]) -> str:
    """Return a table with one line for each dim: all clips, at full strength."""
    head = (
        "| dim | profile | paired, mean | at half | unpaired, mean | lowered | corrected | "
        "open | **raised** | corrected |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *(_line(dim, row) for dim, row in _by_dim(found).items())])


def failings(
    found: Mapping[str, Any], dims: Sequence[str] = ("default", "vbench_quality_of_3")
) -> list[str]:
    """Return where the composites fail: faults that do not lower them, or raise them."""
    rows = {(row["dim"], row["source"]): row for row in found["summary"]}
    lines = [
        f"- {dim}, {TITLES[source]}, strength {strength}: {_failed(at)}"
        for dim in dims
        for source in _shown_sources(found)
        if (dim, source) in rows
        for strength, at in rows[dim, source]["strengths"].items()
        if at["faults"]
    ]
    return ["## Where the composites fail", "", *lines, ""] if lines else []


def _failed(at: Mapping[str, Any]) -> str:
    if at["few"]:
        return f"too few videos for a verdict; below 0.5 for {', '.join(at['below']) or 'nothing'}"
    lowered = (
        f"not shown to be lowered by {', '.join(at['open'])}" if at["open"] else "lowered by all"
    )
    return f"{lowered}; raised by {', '.join(at['raises']) or 'none'}"


def _shown_sources(found: Mapping[str, Any]) -> list[str]:
    """Return the single sources of clips, or "all" if there is only one."""
    return [source for source in found["clips"] if source != "all"] or ["all"]


def _by_dim(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    rows = {row["dim"]: row for row in found["summary"] if row["source"] == "all"}
    return {dim["name"]: rows[dim["name"]] | {"profile": dim["profile"]} for dim in found["dims"]}


def _line(dim: str, row: Mapping[str, Any]) -> str:
    levels = sorted(row["strengths"], key=float)
    full, half = row["strengths"][levels[-1]], row["strengths"].get("0.5")
    not_shown = len(full["open"]) + len(full["few"]) + len(full["unscored"])
    return (
        f"| {dim} | {PROFILES[row['profile']]} | {_area(full['paired'])} | "
        f"{decimals(half['paired']['area'], places=2) if half else '–'} | "
        f"{_area(full['unpaired'])} | {len(full['lowers'])} of {full['faults']} | "
        f"{len(full['lowers_corrected'])} | {not_shown} | "
        f"{', '.join(full['raises']) or 'none'} | {', '.join(full['raises_corrected']) or 'none'} |"
    )


def _area(area: Mapping[str, float | None]) -> str:
    return (
        f"{decimals(area['area'], places=2)} [{decimals(area['low'], places=2)}, "
        f"{decimals(area['high'], places=2)}]"
    )


def matrix(found: Mapping[str, Any], source: str) -> str:
    """Return dims by corruptions at the greatest strength, areas in hundredths.

    Corruptions that a person cannot see stand right of the bar ‖.
    """
    cells, names = areas(found, source), [*columns(found)[0], "‖", *columns(found)[1]]
    head = f"| | {' | '.join(names)} |\n|---|{'---|' * len(names)}"
    return "\n".join(
        [
            head,
            *(
                f"| {dim['name']} | "
                f"{' | '.join(_hundredths(cells, dim['name'], n) for n in names)} |"
                for dim in found["dims"]
            ),
        ]
    )


def _hundredths(
    cells: Mapping[tuple[str, str], list[Mapping[str, Any]]], dim: str, name: str
) -> str:
    levels = cells.get((dim, name))
    if not levels or levels[-1]["paired"]["area"] is None:
        return "" if name == "‖" else "–"
    text = f"{100 * levels[-1]['paired']['area']:.0f}"
    return f"**{text}**" if levels[-1]["verdict"] == "raises" else text


def areas(found: Mapping[str, Any], source: str) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Return the areas by dim and corruption, each list from weak to strong."""
    cells: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for area in found["areas"]:
        if area["source"] == source:
            cells.setdefault((area["dim"], area["corruption"]), []).append(area)
    return cells


def columns(found: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the corruptions that a person can see at full strength, and the others."""
    names = list(found["corruptions"])
    visible = [
        name
        for name in names
        if HACKS[name].detectable(max(found["corruptions"][name]["strengths"]))
    ]
    return visible, [name for name in names if name not in visible]


def _notes(found: Mapping[str, Any]) -> list[str]:
    """Return the notes: dims, missing values, clips left out."""
    notes = [f"- {dim['name']}: {dim['note']}" for dim in found["dims"] if dim["note"]]
    unscored = [
        f"- {row['dim']}: {row['times']} × {plain_markdown(row['why'])}"
        for row in found["unscored"]
        if row["why"] != "untouched"
    ]
    left = [
        f"- left out: {plain_markdown(one['name'])}: {plain_markdown(one['why'])}"
        for one in found.get("left_out", [])
    ]
    same = [row["times"] for row in found["unscored"] if row["why"] == "untouched"]
    alike = (
        [f"- {max(same)} corrupted clips are the same as before, and not counted"] if same else []
    )
    return ["## Notes", "", *notes, *alike, *unscored, *left, ""]


# --- the picture ----------------------------------------------------------------------


def colour(area: float) -> str:
    """Return a colour: teal where a corruption lowers the score, orange where it raises it.

    It is pale at 0.5.

    >>> colour(0.5), colour(1.0), colour(0.0)
    ('#f5f5f2', '#0b7a75', '#c2571a')
    """
    share, end = min(1.0, abs(2 * area - 1)), GAIN if area > 0.5 else LOSS
    return "#" + "".join(
        f"{round(a + (b - a) * share):02x}" for a, b in zip(NONE, end, strict=True)
    )


def picture(found: Mapping[str, Any]) -> str:
    """Return the SVG picture: one panel for each source of clips, dims by corruptions."""
    sources = _shown_sources(found)
    visible, invisible = columns(found)
    groups = {name for name in PROFILES if any(dim["profile"] == name for dim in found["dims"])}
    panel = TOP + HIGH * (len(found["dims"]) + len(groups)) + 14
    text = render(
        "bench/meta.svg",
        width=LEFT + CELL * (len(visible) + len(invisible)) + (66 if invisible else 30),
        height=62 + panel * len(sources) + 64,
        panels=[_panel(found, source, 62 + panel * k) for k, source in enumerate(sources)],
        legend=[colour(k / 6) for k in range(7)],
    )
    return text + "\n"


def _panel(found: Mapping[str, Any], source: str, y: float) -> dict[str, Any]:
    """Return the panel of one source, which starts at height `y`."""
    visible, invisible = columns(found)
    counted, cells = found["clips"][source], areas(found, source)
    is_small = counted["videos"] < FEWEST_SOURCES
    few = f" (of {counted['videos']}: too few for frames)" if is_small else ""
    # a gap separates the corruptions that a person cannot detect
    places = {
        name: LEFT + CELL * k + (24 if name in invisible else 0)
        for k, name in enumerate([*visible, *invisible])
    }
    groups = []
    top = y + TOP
    for profile, title in PROFILES.items():
        dims = [dim["name"] for dim in found["dims"] if dim["profile"] == profile]
        rows = [_row(cells, dim, places, top + HIGH * (k + 1)) for k, dim in enumerate(dims)]
        if rows:
            groups.append({"title": title, "y": top + 18, "rows": rows})
            top += HIGH * (len(dims) + 1)
    return {
        "title": f"{counted['clips']} {TITLES[source]}{few}",
        "y": y + 10,
        "heads": [
            {"name": name, "x": x + 0.55 * CELL, "y": y + TOP - 8} for name, x in places.items()
        ],
        "groups": groups,
    }


def _row(
    cells: Mapping[tuple[str, str], list[Mapping[str, Any]]],
    dim: str,
    places: Mapping[str, float],
    y: float,
) -> dict[str, Any]:
    """Return one dim: its name and a cell for each corruption."""
    drawn = [
        _cell(cells.get((dim, name), []), x, y, HACKS[name].counts_from)
        for name, x in places.items()
    ]
    return {"dim": dim, "x": LEFT - 10, "y": y + 18, "bold": dim == "default", "cells": drawn}


def _cell(
    levels: Sequence[Mapping[str, Any]], x: float, y: float, counts_from: float
) -> dict[str, Any]:
    """Return a cell: the greatest strength as a field with its number, weaker ones as strips."""
    place = {"middle": x + CELL / 2, "y": y, "colour": None}
    if not levels or levels[-1]["paired"]["area"] is None:
        return place
    *weak, full = levels
    area, wide = full["paired"]["area"], (CELL - 3) / max(len(weak), 1)
    is_faded = full["strength"] < counts_from
    return place | {
        "x": x + 1.5,
        "width": CELL - 3,
        "height": HIGH - 8,
        "colour": colour(area),
        "framed": full["verdict"] == "raises",
        "faded": is_faded,
        # white can be read on strong colours alone
        "white": abs(area - 0.5) > 0.3 and not is_faded,
        "words": f"{100 * area:.0f}",
        "strips": [
            {
                "x": x + 1.5 + k * wide,
                "width": wide - 1,
                "colour": colour(level["paired"]["area"]),
            }
            for k, level in enumerate(weak)
            if level["paired"]["area"] is not None
        ],
    }

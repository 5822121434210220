"""Any clip frame by frame: its frames, maps of where faults are, and every dimension over time.

The page shows one case; the data for the page's script has the other cases.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vidrl.bench.page.cases import Case, clip_of, key, set_of
from vidrl.bench.page.clips import PIXELATED, Shown, asked, curves, given, player, references
from vidrl.bench.page.facts import Results, Row, dim_name, hue, short
from vidrl.bench.page.media import SCALES
from vidrl.report.charts import number

MOST = 400  # values that are kept of a curve
ROOM = 3_000_000  # bytes of all curves
# The rows of pictures under a clip, and their names on the page.
NAMES = {"film": "frames", "residual": "warp residual", "flow": "flow", "occlusion": "occlusion"}


def frames(
    results: Results, case: Case | None, media: Shown, out: Path, kept: int, total: int
) -> dict[str, Any] | None:
    """Return the data of the section, or None without a case.

    `case` is the one that is shown first; the page's data has `kept` of `total` cases.
    """
    if case is None:
        return None
    return {
        "key": case.keys[0],
        "several": len(results["sets"]) > 1,
        "kept": kept,
        "total": total,
        "asked": asked(results, case),
        "given": given(results, case, media),
        "clips": [_clip(results, key, media, out) for key in case.keys],
        "cards": [_card(results, dim, case) for dim in results["dims"]],
        "scales": SCALES,
    }


def _clip(results: Results, key: str, media: Shown, out: Path) -> dict[str, Any]:
    """Return a clip with its frames and maps, which share one time axis."""
    clip, shown = clip_of(results, key), media.get(key, {})
    rows = [{"name": NAMES[name], "pictures": _pictures(shown, name)} for name in NAMES]
    return {
        "player": player(clip, key, shown, out, inline=False),
        "hue": hue(results, set_of(key)),
        "name": results["sets"][set_of(key)]["name"],
        "path": short(clip["path"], 120),
        "rows": [row for row in rows if row["pictures"]],
    }


def _pictures(shown: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return a row of pictures; a picture is None where a map needs a next frame."""
    pictures = shown.get("film") if name == "film" else (shown.get("maps") or {}).get(name)
    if not pictures:
        return []
    return [
        {"data": data, "words": f"{NAMES[name]}, frame {number}"}
        for data, number in zip(pictures, shown["at"], strict=True)
    ]


def _card(results: Results, dim: Row, case: Case) -> dict[str, Any]:
    """Return one dimension of the clips of a case: values, curves, and why a value is missing."""
    clips = {key: clip_of(results, key) for key in case.keys}
    reasons = [clip.get("why", {}).get(dim["name"]) for clip in clips.values()]
    why = next((short(reason) for reason in reasons if reason), "")
    drawn = curves(results, dim["name"], case)
    return {
        "dim": dim_name(dim),
        "scores": [
            {"hue": hue(results, set_of(key)), "value": number(clip["value"].get(dim["name"]))}
            for key, clip in clips.items()
        ],
        "curves": drawn,
        "note": why or ("" if drawn else "One number a clip."),
    }


def first_case(results: Results, found: Sequence[Case], shown: Sequence[str]) -> Case | None:
    """Return the case that a reader sees first: that of the first shown clip."""
    by_key = {key(at, i): case for case in found for at, i in case.clips.items()}
    return by_key[shown[0]] if shown else next(iter(found), None)


# --- the data that the page's script draws from


def script_data(
    results: Results, found: Sequence[Case], media: Shown, inline: Sequence[str], room: int = ROOM
) -> tuple[dict[str, Any], int]:
    """Return the data of the page's script, and how many cases it has.

    The cases whose clips are shown come first, then others until `room` bytes are used.
    `inline` are the clips whose films the page holds already.
    """
    clips: dict[str, Any] = {}
    # cases with shown clips come first
    ranked = sorted(
        range(len(found)), key=lambda i: not any(named in media for named in found[i].keys)
    )
    kept: list[int] = []
    used = 0
    for i in ranked:
        facts = {named: _clip_facts(results, named) for named in found[i].keys}
        used += len(json.dumps(facts))
        if used > room and kept:
            break
        clips.update(facts)
        kept.append(i)
    sets = [
        {"name": one["name"], "hue": hue(results, at)} for at, one in enumerate(results["sets"])
    ]
    dims = [{"name": dim["name"], "trained": bool(dim.get("trained"))} for dim in results["dims"]]
    return {
        "sets": sets,
        "dims": dims,
        "names": NAMES,
        "cases": [_case_facts(results, found[i], media) for i in sorted(kept)],
        "clips": clips,
        "media": _media(media, inline),
    }, len(kept)


def _case_facts(results: Results, case: Case, media: Shown) -> dict[str, Any]:
    return {
        "prompt": short(case.prompt),
        "clips": case.keys,
        "given": references(results, case, media),
    }


def _media(media: Shown, inline: Sequence[str]) -> dict[str, Any]:
    """Return the media without the films that the page holds already."""
    return {
        named: {
            name: value for name, value in shown.items() if name != "video" or named not in inline
        }
        for named, shown in media.items()
    }


def _clip_facts(results: Results, named: str) -> dict[str, Any]:
    """Return what the script knows about a clip; lists are in the order of the dimensions."""
    clip, dims = clip_of(results, named), [dim["name"] for dim in results["dims"]]
    curve, why = clip.get("curve") or {}, clip.get("why") or {}
    facts = {
        "path": short(clip["path"], 200),
        "small": max(clip.get("size") or [999]) <= PIXELATED,
        "value": [rounded(clip["value"].get(dim)) for dim in dims],
        "curve": [thinned(curve.get(dim)) for dim in dims],
        "frames": clip.get("frames") or 0,
    }
    reasons = {str(i): short(why[dim]) for i, dim in enumerate(dims) if why.get(dim)}
    return facts | ({"why": reasons} if reasons else {})


def rounded(value: float | None, digits: int = 4) -> float | None:
    """Return a number with so many significant digits, so that the page stays small.

    >>> rounded(0.123456), rounded(None), rounded(-1234567.0)
    (0.1235, None, -1235000.0)
    """
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


def thinned(curve: Sequence[float | None] | None, most: int = MOST) -> list[float | None] | None:
    """Return a curve with at most so many values, each the mean of an equal part; or None.

    >>> thinned([1.0, 3.0, None, 5.0], most=2), thinned([1.0]), thinned([])
    ([2.0, 5.0], None, None)
    """
    if not curve or len(curve) < 2:
        return None
    if len(curve) <= most:
        return [rounded(value) for value in curve]
    edges = [round(i * len(curve) / most) for i in range(most + 1)]
    return [_mean(curve[start:end]) for start, end in zip(edges, edges[1:], strict=False)]


def _mean(values: Sequence[float | None]) -> float | None:
    scored = [value for value in values if value is not None]
    return rounded(math.fsum(scored) / len(scored)) if scored else None

"""Any clip, frame by frame: its frames, the maps of where in the picture it lies, and every
dimension over time."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidrl.bench.page.cases import Case, clip_of, key
from vidrl.bench.page.clips import Shown, asked, curves, given, player, references
from vidrl.bench.page.facts import Results, Row, dim_name, hue, plural, short
from vidrl.bench.page.media import SCALES
from vidrl.report.charts import number
from vidrl.report.render import macro

if TYPE_CHECKING:
    from markupsafe import Markup

FILM = "report/film.html"
MOST = 400  # values kept of a curve
ROOM = 3_000_000  # bytes of all curves
NAMES = {"film": "frames", "residual": "warp residual", "flow": "flow", "occlusion": "occlusion"}


def look(
    results: Results, found: Sequence[Case], first: Case | None, media: Shown, out: Path, kept: int
) -> str:
    """The section; `first` is the case that it begins with, `kept` how many of the cases
    the page's data has."""
    if first is None:
        return ""
    left = (
        ""
        if kept == len(found)
        else (
            f" The curves of {kept} of {plural(len(found), 'case')} are on this page; "
            "results.json has all."
        )
    )
    paired = (
        " A clip's partners in the other sets stand beside it." if len(results["sets"]) > 1 else ""
    )
    return (
        f'<section id="look" data-case="{first.keys[0]}"><h2>Frame by frame</h2><p class="note">Pick any clip.'
        f"{paired}{left}</p>"
        f'<div class="controls pick" hidden><label>Order <select id="order"></select></label>'
        f'<label>Clip <select id="pick"></select></label><span><button id="back">Previous</button> '
        f'<button id="next">Next</button></span></div><div id="looked" aria-live="polite">'
        f"{looked(results, first, media, out)}</div>{_legend()}</section>"
    )


def _legend() -> str:
    return (
        f'<p class="note">Frames and maps are of the clips shown above. Maps: none<span class="heated"></span>'
        f"most, by the square root, one scale for all clips. Warp residual: what is left of a frame once its "
        f"neighbour is moved onto it, most is {SCALES['residual']:g} of full light. Flow: most is "
        f"{SCALES['flow']:g} picture diagonal a second. Occlusion: what is out of sight in the next frame. Move "
        f"over the frames to hold the clip there.</p>"
    )


def looked(results: Results, case: Case, media: Shown, out: Path) -> str:
    """One case: what the page's script draws of any other."""
    strips = "".join(_strips(results, named, media, out) for named in case.keys)
    cards = "".join(_card(results, dim, case) for dim in results["dims"])
    return (
        f'<div class="card"><h3>{asked(results, case)}</h3>{given(results, case, media)}{strips}</div>'
        f'<div class="grid">{cards}</div>'
    )


def _strips(results: Results, named: str, media: Shown, out: Path) -> str:
    """A clip with its frames and maps on one time axis."""
    clip, shown, at = clip_of(results, named), media.get(named, {}), int(named.split(".")[0])
    who = results["sets"][at]["name"]
    rows = "".join(
        macro(FILM, "lane", name=NAMES[name], body=_markup(_pictures(shown, name)))
        for name in NAMES
    )
    drawn = macro(FILM, "lanes", rows=_markup(rows), borders=[]) if rows else ""
    return (
        f'<div class="timeline"><figure>{player(clip, named, shown, out, inline=False)}<figcaption><span>'
        f'<i class="key {hue(results, at)}"></i>{escape(who)}</span></figcaption><div class="soft file">'
        f"{escape(short(clip['path'], 120))}</div></figure>{drawn}</div>"
    )


def _markup(html: str) -> Markup:
    from markupsafe import Markup

    return Markup(html)


def _pictures(shown: Mapping[str, Any], name: str) -> str:
    pictures = shown.get("film") if name == "film" else (shown.get("maps") or {}).get(name)
    if not pictures:
        return ""
    drawn = "".join(
        _picture(data, at, NAMES[name]) for data, at in zip(pictures, shown["at"], strict=True)
    )
    return f'<div class="frames">{drawn}</div>'


def _picture(data: str | None, at: int, name: str) -> str:
    words = escape(f"{name}, frame {at}")
    return (
        f'<img alt="{words}" title="{words}" src="data:image/jpeg;base64,{escape(data)}">'
        if data
        else f'<i class="none" title="{words}: no next frame to compare with"></i>'
    )


def _card(results: Results, dim: Row, case: Case) -> str:
    told = "".join(
        f'<span><i class="key {hue(results, int(named.split(".")[0]))}"></i>'
        f"{number(clip_of(results, named)['value'].get(dim['name']))}</span>"
        for named in case.keys
    )
    why = [
        reason
        for named in case.keys
        if (reason := clip_of(results, named).get("why", {}).get(dim["name"]))
    ]
    note = f'<p class="note">{escape(short(why[0]))}</p>' if why else ""
    drawn = curves(results, dim["name"], case) or (
        "" if why else '<p class="note">One number a clip.</p>'
    )
    return (
        f'<div class="card"><div class="head2"><h3>{dim_name(dim)}</h3><span class="told">{told}</span></div>'
        f"{drawn}{note}</div>"
    )


# --- the data that the page's script draws from
# ----------------------------------------------------------------------


def data(
    results: Results, found: Sequence[Case], media: Shown, inline: Sequence[str], room: int = ROOM
) -> tuple[dict[str, Any], int]:
    """What the script knows, and how many cases have their curves in it: the shown ones
    first, up to `room` bytes."""
    clips: dict[str, Any] = {}
    ranked = sorted(
        range(len(found)), key=lambda i: not any(named in media for named in found[i].keys)
    )
    kept: list[int] = []
    spent = 0
    for i in ranked:
        told = {named: _told(results, named) for named in found[i].keys}
        spent += len(json.dumps(told))
        if spent > room and kept:
            break
        clips.update(told)
        kept.append(i)
    rows = [
        {
            "prompt": short(found[i].prompt),
            "clips": found[i].keys,
            "given": references(results, found[i], media),
        }
        for i in sorted(kept)
    ]
    return {
        "sets": [
            {"name": one["name"], "hue": hue(results, at)} for at, one in enumerate(results["sets"])
        ],
        "dims": [
            {"name": dim["name"], "trained": bool(dim.get("trained"))} for dim in results["dims"]
        ],
        "names": NAMES,
        "cases": rows,
        "clips": clips,
        "media": _media(media, inline),
    }, len(kept)


def _media(media: Shown, inline: Sequence[str]) -> dict[str, Any]:
    """What is shown, less the films that the page holds already."""
    return {
        named: {
            name: value for name, value in shown.items() if name != "video" or named not in inline
        }
        for named, shown in media.items()
    }


def _told(results: Results, named: str) -> dict[str, Any]:
    clip, dims = clip_of(results, named), [dim["name"] for dim in results["dims"]]
    curve, why = clip.get("curve") or {}, clip.get("why") or {}
    told = {
        "path": short(clip["path"], 200),
        "small": max(clip.get("size") or [999]) <= 128,
        "value": [rounded(clip["value"].get(dim)) for dim in dims],
        "curve": [thinned(curve.get(dim)) for dim in dims],
        "frames": clip.get("frames") or 0,
    }
    reasons = {str(i): short(why[dim]) for i, dim in enumerate(dims) if why.get(dim)}
    return told | ({"why": reasons} if reasons else {})


def rounded(value: float | None, digits: int = 4) -> float | None:
    """A number with so many digits, for less to carry.

    >>> rounded(0.123456), rounded(None), rounded(-1234567.0)
    (0.1235, None, -1235000.0)
    """
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


def thinned(curve: Sequence[float | None] | None, most: int = MOST) -> list[float | None] | None:
    """A curve with at most so many values, each the mean of its stretch.

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
    known = [value for value in values if value is not None]
    return rounded(math.fsum(known) / len(known)) if known else None


def first_case(results: Results, found: Sequence[Case], shown: Sequence[str]) -> Case | None:
    """The case that a reader sees first: that of the first clip shown."""
    by_key = {key(at, i): case for case in found for at, i in case.clips.items()}
    return by_key[shown[0]] if shown else next(iter(found), None)

"""The clips that are worth looking at, playing: by dimension, the best and the worst, sets
side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vidrl.bench.page.cases import Case, Example, clip_of, opened
from vidrl.bench.page.facts import Results, Row, dim_name, hue, short
from vidrl.report.charts import Line, chart, number
from vidrl.report.render import macro

Shown = Mapping[str, Mapping[str, Any]]


def clips(results: Results, shown: Mapping[str, Sequence[Example]], media: Shown, out: Path) -> str:
    """The section: one fold a dimension, that of the surest difference open."""
    if not shown:
        return ""
    first = opened(results, shown)
    folds = "".join(
        _fold(results, dim, shown[dim["name"]], media, out, dim["name"] == first)
        for dim in results["dims"]
        if dim["name"] in shown
    )
    what = "Pairs of clips" if len(results["sets"]) > 1 else "Clips"
    return (
        f'<section id="clips"><h2>Best and worst clips</h2><p class="note">{what} from both ends of each '
        f"dimension, with the dimension frame by frame below. Ends are not typical: they show what a number "
        f'reacts to.</p><div class="controls"><button id="pause" aria-pressed="false">Pause</button>'
        f'<button id="slow" aria-pressed="false">Quarter speed</button></div>{folds}</section>'
    )


def _fold(
    results: Results, dim: Row, shown: Sequence[Example], media: Shown, out: Path, is_open: bool
) -> str:
    style = "grid wide" if len(results["sets"]) > 1 else "grid"
    cards = "".join(_card(results, dim, example, media, out, is_open) for example in shown)
    return (
        f'<details class="fold" name="dimension"{" open" if is_open else ""}><summary>{dim_name(dim)}</summary>'
        f'<div class="{style}">{cards}</div></details>'
    )


def _card(
    results: Results, dim: Row, example: Example, media: Shown, out: Path, inline: bool
) -> str:
    figures = "".join(
        _figure(results, dim, named, media, out, inline) for named in example.case.keys
    )
    few = "" if len(example.case.clips) > 1 else " single"
    return (
        f'<article class="card"><h3><small>{escape(example.title)}</small>{asked(results, example.case)}</h3>'
        f'{given(results, example.case, media)}<div class="pair{few}">{figures}</div>'
        f"{curves(results, dim['name'], example.case)}"
        f'<a class="look" href="#look" data-case="{example.case.keys[0]}">all dimensions, frame by frame</a>'
        f"</article>"
    )


def asked(results: Results, case: Case) -> str:
    """The prompt of a case, or the names of its files, as HTML."""
    words = case.prompt or " · ".join(
        dict.fromkeys(Path(clip_of(results, named)["path"]).name for named in case.keys)
    )
    return f'<span dir="auto" class="asked">{escape(short(words))}</span>'


def given(results: Results, case: Case, media: Shown) -> str:
    """What the clips of a case were made from beside the text, as HTML; "" for the text
    alone."""
    return "".join(
        macro(
            "report/film.html",
            "given",
            source=f"data:image/jpeg;base64,{media[named]['given']['picture']}" if named else "",
            words=words,
        )
        for named, words in references(results, case, media)
    )


def references(results: Results, case: Case, media: Shown) -> list[tuple[str, str]]:
    """The same, each file once: the key of the clip whose media hold its picture, or "",
    and words on it."""
    found: dict[str, tuple[str, str]] = {}
    for named in case.keys:
        clip, shown = clip_of(results, named), media.get(named, {}).get("given") or {}
        path, kept = clip.get("reference"), "picture" in shown
        same = str(clip.get("reference_id") or path)
        if not path or (same in found and (found[same][0] or not kept)):
            continue
        why = "" if kept else f": {shown.get('why') or 'not kept on this page'}"
        found[same] = (named if kept else "", short(Path(path).name, 60) + short(why, 160))
    return list(found.values())


def _figure(results: Results, dim: Row, named: str, media: Shown, out: Path, inline: bool) -> str:
    clip, at = clip_of(results, named), int(named.split(".")[0])
    who = results["sets"][at]["name"] if len(results["sets"]) > 1 else Path(clip["path"]).name
    value = clip["value"].get(dim["name"])
    return (
        f"<figure>{player(clip, named, media.get(named, {}), out, inline)}<figcaption><span>"
        f'<i class="key {hue(results, at)}"></i>{escape(short(who, 60))}</span><span>{number(value)}</span>'
        f"</figcaption></figure>"
    )


def player(clip: Row, named: str, shown: Mapping[str, Any], out: Path, inline: bool) -> str:
    """The clip itself, playing over and over; or a link to its file, and why.

    `inline`: with its source, so that it plays without scripts; else the page's script
    fills it in from its data.
    """
    small = " pixels" if max(clip.get("size") or [999]) <= 128 else ""
    label = f'aria-label="{escape(short(clip.get("prompt") or Path(clip["path"]).name))}"'
    if "image" in shown:
        return f'<img class="still{small}" alt="" src="data:image/jpeg;base64,{escape(shown["image"])}">'
    if "video" in shown:
        source = (
            f'src="data:video/mp4;base64,{escape(shown["video"])}" data-own="{named}" autoplay'
            if inline
            else f'data-clip="{named}"'
        )
        return f'<video class="clip{small}" {label} {source} loop muted playsinline></video>'
    why = shown.get("why") or "not kept on this page"
    return (
        f'<div class="missing"><span>{escape(short(why, 160))}</span>'
        f'<a href="{escape(link(clip["path"], out))}">the file</a></div>'
    )


def link(path: str, out: Path) -> str:
    """A file's address as seen from the page's folder, never one with a scheme.

    >>> link("videos/a b#1.mp4", Path("runs/bench/report.html")), link("javascript:alert(1)", Path("report.html"))
    ('../../videos/a%20b%231.mp4', './javascript%3Aalert%281%29')
    """
    relative = os.path.relpath(path, out.parent).replace(os.sep, "/")
    try:
        address = quote(os.fsencode(relative))
    except UnicodeEncodeError:  # half a character that stands for no byte of a file name
        address = quote(relative, errors="replace")
    return address if address.startswith("../") else f"./{address}"


def curves(results: Results, dim: str, case: Case) -> str:
    """A dimension over the frames of the clips of a case; empty where it has no curve."""
    lines = []
    for named in case.keys:
        curve, at = (clip_of(results, named).get("curve") or {}).get(dim), int(named.split(".")[0])
        if curve and len(curve) > 1:
            middles = [(t + 0.5) for t in range(len(curve))]
            lines.append(Line(results["sets"][at]["name"], middles, curve, hue(results, at)))
    length = max((len(line.y) for line in lines), default=0)
    if not any(value is not None for line in lines for value in line.y):
        return ""
    return chart(lines, span=(0, length), axis="frame", cells=True, title=f"{dim}, frame by frame")

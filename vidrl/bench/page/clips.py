"""The best and the worst clips of each dimension, which play side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vidrl.bench.page.cases import Case, Example, clip_of, opened, set_of
from vidrl.bench.page.facts import Results, Row, dim_name, hue, short
from vidrl.report.charts import Line, chart, number

Shown = Mapping[str, Mapping[str, Any]]
PIXELATED = 128  # pixels of the longer side up to which a clip is enlarged without smoothing


def clips(
    results: Results, shown: Mapping[str, Sequence[Example]], media: Shown, out: Path
) -> dict[str, Any] | None:
    """Return the data of the section, or None; the dimension of the surest difference is open."""
    if not shown:
        return None
    first = opened(results, shown)
    folds = []
    for dim in results["dims"]:
        is_open = dim["name"] == first
        cards = [
            _card(results, dim, example, media, out, is_open)
            for example in shown.get(dim["name"], [])
        ]
        folds.append({"dim": dim_name(dim), "open": is_open, "cards": cards})
    return {
        "several": len(results["sets"]) > 1,
        "folds": [fold for fold in folds if fold["cards"]],
    }


def _card(
    results: Results, dim: Row, example: Example, media: Shown, out: Path, inline: bool
) -> dict[str, Any]:
    keys = example.case.keys
    return {
        "title": example.title,
        "asked": asked(results, example.case),
        "given": given(results, example.case, media),
        "figures": [_figure(results, dim, key, media, out, inline) for key in keys],
        "curves": curves(results, dim["name"], example.case),
        "key": keys[0],
    }


def asked(results: Results, case: Case) -> str:
    """Return the prompt of a case, or without a prompt the names of its files."""
    names = dict.fromkeys(Path(clip_of(results, key)["path"]).name for key in case.keys)
    return short(case.prompt or " · ".join(names))


def given(results: Results, case: Case, media: Shown) -> list[dict[str, str]]:
    """Return what the clips of a case were made from besides the prompt: pictures and words."""
    return [
        {
            "source": f"data:image/jpeg;base64,{media[key]['given']['picture']}" if key else "",
            "words": words,
        }
        for key, words in references(results, case, media)
    ]


def references(results: Results, case: Case, media: Shown) -> list[tuple[str, str]]:
    """Return each reference of a case once: the key of a clip whose media hold it, and words.

    The key is "" where no clip's media hold the picture; the words then say why.
    """
    found: dict[str, tuple[str, str]] = {}
    for key in case.keys:
        clip, shown = clip_of(results, key), media.get(key, {}).get("given") or {}
        path, is_kept = clip.get("reference"), "picture" in shown
        # clips of several sets may have the same picture; one with kept media is preferred
        identity = str(clip.get("reference_id") or path)
        if not path or (identity in found and (found[identity][0] or not is_kept)):
            continue
        why = "" if is_kept else f": {shown.get('why') or 'not kept on this page'}"
        found[identity] = (key if is_kept else "", short(Path(path).name, 60) + short(why, 160))
    return list(found.values())


def _figure(
    results: Results, dim: Row, key: str, media: Shown, out: Path, inline: bool
) -> dict[str, Any]:
    clip, at = clip_of(results, key), set_of(key)
    name = results["sets"][at]["name"] if len(results["sets"]) > 1 else Path(clip["path"]).name
    return {
        "player": player(clip, key, media.get(key, {}), out, inline),
        "hue": hue(results, at),
        "name": short(name, 60),
        "value": number(clip["value"].get(dim["name"])),
    }


def player(
    clip: Row, key: str, shown: Mapping[str, Any], out: Path, inline: bool
) -> dict[str, Any]:
    """Return the clip as the template plays it, or a link to its file and why it is not shown.

    `inline`: with its bytes, so that the clip plays without scripts. Otherwise the page's
    script takes the bytes from its data.
    """
    has_video = "video" in shown
    return {
        "image": shown.get("image"),
        "video": shown["video"] if has_video and inline else None,
        "key": key if has_video else "",
        "small": " pixels" if max(clip.get("size") or [999]) <= PIXELATED else "",
        "label": short(clip.get("prompt") or Path(clip["path"]).name),
        "why": short(shown.get("why") or "not kept on this page", 160),
        "link": link(clip["path"], out),
    }


def link(path: str, out: Path) -> str:
    """Return a file's address relative to the page's folder; it never has a scheme.

    >>> link("videos/a b#1.mp4", Path("runs/bench/report.html"))
    '../../videos/a%20b%231.mp4'
    >>> link("javascript:alert(1)", Path("report.html"))
    './javascript%3Aalert%281%29'
    """
    relative = os.path.relpath(path, out.parent).replace(os.sep, "/")
    try:
        address = quote(os.fsencode(relative))
    except UnicodeEncodeError:  # half a surrogate pair, which is no byte of a file name
        address = quote(relative, errors="replace")
    return address if address.startswith("../") else f"./{address}"


def curves(results: Results, dim: str, case: Case) -> str:
    """Draw a dimension over the frames of the clips of a case; "" where it has no curve."""
    lines = []
    for key in case.keys:
        curve, at = (clip_of(results, key).get("curve") or {}).get(dim), set_of(key)
        if curve and len(curve) > 1:
            # the value of frame t is drawn in the middle of its cell [t, t + 1)
            middles = [(t + 0.5) for t in range(len(curve))]
            lines.append(Line(results["sets"][at]["name"], middles, curve, hue(results, at)))
    if not any(value is not None for line in lines for value in line.y):
        return ""
    length = max(len(line.y) for line in lines)
    return chart(lines, span=(0, length), axis="frame", cells=True, title=f"{dim}, frame by frame")

"""The benchmark's report: results.json as one HTML page that holds all it shows and asks
nothing of a network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from vidrl.bench.page.cases import cases, examples, opened, order
from vidrl.bench.page.clips import clips
from vidrl.bench.page.differences import differences
from vidrl.bench.page.facts import Results
from vidrl.bench.page.head import header, title
from vidrl.bench.page.kinds import kinds
from vidrl.bench.page.look import data, first_case, look
from vidrl.bench.page.media import LIMIT, media
from vidrl.bench.page.rest import distances, left_out, made, to_paste, totals
from vidrl.bench.page.script import SCRIPT
from vidrl.bench.page.summary import summary
from vidrl.rewards._files import atomic_file

__all__ = ["LARGEST", "media", "page", "write"]

STYLES = ("report/templates/report.css", "bench/page/page.css")
LARGEST = 20_000_000  # bytes of a page
LINKS = {
    "differences": "Differences",
    "summary": "Every dimension",
    "kinds": "By kind",
    "clips": "Best and worst",
    "look": "Frame by frame",
    "left-out": "Left out",
    "paste": "To paste",
    "made": "How it was measured",
}


_shown = media  # whose name `write` gives to the folder


def write(
    results: Results, out: Path, media: Path | None = None, limit: int = LIMIT, jobs: int = 0
) -> Path:
    """Write the page to `out`, or to report.html in the folder `out`, and return its path.

    Up to `limit` clips, the best and the worst, are read again and shown, in `jobs`
    processes; the folder `media` keeps what is made of them for the next time. A page is
    never above 20 MB: clips are left to their files until it is not. Raises ValueError
    where no clips are left to leave out.
    """
    path = out / "report.html" if out.suffix.lower() not in (".html", ".htm") else out
    shown = _shown(results, media, limit, jobs=jobs)
    text = page(results, path, shown).encode("utf-8", "backslashreplace")
    while len(text) > LARGEST and shown:
        shown = dict(list(shown.items())[: len(shown) // 2])
        text = page(results, path, shown).encode("utf-8", "backslashreplace")
    if len(text) > LARGEST:
        raise ValueError(
            f"expected a page below {LARGEST} bytes, got {len(text)} without any clip: take --format csv"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    return atomic_file.write_bytes(path, text)


def page(results: Results, out: Path, shown: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page, with what `media` made of some clips; `out` is where it will lie."""
    found = cases(results)
    picked = examples(results, found)
    first = opened(results, picked)
    inline = [named for example in picked.get(first or "", []) for named in example.case.keys]
    known, kept = data(results, found, shown, inline)
    start = first_case(results, found, order(results, picked))
    sections = [
        differences(results),
        summary(results),
        kinds(results),
        clips(results, picked, shown, out),
        look(results, found, start, shown, out, kept),
        totals(results),
        distances(results),
        left_out(results),
        to_paste(results),
        made(results),
    ]
    body = "\n".join(filter(None, sections))
    return _document(title(results), header(results) + _links(body) + body, known)


def _links(body: str) -> str:
    found = "".join(
        f'<a href="#{name}">{words}</a>' for name, words in LINKS.items() if f'id="{name}"' in body
    )
    return f'<nav aria-label="Sections">{found}</nav>'


def _document(name: str, body: str, known: Mapping[str, Any]) -> str:
    style = "".join(files("vidrl").joinpath(one).read_text(encoding="utf-8") for one in STYLES)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy()}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)} · vidrl bench</title><style>{style}</style></head>\n<body><main>{body}</main>"
        f'<script type="application/json" id="data">{_harmless(known)}</script>'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _policy() -> str:
    """What a browser may do with the page: run its one script, show what it holds, and
    fetch nothing."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        f"media-src data:; base-uri 'none'; form-action 'none'"
    )


def _harmless(known: Mapping[str, Any]) -> str:
    """JSON in which nothing can end the element that holds it."""
    text = json.dumps(known, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text

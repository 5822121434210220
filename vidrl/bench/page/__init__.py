"""The benchmark's report: results.json as one HTML page that loads nothing from elsewhere.

Each module prepares the data of one section; the HTML is in templates/.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidrl.bench.page.cases import cases, examples, opened, order
from vidrl.bench.page.clips import clips
from vidrl.bench.page.differences import differences
from vidrl.bench.page.facts import Results
from vidrl.bench.page.frames import first_case, frames, script_data
from vidrl.bench.page.head import header, title
from vidrl.bench.page.kinds import kinds
from vidrl.bench.page.media import LIMIT, media
from vidrl.bench.page.rest import distances, left_out, method, paste, totals
from vidrl.bench.page.summary import summary
from vidrl.report.render import inlined, render
from vidrl.rewards._files import atomic_file

__all__ = ["LARGEST", "media", "page", "write"]

STYLES = ("report/templates/report.css", "bench/page/templates/bench.css")
SCRIPT = "bench/page/templates/bench.js"
LARGEST = 20_000_000  # bytes of a page
# The links under the head: the name of a section's data → its id on the page and its words.
LINKS = {
    "differences": ("differences", "Differences"),
    "summary": ("summary", "Every dimension"),
    "kinds": ("kinds", "By kind"),
    "clips": ("clips", "Best and worst"),
    "frames": ("look", "Frame by frame"),
    "left_out": ("left-out", "Left out"),
    "paste": ("paste", "To paste"),
    "method": ("made", "How it was measured"),
}
ALWAYS = {"left_out"}  # sections that are there without data as well


_shown = media  # `write` has a parameter called media


def write(
    results: Results, out: Path, media: Path | None = None, limit: int = LIMIT, jobs: int = 0
) -> Path:
    """Write the page to `out`, or to report.html in the folder `out`, and return its path.

    Args:
        results: as read from results.json.
        out: a file that ends in .html, or a folder.
        media: a folder that keeps small copies of the shown clips for the next time.
        limit: clips, the best and the worst, that are read again and shown.
        jobs: processes that read them.

    A page has at most 20 MB: where it would be larger, fewer clips are shown, and the others
    are links to their files. Raises ValueError where a page without clips is still larger.
    """
    path = out / "report.html" if out.suffix.lower() not in (".html", ".htm") else out
    shown = _shown(results, media, limit, jobs=jobs)
    text = page(results, path, shown).encode("utf-8", "backslashreplace")
    while len(text) > LARGEST and shown:
        # the first clips of the dictionary are those that a reader sees first
        shown = dict(list(shown.items())[: len(shown) // 2])
        text = page(results, path, shown).encode("utf-8", "backslashreplace")
    if len(text) > LARGEST:
        raise ValueError(
            f"expected a page below {LARGEST} bytes, got {len(text)} without any clip: "
            "take --format csv"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    return atomic_file.write_bytes(path, text)


def page(results: Results, out: Path, shown: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page as HTML.

    `shown` is the result of `media` for some clips; `out` is the path of the page, from which
    links to files start.
    """
    found = cases(results)
    picked = examples(results, found)
    first = opened(results, picked)
    # the clips of the open fold hold their films, so that they play without scripts
    inline = [key for example in picked.get(first or "", []) for key in example.case.keys]
    data, kept = script_data(results, found, shown, inline)
    start = first_case(results, found, order(results, picked))
    script = inlined(SCRIPT)
    sections = {
        "differences": differences(results),
        "summary": summary(results),
        "kinds": kinds(results),
        "clips": clips(results, picked, shown, out),
        "frames": frames(results, start, shown, out, kept, len(found)),
        "totals": totals(results),
        "distances": distances(results),
        "left_out": left_out(results),
        "paste": paste(results),
        "method": method(results),
    }
    return render(
        "bench/bench.html",
        style=inlined(*STYLES),
        script=script,
        policy=_policy(script),
        title=title(results),
        header=header(results),
        links=[link for name, link in LINKS.items() if sections[name] or name in ALWAYS],
        data=data,
        **sections,
    )


def _policy(script: str) -> str:
    """Return what a browser may do with the page: run its one script, and fetch nothing."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; media-src data:; base-uri 'none'; form-action 'none'"
    )

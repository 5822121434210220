"""Agreement with people as text: a table for the terminal, the same as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEAD = ["dim", "profile", "decided pairs", "ties ½", "with ties", "chance", "scored"]
ABOUT = """\
Decided pairs: share of the pairs with a winner in which the dim prefers it; its own ties are wrong, as VideoReward
counts (arXiv:2501.13918). Ties ½: the same with its ties as half, so that chance is 50 % for any dim. With ties: three
answers, the threshold of ties chosen to do best (arXiv:2305.14324); chance is what a dim that knows nothing gets so.
Intervals are 95 %, by a bootstrap over prompts; pairs that share a clip stay together."""


def page(found: Mapping[str, Any]) -> str:
    """The Markdown page."""
    parts = ["# Agreement with people", "", f"`{found.get('command', '')}`  ", f"{found.get('file', '')}, read as "
             f"{found['layout']}; {found['clips']} clips; raters: {found['raters']}.", "", ABOUT, ""]
    for people in found["people"]:
        rows = [_cells(row) for row in found["table"] if row["aspect"] == people["aspect"]]
        rows += [ceiling] if (ceiling := _ceiling(people)) else []
        ranks = any(row["spearman"] is not None for row in found["table"] if row["aspect"] == people["aspect"])
        head = HEAD + ["Spearman"] * ranks
        table = [head, ["---"] * len(head), *([*row[: len(HEAD)], *row[len(HEAD):]][: len(head)] for row in rows)]
        parts += [f"## {people['aspect']}", "", told(people), "", *(f"| {' | '.join(row)} |" for row in table), ""]
    parts += ["## Notes", "", *(f"- {note}" for note in found["notes"])] if found["notes"] else []
    return "\n".join([*parts, *_unscored(found), ""])


def text(found: Mapping[str, Any]) -> str:
    """The same for a terminal."""
    parts = [f"read as {found['layout']}; {found['clips']} clips; raters: {found['raters']}", ""]
    for people in found["people"]:
        rows = [_cells(row)[: len(HEAD)] for row in found["table"] if row["aspect"] == people["aspect"]]
        ceiling = _ceiling(people)
        parts += [f"{people['aspect']}: {told(people)}", *_aligned([HEAD, *rows, *([ceiling] if ceiling else [])]), ""]
    return "\n".join([*parts, *found["notes"], *_unscored(found, 3), ABOUT])


def told(people: Mapping[str, Any]) -> str:
    """How many pairs and answers, and whether raters favoured what was shown first."""
    words = (f"{people['pairs']} pairs of {people['clusters']} prompts, {people['answers']} answers, {people['ties']} "
             "ties")
    first = people["first"]
    if first and first["low"] is not None and not first["low"] <= 0.5 <= first["high"]:
        words += f"; raters took the first clip in {_share(first)} of the decided answers: a bias of position"
    return words


def _cells(row: Mapping[str, Any]) -> list[str]:
    spearman = "–" if row["spearman"] is None else f"{row['spearman']:+.2f}".replace("-", "−")
    return [row["dim"], row["profile"], _share(row["without_ties"]), _share(row["half"]), _share(row["with_ties"]),
            _percent(row["chance_with_ties"]), f"{row['scored']}/{row['pairs']}", spearman]


def _ceiling(people: Mapping[str, Any]) -> list[str]:
    """A rater against the others, in the columns of the dims."""
    if not people["several"]:
        return []
    return ["a rater (ceiling)", "people", _share(people["without_ties"]), "", _share(people["with_ties"]), "",
            f"{people['several']}/{people['pairs']}", ""]


def _share(area: Mapping[str, Any]) -> str:
    if area["value"] is None:
        return "–"
    return f"{_percent(area['value'])} [{_percent(area['low'])}, {_percent(area['high'])}]"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]


def _unscored(found: Mapping[str, Any], most: int = 20) -> list[str]:
    """The first clips without a value, and how many more there are."""
    lost = found["unscored"]
    shown = [f"- {one['path']}, {one['dim']}: {one['why']}" for one in lost[:most]]
    return [*shown, *([f"- … and {len(lost) - most} more without a value"] if len(lost) > most else [])]

"""Format agreement with people as a table for the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vidrl.bench.export import code_line, plain_markdown

HEAD = ["dim", "profile", "decided pairs", "ties ½", "with ties", "chance", "scored"]
ABOUT = """\
Decided pairs: share of the pairs with a winner in which the dim prefers the winner; ties of
the dim are wrong, as VideoReward counts (arXiv:2501.13918). Ties ½: the same with ties of
the dim as half, so that chance is 50 % for any dim. With ties: three answers, with the
threshold of ties chosen to do best (arXiv:2305.14324); chance is what a dim without
information reaches in this way. Intervals are 95 %, over prompts; pairs that share a clip
are resampled together. No verdict is given if the pairs without a value of the dim would
change it when they were all wrong answers."""
BESIDE = """\
Each answer of a rater, and the dim's, is compared with the majority of the other raters of
that pair; a tie counts 1/2 for both. A dim above a rater agrees with the others more often
than one more rater would (p < 0.05, Holm over dims)."""
BETWEEN = """\
Agreement with people of two dims on the same pairs (ties 1/2), the first less the second;
p < 0.05 by Holm over pairs of dims."""
VERDICTS = {
    "above": "above a rater",
    "below": "below a rater",
    "open": "not distinguished from a rater",
    "unscored": "open: the pairs without a value decide",
    "few": "too few prompts",
}


def page(found: Mapping[str, Any]) -> str:
    """Return the Markdown page."""
    parts = [
        "# Agreement with people",
        "",
        code_line(found.get("command", "")),
        f"{plain_markdown(found.get('file', ''))}, read as {found['layout']}; "
        f"{found['clips']} clips; raters: {plain_markdown(found['raters'])}.",
        "",
        ABOUT,
        "",
    ]
    for people in found["people"]:
        rows = [_cells(row) for row in found["table"] if row["aspect"] == people["aspect"]]
        ranks = any(
            row["spearman"] is not None
            for row in found["table"]
            if row["aspect"] == people["aspect"]
        )
        head = HEAD + ["Spearman"] * ranks
        table = [
            head,
            ["---"] * len(head),
            *([*row[: len(HEAD)], *row[len(HEAD) :]][: len(head)] for row in rows),
        ]
        parts += [
            f"## {plain_markdown(people['aspect'])}",
            "",
            people_summary(people),
            "",
            *_piped(table),
            "",
        ]
        for title, about, head, lines in _compared(found, people["aspect"]):
            parts += [
                f"### {title}",
                "",
                about,
                "",
                *_piped([head, ["---"] * len(head), *lines]),
                "",
            ]
    parts += (
        ["## Notes", "", *(f"- {plain_markdown(note)}" for note in found["notes"])]
        if found["notes"]
        else []
    )
    return "\n".join([*parts, *_unscored(found, said=plain_markdown), ""])


def text(found: Mapping[str, Any]) -> str:
    """Return the same as text for the terminal."""
    parts = [f"read as {found['layout']}; {found['clips']} clips; raters: {found['raters']}", ""]
    for people in found["people"]:
        rows = [
            _cells(row)[: len(HEAD)] for row in found["table"] if row["aspect"] == people["aspect"]
        ]
        parts += [f"{people['aspect']}: {people_summary(people)}", *_aligned([HEAD, *rows]), ""]
        for title, about, head, lines in _compared(found, people["aspect"]):
            parts += [f"{title}:", *_aligned([head, *lines]), about, ""]
    return "\n".join([*parts, *found["notes"], *_unscored(found, 3), ABOUT])


def people_summary(people: Mapping[str, Any]) -> str:
    """Say how many pairs and answers there are, and whether raters preferred the first clip."""
    words = (
        f"{people['pairs']} pairs of {people['clusters']} prompts, {people['answers']} "
        f"answers, {people['ties']} ties"
    )
    first = people["first"]
    if first and first["low"] is not None and not first["low"] <= 0.5 <= first["high"]:
        words += (
            f"; raters took the first clip in {_share(first)} of the decided answers: a bias "
            "of position"
        )
    return words


def _cells(row: Mapping[str, Any]) -> list[str]:
    spearman = "–" if row["spearman"] is None else f"{row['spearman']:+.2f}".replace("-", "−")
    return [
        row["dim"],
        row["profile"],
        _share(row["without_ties"]),
        _share(row["half"]),
        _share(row["with_ties"]),
        _percent(row["chance_with_ties"]),
        f"{row['scored']}/{row['pairs']}",
        spearman,
    ]


def _compared(
    found: Mapping[str, Any], aspect: str
) -> list[tuple[str, str, list[str], list[list[str]]]]:
    """Return the tables that compare agreements: (title, explanation, head, rows).

    Tables without rows are left out.
    """
    beside = [row for row in found["beside_a_rater"] if row["aspect"] == aspect]
    pairs = [row for row in found["between"] if row["aspect"] == aspect]
    dims = list(dict.fromkeys(name for row in pairs for name in (row["dim"], row["other"])))
    head = ["dim", "agrees", "a rater", "dim less rater", "p (Holm)", "verdict"]
    tables = [("Beside a rater", BESIDE, head, [_beside(row) for row in beside])] if beside else []
    head = ["dim", "agrees more often than", "less often than", "not distinguished from"]
    return tables + (
        [("Between dims", BETWEEN, head, [_placed(dim, pairs) for dim in dims])] if pairs else []
    )


def _beside(row: Mapping[str, Any]) -> list[str]:
    shares = [_percent(row[key]) for key in ("agreement", "rater")]
    return [row["dim"], *shares, _gap(row), _p(row), VERDICTS[row["verdict"]]]


def _placed(dim: str, pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one dim's row among the others: which it beats, which beat it, which are open."""
    turned = {"above": "below", "below": "above"}
    against = {row["other"]: row["verdict"] for row in pairs if row["dim"] == dim} | {
        row["dim"]: turned.get(row["verdict"], row["verdict"])
        for row in pairs
        if row["other"] == dim
    }
    columns = [
        [name for name, verdict in against.items() if verdict == wanted]
        for wanted in ("above", "below")
    ]
    rest = [name for name in against if name not in (*columns[0], *columns[1])]
    return [dim, *(", ".join(names) or "–" for names in (*columns, rest))]


def _gap(row: Mapping[str, Any]) -> str:
    if row["difference"] is None:
        return "–"
    told = [
        f"{100 * row[key]:+.1f}".replace("-", "−") if row[key] is not None else "–"
        for key in ("difference", "low", "high")
    ]
    return f"{told[0]} [{told[1]}, {told[2]}]" if row["low"] is not None else told[0]


def _p(row: Mapping[str, Any]) -> str:
    held = row.get("p_holm")
    return "–" if held is None else f"{held:.3f}" if held >= 0.001 else "<0.001"


def _piped(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in rows]


def _share(area: Mapping[str, Any]) -> str:
    if area["value"] is None:
        return "–"
    return f"{_percent(area['value'])} [{_percent(area['low'])}, {_percent(area['high'])}]"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    ]


def _unscored(
    found: Mapping[str, Any], most: int = 20, said: Callable[[Any], str] = str
) -> list[str]:
    """Return the first clips without a value, and how many more there are."""
    lost = found["unscored"]
    shown = [f"- {said(one['path'])}, {one['dim']}: {said(one['why'])}" for one in lost[:most]]
    return [
        *shown,
        *([f"- … and {len(lost) - most} more without a value"] if len(lost) > most else []),
    ]

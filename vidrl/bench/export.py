"""Write results for other tools: csv, Markdown, LaTeX, and JSON for VBench's leaderboard."""

from __future__ import annotations

import csv as tables
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from vidrl.bench.caveats import caveats
from vidrl.bench.page.facts import (
    DAGGER,
    Results,
    Row,
    best_set,
    compared,
    difference,
    group_letters,
    listed,
    mean,
    probability,
    prompts,
    summary_row,
    verdict,
)
from vidrl.lookup.grammar import counted
from vidrl.rewards._files import spreadsheet_cells

ABOUT = (
    "set",
    "path",
    "id",
    "prompt",
    "seed",
    "reference",
    "frames",
    "fps",
    "width",
    "height",
    "container",
    "codec",
    "pixels",
    "bits",
)
FORMULA = spreadsheet_cells.FORMULA
MAX_SETS_COMPARED = 3  # more sets get letters instead of a table of differences
DIFFERENCE = ("difference", "95 % interval", "p (Holm)", "wins / ties / losses")
SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
}


DAG = r"\textsuperscript{\dag}"

# --- one row a clip -------------------------------------------------------------------


def csv(results: Results) -> str:
    """Return one row for each clip: its facts, a column for each dim, and missing reasons.

    Skipped clips have rows too. Text that a spreadsheet would run as a formula gets a
    leading apostrophe.

    >>> dims = [{"name": "flicker"}]
    >>> clip = {"path": "a.mp4", "prompt": "=1+1", "value": {"flicker": -0.5}}
    >>> csv({"dims": dims, "sets": [{"name": "base", "clips": [clip]}]}).splitlines()[1]
    "base,a.mp4,,'=1+1,,,,,,,,,,,-0.5,"
    """
    dims = [dim["name"] for dim in results["dims"]]
    file = io.StringIO()
    sheet = tables.writer(file, lineterminator="\n")
    sheet.writerow([cell(name) for name in (*ABOUT, *dims, "why")])
    for one in results["sets"]:
        sheet.writerows(_clip(one["name"], clip, dims) for clip in one["clips"])
        sheet.writerows(_skipped(one["name"], row, dims) for row in one.get("skipped", []))
    return _whole(file.getvalue())


def cell(value: Any) -> Any:
    r"""Return a cell that no spreadsheet runs, with plain line ends.

    See `vidrl.rewards._files.safe_cells`.

    >>> cell("=cmd"), cell("\u200b@x"), cell("a\rb"), cell(-0.5), cell(None)
    ("'=cmd", "'\u200b@x", 'a\nb', -0.5, None)
    """
    return spreadsheet_cells.escape_formula(
        value.replace("\r\n", "\n").replace("\r", "\n") if isinstance(value, str) else value
    )


def _clip(name: str, clip: Row, dims: Sequence[str]) -> list[Any]:
    """Return the row of a measured clip."""
    width, height = clip.get("size") or (None, None)
    facts = {**clip, **(clip.get("written") or {}), "set": name, "width": width, "height": height}
    why = "; ".join(f"{dim}: {reason}" for dim, reason in (clip.get("why") or {}).items() if reason)
    return [
        cell(value)
        for value in (
            *(facts.get(key) for key in ABOUT),
            *(clip["value"].get(dim) for dim in dims),
            why,
        )
    ]


def _skipped(name: str, row: Row, dims: Sequence[str]) -> list[Any]:
    """Return the row of a clip that could not be read."""
    facts = {"set": name, "path": row["path"]}
    why = f"skipped: {row['why']}"
    return [
        cell(value) for value in (*(facts.get(key) for key in ABOUT), *([None] * len(dims)), why)
    ]


def _whole(text: str) -> str:
    r"""Return text that can be encoded as UTF-8.

    A byte of a file name that is not UTF-8 becomes an escape, for example \udce9.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


# --- tables for papers ----------------------------------------------------------------


def markdown(results: Results) -> str:
    """Return a Markdown table of the summary, one of the differences, and explanations."""
    names = [one["name"] for one in results["sets"]]
    rows = [
        [_mark(dim, _plain, DAGGER), *_row_of(results, names, dim["name"], "**{}**")]
        for dim in results["dims"]
    ]
    blocks = [_grid(["", *map(_plain, names)], rows)]
    for (first, second), found in (
        compared(results) if len(names) <= MAX_SETS_COMPARED else {}
    ).items():
        head = [f"{_plain(second)} − {_plain(first)}", *DIFFERENCE]
        blocks.append(_grid(head, [_difference(results, row, _plain, "**{}**") for row in found]))
    blocks = [
        *(f"> {_plain(note)}" for note in [*(results.get("fairness") or []), *caveats(results)]),
        *blocks,
    ]
    return _whole("\n\n".join([*blocks, "\n".join(_explanations(results, DAGGER))]) + "\n")


def _grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an aligned Markdown table."""
    lines = [list(head), *map(list, rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = [f":{'-' * (widths[0] - 1)}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    padded = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])


def _plain(text: str) -> str:
    r"""Return a text escaped for a cell of a Markdown table.

    >>> print(_plain("a|b *c* <d>"))
    a\|b \*c\* &lt;d>
    """
    for sign in "\\`*_[]|#":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())


def plain_markdown(text: Any) -> str:
    """Return foreign text for a Markdown page so that it makes no markup, link or line."""
    return _plain(str(text))


def code_line(text: Any) -> str:
    """Return a line of a Markdown page that shows a text as code.

    A backtick would end the code, and becomes an apostrophe.
    """
    return f"`{' '.join(str(text).replace('`', chr(39)).split())}`  "


def latex(results: Results) -> str:
    """Return a LaTeX table (booktabs) of the summary, with the difference for two sets.

    A number is bold only if its set is better than every other one beyond doubt.
    """
    names, pairs = [one["name"] for one in results["sets"]], compared(results)
    rows = next(iter(pairs.values())) if len(pairs) == 1 else []
    by_dim = {row["dim"]: row for row in rows}
    head = ["", *map(tex, names), *(["difference", r"$p_{\mathrm{Holm}}$"] if rows else [])]
    body = [
        [
            _mark(dim, tex, DAG),
            *map(tex_number, _row_of(results, names, dim["name"], r"\textbf{{{}}}")),
            *(_beside(results, by_dim.get(dim["name"])) if rows else []),
        ]
        for dim in results["dims"]
    ]
    lines = [
        r"\begin{table}[t]",
        r"  \centering\small",
        rf"  \caption{{{' '.join(_explanations(results, DAG, tex))}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"    \toprule",
        _line(head),
        r"    \midrule",
        *map(_line, body),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def tex(text: str) -> str:
    r"""Return a text escaped so that LaTeX prints it unchanged.

    >>> print(tex("a_b & 50% of $x \\ {y}"))
    a\_b \& 50\% of \$x \textbackslash{} \{y\}
    """
    return " ".join("".join(SPECIAL.get(sign, sign) for sign in _whole(text)).split())


def tex_number(text: str) -> str:
    """Return a number with LaTeX's minus sign and dash."""
    return text.replace("−", r"$-$").replace("–", "--")


def _line(cells: Sequence[str]) -> str:
    return f"    {' & '.join(cells)} \\\\"


def _row_of(results: Results, names: Sequence[str], dim: str, bold: str) -> list[str]:
    """Return the cells of a dim; three or more sets also get their letters."""
    marks = group_letters(results, dim) if len(names) > 2 else {}
    return [f"{_cell(results, name, dim, bold)} {marks.get(name, '')}".rstrip() for name in names]


def _cell(results: Results, name: str, dim: str, bold: str) -> str:
    """Return mean and interval of a set, bold for the best set, marked for few clips."""
    row = summary_row(results, name, dim)
    if row.get("mean") is None:
        return "–"
    middle, low, high = mean(results, name, dim)
    text = bold.format(middle) if best_set(results, dim) == name else middle
    few_clips = "" if row.get("enough", True) else f" (n = {_plain(str(row.get('n')))})"
    return (
        f"{text} [{low}, {high}]{few_clips}" if row.get("low") is not None else f"{text}{few_clips}"
    )


def _difference(results: Results, row: Row, words: Any, bold: str) -> list[str]:
    """Return the cells of a difference, bold if it is beyond doubt."""
    gap, low, high = difference(row)
    text = bold.format(gap) if verdict(results, row) else gap
    wins = " / ".join(_plain(str(row.get(key) or 0)) for key in ("wins", "ties", "losses"))
    return [
        words(row["dim"]),
        text,
        f"[{low}, {high}]",
        probability(row.get("p_holm")).replace("<", "&lt;"),
        wins,
    ]


def _beside(results: Results, row: Row | None) -> list[str]:
    """Return the LaTeX cells of a difference beside the sets."""
    if row is None:
        return ["--", "--"]
    gap, low, high = difference(row)
    text = rf"\textbf{{{gap}}}" if verdict(results, row) else gap
    p = probability(row.get("p_holm"))
    return [tex_number(f"{text} [{low}, {high}]"), tex_number(f"${p}$" if p != "–" else p)]


def _mark(dim: Row, words: Any, dagger: str) -> str:
    """Return a dim's name, with a dagger if it was a training reward."""
    return f"{words(dim['name'])}{dagger if dim.get('trained') else ''}"


def _explanations(results: Results, dagger: str, words: Any = _plain) -> list[str]:
    """Return what a reader must know: suite, clips, intervals, bold, daggers, protocol."""
    suite, sets = results["suite"], results["sets"]
    count = listed(
        [
            f"{counted(len(sentence_or_set['clips']), 'clips')} of {sentence_or_set['name']}"
            for sentence_or_set in sets
        ]
    )
    found = prompts(clip for sentence_or_set in sets for clip in sentence_or_set["clips"])
    prompts_text = f" from {counted(len(found), 'prompts')}" if found else ""
    sentences = [
        f"vidrl bench, suite {suite['name']} {suite['version']}, {count}{prompts_text}, protocol "
        f"{results['protocol']['hash']}.",
        "Mean and 95 % interval, from resampled prompts; higher is better.",
    ]
    if len(sets) > 1:
        sentences.append(
            "Bold: beyond doubt, p < 0.05 after Holm's correction over all dimensions and "
            "pairs of sets, also "
            "where clips without a number count as the worst, and more than a re-encoding "
            "that nobody sees makes."
        )
    if len(sets) > 2:
        sentences.append("Sets with a letter in common are not distinguished; a is the best.")
    trained = any(dim.get("trained") for dim in results["dims"])
    return [words(sentence_or_set) for sentence_or_set in sentences] + (
        [f"{dagger}: a training reward."] if trained else []
    )


# --- VBench's leaderboard -------------------------------------------------------------


def leaderboard(one: Row, dims: Sequence[Row]) -> str:
    """Return the dims of VBench of one set, in the layout of its evaluation_results files.

    The JSON is `{dimension: [score, [{"video_path", "video_results"}, ...]]}`, which
    `cal_final_score.py` and the leaderboard read; the score is the mean over clips. A dim
    without a scored clip is left out, because the script handles absent dims and fails at
    null. `cal_i2v_final_score.py` fails at names that it does not know: with a dim of
    VBench-I2V, only its nine dims are written. Raises ValueError if no dim is VBench's.
    """
    from vidrl.bench.totals import NAMES
    from vidrl.rewards import vbench

    names = {NAMES[dim["reward"]]: dim["name"] for dim in dims if dim.get("reward") in NAMES}
    if not names:
        raise ValueError(
            "expected dimensions of VBench's arithmetic, got none: measure with --profile "
            "vbench, or with --suite vbench"
        )
    to_image = set(names) & set(vbench.I2V)
    known = (
        {**vbench.I2V, **vbench.I2V_QUALITY} if to_image else {**vbench.QUALITY, **vbench.SEMANTIC}
    )
    found = {name: _scored(one, dim) for name, dim in names.items() if name in known}
    return (
        json.dumps({name: row for name, row in found.items() if row}, indent=2, allow_nan=False)
        + "\n"
    )


def leaderboards(results: Results) -> dict[str, str]:
    """Return {file name: text} of each set's leaderboard, since VBench's scripts read one set.

    One set is leaderboard.json; several are leaderboard_1_base.json,
    leaderboard_2_ours.json, by number and name.
    """
    sets = results["sets"]
    plain = [re.sub(r"[^A-Za-z0-9.-]+", "-", one["name"])[:60] for one in sets]
    names = [f"leaderboard_{i}_{name}.json" for i, name in enumerate(plain, 1)]
    return {
        name: leaderboard(one, results["dims"])
        for name, one in zip(names if len(sets) > 1 else ["leaderboard.json"], sets, strict=True)
    }


def _scored(one: Row, dim: str) -> list[Any]:
    """Return [score, clips] of a dim, [] if no clip is scored."""
    rows = [
        {"video_path": clip["path"], "video_results": clip["value"][dim]}
        for clip in one["clips"]
        if clip["value"].get(dim) is not None
    ]
    return [math.fsum(row["video_results"] for row in rows) / len(rows), rows] if rows else []

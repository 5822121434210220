"""Read the table of clips, or of pairs of clips, that a run learns from.

A table of clips has a prompt for each clip; a table of pairs has two clips of one prompt,
one of them preferred. This module reads tables and opens no clip. A wrong table is refused
with the place and the cure; a row whose clip does not exist is left out with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidrl.feedback import files
from vidrl.feedback.answers import joined, main_aspect, pairs_of
from vidrl.feedback.judgments import Choice, Fault, Judgments, segment_labels
from vidrl.lookup.grammar import counted
from vidrl.lookup.passwords import hidden
from vidrl.rewards._files import manifests
from vidrl.rewards._files.finding import inside
from vidrl.rewards._files.tables import BadTable

from . import references

__all__ = ["BadTable", "Entry", "Table", "read_clips", "read_pairs", "shown"]
# what VideoFolder of Hugging Face's datasets reads
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
EXAMPLE = '{"prompt": "a dog runs", "chosen": "a.mp4", "rejected": "b.mp4", "labels": [1, 1, -1]}'


@dataclass(frozen=True)
class Entry:
    """A row to learn from: a clip and its prompt, or a pair of clips, the preferred one first.

    `labels` of a pair has a number for each segment: 1 if the first clip is better there,
    −1 if it is worse, 0 if neither is. Without labels the first clip is better as a whole.
    `faults` are the spans of either clip that a rater marked as wrong.
    """

    where: str  # the row's place in the table, as "line 3"
    prompt: str
    clips: tuple[Path, ...]
    labels: tuple[int, ...] = ()
    faults: tuple[tuple[Fault, ...], tuple[Fault, ...]] = ((), ())

    def labels_of(self, spans: Sequence[tuple[float, float]]) -> tuple[int, ...]:
        """Return the label of each segment of a pair; `spans` are the segments in seconds.

        The labels are those of the table; else those of the marked faults, if there are several
        segments and some have a mark (`segment_labels`); else 1 in each segment.

        >>> marked = ((), (Fault("b.mp4", 1.2, 1.5),))
        >>> pair = Entry("line 1", "a dog", (Path("a.mp4"), Path("b.mp4")), faults=marked)
        >>> pair.labels_of([(0, 1), (1, 2)]), pair.labels_of([(0, 2)])
        ((0, 1), (1,))
        """
        if self.labels:
            return self.labels * len(spans) if len(self.labels) == 1 else self.labels
        first, second = self.faults
        marked = segment_labels(first, second, spans) if len(spans) > 1 else ()
        return marked if any(marked) else (1,) * len(spans)


@dataclass(frozen=True)
class Table:
    """The rows that can be learned from, why others are left out, and notes on the reading."""

    path: Path
    entries: list[Entry]
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def prompts(self) -> list[str]:
        """The different prompts, in the order of the table."""
        return list(dict.fromkeys(entry.prompt for entry in self.entries))

    @property
    def clips(self) -> list[Path]:
        """The different clips, in the order of the table."""
        return list(dict.fromkeys(clip for entry in self.entries for clip in entry.clips))


def read_clips(path: str | os.PathLike[str]) -> Table:
    """Read the clips of a table, or of a folder with metadata.jsonl, .csv or .parquet.

    A table is a file .jsonl, .csv, .tsv, .json or .parquet. A row has a file (`file_name`,
    `video`, `path`, ...) and a prompt (`prompt`, `caption`, `text`, ...), and may have
    references (`image`, `negative_prompt`, ...; see `vidrl.data.prompt.Prompt`). Relative
    paths start in the folder of the table and stay inside it; absolute paths may lead
    anywhere. Rows without a prompt, and clips and images that do not exist, are left out.
    Raises BadTable if the table is not one of clips, or if no row is left.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "metadata.jsonl").write_text('{"file_name": "a.mp4", "text": "a dog"}\\n')
    >>> _ = (folder / "a.mp4").write_bytes(b"")
    >>> [(entry.clips[0].name, entry.prompt) for entry in read_clips(folder).entries]
    [('a.mp4', 'a dog')]
    """
    table, notes = _table_of_folder(Path(path)), list[str]()
    rows = manifests.read_rows(table, notes.append)
    if not any(row.prompt for row in rows):
        raise BadTable(
            f"expected a column prompt, or caption or text, in {table}, found no prompt in "
            f"{counted(len(rows), 'rows')}: a clip is learned together with its prompt"
        )
    without_prompt = [
        f"{row.path}: {row.where} has no prompt" for row in rows if not row.prompt.strip()
    ]
    created = [
        Entry(
            row.where,
            _prompt(table, row.where, row.prompt, row.meta),
            (named_file(table, row.where, row.path),),
        )
        for row in rows
        if row.prompt.strip()
    ]
    return _existing(table, created, without_prompt, notes)


def read_pairs(path: str | os.PathLike[str]) -> Table:
    """Read pairs of clips of which people preferred one, in any format of judgments.

    The formats are those of `vidrl.feedback.formats`, for example the columns prompt, chosen
    and rejected; the optional column `labels` (or `segment_labels`) has a list of 1, 0 and
    −1, one number a segment, equally long in all rows. Several answers on one pair are
    joined by majority; ties, pairs without a prompt and pairs with a clip that does not exist are
    left out. Where a pair has no labels, the faults that its raters marked label its segments
    (`Entry.labels_of`). Points and rankings give the pairs that they imply. Of several aspects the
    one called overall or preference counts. Paths are as in `read_clips`. A store of `vidrl
    label` is read too. Raises BadTable for a file that is not understood, if no pair is left, and
    for an address with a password; ImportError for .parquet without pyarrow.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = [(folder / name).write_bytes(b"") for name in ("a.mp4", "b.mp4")]
    >>> _ = (folder / "pairs.jsonl").write_text(EXAMPLE)
    >>> read_pairs(folder / "pairs.jsonl").entries[0].labels
    (1, 1, -1)
    """
    table = Path(path)  # for messages: a path changes the // of the address of a database
    _check_no_password(os.fspath(path))
    if table.is_dir():
        raise BadTable(
            f"expected a table of pairs, got the folder {table}: name the .jsonl or .parquet "
            f"file in it"
        )
    found = files.read(path)
    _check_label_counts(table, found)
    choices = _of_main_aspect(table, found.judgments)
    places = dict(zip(map(id, found.judgments.choices), found.places, strict=True))
    answered = [
        (places.get(id(pair[0]), "a row"), one, {each.rater for each in pair})
        for pair, one in zip(pairs_of(choices), joined(choices), strict=True)
    ]
    faults = found.judgments.faults
    created = [
        _pair(where, one, [fault for fault in faults if fault.rater in raters])
        for where, one, raters in answered
        if one.choice and one.prompt.strip()
    ]
    why = [
        f"{where}: {'there is no prompt' if one.choice else 'neither clip is preferred'}"
        for where, one, _ in answered
        if not (one.choice and one.prompt.strip())
    ]
    several = len(choices) - len(answered)
    notes = [counted(several, "answers are joined with others on a pair")] if several else []
    if marked := sum(any(one.faults) and not one.labels for one in created):
        notes.append(f"marked faults label the segments of {counted(marked, 'pairs')}")
    return _existing(table, created, why, [*found.judgments.notes, *notes])


def _check_no_password(where: str) -> None:
    """Raise BadTable for an address with a password, which the folder of a run would keep."""
    if "://" in where and hidden(where) != where:
        raise BadTable(
            f"expected the address of a database without its password, got {hidden(where)}: the "
            "folder of the run keeps this address, so write the password to ~/.pgpass or to the "
            "environment variable PGPASSWORD"
        )


def read(key: str, path: str | os.PathLike[str]) -> Table:
    """Read the table that `data.clips` or `data.pairs` names; `key` is "clips" or "pairs"."""
    return read_clips(path) if key == "clips" else read_pairs(path)


def _table_of_folder(path: Path) -> Path:
    """Return a table's path: the path itself, or the metadata file of a folder."""
    if not path.is_dir():
        return path
    found = [path / name for name in METADATA if (path / name).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise BadTable(
            f"expected one table in the folder {path}, got "
            f"{' and '.join(one.name for one in found)}: name "
            'the one that counts, as data.clips = "FOLDER/metadata.jsonl"'
        )
    in_subfolders = sorted(path.glob(f"*/{METADATA[0]}")) + sorted(path.glob(f"*/{METADATA[1]}"))
    cure = (
        f"name {in_subfolders[0].parent}"
        if in_subfolders
        else (
            'write metadata.jsonl there, a line a clip: {"file_name": "a.mp4", '
            '"prompt": "a dog runs"}'
        )
    )
    raise BadTable(
        f"expected {', '.join(METADATA[:2])} or {METADATA[2]} in the folder {path}, found "
        f"none: {cure}"
    )


def named_file(table: Path, where: str, name: str) -> Path:
    """Return the path of a file that a row names: absolute, or inside the table's folder.

    Raises BadTable for an address, and for a relative path that leads out of the folder.
    """
    if "://" in name and not os.path.isabs(name):
        raise _bad(
            table, where, f"expected the path of a file, got the address {name}: download the file"
        )
    try:
        return inside(table.parent, name)
    except ValueError as error:
        raise _bad(table, where, str(error)) from None


def _prompt(table: Path, where: str, text: str, cells: Mapping[str, Any]) -> str:
    """Return the prompt of a row with its references."""
    found = references.named({_small(name): value for name, value in cells.items()})
    try:
        return (
            references.prompt(text, found, lambda name: named_file(table, where, name))
            if found
            else text
        )
    except BadTable:
        raise
    except ValueError as error:
        raise _bad(table, where, str(error)) from None


def _existing(
    table: Path, created: Sequence[Entry], left_out: Sequence[str], notes: list[str]
) -> Table:
    """Return the table of the entries whose clips and references exist and can be read."""
    missing = {
        clip
        for entry in created
        for clip in entry.clips
        if not (os.path.isfile(clip) or os.path.isdir(clip))
    }
    unreadable = {
        entry.where: found for entry in created if (found := references.faults(entry.prompt))
    }
    usable = [
        entry for entry in created if not missing & {*entry.clips} and entry.where not in unreadable
    ]
    why = [
        *left_out,
        *(
            f"{clip}: {entry.where} names it, and it is not there"
            for entry in created
            for clip in entry.clips
            if clip in missing
        ),
        *(f"{where}: {message}" for where, found in unreadable.items() for message in found),
    ]
    if not usable:
        raise BadTable(
            f"{table}: nothing is left to learn from, out of "
            f"{counted(len(created) + len(left_out), 'rows')}; "
            f"{shown(why)}; paths are relative to the table"
        )
    return Table(table, usable, why, notes)


def _bad(table: Path, where: str, message: str) -> BadTable:
    """Build the BadTable error of a row."""
    return BadTable(f"{table}, {where}: {message}")


def shown(reasons: Sequence[str], most: int = 3) -> str:
    """Return the first reasons as text, and the number of the others."""
    more = [f"and {len(reasons) - most} more"] if len(reasons) > most else []
    return "; ".join([*reasons[:most], *more])


# --- pairs


def _of_main_aspect(table: Path, judgments: Judgments) -> list[Choice]:
    """Return the choices of the main aspect; raise BadTable if several may be meant."""
    choices = judgments.all_choices()
    aspects = list(dict.fromkeys(one.aspect for one in choices))
    aspect = main_aspect(aspects)
    if aspect is None and aspects:
        raise BadTable(
            f"expected one aspect, or one called overall, in {table}, got {', '.join(aspects)}: "
            f"choose one, as `vidrl pairs convert {table} --to trl --aspect '{aspects[0]}' --out "
            "pairs.jsonl`"
        )
    return [one for one in choices if one.aspect == aspect]


def _pair(where: str, one: Choice, faults: Sequence[Fault]) -> Entry:
    """Return the entry of a choice, the preferred clip first, with the faults of its clips."""
    chosen = one if one.choice == 1 else one.flipped()
    names = (chosen.first, chosen.second)
    first, second = (tuple(fault for fault in faults if fault.clip == name) for name in names)
    return Entry(where, chosen.prompt, tuple(map(Path, names)), chosen.labels, (first, second))


def _small(name: str) -> str:
    """Return a column's name in lower case."""
    return name.strip().lower().replace(" ", "_")


def _check_label_counts(table: Path, found: files.Read) -> None:
    """Raise BadTable if rows have different numbers of labels; a row without labels is no error."""
    counts = [
        (where, len(one.labels))
        for where, one in zip(found.places, found.judgments.choices, strict=True)
        if one.labels
    ]
    for where, count in counts:
        if count != counts[0][1]:
            raise BadTable(
                f"{table}, {where}: expected {counts[0][1]} labels as on {counts[0][0]}, got "
                f"{count}: every row needs one label a segment"
            )

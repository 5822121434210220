"""Keep what raters answered in a database: a SQLite file, or PostgreSQL by its address.

Each click is one row of `records`, and vidrl never changes a row: undo is a further row that names
the row it revokes. In a SQLite file triggers refuse UPDATE, DELETE and REPLACE by any program,
until somebody drops the triggers; in PostgreSQL the rights of the user decide. A row is on the
disk before the rater's browser is answered, so that a killed server loses at most the click that
was under way. `Store.judgments` is what `vidrl fit`, `vidrl pairs` and the raters' report read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vidrl.feedback.judgments import Choice, Fault, Judgments, Points, Ranking
from vidrl.feedback.questionnaire import Questionnaire, from_text
from vidrl.feedback.store_tables import (
    WrongStore,
    check_file,
    create_tables,
    engine_of,
    explained,
    file_of,
    tables,
)
from vidrl.lookup.grammar import counted
from vidrl.lookup.passwords import hidden

VERSION = 1  # of the tables
# Why a rater saw these clips: drawn at random, chosen as the most informative, shown a second
# time with the sides exchanged, or a pair whose right answer is known.
REASONS = ("random", "informative", "repeat", "gold")
GIVEN = {"A": 1, "B": -1, "tie": 0, "bad": 0}  # answers to a pair, as the choice of the first clip


class NameTaken(ValueError):
    """A rater's name that another browser has."""


@dataclass(frozen=True)
class Shown:
    """A clip that was shown: its path, the SHA-256 of its content, and its length in seconds."""

    path: str
    sha256: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Answer:
    """One row of the store: who answered what of which clips, when, and why these clips.

    `shown` is in the order of the page, the left clip first. `given` maps each axis to "A",
    "B", "tie" or "bad" for a pair, to points for a clip, and to a list of places for a
    ranking. It is empty where the rater skipped. `expected` is the known answer of a gold
    pair. `click` is unique, so that a click that a browser sends twice is kept once.
    """

    rater: str
    shown: tuple[Shown, ...]
    given: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    prompt: str = ""
    reason: str = "random"
    expected: str = ""
    seconds: float = 0.0  # from the pair's first frame to the click
    click: str = ""
    revokes: int | None = None
    at: str = ""  # UTC, ISO 8601
    protocol: str = ""  # the hash of the questionnaire
    number: int = 0  # of the row; 0 before the row is written

    @property
    def skipped(self) -> bool:
        """Whether the rater gave no answer."""
        return not self.given and self.revokes is None


class Store:
    """The answers of a file or a database.

    With a questionnaire, the store is created where it is missing, and refused with WrongStore
    where its questionnaire is another one. Without a questionnaire the store must exist.
    `where` is a path, or an address such as postgresql://host/name; `name` is the same without
    the password, for messages. Raises ImportError without sqlalchemy or the driver of the
    database, WrongStore for what is no store, and FileNotFoundError where there is no store to
    read.

    >>> import tempfile
    >>> store = Store(tempfile.mkdtemp() + "/taste.db", Questionnaire())
    >>> shown = (Shown("/clips/a.mp4"), Shown("/clips/b.mp4"))
    >>> number = store.add(Answer("Ann", shown, {"overall": "B"}, prompt="a dog"))
    >>> [(one.first, one.choice, one.aspect) for one in store.judgments().choices]
    [('/clips/a.mp4', -1, 'overall')]
    >>> _ = store.undo("Ann")
    >>> store.judgments().choices
    []
    """

    def __init__(
        self, where: str | os.PathLike[str], questionnaire: Questionnaire | None = None
    ) -> None:
        self.where = os.fspath(where)
        self.name = hidden(self.where)
        self.file = file_of(self.where)
        check_file(self.file, may_create=questionnaire is not None)
        self.engine = engine_of(self.where, self.file)
        self.tables = tables()
        with explained(self.where):
            if questionnaire is not None:
                self._create(questionnaire)
            self.questionnaire, self.made = self._stored_questionnaire()
        if questionnaire is not None and questionnaire.hash != self.questionnaire.hash:
            raise WrongStore(_other_questionnaire(self.name, self.questionnaire, questionnaire))

    def close(self) -> None:
        """Close the connections to the database."""
        self.engine.dispose()

    def relative(self, path: str) -> str:
        """Return a path below the store's folder relative to it, so that the folder can move."""
        folder = self.file.parent if self.file else None
        inside = folder is not None and Path(path).is_relative_to(folder)
        return Path(path).relative_to(folder).as_posix() if folder and inside else path

    # --- writing

    def add(self, answer: Answer) -> int:
        """Write an answer and return its number; a click that is already there keeps its own.

        Raises ValueError for an answer that does not fit the questionnaire.
        """
        import sqlalchemy as sql

        check(answer, self.questionnaire)
        row = self._row(answer)
        table = self.tables.tables["records"]
        try:
            with self.engine.begin() as connection:
                query = table.insert().values(row).returning(table.c.number)
                return int(connection.execute(query).scalar_one())
        except sql.exc.IntegrityError:
            number = self._number_of(answer.click)
            if number is None:
                raise
            return number

    def undo(
        self,
        rater: str,
        click: str = "",
        among: Callable[[Answer], bool] = lambda answer: True,
    ) -> Answer | None:
        """Revoke a rater's newest answer and return this answer, or None without one.

        `among` says of an answer whether it may be revoked. A click that revoked an answer before
        revokes no second one. Raises ValueError for a click that is no undo of this rater.
        """
        rows = self.records(rater=rater)
        if click and self._number_of(click) is not None:
            done = next((row.revokes for row in rows if row.click == click), None)
            if done is None:
                raise ValueError(f"expected the name of a new click, got {click}, an answer's name")
            return next(row for row in rows if row.number == done)
        newest = next((row for row in reversed(live(rows)) if among(row)), None)
        if newest is not None:
            why = (newest.prompt, newest.reason, newest.expected)
            self.add(Answer(rater, newest.shown, {}, (), *why, click=click, revokes=newest.number))
        return newest

    def give(self, task: str, rater: str, body: Mapping[str, Any]) -> None:
        """Note what a rater is asked next, so that a restarted server takes the answer."""
        table = self.tables.tables["tasks"]
        row = {"task": task, "rater": rater, "body": json.dumps(body), "at": now()}
        with self.engine.begin() as connection:
            connection.execute(table.insert().values(row))

    def waiting(self, rater: str) -> dict[str, dict[str, Any]]:
        """Return the tasks that a rater was given and has not answered, the oldest first."""
        import sqlalchemy as sql

        table, records = self.tables.tables["tasks"], self.tables.tables["records"]
        answered = sql.select(records.c.click).where(records.c.rater == rater)
        query = sql.select(table.c.task, table.c.body).where(table.c.rater == rater)
        query = query.where(table.c.task.not_in(answered)).order_by(table.c.at)
        with self.engine.connect() as connection:
            return {task: json.loads(body) for task, body in connection.execute(query)}

    def has(self, click: str, rater: str) -> bool:
        """Return whether a click of a rater is written already."""
        import sqlalchemy as sql

        table = self.tables.tables["records"]
        query = sql.select(table.c.number).where(table.c.click == click, table.c.rater == rater)
        with self.engine.connect() as connection:
            return connection.execute(query).first() is not None

    def claim(self, name: str, secret: str) -> None:
        """Give a rater's name to the browser that knows the secret; raise NameTaken if it may not.

        The store keeps the secret's hash only. Names that differ in case or outer blanks count
        as one name.
        """
        import sqlalchemy as sql

        table, hashed = self.tables.tables["raters"], _hash(secret)
        row = {"name": _plain(name), "shown_as": name.strip(), "secret": hashed, "at": now()}
        try:
            with self.engine.begin() as connection:
                connection.execute(table.insert().values(row))
        except sql.exc.IntegrityError:
            if self.rater(secret) != name.strip():
                raise NameTaken(
                    f"expected a name that nobody here has, got {name.strip()}: another browser "
                    "answers under this name; go on in that browser, or choose another name"
                ) from None

    def rater(self, secret: str) -> str | None:
        """Return the name that a browser's secret belongs to, or None."""
        import sqlalchemy as sql

        table = self.tables.tables["raters"]
        with self.engine.connect() as connection:
            query = sql.select(table.c.shown_as).where(table.c.secret == _hash(secret))
            return connection.execute(query).scalar()

    # --- reading

    def records(self, after: int = 0, rater: str | None = None) -> list[Answer]:
        """Return all rows with a number above `after`, revoked ones and revocations too."""
        import sqlalchemy as sql

        table = self.tables.tables["records"]
        query = sql.select(table).where(table.c.number > after).order_by(table.c.number)
        query = query if rater is None else query.where(table.c.rater == rater)
        with explained(self.where), self.engine.connect() as connection:
            return [self._answer(row) for row in connection.execute(query).mappings()]

    def answers(self) -> list[Answer]:
        """Return the answers that hold: no revoked ones, but repeats, gold pairs and skips too."""
        return live(self.records())

    def judgments(self, reasons: Collection[str] = ("random", "informative")) -> Judgments:
        """Return the answers as judgments, by default without repeated and gold pairs.

        Estimates for all pairs of the clips need `reasons=("random",)`: the pairs of other
        reasons were chosen, so that an average over them is not one over all pairs.
        """
        if unknown := set(reasons) - set(REASONS):
            raise ValueError(f"expected reasons of {', '.join(REASONS)}, got {sorted(unknown)}")
        answers = self.answers()
        kept = [one for one in answers if one.reason in reasons]
        found = Judgments(notes=_notes(answers, kept))
        for answer in kept:
            _add_judgments(found, answer, self.questionnaire)
        return found

    # --- inside

    def _create(self, questionnaire: Questionnaire) -> None:
        """Create the tables that are missing, and write the questionnaire of a new store."""
        import sqlalchemy as sql

        names = sql.inspect(self.engine).get_table_names()
        if names and "questionnaire" not in names:
            raise WrongStore(
                f"expected a store of vidrl at {self.name}, got a database with other tables, "
                f"such as {names[0]}: name another file"
            )
        create_tables(self.tables, self.engine)
        table = self.tables.tables["questionnaire"]
        row = {"number": 1, "version": VERSION, "hash": questionnaire.hash}
        try:
            with self.engine.begin() as connection:
                if connection.execute(sql.select(table.c.number)).first() is None:
                    row |= {"text": questionnaire.text, "at": now()}
                    connection.execute(table.insert().values(row))
        except sql.exc.IntegrityError:
            pass  # another process was first; its questionnaire is compared

    def _stored_questionnaire(self) -> tuple[Questionnaire, str]:
        """Return the questionnaire of the store, and when the store was made."""
        import sqlalchemy as sql

        table = self.tables.tables["questionnaire"]
        with self.engine.connect() as connection:
            row = connection.execute(sql.select(table)).mappings().first()
        if row is None or row["version"] != VERSION:
            found = "none" if row is None else f"version {row['version']}"
            raise WrongStore(f"expected a store of version {VERSION} at {self.name}, got {found}")
        return from_text(row["text"]), row["at"]

    def _number_of(self, click: str) -> int | None:
        """Return the number of the row of a click, or None."""
        import sqlalchemy as sql

        table = self.tables.tables["records"]
        with self.engine.connect() as connection:
            return connection.execute(
                sql.select(table.c.number).where(table.c.click == click)
            ).scalar()

    def _row(self, answer: Answer) -> dict[str, Any]:
        """Return an answer as a row of the table, with paths as `relative` writes them."""
        shown = [{**asdict(clip), "path": self.relative(clip.path)} for clip in answer.shown]
        places = {clip.path: place for place, clip in enumerate(answer.shown)}
        faults = [
            {"clip": places[fault.clip], "begin": fault.begin, "end": fault.end}
            | {"tags": list(fault.tags)}
            for fault in answer.faults
        ]
        row = asdict(answer) | {"shown": json.dumps(shown), "faults": json.dumps(faults)}
        row |= {"given": json.dumps(dict(answer.given)), "at": answer.at or now()}
        row |= {"click": answer.click or os.urandom(12).hex()}
        row |= {"protocol": self.questionnaire.hash}
        return {name: value for name, value in row.items() if name != "number"}

    def _answer(self, row: Mapping[Any, Any]) -> Answer:
        shown = tuple(
            Shown(self._absolute(clip["path"]), clip["sha256"], clip["seconds"])
            for clip in json.loads(row["shown"])
        )
        faults = tuple(
            Fault(
                shown[fault["clip"]].path,
                fault["begin"],
                fault["end"],
                tuple(fault["tags"]),
                row["prompt"],
                row["rater"],
            )
            for fault in json.loads(row["faults"])
        )
        read = {"shown": shown, "faults": faults, "given": json.loads(row["given"])}
        return Answer(**(dict(row) | read))

    def _absolute(self, path: str) -> str:
        return str(self.file.parent / path) if self.file and not os.path.isabs(path) else path


def live(rows: Sequence[Answer]) -> list[Answer]:
    """Return the answers of all rows that no later row revokes, in order."""
    revoked = {row.revokes for row in rows}
    return [row for row in rows if row.revokes is None and row.number not in revoked]


def check(answer: Answer, questionnaire: Questionnaire) -> None:
    """Raise ValueError for an answer that does not fit the questionnaire."""
    if answer.reason not in REASONS:
        raise ValueError(f"expected a reason of {', '.join(REASONS)}, got {answer.reason!r}")
    count = {"pairs": answer.shown[2:] == () and len(answer.shown) == 2}
    count |= {"points": len(answer.shown) == 1, "ranking": len(answer.shown) >= 2}
    if not count[questionnaire.mode]:
        asked = {"pairs": "two clips", "points": "one clip", "ranking": "two clips or more"}
        raise ValueError(
            f"expected {asked[questionnaire.mode]} in the mode {questionnaire.mode}, got "
            f"{len(answer.shown)}"
        )
    for name, value in answer.given.items():
        _check_value(value, questionnaire, name, len(answer.shown))


def _check_value(value: Any, questionnaire: Questionnaire, name: str, clips: int) -> None:
    """Raise ValueError for a value that is no answer to the axis of this name."""
    axis, mode = questionnaire.axis(name), questionnaire.mode
    if mode == "pairs" and value not in (*GIVEN,):
        raise ValueError(f"expected {', '.join(GIVEN)} for {name}, got {value!r}")
    if mode == "points" and not (_is_whole(value) and axis.low <= value <= axis.high):
        raise ValueError(f"expected {axis.low} to {axis.high} for {name}, got {value!r}")
    places = mode == "ranking" and isinstance(value, list) and len(value) == clips
    if mode == "ranking" and not (places and all(_is_whole(x) and 1 <= x <= clips for x in value)):
        raise ValueError(f"expected {clips} places from 1 to {clips} for {name}, got {value!r}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _add_judgments(found: Judgments, answer: Answer, questionnaire: Questionnaire) -> None:
    """Add what an answer says to the judgments."""
    paths, about = [clip.path for clip in answer.shown], (answer.prompt, answer.rater)
    for name, value in answer.given.items():
        if questionnaire.mode == "pairs":
            first, second = paths
            bad = value == "bad"
            found.choices.append(Choice(first, second, GIVEN[value], name, *about, both_bad=bad))
        elif questionnaire.mode == "points":
            axis = questionnaire.axis(name)
            found.points.append(Points(paths[0], value, axis.low, axis.high, name, *about))
        else:
            found.rankings.append(Ranking(tuple(paths), tuple(value), name, *about))
    found.faults.extend(answer.faults)


def _notes(answers: Sequence[Answer], kept: Sequence[Answer]) -> list[str]:
    """Say what the judgments leave out."""
    skips = sum(one.skipped for one in kept)
    counts = {reason: sum(one.reason == reason for one in answers) for reason in REASONS}
    read = {one.reason for one in kept}
    left_out = {reason: n for reason, n in counts.items() if n and reason not in read}
    notes = [
        counted(count, f"answers of reason {reason} are left out")
        for reason, count in left_out.items()
    ]
    return notes + ([counted(skips, "skipped items have no answer")] if skips else [])


def now() -> str:
    """Return the time in UTC with milliseconds, as 2026-01-31T12:00:00.000Z."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _other_questionnaire(where: str, stored: Questionnaire, asked: Questionnaire) -> str:
    """Say that a store belongs to another questionnaire, with both hashes, and what to do."""
    differing = [
        name
        for name in ("mode", "axes", "tags", "shows_prompt", "settings")
        if getattr(stored, name) != getattr(asked, name)
    ]
    return (
        f"expected the questionnaire {stored.hash} of the store {where}, got {asked.hash}, which "
        f"differs in {', '.join(differing)}: answers to different questions must not be mixed; "
        "name another file with --store, or ask what the store asks"
    )

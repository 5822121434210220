"""Hand out tasks to raters and take their answers; the page and its server know nothing else.

A task is what one rater sees at one time: clips in the order of the page, and the reason. Tasks
are written to the store when they are handed out, so that a restarted server takes the answer
to a task of the server before it, and a reloaded page shows the same clips.
"""

from __future__ import annotations

import math
import random
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from statistics import median
from typing import Any

from vidrl.feedback.judgments import Fault
from vidrl.feedback.labelling.clip_sets import Clip, ClipSet
from vidrl.feedback.labelling.frames import FrameFolder, Vanished, receipt
from vidrl.feedback.labelling.gold import Gold
from vidrl.feedback.questionnaire import Questionnaire
from vidrl.feedback.selection import Item, Past, Pick, Selection
from vidrl.feedback.store import GIVEN, Answer, Shown, Store, live

AHEAD = 2  # tasks that a page holds: the one on the screen, and the next, which it loads
MOST_FAULTS = 50  # of one answer
DAY = 86400.0  # seconds
PAUSE = 300.0  # seconds between two answers that end a sitting
SITTING = 1200.0  # seconds after which the page advises a rest
SWAPPED = {"A": "B", "B": "A"}


class Refused(ValueError):
    """An answer that the desk does not take."""


class Malformed(Refused):
    """An answer that no page sends: without a field, of another type, or to another question."""


@dataclass(frozen=True)
class Task:
    """What one rater is asked: the clips from left to right, and why these clips.

    `given` and `marks` hold an answer that the rater took back, to be edited on the page.
    """

    name: str
    rater: str
    clips: tuple[Clip, ...]
    shown: tuple[Shown, ...]
    reason: str
    expected: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)
    marks: Sequence[Mapping[str, Any]] = ()

    @property
    def prompt(self) -> str:
        """Return the prompt of the clips, "" without one."""
        return next((clip.prompt for clip in self.clips if clip.prompt), "")


@dataclass(frozen=True)
class Progress:
    """How far a rater is, and at what pace: answers, median seconds of the last twenty."""

    done: int
    goal: int
    seconds: float
    sitting: float  # seconds since the first answer of this sitting
    skipped: int = 0

    @property
    def rest(self) -> bool:
        """Return whether the rater has judged for so long that a rest is advised."""
        return self.sitting >= SITTING


@dataclass
class Desk:
    """Hands out tasks of a set of clips and writes the answers to a store.

    `goal` is the number of answers that each rater is asked for, and `until` the number of all
    raters together, after which nobody is asked (0: no limit). Any number of threads may call the
    methods. `vanished` maps clips that could not be shown to the reason, and `note` is called
    with each reason.
    """

    store: Store
    clips: ClipSet
    frames: FrameFolder
    selection: Selection
    gold: Sequence[Gold] = ()
    goal: int = 60
    draw: random.Random = field(default_factory=random.SystemRandom)
    vanished: dict[str, str] = field(default_factory=dict)
    note: Callable[[str], None] = lambda text: None
    until: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._turns: dict[str, threading.RLock] = {}
        self._open: dict[str, list[Task]] = {}  # by rater
        self._rows: list[Answer] = []
        self._live: list[Answer] = []
        self._pasts: dict[int, Past] = {}  # by the number of the row
        self._last = 0  # number of the newest row that was read
        named = [*self.clips.clips, *(clip for gold in self.gold for clip in gold.clips)]
        self._by_path = {str(clip.path): clip for clip in named}
        self._items = {item for group in self.selection.groups for item in group}
        self._places = {str(clip.path): place for place, clip in enumerate(self.clips.clips)}
        names = tuple(self.store.relative(path) for path in self._places)
        self.selection = replace(self.selection, names=names)
        self._ids: dict[tuple[str, str], str] = {}  # by path and SHA-256
        self._paths: dict[str, str] = {}  # by such an id

    @property
    def questionnaire(self) -> Questionnaire:
        """Return what raters are asked."""
        return self.store.questionnaire

    # --- what the page asks for

    def tasks(self, rater: str, most: int = AHEAD) -> list[Task]:
        """Return the tasks that wait for a rater's answer, the first is shown now."""
        with self._turn(rater):
            waiting = self._waiting(rater)
            self._put_changed_aside(waiting)
            if self.complete():
                return []
            progress = self.progress(rater)
            while len(waiting) < min(most, progress.goal - progress.done):
                task = self._new_task(rater)
                if task is None:
                    break
                waiting.append(task)
            return list(waiting)

    def answer(
        self,
        rater: str,
        name: str,
        given: Mapping[str, Any],
        faults: Sequence[Mapping[str, Any]] = (),
        seconds: float = 0.0,
        receipts: Sequence[str] = (),
    ) -> None:
        """Write the answer to a task; an answer that is sent twice is written once.

        `receipts` came with the frames of the clips; a skip without marks needs none, because it
        says nothing about the clips. Raises Refused for a task that the rater does not have, and
        for an answer to clips that were not delivered; Malformed for an answer that does not fit
        the questions.
        """
        with self._turn(rater):
            waiting = self._waiting(rater)
            task = next((one for one in waiting if one.name == name), None)
            if task is None:
                if self.store.has(name, rater):
                    return
                raise Refused("expected the answer to a task of this page: load the page again")
            marked = _faults(faults, task, self.questionnaire)
            if given or marked:
                _check_delivered(task, receipts)
            answer = Answer(rater, task.shown, dict(given), marked, task.prompt, task.reason)
            known: dict[str, Any] = {
                "expected": task.expected,
                "seconds": _spent(seconds),
                "click": name,
            }
            try:
                self.store.add(replace(answer, **known))
            except ValueError as error:
                raise Malformed(str(error)) from None
            waiting.remove(task)

    def undo(self, rater: str, click: str) -> bool:
        """Revoke a rater's newest answer on these clips and return whether there was one.

        The clips are shown again, with the answer that was taken back filled in. Answers on clips
        of another set stay: this page cannot show these clips.
        """
        with self._turn(rater):
            waiting, before = self._waiting(rater), self.store.has(click, rater)
            try:
                answer = self.store.undo(rater, click, self._knows)
            except ValueError as error:
                raise Malformed(str(error)) from None
            if answer is not None and not before:
                waiting.insert(0, self._hand_out_again(answer))
            return answer is not None

    def progress(self, rater: str) -> Progress:
        """Return how far a rater is with the clips of this set, and at what pace.

        A sitting goes on where the rater judged clips of another set before.
        """
        rows = [row for row in self._answers() if row.rater == rater]
        mine = [row for row in rows if self._knows(row)]
        answered = [row for row in mine if not row.skipped]
        recent = [row.seconds for row in answered[-20:] if row.seconds > 0]
        left = 0 if self.complete() else self._left(rater, mine)
        goal = max(len(answered), min(self.goal, len(answered) + left))
        pace = median(recent) if recent else 0.0
        skipped = len(mine) - len(answered)
        return Progress(len(answered), goal, pace, sitting([row.at for row in rows]), skipped)

    def complete(self) -> bool:
        """Return whether all raters together have given the answers that are asked for."""
        return bool(self.until) and self.answered() >= self.until

    def answered(self) -> int:
        """Return how many answers on these clips all raters gave, repeats and gold left out."""
        counts = ("random", "informative")
        rows = (row for row in self._answers() if not row.skipped and row.reason in counts)
        return sum(map(self._knows, rows))

    def _left(self, rater: str, mine: Sequence[Answer]) -> int:
        """Return how many answers a rater can still give: to new items and to waiting checks.

        A repeated pair and a gold pair add an answer once they are handed out, and are handed out
        only while there are new items.
        """
        seen = {self._past(row).item for row in mine if row.reason != "gold"}
        groups = self._without_vanished().groups
        new = sum(item not in seen for group in groups for item in group)
        return new + sum(task.reason in ("repeat", "gold") for task in self._waiting(rater))

    def _knows(self, row: Answer) -> bool:
        """Return whether an answer is to a pair of this set, to its other clips, or to its gold.

        Two clips of this set may be a pair of another one: of one folder alone, where this set
        compares two folders.
        """
        if len(row.shown) == 2 and row.reason != "gold":
            return self._past(row).item in self._items
        return all(clip.path in self._by_path for clip in row.shown)

    def clip_id(self, shown: Shown) -> str:
        """Return the name under which the page loads a clip, which says nothing about the clip.

        Other content of the same file gets another name: browsers keep what a name stands for.
        """
        with self._lock:
            opaque = self._ids.setdefault((shown.path, shown.sha256), secrets.token_urlsafe(9))
            self._paths[opaque] = shown.path
            return opaque

    def clip_of(self, opaque: str) -> Clip | None:
        """Return the clip of such a name, or None."""
        path = self._paths.get(opaque)
        return self._by_path[path] if path else None

    # --- tasks

    def _turn(self, rater: str) -> threading.RLock:
        """Return the lock by which the requests of one rater come one after the other."""
        with self._lock:
            return self._turns.setdefault(rater, threading.RLock())

    def _waiting(self, rater: str) -> list[Task]:
        """Return the rater's open tasks, those of an earlier server too."""
        with self._lock:
            if rater not in self._open:
                stored = self.store.waiting(rater).items()
                tasks = (self._stored_task(name, rater, body) for name, body in stored)
                found = [task for task in tasks if task is not None]
                # an answer that was taken back comes first, as it does without a restart
                self._open[rater] = sorted(found, key=lambda task: not (task.given or task.marks))
            return self._open[rater]

    def _stored_task(self, name: str, rater: str, body: Mapping[str, Any]) -> Task | None:
        """Return a task that the store holds, or None if one of its clips is not in this set."""
        shown = tuple(Shown(**clip) for clip in body["shown"])
        if not all(clip.path in self._by_path for clip in shown):
            return None
        clips = tuple(self._by_path[clip.path] for clip in shown)
        before = (body.get("given", {}), body.get("marks", []))
        return Task(name, rater, clips, shown, body["reason"], body["expected"], *before)

    def _put_changed_aside(self, waiting: list[Task]) -> None:
        """Take away the tasks whose clips are gone, or changed since the tasks were handed out.

        The page can show such clips no more as the task has them, so no answer would be taken.
        """
        for task in list(waiting):
            try:
                now = [self._shown(clip) for clip in task.clips]
            except Vanished:  # noted by _shown
                waiting.remove(task)
                continue
            changed = [a.path for a, b in zip(now, task.shown, strict=True) if a.sha256 != b.sha256]
            if changed:
                waiting.remove(task)
                self.note(
                    f"put aside, a task of {task.rater}: {changed[0]} has changed since it was "
                    "handed out; its present content is shown as a new clip"
                )

    def _new_task(self, rater: str) -> Task | None:
        """Choose clips that can be shown and hand them out; None where nothing is left."""
        while (pick := self._pick(rater)) is not None:
            clips, expected = self._clips_of(pick)
            try:
                shown = tuple(self._shown(clip) for clip in clips)
            except Vanished:
                continue
            return self._hand_out(rater, shown, pick.reason, expected)
        return None

    def _pick(self, rater: str) -> Pick | None:
        """Choose the next clips among those that are still there."""
        with self._lock:
            past = [self._past(row) for row in self._answers()]
            tasks = [task for tasks in self._open.values() for task in tasks]
            past += [self._past_of(task) for task in tasks if task.rater == rater]
            others = {self._past_of(task).item for task in tasks}
            return self._without_vanished().pick(rater, past, others, self.draw)

    def _without_vanished(self) -> Selection:
        """Return the selection without the clips that could not be shown."""
        if not self.vanished:
            return self.selection
        gone = {self._places[path] for path in self.vanished if path in self._places}
        groups = (
            tuple(item for item in group if not gone & {*item}) for group in self.selection.groups
        )
        gold = tuple(
            place
            for place, one in enumerate(self.gold)
            if not {str(clip.path) for clip in one.clips} & {*self.vanished}
        )
        return replace(self.selection, groups=tuple(filter(None, groups)), gold=gold)

    def _clips_of(self, pick: Pick) -> tuple[tuple[Clip, ...], str]:
        """Return the clips of a pick from left to right, sides drawn at random; and the answer."""
        if pick.reason == "gold":
            gold = self.gold[pick.item[0]]
            clips, expected = list(gold.clips), gold.answer
            if self.draw.random() < 0.5:
                clips, expected = clips[::-1], SWAPPED.get(expected, expected)
            return tuple(clips), expected
        clips = [self.clips.clips[place] for place in pick.item]
        if pick.reason != "repeat":  # a repeated item comes with its sides exchanged already
            self.draw.shuffle(clips)
        return tuple(clips), ""

    def _shown(self, clip: Clip) -> Shown:
        """Return what a record keeps of a clip; note the clip and raise Vanished if it is gone."""
        try:
            frames = self.frames.of(clip.path, clip.home)
        except Vanished as error:
            if str(clip.path) not in self.vanished:
                self.note(f"left out, with all its pairs: {error}")
            self.vanished[str(clip.path)] = str(error)
            raise
        return Shown(str(clip.path), frames.sha256, frames.seconds)

    def _hand_out(self, rater: str, shown: tuple[Shown, ...], reason: str, expected: str) -> Task:
        """Write a new task to the store and return it."""
        clips = tuple(self._by_path[clip.path] for clip in shown)
        return self._give(Task(secrets.token_urlsafe(12), rater, clips, shown, reason, expected))

    def _hand_out_again(self, answer: Answer) -> Task:
        """Write a task with the clips of an answer that was taken back, and the answer itself."""
        clips = tuple(self._by_path[clip.path] for clip in answer.shown)
        places = {clip.path: place for place, clip in enumerate(answer.shown)}
        marks = [
            {"clip": places[one.clip], "begin": one.begin, "end": one.end, "tags": [*one.tags]}
            for one in answer.faults
        ]
        name = secrets.token_urlsafe(12)
        why = (answer.reason, answer.expected)
        return self._give(Task(name, answer.rater, clips, answer.shown, *why, answer.given, marks))

    def _give(self, task: Task) -> Task:
        """Write a task to the store and return it."""
        body = {"shown": [asdict(clip) for clip in task.shown]}
        body |= {name: getattr(task, name) for name in ("reason", "expected", "given", "marks")}
        self.store.give(task.name, task.rater, body)
        return task

    # --- the answers so far

    def _answers(self) -> list[Answer]:
        """Return the answers that hold, those of other servers on the same store too.

        Only new rows are read; the answers are sorted out anew where there are new rows.
        """
        with self._lock:
            if new := self.store.records(after=self._last):
                self._rows += new
                self._last = new[-1].number
                self._live = live(self._rows)
            return self._live

    def _past(self, row: Answer) -> Past:
        """Return what the selection needs to know of an answer; each row is looked at once."""
        if row.number not in self._pasts:
            places = self._shown_places(row.shown, row.reason)
            choice = _choice(row, self.questionnaire, places)
            self._pasts[row.number] = Past(row.rater, places, row.reason, choice)
        return self._pasts[row.number]

    def _past_of(self, task: Task) -> Past:
        """Return what the selection needs to know of a task without an answer."""
        return Past(task.rater, self._shown_places(task.shown, task.reason), task.reason)

    def _shown_places(self, shown: Sequence[Shown], reason: str) -> Item:
        """Return the places of clips in the order of the page; −1 for a clip of another set."""
        if reason == "gold":
            paths = {clip.path for clip in shown}
            found = (i for i, gold in enumerate(self.gold) if paths == _paths(gold))
            return (next(found, -1),)
        return tuple(self._places.get(clip.path, -1) for clip in shown)


def _paths(gold: Gold) -> set[str]:
    return {str(clip.path) for clip in gold.clips}


def _choice(row: Answer, questionnaire: Questionnaire, places: Item) -> int | None:
    """Return the choice of the clip of the lower place on the last axis; None without an answer.

    Points and rankings have the choice 0, because their selection counts answers only.
    """
    value = row.given.get(questionnaire.names[-1], "")
    if row.skipped or value == "":
        return None
    if questionnaire.mode != "pairs":
        return 0
    return GIVEN[value] if tuple(sorted(places)) == places else -GIVEN[value]


def _check_delivered(task: Task, receipts: Sequence[str]) -> None:
    """Raise Refused for an answer without the receipts of the clips that it is about."""
    sent = list(receipts) if isinstance(receipts, (list, tuple)) else []
    for place, clip in enumerate(task.shown):
        if sent[place : place + 1] != [receipt(clip.sha256)]:
            raise Refused(
                f"expected an answer to clips that this page has shown, but clip {place + 1} was "
                "not sent to it, or its file has changed since: load the page again, or skip "
                "without marks"
            )


def _faults(
    marked: Sequence[Mapping[str, Any]], task: Task, questionnaire: Questionnaire
) -> tuple[Fault, ...]:
    """Return the spans that a rater marked; raise Refused for a span of another kind."""
    if not isinstance(marked, (list, tuple)) or len(marked) > MOST_FAULTS:
        raise Malformed(f"expected a list of at most {MOST_FAULTS} marked spans")
    return tuple(_fault(one, task, questionnaire) for one in marked)


def _fault(one: Any, task: Task, questionnaire: Questionnaire) -> Fault:
    """Return a marked span of a clip as a fault."""
    clip = one.get("clip") if isinstance(one, dict) else None
    if type(clip) is not int or clip not in range(len(task.shown)):
        raise Malformed(f"expected a marked span with the number of a clip, got {str(one)[:80]}")
    shown, tags = task.shown[clip], one.get("tags", [])
    if not isinstance(tags, list) or not all(tag in questionnaire.tags for tag in tags):
        raise Malformed(f"expected tags of {', '.join(questionnaire.tags)}, got {str(tags)[:80]}")
    begin, end = (one.get(name, math.nan) for name in ("begin", "end"))
    if not (_is_number(begin) and _is_number(end) and 0 <= begin <= end):
        raise Malformed(f"expected a span of seconds, begin before end, got {str(one)[:80]}")
    end = min(end, shown.seconds)
    return Fault(shown.path, min(begin, end), end, tuple(tags), task.prompt, task.rater)


def _spent(seconds: Any) -> float:
    """Return the seconds of an answer, 0 for a page that was left open for more than a day."""
    if not (_is_number(seconds) and seconds >= 0):
        raise Malformed(f"expected seconds of at least 0, got {seconds!r:.80}")
    return float(seconds) if seconds < DAY else 0.0


def _is_number(value: Any) -> bool:
    """Return whether a value is a number that a float can hold; JSON has longer ones, and NaN."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) < 1e300


def sitting(times: Sequence[str], now: datetime | None = None) -> float:
    """Return for how many seconds a rater has answered without a pause of five minutes.

    `times` are in UTC, ISO 8601, in order.

    >>> sitting(["2026-01-01T10:00:00Z", "2026-01-01T12:00:00Z", "2026-01-01T12:04:00Z"],
    ...         datetime(2026, 1, 1, 12, 5, tzinfo=UTC))
    300.0
    """
    last = begun = now or datetime.now(UTC)
    for text in reversed(times):
        at = datetime.fromisoformat(text)
        if (last - at).total_seconds() > PAUSE:
            break
        last = begun = at
    return max(0.0, ((now or datetime.now(UTC)) - begun).total_seconds())

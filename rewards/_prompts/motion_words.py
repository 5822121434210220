"""Read what a prompt asks of motion: rest, pace, a moving camera, a direction, a path.

The rules are regular expressions for English prompts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_REST = (
    r"stays? still|stands? still|(?:is|are|sits?|remains?|stays?|keeps?|holds?|lies|"
    r"lying) (?:perfectly |completely )?"
    r"(?:still|motionless|at rest|stationary|unmoving|in place)|motionless|stationary|unmoving|"
    r"does not move|"
    r"do(?:es)?n't move|not moving|no motion|without moving|at rest|rests\b|resting|"
    r"freeze[- ]frame|frozen in place|"
    r"still (?:life|image|photo|picture|shot)|time stands still"
)
_SLOW = (
    r"slow(?:ly)?|gently|gradual(?:ly)?|leisurely|lazily|unhurried|slow[- ]motion|crawls?|creeps?"
)
_QUICK = (
    r"quick(?:ly)?|fast|rapid(?:ly)?|swift(?:ly)?|speed(?:s|ing)|races?|racing|rush(?:es|ing)?|"
    r"dash(?:es|ing)?"
)
_CAMERA = (
    r"camera|pan(?:s|ning)?\b (?:left|right|up|down|across|over|shot)|zoom(?:s|ing)?|doll(?:y|ies)|"
    r"tracking shot|"
    r"drone|fly-?through|orbit(?:s|ing)? (?:around|shot)|tilts? (?:up|down)"
)


def asks_for_rest(prompt: str) -> bool:
    """Return whether the prompt asks that nothing moves.

    >>> asks_for_rest("a red circle stays still on a dark background")
    True
    >>> asks_for_rest("a still lake where a boat moves left")
    False
    """
    return bool(re.search(rf"\b(?:{_REST})", prompt.lower()))


def asked_pace(prompt: str) -> float:
    """Return the pace that a prompt asks for: 0.5 slow, 1 not stated, 2 quick.

    >>> [asked_pace(f"a dog {how}") for how in ("moves slowly left", "goes by", "runs fast")]
    [0.5, 1.0, 2.0]
    """
    slow, quick = (
        bool(re.search(rf"\b(?:{words})\b", prompt.lower())) for words in (_SLOW, _QUICK)
    )
    return 0.5 if slow and not quick else 2.0 if quick and not slow else 1.0


def asks_for_camera_motion(prompt: str) -> bool:
    """Return whether the prompt asks that the camera moves.

    >>> asks_for_camera_motion("the camera pans left over a city")
    True
    >>> asks_for_camera_motion("a frying pan")
    False
    """
    return bool(re.search(rf"\b(?:{_CAMERA})", prompt.lower()))


@dataclass(frozen=True)
class WantedMotion:
    """A description of the motion that a prompt asks for, as far as its words state it.

    heading: of the thing, (x to the right, y down), each -1, 0 or 1. path: "bounce",
    "circle", "spin", "grow", "shrink" or nothing. camera: pan to the right, tilt up, zoom
    in, roll clockwise, each -1, 0 or 1. pace: 0.5 slow, 1 not stated, 2 quick.
    """

    heading: tuple[int, int] = (0, 0)
    path: str = ""
    camera: tuple[int, int, int, int] = (0, 0, 0, 0)
    still_camera: bool = False
    rest: bool = False
    pace: float = 1.0

    @property
    def anything(self) -> bool:
        """Return whether the prompt asks for any motion or rest at all."""
        return self != WantedMotion()


def wanted_motion(prompt: str) -> WantedMotion:
    """Return the motion that an English prompt asks for.

    Quoted words, idioms and negated words do not count.

    >>> wanted_motion("a red circle moves left slowly while the camera tilts up")
    WantedMotion(heading=(-1, 0), path='', camera=(0, 1, 0, 0), still_camera=False, ...)
    >>> wanted_motion("his left hand holds fast food").anything
    False
    """
    camera, heading = [0, 0, 0, 0], [0, 0]
    still, path = False, ""
    things: list[str] = []  # the clauses without what they say of the camera
    for clause in _clauses(_literal(prompt)):
        said, clause = _cut(_STILL_CAMERA, clause)
        still = still or bool(said)
        for rule in _CAMERA_RULES:
            clause = rule.apply(clause, camera)
        heading = [a + b for a, b in zip(heading, _heading(clause), strict=True)]
        path = path or next((name for name, words in _PATHS.items() if _said(words, clause)), "")
        things.append(re.sub(rf"(?:not|n't|without) mov(?:e|ing){_TOWARDS} {_SIDE}", "~", clause))
    signs = tuple(_sign(x) for x in heading), tuple(_sign(x) for x in camera)
    idle = not any(signs[0]) and not path and asks_for_rest("; ".join(things))
    still = still and not any(signs[1])
    pace = asked_pace(_literal(prompt))
    return WantedMotion(signs[0], path, signs[1], still, idle, pace)  # type: ignore[arg-type]


_MOVE = (
    r"(?:mov|slid|driv|glid|danc|rac|rid)(?:es?|ing)|(?:go|dash|rush|push)(?:es|ing)?|fl(?:y|ies|"
    r"ying)|"
    r"(?:drift|walk|roll|travel|float|jump|leap|climb|shoot|soar|crawl|creep|speed|sail|step|"
    r"gallop|stroll|shift|"
    r"march|hover|scroll|stream|flow|trot|sprint|skat|swing|rocket|wander)(?:s|es|ing|l?ling)?|"
    r"heads|heading|"
    r"runs?|running|swims?|swimming"
)
_SIDES = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_SIDE = r"(left|right|up|down)(?:wards?)?\b"
_ELSE = (  # what follows "left" or "up" where it is no direction of motion
    r"(?! (?:hand|arm|leg|foot|eye|ear|shoulder|knee|wing|paw|fist|thumb|of)\b|"
    r"(?<=right) (?:behind|after|before|now|"
    r"away|past|next|in front|through|into|by|there|here|at|with|on|to)\b|(?<=up|wn) (?:behind|"
    r"close|to|on|with|"
    r"and about|the (?:phone|book))\b(?! (?:the )?(?:left|right|sky|ceiling|top)\b))"
)
_ADVERB = (
    r"(?:[ ,]+(?:\w+ly|fast|straight|directly|all the way|off|back|again|along|around|over|"
    r"steadily)){0,2}"
)
_TOWARDS = r"(?: (?:to|towards?)(?: the| its| his| her| their)?)?"
_NEGATED = (
    r"(?:\bnot|n't|\bnever|\bwithout|\bno|\bnor|\brather than|\binstead of|"
    r"\bcannot)\b(?:\W+\w+){0,3}\W*$"
)
_BREAKS = (
    r"[.;:!?]|,|\b(?:while|but|as|then|whereas)\b|\band (?=(?:the|a|an|its|his|her|their|one|"
    r"another)\b)"
)
_ACROSS = r"\b(?:from )?(?:the )?(left|right|top|bottom) to (?:the )?(left|right|top|bottom)\b"
_IDIOMS = (
    r"fast[- ]?food|fast asleep|hold(?:s|ing)? fast|race ?(?:cars?|tracks?|horses?)|slow cooker|"
    r"(?:high|sky|sun|moon)-?rises?|speed ?boats?|speed limit|sp(?:eed|eeds|eeding) up|slow(?:s|"
    r"ing)? down|"
    r"(?:niagara|victoria|iguazu|the|water) ?falls|(?:night|darkness|silence|dusk|evening|winter|"
    r"curtain) falls|"
    r"fall(?:s|ing)? (?:asleep|in love|apart|silent|ill|behind|for)|"
    r"(?:in the|this|last|every) fall|fall (?:foliage|colou?rs|season|leaves|day|morning|afternoon|"
    r"forest|festival)|"
    r"ris(?:es?|ing) (?:to fame|to power|to the occasion|star)|(?:water|rain|dew|tear) ?drops?|"
    r"(?:grow|grows|growing) (?:up|old|older|tired|on|in|from)|heads? up display|"
    r"(?:go|goes|going|walks?|walking|runs?|running|drives?|driving|rides?|riding|heads|"
    r"heading) (?:up|down) "
    r"(?=(?:the|a|an) (?:street|road|aisle|path|hallway|corridor|runway|highway|beach))|"
    r"left ?over|all right|right now|up close|upside down|bounc(?:y|er)s?"
)


def _literal(prompt: str) -> str:
    """Return the prompt in lower case, with single spaces, without quotations and idioms."""
    text = re.sub(r"[\u2019\u2018]", "'", prompt.lower())
    text = re.sub(r'"[^"]*"|\u201c[^\u201d]*\u201d|(?<!\w)\'[^\']*\'(?!\w)', " ", text)
    text = re.sub(_ACROSS, r"to the \2", " ".join(text.split()))
    text = re.sub(
        r"to the (top|bottom)\b(?! of)",
        lambda found: {"top": "up", "bottom": "down"}[found[1]],
        text,
    )
    return re.sub(rf"(?<![\w])(?:{_IDIOMS})\b", "~", text)


def _clauses(text: str) -> list[str]:
    """Split a text into clauses."""
    return [part.strip() for part in re.split(_BREAKS, text) if part and part.strip()]


def _negated(clause: str, start: int) -> bool:
    """Return whether the words before `start` negate what follows."""
    return bool(re.search(_NEGATED, clause[:start]))


def _said(words: str, clause: str) -> bool:
    """Return whether the words occur and are not negated."""
    return any(
        not _negated(clause, found.start()) for found in re.finditer(rf"\b(?:{words})\b", clause)
    )


def _cut(words: str, clause: str) -> tuple[str, str]:
    """Return the text that matches, and the clause without it."""
    found = re.search(rf"\b(?:{words})\b", clause)
    return (
        (found[0], clause[: found.start()] + " ~ " + clause[found.end() :])
        if found
        else ("", clause)
    )


def _heading(clause: str) -> tuple[int, int]:
    """Return the direction in which a thing moves by the clause, not reduced to signs."""
    x, y = 0, 0
    for pattern in _HEADINGS:
        for found in re.finditer(pattern, clause):
            if not _negated(clause, found.start()):
                steps = [_SIDES[side] for side in found.groups() if side]
                x, y = x + sum(dx for dx, _ in steps), y + sum(dy for _, dy in steps)
        if (x, y) != (0, 0):
            return x, y
    if _said(_RISES, clause) != _said(_FALLS, clause):
        return 0, -1 if _said(_RISES, clause) else 1
    return 0, 0


_HEADINGS = (
    rf"\b(?:{_MOVE}){_ADVERB}{_TOWARDS} {_SIDE}{_ELSE}(?: and(?: then)?(?: \w+ly)?{_TOWARDS} "
    rf"{_SIDE}{_ELSE})?",
    rf"\b(?:{_MOVE})(?: [\w~']+){{1,5}}? (?:to|towards?)(?: the)? {_SIDE}{_ELSE}",
    rf"\b(?:{_MOVE})(?: [\w~']+){{1,4}}? (left|right|up|down)wards?\b",
)
_RISES = (
    r"(?<!-)ris(?:es?|ing)|ascend(?:s|ing)?|lift(?:s|ing)? off|tak(?:es?|ing) off|levitat(?:es?|"
    r"ing)"
)
_FALLS = (
    r"fall(?:s|ing)?|descend(?:s|ing)?|sinking|plummet(?:s|ing)?|"
    r"(?:drop(?:s|ping)?|sinks?|tumbles?|tumbling) (?:down|from|to|into|onto|off|straight|slowly|"
    r"below|beneath|under)"
)
_PATHS = {
    "bounce": r"bounc(?:es?|ing)(?! back)|hop(?:s|ping)? up and down|jump(?:s|ing)? up and down",
    "circle": r"circl(?:es|ing) (?:a?round|above|over|overhead|the|it)|circling|orbit(?:s|"
    r"ing)? (?:a?round|the|a|it)|"
    rf"(?:goes|going|go) (?:a?round)|(?:{_MOVE})(?: \w+)?(?: a?round)? in (?:a |wide |"
    rf"small )?circles?",
    "spin": r"rotat(?:es?|ing)|spin(?:s|ning)?|revolv(?:es?|ing)|twirl(?:s|ing)?|whirl(?:s|ing)?",
    "shrink": r"shrink(?:s|ing)?|contracts|deflat(?:es?|ing)|gets? smaller|getting smaller|"
    r"reced(?:es?|ing)|"
    r"away from the (?:camera|viewer)",
    "grow": r"grow(?:s|ing)?|expand(?:s|ing)?|swell(?:s|ing)?|inflat(?:es?|ing)|"
    r"gets? (?:bigger|larger)|"
    r"getting (?:bigger|larger)|(?:towards?|closer to|approach(?:es|ing)?) the (?:camera|viewer)",
}

_VIEW = r"(?:camera|drone|lens|shot|view|viewpoint|tripod)"
_FIXED = r"(?:static|fixed|stationary|still|locked(?:[- ]off)?|motionless|unmoving|immobile)"
_STILL_CAMERA = (
    rf"{_FIXED} {_VIEW}|tripod shot|no camera (?:movement|motion|move)|"
    rf"without (?:any )?camera (?:movement|motion)|"
    rf"camera(?: angle| position)? (?:is |stays |remains |holds |held |kept |"
    rf"stands )*(?:perfectly |completely )?"
    rf"(?:{_FIXED}|at rest|in place)|camera (?:does not|doesn't|never|is not|isn't|not) mov(?:e|es|"
    rf"ing)|"
    r"camera (?:does not|doesn't|never) (?:pan|tilt|zoom)"
)


@dataclass(frozen=True)
class _Rule:
    """A rule that maps words of a camera's motion to one of its four numbers."""

    words: str
    axis: int | None = None
    sign: int = 0
    sides: Callable[[str], tuple[int, int]] | None = None

    def apply(self, clause: str, camera: list[int]) -> str:
        """Add what the clause says to `camera`; return the clause without the matched words."""
        found = re.search(rf"\b(?:{self.words})", clause)
        if not found:
            return clause
        if not _negated(clause, found.start()):
            axis, sign = (
                (self.axis or 0, self.sign)
                if self.sides is None
                else self.sides(found[found.lastindex or 0])
            )
            camera[axis] += sign
        return self.apply(clause[: found.start()] + " ~ " + clause[found.end() :], camera)


def _side(word: str) -> tuple[int, int]:
    """Return the index of the number that a side sets, and its sign."""
    return {"left": (0, -1), "right": (0, 1), "up": (1, 1), "down": (1, -1)}[word]


_SHIFT = (
    r"(?:mov|slid|glid|ris)(?:es?|ing)|(?:track|truck|drift|travel|turn|swing|shift|sweep|crane|"
    r"pedestal|float|follow|boom|"
    r"look)(?:s|ing|ling)?|fl(?:y|ies|ying)|pan(?:s|ning)?|tilt(?:s|ing)?|is"
)
_ONWARD = r"(?:forwards?|ahead|in(?! \w+ circle)\b(?! (?:a|place|sync))|closer|inwards?)"
_BACKWARD = r"(?:backwards?|back|out|away|outwards?)\b"
_CAMERA_RULES = (
    _Rule(
        r"(?:zoom(?:s|ing|ed)?|doll(?:y|ies|ying))(?: \w+ly)?[- ]in\b|camera (?:\w+ )?push(?:es|"
        r"ing)? in\b",
        2,
        1,
    ),
    _Rule(r"(?:zoom(?:s|ing|ed)?|doll(?:y|ies|ying))(?: \w+ly)?[- ](?:out|back|away)\b", 2, -1),
    _Rule(
        r"camera (?:\w+ )?pull(?:s|ing)? (?:back|out|away)\b|\A(?:\w+ly )?pull(?:s|ing)? back\b",
        2,
        -1,
    ),
    _Rule(rf"(?:pan(?:s|ning|ned)?)(?: shot)?{_ADVERB}{_TOWARDS} {_SIDE}", sides=_side),
    _Rule(
        rf"(?<!head )(?<!face )(?<!chin )tilt(?:s|ing|ed)?(?: shot)?{_ADVERB} (up|"
        rf"down)(?:wards?)?\b",
        sides=_side,
    ),
    _Rule(
        rf"(?:camera|drone)(?: view| shot)?{_ADVERB} (?:{_SHIFT}){_ADVERB}{_TOWARDS} {_SIDE}",
        sides=_side,
    ),
    _Rule(
        rf"(?:camera|drone)(?: view| shot)?{_ADVERB} (?:{_SHIFT})(?: \w+ing)?{_ADVERB} {_ONWARD}",
        2,
        1,
    ),
    _Rule(
        rf"(?:camera|drone)(?: view| shot)?{_ADVERB} (?:{_SHIFT})(?: \w+ing)?{_ADVERB} {_BACKWARD}",
        2,
        -1,
    ),
    _Rule(rf"camera{_ADVERB} (?:ris(?:es|ing)|ascend(?:s|ing)?|lift(?:s|ing)?)\b", 1, 1),
    _Rule(rf"camera{_ADVERB} (?:descend(?:s|ing)?|lower(?:s|ing)?|drop(?:s|ping)?)\b", 1, -1),
    _Rule(
        rf"camera{_ADVERB} (?:roll|rotat|turn|spin)\w*{_ADVERB} (?:anti-?|counter-?)clockwise\b",
        3,
        -1,
    ),
    _Rule(rf"camera{_ADVERB} (?:roll|rotat|turn|spin)\w*{_ADVERB} clockwise\b", 3, 1),
    _Rule(
        rf"camera{_ADVERB} (?:orbit|circl|rotat|spin|roll|mov|fl|glid|arc)\w*(?: a?round\b)?", 0, 0
    ),
)


def _sign(x: int) -> int:
    """Return -1, 0 or 1."""
    return (x > 0) - (x < 0)

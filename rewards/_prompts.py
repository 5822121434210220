"""What a prompt asks of motion: rest, a slow or a quick pace, a moving camera."""

from __future__ import annotations

import re

_REST = (
    r"stays? still|stands? still|(?:is|are|sits?|remains?|stays?|keeps?|holds?|lies|lying) (?:perfectly |completely )?"
    r"(?:still|motionless|at rest|stationary|unmoving|in place)|motionless|stationary|unmoving|does not move|"
    r"do(?:es)?n't move|not moving|no motion|without moving|at rest|rests\b|resting|freeze[- ]frame|frozen in place|"
    r"still (?:life|image|photo|picture|shot)|time stands still"
)
_SLOW = r"slow(?:ly)?|gently|gradual(?:ly)?|leisurely|lazily|unhurried|slow[- ]motion|crawls?|creeps?"
_QUICK = r"quick(?:ly)?|fast|rapid(?:ly)?|swift(?:ly)?|speed(?:s|ing)|races?|racing|rush(?:es|ing)?|dash(?:es|ing)?"
_CAMERA = (
    r"camera|pan(?:s|ning)?\b (?:left|right|up|down|across|over|shot)|zoom(?:s|ing)?|doll(?:y|ies)|tracking shot|"
    r"drone|fly-?through|orbit(?:s|ing)? (?:around|shot)|tilts? (?:up|down)"
)


def rests(prompt: str) -> bool:
    """Whether the prompt asks that nothing move.

    >>> rests("a red circle stays still on a dark background"), rests("a still lake where a boat moves left")
    (True, False)
    """
    return bool(re.search(rf"\b(?:{_REST})", prompt.lower()))


def pace(prompt: str) -> float:
    """Where the prompt puts the speed on a scale of factors: 0.5 slow, 1 nothing said, 2 quick.

    >>> pace("a circle moves slowly left"), pace("a car goes by"), pace("a dog runs fast")
    (0.5, 1.0, 2.0)
    """
    slow, quick = (bool(re.search(rf"\b(?:{words})\b", prompt.lower())) for words in (_SLOW, _QUICK))
    return 0.5 if slow and not quick else 2.0 if quick and not slow else 1.0


def camera(prompt: str) -> bool:
    """Whether the prompt asks that the camera move.

    >>> camera("the camera pans left over a city"), camera("a frying pan")
    (True, False)
    """
    return bool(re.search(rf"\b(?:{_CAMERA})", prompt.lower()))

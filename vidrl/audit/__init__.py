"""Tests whether a reward rises under known hacks, before a policy finds these hacks.

>>> from vidrl import audit
>>> from vidrl.rewards.flicker import Flicker
>>> clips = audit.world_clips(4, size=32)
>>> report = audit.run(Flicker(), clips, hacks=["freeze", "flicker"], checks=False)
>>> [row.hack for row in report.rows if row.strength == 1 and row.mean > 0]
['freeze']
"""

from vidrl.audit.battery import run
from vidrl.audit.clips import Clip, Left, file_clips, world_clips
from vidrl.audit.hacks import HACKS, STRENGTHS, Hack
from vidrl.audit.report import Check, Pair, Report, Row
from vidrl.audit.scoring import Scorer
from vidrl.rewards import load

__all__ = [
    "HACKS",
    "STRENGTHS",
    "Check",
    "Clip",
    "Hack",
    "Left",
    "Pair",
    "Report",
    "Row",
    "Scorer",
    "file_clips",
    "load",
    "run",
    "world_clips",
]

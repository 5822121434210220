"""What raters are asked: the mode, the axes, the scales and the tags; and the hash of all this.

Answers to different questions must not be mixed, so a store belongs to one questionnaire.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vidrl.feedback.judgments import OVERALL
from vidrl.lookup.advice import nearest

MODES = ("pairs", "points", "ranking")
MOST_AXES = 8
TAGS = (
    "flicker",
    "shape changes",
    "appears or vanishes",
    "jerky motion",
    "frozen",
    "implausible motion",
    "body or hand",
    "blur or noise",
    "not as prompted",
)


@dataclass(frozen=True)
class Axis:
    """One thing that raters judge: its name, the question, and for points the two ends.

    Raises ValueError for an empty name, or a scale that is no range of whole numbers.
    """

    name: str
    question: str
    low: int = 1
    high: int = 5

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.question.strip():
            raise ValueError(f"expected an axis with a name and a question, got {self}")
        if not (isinstance(self.low, int) and isinstance(self.high, int) and self.low >= 0):
            raise ValueError(f"expected whole numbers of at least 0 as the scale of {self.name}")
        if not 1 <= self.high - self.low <= 9:
            raise ValueError(
                f"expected a scale of 2 to 10 points for {self.name}, got {self.low} to {self.high}"
            )


PAIR_AXES = (
    Axis("motion", "Which clip moves better?"),
    Axis("picture", "Which clip has the better picture?"),
    Axis("prompt", "Which clip follows the prompt better?"),
    Axis(OVERALL, "Which clip is better overall?"),
)
# the aspects and the scale of VideoFeedback (arXiv 2406.15252)
VIDEO_FEEDBACK = (
    Axis("visual quality", "How clear and clean is the picture?", 1, 4),
    Axis("temporal consistency", "Do things keep their shape and look over time?", 1, 4),
    Axis("dynamic degree", "How much does the clip move?", 1, 4),
    Axis("text-to-video alignment", "Does the clip show what the prompt says?", 1, 4),
    Axis("factual consistency", "Does the clip agree with how the world works?", 1, 4),
)
# the aspects and the scale of VideoScore2 (arXiv 2509.22799)
VIDEO_SCORE_2 = (
    Axis("visual quality", "How clear and clean is the picture?", 1, 5),
    Axis("text-to-video alignment", "Does the clip show what the prompt says?", 1, 5),
    Axis("physical consistency", "Does the clip agree with physics and common sense?", 1, 5),
)
SCALES = {"videofeedback": VIDEO_FEEDBACK, "videoscore2": VIDEO_SCORE_2}
RANKING_AXES = (Axis(OVERALL, "Which clip is best, which is next?"),)


@dataclass(frozen=True)
class Questionnaire:
    """What raters are asked of each pair, clip or group of clips.

    `settings` is what else changes the answers, such as how the clips were sampled. Raises
    ValueError for an unknown mode, no axis, or two axes of one name.

    >>> Questionnaire().hash == Questionnaire(axes=PAIR_AXES).hash
    True
    >>> Questionnaire(tags=()).hash == Questionnaire().hash
    False
    """

    mode: str = "pairs"
    axes: tuple[Axis, ...] = ()
    tags: tuple[str, ...] = TAGS
    shows_prompt: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"expected a mode of {', '.join(MODES)}, got {self.mode!r}")
        usual = {"pairs": PAIR_AXES, "points": VIDEO_SCORE_2, "ranking": RANKING_AXES}
        object.__setattr__(self, "axes", tuple(self.axes) or usual[self.mode])
        names = [axis.name for axis in self.axes]
        if len(set(names)) != len(names) or len(names) > MOST_AXES:
            raise ValueError(f"expected up to {MOST_AXES} axes of different names, got {names}")

    @property
    def names(self) -> list[str]:
        """Return the names of the axes, in the order in which raters see the axes."""
        return [axis.name for axis in self.axes]

    def axis(self, name: str) -> Axis:
        """Return the axis of a name; raise ValueError for a name that is not asked."""
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise ValueError(f"expected an axis of {', '.join(self.names)}, got {name!r}")

    @property
    def text(self) -> str:
        """Return the questionnaire as JSON with sorted keys, of which the hash is computed."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @property
    def hash(self) -> str:
        """Return the first twelve digits of the SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]


def from_text(text: str) -> Questionnaire:
    """Return the questionnaire whose `text` this is.

    >>> from_text(Questionnaire("points").text) == Questionnaire("points")
    True
    """
    found = json.loads(text)
    axes = tuple(Axis(**axis) for axis in found.pop("axes"))
    return Questionnaire(axes=axes, tags=tuple(found.pop("tags")), **found)


def read(path: str | os.PathLike[str], mode: str = "pairs") -> Questionnaire:
    """Read a questionnaire from a TOML file with tables of axes and a list of tags.

    Raises ValueError for a file that is not TOML, or a key or value of another kind, and
    FileNotFoundError where there is no file.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "axes.toml"
    >>> _ = file.write_text('tags = ["hands"]\\n[axes.hands]\\nquestion = "Which hands look real?"')
    >>> read(file).names, read(file).tags
    (['hands'], ('hands',))
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"expected a TOML file of axes, found none at {path}")
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a TOML file of axes at {path}: {error}") from None
    _check_keys(found, ("axes", "tags", "shows_prompt"), str(path))
    axes, tags = found.get("axes", {}), found.get("tags", list(TAGS))
    if not isinstance(axes, dict) or not all(isinstance(one, dict) for one in axes.values()):
        raise ValueError(f'expected tables in {path}, such as [axes.hands] with question = "..."')
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag for tag in tags):
        raise ValueError(f"expected tags in {path} to be a list of texts, got {tags!r}")
    if not isinstance(shows_prompt := found.get("shows_prompt", True), bool):
        raise ValueError(
            f"expected shows_prompt in {path} to be true or false, got {shows_prompt!r}"
        )
    for name, table in axes.items():
        _check_keys(table, ("question", "low", "high"), f"{path}, axes.{name}")
        if not isinstance(table.get("question"), str):
            raise ValueError(f'expected question = "..." in {path}, axes.{name}')
    made = tuple(Axis(name, **table) for name, table in axes.items())
    return Questionnaire(mode, made, tuple(tags), shows_prompt)


def _check_keys(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Raise ValueError for a key that is not known, with the nearest known one."""
    for key in table:
        if key not in known:
            raise ValueError(f"{where}: {nearest(key, known)}")

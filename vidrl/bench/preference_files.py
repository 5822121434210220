"""Read people's choices between clips, and their points of clips, for `vidrl bench`.

`vidrl.feedback.files` reads the formats of files; this module gives each clip its prompt,
and each pair the choices that points and rankings imply.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from vidrl.feedback import files
from vidrl.feedback.answers import joined
from vidrl.feedback.judgments import Choice, Judgments, Points
from vidrl.lookup.grammar import counted
from vidrl.lookup.passwords import hidden

__all__ = ["Choice", "Preferences", "read"]


@dataclass(frozen=True)
class Preferences:
    """The choices of a file, its layout, and people's scores of clips if it has them."""

    layout: str
    choices: list[Choice]
    scores: dict[str, dict[str, float]] = field(default_factory=dict)  # aspect: clip: mean score
    asked: dict[str, str] = field(
        default_factory=dict
    )  # clip: prompt, also of clips that are in no pair
    notes: list[str] = field(default_factory=list)

    @property
    def aspects(self) -> list[str]:
        """Return the aspects in the order of the file."""
        return list(dict.fromkeys([*(choice.aspect for choice in self.choices), *self.scores]))

    @property
    def prompts(self) -> dict[str, str]:
        """Return the prompt of each clip; the first one if the file gives several."""
        return {clip: prompts[0] for clip, prompts in self._prompts().items()}

    @property
    def warnings(self) -> list[str]:
        """Return notes on clips with several prompts."""
        several = [clip for clip, prompts in self._prompts().items() if len(prompts) > 1]
        return (
            [
                f"{counted(len(several), 'clips come with several prompts')}, of which the first "
                f"counts: {several[0]}"
            ]
            if several
            else []
        )

    def _prompts(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {clip: [prompt] for clip, prompt in self.asked.items()}
        for choice in self.choices:
            for clip in (choice.first, choice.second):
                if choice.prompt not in (known := found.setdefault(clip, [])):
                    known.append(choice.prompt)
        return found


def read(
    file: str | os.PathLike[str],
    videos: str | os.PathLike[str] | None = None,
    form: str = "",
    columns: Mapping[str, str] | None = None,
) -> Preferences:
    """Read the judgments of a file in any format of `vidrl.feedback.formats`.

    Clips are searched in `videos`, by default the file's folder. `form` names the format,
    `columns` maps its columns to those of the file. Raises ValueError for a file that is
    not understood; the message names the line where a word is not understood.
    """
    found = files.read(file, form, columns, videos)
    choices, notes = _unweighted(found.judgments)
    read_points = found.judgments.points
    alone = {one.prompt for one in read_points} - {one.prompt for one in choices}
    if alone:
        notes.append(f"{counted(len(alone), 'prompts have')} one clip, and so no pair")
    asked = {one.clip: one.prompt for one in read_points}
    preferences = Preferences(
        f"{found.title}", choices, _means(read_points), asked, [*found.judgments.notes, *notes]
    )
    if not choices and not preferences.scores:
        raise ValueError(
            f"{hidden(os.fspath(file))} was read as {found.title}, but holds no pair: "
            f"{'; '.join(preferences.notes)}"
        )
    return preferences


def _unweighted(judgments: Judgments) -> tuple[list[Choice], list[str]]:
    """Return choices that count once each: answers with weights are joined, each pair's to one."""
    choices = judgments.all_choices()
    weighted = [one for one in choices if one.weight != 1]
    if not weighted:
        return choices, []
    one_each = joined(choices, keep_raters=True)
    what = counted(len(choices), "answers with weights, or shares of answers, are joined")
    pairs = counted(len(one_each), "pairs of a rater")
    return one_each, [f"{what}: {pairs}, each with the answer of the majority"]


def _means(points: list[Points]) -> dict[str, dict[str, float]]:
    """Return the mean of the points of each clip, by aspect."""
    given: dict[str, dict[str, list[float]]] = {}
    for one in points:
        given.setdefault(one.aspect, {}).setdefault(one.clip, []).append(one.points)
    return {
        aspect: {clip: sum(values) / len(values) for clip, values in clips.items()}
        for aspect, clips in given.items()
    }

"""The training table of VideoAlign: a pair a row, with the rate and length of both clips."""

from __future__ import annotations

from typing import Any

from vidrl.feedback.judgments import Choice
from vidrl.rewards.video import Unreadable, Video

from ._answer_table import AnswerTable
from .base import Relative, Table


class Gsb(AnswerTable):
    """Reads and writes the table that VideoAlign trains its reward on (arXiv 2501.13918).

    Columns: `path_A`, `path_B`, `prompt`, answers A, B or same in `VQ`, `MQ`, `TA` (and
    `Overall`), `fps_A`, `num_frames_A`, `fps_B`, `num_frames_B`. Such tables come from
    studies of good, same or bad. Rates and lengths are written where the clip can be read.
    """

    title = "GSB (path_A, path_B, fps_A, num_frames_A; answers in columns as VQ, MQ, TA)"
    source = "https://github.com/KwaiVGI/VideoAlign/blob/main/datasets/train/README.md"
    columns = AnswerTable.columns | {"num_frames_a": ()}
    example = {
        "path_A": "videos/1.mp4",
        "path_B": "videos/2.mp4",
        "prompt": "a dog runs",
        "VQ": "A",
        "MQ": "same",
        "TA": "B",
        "fps_A": 16.0,
        "num_frames_A": 81,
        "fps_B": 16.0,
        "num_frames_B": 81,
    }

    def knows(self, table: Table) -> bool:
        """Return whether the table has rates and lengths, and no column of models."""
        return super().knows(table) and "a_model" not in table.columns

    def about(self, choice: Choice, path: Relative) -> dict[str, Any]:
        """Return the columns that are no answers, with rate and length of the clips."""
        a, b = _measures(choice.first), _measures(choice.second)
        return super().about(choice, path) | {
            "fps_A": a[0],
            "num_frames_A": a[1],
            "fps_B": b[0],
            "num_frames_B": b[1],
        }


def _measures(clip: str) -> tuple[float | None, int | None]:
    """Return the rate and the number of frames of a clip; None for one that cannot be read."""
    try:
        film = Video(clip)
        return film.fps, film.frames
    except (Unreadable, OSError, ValueError, ImportError):
        return None, None

"""VideoGen-RewardBench: two clips of two models a row, a column of A, B or same an aspect."""

from __future__ import annotations

from ._answer_table import AnswerTable
from .base import Table


class VideogenRewardbench(AnswerTable):
    """Reads and writes the table of VideoGen-RewardBench (arXiv 2501.13918).

    Columns: `path_A`, `path_B`, `A_model`, `B_model`, `prompt`, and answers A, B or same in
    `VQ` (visual quality), `MQ` (motion quality), `TA` (text alignment), `Overall`. A column
    `rater` is kept. Other columns of answers are aspects too.
    """

    title = "VideoGen-RewardBench (path_A, path_B; answers in columns as VQ, MQ, TA, Overall)"
    source = "https://huggingface.co/datasets/KwaiVGI/VideoGen-RewardBench"
    example = {
        "path_A": "videos/1.mp4",
        "path_B": "videos/2.mp4",
        "A_model": "m1",
        "B_model": "m2",
        "prompt": "a dog runs",
        "VQ": "A",
        "MQ": "same",
        "TA": "B",
        "Overall": "A",
    }

    def knows(self, table: Table) -> bool:
        """Return whether the table is one of answers, and not a table of the format gsb."""
        gsb = "num_frames_a" in table.columns and "a_model" not in table.columns
        return super().knows(table) and not gsb

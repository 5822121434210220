"""Rewards that score any video over time, with torch, numpy, opencv and decord alone.

>>> import torch
>>> from vidrl.rewards import Samples, default
>>> samples = Samples(torch.rand(2, 9, 3, 32, 32), ["a red circle moves left"] * 2, fps=8.0)
>>> score = default()(samples)
>>> score.value.shape, score.frames.shape, sorted(score.parts)[:2]
(torch.Size([2]), torch.Size([2, 9]), ['drift', 'dynamic_degree'])
"""

if __name__ != "vidrl.rewards":
    raise ImportError(
        f"expected this folder to be imported as `vidrl.rewards`, got `{__name__}`: a top-level "
        "`rewards` would collide with other packages. Write `from vidrl.rewards import ...`. If "
        "vidrl/rewards is missing or a text file (a checkout without symbolic links), run "
        "`git config core.symlinks true && git checkout vidrl/rewards`, or install the wheel with "
        "`pip install WHEEL_FILE`."
    )

from ._files.score_files import score, score_files
from ._scoring.by_name import load
from .base import Card, Reward, Samples, Score
from .compose import Composite, default

__all__ = [
    "Card",
    "Composite",
    "Reward",
    "Samples",
    "Score",
    "default",
    "load",
    "score",
    "score_files",
]

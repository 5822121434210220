"""The part of the clips that a round or an evaluation keeps; clips are decoded and scored a
few at a time.

Legend: B clips, F frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from vidrl.rewards import Reward, Samples, Score

from . import evaluate


class Scored:
    """The scores, the thumbnails and the prompts of all clips, and the few clips that are
    shown.

    `shown(values)` names the places of the clips to keep, given the rewards (n,) of the
    first n clips, NaN where a clip is unscored. `clips` holds these clips, (F, C, H, W), by
    place; all other clips may be freed once `add` returns.

    Example:
        >>> from vidrl import plugin
        >>> scored = Scored(plugin.load("rewards", "freeze"), lambda values: [0])
        >>> for _ in range(2):
        ...     scored.add(Samples(torch.rand(3, 9, 3, 16, 16), ["a cat"] * 3, fps=8.0))
        >>> scored.score.value.shape, scored.thumbnails.shape[0], list(scored.clips)
        (torch.Size([6]), 6, [0])
    """

    def __init__(self, reward: Reward, shown: Callable[[Tensor], Iterable[int]]):
        self.reward, self.shown = reward, shown
        self.prompts, self.fps, self.clips = list[str](), 0.0, dict[int, Tensor]()
        self._found: list[Score | evaluate.Failure] = []
        self._small: list[Tensor] = []

    @torch.no_grad()
    def add(self, samples: Samples) -> None:
        """Score some clips, in the order of the prompts."""
        start = len(self.prompts)
        # `join` copies, so that no view keeps the clips alive
        for one in evaluate.score_some(self.reward, samples):
            self._found.append(evaluate.join([one]) if isinstance(one, Score) else one)
        self._small.append(evaluate.thumbnails(samples.frames))
        self.prompts, self.fps = [*self.prompts, *samples.prompts], samples.fps
        wanted = set(self.shown(self._values()))
        new = {
            start + i: samples.video[i].clone() for i in range(len(samples)) if start + i in wanted
        }
        self.clips = {i: clip for i, clip in self.clips.items() if i in wanted} | new

    def _values(self) -> Tensor:
        nothing = torch.full((1,), float("nan"))
        return torch.cat(
            [one.value.cpu() if isinstance(one, Score) else nothing for one in self._found]
        )

    @property
    def score(self) -> Score:
        """The score of all clips. Raises RuntimeError where the reward failed on every
        clip."""
        return evaluate.together(self._found)

    @property
    def thumbnails(self) -> Tensor:
        """See `evaluate.thumbnails`."""
        return torch.cat(self._small)

    def first(self, n: int) -> Samples | None:
        """The first n clips, of those that were kept; None where none was."""
        places = [i for i in range(min(n, len(self.prompts))) if i in self.clips]
        if not places:
            return None
        return Samples(
            torch.stack([self.clips[i] for i in places]),
            [self.prompts[i] for i in places],
            self.fps,
        )

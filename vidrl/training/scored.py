"""Score clips a few at a time, and keep only what a round or an evaluation needs of them.

Legend: B clips, F frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from vidrl.rewards import Reward, Samples, Score
from vidrl.rewards._scoring.score import on_device

from . import evaluate


class Scored:
    """The scores, thumbnails and prompts of all clips, with the few clips that are shown.

    `shown(values)` names the places of the clips to keep, given the rewards (n,) of the
    first n clips, NaN where a clip is unscored. `clips` holds these clips, (F, C, H, W), by
    place; all other clips may be freed once `add` returns. All that is kept is on the CPU, so
    that the memory of a GPU does not grow with the number of clips.

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
        self.fps, self.prompts = 0.0, list[str]()
        self.clips = dict[int, Tensor]()
        self._found: list[Score | evaluate.Failure] = []
        self._small: list[Tensor] = []

    @torch.no_grad()
    def add(self, samples: Samples) -> None:
        """Score the next clips, in the order of the prompts, and keep those that are shown."""
        start = len(self.prompts)
        # `join` copies: a score may be a view of the clips, and would keep them in memory
        for found in evaluate.score_some(self.reward, samples):
            self._found.append(
                on_device(evaluate.join([found]), "cpu") if isinstance(found, Score) else found
            )
        self._small.append(evaluate.thumbnails(samples.frames).cpu())
        self.prompts, self.fps = [*self.prompts, *samples.prompts], samples.fps
        wanted = set(self.shown(self._values()))
        new = {
            start + i: samples.video[i].to("cpu", copy=True)
            for i in range(len(samples))
            if start + i in wanted
        }
        self.clips = {i: clip for i, clip in self.clips.items() if i in wanted} | new

    def _values(self) -> Tensor:
        """Return the rewards (n,) of the clips so far; NaN where the reward failed."""
        nan = torch.full((1,), float("nan"))
        return torch.cat(
            [found.value if isinstance(found, Score) else nan for found in self._found]
        )

    @property
    def score(self) -> Score:
        """Return the score of all clips; raise RuntimeError where the reward failed on all."""
        return evaluate.together(self._found)

    @property
    def thumbnails(self) -> Tensor:
        """Return the thumbnails of all clips; see `evaluate.thumbnails`."""
        return torch.cat(self._small)

    def first(self, n: int) -> Samples | None:
        """Return those of the first n clips that were kept; None where none was."""
        places = [i for i in range(min(n, len(self.prompts))) if i in self.clips]
        if not places:
            return None
        return Samples(
            torch.stack([self.clips[i] for i in places]),
            [self.prompts[i] for i in places],
            self.fps,
        )

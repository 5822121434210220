"""Score clips a few at a time, and keep only what a round or an evaluation needs of them.

Legend: B clips, F frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Protocol

import torch
from torch import Tensor

from vidrl.rewards import Reward, Samples, Score
from vidrl.rewards._scoring.score import on_device

from . import evaluate

Found = list[Score | evaluate.Failure]


class ChunkWorkers(Protocol):
    """Workers that score chunks of clips while this process goes on; see `reward_workers`."""

    count: int

    def submit(self, samples: Samples) -> Future[Found]:
        """Return the future scores and failures of clips; see `evaluate.score_some`."""
        ...

    def wait(self) -> None:
        """Wait until the workers can score; raise what keeps them from it."""
        ...

    def close(self) -> None:
        """End the workers."""
        ...


class Scored:
    """The scores, thumbnails and prompts of all clips, with the few clips that are shown.

    `shown(values)` names the places of the clips to keep, given the rewards (n,) of the
    first n clips, NaN where a clip is unscored. `clips` holds these clips, (F, C, H, W), by
    place; all other clips may be freed once they are scored. All that is kept is on the CPU,
    so that the memory of a GPU does not grow with the number of clips.

    With `workers`, `add` returns while the clips are scored, and waits where more than
    `workers.count` chunks are not scored yet: so many chunks are in memory, besides the one
    that is being made. `finish` waits for all; `score` and `clips` are complete after it.

    Example:
        >>> from vidrl import plugin
        >>> scored = Scored(plugin.load("rewards", "freeze"), lambda values: [0])
        >>> for _ in range(2):
        ...     scored.add(Samples(torch.rand(3, 9, 3, 16, 16), ["a cat"] * 3, fps=8.0))
        >>> scored.score.value.shape, scored.thumbnails.shape[0], list(scored.clips)
        (torch.Size([6]), 6, [0])
    """

    def __init__(
        self,
        reward: Reward,
        shown: Callable[[Tensor], Iterable[int]],
        workers: ChunkWorkers | None = None,
    ):
        self.reward, self.shown = reward, shown
        self.workers = workers
        self.fps, self.prompts = 0.0, list[str]()
        self.clips = dict[int, Tensor]()
        self._found: Found = []
        self._small: list[Tensor] = []
        # the chunks that are not scored yet, oldest first, each with the place of its first clip
        self._pending: deque[tuple[int, Samples, Future[Found]]] = deque()

    @torch.no_grad()
    def add(self, samples: Samples) -> None:
        """Score the next clips, in the order of the prompts, and keep those that are shown."""
        start = len(self.prompts)
        self._small.append(evaluate.thumbnails(samples.frames).cpu())
        self.prompts, self.fps = [*self.prompts, *samples.prompts], samples.fps
        if self.workers is None:
            self._keep(start, samples, evaluate.score_some(self.reward, samples))
        else:
            samples = samples.to("cpu")  # so that no clips wait on the device
            self._pending.append((start, samples, self.workers.submit(samples)))
            self.finish(self.workers.count)

    def finish(self, pending: int = 0) -> None:
        """Wait until at most `pending` chunks are not scored; raise what their scoring raised."""
        while len(self._pending) > pending:
            start, samples, answer = self._pending.popleft()
            self._keep(start, samples, answer.result())

    def _keep(self, start: int, samples: Samples, found: Found) -> None:
        """Note the scores of the clips from place `start` on, and keep those that are shown."""
        # `join` copies: a score may be a view of the clips, and would keep them in memory
        for one in found:
            self._found.append(
                on_device(evaluate.join([one]), "cpu") if isinstance(one, Score) else one
            )
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
        self.finish()
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

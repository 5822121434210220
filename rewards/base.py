"""What every reward shares: the samples it reads, the score it returns, and the rules for
what cannot be scored.

Shapes: B batch, F frames, C channels, H W height and width, T = F - reach terms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from . import flow as optical_flow
from ._scoring.curves import (
    LONGEST,
    LOST,
    among,
    finish,
    interleave,
    nothing,
    odd,
    refusals,
    spread,
)
from ._scoring.long_clips import Single
from ._scoring.samples import About, Samples, check_samples
from ._scoring.score import Score, as_score
from .flow import SIZE, Motion


@dataclass(frozen=True)
class Card:
    """What a person should know of a reward before trusting it; `vidrl show rewards NAME`
    prints it."""

    sees: str
    blind_to: str
    hacks: str  # what raises it without making the clip better
    input: str = "Any frame rate and size."  # frame rate, size and length that it needs
    cost: str = ""  # on one CPU thread, with the size it was measured at


class Reward(nn.Module):
    """Base of every reward: constructor arguments are its options, class attributes its
    facts.

    A reward that is a mean of local terms gives `terms(samples)`, (B, F - reach): one
    number a frame (reach 0), a pair of neighbouring frames (1), three in a row (2) or more.
    One that compares what is far apart gives instead `features(samples)`, (B, F - reach,
    ...), few numbers a frame, which are all that a long clip leaves behind, and
    `conclude(features, about)`, the terms from those of the whole clip. Then `forward`, the
    curve over time, the rules for what cannot be scored and `stream` follow. Any other
    reward overrides `forward`.
    """

    # its gradient in the pixels is right, with the flow held fixed
    differentiable: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ()  # modules to import beside torch and numpy
    extra: ClassVar[str] = ""  # the extra of pyproject.toml that installs them
    learned: ClassVar[bool] = False  # scores by weights that are not here; tiny() has random ones
    lowered_by: ClassVar[tuple[str, ...]] = ()  # names of vidrl.synthetic.corruptions that lower it
    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    card: ClassVar[Card | None] = None
    support: ClassVar[str] = "frame"
    reach: ClassVar[int] = 0
    # frames below which it has no meaning, where these are more than reach + 1
    least_frames: ClassVar[int] = 1
    least_side: ClassVar[int] = 8
    # frames a second that it looks at, about; None: as they come
    rate: ClassVar[float | None] = None
    lost: ClassVar[str] = LOST  # the reason where conclude() gives NaN
    # looks at `samples.small(self.working_size)` alone: all that a stream keeps
    shrinks: ClassVar[bool] = False
    flow: str = "dis"
    flow_size: int = 0

    def __call__(self, samples: Samples, maps: bool = False) -> Score:
        """The score of whole clips, with its pixel maps if `maps`.

        The score carries a gradient only if the reward says `differentiable`. Raises
        ValueError for what is no Samples, and for a forward() that returns neither a Score
        of these clips nor numbers that `as_score` reads as one.
        """
        check_samples(samples)
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            score = as_score(super().__call__(samples), samples, type(self).__name__)
            if maps:
                score.maps = self._maps(samples)
        return score

    def _maps(self, samples: Samples) -> dict[str, Tensor]:
        why = refusals(samples, self.needed, self.least_side)
        rows = [i for i, reason in enumerate(why) if reason is None]
        if not rows:
            return {}
        phases = samples.pick(rows).phases(self.stride(samples.fps, samples.video.shape[1]))
        parts = [self.maps(part) for part in phases]
        drawn = {name: interleave([part[name] for part in parts]) for name in parts[0]}
        return {name: among(some, rows, len(samples)) for name, some in drawn.items()}

    @classmethod
    def tiny(cls) -> Reward:
        """An instance that needs no download: the defaults, or a small network of random
        weights."""
        return cls()

    def maps(self, samples: Samples) -> dict[str, Tensor]:
        """Maps of where in the picture a fault is: name to (B, F, H, W), at the measured
        size; empty if none."""
        return {}

    def terms(self, samples: Samples) -> Tensor:
        """One number for each frame, pair or triple, (B, F - reach)."""
        raise NotImplementedError(f"{type(self).__name__} gives neither terms() nor forward()")

    def features(self, samples: Samples) -> Tensor:
        """What is kept of each frame, pair or triple, (B, F - reach, ...)."""
        return self.terms(samples)

    def conclude(self, features: Tensor, about: About) -> Tensor:
        """The terms, (B, F - reach), from the features of whole clips."""
        return features

    def forward(self, samples: Samples) -> Score:
        """The score of whole clips."""
        why = refusals(samples, self.needed, self.least_side)
        rows = [i for i, reason in enumerate(why) if reason is None]
        if not rows:
            return nothing(samples, self.support, why)
        chosen = samples.pick(rows)
        parts = chosen.phases(self.stride(samples.fps, samples.video.shape[1]))
        curves = [
            spread(self.conclude(self.features(part), part.about), self.reach) for part in parts
        ]
        return finish(interleave(curves), self.support, why, rows, self.lost)

    def stride(self, fps: float, frames: int) -> int:
        """How many frames apart those are that the reward compares, so that it sees time
        alike at any frame rate.

        The odd number that brings `fps` nearest to `rate`: an even one is blind to what
        alternates. 1 for clips too short to be taken apart.
        """
        stride = 1 if self.rate is None else odd(fps / self.rate)
        return stride if frames >= stride * LONGEST else 1

    def stream(self, fps: float, prompt: str = "") -> Any:
        """A scorer of one long clip in pieces: `update(frames)`, (F, C, H, W), as often as
        wanted, then `result()`.

        Memory is that of a piece and of one number a frame; the numbers are those of
        `forward`.
        """
        if not self.streams:
            raise NotImplementedError(
                f"{type(self).__name__} cannot score a clip in pieces: pass it whole"
            )
        return Single(self, fps, prompt)

    @property
    def needed(self) -> int:
        """The frames of the shortest clip that it can score; 1 where it scores images
        too."""
        return max(self.reach + 1, self.least_frames)

    @property
    def streams(self) -> bool:
        """Whether a clip can be scored in pieces."""
        cls = type(self)
        return cls.terms is not Reward.terms or cls.features is not Reward.features

    @property
    def context(self) -> int:
        """How many of the frames already scored the terms of the next piece look back
        at."""
        return self.reach

    def resume(self, samples: Samples, state: Any, old: int) -> tuple[Tensor, Any]:
        """The features of a piece of a clip whose first `old` frames are scored, and what
        the next piece needs."""
        return self.features(samples)[:, max(0, old - self.reach) :], state

    def motion(self, samples: Samples) -> Motion:
        """The flow of the clips, computed once for all rewards of one Samples."""
        size = self.working_size
        return samples.memo(
            ("motion", self.flow, size),
            lambda: optical_flow.estimate(samples.small(size), self.flow, size),
        )

    @property
    def working_size(self) -> int:
        """The shorter side, pixels, above which frames are shrunk to it."""
        return self.flow_size or SIZE

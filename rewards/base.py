"""What every reward shares: the samples it reads, the score it returns, and the rules for
what cannot be scored.

Shapes: B batch, F frames, C channels, H W height and width, T = F - reach terms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ._scoring.checks import check_samples
from ._scoring.samples import About, Samples
from ._scoring.score import STILL, Score, as_score

if TYPE_CHECKING:
    from .flow import Motion

LONGEST = 4  # frames in a row: the most that the terms of a reward with a rate look at
LOST = "unscored: the measure is not finite on this clip; look for frames without any content"


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
        from ._scoring.long_clips import Single

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
        from .flow import estimate

        size = self.working_size
        return samples.memo(
            ("motion", self.flow, size), lambda: estimate(samples.small(size), self.flow, size)
        )

    @property
    def working_size(self) -> int:
        """The shorter side, pixels, above which frames are shrunk to it."""
        from .flow import SIZE

        return self.flow_size or SIZE


def spread(terms: Tensor, reach: int) -> Tensor:
    """Terms (B, F - reach) as a curve (B, F) of the same mean.

    A pair gives half of its departure from the mean to each of its frames, three in a row
    give theirs to the middle one, four to the middle two.

    >>> spread(torch.tensor([[1.0, 3.0]]), reach=1)
    tensor([[1.5000, 2.0000, 2.5000]])
    >>> spread(torch.tensor([[1.0, 3.0]]), reach=2)
    tensor([[2., 1., 3., 2.]])
    """
    mean = terms.mean(1, keepdim=True, dtype=torch.float64).to(terms.dtype)
    pad = nn.functional.pad
    departure = pad(terms - mean, (reach // 2, reach // 2))
    if reach % 2:
        departure = (pad(departure, (0, 1)) + pad(departure, (1, 0))) / 2
    return mean + departure


def odd(ratio: float) -> int:
    """The odd number nearest to `ratio`, by ratio.

    >>> [odd(fps / 8) for fps in (4, 8, 12, 16, 24, 30, 60)]
    [1, 1, 1, 3, 3, 3, 7]
    """
    low = max(1, (math.floor(ratio) - 1) // 2 * 2 + 1)
    return low if ratio / low <= (low + 2) / max(ratio, 1e-9) else low + 2


def interleave(parts: Sequence[Tensor]) -> Tensor:
    """What `Samples.phases` took apart, put together along the second axis.

    >>> interleave([torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, 4.0]]), torch.tensor([[2.0]])])
    tensor([[0., 1., 2., 3., 4.]])
    """
    if len(parts) == 1:
        return parts[0]
    frames = sum(part.shape[1] for part in parts)
    order = torch.cat([torch.arange(start, frames, len(parts)) for start in range(len(parts))])
    return torch.cat(list(parts), 1)[:, order.argsort().to(parts[0].device)]


def finish(
    scored: Tensor, support: str, why: list[str | None], rows: list[int], lost: str = LOST
) -> Score:
    """The Score of all clips from the curves of those in `rows`; the others are NaN for the
    reason in `why`.

    `lost` is the reason of a curve that is not finite.
    """
    curve = among(scored, rows, len(why))
    value = curve.mean(1, dtype=torch.float64).to(curve.dtype)
    for i in rows:
        if not torch.isfinite(value[i]):
            why[i] = lost
    value = torch.where(torch.isfinite(value), value, torch.full_like(value, math.nan))
    return Score(value, curve, support, why=why)


def among(scored: Tensor, rows: Sequence[int], clips: int) -> Tensor:
    """What was computed for the clips `rows`, (len(rows), ...), among all of them, (clips,
    ...): NaN for the others.

    >>> among(torch.tensor([[1.0], [2.0]]), [0, 2], clips=3)
    tensor([[1.],
            [nan],
            [2.]])
    """
    whole = scored.new_full((clips, *scored.shape[1:]), math.nan)
    return whole.index_copy(0, torch.tensor(rows, device=scored.device), scored)


def nothing(samples: Samples, support: str, why: Sequence[str | None]) -> Score:
    """A Score of NaN for every clip."""
    curve = samples.frames.new_full(samples.video.shape[:2], math.nan)
    return Score(curve[:, 0].clone(), curve, support, why=why)


def too_short(least_frames: int, frames: int) -> str:
    """Why a clip of so few frames cannot be scored; an image, which is a clip of one frame,
    has a reason of its own.

    >>> too_short(3, 2), too_short(3, 1)
    ('inapplicable: needs a clip of at least 3 frames, got 2',
     'inapplicable to an image: needs a clip of at least 3 frames, got 1')
    """
    return f"{STILL if frames == 1 else 'inapplicable'}: needs a clip of at least {least_frames} frames, got {frames}"


def refusals(
    samples: Samples, least_frames: int, least_side: int, first: int = 0
) -> list[str | None]:
    """Why each clip cannot be scored, or None; "inapplicable" where the reward has no
    meaning for such a clip.

    `first` is the number of the first frame, where the samples are a piece of a longer
    clip.
    """
    frames, (height, width) = samples.video.shape[1], samples.video.shape[-2:]
    if frames < least_frames:
        return [too_short(least_frames, frames)] * len(samples)
    if min(height, width) < least_side:
        reason = f"inapplicable: needs frames of at least {least_side} x {least_side} pixels, got {height} x {width}"
        return [reason] * len(samples)
    faults = samples.broken(first)
    told = "unscored: NaN or infinity in frame {}; the generator diverged"
    return [None if frame is None else told.format(frame) for frame in faults]

"""What every reward shares: the samples it reads, the score it returns, and the rules for what cannot be scored.

Shapes: B batch, F frames, C channels, H W height and width, T = F - reach terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .flow import Motion

SUPPORTS = ("frame", "pair", "prefix", "clip")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Samples:
    """What was made: clips, their prompts and their frame rate.

    `video` is (B, F, C, H, W), float in [0, 1] or uint8, C = 1 or 3; an image has F = 1. `reference` (B, F', C, H, W)
    is what the generator was conditioned on. Raises ValueError where a shape, type or range is not that.

    >>> Samples(torch.zeros(1, 5, 3, 16, 16), ["a circle"], fps=8.0).frames.dtype
    torch.float32
    """

    video: Tensor
    prompts: Sequence[str]
    fps: float
    reference: Tensor | None = None
    meta: Sequence[Mapping[str, Any]] = ()
    _memo: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_video(self.video)
        if isinstance(self.prompts, str) or len(self.prompts) != len(self.video):
            got = "one string" if isinstance(self.prompts, str) else f"{len(self.prompts)} prompts"
            raise ValueError(f"expected a list of {len(self.video)} prompts, one a clip, got {got}")
        if not (isinstance(self.fps, int | float) and math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"expected fps, frames a second, to be a positive number, got {self.fps!r}")

    def __len__(self) -> int:
        return len(self.video)

    @property
    def frames(self) -> Tensor:
        """The clips as float in [0, 1], (B, F, C, H, W)."""
        if self.video.is_floating_point():
            return self.video
        return self.memo("frames", lambda: self.video.float() / 255)

    def memo(self, key: Any, make: Callable[[], Made]) -> Made:
        """What `make()` returned the first time `key` was asked for: rewards of one clip share its flow so."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def pick(self, rows: Sequence[int]) -> Samples:
        """The clips `rows` alone; the same rows give the same object, so that they share what is memoised."""
        if list(rows) == list(range(len(self))):
            return self
        return self.memo(("pick", tuple(rows)), lambda: self._rows(list(rows)))

    def to(self, device: torch.device | str) -> Samples:
        """The same samples with their tensors on `device`."""
        reference = None if self.reference is None else self.reference.to(device)
        return Samples(self.video.to(device), self.prompts, self.fps, reference, self.meta)

    def _rows(self, rows: list[int]) -> Samples:
        reference = None if self.reference is None else self.reference[rows]
        meta = [self.meta[i] for i in rows] if len(self.meta) else ()
        return Samples(self.video[rows], [self.prompts[i] for i in rows], self.fps, reference, meta)


@dataclass
class Score:
    """What a reward says: one number a clip, higher is better, and where in time it comes from.

    `value` (B,): NaN means not scored, never a made-up number, and `why` says the reason. `frames` (B, F) has `value`
    as its mean over time; a pair of frames gives half of what it adds to or takes from that mean to each of the two.
    `support` says what one entry of `frames` looks at: "frame", "pair" (its neighbours), "prefix" (all frames up to
    it) or "clip". `parts` are the scores of a Composite's parts, `weights` their weights, and `slopes` (B,) how much
    the value rises with each part's.
    """

    value: Tensor
    frames: Tensor | None = None
    support: str = "frame"
    parts: dict[str, Score] = field(default_factory=dict)
    why: Sequence[str | None] = ()
    weights: dict[str, float] = field(default_factory=dict)
    slopes: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.support not in SUPPORTS:
            raise ValueError(f"expected support to be one of {', '.join(SUPPORTS)}, got {self.support!r}")
        if self.value.dim() != 1:
            raise ValueError(f"expected value of shape (B,), got {tuple(self.value.shape)}")
        self.why = list(self.why) or [None] * len(self.value)


class Reward(nn.Module):
    """Base of every reward: constructor arguments are its options, class attributes its facts.

    A reward that is a mean of local terms gives `terms(samples)`, (B, F - reach): one number a frame (reach 0), a pair
    of neighbouring frames (1), three in a row (2) or more. Then `forward`, the curve over time, the rules for what
    cannot be scored and `stream` follow. Any other reward overrides `forward`.
    """

    differentiable: ClassVar[bool] = False  # by automatic differentiation, the flow held fixed
    needs: ClassVar[tuple[str, ...]] = ()  # packages beside torch and numpy
    lowered_by: ClassVar[tuple[str, ...]] = ()  # names of vidrl.corruptions that lower it
    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    card: ClassVar[str] = ""
    support: ClassVar[str] = "frame"
    reach: ClassVar[int] = 0
    least_side: ClassVar[int] = 8
    flow: str = "dis"
    flow_size: int = 0

    def terms(self, samples: Samples) -> Tensor:
        """One number for each frame, pair or triple, (B, F - reach)."""
        raise NotImplementedError(f"{type(self).__name__} gives neither terms() nor forward()")

    def forward(self, samples: Samples) -> Score:
        """The score of whole clips."""
        why = refusals(samples, self.reach + 1, self.least_side)
        rows = [i for i, reason in enumerate(why) if reason is None]
        if not rows:
            return nothing(samples, self.support, why)
        terms = self.terms(samples.pick(rows))
        return finish(terms, self.reach, self.support, why, rows)

    def stream(self, fps: float, prompt: str = "") -> Any:
        """A scorer of one long clip in pieces: `update(frames)`, (F, C, H, W), as often as wanted, then `result()`.

        Memory is that of a piece and of one number a frame; the numbers are those of `forward`.
        """
        if type(self).terms is Reward.terms:
            raise NotImplementedError(f"{type(self).__name__} cannot score a clip in pieces: pass it whole")
        from ._stream import Single

        return Single(self, fps, prompt)

    @property
    def context(self) -> int:
        """How many of the frames already scored the terms of the next piece look back at."""
        return self.reach

    def resume(self, samples: Samples, state: Any, old: int) -> tuple[Tensor, Any]:
        """The terms of a piece of a clip whose first `old` frames are already scored, and what the next piece needs."""
        return self.terms(samples)[:, max(0, old - self.reach) :], state

    def motion(self, samples: Samples) -> Motion:
        """The flow of the clips, computed once for all rewards of one Samples."""
        from .flow import SIZE, estimate

        size = self.flow_size or SIZE
        return samples.memo(("motion", self.flow, size), lambda: estimate(samples.frames, self.flow, size))


def spread(terms: Tensor, reach: int) -> Tensor:
    """Terms (B, F - reach) as a curve (B, F) of the same mean.

    A pair gives half of its departure from the mean to each of its frames, three in a row give theirs to the middle
    one, four to the middle two.

    >>> spread(torch.tensor([[1.0, 3.0]]), reach=1)
    tensor([[1.5000, 2.0000, 2.5000]])
    >>> spread(torch.tensor([[1.0, 3.0]]), reach=2)
    tensor([[2., 1., 3., 2.]])
    """
    mean = terms.mean(1, keepdim=True)
    pad = nn.functional.pad
    departure = pad(terms - mean, (reach // 2, reach // 2))
    if reach % 2:
        departure = (pad(departure, (0, 1)) + pad(departure, (1, 0))) / 2
    return mean + departure


def finish(terms: Tensor, reach: int, support: str, why: list[str | None], rows: list[int]) -> Score:
    """The Score of all clips from the terms of those in `rows`; the others are NaN for the reason in `why`."""
    curve = terms.new_full((len(why), terms.shape[1] + reach), math.nan)
    curve = curve.index_copy(0, torch.tensor(rows, device=terms.device), spread(terms, reach))
    value = curve.mean(1)
    for i in rows:
        if not torch.isfinite(value[i]):
            why[i] = "unscored: the measure is not finite on this clip; look for frames without any content"
    value = torch.where(torch.isfinite(value), value, torch.full_like(value, math.nan))
    return Score(value, curve, support, why=why)


def nothing(samples: Samples, support: str, why: Sequence[str | None]) -> Score:
    """A Score of NaN for every clip."""
    curve = samples.frames.new_full(samples.video.shape[:2], math.nan)
    return Score(curve[:, 0].clone(), curve, support, why=why)


def refusals(samples: Samples, least_frames: int, least_side: int) -> list[str | None]:
    """Why each clip cannot be scored, or None; "inapplicable" where the reward has no meaning for such a clip."""
    frames, (height, width) = samples.video.shape[1], samples.video.shape[-2:]
    if frames < least_frames:
        reason = f"inapplicable: needs a clip of at least {least_frames} frames, got {frames}"
        return [reason] * len(samples)
    if min(height, width) < least_side:
        reason = f"inapplicable: needs frames of at least {least_side} x {least_side} pixels, got {height} x {width}"
        return [reason] * len(samples)
    return samples.memo("not finite", lambda: _not_finite(samples.video))[:]


def _not_finite(video: Tensor) -> list[str | None]:
    if not video.is_floating_point():
        return [None] * len(video)
    bad = ~torch.isfinite(video.detach()).flatten(2).all(2)
    firsts = [int(row.nonzero()[0]) if row.any() else None for row in bad]
    return [None if t is None else f"unscored: NaN or infinity in frame {t}; the generator diverged" for t in firsts]


def _check_video(video: Tensor) -> None:
    want = "expected video as (batch, frames, channels, height, width), float in [0, 1] or uint8"
    if not isinstance(video, Tensor):
        raise ValueError(f"{want}, got {type(video).__name__}: use torch.as_tensor")
    if video.dim() != 5:
        cure = "add the batch with video[None]" if video.dim() == 4 else "rearrange it"
        raise ValueError(f"{want}, got shape {tuple(video.shape)}: {cure}")
    if video.shape[2] not in (1, 3) or 0 in video.shape:
        cure = "channels come third, permute(0, 1, 4, 2, 3)" if video.shape[-1] in (1, 3) else "pass 1 or 3 channels"
        raise ValueError(f"{want}, nothing empty, 1 or 3 channels, got shape {tuple(video.shape)}: {cure}")
    if not (video.is_floating_point() or video.dtype == torch.uint8):
        raise ValueError(f"{want}, got {video.dtype}: use .to(torch.uint8) or .float() / 255")
    if video.is_floating_point():
        _check_range(video, want)


def _check_range(video: Tensor, want: str) -> None:
    low, high = torch.aminmax(video.detach())
    if low < -0.25 or high > 1.25:  # NaN compares false: it is a clip's fault, and refusals() names it
        cure = "divide by 255" if high > 2 else "map [-1, 1] by (x + 1) / 2"
        raise ValueError(f"{want}, got values from {low.item():.3g} to {high.item():.3g}: {cure}")

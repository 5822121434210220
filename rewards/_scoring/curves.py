"""Curves over time: from terms to curves, from curves to scores, and clips without a score.

Shapes: B clips, F frames, T = F - reach terms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .samples import Samples
from .score import STILL, Score

LONGEST = 4  # frames in a row: the most that the terms of a reward with a rate look at
LOST = "unscored: the measure is not finite on this clip; look for frames without any content"


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

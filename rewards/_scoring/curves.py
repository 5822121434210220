"""Curves over time: from terms to curves, from curves to scores, and reasons to refuse.

Shapes: B clips, F frames, T = F - lookahead terms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .samples import Samples
from .score import STILL, Score

# The largest number of frames in a row that a term of a reward with a `rate` reads. A clip
# is taken apart into phases only if each phase has that many frames.
LONGEST = 4
LOST = "unscored: the measure is not finite on this clip; look for frames without any content"


def curve_of_terms(terms: Tensor, lookahead: int) -> Tensor:
    """Turn terms (B, F - lookahead) into a curve (B, F) of the same mean.

    The deviation of a term from the mean is credited to the middle of the frames that the
    term reads: with lookahead 1, half of it to each of the two frames; with 2, all of it to
    the middle one of three; with 3, half of it to each of the middle two of four. Frames
    that are the middle of no term get the mean.

    >>> curve_of_terms(torch.tensor([[1.0, 3.0]]), lookahead=1)
    tensor([[1.5000, 2.0000, 2.5000]])
    >>> curve_of_terms(torch.tensor([[1.0, 3.0]]), lookahead=2)
    tensor([[2., 1., 3., 2.]])
    """
    # In float64, so that the mean of a long clip does not depend on how terms are added up.
    mean = terms.mean(1, keepdim=True, dtype=torch.float64).to(terms.dtype)
    pad = nn.functional.pad
    deviation = pad(terms - mean, (lookahead // 2, lookahead // 2))
    if lookahead % 2:
        deviation = (pad(deviation, (0, 1)) + pad(deviation, (1, 0))) / 2
    return mean + deviation


def nearest_odd(ratio: float) -> int:
    """Return the odd number nearest to `ratio`, where nearness is the quotient of the two.

    >>> [nearest_odd(fps / 8) for fps in (4, 8, 12, 16, 24, 30, 60)]
    [1, 1, 1, 3, 3, 3, 7]
    """
    low = max(1, (math.floor(ratio) - 1) // 2 * 2 + 1)
    return low if ratio / low <= (low + 2) / max(ratio, 1e-9) else low + 2


def interleave(parts: Sequence[Tensor]) -> Tensor:
    """Merge curves of the phases of `Samples.phases` in the order of time, along axis 1.

    >>> interleave([torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, 4.0]]), torch.tensor([[2.0]])])
    tensor([[0., 1., 2., 3., 4.]])
    """
    if len(parts) == 1:
        return parts[0]
    frames = sum(part.shape[1] for part in parts)
    order = torch.cat([torch.arange(start, frames, len(parts)) for start in range(len(parts))])
    return torch.cat(list(parts), 1)[:, order.argsort().to(parts[0].device)]


def score_of_curves(
    curves: Tensor, support: str, why: list[str | None], rows: list[int], lost: str = LOST
) -> Score:
    """Return the Score of a batch from the curves of the clips in `rows`.

    The other clips of the batch are NaN; `why` holds their reasons. A clip whose curve is
    not finite is NaN too, and gets the reason `lost`, which is written into `why`.
    """
    curve = rows_of_batch(curves, rows, len(why))
    value = curve.mean(1, dtype=torch.float64).to(curve.dtype)
    finite = torch.isfinite(value)
    # one read of the clips' device for all clips: each read makes a GPU wait
    for i, scored in enumerate(finite.tolist()):
        if i in rows and not scored:
            why[i] = lost
    value = torch.where(finite, value, torch.full_like(value, math.nan))
    return Score(value, curve, support, why=why)


def rows_of_batch(computed: Tensor, rows: Sequence[int], clips: int) -> Tensor:
    """Put what was computed for the clips `rows` into a batch of `clips`, NaN elsewhere.

    (len(rows), ...) becomes (clips, ...).

    >>> rows_of_batch(torch.tensor([[1.0], [2.0]]), [0, 2], clips=3)
    tensor([[1.],
            [nan],
            [2.]])
    """
    batch = computed.new_full((clips, *computed.shape[1:]), math.nan)
    # index_copy, not an assignment in place: gradients pass through it
    return batch.index_copy(0, torch.tensor(rows, device=computed.device), computed)


def all_unscored(samples: Samples, support: str, why: Sequence[str | None]) -> Score:
    """Return a Score of NaN for every clip, with the reasons `why`."""
    curve = samples.frames.new_full(samples.video.shape[:2], math.nan)
    return Score(curve[:, 0].clone(), curve, support, why=why)


def too_short(least_frames: int, frames: int) -> str:
    """Return the reason why a clip of too few frames is not scored.

    An image is a clip of one frame, and its reason begins with words of its own, because
    composites leave such parts out.

    >>> too_short(3, 2), too_short(3, 1)
    ('inapplicable: needs a clip of at least 3 frames, got 2',
     'inapplicable to an image: needs a clip of at least 3 frames, got 1')
    """
    begin = STILL if frames == 1 else "inapplicable"
    return f"{begin}: needs a clip of at least {least_frames} frames, got {frames}"


def refusals(
    samples: Samples, least_frames: int, least_side: int, first: int = 0
) -> list[str | None]:
    """Return for each clip the reason why it cannot be scored, or None.

    A reason begins with "inapplicable" where the reward has no meaning for such a clip, and
    with "unscored" where the clip is broken. `first` is the number of the first frame, where
    the samples are a piece of a longer clip.
    """
    frames, (height, width) = samples.video.shape[1], samples.video.shape[-2:]
    if frames < least_frames:
        return [too_short(least_frames, frames)] * len(samples)
    if min(height, width) < least_side:
        size = f"{least_side} x {least_side} pixels, got {height} x {width}"
        return [f"inapplicable: needs frames of at least {size}"] * len(samples)
    message = "unscored: NaN or infinity in frame {}; the generator diverged"
    broken = samples.broken(first)
    return [None if frame is None else message.format(frame) for frame in broken]

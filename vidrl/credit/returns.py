"""Returns-to-go: credit a segment for what comes at and after it, and for nothing before it.

In a clip that is made segment by segment, as the chunks of a long video, the noise of a segment
cannot change earlier frames. The policy gradient is then Σ_j E[G_j ∇ log p_j] with the return
G_j = Σ_{i ≥ j} γ^(i − j) r_i, where r_i is the reward of segment i (REINFORCE with the reward to
go, Williams 1992). With γ = 1 the gradient has no bias. γ < 1 leaves out, with its variance,
a part of what a segment does to much later ones. γ = 0 is a segment's own reward alone.

Legend: N samples, S segments, K steps, F frames.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from vidrl.rewards import Reward, Score
from vidrl.rewards._scoring.curves import interleave


def returns_to_go(rewards: Tensor, discount: float) -> Tensor:
    """Return G_j = Σ_{i ≥ j} γ^(i − j) r_i over the last axis, in the shape of `rewards` (..., S).

    Raises ValueError for a discount γ outside [0, 1].

    Example:
        >>> returns_to_go(torch.tensor([1.0, 2.0, 4.0]), 0.5)
        tensor([3., 4., 4.])
        >>> returns_to_go(torch.tensor([1.0, 2.0, 4.0]), 0.0)
        tensor([1., 2., 4.])
    """
    check(discount)
    place = torch.arange(rewards.shape[-1], device=rewards.device)
    later = place - place[:, None]  # (j, i): how many segments i comes after j
    weight = torch.where(later >= 0, float(discount) ** later.clamp(min=0), 0.0)
    return rewards @ weight.T.to(rewards)


def check(discount: float) -> None:
    """Raise ValueError for a discount outside [0, 1]."""
    if not 0 <= discount <= 1:
        raise ValueError(
            f"expected a discount in [0, 1], got {discount}: 1 counts all later segments in full, "
            "0 counts none"
        )


def causal(score: Score, reward: Reward | None = None, fps: float = 8.0) -> Score:
    """Return a score whose curves tell when each term comes, for a clip made segment by segment.

    A term comes with the last frame that it reads, because that frame completes it:

    - An entry of a curve whose entries depend on their neighbours ("pair") moves later by
      `delay(reward, fps, F)` frames. Else half of a jump between two segments would be credited
      to the segment before the jump, whose noise cannot cause it. Entries that would come after
      the clip's end come in its last frame. Frames of no term, which have the mean of the curve
      (`curve_of_terms`), get 0, because that mean depends on all frames.
    - A curve whose entries depend on earlier frames too ("prefix") stays as it is.
    - A value without such a curve comes at the end: its curve is F · value in the last frame,
      and 0 before.

    The new curves are local ("frame") and have the same means. The parts of a composite are
    treated alike. `reward` is the one that gave the score. Raises ValueError where no part has a
    curve, which would say how many frames there are.

    Example:
        >>> whole = Score(torch.tensor([3.0]), torch.tensor([[2.0, 4.0]]), "clip")
        >>> causal(whole).frames, causal(whole).support
        (tensor([[0., 6.]]), 'frame')
        >>> jump = torch.tensor([[0.0, -1.0, -1.0, 0.0]])  # between frames 1 and 2
        >>> causal(Score(jump.mean(1), jump, "pair")).frames
        tensor([[ 0.,  0., -1., -1.]])
    """
    return _causal(score, _frames(score), reward, fps)


def _causal(score: Score, frames: int, reward: object, fps: float) -> Score:
    """Return `causal` of a score, whose curves have this many frames."""
    own = getattr(reward, "parts", {})
    # a part that is no reward of its own, as those of camera_object, has its reward's facts
    parts = {
        name: _causal(part, frames, own.get(name, reward), fps)
        for name, part in score.parts.items()
    }
    curve = score.frames
    if curve is None or score.support == "clip":
        curve = pad(frames * score.value[:, None], (frames - 1, 0))
    elif score.support == "pair":
        stride, ahead = _stride(reward, fps, frames), getattr(reward, "lookahead", 0)
        phases = [without_mean(curve[:, start::stride], ahead) for start in range(stride)]
        curve = later(interleave(phases), delay(reward, fps, frames))
    return replace(score, frames=curve, support="frame", parts=parts)


def later(curve: Tensor, by: int) -> Tensor:
    """Return a curve (N, F) moved later by some frames; its last frame has what leaves it.

    Example:
        >>> later(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), 2)
        tensor([[0., 0., 1., 9.]])
    """
    kept = curve.shape[1] - 1 - by
    if kept <= 0:  # all entries come in the last frame
        return pad(curve.sum(1, keepdim=True), (curve.shape[1] - 1, 0))
    return torch.cat([pad(curve[:, :kept], (by, 0)), curve[:, kept:].sum(1, keepdim=True)], 1)


def delay(reward: object, fps: float, frames: int) -> int:
    """Return how many frames after an entry of its curve a reward of support "pair" may read.

    A term that reads L = `lookahead` more frames is credited to the middle of its frames, which
    are `stride` apart: ceil(L/2) · stride, and at least one frame. A head on the curves of other
    rewards reads their entries and those next to them. `reward` None counts one frame.

    Example:
        >>> from vidrl.rewards import load
        >>> [delay(load(name), 8.0, 45) for name in ("segment_seam", "motion_consistency")]
        [1, 2]
    """
    own = max(1, (getattr(reward, "lookahead", 0) + 1) // 2) * _stride(reward, fps, frames)
    parts = getattr(reward, "parts", {})
    return own + max((delay(part, fps, frames) for part in parts.values()), default=0)


def without_mean(curve: Tensor, lookahead: int) -> Tensor:
    """Return a curve (N, F) whose frames of no term are 0, with the same mean.

    `vidrl.rewards` gives the mean of the terms to the first and last frames, which are in the
    middle of no term, and half of it to those in the middle of half as many terms as others.

    Example:
        >>> from vidrl.rewards._scoring.curves import curve_of_terms
        >>> curve = curve_of_terms(torch.tensor([[0.0, 3.0, 0.0]]), lookahead=1)
        >>> without_mean(curve, lookahead=1)  # 4/3 of each term, in halves
        tensor([[0., 2., 2., 0.]])
    """
    frames, side = curve.shape[1], lookahead // 2
    if frames <= lookahead:  # too short for a term: the clip is unscored
        return curve
    share = pad(torch.ones(1, frames - lookahead), (side, side))
    if lookahead % 2:
        share = (pad(share, (0, 1)) + pad(share, (1, 0))) / 2
    share = share.to(curve)
    return (curve - (1 - share) * curve.mean(1, keepdim=True)) * frames / share.sum()


def _stride(reward: object, fps: float, frames: int) -> int:
    """Return how many frames apart the frames are that a reward compares."""
    return reward.stride(fps, frames) if isinstance(reward, Reward) else 1


def _frames(score: Score) -> int:
    """Return the number of frames of a score's curve, or of one of its parts."""
    found = [score.frames, *(part.frames for part in score.parts.values())]
    lengths = [curve.shape[1] for curve in found if curve is not None]
    if not lengths:
        raise ValueError(
            "expected a reward with a curve over frames for a discount, got one value a clip: set "
            'algorithm.options.credit = "whole", or add a reward with a curve'
        )
    return lengths[0]

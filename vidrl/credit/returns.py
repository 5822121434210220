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

from vidrl.rewards import Score


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


def causal(score: Score) -> Score:
    """Return a score whose curves tell when each term comes, for a clip made segment by segment.

    A curve whose entries depend on earlier frames too ("prefix") is then local, because its
    entries come after all that they depend on. A value without such a curve comes at the end:
    its curve is F · value in the last frame, and 0 before. The parts of a composite are treated
    alike. Raises ValueError where no part has a curve, which would say how many frames there are.

    Example:
        >>> whole = Score(torch.tensor([3.0]), torch.tensor([[2.0, 4.0]]), "clip")
        >>> causal(whole).frames, causal(whole).support
        (tensor([[0., 6.]]), 'frame')
    """
    return _causal(score, _frames(score))


def _causal(score: Score, frames: int) -> Score:
    parts = {name: _causal(part, frames) for name, part in score.parts.items()}
    if score.frames is not None and score.support in ("frame", "pair", "prefix"):
        # a pair stays a pair: both kinds count as local
        support = "pair" if score.support == "pair" else "frame"
        return replace(score, support=support, parts=parts)
    curve = score.value.new_zeros(len(score.value), frames)
    curve[:, -1] = frames * score.value
    return replace(score, frames=curve, support="frame", parts=parts)


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

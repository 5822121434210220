"""Scores → advantages: who of a group, and which segment of a clip, did better than
expected.

`advantages` is the entry, `estimators` has the mathematics as pure functions, `parts` reads
the scores of composites, and `influence` measures how far the noise of each latent frame
moves each frame's reward.
"""

from .advantages import MEASURED, WAYS, advantages
from .estimators import (
    antithetic,
    blend,
    gls,
    group_mean,
    group_std,
    influence_weighted,
    leave_one_out,
    leave_pair_out,
    normalise,
    permuted,
    pooled_covariance,
    posterior,
    scaled,
    step_gains,
    to_latent,
    whole_clip,
)
from .parts import (
    any_curve,
    by_segment,
    earned,
    scaled_steps,
    segment_scores,
    segment_sums,
    shares_of,
    without,
)

__all__ = [
    "MEASURED",
    "WAYS",
    "advantages",
    "antithetic",
    "any_curve",
    "blend",
    "by_segment",
    "earned",
    "gls",
    "group_mean",
    "group_std",
    "influence_weighted",
    "leave_one_out",
    "leave_pair_out",
    "normalise",
    "permuted",
    "pooled_covariance",
    "posterior",
    "scaled",
    "scaled_steps",
    "segment_scores",
    "segment_sums",
    "shares_of",
    "step_gains",
    "to_latent",
    "whole_clip",
    "without",
]

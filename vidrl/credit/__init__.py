"""Credit turns scores into advantages: which clip of a group, and which segment, did better.

`advantages` is the function that algorithms call. `estimators` has the mathematics as pure
functions, `parts` reads the scores of composites, and `influence` measures how far the noise of
each latent frame moves each frame's reward.
"""

from .advantages import ESTIMATORS, MEASURED, WAYS, advantages
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
    by_segment,
    has_curve,
    mask_samples,
    measured_credit,
    part_fractions,
    scale_steps,
    segment_scores,
    segment_sums,
)

# Former names, for code that imports them from here.
any_curve = has_curve
earned = measured_credit
scaled_steps = scale_steps
shares_of = part_fractions
without = mask_samples

__all__ = [
    "ESTIMATORS",
    "MEASURED",
    "WAYS",
    "advantages",
    "antithetic",
    "blend",
    "by_segment",
    "gls",
    "group_mean",
    "group_std",
    "has_curve",
    "influence_weighted",
    "leave_one_out",
    "leave_pair_out",
    "mask_samples",
    "measured_credit",
    "normalise",
    "part_fractions",
    "permuted",
    "pooled_covariance",
    "posterior",
    "scale_steps",
    "scaled",
    "segment_scores",
    "segment_sums",
    "step_gains",
    "to_latent",
    "whole_clip",
]

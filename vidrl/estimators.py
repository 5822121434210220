"""This module forwards to `vidrl.credit.estimators`, its new place.

Code of other trainers that imports from here keeps working.
"""

from vidrl.credit.estimators import (
    antithetic,
    blend,
    checked,
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

__all__ = [
    "antithetic",
    "blend",
    "checked",
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
    "step_gains",
    "to_latent",
    "whole_clip",
]

"""The former place of `vidrl.credit.estimators`, kept for other trainers' code that imports
it from here."""

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

"""Credit estimators ascribe a clip's reward to its segments; each is a pure function.

The objective is one number a clip, R = mean_i r_i over the entries i of its reward curve,
whatever S is. Its policy gradient is Σ_j E[A_j ∇ log p_j], where p_j is the density of segment
j's noise. Every estimator here returns weights A_j, (N, S), for this sum; they differ in
variance, and in what they need:

- `entries` (N, E): the reward of each frame, NaN for an unscored clip.
- `group` (N,): the number of each clip's prompt; clips of one prompt are compared.
- how far the noise of each segment moves each entry, which `vidrl.credit.influence`
  measures: the root mean square change `influence` (S, E), or the second moments of the
  change, `moment` (S, E, E). A segment whose noise moves no entry gets credit 0.

Legend: N samples, E entries (frames), F pixel frames, S segments, K steps, G members of a
group; b the baseline, the mean over the other clips of the group. NaN marks an unscored
sample: the statistics of its group leave it out, and its credit is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor


def group_mean(values: Tensor, group: Tensor) -> Tensor:
    """Return for each sample the mean over the scored members of its group, (N, ...).

    The mean of a group without a scored member is NaN.
    """
    return _group_sum(values.nan_to_num(), group) / _group_sum(
        (~values.isnan()).to(values.dtype), group
    )


def _group_sum(values: Tensor, group: Tensor) -> Tensor:
    """Return for each sample the sum over its group, (N, ...)."""
    if len(group) != len(values):
        raise ValueError(f"expected {len(values)} group numbers, one a sample, got {len(group)}")
    # Group numbers need not be 0, 1, 2, ...: `row` renumbers them.
    numbers, row = group.unique(return_inverse=True)
    row = row.to(values.device)
    return values.new_zeros(len(numbers), *values.shape[1:]).index_add(0, row, values)[row]


def group_std(values: Tensor, group: Tensor) -> Tensor:
    """Return for each sample the population standard deviation of its group, (N, ...)."""
    return group_mean((values - group_mean(values, group)).square(), group).clamp(min=0).sqrt()


def normalise(values: Tensor, group: Tensor, scale: str = "group", eps: float = 1e-4) -> Tensor:
    """Return group-relative advantages A = (r − mean_group)/(std + ε), (N, ...) like `values`.

    This is GRPO (arXiv 2402.03300). `scale` chooses the divisor:

    - "group": the std of each group.
    - "unbiased": the std of each group with n − 1 in place of n (DanceGRPO).
    - "batch": the root mean square of all groups' deviations. A group whose values hardly
      differ then gets small advantages; "group" would enlarge its noise.
    - "global": the std of all values, to which the differences between prompts contribute
      (Flow-GRPO's global_std).
    - "none": 1 (Dr. GRPO, 2503.20783).
    - "leave_one_out": `leave_one_out` in place of the formula (RLOO, 2402.14740).

    Samples that are NaN, and groups with fewer than two scored samples, get 0. Raises
    ValueError for another `scale`.

    Example:
        >>> r, group = torch.tensor([1.0, 3.0, 5.0, float("nan")]), torch.tensor([0, 0, 1, 1])
        >>> normalise(r, group, eps=0.0)
        tensor([-1.,  1.,  0.,  0.])
    """
    if scale not in ("group", "batch", "none", "unbiased", "global", "leave_one_out"):
        raise ValueError(
            f'expected scale "group", "batch" or "none", got {scale!r}; "unbiased", "global" and '
            '"leave_one_out" are possible too'
        )
    if scale == "leave_one_out":
        return leave_one_out(values, group)
    # In float32 the mean of equal values may differ from them by rounding, and a division by
    # their tiny std would turn this difference into an advantage of order 1.
    exact = values.double()
    count = _group_sum((~values.isnan()).to(exact.dtype), group)
    deviation = torch.where(count >= 2, exact - group_mean(exact, group), torch.nan)
    if scale == "group":
        deviation = deviation / (group_std(exact, group) + eps)
    elif scale == "unbiased":
        deviation = deviation / (
            group_std(exact, group) * (count / (count - 1).clamp(min=1)).sqrt() + eps
        )
    elif scale == "batch":
        deviation = deviation / (deviation.square().nanmean().sqrt() + eps)
    elif scale == "global":
        deviation = deviation / ((exact - exact.nanmean()).square().nanmean().sqrt() + eps)
    return deviation.nan_to_num(0.0).to(values.dtype)


def blend(whole: Tensor, local: Tensor, alpha: float) -> Tensor:
    """Return A_j = (1 − α) A + α a_j, (N, ..., S); α = 0 is whole-clip credit.

    `whole` (N,) are the advantages A of whole clips, `local` (N, ..., S) those of segments, a.

    Example:
        >>> blend(torch.tensor([1.0]), torch.tensor([[3.0, -1.0]]), 0.5)
        tensor([[2., 0.]])
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"expected α in [0, 1], got {alpha}")
    if whole.dim() != 1 or local.dim() < 2 or len(whole) != len(local):
        raise ValueError(
            f"expected whole-clip advantages (B,) and segments' (B, S), got "
            f"{tuple(whole.shape)} and {tuple(local.shape)}"
        )
    return (1 - alpha) * whole.reshape(-1, *[1] * (local.dim() - 1)) + alpha * local


def leave_one_out(values: Tensor, group: Tensor) -> Tensor:
    """Return r less the mean of the group's other samples, (N, ...) (RLOO, arXiv 2402.14740).

    With n scored members this equals n/(n − 1) (r − mean). The baseline does not depend on the
    sample's own noise, so that subtracting it does not bias the gradient. NaN and groups of
    one get 0.

    Example:
        >>> leave_one_out(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 0]))
        tensor([-3.,  0.,  3.])
    """
    exact = values.double()
    scored = ~exact.isnan()
    count = _group_sum(scored.to(exact.dtype), group)
    mean = _group_sum(exact.nan_to_num(), group) / count.clamp(min=1)
    advantage = (exact - mean) * count / (count - 1).clamp(min=1)
    return advantage.masked_fill(~scored | (count < 2), 0.0).to(values.dtype)


def leave_pair_out(values: Tensor, group: Tensor) -> Tensor:
    """Return r less the mean of the group's other pairs, (N, ...), for `antithetic` samples.

    Samples 2i and 2i + 1 are a pair: a clip and its mirror, whose noise has the opposite
    sign. A baseline that contains the mirror depends on the clip's own noise: the gradient of
    `leave_one_out` would be too long, by a factor n/(n − 1) in groups of n. Groups of one
    pair have no other pair and get 0, as NaN does.

    Example:
        >>> leave_pair_out(torch.tensor([1.0, 3.0, 5.0, 9.0]), torch.zeros(4, dtype=torch.long))
        tensor([-6., -4.,  3.,  7.])
    """
    if len(values) % 2 or not torch.equal(group[::2], group[1::2]):
        raise ValueError(f"expected pairs of samples within groups, got {len(values)} samples")
    exact = values.double()
    scored, pair = ~exact.isnan(), torch.arange(len(values)) // 2
    group_count, pair_count = (_group_sum(scored.to(exact.dtype), ids) for ids in (group, pair))
    group_total, pair_total = (_group_sum(exact.nan_to_num(), ids) for ids in (group, pair))
    others = group_count - pair_count
    advantage = exact - (group_total - pair_total) / others.clamp(min=1)
    return advantage.masked_fill(~scored | (others == 0), 0.0).to(values.dtype)


def pooled_covariance(entries: Tensor, group: Tensor, shrink: float = 0.2) -> Tensor:
    """Return the shrunk covariance of the entries within groups, (1 − s) Σ + s diag(Σ), (E, E).

    `shrink` s in [0, 1] pulls the covariances towards 0 and keeps the variances (Ledoit and
    Wolf's diagonal target): with few samples, estimated covariances are mostly noise. Raises
    ValueError where no group has two scored samples.

    Example:
        >>> r = torch.tensor([[0.0, 0.0], [2.0, 2.0]])
        >>> pooled_covariance(r, torch.tensor([0, 0]), shrink=0.5)
        tensor([[2., 1.],
                [1., 2.]])
    """
    if not 0 <= shrink <= 1:
        raise ValueError(f"expected shrink in [0, 1], got {shrink}")
    scored = ~entries.isnan().any(1)
    samples, groups = entries[scored].double(), group[scored.to(group.device)]
    # The mean of each group is estimated too, which costs one degree of freedom a group.
    freedom = len(samples) - len(groups.unique())
    if freedom < 1:
        raise ValueError(
            f"expected groups with two scored samples or more, got {len(samples)} samples in "
            f"{len(groups.unique())} groups"
        )
    deviation = samples - group_mean(samples, groups)
    covariance = deviation.T @ deviation / freedom
    shrunk = (1 - shrink) * covariance + shrink * covariance.diag().diag()
    return shrunk.to(entries.dtype)


def whole_clip(value: Tensor, group: Tensor, segments: int) -> Tensor:
    """Return the clip's `leave_one_out` advantage for every segment, (N, S), as plain GRPO does.

    The estimator is unbiased. Its variance is the largest: each segment's credit contains the
    noise of all the others.
    """
    return leave_one_out(value, group)[:, None].expand(-1, segments)


def influence_weighted(entries: Tensor, influence: Tensor, group: Tensor) -> Tensor:
    """Return A_j = c_j · (r − b)/E with c_j = I_j ΣI_j/(I_j · I_j), (N, S).

    I_j (E,) is the influence of segment j: an entry counts in proportion to how far the
    segment's noise moves it. The factor keeps c_j · I_j = ΣI_j, the segment's influence on
    the sum of the entries.

    Example:
        >>> r = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> influence = torch.eye(2)  # each segment moves only its own frame
        >>> influence_weighted(r, influence, torch.tensor([0, 0]))
        tensor([[ 1.,  0.],
                [-1.,  0.]])
    """
    checked(influence, entries)
    # the clamp gives weights 0, not NaN, to a segment that moves nothing
    square = influence.square().sum(1, keepdim=True).clamp(min=1e-30)
    weights = influence * influence.sum(1, keepdim=True) / square
    return leave_one_out(entries, group) @ weights.T / entries.shape[1]


def gls(
    entries: Tensor,
    influence: Tensor,
    group: Tensor,
    ridge: float = 0.1,
    shrink: float = 0.2,
    covariance: Tensor | None = None,
) -> Tensor:
    """Return A_j = c_j · (r − b)/E by generalised least squares, (N, S).

    c_j ∝ (Σ + λ tr(Σ)/E · 1)⁻¹ I_j with c_j · I_j = ΣI_j. If the noise of segment j moves the
    entries along I_j, and everything else moves them with covariance Σ, then c_j is the weight
    of least variance among those with this c_j · I_j. Σ is `covariance`, or where that is not
    given, the `pooled_covariance` with `shrink`; `ridge` λ keeps the inverse stable.
    """
    checked(influence, entries)
    sigma = _ridged(
        pooled_covariance(entries, group, shrink) if covariance is None else covariance, ridge
    )
    weights = torch.linalg.solve(sigma, influence.to(sigma).T).T
    # I_j Σ⁻¹ I_j > 0, because Σ is positive; 0 where a segment moves nothing
    fit = (weights * influence).sum(1, keepdim=True)
    weights = weights * influence.sum(1, keepdim=True) / fit.clamp(min=1e-30)
    return leave_one_out(entries, group) @ weights.to(entries).T / entries.shape[1]


def posterior(
    entries: Tensor,
    moment: Tensor,
    group: Tensor,
    ridge: float = 0.1,
    shrink: float = 0.2,
    covariance: Tensor | None = None,
) -> Tensor:
    """Return A_j = 1ᵀ M_j (Σ + λ tr(Σ)/E · 1)⁻¹ (r − b)/E, (N, S).

    A_j is the expected part of R's deviation that the noise of segment j caused, given the
    observed entries r. Let δ_j r be the deviation of the entries that segment j's noise
    causes, with covariance M_j = ½ E (r − r')(r − r')ᵀ, where r' has segment j's noise drawn
    anew. Then A_j is the linear estimate of mean_i δ_j r_i from r with the least mean square
    error. Over all sources of noise the A_j sum to the deviation of R. With M_j = I_j I_jᵀ,
    A_j is proportional to the credit of `gls`.

    Example:
        >>> r = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> moment = torch.eye(2).diag_embed()  # each segment moves only its own frame, by 1
        >>> posterior(r, moment, torch.tensor([0, 0]), ridge=0.0, covariance=torch.eye(2))
        tensor([[ 1.,  0.],
                [-1.,  0.]])
    """
    checked(moment, entries)
    sigma = _ridged(
        pooled_covariance(entries, group, shrink) if covariance is None else covariance, ridge
    )
    weights = torch.linalg.solve(sigma, moment.to(sigma).sum(1).T).T  # 1ᵀ M_j Σ⁻¹, (S, E)
    return leave_one_out(entries, group) @ weights.to(entries).T / entries.shape[1]


def step_gains(values: Tensor) -> Tensor:
    """Return V_{k+1} − V_k along steps, (N, K + 1, ...) → (N, K, ...): denoising-step credit.

    V_k is the reward of the clip that is completed without noise from the start of step k, and
    V_K is the reward of the finished clip. The gains sum to V_K − V_0.

    Example:
        >>> step_gains(torch.tensor([[1.0, 4.0, 3.0]]))
        tensor([[ 3., -1.]])
    """
    if values.dim() < 2 or values.shape[1] < 2:
        raise ValueError(
            f"expected values (N, K + 1, ...) of two completions or more, got {tuple(values.shape)}"
        )
    return values.diff(dim=1)


def permuted(advantage: Tensor, draw: torch.Generator) -> Tensor:
    """Return advantages (N, ..., S) with the segments of each sample in random order.

    This is the control of the studies: credit that helps must beat it.
    """
    order = torch.rand(advantage.shape, generator=draw).argsort(-1)
    return advantage.gather(-1, order.to(advantage.device))


def antithetic(noise: Tensor) -> Tensor:
    """Return noise (N, ...) in which sample 2i + 1 has the negated noise of sample 2i.

    In the difference of the two clips of a pair, the even powers of the noise cancel.

    Example:
        >>> antithetic(torch.tensor([[1.0], [5.0], [2.0], [7.0]])).flatten().tolist()
        [1.0, -1.0, 2.0, -2.0]
    """
    if len(noise) % 2:
        raise ValueError(f"expected pairs of samples, got {len(noise)}")
    return torch.stack([noise[::2], -noise[::2]], 1).flatten(0, 1)


def to_latent(curve: Tensor, decoder: Tensor) -> Tensor:
    """Map a curve over frames (N, F) to one over latent frames (N, L) of the same mean.

    r_l = L/F Σ_t W[t, l] r_t, where `decoder` W (F, L) is measured: W[t, l] is the fraction of
    latent frame l in the changes of frame t, and rows sum to 1
    (`vidrl.credit.influence.decoder_map`).

    Example:
        >>> decoder = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
        >>> to_latent(torch.tensor([[1.0, 4.0, 7.0]]), decoder)
        tensor([[2., 6.]])
    """
    if decoder.shape[0] != curve.shape[1]:
        raise ValueError(
            f"expected a map of {curve.shape[1]} frames, as the curve has, got {decoder.shape[0]}"
        )
    if not bool(torch.isfinite(decoder).all()) or not bool((decoder.sum(1) > 0).all()):
        raise ValueError(
            "expected a map in which every frame is moved by some latent frame, got a row without "
            "a positive, finite sum: measure it again"
        )
    fractions = decoder / decoder.sum(1, keepdim=True)
    return curve @ fractions * (decoder.shape[1] / decoder.shape[0])


def scaled(credit: Tensor, group: Tensor, scale: str = "group", eps: float = 1e-4) -> Tensor:
    """Return credit (N, ...) divided by one root mean square over samples and segments.

    `scale` "group" takes the root mean square of each group, "batch" that of all samples;
    "none" divides by 1. One number for all segments keeps their sizes relative to each other.
    Samples with credit 0 in every segment are unscored and do not count in the mean.

    Example:
        >>> credit = torch.tensor([[3.0, 4.0], [-3.0, -4.0]])
        >>> scaled(credit, torch.tensor([0, 0]), eps=0.0).square().mean()
        tensor(1.)
    """
    if scale not in ("group", "batch", "none"):
        raise ValueError(f'expected scale "group", "batch" or "none", got {scale!r}')
    if scale == "none":
        return credit
    square = credit.reshape(len(credit), -1).double().square().mean(1)
    pool = torch.zeros_like(group) if scale == "batch" else group  # zeros: all are one group
    count = _group_sum((square > 0).to(square), pool).clamp(min=1)
    size = (_group_sum(square, pool) / count).sqrt()
    return credit / (size + eps).reshape(-1, *[1] * (credit.dim() - 1)).to(credit)


def checked(weights: Tensor, entries: Tensor | None = None) -> Tensor:
    """Return weights (..., E); raise ValueError if they are not finite or do not fit the entries.

    `entries` is (N, E) or None, which skips the comparison of the lengths.
    """
    if not bool(torch.isfinite(weights).all()):
        raise ValueError("expected a finite influence, got NaN or infinity: measure it again")
    if entries is not None and weights.shape[-1] != entries.shape[1]:
        raise ValueError(
            f"expected an influence on {entries.shape[1]} entries, as the curve has, got "
            f"{weights.shape[-1]}: measure it for clips of this length"
        )
    return weights


def _ridged(sigma: Tensor, ridge: float) -> Tensor:
    """Return Σ + λ tr(Σ)/E · 1 in float64; raise ValueError if it cannot be inverted.

    Where no entry varies, the result is the unit matrix: the deviations are 0 anyway.
    """
    exact = sigma.double()
    eye = torch.eye(len(exact), dtype=exact.dtype, device=exact.device)
    if not bool(exact.any()):
        return eye
    ridged = exact + ridge * exact.diagonal().mean() * eye
    finite = bool(torch.isfinite(ridged).all())
    condition = float(torch.linalg.cond(ridged)) if finite else float("inf")
    # Entries are float32, with 7 digits: at a condition of 1e6 about one correct digit is left.
    if not condition < 1e6:
        raise ValueError(
            f"expected a covariance that can be inverted, got a condition of {condition:.0e}: "
            f"raise ridge ({ridge}) or shrink"
        )
    return ridged

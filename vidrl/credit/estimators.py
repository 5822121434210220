"""Credit estimators: how much each segment of a clip earned of what its reward entries say.

All estimate, for one objective R = mean_i r_i whatever S, the weight A_j of segment j's
score function ∇ log p_j. What they need: `entries` (N, E), the reward of each frame, NaN
where unscored; `group` (N,), the prompts' numbers; and how far the noise of each segment
moves the entries, measured by `vidrl.credit.influence`: its root mean square, `influence`
(S, E), or its second moments, `moment` (S, E, E). A segment that moves nothing earns
nothing.

Legend: N samples, E entries (frames), F pixel frames, S segments, K steps, G members of a
group. NaN is an unscored sample: it is left out of its group's statistics and gets credit
0.
"""

from __future__ import annotations

import torch
from torch import Tensor


def group_mean(values: Tensor, group: Tensor) -> Tensor:
    """For each sample the mean over the scored members of its group, (N, ...); NaN for a
    group without any."""
    return _group_sum(values.nan_to_num(), group) / _group_sum(
        (~values.isnan()).to(values.dtype), group
    )


def _group_sum(values: Tensor, group: Tensor) -> Tensor:
    """For each sample the sum over its group, (N, ...)."""
    if len(group) != len(values):
        raise ValueError(f"expected {len(values)} group numbers, one a sample, got {len(group)}")
    numbers, place = group.unique(return_inverse=True)
    place = place.to(values.device)
    return values.new_zeros(len(numbers), *values.shape[1:]).index_add(0, place, values)[place]


def group_std(values: Tensor, group: Tensor) -> Tensor:
    """For each sample the (population) standard deviation over the scored members of its
    group, (N, ...)."""
    return group_mean((values - group_mean(values, group)).square(), group).clamp(min=0).sqrt()


def normalise(values: Tensor, group: Tensor, scale: str = "group", eps: float = 1e-4) -> Tensor:
    """Group-relative advantages A = (r − mean_group) / (std + ε), (N, ...) like `values`
    (GRPO, arXiv 2402.03300).

    `scale`: "group" divides by each group's own std; "unbiased" by the same with n − 1
    (DanceGRPO); "batch" by the root mean square of all groups' deviations, so that groups
    in which nothing differs are not blown up; "global" by the std of all values, in which
    the differences between prompts count too (Flow-GRPO's global_std); "none" does not
    divide (Dr. GRPO, 2503.20783); "leave_one_out" is `leave_one_out`, which does not divide
    either (RLOO). Samples that are NaN, and groups with fewer than two scored samples, get
    0.

    Example:
        >>> normalise(torch.tensor([1.0, 3.0, 5.0, float("nan")]), torch.tensor([0, 0, 1, 1]), eps=0.0)
        tensor([-1.,  1.,  0.,  0.])
    """
    if scale not in ("group", "batch", "none", "unbiased", "global", "leave_one_out"):
        raise ValueError(
            f'expected scale "group", "batch" or "none", got {scale!r}; "unbiased" or "global" of others'
        )
    if scale == "leave_one_out":
        return leave_one_out(values, group)
    exact = values.double()  # or the rounding of a mean passes for a deviation where all are equal
    scored = _group_sum((~values.isnan()).to(exact.dtype), group)
    deviation = torch.where(scored >= 2, exact - group_mean(exact, group), torch.nan)
    if scale == "group":
        deviation = deviation / (group_std(exact, group) + eps)
    elif scale == "unbiased":
        deviation = deviation / (
            group_std(exact, group) * (scored / (scored - 1).clamp(min=1)).sqrt() + eps
        )
    elif scale == "batch":
        deviation = deviation / (deviation.square().nanmean().sqrt() + eps)
    elif scale == "global":
        deviation = deviation / ((exact - exact.nanmean()).square().nanmean().sqrt() + eps)
    return deviation.nan_to_num(0.0).to(values.dtype)


def blend(whole: Tensor, local: Tensor, alpha: float) -> Tensor:
    """A_j = (1 − α) A + α a_j: whole-clip advantages (N,) and segments' own (N, ..., S); α
    = 0 is whole-clip credit.

    Example:
        >>> blend(torch.tensor([1.0]), torch.tensor([[3.0, -1.0]]), 0.5)
        tensor([[2., 0.]])
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"expected α in [0, 1], got {alpha}")
    if whole.dim() != 1 or local.dim() < 2 or len(whole) != len(local):
        raise ValueError(
            f"expected whole-clip advantages (B,) and segments' (B, S), got {tuple(whole.shape)} and "
            f"{tuple(local.shape)}"
        )
    return (1 - alpha) * whole.reshape(-1, *[1] * (local.dim() - 1)) + alpha * local


def leave_one_out(values: Tensor, group: Tensor) -> Tensor:
    """r − mean of the others of its group = n/(n − 1) (r − mean), (N, ...); 0 for NaN and
    for groups of one.

    The baseline is independent of the sample, so it biases no gradient (RLOO, arXiv
    2402.14740).

    Example:
        >>> leave_one_out(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 0]))
        tensor([-3.,  0.,  3.])
    """
    exact = values.double()
    scored = ~exact.isnan()
    count = _group_sum(scored.to(exact.dtype), group)
    mean = _group_sum(exact.nan_to_num(), group) / count.clamp(min=1)
    made = (exact - mean) * count / (count - 1).clamp(min=1)
    return made.masked_fill(~scored | (count < 2), 0.0).to(values.dtype)


def leave_pair_out(values: Tensor, group: Tensor) -> Tensor:
    """r − mean of the other pairs of its group, (N, ...), for samples whose neighbours 2i
    and 2i + 1 are `antithetic`.

    A clip and its mirror share their noise: with the mirror in the baseline,
    `leave_one_out`'s gradient is too long, 2 times in groups of 2 and n/(n − 1) times in
    groups of n. Groups of one pair have no other and get 0, as NaN does.

    Example:
        >>> leave_pair_out(torch.tensor([1.0, 3.0, 5.0, 9.0]), torch.zeros(4, dtype=torch.long))
        tensor([-6., -4.,  3.,  7.])
    """
    if len(values) % 2 or not torch.equal(group[::2], group[1::2]):
        raise ValueError(f"expected pairs of samples within groups, got {len(values)} samples")
    exact = values.double()
    scored, pair = ~exact.isnan(), torch.arange(len(values)) // 2
    count, own = (_group_sum(scored.to(exact.dtype), one) for one in (group, pair))
    total, mine = (_group_sum(exact.nan_to_num(), one) for one in (group, pair))
    made = exact - (total - mine) / (count - own).clamp(min=1)
    return made.masked_fill(~scored | (count == own), 0.0).to(values.dtype)


def pooled_covariance(entries: Tensor, group: Tensor, shrink: float = 0.2) -> Tensor:
    """Covariance of the entries within groups, (E, E), shrunk: (1 − s) Σ + s diag(Σ)
    (Ledoit and Wolf's target D).

    Example:
        >>> r = torch.tensor([[0.0, 0.0], [2.0, 2.0]])
        >>> pooled_covariance(r, torch.tensor([0, 0]), shrink=0.5)
        tensor([[2., 1.],
                [1., 2.]])
    """
    if not 0 <= shrink <= 1:
        raise ValueError(f"expected shrink in [0, 1], got {shrink}")
    scored = ~entries.isnan().any(1)
    whole, groups = entries[scored].double(), group[scored.to(group.device)]
    left = len(whole) - len(groups.unique())
    if left < 1:
        raise ValueError(
            f"expected groups with two scored samples or more, got {len(whole)} samples in "
            f"{len(groups.unique())} groups"
        )
    away = whole - group_mean(whole, groups)
    found = away.T @ away / left
    return ((1 - shrink) * found + shrink * found.diag().diag()).to(entries.dtype)


def whole_clip(value: Tensor, group: Tensor, segments: int) -> Tensor:
    """The deviation of the clip's value for every segment, (N, S): plain GRPO; unbiased,
    and as noisy as the clip."""
    return leave_one_out(value, group)[:, None].expand(-1, segments)


def influence_weighted(entries: Tensor, influence: Tensor, group: Tensor) -> Tensor:
    """A_j = c_j · (r − b)/E with c_j = I_j ΣI_j / (I_j · I_j), (N, S): entries count as far
    as segment j moves them.

    Example:
        >>> r = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> influence_weighted(r, torch.eye(2), torch.tensor([0, 0]))  # each segment moves its own frame alone
        tensor([[ 1.,  0.],
                [-1.,  0.]])
    """
    checked(influence, entries)
    weights = (
        influence
        * influence.sum(1, keepdim=True)
        / influence.square().sum(1, keepdim=True).clamp(min=1e-30)
    )
    return leave_one_out(entries, group) @ weights.T / entries.shape[1]


def gls(
    entries: Tensor,
    influence: Tensor,
    group: Tensor,
    ridge: float = 0.1,
    shrink: float = 0.2,
    covariance: Tensor | None = None,
) -> Tensor:
    """A_j = c_j · (r − b)/E with c_j ∝ (Σ + λ tr(Σ)/E)⁻¹ I_j and c_j · I_j = ΣI_j, (N, S):
    generalised least squares.

    If segment j's noise moves the entries along I_j and all else moves them with covariance
    Σ, c_j is the least noisy weight that keeps the sum. Σ is the pooled covariance within
    groups where it is not given.
    """
    checked(influence, entries)
    sigma = _ridged(
        pooled_covariance(entries, group, shrink) if covariance is None else covariance, ridge
    )
    weights = torch.linalg.solve(sigma, influence.to(sigma).T).T
    # positive, as Σ is; 0 where a segment moves nothing
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
    """A_j = 1ᵀ M_j (Σ + λ tr(Σ)/E)⁻¹ (r − b)/E, (N, S): what of R's deviation segment j's
    noise made, in expectation.

    M_j = ½ E (r − r')(r − r')ᵀ, r' with segment j's noise drawn anew. The linear estimate
    of least square error of mean_i δ_j r_i from r, δ_j r being segment j's share of the
    deviation; over all sources of noise the shares sum to the deviation itself. With M_j =
    I_j I_jᵀ it is `gls` times a number.

    Example:
        >>> r = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> moment = torch.eye(2).diag_embed()  # each segment moves its own frame alone, by 1
        >>> posterior(r, moment, torch.tensor([0, 0]), ridge=0.0, covariance=torch.eye(2))
        tensor([[ 1.,  0.],
                [-1.,  0.]])
    """
    checked(moment, entries)
    sigma = _ridged(
        pooled_covariance(entries, group, shrink) if covariance is None else covariance, ridge
    )
    weights = torch.linalg.solve(sigma, moment.to(sigma).sum(1).T).T
    return leave_one_out(entries, group) @ weights.to(entries).T / entries.shape[1]


def step_gains(values: Tensor) -> Tensor:
    """V_{k+1} − V_k along steps, (N, K + 1, ...) → (N, K, ...): denoising-step credit.

    V_k is the reward of the clip completed without noise from where step k starts, and V_K
    the clip's own, so that the gains sum to the clip's reward but for what the start gives.

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
    """Each sample's segments in an order of chance, (N, ..., S): the control that credit
    must beat."""
    order = torch.rand(advantage.shape, generator=draw).argsort(-1)
    return advantage.gather(-1, order.to(advantage.device))


def antithetic(noise: Tensor) -> Tensor:
    """Noise (N, ...) in which each second sample has minus the first's: pairs whose even
    parts cancel.

    Example:
        >>> antithetic(torch.tensor([[1.0], [5.0], [2.0], [7.0]])).flatten().tolist()
        [1.0, -1.0, 2.0, -2.0]
    """
    if len(noise) % 2:
        raise ValueError(f"expected pairs of samples, got {len(noise)}")
    return torch.stack([noise[::2], -noise[::2]], 1).flatten(0, 1)


def to_latent(curve: Tensor, decoder: Tensor) -> Tensor:
    """A curve of frames (N, F) as one of latent frames (N, L), of the same mean: r_l = L/F
    Σ_t W[t, l] r_t.

    `decoder` W (F, L) is the share of each latent frame in each frame's change, rows of sum
    1, as measured.

    Example:
        >>> to_latent(torch.tensor([[1.0, 4.0, 7.0]]), torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]))
        tensor([[2., 6.]])
    """
    if decoder.shape[0] != curve.shape[1]:
        raise ValueError(
            f"expected a map of {curve.shape[1]} frames, as the curve has, got {decoder.shape[0]}"
        )
    if not bool(torch.isfinite(decoder).all()) or not bool((decoder.sum(1) > 0).all()):
        raise ValueError(
            "expected a map in which every frame is moved by some latent frame, got a row without a "
            "positive, finite sum: measure it again"
        )
    share = decoder / decoder.sum(1, keepdim=True)
    return curve @ share * (decoder.shape[1] / decoder.shape[0])


def scaled(credit: Tensor, group: Tensor, scale: str = "group", eps: float = 1e-4) -> Tensor:
    """Credit (N, ...) by one root mean square over samples and segments: "group" each
    group's, "batch" all, "none" 1.

    Samples with credit 0 in every segment were left out, and do not count.

    Example:
        >>> scaled(torch.tensor([[3.0, 4.0], [-3.0, -4.0]]), torch.tensor([0, 0]), eps=0.0).square().mean()
        tensor(1.)
    """
    if scale not in ("group", "batch", "none"):
        raise ValueError(f'expected scale "group", "batch" or "none", got {scale!r}')
    if scale == "none":
        return credit
    square = credit.reshape(len(credit), -1).double().square().mean(1)
    among = torch.zeros_like(group) if scale == "batch" else group
    size = (
        _group_sum(square, among) / _group_sum((square > 0).to(square), among).clamp(min=1)
    ).sqrt()
    return credit / (size + eps).reshape(-1, *[1] * (credit.dim() - 1)).to(credit)


def checked(weights: Tensor, entries: Tensor | None = None) -> Tensor:
    """Weights (..., E) as they are; ValueError where they are not finite, or not of the
    entries (N, E)."""
    if not bool(torch.isfinite(weights).all()):
        raise ValueError("expected a finite influence, got NaN or infinity: measure it again")
    if entries is not None and weights.shape[-1] != entries.shape[1]:
        raise ValueError(
            f"expected an influence on {entries.shape[1]} entries, as the curve has, got "
            f"{weights.shape[-1]}: measure it for clips of this length"
        )
    return weights


def _ridged(sigma: Tensor, ridge: float) -> Tensor:
    """Σ + λ tr(Σ)/E, float64; the unit matrix where nothing varies, and the deviations are
    0 anyway.

    Raises ValueError where it cannot be inverted in float32, as what it was made of is.
    """
    exact = sigma.double()
    eye = torch.eye(len(exact), dtype=exact.dtype, device=exact.device)
    if not bool(exact.any()):
        return eye
    made = exact + ridge * exact.diagonal().mean() * eye
    condition = float(torch.linalg.cond(made)) if bool(torch.isfinite(made).all()) else float("inf")
    if not condition < 1e6:
        raise ValueError(
            f"expected a covariance that can be inverted, got a condition of {condition:.0e}: raise ridge "
            f"({ridge}) or shrink"
        )
    return made

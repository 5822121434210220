"""Credit estimators: how much each segment of a clip earned of what its reward entries say.

All estimate, for one objective R = mean_i r_i whatever S, the weight A_j of segment j's score function ∇ log p_j. What
they need: `entries` (N, E), the reward of each frame, NaN where unscored; `group` (N,), the prompts' numbers; and how
far the noise of each segment moves the entries, measured by `vidrl.influence`: its root mean square, `influence`
(S, E), or its second moments, `moment` (S, E, E). A segment that moves nothing earns nothing.

Legend: N samples, E entries (frames), S segments, K steps. None normalises: `scaled` does, with one number for all
segments, because a std a segment amplifies segments in which nothing happens.
"""

from __future__ import annotations

import torch
from torch import Tensor


def leave_one_out(values: Tensor, group: Tensor) -> Tensor:
    """r − mean of the others of its group = n/(n − 1) (r − mean), (N, ...); 0 for NaN and for groups of one.

    The baseline is independent of the sample, so it biases no gradient (RLOO, arXiv 2402.14740).

    Example:
        >>> leave_one_out(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 0]))
        tensor([-3.,  0.,  3.])
    """
    exact = values.double()
    same = (group[:, None] == group).to(exact.dtype)
    scored = ~exact.isnan()
    count = torch.einsum("bg,g...->b...", same, scored.to(exact.dtype))
    mean = torch.einsum("bg,g...->b...", same, exact.nan_to_num()) / count.clamp(min=1)
    made = (exact - mean) * count / (count - 1).clamp(min=1)
    return made.masked_fill(~scored | (count < 2), 0.0).to(values.dtype)


def pooled_covariance(entries: Tensor, group: Tensor, shrink: float = 0.2) -> Tensor:
    """Covariance of the entries within groups, (E, E), shrunk: (1 − s) Σ + s diag(Σ) (Ledoit and Wolf's target D).

    Example:
        >>> r = torch.tensor([[0.0, 0.0], [2.0, 2.0]])
        >>> pooled_covariance(r, torch.tensor([0, 0]), shrink=0.5)
        tensor([[2., 1.],
                [1., 2.]])
    """
    if not 0 <= shrink <= 1:
        raise ValueError(f"expected shrink in [0, 1], got {shrink}")
    whole = entries[~entries.isnan().any(1)].double()
    groups = group[~entries.isnan().any(1)]
    left = len(whole) - len(groups.unique())
    if left < 1:
        raise ValueError(f"expected groups with two scored samples or more, got {len(whole)} samples in "
                         f"{len(groups.unique())} groups")
    same = (groups[:, None] == groups).double()
    away = whole - same @ whole / same.sum(1, keepdim=True)
    found = away.T @ away / left
    return ((1 - shrink) * found + shrink * found.diag().diag()).to(entries.dtype)


def whole_clip(value: Tensor, group: Tensor, segments: int) -> Tensor:
    """The deviation of the clip's value for every segment, (N, S): plain GRPO; unbiased, and as noisy as the clip."""
    return leave_one_out(value, group)[:, None].expand(-1, segments)


def influence_weighted(entries: Tensor, influence: Tensor, group: Tensor) -> Tensor:
    """A_j = c_j · (r − b)/E with c_j = I_j ΣI_j / (I_j · I_j), (N, S): entries count as far as segment j moves them.

    Example:
        >>> r = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> influence_weighted(r, torch.eye(2), torch.tensor([0, 0]))  # each segment moves its own frame alone
        tensor([[ 1.,  0.],
                [-1.,  0.]])
    """
    checked(influence)
    weights = influence * influence.sum(1, keepdim=True) / influence.square().sum(1, keepdim=True).clamp(min=1e-30)
    return leave_one_out(entries, group) @ weights.T / entries.shape[1]


def gls(
    entries: Tensor, influence: Tensor, group: Tensor, ridge: float = 0.1, shrink: float = 0.2,
    covariance: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """A_j = c_j · (r − b)/E with c_j ∝ (Σ + λ tr(Σ)/E)⁻¹ I_j and c_j · I_j = ΣI_j, (N, S): generalised least squares.

    If segment j's noise moves the entries along I_j and all else moves them with covariance Σ, c_j is the least noisy
    weight that keeps the sum. Σ is the pooled covariance within groups where it is not given.
    """
    checked(influence)
    sigma = _ridged(pooled_covariance(entries, group, shrink) if covariance is None else covariance, ridge)
    weights = torch.linalg.solve(sigma, influence.to(sigma).T).T
    fit = (weights * influence).sum(1, keepdim=True)
    weights = weights * influence.sum(1, keepdim=True) / fit.clamp(min=1e-30)
    return leave_one_out(entries, group) @ weights.to(entries).T / entries.shape[1]


def posterior(
    entries: Tensor, moment: Tensor, group: Tensor, ridge: float = 0.1, shrink: float = 0.2,
    covariance: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """A_j = 1ᵀ M_j (Σ + λ tr(Σ)/E)⁻¹ (r − b)/E, (N, S): what of R's deviation segment j's noise made, in expectation.

    M_j = ½ E (r − r')(r − r')ᵀ, r' with segment j's noise drawn anew. The linear estimate of least square error of
    mean_i δ_j r_i from r, δ_j r being segment j's share of the deviation; over all sources of noise the shares sum to
    the deviation itself. With M_j = I_j I_jᵀ it is `gls` times a number.

    Example:
        >>> r = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> moment = torch.eye(2).diag_embed()  # each segment moves its own frame alone, by 1
        >>> posterior(r, moment, torch.tensor([0, 0]), ridge=0.0, covariance=torch.eye(2))
        tensor([[ 1.,  0.],
                [-1.,  0.]])
    """
    checked(moment)
    sigma = _ridged(pooled_covariance(entries, group, shrink) if covariance is None else covariance, ridge)
    weights = torch.linalg.solve(sigma, moment.to(sigma).sum(1).T).T
    return leave_one_out(entries, group) @ weights.to(entries).T / entries.shape[1]


def step_gains(values: Tensor) -> Tensor:
    """V_{k+1} − V_k along steps, (N, K + 1, ...) → (N, K, ...): denoising-step credit.

    V_k is the reward of the clip completed without noise from where step k starts, and V_K the clip's own, so that the
    gains sum to the clip's reward but for what the start gives.

    Example:
        >>> step_gains(torch.tensor([[1.0, 4.0, 3.0]]))
        tensor([[ 3., -1.]])
    """
    if values.dim() < 2 or values.shape[1] < 2:
        raise ValueError(f"expected values (N, K + 1, ...) of two completions or more, got {tuple(values.shape)}")
    return values.diff(dim=1)


def permuted(advantage: Tensor, draw: torch.Generator) -> Tensor:
    """Each sample's segments in an order of chance, (N, S): the control that credit must beat."""
    order = torch.rand(advantage.shape, generator=draw).argsort(1)
    return advantage.gather(1, order.to(advantage.device))


def antithetic(noise: Tensor) -> Tensor:
    """Noise (N, ...) in which each second sample has minus the first's: pairs whose even parts cancel.

    Example:
        >>> antithetic(torch.tensor([[1.0], [5.0], [2.0], [7.0]])).flatten().tolist()
        [1.0, -1.0, 2.0, -2.0]
    """
    if len(noise) % 2:
        raise ValueError(f"expected pairs of samples, got {len(noise)}")
    return torch.stack([noise[::2], -noise[::2]], 1).flatten(0, 1)


def to_latent(curve: Tensor, decoder: Tensor) -> Tensor:
    """A curve of frames (N, F) as one of latent frames (N, L), of the same mean: r_l = L/F Σ_t W[t, l] r_t.

    `decoder` W (F, L) is the share of each latent frame in each frame's change, rows of sum 1, as measured.

    Example:
        >>> to_latent(torch.tensor([[1.0, 4.0, 7.0]]), torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]))
        tensor([[2., 6.]])
    """
    checked(decoder)
    if decoder.shape[0] != curve.shape[1]:
        raise ValueError(f"expected a map of {curve.shape[1]} frames, as the curve has, got {decoder.shape[0]}")
    share = decoder / decoder.sum(1, keepdim=True)
    return curve @ share * (decoder.shape[1] / decoder.shape[0])


def scaled(credit: Tensor, group: Tensor, scale: str = "group", eps: float = 1e-4) -> Tensor:
    """Credit (N, ...) by one root mean square over samples and segments: "group" each group's, "batch" all, "none" 1.

    Samples with credit 0 in every segment were left out, and do not count.

    Example:
        >>> scaled(torch.tensor([[3.0, 4.0], [-3.0, -4.0]]), torch.tensor([0, 0]), eps=0.0).square().mean()
        tensor(1.)
    """
    if scale not in ("group", "batch", "none"):
        raise ValueError(f'expected scale "group", "batch" or "none", got {scale!r}')
    if scale == "none":
        return credit
    square = credit.flatten(1).double().square().mean(1)
    same = torch.ones(2 * square.shape).to(square) if scale == "batch" else (group[:, None] == group).to(square)
    counted = same @ (square > 0).to(square)
    size = (same @ square / counted.clamp(min=1)).sqrt()
    return credit / (size + eps).reshape(-1, *[1] * (credit.dim() - 1)).to(credit)


def checked(weights: Tensor) -> Tensor:
    """Weights as they are; ValueError where they are not finite."""
    if not bool(torch.isfinite(weights).all()):
        raise ValueError("expected a finite influence, got NaN or infinity: measure it again")
    return weights


def _ridged(sigma: Tensor, ridge: float) -> Tensor:
    """Σ + λ tr(Σ)/E, float64; ValueError where it cannot be inverted to four digits."""
    exact = sigma.double()
    made = exact + ridge * exact.diagonal().mean() * torch.eye(len(exact), dtype=exact.dtype, device=exact.device)
    condition = float(torch.linalg.cond(made)) if bool(torch.isfinite(made).all()) else float("inf")
    if not condition < 1e12:
        raise ValueError(f"expected a covariance that can be inverted, got a condition of {condition:.0e}: raise ridge "
                         f"({ridge}) or shrink")
    return made

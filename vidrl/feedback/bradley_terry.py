"""The Bradley-Terry model with ties: how strong clips are, from choices between two of them.

Davidson's model (1970, doi 10.1080/01621459.1970.10481082): with the gap d = θ_i − θ_j of the two
strengths and the tie parameter τ (Davidson's log ν), the three answers have the logits

    first clip: d/2        tie: τ        second clip: −d/2

so that without ties P(first) = σ(d). The log-likelihood is concave in (θ, τ).

Legend: N answers, I items, P parameters. A choice is 1 for the first clip, −1 for the second, 0
for a tie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

TIE_STD = 3.0  # of the prior of τ around 0; without ties among the answers τ would fall without end
STEPS = 100  # of Newton's method, which needs about six
TOLERANCE = 1e-9  # of a Newton step's decrement


def probabilities(gap: ArrayLike, tie: float = 0.0) -> Array:
    """Return the probabilities of the first clip, a tie and the second clip, (..., 3).

    >>> probabilities(0.0, 0.0).round(3).tolist()
    [0.333, 0.333, 0.333]
    >>> probabilities(1.0, -np.inf).round(3).tolist()
    [0.731, 0.0, 0.269]
    """
    half = np.asarray(gap, float) / 2
    logits = np.stack([half, np.full_like(half, tie), -half], -1)
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def log_likelihood(gap: ArrayLike, choice: ArrayLike, tie: float = 0.0) -> Array:
    """Return the log-probability of each answer, (N,).

    >>> log_likelihood([0.0, 0.0], [1, 0], 0.0).round(4).tolist()
    [-1.0986, -1.0986]
    """
    half, chosen = np.asarray(gap, float) / 2, np.asarray(choice)
    logit = np.where(chosen == 0, tie, chosen * half)
    return logit - np.logaddexp(np.logaddexp(half, -half), tie)


def moments(gap: ArrayLike, tie: float) -> tuple[Array, Array]:
    """Return mean (N, 2) and covariance (N, 2, 2) of the statistics of an answer.

    The statistics are (choice / 2, is a tie): those by which gap and τ enter the
    log-likelihood. Their covariance is the Fisher information of an answer about (gap, τ).
    """
    first, tied, second = np.moveaxis(probabilities(gap, tie), -1, 0)
    mean = np.stack([(first - second) / 2, tied], -1)
    square = np.zeros((*mean.shape, 2))
    square[..., 0, 0] = (first + second) / 4
    square[..., 1, 1] = tied
    return mean, square - mean[..., :, None] * mean[..., None, :]


def information(gap: ArrayLike, tie: float = 0.0) -> Array:
    """Return the Fisher information of one answer about the gap, (N,).

    An answer that is certain has none; without ties, the information is P(first) P(second).

    >>> information(0.0, -np.inf).item()
    0.25
    """
    return moments(gap, tie)[1][..., 0, 0]


@dataclass(frozen=True)
class Fit:
    """Holds the parameters of largest posterior density, and their Laplace covariance.

    weights (P,): the gap of an answer is design @ weights. tie: τ. covariance (P + 1, P + 1)
    of the weights and τ: the inverse of the negative Hessian of the log-posterior.
    log_likelihood: of all answers, without the prior.
    """

    weights: Array
    tie: float
    covariance: Array
    log_likelihood: float

    def variance(self, design: Array) -> Array:
        """Return the variance of the gaps of a design (N, P), (N,)."""
        inner = self.covariance[:-1, :-1]
        return np.einsum("np,pq,nq->n", design, inner, design)


def fit(
    design: ArrayLike,
    choice: ArrayLike,
    weight: ArrayLike | None = None,
    prior_std: ArrayLike = 1.0,
) -> Fit:
    """Fit weights w, with gap = design @ w and w ~ N(0, prior_std²), by Newton's method.

    design (N, P), choice (N,); weight (N,) is how many answers each one stands for, 1 by default;
    prior_std is one number or (P,). Raises ValueError for other shapes, for choices other than 1,
    −1 and 0, and for numbers that are not finite.
    """
    x, chosen = np.asarray(design, float), np.asarray(choice, float)
    counts = np.ones(len(x)) if weight is None else np.asarray(weight, float)
    _check(x, chosen, counts)
    std = np.broadcast_to(np.asarray(prior_std, float), x.shape[1:])
    precision: Array = np.append(std, TIE_STD) ** -2
    found: Array = np.zeros(x.shape[1] + 1)
    for _ in range(STEPS):
        slope, curvature = _derivatives(found, x, chosen, counts, precision)
        step = np.linalg.solve(curvature, slope)
        if slope @ step < TOLERANCE:
            break
        found = _climb(found, step, x, chosen, counts, precision)
    curvature = _derivatives(found, x, chosen, counts, precision)[1]
    total = counts @ log_likelihood(x @ found[:-1], chosen, found[-1])
    return Fit(found[:-1], float(found[-1]), np.linalg.inv(curvature), float(total))


def _check(x: Array, chosen: Array, counts: Array) -> None:
    if x.ndim != 2 or chosen.shape != x.shape[:1] or counts.shape != x.shape[:1]:
        raise ValueError(
            "expected a design (N, P), choices (N,) and weights (N,), got "
            f"{x.shape}, {chosen.shape} and {counts.shape}"
        )
    if not np.isin(chosen, (-1, 0, 1)).all():
        raise ValueError(f"expected choices of 1, -1 or 0, got {sorted(set(chosen.tolist()))[:5]}")
    if not (np.isfinite(x).all() and np.isfinite(counts).all()):
        raise ValueError("expected finite numbers in design and weights, got NaN or infinity")


def _derivatives(
    found: Array, x: Array, chosen: Array, counts: Array, precision: Array
) -> tuple[Array, Array]:
    """Return the gradient of the log-posterior, (P + 1,), and its negative Hessian."""
    mean, square = moments(x @ found[:-1], found[-1])
    seen = np.stack([chosen / 2, chosen == 0], -1)
    rest, square = counts[:, None] * (seen - mean), counts[:, None, None] * square
    slope = np.append(x.T @ rest[:, 0], rest[:, 1].sum()) - precision * found
    cross = x.T @ square[:, 0, 1]
    curvature = np.block(
        [
            [x.T @ (square[:, 0, 0, None] * x), cross[:, None]],
            [cross[None], square[:, 1, 1].sum().reshape(1, 1)],
        ]
    )
    return slope, curvature + np.diag(precision)


def _climb(
    found: Array, step: Array, x: Array, chosen: Array, counts: Array, precision: Array
) -> Array:
    """Return the parameters after a step, halved until the log-posterior rises."""

    def posterior(at: Array) -> float:
        likely = counts @ log_likelihood(x @ at[:-1], chosen, at[-1])
        return float(likely - precision @ at**2 / 2)

    before = posterior(found)
    for halvings in range(30):
        tried = found + step / 2**halvings
        if posterior(tried) > before:
            return tried
    return found


@dataclass(frozen=True)
class Strengths:
    """Holds the strengths of items, with their uncertainty.

    values (I,) with prior mean 0; covariance (I, I); tie: τ; side: how much the gap rises for the
    clip that was shown first, 0 if it was not fitted; log_likelihood of all answers.
    """

    values: Array
    covariance: Array
    tie: float
    side: float
    log_likelihood: float

    @property
    def std(self) -> Array:
        """Return the standard deviation of each strength, (I,)."""
        return np.sqrt(np.diag(self.covariance))

    def gap(self, first: ArrayLike, second: ArrayLike) -> tuple[Array, Array]:
        """Return mean and variance of the gaps of pairs of items, both (N,)."""
        i, j = np.asarray(first, int), np.asarray(second, int)
        c = self.covariance
        return self.values[i] - self.values[j], c[i, i] + c[j, j] - 2 * c[i, j]


def strengths(
    first: ArrayLike,
    second: ArrayLike,
    choice: ArrayLike,
    items: int,
    weight: ArrayLike | None = None,
    prior_std: float = 1.0,
    side: bool = False,
) -> Strengths:
    """Return the strengths of items 0 to items − 1 from choices between two of them.

    first, second (N,) are the items of each answer, choice (N,) the answers. The prior of a
    strength is N(0, prior_std²). With `side`, a preference for the clip shown first is fitted
    too. Raises ValueError for items outside 0 to items − 1, and for an item beside itself.

    >>> found = strengths([0, 0, 0], [1, 1, 1], [1, 1, -1], items=2, prior_std=10.0)
    >>> float((found.values[0] - found.values[1]).round(1))  # about ln 2
    0.7
    """
    i, j = np.asarray(first, int), np.asarray(second, int)
    named = np.concatenate([i, j])
    if len(named) and not 0 <= named.min() <= named.max() < items:
        raise ValueError(
            f"expected items from 0 to {items - 1}, got {named.min()} to {named.max()}"
        )
    if (i == j).any():
        raise ValueError(f"expected two different items, got {i[i == j][0]} beside itself")
    design = np.zeros((len(i), items + side))
    rows = np.arange(len(i))
    design[rows, i], design[rows, j] = 1.0, -1.0
    design[:, items:] = 1.0
    found = fit(design, choice, weight, prior_std)
    shown_first = float(found.weights[items]) if side else 0.0
    covariance = found.covariance[:items, :items]
    return Strengths(
        found.weights[:items], covariance, found.tie, shown_first, found.log_likelihood
    )


def expected_gain(known: Strengths, first: ArrayLike, second: ArrayLike) -> Array:
    """Return the information, in nats, that an answer to each pair is expected to give, (N,).

    It is ½ ln(1 + I(d) · Var d) with the Fisher information I of an answer: the loss of entropy of
    the Gaussian posterior (D-optimal design). A pair of known clips, or of clips far apart, gives
    little.

    >>> known = strengths([0, 0], [1, 1], [1, 1], items=4)
    >>> gain = expected_gain(known, [0, 2], [1, 3])
    >>> bool(gain[1] > gain[0])
    True
    """
    mean, variance = known.gap(first, second)
    return np.log1p(information(mean, known.tie) * variance) / 2

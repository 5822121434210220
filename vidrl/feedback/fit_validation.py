"""Measure a fit on labels that it has not seen: folds by prompt and by rater, calibration, rivals.

Legend: N choices, C clips. A gap is the first clip's utility less the second's.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vidrl.bench.agreement import agreement_without_ties, dependence_clusters
from vidrl.feedback import bradley_terry
from vidrl.feedback.fit_data import LEAST, Data
from vidrl.feedback.fit_heads import Frames, Head
from vidrl.inference.means import interval

FOLDS = 5
Fitter = Callable[[Data], Head]


def prompt_groups(data: Data) -> np.ndarray:
    """Return the group of each choice, (N,): choices that share a prompt or a clip are one group.

    So a clip that is in a test is in no training set, and neither is its prompt.
    """
    return np.array(
        dependence_clusters(
            (
                f"prompt {data.prompts[a].strip().casefold()}" if data.prompts[a].strip() else "",
                f"clip {a}",
                f"clip {b}",
            )
            for a, b in zip(data.first.tolist(), data.second.tolist(), strict=True)
        ),
        int,
    )


def folds(groups: Sequence[Hashable], count: int = FOLDS, seed: int = 0) -> np.ndarray:
    """Return the fold of each entry, (N,): groups stay whole, folds are of similar size.

    >>> folds(["a", "a", "b", "c"], count=2).tolist()
    [0, 0, 1, 1]
    """
    names, index, sizes = np.unique(
        np.array(list(map(str, groups))), return_inverse=True, return_counts=True
    )
    draw = np.random.default_rng(seed).permutation(len(names))
    of_group, filled = np.zeros(len(names), int), np.zeros(count)
    # the largest groups first, each into the emptiest fold
    for group in sorted(draw.tolist(), key=lambda g: -sizes[g]):
        of_group[group] = int(filled.argmin())
        filled[of_group[group]] += sizes[group]
    return of_group[index]


def held_out(data: Data, frames: Frames, fold: np.ndarray, fit: Fitter) -> np.ndarray:
    """Return each choice's gap by a fit to the other folds, (N,); NaN where none was possible."""
    gaps = np.full(len(data.choice), np.nan)
    for one in np.unique(fold):
        test = fold == one
        seen = np.zeros(len(data.clips), bool)
        seen[np.concatenate([data.first[test], data.second[test]])] = True
        train = data.subset(~test, ~seen[data.scored])
        if train.decided.sum() + len(train.scored) < LEAST:
            continue
        values = fit(train).values(frames).numpy()
        gaps[test] = values[data.first[test]] - values[data.second[test]]
    return gaps


def accuracy(data: Data, gaps: np.ndarray, groups: Sequence[Hashable]) -> dict[str, Any]:
    """Return how often decided choices are predicted right, with its interval over groups."""
    right = agreement_without_ties(data.choice, gaps, half=True)
    found = interval(right, list(groups), limits=(0, 1))
    return {
        "value": _number(found.mean),
        "low": _number(found.low),
        "high": _number(found.high),
        "choices": int(np.isfinite(right).sum()),
        "groups": found.groups,
        "note": found.note,
    }


def log_likelihoods(choice: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """Return the log-probability of each choice, with the tie parameter that fits best, (N,)."""
    seen = np.isfinite(gaps)
    out = np.full(len(gaps), np.nan)
    ties = float((choice[seen] == 0).mean()) if seen.any() else 0.0
    # τ of the observed share of ties at the observed gaps, by bisection
    low, high = -12.0, 12.0
    for _ in range(50):
        tie = (low + high) / 2
        share = bradley_terry.probabilities(gaps[seen], tie)[:, 1].mean() if seen.any() else 0.0
        low, high = (tie, high) if share < ties else (low, tie)
    out[seen] = bradley_terry.log_likelihood(gaps[seen], choice[seen], (low + high) / 2)
    return out


def temperature(choice: np.ndarray, gaps: np.ndarray, weight: np.ndarray) -> float:
    """Return the factor that makes held-out gaps calibrated: the slope of their regression.

    Below 1 where the fit was too certain. Kept within [0.1, 3].
    """
    seen = np.isfinite(gaps)
    if not seen.any() or gaps[seen].std() == 0:
        return 1.0
    found = bradley_terry.fit(gaps[seen][:, None], choice[seen], weight[seen], prior_std=10.0)
    return float(np.clip(found.weights[0], 0.1, 3.0))


def reliability(choice: np.ndarray, gaps: np.ndarray, bins: int = 8) -> dict[str, Any]:
    """Return predicted and observed shares of the first clip, by bins of equal counts.

    `error` is the mean distance of the two, weighted by the counts (the expected calibration
    error). Decided choices only; each counts in both orders, so that no side is favoured.
    """
    seen = np.isfinite(gaps) & (choice != 0)
    chance = 1 / (1 + np.exp(-gaps[seen]))
    won = choice[seen] > 0
    chance, won = np.concatenate([chance, 1 - chance]), np.concatenate([won, ~won])
    order = np.array_split(np.argsort(chance, kind="stable"), bins)
    rows: list[dict[str, Any]] = [
        {"predicted": float(chance[of].mean()), "observed": float(won[of].mean()), "n": len(of)}
        for of in order
        if len(of)
    ]
    total = sum(row["n"] for row in rows)
    error = sum(row["n"] * abs(row["predicted"] - row["observed"]) for row in rows) / max(total, 1)
    return {"bins": rows, "error": error}


def learning_curve(
    data: Data,
    frames: Frames,
    groups: np.ndarray,
    fit: Fitter,
    draws: int = 3,
    sizes: Iterable[int] = (20, 50, 100, 200, 500, 1000, 2000),
) -> list[dict[str, Any]]:
    """Return the accuracy on held-out prompts against the number of choices that were learned."""
    fold = folds(groups.tolist(), seed=1)
    found = []
    for size in sizes:
        scores = []
        for draw in range(draws):
            test = fold == draw % FOLDS
            pool = np.flatnonzero(~test)
            if size > len(pool) or not (test & data.decided).any():
                continue
            rows = np.zeros(len(fold), bool)
            rows[np.random.default_rng(draw).choice(pool, size, replace=False)] = True
            values = fit(data.subset(rows, np.zeros(len(data.scored), bool))).values(frames).numpy()
            gaps = values[data.first[test]] - values[data.second[test]]
            scores.append(np.nanmean(agreement_without_ties(data.choice[test], gaps, half=True)))
        if scores:
            row = {"labels": size, "accuracy": float(np.mean(scores)), "draws": len(scores)}
            found.append(row | {"low": float(min(scores)), "high": float(max(scores))})
    return found


def rivals(
    data: Data,
    gaps: np.ndarray,
    groups: Sequence[Hashable],
    values: Mapping[str, np.ndarray],
) -> list[dict[str, Any]]:
    """Return the accuracy of other rewards on the same choices, best first.

    `values` holds a value for each clip (C,). `difference` is the fit's accuracy less the
    rival's on the same choices, with its interval over groups. A clip that a rival does not score
    counts as half right.
    """
    own = agreement_without_ties(data.choice, gaps, half=True)
    rows = []
    for name, each in values.items():
        gap = np.nan_to_num(each[data.first] - each[data.second])
        right = np.where(np.isnan(gaps), np.nan, gap)
        right = agreement_without_ties(data.choice, right, half=True)
        beside = interval(own - right, list(groups), limits=(-1, 1))
        difference = {key: _number(getattr(beside, key)) for key in ("mean", "low", "high")}
        masked = np.where(np.isnan(gaps), np.nan, gap)
        rows.append(accuracy(data, masked, groups) | {"name": name, "difference": difference})
    return sorted(rows, key=lambda row: -(row["value"] or 0))


def better(first: np.ndarray, second: np.ndarray, groups: Sequence[Hashable]) -> dict[str, Any]:
    """Return how much more likely the second fit makes the choices, with its interval.

    `beyond_doubt` is whether the whole interval of the mean difference is above 0.
    """
    found = interval(second - first, list(groups))
    low = _number(found.low)
    return {
        "mean": _number(found.mean),
        "low": low,
        "high": _number(found.high),
        "beyond_doubt": low is not None and low > 0,
    }


def _number(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None

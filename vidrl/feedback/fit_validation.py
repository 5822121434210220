"""Measure a fit on labels that it has not seen: folds by prompt and by rater, calibration, rivals.

Each choice counts as many times as its weight, the answers that it stands for.

Legend: N choices, C clips, L local comparisons, P points. A gap is the first clip's utility less
the second's.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vidrl.bench.agreement import agreement_without_ties, dependence_clusters
from vidrl.feedback import bradley_terry
from vidrl.feedback.fit_data import Data, answers
from vidrl.feedback.fit_heads import Frames, Head
from vidrl.inference.means import interval

FOLDS = 5
LEAST = 10  # answers and points that a fit to the other folds needs: half of those of a fit
Fitter = Callable[[Data], Head]
Apart = Callable[[Data, np.ndarray], tuple[np.ndarray, np.ndarray]]


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


def texts(data: Data) -> np.ndarray:
    """Return the prompt of each clip without case and outer spaces, (C,)."""
    return np.array([prompt.strip().casefold() for prompt in data.prompts], object)


def by_clip(data: Data, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the points (P,) and local comparisons (L,) of the clips of the tested choices."""
    seen = np.zeros(len(data.clips), bool)
    seen[np.concatenate([data.first[test], data.second[test]])] = True
    return seen[data.scored], seen[data.local_clips].any(1)


def by_prompt(data: Data, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the points (P,) and local comparisons (L,) of the prompts of the tested choices.

    Those of the tested clips are among them, whether a clip has a prompt or not.
    """
    prompt = texts(data)
    tested = {*prompt[data.first[test]], *prompt[data.second[test]]} - {""}
    held = np.array([one in tested for one in prompt.tolist()], bool)
    points, local = by_clip(data, test)
    return points | held[data.scored], local | held[data.local_clips].any(1)


def by_rater(data: Data, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the points (P,) and local comparisons (L,) of the raters of the tested choices."""
    raters = data.rater[test]
    return np.isin(data.point_rater, raters), np.isin(data.local_rater, raters)


def held_out(
    data: Data, frames: Frames, fold: np.ndarray, fit: Fitter, apart: Apart = by_prompt
) -> np.ndarray:
    """Return each choice's gap by a fit to the other folds, (N,); NaN where none was possible.

    A negative fold is not tested. `apart` returns the points and local comparisons that a fit must
    not see beside the tested choices.
    """
    gaps = np.full(len(data.choice), np.nan)
    for one in np.unique(fold[fold >= 0]):
        test = fold == one
        points, local = apart(data, test)
        train = data.subset(~test, ~points, ~local)
        if train.answers + len(train.scored) < LEAST:
            continue
        values = fit(train).values(frames).numpy()
        gaps[test] = values[data.first[test]] - values[data.second[test]]
    return gaps


def accuracy(data: Data, gaps: np.ndarray, groups: Sequence[Hashable]) -> dict[str, Any]:
    """Return how often decided choices are predicted right, with its interval over groups.

    `choices` is the number of these choices, and `answers` the answers that they stand for. Where
    no choice was measured, `value` is None and `note` says why.
    """
    right = agreement_without_ties(data.choice, gaps, half=True)
    found = interval(right, list(groups), limits=(0, 1), weights=data.weight)
    measured = np.isfinite(right)
    return {
        "value": _number(found.mean),
        "low": _number(found.low),
        "high": _number(found.high),
        "choices": int(measured.sum()),
        "answers": answers(data.weight[measured]),
        "groups": found.groups,
        "note": found.note if measured.any() else unmeasured(data),
    }


def unmeasured(data: Data) -> str:
    """Return why no decided choice has a held-out gap."""
    if not data.decided.any():
        return "no choice decided for a clip"
    return (
        f"without the tested choices, fewer than {LEAST} of the {data.answers:g} decided answers "
        "are left to learn from"
    )


def log_likelihoods(choice: np.ndarray, gaps: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the log-probability of each choice, with the tie parameter that fits best, (N,)."""
    seen = np.isfinite(gaps)
    out = np.full(len(gaps), np.nan)
    if not seen.any():
        return out
    ties = float(np.average(choice[seen] == 0, weights=weight[seen]))
    # τ of the observed share of ties at the observed gaps, by bisection
    low, high = -12.0, 12.0
    for _ in range(50):
        tie = (low + high) / 2
        tied = bradley_terry.probabilities(gaps[seen], tie)[:, 1]
        share = np.average(tied, weights=weight[seen])
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


def calibrated(
    choice: np.ndarray, gaps: np.ndarray, weight: np.ndarray, fold: np.ndarray
) -> np.ndarray:
    """Return the gaps of each fold times the factor that the choices of the other folds need, (N,).

    So no choice is measured with a factor that it helped to find. NaN for a fold without
    measured choices beside it.
    """
    out = np.full(len(gaps), np.nan)
    for one in np.unique(fold):
        test = fold == one
        others = np.where(test, np.nan, gaps)
        if np.isfinite(others).any():
            out[test] = gaps[test] * temperature(choice, others, weight)
    return out


def reliability(
    choice: np.ndarray, gaps: np.ndarray, weight: np.ndarray, bins: int = 8
) -> dict[str, Any]:
    """Return predicted and observed shares of the first clip, by bins of equal weight.

    `error` is the mean distance of the two, weighted by the answers (the expected calibration
    error). Decided choices only; each counts in both orders, so that no side is favoured. Where
    nothing can be measured, `error` is None and `why` says the reason.
    """
    seen = np.isfinite(gaps) & (choice != 0)
    if not seen.any():
        return {"bins": [], "error": None, "why": "no decided choice has a held-out prediction"}
    if not gaps[seen].any():
        return {"bins": [], "error": None, "why": "all held-out predictions are 50 %"}
    chance, won = 1 / (1 + np.exp(-gaps[seen])), (choice[seen] > 0).astype(float)
    chance, won = np.concatenate([chance, 1 - chance]), np.concatenate([won, 1 - won])
    counts = np.concatenate([weight[seen], weight[seen]])
    # equal predictions stay together, so that the shares of the votes on one pair do
    at = np.unique(chance.round(9), return_inverse=True)[1]
    every = np.bincount(at, counts)
    middle = np.cumsum(every) - every / 2
    place = np.minimum((middle / counts.sum() * bins).astype(int), bins - 1)[at]
    rows: list[dict[str, Any]] = []
    for one in np.unique(place):
        of = place == one
        shares = [float(np.average(each[of], weights=counts[of])) for each in (chance, won)]
        rows.append({"predicted": shares[0], "observed": shares[1], "n": float(counts[of].sum())})
    total = sum(row["n"] for row in rows)
    error = sum(row["n"] * abs(row["predicted"] - row["observed"]) for row in rows) / total
    return {"bins": rows, "error": error, "why": None}


def learning_curve(
    data: Data,
    frames: Frames,
    groups: np.ndarray,
    fit: Fitter,
    draws: int = 3,
    sizes: Iterable[int] = (20, 50, 100, 200, 500, 1000, 2000),
) -> list[dict[str, Any]]:
    """Return the accuracy on held-out prompts against the number of answers that were learned.

    Shares of the votes on one pair are drawn together. `low` and `high` are the range of the draws.
    """
    fold = folds(groups.tolist(), seed=1)
    ballot, found = data.ballots, []
    for size in sizes:
        scores = []
        for draw in range(draws):
            test = fold == draw % FOLDS
            rows = _drawn(ballot, data.weight, ~test, size, np.random.default_rng(draw))
            if not rows.any() or not (test & data.decided).any():
                continue
            values = fit(data.subset(rows, np.zeros(len(data.scored), bool))).values(frames).numpy()
            gaps = values[data.first[test]] - values[data.second[test]]
            right = agreement_without_ties(data.choice[test], gaps, half=True)
            seen = np.isfinite(right)
            scores.append(np.average(right[seen], weights=data.weight[test][seen]))
        if scores:
            row = {"labels": size, "accuracy": float(np.mean(scores)), "draws": len(scores)}
            found.append(row | {"low": float(min(scores)), "high": float(max(scores))})
    return found


def _drawn(
    ballot: np.ndarray,
    weight: np.ndarray,
    pool: np.ndarray,
    size: int,
    draw: np.random.Generator,
) -> np.ndarray:
    """Return random whole ballots of a pool that stand for at least `size` answers, bool (N,).

    Nothing is drawn from a pool of fewer answers.
    """
    votes = np.bincount(ballot[pool], weight[pool])
    order = draw.permutation(np.flatnonzero(votes))
    total = np.cumsum(votes[order])
    enough = int(np.searchsorted(total, size - 1e-6)) + 1
    chosen = order[:enough] if len(order) and total[-1] >= size - 1e-6 else order[:0]
    return pool & np.isin(ballot, chosen)


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
        gap = each[data.first] - each[data.second]
        masked = np.where(np.isnan(gaps), np.nan, np.where(np.isnan(gap), 0.0, gap))
        right = agreement_without_ties(data.choice, masked, half=True)
        beside = interval(own - right, list(groups), limits=(-1, 1), weights=data.weight)
        difference = {key: _number(getattr(beside, key)) for key in ("mean", "low", "high")}
        rows.append(accuracy(data, masked, groups) | {"name": name, "difference": difference})
    return sorted(rows, key=lambda row: -(row["value"] or 0))


def better(
    first: np.ndarray, second: np.ndarray, groups: Sequence[Hashable], weight: np.ndarray
) -> dict[str, Any]:
    """Return how much more likely the second fit makes the choices, with its interval.

    `beyond_doubt` is whether the whole interval of the mean difference is above 0.
    """
    found = interval(second - first, list(groups), weights=weight)
    low = _number(found.low)
    return {
        "mean": _number(found.mean),
        "low": low,
        "high": _number(found.high),
        "beyond_doubt": low is not None and low > 0,
    }


def _number(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None

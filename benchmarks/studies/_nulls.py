"""Simulate equal models: how often do the tests of `vidrl bench` claim a difference?

benchmarks/studies/bench_coverage.py imports this module for its tables of tests. Under
every null the true mean of the differences is exactly 0, so that each claimed difference is
an error. The last table adds a true difference and counts how often the test finds the
difference.

Legend: G prompts, c clips of each prompt, m dims.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from vidrl.inference.clusters import clusters
from vidrl.inference.families import holm, simultaneous_level
from vidrl.inference.means import NO_LIMITS, Interval, difference, interval
from vidrl.inference.power import least_detectable

Array = np.ndarray
SHARED = 0.3  # the fraction of the variance of a clip's z that lies between prompts

# Functions of a standard normal z whose mean over z is 0; 0.8416 and 1.6449 are the normal
# quantiles at 0.8 and 0.95.
KINDS: dict[str, Callable[[Array], Array]] = {
    "normal": lambda z: z,
    "heavy tails": lambda z: np.sign(z) * (np.exp(np.abs(z)) - 1),  # kurtosis 60
    "skewed": lambda z: np.exp(0.5 * z) - math.exp(0.125),
    "strongly skewed": lambda z: np.exp(0.8 * z) - math.exp(0.32),
    "mixed": lambda z: np.where(z > 0.8416, 1.0, 0.0) - 0.2 + 0.3 * np.sin(40 * z),
    "rare": lambda z: np.where(z > 1.6449, 0.95, -0.05),
    "rare, open": lambda z: np.where(z > 1.6449, 0.95, -0.05),
}
LIMITS = {"rare": (-1.0, 1.0)}
SIZES: tuple[tuple[int, ...], ...] = (
    (1,) * 10,
    (1,) * 20,
    (1,) * 15 + (20,) * 5,
    (2,) * 50,
    (1,) * 100,
)

# name: prompts of set 1, prompts of set 2, scale of set 1, scale of set 2, kind of values
UNPAIRED = {
    "10 and 40, the smaller thrice as wide": (10, 40, 3.0, 1.0, "normal"),
    "10 and 40, the larger thrice as wide": (10, 40, 1.0, 3.0, "normal"),
    "20 and 20, one thrice as wide": (20, 20, 1.0, 3.0, "normal"),
    "20 and 20, skewed, one thrice as wide": (20, 20, 1.0, 3.0, "skewed"),
    "50 and 50, skewed against its mirror image": (50, 50, 1.0, -1.0, "skewed"),
}
FAMILIES = [
    (kind, prompts, dims)
    for kind in ("normal", "skewed")
    for prompts in (20, 100)
    for dims in (4, 12)
]
FAMILIES += [("strongly skewed", 20, 4), ("strongly skewed", 20, 12), ("strongly skewed", 100, 4)]


def nested(rng: np.random.Generator, runs: int, sizes: Sequence[int]) -> Array:
    """Draw standard normal values of clips that are nested in prompts, (runs, n)."""
    prompts = np.repeat(np.arange(len(sizes)), sizes)
    between = rng.standard_normal((runs, len(sizes)))[:, prompts]
    return math.sqrt(SHARED) * between + math.sqrt(1 - SHARED) * rng.standard_normal(
        (runs, len(prompts))
    )


def shares(found: Sequence[Interval]) -> tuple[float, float, float]:
    """Return the fractions significant below 0, significant above 0, and without 0.

    "Significant" means p < 0.05.
    """
    significant = np.array([one.p < 0.05 for one in found])
    below = np.array([one.mean < 0 for one in found])
    without_zero = np.array([one.low > 0 or one.high < 0 for one in found])
    return (
        float((significant & below).mean()),
        float((significant & ~below).mean()),
        float(without_zero.mean()),
    )


def paired(
    kind: str, sizes: Sequence[int], runs: int, seed: int = 0, draws: int = 2000
) -> list[Interval]:
    """Return the intervals of samples of paired differences whose true mean is 0."""
    values = KINDS[kind](nested(np.random.default_rng([seed, len(sizes)]), runs, sizes))
    groups = np.repeat(np.arange(len(sizes)), sizes).tolist()
    return [
        interval(row, groups, draws=draws, limits=LIMITS.get(kind, NO_LIMITS)) for row in values
    ]


def unpaired(name: str, runs: int, seed: int = 0, draws: int = 2000) -> list[Interval]:
    """Return the intervals of samples of two sets with equal true means."""
    first, second, scale, other_scale, kind = UNPAIRED[name]
    rng = np.random.default_rng([seed, first, second])
    a = scale * KINDS[kind](rng.standard_normal((runs, first)))
    b = other_scale * KINDS[kind](rng.standard_normal((runs, second)))
    return [
        difference(clusters(x, range(first)), clusters(y, range(second)), draws=draws)
        for x, y in zip(a, b, strict=True)
    ]


def family(kind: str, prompts: int, dims: int, runs: int, seed: int = 0) -> tuple[float, float]:
    """Return two fractions over simulated families of correlated dims without a difference.

    The first is the fraction of families in which any corrected p is below 0.05, the second
    the fraction in which all simultaneous intervals contain 0. The dims have a correlation
    of 0.5.
    """
    rng = np.random.default_rng([seed, prompts, dims])
    level = simultaneous_level(dims)
    wrong = whole = 0
    for _ in range(runs):
        # one shared and one private half of the variance: a correlation of 0.5 between dims
        z = math.sqrt(0.5) * rng.standard_normal((1, prompts)) + math.sqrt(
            0.5
        ) * rng.standard_normal((dims, prompts))
        found = [interval(row, level=level) for row in KINDS[kind](z)]
        wrong += min(holm([one.p for one in found])) < 0.05
        whole += all(one.low <= 0 <= one.high for one in found)
    return wrong / runs, whole / runs


def power(prompts: int, dims: int, runs: int, seed: int = 0) -> tuple[float, float]:
    """Return the least detectable difference in stds, and how often a test finds it.

    The second value is the fraction of normal samples with this mean in which the test,
    with its level divided by the number of dims, is significant.
    """
    size = least_detectable(1.0, prompts, dims)
    if math.isinf(size):
        return size, 0.0
    values = size + np.random.default_rng([seed, prompts]).standard_normal((runs, prompts))
    return size, float(np.mean([interval(row).p < 0.05 / dims for row in values]))


# Rows of the page


def paired_row(kind: str, sizes: Sequence[int], runs: int) -> str:
    """Format the table row of one null and one size of paired differences."""
    few, many = min(sizes), max(sizes)
    clips = f"{few}" if few == many else f"{few} to {many}"
    return f"| {kind} | {len(sizes)} × {clips} | " + _cells(paired(kind, sizes, runs))


def unpaired_row(name: str, runs: int) -> str:
    """Format the table row of one null of unpaired sets."""
    first, second = UNPAIRED[name][:2]
    return f"| {name} | {first}, {second} | " + _cells(unpaired(name, runs))


def _cells(found: Sequence[Interval]) -> str:
    """Format the three fractions of `shares` as table cells in percent."""
    down, up, out = (100 * share for share in shares(found))
    return f"{down + up:.1f} | {down:.1f}, {up:.1f} | {out:.1f} |"


def family_row(kind: str, prompts: int, dims: int, runs: int) -> str:
    """Format the table row of one family of dims."""
    wrong, whole = family(kind, prompts, dims, runs // 2)
    return f"| {kind} | {prompts} | {dims} | {100 * wrong:.1f} | {100 * whole:.1f} |"


def power_row(prompts: int, dims: int, runs: int) -> str:
    """Format the table row of the power at one number of prompts and dims."""
    size, share = power(prompts, dims, runs)
    return f"| {prompts} | {dims} | " + (
        f"{size:.2f} | {100 * share:.1f} |" if math.isfinite(size) else "none | 0 |"
    )

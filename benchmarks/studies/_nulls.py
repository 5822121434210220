"""Equal models, simulated: how often a test says that they differ, and how often it finds a
difference that is there.

Differences have a mean of exactly 0 under every null. Legend: G prompts, c clips each, m
dims.
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
SHARED = 0.3  # the share of the variance of a clip's z that lies between prompts

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

APART = {  # prompts and spreads of two sets, and what their values are
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
    """Standard normal values of clips nested in prompts, (runs, n)."""
    prompts = np.repeat(np.arange(len(sizes)), sizes)
    between = rng.standard_normal((runs, len(sizes)))[:, prompts]
    return math.sqrt(SHARED) * between + math.sqrt(1 - SHARED) * rng.standard_normal(
        (runs, len(prompts))
    )


def shares(found: Sequence[Interval]) -> tuple[float, float, float]:
    """Shares with p < 0.05 below and above 0, and of the intervals that leave out 0."""
    sure = np.array([one.p < 0.05 for one in found])
    down = np.array([one.mean < 0 for one in found])
    out = np.array([one.low > 0 or one.high < 0 for one in found])
    return float((sure & down).mean()), float((sure & ~down).mean()), float(out.mean())


def paired(
    kind: str, sizes: Sequence[int], runs: int, seed: int = 0, draws: int = 2000
) -> list[Interval]:
    """Paired differences without a mean: what `interval` says of each sample."""
    values = KINDS[kind](nested(np.random.default_rng([seed, len(sizes)]), runs, sizes))
    groups = np.repeat(np.arange(len(sizes)), sizes).tolist()
    return [
        interval(row, groups, draws=draws, limits=LIMITS.get(kind, NO_LIMITS)) for row in values
    ]


def unpaired(name: str, runs: int, seed: int = 0, draws: int = 2000) -> list[Interval]:
    """Two sets of equal means: what `difference` says of each sample."""
    first, second, wide, wider, kind = APART[name]
    rng = np.random.default_rng([seed, first, second])
    a = wide * KINDS[kind](rng.standard_normal((runs, first)))
    b = wider * KINDS[kind](rng.standard_normal((runs, second)))
    return [
        difference(clusters(x, range(first)), clusters(y, range(second)), draws=draws)
        for x, y in zip(a, b, strict=True)
    ]


def family(kind: str, prompts: int, dims: int, runs: int, seed: int = 0) -> tuple[float, float]:
    """Shares of families with any corrected p < 0.05, and with all simultaneous intervals
    over 0; dims correlate."""
    rng, level, wrong, whole = (
        np.random.default_rng([seed, prompts, dims]),
        simultaneous_level(dims),
        0,
        0,
    )
    for _ in range(runs):
        z = math.sqrt(0.5) * rng.standard_normal((1, prompts)) + math.sqrt(
            0.5
        ) * rng.standard_normal((dims, prompts))
        found = [interval(row, level=level) for row in KINDS[kind](z)]
        wrong += min(holm([one.p for one in found])) < 0.05
        whole += all(one.low <= 0 <= one.high for one in found)
    return wrong / runs, whole / runs


def found(prompts: int, dims: int, runs: int, seed: int = 0) -> tuple[float, float]:
    """The least detectable difference of std 1, and the share of normal samples in which it
    is significant."""
    size = least_detectable(1.0, prompts, dims)
    if math.isinf(size):
        return size, 0.0
    values = size + np.random.default_rng([seed, prompts]).standard_normal((runs, prompts))
    return size, float(np.mean([interval(row).p < 0.05 / dims for row in values]))


# Rows of the page


def paired_row(kind: str, sizes: Sequence[int], runs: int) -> str:
    """One null and size of paired differences."""
    few, many = min(sizes), max(sizes)
    clips = f"{few}" if few == many else f"{few} to {many}"
    return f"| {kind} | {len(sizes)} × {clips} | " + _told(paired(kind, sizes, runs))


def unpaired_row(name: str, runs: int) -> str:
    """One null of unpaired sets."""
    first, second = APART[name][:2]
    return f"| {name} | {first}, {second} | " + _told(unpaired(name, runs))


def _told(found: Sequence[Interval]) -> str:
    down, up, out = (100 * share for share in shares(found))
    return f"{down + up:.1f} | {down:.1f}, {up:.1f} | {out:.1f} |"


def family_row(kind: str, prompts: int, dims: int, runs: int) -> str:
    """One family."""
    wrong, whole = family(kind, prompts, dims, runs // 2)
    return f"| {kind} | {prompts} | {dims} | {100 * wrong:.1f} | {100 * whole:.1f} |"


def power_row(prompts: int, dims: int, runs: int) -> str:
    """One size of set and family."""
    size, share = found(prompts, dims, runs)
    return f"| {prompts} | {dims} | " + (
        f"{size:.2f} | {100 * share:.1f} |" if math.isfinite(size) else "none | 0 |"
    )

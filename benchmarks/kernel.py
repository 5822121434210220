"""Compute the kernel distance of features: KID of frames, KVD of clips, JEDi's formula.

Legend: N clips x, N' clips y, D features, k(x, y) = (x · y / D + coef)^degree.
"""

from __future__ import annotations

import numpy as np

from vidrl.inference.student import Array

from .base import Benchmark, Blocks, count_blocks

Gram = tuple[Array, Array, Array]  # k(x, x), k(y, y), k(x, y)


class Kernel(Benchmark):
    """The squared maximum mean discrepancy, with a polynomial kernel.

    MMD² = mean k(x, x') + mean k(y, y') − 2 mean k(x, y), 0 for equal distributions.
    `biased` counts the pairs of a clip with itself, `unbiased` does not, and may be below
    0. All clips are used at once; KID's code averages over random subsets, which has the
    same mean and more noise. `degree` 3 and `coef` 1 are KID's; JEDi is `degree` 2, `coef`
    0, `times` 100, biased, on V-JEPA's features. Source: arXiv:1801.01401; of videos,
    arXiv:1812.01717; JEDi, arXiv:2410.05203.

    >>> x, y = np.array([[1.0], [2.0]]), np.array([[0.0], [3.0]])
    >>> Kernel(degree=2, coef=0.0).biased(x, y), Kernel(degree=2, coef=0.0).unbiased(x, y)
    (4.0, -18.5)
    """

    exact = True

    def __init__(self, degree: int = 3, coef: float = 1.0, times: float = 1.0) -> None:
        if degree < 1:
            raise ValueError(
                f"expected the degree of a polynomial kernel to be 1 or more, got {degree}"
            )
        self.degree, self.coef = degree, coef
        self.times = times

    def biased(self, first: Array, second: Array) -> float:
        """Return MMD² with the diagonals of the kernel matrices, the V-statistic."""
        xx, yy, xy = self.gram(first, second)
        return float(self.times * (xx.mean() + yy.mean() - 2 * xy.mean()))

    def unbiased(self, first: Array, second: Array) -> float:
        """Return MMD² without the diagonals, the U-statistic."""
        return self.statistics(
            first, second, (np.zeros(len(first), int), np.zeros(len(second), int))
        )[0]

    def statistics(self, first: Array, second: Array, blocks: Blocks) -> tuple[float, Array]:
        """Return the U-statistic of all clips and without each block.

        Both follow from the kernel's sums over pairs of blocks, so that the kernel is
        computed once and not K times.
        """
        xx, yy, xy = self.gram(first, second)
        np.fill_diagonal(xx, 0)
        np.fill_diagonal(yy, 0)
        # a and b are one-hot: a.T @ xx @ a sums the kernel over each pair of blocks.
        a, b = (
            (block[:, None] == np.arange(count_blocks(blocks))).astype(float) for block in blocks
        )
        n, m = a.sum(0), b.sum(0)
        sums = [
            (left.T @ table @ right, size)
            for left, table, right, size in (
                (a, xx, a, (n, n, 1)),
                (b, yy, b, (m, m, 1)),
                (a, xy, b, (n, m, 0)),
            )
        ]
        means = [_means(table, *size) for table, size in sums]
        all_clips, without_block = (means[0][i] + means[1][i] - 2 * means[2][i] for i in (0, 1))
        return float(self.times * all_clips), self.times * np.asarray(without_block)

    def gram(self, first: Array, second: Array) -> Gram:
        """Return the kernel of all pairs: k(x, x), k(y, y), k(x, y)."""
        k = lambda a, b: (a @ b.T / a.shape[1] + self.coef) ** self.degree  # noqa: E731
        return k(first, first), k(second, second), k(first, second)


def _means(sums: Array, rows: Array, columns: Array, own: int) -> tuple[float, Array]:
    """Return the means over pairs of clips, of all clips and (K,) without each block.

    `sums` (K, K) are the kernel's sums over pairs of blocks; `own` pairs of each row are
    not counted, 1 on the diagonal.
    """
    n, m = rows.sum(), columns.sum()
    # Without block k: minus its row and its column, plus their common entry.
    remaining = sums.sum() - sums.sum(0) - sums.sum(1) + np.diag(sums)
    N, M = n - rows, m - columns
    with np.errstate(divide="ignore", invalid="ignore"):  # a single block leaves nothing
        return float(sums.sum() / (n * (m - own))), remaining / (N * (M - own))

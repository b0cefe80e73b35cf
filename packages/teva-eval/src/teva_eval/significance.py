"""Whether two systems differ on the same queries: paired bootstrap, randomisation test, correction for many tasks.

The randomisation test (Fisher; Smucker et al., CIKM 2007) exchanges the two systems' values of a query at random: under
the null hypothesis their names mean nothing. The paired bootstrap (Efron; Sakai, SIGIR 2006) draws queries with
replacement and gives the interval of the mean difference. Holm's procedure (1979) keeps the chance of any false
discovery among all tasks below the level, whatever their dependence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 22  # numbers drawn at a time: 32 MiB
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Two systems on the queries of one task; the difference is the second's mean less the first's.

    Attributes:
        queries: how many.
        means: of the two.
        low: lower end of the interval of the difference.
        high: upper end.
        p: two-sided, of the randomisation test.
        wins: queries on which the second is better.
        losses: queries on which it is worse.
    """

    queries: int
    means: tuple[float, float]
    low: float
    high: float
    p: float
    wins: int
    losses: int

    @property
    def difference(self) -> float:
        """The second's mean less the first's."""
        return self.means[1] - self.means[0]


def paired(one: Sequence[float], other: Sequence[float], *, resamples: int = 10_000, level: float = 0.05,
           seed: int = 0) -> Difference:  # fmt: skip
    """Compare two systems' values on the same queries.

    Args:
        one: values of Q queries.
        other: the other system's, in the same order.
        resamples: of either test.
        level: the interval holds all but this share.
        seed: the same seed gives the same numbers.

    Raises:
        ValueError: the two are not of one length, or empty.
    """
    left, right = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if left.shape != right.shape or left.ndim != 1 or not len(left):
        raise ValueError(f"two rows of values of the same queries are needed; found shapes {left.shape}, {right.shape}")
    change = right - left
    generator = np.random.default_rng(seed)
    low, high = np.quantile(bootstrap_means(change, resamples, generator), [level / 2, 1 - level / 2])
    return Difference(
        len(change), (float(left.mean()), float(right.mean())), float(low), float(high),
        randomisation_p(change, resamples, generator), int((change > 0).sum()), int((change < 0).sum()),
    )  # fmt: skip


def bootstrap_means(change: Array, resamples: int, generator: np.random.Generator) -> Array:
    """Means of ``resamples`` samples of the differences [Q], drawn with replacement. float64 [resamples]."""
    size = max(1, CHUNK // len(change))
    parts = [
        change[generator.integers(0, len(change), (min(size, resamples - start), len(change)))].mean(axis=1)
        for start in range(0, resamples, size)
    ]
    return np.concatenate(parts)


def randomisation_p(change: Array, resamples: int, generator: np.random.Generator) -> float:
    """Two-sided p of the mean difference under random signs; the observed one counts among the samples.

    Counting it keeps p above 0 and the test's error at its level or below (Phipson and Smyth 2010).
    """
    moved = change[change != 0]  # a query without a difference has none under either sign
    if not len(moved):
        return 1.0
    observed = abs(moved.sum())
    beyond, size = 0, max(1, CHUNK // len(moved))
    for start in range(0, resamples, size):
        signs = generator.integers(0, 2, (min(size, resamples - start), len(moved)), dtype=np.int8)
        sums = np.abs((2.0 * signs - 1) @ moved)
        beyond += int((sums >= observed * (1 - 1e-12)).sum())
    return (beyond + 1) / (resamples + 1)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p of each test, in the order given."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = highest
    return [float(each) for each in adjusted]

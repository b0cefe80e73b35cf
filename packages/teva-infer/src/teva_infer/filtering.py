"""Exact search at the speed of a float32 product: the product finds the few that can be best, float64 decides.

A float32 inner product of n numbers is off by at most ``n 2^-24 |q| |d|``, in whatever order it is summed (Higham,
"Accuracy and Stability of Numerical Algorithms", section 3.1, with the inequality of Cauchy and Schwarz). So whatever
lies more than twice that below the k-th greatest product found so far cannot be among the best k. What remains, k and a
few more of each query, gets its exact score at the end.

Most scores of a block are below that limit: one comparison for each, and a look at eight answers at a time. What lies
above is collected, and sorted out only when about as much is waiting as is kept.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from .topk import EMPTY, keys, rows_of, scores_of

SCORES = 2**22
"""Scores of one product, 16 MiB: corpus rows times queries."""

THREADS = 4
"""Threads beside BLAS's own, where there are so many processors."""

Exact = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Product(Protocol):
    """Products of a block of queries with tiles of the corpus, on some device."""

    def above(self, tile: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores above each query's limit.

        Args:
            tile: float32 [n, dim].
            limits: float32 [Q].

        Returns:
            Query and tile row of each, int64, ordered by query and then by row, and the scores, float32.
        """
        ...

    def greatest(self, tile: np.ndarray, depth: int) -> np.ndarray:
        """The ``depth``-th greatest score of each query in a tile of at least so many rows: float32 [Q]."""
        ...


class NumpyProduct:
    """Products by numpy's BLAS, on the CPU.

    Args:
        queries: float32 [Q, dim].
    """

    def __init__(self, queries: np.ndarray) -> None:
        self._queries = queries
        # Kept from tile to tile: to be given new pages each time costs as much as the comparison.
        self._scores = np.empty((len(queries), 0), dtype=np.float32)
        self._over = np.empty((len(queries), 0), dtype=np.bool_)
        self._parts = parts(len(queries), least=32)
        self._pool = ThreadPoolExecutor(len(self._parts))

    def above(self, tile: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores above each query's limit."""
        self._product(tile)
        # BLAS has threads of its own; numpy's comparison has not.
        found = list(self._pool.map(lambda part: self._compare(part[0], part[1], limits), self._parts))
        query, row, scores = (np.concatenate(each) for each in zip(*found, strict=True))
        return query, row, scores

    def _compare(self, first: int, last: int, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is above the limits among the scores of some queries."""
        scores = self._scores[first:last]
        over = np.greater(scores, limits[first:last, None], out=self._over[first:last])
        width = over.shape[1]
        if width % 8 == 0:
            # Eight answers are one number: nearly all are zero, and are passed over together.
            groups = np.flatnonzero(over.view(np.uint64))
            inside, column = np.nonzero(over.reshape(-1, 8)[groups])
            places = groups[inside] * 8 + column
        else:
            places = np.flatnonzero(over)
        query, row = np.divmod(places, width)
        return query + first, row, scores.reshape(-1)[places]

    def greatest(self, tile: np.ndarray, depth: int) -> np.ndarray:
        """The ``depth``-th greatest score of each query."""
        found: np.ndarray = np.partition(self._product(tile), len(tile) - depth, axis=1)[:, len(tile) - depth]
        return found

    def _product(self, tile: np.ndarray) -> np.ndarray:
        if self._scores.shape[1] != len(tile):
            self._scores = np.empty((len(self._queries), len(tile)), dtype=np.float32)
            self._over = np.empty(self._scores.shape, dtype=np.bool_)
        np.matmul(self._queries, tile.T, out=self._scores)
        return self._scores


def parts(count: int, least: int = 1) -> list[tuple[int, int]]:
    """The beginning and end of each thread's part of ``count`` rows, ``least`` or more in each if there are several."""
    threads = max(1, min(THREADS, _processors(), count // least))
    return list(itertools.pairwise(count * each // threads for each in range(threads + 1)))


def _processors() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def product_error(queries: np.ndarray) -> np.ndarray:
    """How far a float32 product may be from the exact score, for each unit of a document's length: float64 [Q]."""
    dim = queries.shape[1]
    lengths = np.sqrt(np.einsum("qd,qd->q", queries, queries, dtype=np.float64))
    # Rounding onto float64's grid (teva_infer.searching) and to float32 at the end are in the 2.
    error: np.ndarray = (dim + 2 * np.sqrt(dim) + 2) * 2.0**-24 * lengths
    return error


class Filter:
    """Keeps what can still be among the best ``depth`` of each query.

    Args:
        queries: float32 [Q, dim].
        depth: hits wanted of each.
        product: made of the queries.
        exact: ``(query, row)``, both int64 [n], to exact scores, float32 [n].
    """

    def __init__(self, queries: np.ndarray, depth: int, product: Product, exact: Exact) -> None:
        self._count = len(queries)
        self._depth, self._product, self._exact = depth, product, exact
        self._lengths = np.sqrt(np.einsum("qd,qd->q", queries, queries, dtype=np.float64))
        self._error = product_error(queries)
        self._longest = 0.0
        self._kept = np.full((self._count, depth), EMPTY, dtype=np.uint64)
        self._limits = np.full(self._count, -np.inf, dtype=np.float32)
        self._query: list[np.ndarray] = []
        self._keys: list[np.ndarray] = []
        self._waiting = 0

    def add(self, tile: np.ndarray, first_row: int) -> None:
        """Take in a stretch of the corpus.

        Args:
            tile: float32 or float16 [n, dim].
            first_row: the corpus row of its first row.

        Raises:
            OverflowError: vectors so long that a score may not fit into float32.
        """
        tile = tile.astype(np.float32, copy=False)
        with np.errstate(over="ignore"):
            squares = np.vecdot(tile, tile)
        self._longest = max(self._longest, float(np.sqrt(squares.max())) * 1.001)
        if self._longest * self._lengths.max() > np.finfo(np.float32).max / 2:
            raise OverflowError("scores too large for float32")
        limits = self._limits
        if first_row == 0 and len(tile) >= self._depth:
            limits = self._below(self._product.greatest(tile, self._depth))
        query, row, scores = self._product.above(tile, limits)
        if not len(query):
            return
        self._query.append(query)
        self._keys.append(keys(scores, row + first_row))
        self._waiting += len(query)
        if self._waiting >= self._kept.size // 2:
            self._sort_out()

    def best(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The hits, best first: scores float32 [Q, depth], rows int64 [Q, depth], and whether each place is filled."""
        self._sort_out()
        exact = self._exactly(np.arange(self._count))
        found: np.ndarray = np.sort(exact, axis=1)[:, : self._depth]
        return scores_of(found), rows_of(found), found != EMPTY

    def _below(self, kth: np.ndarray) -> np.ndarray:
        """The limits that follow from a k-th greatest score of each query, float32 [Q]."""
        limits = kth.astype(np.float64) - 2 * self._error * self._longest
        below: np.ndarray = np.nextafter(limits.astype(np.float32), np.float32(-np.inf))
        return below

    def _sort_out(self) -> None:
        """Take what is waiting among what is kept, and drop what can no longer be among the best."""
        if not self._waiting:
            return
        query, new = np.concatenate(self._query), np.concatenate(self._keys)
        self._query, self._keys, self._waiting = [], [], 0
        self._kept = np.concatenate([self._kept, _by_query(query, new, self._count)], axis=1)
        self._drop()
        if self._kept.shape[1] > 4 * self._depth + 256:
            # So many within the error of each other: mostly one document many times over. Exact scores tell them apart.
            crowded = np.flatnonzero((self._kept != EMPTY).sum(axis=1) > 2 * self._depth + 128)
            exact = np.sort(self._exactly(crowded), axis=1)
            exact[:, self._depth :] = EMPTY
            self._kept[crowded] = exact
            self._narrow()

    def _drop(self) -> None:
        depth = self._depth
        self._kept.partition(depth - 1, axis=1)
        worst = self._kept[:, depth - 1]
        kth = np.where(worst == EMPTY, np.float32(-np.inf), scores_of(worst))
        self._limits = self._below(kth)
        rest = self._kept[:, depth:]
        rest[scores_of(rest) < self._limits[:, None]] = EMPTY
        self._narrow()

    def _narrow(self) -> None:
        """Take away the columns that no query needs."""
        depth = self._depth
        self._kept[:, depth:].sort(axis=1)
        width = int((self._kept != EMPTY).sum(axis=1).max())
        self._kept = np.ascontiguousarray(self._kept[:, : max(depth, width)])

    def _exactly(self, queries: np.ndarray) -> np.ndarray:
        """Keys with exact scores of what is kept for some queries."""
        found: np.ndarray = self._kept[queries]
        place, column = np.nonzero(found != EMPTY)
        rows = rows_of(found[place, column])
        found[place, column] = keys(self._exact(queries[place], rows), rows)
        return found


def _by_query(query: np.ndarray, new: np.ndarray, count: int) -> np.ndarray:
    """Keys as a matrix with a row for each of ``count`` queries, filled up with EMPTY."""
    order = np.argsort(query.astype(np.uint16 if count <= 2**16 else np.int64), kind="stable")
    counts = np.bincount(query, minlength=count)
    place = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    matrix = np.full((count, int(counts.max())), EMPTY, dtype=np.uint64)
    matrix[query[order], place] = new[order]
    return matrix


def tiles(shards: Iterator[np.ndarray], queries: int) -> Iterator[np.ndarray]:
    """Stretches of a corpus whose scores with so many queries take ``SCORES`` at most (but no less than 256 rows)."""
    size = max(256, SCORES // queries // 8 * 8)
    for shard in shards:
        for start in range(0, len(shard), size):
            yield shard[start : start + size]

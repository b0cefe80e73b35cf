"""The best hits of a block of queries while a corpus streams by: vectorised, in one total order.

A hit is one 64-bit key: the score, turned so that a smaller number is a better score, above the row. Sorting keys is
then the order of the hits: score descending, ties by row ascending. It is total, so the result does not depend on the
order in which the corpus came.
"""

from __future__ import annotations

import numpy as np

EMPTY = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
MAX_ROWS = 2**32 - 1
_SIGN = np.uint32(0x8000_0000)
_LOW = np.uint64(0xFFFF_FFFF)
_SHIFT = np.uint64(32)


class TopK:
    """Keeps the best ``depth`` hits of each query.

    Args:
        queries: Q, the number of queries.
        depth: hits kept for each; at least 1.
    """

    def __init__(self, queries: int, depth: int) -> None:
        self.depth = depth
        self._keys = np.full((queries, depth), EMPTY, dtype=np.uint64)

    def add_hits(self, scores: np.ndarray, rows: np.ndarray) -> None:
        """Take in hits: float32 [Q, n] and their corpus rows, integers [Q, n]; a row below 0 is no hit."""
        self._keep(np.where(rows < 0, EMPTY, keys(scores, rows)))

    def best(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The hits, best first: scores float32 [Q, depth], rows int64 [Q, depth], and whether each place is filled."""
        found = np.sort(self._keys, axis=1)
        return scores_of(found), rows_of(found), found != EMPTY

    def _keep(self, new: np.ndarray) -> None:
        depth = self._keys.shape[1]
        both = np.concatenate([self._keys, new], axis=1)
        both.partition(depth - 1, axis=1)
        self._keys = np.ascontiguousarray(both[:, :depth])


def keys(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Sort keys, uint64, of float32 scores and rows below 2^32: a smaller key is a better hit."""
    # IEEE floats order as integers once negative ones are turned round; adding 0.0 makes -0.0 the equal 0.0.
    bits = (np.asarray(scores, dtype=np.float32) + np.float32(0)).view(np.uint32)
    descending = np.where(bits & _SIGN, bits, ~(bits | _SIGN))
    return (descending.astype(np.uint64) << _SHIFT) | rows.astype(np.uint64)


def rows_of(found: np.ndarray) -> np.ndarray:
    """The rows of keys, int64."""
    return (found & _LOW).astype(np.int64)


def scores_of(found: np.ndarray) -> np.ndarray:
    """The scores of keys, float32; NaN of an empty place."""
    descending = (found >> _SHIFT).astype(np.uint32)
    return np.where(descending & _SIGN, descending, ~descending & ~_SIGN).view(np.float32)

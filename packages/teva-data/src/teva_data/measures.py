"""trec_eval's measures as array arithmetic, for use while training, where files and Python loops are too slow.

Shapes: Q queries; K ranks (the length of the longest ranking); J judgements (of the query that has most). ``gains`` is
[Q, K]: the grade of the document at each rank, best first; 0 where it is not judged, judged irrelevant, or where the
ranking has ended. ``judged`` holds the grades of all documents judged for each query, retrieved or not, in any order:
a matrix [Q, J] padded with 0, or Q sequences of their own lengths. :func:`rank_gains` makes both.

Every measure returns float64 [Q], and 0 for a query without relevant documents, as trec_eval does. A query counts in
the mean whether or not it has any: the mean is the caller's. Ties are the caller's as well: rank by
:func:`teva_data.runs.best_first`, or accept that equal scores may stand in another order than trec_eval's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Judged = npt.ArrayLike | Sequence[npt.ArrayLike]


def rank_gains(ranked: Sequence[Sequence[str]], qrels: Sequence[Mapping[str, int]]) -> tuple[Array, Array]:
    """Turn rankings of docids into the matrices that the measures take.

    Args:
        ranked: for each of Q queries, its docids, best first, each once.
        qrels: for each of the same Q queries, docid to grade; negative grades (pooled but not judged) count as 0.

    Returns:
        ``gains`` float64 [Q, K] and ``judged`` float64 [Q, J].

    Raises:
        ValueError: ``ranked`` and ``qrels`` are not of the same length.

    >>> gains, judged = rank_gains([["d2", "d1"]], [{"d1": 1}])
    >>> ndcg(gains, judged, k=10).round(4).tolist(), reciprocal_rank(gains).tolist()
    ([0.6309], [0.5])
    """
    if len(ranked) != len(qrels):
        raise ValueError(f"as many rankings as judged queries are needed: {len(ranked)} rankings, {len(qrels)} queries")
    gains = _padded([[judged.get(docid, 0) for docid in docids] for docids, judged in zip(ranked, qrels, strict=True)])
    return gains, _padded([list(judged.values()) for judged in qrels])


def ndcg(gains: npt.ArrayLike, judged: Judged, k: int | None = None) -> Array:
    """nDCG@k with linear gain (the grade) and discount log2(rank + 1); over the whole ranking where k is None.

    Args:
        gains: [Q, K].
        judged: [Q, J] or ragged.
        k: cutoff of the ranking and of the ideal one.

    Returns:
        float64 [Q].
    """
    gains_QK, judged_QJ = _both(gains, judged)
    ideal_QJ = -np.sort(-judged_QJ, axis=1)
    return _ratio(_dcg(_cut(gains_QK, k)), _dcg(_cut(ideal_QJ, k)))


def recall(gains: npt.ArrayLike, judged: Judged, k: int | None = None, *, level: int = 1) -> Array:
    """R@k: the share of the relevant documents (grade >= level) that stand in the first k. float64 [Q]."""
    gains_QK, judged_QJ = _both(gains, judged)
    return _ratio(_relevant(gains_QK, k, level).sum(1), (judged_QJ >= level).sum(1))


def precision(gains: npt.ArrayLike, k: int, *, level: int = 1) -> Array:
    """P@k: relevant documents in the first k, over k (a ranking shorter than k is not forgiven). float64 [Q]."""
    hits_Q: Array = _relevant(_padded(gains), k, level).sum(1) / np.float64(k)
    return hits_Q


def success(gains: npt.ArrayLike, k: int, *, level: int = 1) -> Array:
    """Success@k: 1 where a relevant document stands in the first k. float64 [Q]."""
    found_Q: Array = (_relevant(_padded(gains), k, level).sum(1) > 0).astype(np.float64)
    return found_Q


def reciprocal_rank(gains: npt.ArrayLike, k: int | None = None, *, level: int = 1) -> Array:
    """RR@k: 1 over the rank of the first relevant document; 0 where it is not in the first k. float64 [Q]."""
    relevant_QK = _relevant(_padded(gains), k, level)
    if not relevant_QK.shape[1]:
        return np.zeros(len(relevant_QK))
    return _ratio(relevant_QK.sum(1) > 0, relevant_QK.argmax(1) + 1.0)


def average_precision(gains: npt.ArrayLike, judged: Judged, k: int | None = None, *, level: int = 1) -> Array:
    """AP@k: the precision at each relevant document in the first k, summed, over all that are relevant. float64 [Q]."""
    gains_QK, judged_QJ = _both(gains, judged)
    relevant_QK = _relevant(gains_QK, k, level)
    precision_QK = relevant_QK.cumsum(1) / np.arange(1.0, relevant_QK.shape[1] + 1)
    return _ratio((precision_QK * relevant_QK).sum(1), (judged_QJ >= level).sum(1))


def r_precision(gains: npt.ArrayLike, judged: Judged, *, level: int = 1) -> Array:
    """Rprec: the precision at R, the number of relevant documents of the query. float64 [Q]."""
    gains_QK, judged_QJ = _both(gains, judged)
    relevant_Q = _relevant(judged_QJ, None, level).sum(1)
    within_QK = np.arange(gains_QK.shape[1]) < relevant_Q[:, None]
    return _ratio((_relevant(gains_QK, None, level) & within_QK).sum(1), relevant_Q)


def _dcg(gains_QK: Array) -> Array:
    discounts_K = 1.0 / np.log2(np.arange(2.0, gains_QK.shape[1] + 2))
    dcg_Q: Array = gains_QK @ discounts_K
    return dcg_Q


def _both(gains: npt.ArrayLike, judged: Judged) -> tuple[Array, Array]:
    gains_QK, judged_QJ = _padded(gains), _padded(judged)
    if len(gains_QK) != len(judged_QJ):
        raise ValueError(f"gains and judged are not of the same queries: {gains_QK.shape} and {judged_QJ.shape}")
    return gains_QK, judged_QJ


def _padded(rows: Judged) -> Array:
    """A float64 matrix without negative entries, from a matrix or from rows of different lengths."""
    if isinstance(rows, np.ndarray) and rows.dtype != object:
        matrix = rows
    else:
        listed = [_row(row) for row in _rows(rows)]
        matrix = np.zeros((len(listed), max((len(row) for row in listed), default=0)))
        for place, row in enumerate(listed):
            matrix[place, : len(row)] = row
    if matrix.ndim != 2:
        raise ValueError(f"a matrix [queries, ranks] is needed, found shape {matrix.shape}")
    return np.maximum(matrix.astype(np.float64), 0.0)


def _rows(rows: Judged) -> Iterable[npt.ArrayLike]:
    if isinstance(rows, Iterable):
        return rows
    raise ValueError(f"rows of grades are needed, found {rows!r}")


def _row(row: npt.ArrayLike) -> Array:
    grades = np.asarray(row, dtype=np.float64)
    if grades.ndim != 1:
        raise ValueError(f"rows of grades are needed, found an entry of shape {grades.shape}")
    return grades


def _cut(matrix: Array, k: int | None) -> Array:
    if k is not None and k < 1:
        raise ValueError(f"a cutoff is 1 or more, found {k}")
    return matrix[:, :k]


def _relevant(matrix: Array, k: int | None, level: int) -> npt.NDArray[np.bool_]:
    if level < 1:  # at level 0, the padding would be relevant
        raise ValueError(f"a relevance level is 1 or more, found {level}")
    relevant: npt.NDArray[np.bool_] = _cut(matrix, k) >= level
    return relevant


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Array:
    """part / whole, 0 where whole is 0."""
    ratio: Array = np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
    return ratio

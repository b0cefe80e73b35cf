"""Exact scores of an index's candidates: float32 products leave the few that can be among the best, float64 decides.

As exact search does it (:mod:`teva_infer.filtering`), with the same bound of a float32 product's error and the same
scores to the last bit.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from teva_data.embeddings import Embeddings
from teva_infer.filtering import parts, product_error
from teva_infer.searching import EXACT_ROWS, exact_scores, on_grid
from teva_infer.topk import TopK


def rescore(
    queries: np.ndarray, corpus: Embeddings, rows: np.ndarray, depth: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best of each query's candidates.

    Args:
        queries: float32 [Q, dim].
        corpus: what the rows are of.
        rows: integers [Q, n]; below 0 is no candidate.
        depth: hits wanted of each.

    Returns:
        Scores, float32 [Q, depth], best first (equal scores by row); rows, int64 [Q, depth]; and which are filled.
    """
    query, place = np.nonzero(rows >= 0)
    if rows.shape[1] > depth:
        scores, longest = _products(queries, corpus, query, rows[query, place])
        near = np.full(rows.shape, -np.inf, dtype=np.float32)
        near[query, place] = scores
        kth = -np.partition(-near, depth - 1, axis=1)[:, depth - 1].astype(np.float64)
        keep = scores >= (kth - 2 * product_error(queries) * longest)[query]
        query, place = query[keep], place[keep]
    exact = np.full(rows.shape, -np.inf, dtype=np.float32)
    exact[query, place] = exact_scores(on_grid(queries), corpus, query, rows[query, place])
    best = TopK(len(queries), depth)
    best.add_hits(exact, np.where(np.isneginf(exact), -1, rows))
    return best.best()


def _products(queries: np.ndarray, corpus: Embeddings, query: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Inner products of pairs, float32 [n], and the length of the longest of these documents, or a little more."""
    scores = np.empty(len(rows), dtype=np.float32)
    order = np.argsort(rows, kind="stable")  # each thread reads a stretch of the corpus

    def multiply(part: tuple[int, int]) -> float:
        own, longest = order[slice(*part)], np.float32(0)
        buffer = np.empty((min(len(own), EXACT_ROWS), queries.shape[1]), dtype=np.float32)
        for places, vectors in corpus.take_vectors(rows[own], EXACT_ROWS):
            vectors = vectors.astype(np.float32, copy=False)
            asked = buffer[: len(places)]
            np.take(queries, query[own[places]], axis=0, out=asked, mode="clip")
            scores[own[places]] = np.vecdot(asked, vectors)
            longest = max(longest, np.vecdot(vectors, vectors).max())
        return float(longest)

    stretches = parts(len(rows), least=8 * EXACT_ROWS)
    with ThreadPoolExecutor(len(stretches)) as pool:
        return scores, float(np.sqrt(max(pool.map(multiply, stretches)))) * 1.001

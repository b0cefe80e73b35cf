"""Exact scores of an index's candidates: float32 products leave the few that can be among the best, float64 decides.

As exact search does it (:mod:`teva_infer.filtering`), with the same bound of a float32 product's error and the same
scores to the last bit.
"""

from __future__ import annotations

import sys

import numpy as np

from teva_data.embeddings import Embeddings
from teva_infer.filtering import product_error
from teva_infer.searching import EXACT_ROWS, exact_scores, on_grid
from teva_infer.topk import TopK


def rescore(
    queries: np.ndarray, corpus: Embeddings, rows: np.ndarray, depth: int, longest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best of each query's candidates.

    Args:
        queries: float32 [Q, dim].
        corpus: what the rows are of.
        rows: integers [Q, n]; below 0 is no candidate.
        depth: hits wanted of each.
        longest: the length of the longest vector of the corpus.

    Returns:
        Scores, float32 [Q, depth], best first (equal scores by row); rows, int64 [Q, depth]; and which are filled.
    """
    query, place = _places(rows)
    if rows.shape[1] > depth:
        near = np.full(rows.shape, -np.inf, dtype=np.float32)
        near[query, place] = scores = _products(queries, corpus, query, rows[query, place])
        kth = -np.partition(-near, depth - 1, axis=1)[:, depth - 1].astype(np.float64)
        keep = scores >= (kth - 2 * product_error(queries) * longest)[query]
        query, place = query[keep], place[keep]
    exact = np.full(rows.shape, -np.inf, dtype=np.float32)
    exact[query, place] = exact_scores(on_grid(queries), corpus, query, rows[query, place])
    best = TopK(len(queries), depth)
    best.add_hits(exact, np.where(np.isneginf(exact), -1, rows))
    return best.best()


def _products(queries: np.ndarray, corpus: Embeddings, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Inner products of pairs of a query and a row of the corpus, float32 [n]."""
    scores = np.empty(len(rows), dtype=np.float32)
    faiss = sys.modules.get("faiss")  # loaded where the index is one of its own
    if corpus.dtype == "float32" and faiss is not None:
        # Multiplied where they lie, by FAISS's threads: gathering them takes twice the time of the product.
        queries = np.ascontiguousarray(queries)
        for places, own, numbers, _ in corpus.by_shard(rows):
            asked, found = np.ascontiguousarray(query[places]), np.empty(len(places), dtype=np.float32)
            pointers = map(faiss.swig_ptr, (queries, asked, numbers, np.ascontiguousarray(own), found))
            faiss.pairwise_indexed_inner_product(corpus.dim, len(places), *pointers)
            scores[places] = found
        return scores
    buffer = np.empty((min(len(rows), EXACT_ROWS), corpus.dim), dtype=np.float32)
    for places, vectors in corpus.take_vectors(rows, EXACT_ROWS):
        both = buffer[: len(places)]
        np.take(queries, query[places], axis=0, out=both, mode="clip")
        scores[places] = np.vecdot(both, vectors.astype(np.float32, copy=False))
    return scores


def _places(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where candidates are: queries and places, in order."""
    if rows.min() < 0:
        query, place = np.nonzero(rows >= 0)
        return query, place
    count, width = rows.shape
    return np.repeat(np.arange(count), width), np.tile(np.arange(width), count)

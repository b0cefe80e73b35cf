"""Batches for the tests of losses: small, random, with everything in them that a plan's batch may have."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass
class Case:
    """Vectors are float64 numbers that float32 holds exactly, so that both sides see the same input."""

    queries: np.ndarray
    documents: np.ndarray
    positive: list
    relevant: list
    groups: np.ndarray
    scores: np.ndarray

    @property
    def whole(self):
        return (0, len(self.queries))

    @property
    def excluded(self):
        """int64 [M, 2], as a plan's batch lists them."""
        pairs = [(i, c) for i, right in enumerate(self.relevant) for c in sorted(right - {self.positive[i]})]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def make_case(seed, queries=5, documents=9, negatives=3, dim=6, normalize=True):
    """Q queries with one to three right documents each, some shared; negatives that are not right, some missing."""
    random = np.random.default_rng(seed)
    relevant = [set(random.choice(documents, random.integers(1, 4), replace=True).tolist()) for _ in range(queries)]
    positive = [int(random.choice(sorted(right))) for right in relevant]
    groups = np.full((queries, 1 + negatives), -1, dtype=np.int64)
    for i, right in enumerate(relevant):
        wrong = random.permutation([c for c in range(documents) if c not in right])
        wrong = wrong[: random.integers(0, negatives + 1)]
        groups[i, 0], groups[i, 1 : 1 + len(wrong)] = positive[i], wrong
    scores = np.where(groups >= 0, random.normal(size=groups.shape) * 3, np.nan).astype(np.float32).astype(np.float64)

    def vectors(count):
        made = random.normal(size=(count, dim))
        made /= np.linalg.norm(made, axis=1, keepdims=True) if normalize else 1
        return made.astype(np.float32).astype(np.float64)

    return Case(vectors(queries), vectors(documents), positive, relevant, groups, scores)

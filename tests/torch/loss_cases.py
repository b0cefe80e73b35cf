"""Batches for the tests of losses: small, random, with everything in them that a plan's batch may have."""

from __future__ import annotations

import dataclasses

import numpy as np
from tests.reference import losses as reference

import torch
from teva_torch.losses import Targets


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

    def tensors(self, dtype=torch.float32):
        return [
            torch.tensor(part, dtype=torch.float32).to(dtype).requires_grad_()
            for part in (self.queries, self.documents)
        ]

    def targets(self, own=None):
        first, last = own or self.whole
        excluded = [(i, c) for i, right in enumerate(self.relevant) for c in sorted(right - {self.positive[i]})]
        excluded = np.array(excluded, dtype=np.int64).reshape(-1, 2)
        here = excluded[(excluded[:, 0] >= first) & (excluded[:, 0] < last)] - (first, 0)
        return Targets(
            own=(first, last),
            positives=torch.tensor(self.positive[first:last], dtype=torch.int64),
            groups=torch.from_numpy(self.groups[first:last]),
            scores=torch.from_numpy(self.scores[first:last]).float(),
            excluded=torch.from_numpy(here),
            all_positives=torch.tensor(self.positive),
            all_excluded=torch.from_numpy(excluded),
        )


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


def relative(found, expected):
    """Relative L2 distance of a tensor to an array; absolute where the array is 0."""
    found = found.detach().double().numpy()
    return np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-6)


def gradients(loss, case, targets=None, dtype=torch.float32):
    """Value and gradients of queries and documents."""
    queries, documents = case.tensors(dtype)
    value = loss(queries, documents, targets or case.targets())
    value.backward()
    return value.detach(), queries.grad, documents.grad


def agree(loss, oracle, case, own=None, tolerance=1e-5):
    """Assert that value and gradients are those of ``oracle(queries, documents)``, taken by central differences."""
    value, of_queries, of_documents = gradients(loss, case, case.targets(own))
    expected = oracle(case.queries, case.documents)
    assert value.dtype == torch.float32
    assert abs(float(value) - expected) <= tolerance * max(1.0, abs(expected))
    by_queries = reference.numerical_gradient(lambda v: oracle(v, case.documents), case.queries)
    by_documents = reference.numerical_gradient(lambda v: oracle(case.queries, v), case.documents)
    both = np.concatenate([by_queries, by_documents])
    assert relative(torch.cat([of_queries, of_documents]), both) <= tolerance

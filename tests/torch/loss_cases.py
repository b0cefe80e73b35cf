"""Batches for the tests of losses: small, random, with everything in them that a plan's batch may have."""

from __future__ import annotations

import dataclasses

import numpy as np
from tests.reference import cases
from tests.reference import losses as reference

import torch
from teva_torch.losses import Targets


class Case(cases.Case):
    """A case as tensors."""

    def tensors(self, dtype=torch.float32):
        return [
            torch.tensor(part, dtype=torch.float32).to(dtype).requires_grad_()
            for part in (self.queries, self.documents)
        ]

    def targets(self, own=None):
        first, last = own or self.whole
        excluded = self.excluded
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


def make_case(*args, **kwargs):
    """See :func:`tests.reference.cases.make_case`."""
    made = cases.make_case(*args, **kwargs)
    return Case(**{field.name: getattr(made, field.name) for field in dataclasses.fields(made)})


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

"""The loss needs memory for its vectors and one tile, and never for a matrix of all pairs."""

from __future__ import annotations

from itertools import pairwise

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

import torch
from teva_torch.losses import InfoNCE, KLDivergence, MarginMSE, Matryoshka, Targets

ALL = ("query_to_document", "document_to_query", "query_to_query", "document_to_document")


class _Storages(TorchDispatchMode):
    """Notes every storage that an operation gives, by its address while it lives."""

    def __init__(self):
        super().__init__()
        self.largest, self.alive, self.peak = 0, {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for item in result if isinstance(result, tuple | list) else [result]:
            if isinstance(item, torch.Tensor):
                self._note(item.untyped_storage())
        return result

    def _note(self, storage):
        self.largest = max(self.largest, storage.nbytes())
        # A reference of our own would keep it alive: what is gone is told by its weak one.
        self.alive[storage._cdata] = (storage._weak_ref(), storage.nbytes())
        for key in [key for key, (ref, _) in self.alive.items() if torch.UntypedStorage._expired(ref)]:
            torch.UntypedStorage._free_weak_ref(self.alive.pop(key)[0])
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))


def _batch(queries, documents, dim=4, negatives=3):
    torch.manual_seed(0)
    vectors = [torch.nn.functional.normalize(torch.randn(n, dim), dim=1) for n in (queries, documents)]
    positives = torch.arange(queries)
    groups = torch.cat([positives[:, None], torch.randint(queries, documents, (queries, negatives))], dim=1)
    excluded = torch.stack([positives, torch.randint(queries, documents, (queries,))], dim=1)
    scores = torch.randn(groups.shape)
    return vectors, Targets((0, queries), positives, groups, scores, excluded, positives, excluded)


def _measure(loss, queries, documents):
    vectors, targets = _batch(queries, documents)
    leaves = [one.requires_grad_() for one in vectors]
    with _Storages() as storages:
        value = loss(*leaves, targets)
        value.backward()
    assert all(one.grad is not None for one in leaves)
    return storages


LOSSES = {
    "infonce": InfoNCE(0.05, tile=32),
    "every way": InfoNCE(0.05, directions=ALL, margin=0.1, ratio=0.9, learn_temperature=True, tile=32),
    "matryoshka": Matryoshka(InfoNCE(0.05, tile=32), [1, 2, 4], normalize=True),
    "kl": KLDivergence(0.05),
    "margin_mse": MarginMSE(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_no_tensor_is_as_large_as_the_matrix(name):
    storages = _measure(LOSSES[name], 256, 1024)
    assert storages.largest >= 1024 * 4 * 4, "the documents' gradient"
    assert storages.largest < 256 * 1024 / 8, "not even as bits"


@pytest.mark.parametrize("name", LOSSES)
def test_memory_is_linear_in_the_batch(name):
    peaks = [_measure(LOSSES[name], n, 4 * n).peak for n in (64, 128, 256)]
    for one, doubled in pairwise(peaks):
        assert doubled <= 2.1 * one, peaks


def test_the_measure_sees_a_matrix():
    def dense(queries, documents, targets):
        return torch.nn.functional.cross_entropy(queries @ documents.T, targets.positives)

    small, large = (_measure(dense, n, 4 * n) for n in (128, 256))
    assert large.largest == 256 * 1024 * 4
    assert large.peak > 3.5 * small.peak


def test_the_tile_bounds_what_is_beside_the_vectors():
    small, large = (_measure(InfoNCE(0.05, tile=tile), 256, 1024).largest for tile in (32, 256))
    assert small == 1024 * 4 * 4
    assert large == 256 * 256 * 4

"""Which queries, positives and negatives make the batch at a step: a pure function of (seed, data, settings, step).

No iterator has a state, so a stopped run goes on with exactly the batches that it would have seen. Positives rotate by
epoch and negatives walk through each query's own shuffled list by epoch, as Tevatron does; unlike there, the shuffling
is keyed by arithmetic (:mod:`teva_data.permutation`) and equal in every interpreter, and a document that several
queries name is one document of the batch.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .dataset import Dataset
from .errors import DataError
from .permutation import mix, permute
from .records import Document, Query

# Keys of independent streams of choices, so that no two share a permutation.
_ORDER, _POSITIVE, _NEGATIVE = 1, 2, 3


@dataclasses.dataclass(frozen=True)
class Batch:
    """Queries and the distinct documents that they name.

    Attributes:
        step: which batch this is.
        queries: Q queries.
        documents: D documents, no id twice, in order of first appearance.
        positives: int64 [Q], the column (document) of each query's positive.
        allowed: bool [Q, D], False where a document is another positive of the query (of its own list, or of a query
            of the same text in this batch): neither its positive here nor a negative, so the loss leaves it out.
    """

    step: int
    queries: list[Query]
    documents: list[Document]
    positives: NDArray[np.int64]
    allowed: NDArray[np.bool_]


class BatchPlan:
    """The batches of one split of a dataset.

    Args:
        dataset: where queries and documents come from; its ids are checked here.
        split: the training split.
        batch_size: queries in a batch.
        negatives: listed negatives taken for each query; a query that has fewer gives all it has.
        seed: names the order and all choices.

    Raises:
        DataError: the split is empty, or a query names no positive or an unknown document.
    """

    def __init__(self, dataset: Dataset, split: str, *, batch_size: int, negatives: int, seed: int) -> None:
        if batch_size < 1 or negatives < 0:
            raise ValueError(f"batch_size {batch_size}, negatives {negatives}; expected at least 1 and 0")
        dataset.check_references(split)
        self.dataset, self.store, self.corpus = dataset, dataset.queries(split), dataset.corpus
        self.batch_size, self.negatives, self.seed = batch_size, negatives, seed
        self.size = len(self.store)

    def steps(self, epochs: float) -> int:
        """Batches in ``epochs`` passes over the queries; the last is filled from the next pass."""
        return max(1, -int(-epochs * self.size // self.batch_size))

    def rows(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the queries of a step, and the epoch that each is in; both int64 [batch_size]."""
        number = step * self.batch_size + np.arange(self.batch_size, dtype=np.int64)
        epochs, places = np.divmod(number, self.size)
        rows = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = permute(places[here], self.size, mix(_ORDER, self.seed, int(epoch)))
        return rows, epochs

    def batch(self, step: int) -> Batch:
        """The batch of a step: any step, in any order, the same each time."""
        rows, epochs = self.rows(step)
        queries = self.store.get(rows)
        column: dict[str, int] = {}
        positives = np.empty(len(queries), dtype=np.int64)
        # All positives get their columns first, so that a query's own column does not depend on others' negatives.
        for at, (query, row, epoch) in enumerate(zip(queries, rows.tolist(), epochs.tolist(), strict=True)):
            positives[at] = column.setdefault(self._positive(query, row, epoch), len(column))
        for query, row, epoch in zip(queries, rows.tolist(), epochs.tolist(), strict=True):
            for docid in self._negatives(query, row, epoch):
                column.setdefault(docid, len(column))
        documents = self.corpus.get(self._corpus_rows(list(column)))
        return Batch(step, queries, documents, positives, _allowed(queries, column, positives))

    def _positive(self, query: Query, row: int, epoch: int) -> str:
        ids = query.positive_document_ids
        return ids[(mix(_POSITIVE, self.seed, row) + epoch) % len(ids)]

    def _negatives(self, query: Query, row: int, epoch: int) -> list[str]:
        ids, wanted = query.negative_document_ids, self.negatives
        if len(ids) <= wanted:
            return list(ids)
        if not wanted:
            return []
        places = (epoch * wanted + np.arange(wanted)) % len(ids)
        return [ids[place] for place in permute(places, len(ids), mix(_NEGATIVE, self.seed, row))]

    def _corpus_rows(self, docids: Sequence[str]) -> NDArray[np.int64]:
        rows = self.corpus.rows(docids)
        if (rows < 0).any():
            unknown = docids[int(np.flatnonzero(rows < 0)[0])]
            raise DataError("unknown document", file=self.dataset.path, field="docid", found=unknown)
        return rows


def _allowed(queries: Sequence[Query], column: dict[str, int], positives: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool [Q, D]: False where a document is another positive of the query, or of a query with the same text."""
    by_text: defaultdict[tuple[str | None, str], set[str]] = defaultdict(set)
    for query in queries:
        by_text[query.prompt, query.query_text].update(query.positive_document_ids)
    allowed = np.ones((len(queries), len(column)), dtype=bool)
    for at, query in enumerate(queries):
        others = [column[docid] for docid in by_text[query.prompt, query.query_text] if docid in column]
        allowed[at, others] = False
    allowed[np.arange(len(queries)), positives] = True
    return allowed

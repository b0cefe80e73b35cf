"""Held-out queries before and after training: which of them to show, and what was found for each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from teva_data.dataset import Dataset
from teva_data.records import Document, Query
from teva_data.runs import Qrels, Run, read_qrels, read_run

SHOWN = {"better": 6, "worse": 3, "unchanged": 3}
"""How many queries of each kind are shown."""

TOP = 3
"""Documents shown of each search."""


@dataclass(frozen=True)
class Hit:
    """A document that was found.

    Attributes:
        document: what it says.
        right: whether it answers the query.
    """

    document: Document
    right: bool


@dataclass(frozen=True)
class Example:
    """A held-out query and what was found for it.

    Attributes:
        query: its text.
        ranks: rank of the best right document, from 1, before and after training; infinite where it was not found.
        hits: the best documents before and after.
        answer: a right document.
    """

    query: str
    ranks: tuple[float, float]
    hits: tuple[list[Hit], list[Hit]]
    answer: Document


@dataclass(frozen=True)
class Comparison:
    """All held-out queries, counted, and a few of them.

    Attributes:
        counts: queries whose best right document stands higher, lower, at the same rank: better, worse, unchanged.
        examples: the same kinds, each with some of its queries, evenly spaced over its list.
    """

    counts: dict[str, int]
    examples: dict[str, list[Example]]


def compare(data: Path, test: str, qrels_file: Path, before: Path, after: Path) -> Comparison:
    """Compare two runs over the held-out queries.

    Args:
        data: the dataset's directory.
        test: the held-out split.
        qrels_file: its judgements.
        before: run file of the model before training.
        after: run file of the model after it.
    """
    dataset, qrels, runs = Dataset.open(data), read_qrels(qrels_file), (read_run(before), read_run(after))
    kinds: dict[str, list[Query]] = {kind: [] for kind in SHOWN}
    for query in dataset.queries(test):
        if query.query_id in qrels:
            old, new = (rank(qrels[query.query_id], run.get(query.query_id, [])) for run in runs)
            kinds["better" if new < old else "worse" if new > old else "unchanged"].append(query)
    return Comparison(
        {kind: len(queries) for kind, queries in kinds.items()},
        {
            kind: [_example(query, dataset, qrels, runs) for query in evenly(kinds[kind], count)]
            for kind, count in SHOWN.items()
        },
    )


def rank(judged: Mapping[str, int], found: Sequence[tuple[str, float]]) -> float:
    """The rank, from 1, of the first right document; infinite where there is none."""
    return next((at for at, (docid, _) in enumerate(found, 1) if judged.get(docid, 0) > 0), math.inf)


def evenly(queries: Sequence[Query], count: int) -> list[Query]:
    """``count`` of the queries, evenly spaced over their list."""
    count = min(count, len(queries))
    return [queries[(2 * at + 1) * len(queries) // (2 * count)] for at in range(count)]


def _example(query: Query, dataset: Dataset, qrels: Qrels, runs: tuple[Run, Run]) -> Example:
    judged = qrels[query.query_id]
    before, after = (run.get(query.query_id, []) for run in runs)
    return Example(
        query.query_text,
        (rank(judged, before), rank(judged, after)),
        (_hits(before, judged, dataset), _hits(after, judged, dataset)),
        _documents([max(judged, key=judged.__getitem__)], dataset)[0],
    )


def _hits(found: Sequence[tuple[str, float]], judged: Mapping[str, int], dataset: Dataset) -> list[Hit]:
    documents = _documents([docid for docid, _ in found[:TOP]], dataset)
    return [Hit(document, judged.get(document.docid, 0) > 0) for document in documents]


def _documents(docids: list[str], dataset: Dataset) -> list[Document]:
    return dataset.corpus.get(dataset.corpus.rows(docids))

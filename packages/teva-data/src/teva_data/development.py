"""The judged queries of a split and a small corpus for them: what is measured while training goes on.

The corpus is what the split's judgements name, filled up with documents evenly spaced over the whole, so that its cost
is known whatever the corpus is. Scores on it are therefore higher than on the whole corpus; they compare steps of one
run. The search is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dataset import Dataset
from .errors import DataError, RecipeError
from .measures import ndcg, rank_gains
from .recipe import DatasetSection, Recipe

MEASURE = "nDCG@10"
_DEPTH = 10
_QUERIES_AT_ONCE = 256


def dev_sets(recipe: Recipe, datasets: Sequence[Dataset]) -> list[DevSet]:
    """What a run measures: one set of each dataset that has the split.

    Args:
        recipe: resolved; ``train.eval_*`` say what is evaluated.
        datasets: those of ``recipe.data.listed()``.

    Raises:
        RecipeError: no dataset has the split.
        DataError: a split without judgements, or judgements that the corpus or the split does not know.
    """
    settings = recipe.train
    parts = [
        DevSet(dataset, entry, settings.eval_split, settings.eval_queries, settings.eval_documents)
        for dataset, entry in zip(datasets, recipe.data.listed(), strict=True)
        if settings.eval_split in dataset.splits
    ]
    if not parts:
        raise RecipeError(
            f"train.eval_split: found {settings.eval_split!r}; expected a split of the training data's directory, "
            f"one of {', '.join(sorted({split for dataset in datasets for split in dataset.splits}))}"
        )
    return parts


class DevSet:
    """Texts and judgements of one dataset.

    ``queries`` are (text, prompt, pieces), ``documents`` (text, title, prompt, pieces): what the renderer takes.
    """

    def __init__(self, dataset: Dataset, entry: DatasetSection, split: str, most_queries: int, most: int) -> None:
        judged = dataset.qrels(split)
        store, corpus = dataset.queries(split), dataset.corpus
        names = [name for name, grades in judged.items() if max(grades.values()) > 0]
        places = np.sort(store.rows(names))
        places = places[places >= 0]
        queries = store.get(places[_spaced(len(places), most_queries)])
        if not queries:
            raise DataError(
                "no query has a relevant document", file=dataset.path / "qrels", found=split,
                expected="judgements above 0 for queries of the split",
            )  # fmt: skip
        self.qrels: list[Mapping[str, int]] = [judged[query.query_id] for query in queries]
        self.queries = [
            (query.query_text, entry.query_prompt if query.prompt is None else query.prompt, query.pieces)
            for query in queries
        ]
        named = dict.fromkeys(docid for grades in self.qrels for docid, grade in grades.items() if grade > 0)
        rows = corpus.rows(list(named))
        if (rows < 0).any():
            raise DataError(
                "a judged document that the corpus does not have", file=dataset.path / "qrels",
                found=list(named)[int(np.argmin(rows))], expected="a docid of the corpus",
            )  # fmt: skip
        # The judged ones first, so that a limit below their number takes none away.
        filled = np.concatenate([rows, np.asarray(_spaced(len(corpus), most), dtype=np.int64)])
        kept = np.array(list(dict.fromkeys(filled.tolist()))[: max(most, len(rows))], dtype=np.int64)
        documents = corpus.get(np.sort(kept))
        self.docids = [document.docid for document in documents]
        self.documents = [(each.document_text, each.title, entry.document_prompt, each.pieces) for each in documents]

    def score(self, queries: NDArray[np.float32], documents: NDArray[np.float32]) -> float:
        """Mean nDCG@10 of the queries.

        Args:
            queries: [Q, H], the vectors of ``queries``.
            documents: [D, H], those of ``documents``.
        """
        return float(ndcg(*rank_gains(_search(queries, documents, self.docids), self.qrels), _DEPTH).mean())


def _spaced(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers below ``count``, evenly spaced."""
    return list(range(count)) if count <= most else [at * count // most for at in range(most)]


def _search(queries: NDArray[Any], documents: NDArray[Any], docids: Sequence[str]) -> list[list[str]]:
    """The first ten docids of each query, best first; ties by docid descending, as trec_eval has them."""
    # In descending order of docid, a stable sort keeps ties as they are wanted.
    order = np.argsort(np.asarray(docids))[::-1]
    sorted_ids, columns = [docids[at] for at in order.tolist()], documents[order]
    ranked = []
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        scores = queries[start : start + _QUERIES_AT_ONCE] @ columns.T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :_DEPTH]
        ranked += [[sorted_ids[at] for at in row] for row in best.tolist()]
    return ranked

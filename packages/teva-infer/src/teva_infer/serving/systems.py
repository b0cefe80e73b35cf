"""What answers a question: a model, a corpus's embeddings, perhaps an index, and the documents themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from teva_data.dataset import Dataset
from teva_data.embeddings import Embeddings
from teva_data.errors import DataError, TevaError
from teva_data.records import Document
from teva_infer.encoder import Encoder
from teva_infer.indexes.opened import Index
from teva_infer.searching import search_block


@dataclasses.dataclass(frozen=True)
class Hit:
    """One document found.

    Attributes:
        docid: its id.
        row: its row in the dataset's corpus.
        score: the inner product.
        document: the document itself.
    """

    docid: str
    row: int
    score: float
    document: Document


class QueryError(TevaError):
    """A question that the model cannot read."""


class System:
    """A model over a corpus.

    Args:
        name: what it is called on the page and in requests.
        model: its artifact, for queries.
        dataset: where the documents are.
        corpus: the corpus's embeddings.
        index: an index of them, or none for exact search.
        knobs: of the index.
        device: where queries are encoded.
        index_device: where the index is searched.

    Raises:
        TevaError: the embeddings are of another model or another corpus.
        DataError: anything damaged or unfinished.
    """

    def __init__(
        self,
        name: str,
        model: str | Path,
        dataset: str | Path,
        corpus: str | Path,
        index: str | Path | None = None,
        knobs: dict[str, int] | None = None,
        device: str = "auto",
        index_device: str = "cpu",
    ) -> None:
        self.name = name
        # Exact search reads all of it for each batch; with an index it is read at the places of candidates alone.
        self.embeddings = Embeddings.open(corpus, verify=index is None)
        self.encoder = Encoder.load(model, device=device, role="query", dim=self.embeddings.dim)
        # Documents that were left out for a file that is not there are never found, so nobody asks for it.
        self.store = Dataset.open(dataset, lenient=bool(self.embeddings.left_out)).corpus
        self._check(str(model))
        self.index = None if index is None else Index(index, self.embeddings, knobs, index_device)

    def _check(self, model: str) -> None:
        made_by = self.embeddings.manifest["job"].get("model_fingerprint")
        own = self.encoder.artifact.side("query")
        if made_by != own:
            raise TevaError(
                f"{self.embeddings.directory}: made by the model {made_by!r}, and {model} is {own!r}. Encode the "
                "corpus with it"
            )
        made_from = self.embeddings.manifest["job"].get("data_fingerprint", self.store.fingerprint)
        if made_from != self.store.fingerprint:
            raise TevaError(
                f"{self.embeddings.directory}: made from the data {made_from!r}, and the corpus is now "
                f"{self.store.fingerprint!r}. Encode it again"
            )
        encoded = len(self.embeddings) + len(self.embeddings.left_out)
        if encoded != len(self.store):
            raise TevaError(
                f"{self.embeddings.directory}: of {encoded:,} documents, and the corpus has "
                f"{len(self.store):,} documents. Encode the corpus again"
            )

    def search(self, queries: Sequence[str], depths: Sequence[int]) -> list[list[Hit]]:
        """The best documents for each query, best first.

        Args:
            queries: texts, without prompts: the model's own is put before them.
            depths: documents for each.

        Raises:
            QueryError: a text has no tokens.
        """
        try:
            vectors = self.encoder.encode_queries(list(queries))
        except DataError as error:
            raise QueryError(str(error)) from error
        depth = min(max(depths), len(self.embeddings))
        if self.index is None:
            scores, rows, filled = search_block(vectors, self.embeddings, depth)
        else:
            scores, rows, filled = self.index.search(vectors, depth)
        return [self._hits(*line) for line in zip(scores, rows, filled, depths, strict=True)]

    def _hits(self, scores: np.ndarray, rows: np.ndarray, filled: np.ndarray, depth: int) -> list[Hit]:
        # Documents are read for who asked: another of the batch may want a hundred times as many.
        scores, rows, filled = scores[:depth], rows[:depth], filled[:depth]
        docids = self.embeddings.take_ids(rows[filled])
        places = self.store.rows(docids.tolist())
        documents = self.store.get(places)
        return [
            Hit(docid, int(place), float(score), document)
            for docid, place, score, document in zip(docids, places, scores[filled], documents, strict=True)
        ]

"""What is never a negative of a query: documents that answer its question, and documents with the text of one.

Memory is bounded by counts, never by texts: 16 bytes for each query and 9 for each document.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import xxhash
from numpy.typing import NDArray

from teva_data.records import Document, Query, join_title
from teva_data.store import CorpusStore, QueryStore

# Questions whose answers are kept at hand, since queries of one question often stand together.
KEPT = 1024


class Answers:
    """The positives of each question, whichever of the queries that ask it names them.

    Args:
        queries: all queries of the split; they are read once here.
    """

    def __init__(self, queries: QueryStore) -> None:
        self._queries = queries
        hashes = np.fromiter((_hash(_question(query)) for query in queries), dtype=np.uint64, count=len(queries))
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]
        self._kept: dict[str, tuple[str, ...]] = {}

    def of(self, query: Query) -> tuple[str, ...]:
        """Ids of the documents that answer what ``query`` asks, each once: text, prompt and media are the same."""
        question = _question(query)
        place = np.uint64(_hash(question))
        first, last = (int(np.searchsorted(self._hashes, place, side=side)) for side in ("left", "right"))
        if last - first < 2:
            return tuple(dict.fromkeys(query.positive_document_ids))
        if question not in self._kept:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            same = (each for each in self._queries.get(self._order[first:last]) if _question(each) == question)
            self._kept[question] = tuple(dict.fromkeys(docid for each in same for docid in each.positive_document_ids))
        return self._kept[question]


class Texts:
    """Hashes of what documents say, title included; each document is read once.

    A document with media is told by the places of its media too, not by their bytes.

    Args:
        corpus: the documents.
    """

    def __init__(self, corpus: CorpusStore) -> None:
        self.corpus = corpus
        self._hashes = np.zeros(len(corpus), dtype=np.uint64)
        self._known = np.zeros(len(corpus), dtype=bool)

    def of(self, docids: Iterable[str]) -> dict[str, int | None]:
        """The hash of each document; None for an unknown id."""
        distinct = list(dict.fromkeys(docids))
        rows = self.corpus.rows(distinct)
        inside = rows >= 0
        self._read(np.unique(rows[inside]))
        hashes: dict[str, int | None] = dict.fromkeys(distinct)
        for at, number in zip(np.flatnonzero(inside).tolist(), self._hashes[rows[inside]].tolist(), strict=True):
            hashes[distinct[at]] = number
        return hashes

    def _read(self, rows: NDArray[np.int64]) -> None:
        new = rows[~self._known[rows]]
        self._hashes[new] = [_hash(content(document)) for document in self.corpus.get(new)]
        self._known[new] = True


def content(document: Document) -> str:
    """What a document says, title included, and where its media lie: a string that is equal for equal documents."""
    text = join_title(document.title, document.document_text)
    return f"{text}\0{document.media}" if document.pieces else text


def _question(query: Query) -> str:
    return f"{query.prompt!r}\0{query.query_text}\0{query.media}"


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))  # type: ignore[no-any-return]

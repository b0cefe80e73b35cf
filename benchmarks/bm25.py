"""BM25 as a baseline: bm25s with Lucene's formula, the Porter stemmer and English stop words (k1 0.9, b 0.4)."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

K1, B = 0.9, 0.4


def version() -> str:
    """The peer's name and version."""
    return f"bm25s {importlib.metadata.version('bm25s')} (k1 {K1}, b {B}, Porter stemmer, English stop words)"


def search(data: Path, split: str, output: Path, depth: int = 100) -> Path:
    """Write a run of BM25 over a dataset's corpus (title and text joined by a space)."""
    import bm25s
    import Stemmer

    from teva_data.dataset import Dataset
    from teva_data.runs import RunWriter

    dataset = Dataset.open(data)
    corpus, queries = dataset.corpus, dataset.queries(split)
    texts = [f"{document.title} {document.document_text}" for document in corpus.documents(0, len(corpus))]
    ids = corpus.docids(0, len(corpus))
    stemmer = Stemmer.Stemmer("porter")
    index = bm25s.BM25(method="lucene", k1=K1, b=B)
    index.index(bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False), show_progress=False)
    records = queries.queries(0, len(queries))
    # return_ids=False: with ids, a word that the corpus lacks would be taken for another one.
    asked = bm25s.tokenize(
        [query.query_text for query in records], stopwords="en", stemmer=stemmer, show_progress=False, return_ids=False
    )
    rows, scores = index.retrieve(asked, k=min(depth, len(ids)), show_progress=False)
    with RunWriter(output, tag="bm25") as writer:
        for query, found, values in zip(records, rows, scores, strict=True):
            # A document without any of the query's words is no hit.
            hits = [(ids[row], float(value)) for row, value in zip(found, values, strict=True) if value > 0]
            writer.write(query.query_id, [docid for docid, _ in hits], [value for _, value in hits])
    return output

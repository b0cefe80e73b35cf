"""BM25 as a system: bm25s with Lucene's formula, the Porter stemmer and English stop words (extra ``bm25``).

Words are runs of letters and digits: ``_`` parts them, which Lucene's own tokenizer does not, because the names in
program text are made of the words that questions use (0.48 instead of 0.28 of nDCG@10 on docstrings to functions).
Texts of Chinese and Japanese have no words between blanks, so runs of their characters become bigrams.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from teva_data.dataset import Dataset
from teva_data.errors import DataError, MissingExtraError
from teva_data.progress import Progress
from teva_data.records import join_title
from teva_data.runs import Run, best_first

# Lucene's English stop words, as Anserini and Pyserini use them.
STOP_WORDS = (
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not", "of",
    "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will", "with",
)  # fmt: skip
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")
WORD = r"(?u)[^\W_]+"
BLOCK = 8192


class BM25System:
    """BM25 over title and text.

    Args:
        k1: saturation of a term's frequency.
        b: how much a document's length counts.
        name: what it is called in tables.
    """

    def __init__(self, *, k1: float = 0.9, b: float = 0.4, name: str = "bm25") -> None:
        self.k1, self.b, self.name = k1, b, name
        try:
            import bm25s
            import Stemmer
        except ImportError as error:
            raise MissingExtraError("the BM25 baseline", "teva-eval[bm25]") from error
        self._bm25s, self._stemmer = bm25s, Stemmer.Stemmer("porter")

    def describe(self, *, query_prompt: str | None = None, document_prompt: str | None = None) -> Mapping[str, Any]:
        """Its settings; prompts are for models and change nothing."""
        versions = {name: importlib.metadata.version(name) for name in ("bm25s", "PyStemmer")}
        return {
            "kind": "bm25", "name": self.name, "k1": self.k1, "b": self.b, "formula": "lucene", "stemmer": "porter",
            "stop_words": len(STOP_WORDS), "words": WORD, "bigrams": "Chinese, Japanese", "base_model": "",
            "versions": versions,
        }  # fmt: skip

    def search(
        self,
        dataset: Dataset,
        split: str,
        *,
        depth: int,
        exclude_self: bool,
        query_prompt: str | None,
        document_prompt: str | None,
        work: Path,
    ) -> Mapping[str, Run]:
        """Index the corpus in memory and search it; a document without any of the query's words is no hit."""
        corpus = dataset.corpus
        tokens: list[list[str]] = []
        with Progress(len(corpus), "bm25", "documents") as progress:
            for start in range(0, len(corpus), BLOCK):
                block = corpus.documents(start, min(start + BLOCK, len(corpus)))
                tokens += self._tokens([join_title(each.title, each.document_text) for each in block])
                progress.add(len(block))
        if not any(tokens):
            raise DataError("no words to index", file=dataset.path, hint="BM25 reads text; these documents have none")
        index = self._bm25s.BM25(method="lucene", k1=self.k1, b=self.b)
        index.index(tokens, show_progress=False)
        queries = dataset.queries(split)
        records = queries.queries(0, len(queries))
        asked = self._tokens([query.query_text for query in records])
        kept = min(depth + exclude_self, len(corpus))
        rows, scores = index.retrieve(asked, k=kept, show_progress=False)
        docids = np.array(corpus.docids(0, len(corpus)), dtype=object)
        run: Run = {}
        for query, found, values in zip(records, rows, scores, strict=True):
            keep = values > 0
            ids = docids[found[keep]]
            hits = best_first(ids.tolist(), values[keep])
            run[query.query_id] = [hit for hit in hits if not (exclude_self and hit[0] == query.query_id)][:depth]
        return {"": run}

    def _tokens(self, texts: list[str]) -> list[list[str]]:
        spread = [_CJK.sub(_bigrams, text) for text in texts]
        found = self._bm25s.tokenize(
            spread, stopwords=list(STOP_WORDS), stemmer=self._stemmer, show_progress=False, return_ids=False,
            token_pattern=WORD,
        )  # fmt: skip
        return list(found)


def _bigrams(match: re.Match[str]) -> str:
    text = match[0]
    pairs = [text[place : place + 2] for place in range(max(1, len(text) - 1))]
    return f" {' '.join(pairs)} "

"""Judges documents by answers: relevant is what holds one of the query's answers (top-k accuracy of DPR).

The rule is that of Karpukhin et al. 2020 (section 5): texts in Unicode's form NFD, lower case, cut into words and
single other signs; an answer is held where its words stand in the text one after another.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence

from teva_data.dataset import Dataset
from teva_data.errors import DataError
from teva_data.records import join_title
from teva_data.runs import Qrels, Run


def judge_by_answers(run: Run, dataset: Dataset, answers: Mapping[str, Sequence[str]], depth: int) -> Qrels:
    """Judgements of what a run found.

    Args:
        run: what was found; the best ``depth`` documents of each query are looked at.
        dataset: holds the documents.
        answers: of each query, texts.
        depth: documents of each query that are looked at.

    Returns:
        grade 1 or 0 of each document looked at; a query for which nothing was found has one judgement of an id that no
        document has, so that it counts.

    Raises:
        DataError: a query of the run has no answers, or a document has no text to look into.
    """
    qrels: Qrels = {}
    for query_id, wanted in answers.items():
        found = [docid for docid, _ in run.get(query_id, [])[:depth]]
        words = [tokens(answer) for answer in wanted]
        if not any(words):
            raise DataError("no answers", field=f"answers of query {query_id!r}", found=list(wanted))
        qrels[query_id] = {"\ufffdnothing found": 0} if not found else {}
        for document in dataset.corpus.lookup(found):
            text = join_title(document.title, document.document_text)
            if not text.strip():
                raise DataError(
                    "no text to look into", file=dataset.path, field=f"document {document.docid!r}",
                    hint="Judging by answers needs the documents' texts, beside their pictures",
                )  # fmt: skip
            qrels[query_id][document.docid] = int(holds(text, words))
    if unknown := run.keys() - answers.keys():
        raise DataError("a query without answers", field="query_id", found=min(unknown))
    return qrels


def holds(text: str, answers: Sequence[Sequence[str]]) -> bool:
    """Whether a text holds one of the answers, given as :func:`tokens`."""
    # A sign that no token holds keeps the edges of words apart.
    inside = f"\0{chr(0).join(tokens(text))}\0"
    return any(answer and f"\0{chr(0).join(answer)}\0" in inside for answer in answers)


def tokens(text: str) -> list[str]:
    """Words (letters, digits and their marks) and single other signs, lower-cased, in NFD."""
    return [token.lower() for token in _pattern().findall(unicodedata.normalize("NFD", text))]


@functools.cache
def _pattern() -> re.Pattern[str]:
    marks = "".join(re.escape(chr(c)) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c))[0] == "M")
    return re.compile(rf"(?:[^\W_]|[{marks}])+|[^\s\0]")

"""Brings what a caller has (files or dictionaries) into the form that is scored, and refuses what cannot be.

The checks are those that trec_eval's code needs and does not make: some of these inputs end the process.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from teva_data.errors import DataError
from teva_data.runs import best_first, read_qrels, read_run

RunLike = str | os.PathLike[str] | Mapping[str, Mapping[str, float] | Iterable[tuple[str, float]]]
QrelsLike = str | os.PathLike[str] | Mapping[str, Mapping[str, int]]

# trec_eval holds a counter for every grade up to the highest, and its nDCG walks them for every grade.
MAX_GRADE = 10_000


def load_run(run: RunLike, depth: int | None = None) -> dict[str, dict[str, float]]:
    """A run as query_id to docid to score.

    Args:
        run: a run file, or query_id to {docid: score} or to (docid, score) pairs.
        depth: keep the best ``depth`` documents of each query, by trec_eval's order.

    Returns:
        the queries for which anything was found; a query without documents is one without results.

    Raises:
        DataError: what :func:`teva_data.runs.read_run` raises; an id that is no text; a score that is no finite
            float32; a document twice for a query.
    """
    if isinstance(run, str | os.PathLike):
        return {query_id: dict(pairs[:depth]) for query_id, pairs in read_run(Path(run)).items()}
    loaded = {query_id: _ranked(query_id, found)[:depth] for query_id, found in run.items()}
    return {query_id: dict(pairs) for query_id, pairs in loaded.items() if pairs}


def load_qrels(qrels: QrelsLike) -> dict[str, dict[str, int]]:
    """Judgements as query_id to docid to grade.

    Raises:
        DataError: what :func:`teva_data.runs.read_qrels` raises; no judgements; an id that is no text; a grade that is
            no integer, or beyond what trec_eval can count (``MAX_GRADE``).
    """
    source = Path(qrels) if isinstance(qrels, str | os.PathLike) else None
    judgements = read_qrels(source) if source else cast(Mapping[str, Mapping[str, int]], qrels)
    loaded: dict[str, dict[str, int]] = {}
    for query_id, judged in judgements.items():
        _check_id(query_id, "query_id", source)
        for docid, grade in judged.items():
            _check_id(docid, f"docid of query {query_id!r}", source)
            integer = isinstance(grade, int | np.integer) and not isinstance(grade, bool)
            if not integer or abs(int(grade)) > MAX_GRADE:
                field = f"grade of ({query_id!r}, {docid!r})"
                expected = f"an integer from -{MAX_GRADE} to {MAX_GRADE}"
                raise DataError("not a grade", file=source, field=field, found=grade, expected=expected)
        if not judged:
            raise DataError("query without judgements", file=source, field="query_id", found=query_id)
        loaded[query_id] = {docid: int(grade) for docid, grade in judged.items()}
    if not loaded:
        raise DataError("no judgements", file=source)
    return loaded


def _ranked(query_id: str, found: Mapping[str, float] | Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    _check_id(query_id, "query_id")
    pairs = list(found.items() if isinstance(found, Mapping) else found)
    docids, scores = [docid for docid, _ in pairs], [score for _, score in pairs]
    if not _all_ids(docids):
        for docid in docids:
            _check_id(docid, f"docid of query {query_id!r}")
    if len(set(docids)) != len(docids):
        twice = next(docid for docid, other in itertools.pairwise(sorted(docids)) if docid == other)
        raise DataError(f"document twice for query {query_id!r}", field="docid", found=twice)
    try:
        return best_first(docids, scores)
    except (TypeError, ValueError):
        raise DataError("scores that are no numbers", field=f"query {query_id!r}", found=scores) from None


def _check_id(name: object, field: str, source: Path | None = None) -> None:
    if not _all_ids([name]):
        expected = "a text without NUL that can be written as UTF-8"
        raise DataError("not an id", file=source, field=field, found=name, expected=expected)


def _all_ids(names: Sequence[object]) -> bool:
    """Whether all are ids; looked at together, as there are millions."""
    try:
        joined = "".join(cast(Sequence[str], names))
        joined.encode()
    except (TypeError, UnicodeEncodeError):
        return False
    return "\0" not in joined and "" not in names

"""Brings what a caller has (files or dictionaries) into the form that is scored, and refuses what cannot be.

The checks are those that trec_eval's code needs and does not make: some of these inputs end the process.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from teva_data.columns import FLOAT32_END
from teva_data.errors import DataError
from teva_data.runs import best_first, read_qrels, read_run

RunLike = str | os.PathLike[str] | Mapping[str, Mapping[str, float] | Iterable[tuple[str, float]]]
QrelsLike = str | os.PathLike[str] | Mapping[str, Mapping[str, int]]

# trec_eval holds a counter for every grade up to the highest, and its nDCG walks them for every grade.
MAX_GRADE = 10_000


class Found(NamedTuple):
    """What a run has for one query; N documents in no order.

    Attributes:
        documents: score by docid, as it was given.
        docids: the N ids.
        scores: float32 [N], of the same order.
    """

    documents: Mapping[str, float]
    docids: list[str]
    scores: NDArray[np.float32]

    def only(self, keep: NDArray[np.bool_]) -> Found:
        """The documents at some places: bool [N]."""
        docids = [self.docids[place] for place in np.flatnonzero(keep).tolist()]
        scores = self.scores[keep]
        return Found(dict(zip(docids, scores.tolist(), strict=True)), docids, scores)


def load_run(run: RunLike, depth: int | None = None, *, self_hits: str = "keep") -> dict[str, Found]:
    """A run by query.

    Args:
        run: a run file, or query_id to {docid: score} or to (docid, score) pairs.
        depth: keep the best ``depth`` documents of each query, by trec_eval's order.
        self_hits: ``drop`` leaves out the document whose id is the query's, before ``depth`` is counted.

    Returns:
        the queries for which anything was found; a query without documents is one without results.

    Raises:
        DataError: what :func:`teva_data.runs.read_run` raises; an id that is no text; a score that is no finite
            float32; a document twice for a query.
    """
    given = read_run(Path(run)) if isinstance(run, str | os.PathLike) else run
    loaded = {}
    for query_id, documents in given.items():
        found = _found(query_id, documents)
        if self_hits == "drop" and query_id in found.documents:
            found = found.only(np.array([docid != query_id for docid in found.docids], dtype=bool))
        if depth is not None and depth < len(found.docids):
            best = {docid for docid, _ in best_first(found.docids, found.scores)[:depth]}
            found = found.only(np.array([docid in best for docid in found.docids], dtype=bool))
        if found.docids:
            loaded[query_id] = found
    return loaded


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


def _found(query_id: str, given: Mapping[str, float] | Iterable[tuple[str, float]]) -> Found:
    """The documents of one query, checked. There are thousands of queries with a thousand documents each."""
    _check_id(query_id, "query_id")
    pairs = given.items() if isinstance(given, Mapping) else list(given)
    documents = given if isinstance(given, Mapping) else dict(pairs)
    docids = list(documents)
    if not _all_ids(docids):
        for docid in docids:
            _check_id(docid, f"docid of query {query_id!r}")
    if len(docids) != len(pairs):
        twice = next(docid for docid, other in itertools.pairwise(sorted(d for d, _ in pairs)) if docid == other)
        raise DataError(f"document twice for query {query_id!r}", field="docid", found=twice)
    values = documents.values()
    try:
        wide = np.fromiter(values, dtype=np.float64, count=len(docids))
    except (TypeError, ValueError):
        raise DataError("scores that are no numbers", field=f"query {query_id!r}", found=list(values)) from None
    if not (np.abs(wide) < FLOAT32_END).all():  # false for NaN too
        place = int((~(np.abs(wide) < FLOAT32_END)).argmax())
        raise DataError("not a score", field=f"score of {docids[place]!r} for query {query_id!r}",
                        found=float(wide[place]), expected="a finite float32")  # fmt: skip
    return Found(documents, docids, wide.astype(np.float32))


def needed(found: Found, judged: Mapping[str, int], deepest: int | None) -> dict[str, float]:
    """The documents that decide a query's measures, and no others: trec_eval's time goes into sorting the rest.

    What stands below the last judged document changes no measure that looks at ranks of judged documents, and neither
    does what stands below the deepest cutoff. Documents with the score of the last one that is needed are all kept, so
    ties are broken as in the whole run.

    Args:
        found: the query's documents.
        judged: the query's judgements.
        deepest: the deepest cutoff of the measures; None: one of them has none.

    Returns:
        score by docid; never empty.
    """
    inside = [found.documents[docid] for docid in judged if docid in found.documents]
    lowest = np.float32(min(inside)) if inside else found.scores.max()
    if deepest is not None and deepest < len(found.docids):
        place = len(found.docids) - deepest
        lowest = max(lowest, np.partition(found.scores, place)[place])
    kept, docids = np.flatnonzero(found.scores >= lowest), found.docids
    if 2 * len(kept) > len(docids) and set(map(type, found.documents.values())) == {float}:
        return cast(dict[str, float], found.documents)  # copying costs more than sorting
    return dict(zip([docids[place] for place in kept.tolist()], found.scores[kept].tolist(), strict=True))


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

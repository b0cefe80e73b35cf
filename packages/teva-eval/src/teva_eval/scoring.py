"""Scores a run with trec_eval's code, and says what it did about queries that are not on both sides.

Three kinds of query need a rule, and each is counted:

* judged, but absent from the run (``missing``): counts 0 in the mean, as with ``trec_eval -c``; ``missing="drop"``
  leaves it out of the mean, as trec_eval 9 does without ``-c`` (version 10 stops there).
* in the run, but not judged (``unjudged``): never counts; trec_eval skips it.
* judged, without any relevant document (``without_relevant``): trec_eval counts it, and every measure is 0 (nDCG may
  be above 0 where ``relevance_level`` is above 1: its gains are the grades, whatever the level).

Two more rules are part of every record: ties (``TIES``, trec_eval's own), and hits of a document whose id is the
query's (``self_hits``): kept, as trec_eval does, or dropped, as BEIR does.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from teva_data.errors import TevaError, shorten
from teva_data.files import atomic_file, write_json

from .inputs import Found, QrelsLike, RunLike, load_qrels, load_run, needed
from .measures import Measure, parse_measures

logger = logging.getLogger(__name__)

SCHEMA = "1"
DEFAULT_MEASURES = ("nDCG@10", "R@100", "RR@10", "AP@100")
Missing = Literal["zero", "drop"]
SelfHits = Literal["keep", "drop"]
TIES = "score as float32, descending; equal scores by docid, descending (trec_eval)"


@dataclass(frozen=True)
class Scores:
    """What :func:`score` found.

    Args:
        mean: measure to its mean over ``queries`` queries.
        per_query: measure to query_id to value, for the queries that are averaged; those of the qrels' order.
        queries: the number of queries averaged.
        missing: judged queries without results in the run.
        unjudged: queries of the run that are not judged.
        without_relevant: averaged queries without any relevant document.
        settings: what was asked for, and of which files.
    """

    mean: dict[str, float]
    per_query: dict[str, dict[str, float]]
    queries: int
    missing: tuple[str, ...]
    unjudged: tuple[str, ...]
    without_relevant: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def table(self) -> str:
        """Means and counts as aligned text, a line each, four decimals."""
        rows = [(name, f"{value:.4f}") for name, value in self.mean.items()]
        rows += [("queries", f"{self.queries}"), *((name, f"{count}") for name, count in self._counts().items())]
        left, right = (max(len(row[column]) for row in rows) for column in (0, 1))
        return "\n".join(f"{name:<{left}}  {value:>{right}}" for name, value in rows)

    def to_json(self) -> dict[str, Any]:
        """Means, counts, settings and library versions, JSON-able; ``schema`` "1"."""
        return {
            "schema": SCHEMA,
            "measures": list(self.mean),
            "mean": dict(self.mean),
            "queries": self.queries,
            **self._counts(),
            "settings": dict(self.settings),
            "versions": {name: version(name) for name in ("teva-eval", "teva-data", "pytrec-eval-terrier")},
        }

    def write_json(self, path: str | Path) -> None:
        """Write :meth:`to_json`, atomically."""
        write_json(path, self.to_json())

    def write_per_query(self, path: str | Path) -> None:
        """Write one line a query as TSV with a header: query_id, then every measure; full precision; atomically."""
        with atomic_file(path, "w") as file:
            file.write("\t".join(("query_id", *self.per_query)) + "\n")
            file.writelines(f"{line}\n" for line in self.per_query_lines())

    def per_query_lines(self) -> Iterable[str]:
        """Tab-separated lines: query_id, then the value of every measure."""
        columns = list(self.per_query.values())
        for query_id in columns[0]:
            yield "\t".join((query_id, *(repr(column[query_id]) for column in columns)))

    def _counts(self) -> dict[str, int]:
        return {
            "missing": len(self.missing),
            "unjudged": len(self.unjudged),
            "without_relevant": len(self.without_relevant),
        }


def score(
    qrels: QrelsLike,
    run: RunLike,
    measures: Iterable[str] | str = DEFAULT_MEASURES,
    *,
    missing: Missing = "zero",
    relevance_level: int = 1,
    depth: int | None = None,
    self_hits: SelfHits = "keep",
) -> Scores:
    """Score a run against judgements.

    Args:
        qrels: a qrels file, or query_id to {docid: grade}.
        run: a run file, or query_id to {docid: score} or to (docid, score) pairs. The order is trec_eval's: float32
            score descending, then docid descending.
        measures: names as :func:`parse_measure` takes them.
        missing: what a judged query without results counts: ``zero`` (``trec_eval -c``), or nothing at all
            (``drop``: the mean is over the queries that both sides have).
        relevance_level: the lowest grade that is relevant (``trec_eval -l``); nDCG takes the grades as they are.
        depth: look at the best ``depth`` documents of each query only (``trec_eval -M``).
        self_hits: what a hit whose docid is the query's id is: a hit (``keep``), or left out before anything else
            (``drop``), for collections whose queries are documents.

    Returns:
        means, values per query, and counts.

    Raises:
        DataError: bad input, with its address.
        TevaError: unknown measure, bad setting, or qrels and run that have no query in common.
    """
    wanted = parse_measures(measures)
    _check_settings(missing, relevance_level, depth, self_hits)
    judged, found = load_qrels(qrels), load_run(run, depth, self_hits=self_hits)
    if not judged.keys() & found.keys():
        raise _disjoint(judged, found)
    absent = tuple(query_id for query_id in judged if query_id not in found)
    unjudged = tuple(query_id for query_id in found if query_id not in judged)
    averaged = [query_id for query_id in judged if missing == "zero" or query_id in found]
    without = tuple(q for q in averaged if all(grade < relevance_level for grade in judged[q].values()))
    values = _evaluate(judged, found, wanted, relevance_level)
    per_query = {m.name: {q: values[q][m] if q in values else 0.0 for q in averaged} for m in wanted}
    scores = Scores(
        mean={name: math.fsum(column.values()) / len(column) for name, column in per_query.items()},
        per_query=per_query,
        queries=len(averaged),
        missing=absent,
        unjudged=unjudged,
        without_relevant=without,
        settings={
            "qrels": _path_of(qrels), "run": _path_of(run), "missing": missing, "relevance_level": relevance_level,
            "depth": depth, "self_hits": self_hits, "ties": TIES,
        },
    )  # fmt: skip
    _warn(judged, found, scores, wanted)
    return scores


def _evaluate(
    qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Found], measures: Sequence[Measure], level: int
) -> dict[str, dict[Measure, float]]:
    """Values of the queries that both sides have, by trec_eval's code. Every call of pytrec_eval goes through here."""
    import pytrec_eval

    # A query of which no document is judged (negative: pooled only) makes trec_eval read outside its arrays.
    both = {q: judged for q, judged in qrels.items() if q in run and max(judged.values()) >= 0}
    values: dict[str, dict[Measure, float]] = {query_id: {} for query_id in both}
    if not both:
        return values
    asked = {query_id: _asked(run[query_id], judged, measures) for query_id, judged in both.items()}
    for each in sorted({measure.level or level for measure in measures}):
        mine = [measure for measure in measures if (measure.level or level) == each]
        names = {measure.trec_name for measure in mine}
        printed = pytrec_eval.RelevanceEvaluator(both, names, relevance_level=each).evaluate(asked)
        for query_id, found in values.items():
            found.update((measure, _value(measure, printed[query_id])) for measure in mine)
    return values


def _asked(found: Found, judged: Mapping[str, int], measures: Sequence[Measure]) -> dict[str, float]:
    if any(measure.counts_all for measure in measures):
        return dict(zip(found.docids, found.scores.tolist(), strict=True))
    cutoffs = [measure.cutoff for measure in measures]
    return needed(found, judged, None if None in cutoffs else max(cutoff or 0 for cutoff in cutoffs))


def _value(measure: Measure, printed: Mapping[str, float]) -> float:
    value = float(printed[measure.trec_name])
    if measure.family == "RR" and measure.cutoff is not None and value and round(1 / value) > measure.cutoff:
        return 0.0
    return value


def _check_settings(missing: str, relevance_level: int, depth: int | None, self_hits: str) -> None:
    if missing not in get_args(Missing):
        raise TevaError(f"missing={missing!r}: expected 'zero' (count 0) or 'drop' (leave out of the mean)")
    if self_hits not in get_args(SelfHits):
        raise TevaError(f"self_hits={self_hits!r}: expected 'keep' (a hit like others) or 'drop' (left out)")
    if relevance_level < 1:
        raise TevaError(f"relevance_level={relevance_level}: expected 1 or more")
    if depth is not None and depth < 1:
        raise TevaError(f"depth={depth}: expected 1 or more, or None for the whole run")


def _disjoint(judged: Mapping[str, object], found: Mapping[str, object]) -> TevaError:
    if not found:
        return TevaError("the run has no results")
    return TevaError(
        "qrels and run have no query in common: "
        f"the qrels have e.g. {shorten(next(iter(judged)))}, the run {shorten(next(iter(found)))}. "
        "Are they of the same split, and written with the same ids?"
    )


def _warn(
    judged: Mapping[str, Mapping[str, int]],
    found: Mapping[str, Found],
    scores: Scores,
    wanted: Sequence[Measure],
) -> None:
    name = scores.settings["run"] or "run"
    if scores.missing:
        effect = "they count 0" if scores.settings["missing"] == "zero" else "they are left out of the mean"
        count, example = len(scores.missing), shorten(scores.missing[0])
        logger.warning("%s: %d of %d judged queries have no results (e.g. %s): %s", name, count, len(judged), example,
                       effect)  # fmt: skip
    if scores.unjudged:
        count, example = len(scores.unjudged), shorten(scores.unjudged[0])
        logger.warning("%s: %d queries are not judged (e.g. %s): they do not count", name, count, example)
    if scores.without_relevant:
        count = len(scores.without_relevant)
        logger.warning("%s: %d judged queries have no relevant document: they stay in the mean", name, count)
    listed = max(len(each.docids) for each in found.values())
    if deeper := [measure.name for measure in wanted if measure.cutoff is not None and measure.cutoff > listed]:
        logger.info("%s: lists at most %d documents a query; %s would count what stands deeper too", name, listed,
                    ", ".join(deeper))  # fmt: skip
    if not any(docid in judged[q] for q in judged.keys() & found.keys() for docid in found[q].docids):
        query_id = next(q for q in judged if q in found)
        logger.warning("%s: none of its documents is judged: for query %s the qrels have e.g. %s, the run %s", name,
                       shorten(query_id), shorten(next(iter(judged[query_id]))), shorten(found[query_id].docids[0]),
                       )  # fmt: skip


def _path_of(given: object) -> str | None:
    return os.fspath(given) if isinstance(given, str | os.PathLike) else None

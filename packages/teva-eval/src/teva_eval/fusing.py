"""Works on runs: fuse several, filter one, write it in another form."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from teva_data.errors import DataError, TevaError
from teva_data.files import atomic_file
from teva_data.runs import Run, best_first, read_run, write_run

Method = Literal["rrf", "scores"]
Scale = Literal["minmax", "zscore", "none"]
Form = Literal["tsv", "trec", "msmarco", "json"]


def fuse(
    runs: Sequence[Run],
    *,
    method: Method = "rrf",
    weights: Sequence[float] | None = None,
    k: float = 60,
    scale: Scale = "minmax",
    depth: int = 1000,
) -> Run:
    """One run of several.

    ``rrf``: reciprocal rank fusion (Cormack et al., SIGIR 2009), the sum of weight / (k + rank). ``scores``: the
    weighted sum of scores, after each query's scores of a run were scaled (``minmax`` to 0..1, ``zscore`` to mean 0 and
    deviation 1, ``none``); a document that a run lacks gets that run's lowest scaled score of the query.

    Args:
        runs: two or more, as :func:`teva_data.runs.read_run` gives them.
        method: see above.
        weights: of each run; 1 where not given.
        k: of ``rrf``.
        scale: of ``scores``.
        depth: documents kept for each query.

    Returns:
        a run over the queries of all; what only one run has is fused with nothing.

    Raises:
        TevaError: fewer than two runs, as many weights as runs were not given, or a setting out of range.
    """
    weights = [1.0] * len(runs) if weights is None or not len(weights) else [float(weight) for weight in weights]
    if len(runs) < 2:
        raise TevaError(f"fuse takes two runs or more; found {len(runs)}")
    if len(weights) != len(runs) or not all(weight > 0 for weight in weights):
        raise TevaError(f"weights: found {weights}; expected {len(runs)} numbers above 0, one for each run")
    if method not in ("rrf", "scores") or scale not in ("minmax", "zscore", "none") or k < 0 or depth < 1:
        raise TevaError(f"fuse: method rrf or scores, scale minmax, zscore or none, k from 0, depth from 1; found "
                        f"{method!r}, {scale!r}, {k}, {depth}")  # fmt: skip
    fused: Run = {}
    for query_id in dict.fromkeys(query_id for run in runs for query_id in run):
        total: dict[str, float] = {}
        for run, weight in zip(runs, weights, strict=True):
            hits = best_first(*_columns(run.get(query_id, [])))
            if method == "rrf":
                for rank, (docid, _) in enumerate(hits, 1):
                    total[docid] = total.get(docid, 0.0) + weight / (k + rank)
        if method == "scores":
            total = _summed([run.get(query_id, []) for run in runs], weights, scale)
        fused[query_id] = best_first(list(total), list(total.values()))[:depth]
    return fused


def _summed(lists: list[list[tuple[str, float]]], weights: Sequence[float], scale: Scale) -> dict[str, float]:
    docids = list(dict.fromkeys(docid for hits in lists for docid, _ in hits))
    total = np.zeros(len(docids))
    place = {docid: number for number, docid in enumerate(docids)}
    for hits, weight in zip(lists, weights, strict=True):
        if not hits:
            continue
        names, scores = _columns(hits)
        scaled = _scaled(np.array(scores, dtype=np.float64), scale)
        mine = np.full(len(docids), scaled.min())
        mine[[place[name] for name in names]] = scaled
        total += weight * mine
    return dict(zip(docids, total.tolist(), strict=True))


def _scaled(scores: Any, scale: Scale) -> Any:
    if scale == "none":
        return scores
    low, width = (scores.min(), np.ptp(scores)) if scale == "minmax" else (scores.mean(), scores.std())
    return (scores - low) / width if width > 0 else np.zeros_like(scores)


def _columns(hits: Sequence[tuple[str, float]]) -> tuple[list[str], list[float]]:
    return [docid for docid, _ in hits], [score for _, score in hits]


def filter_run(
    run: Run,
    *,
    queries: Collection[str] | None = None,
    documents: Collection[str] | None = None,
    without: Collection[str] = (),
    self_hits: Literal["keep", "drop"] = "keep",
    lowest: float | None = None,
    depth: int | None = None,
) -> Run:
    """What is left of a run; a query of which nothing is left is left out.

    Args:
        run: the run.
        queries: these alone.
        documents: these alone.
        without: none of these documents.
        self_hits: ``drop`` a document whose id is the query's.
        lowest: no score below this.
        depth: then the best of each query.

    Raises:
        TevaError: nothing is left.
    """
    out: Run = {}
    barred = set(without)
    for query_id, hits in run.items():
        if queries is not None and query_id not in queries:
            continue
        kept = [
            (docid, score) for docid, score in hits
            if (documents is None or docid in documents) and docid not in barred
            and (self_hits == "keep" or docid != query_id) and (lowest is None or score >= lowest)
        ][:depth]  # fmt: skip
        if kept:
            out[query_id] = kept
    if not out:
        raise TevaError("nothing of the run is left: do the ids belong to it?")
    return out


def read_any_run(path: str | Path, form: Form | None = None) -> Run:
    """A run in any form: ``tsv``, ``trec`` (told apart by their lines), ``msmarco`` (``query docid rank``), ``json``.

    ``json`` is {query_id: {docid: score}}, as BEIR and MTEB keep results. MS MARCO's form cannot be told from ``tsv``,
    so it has to be named; its score becomes 1 / rank.

    Raises:
        DataError: a bad line or value, with its place.
    """
    path = Path(path)
    if form == "json" or (form is None and path.suffix == ".json"):
        return _read_json(path)
    run = read_run(path)
    if form != "msmarco":
        return run
    ranked: Run = {}
    for query_id, hits in run.items():
        for docid, rank in hits:
            if rank < 1 or rank != int(rank):
                raise DataError("not a rank", file=path, field=f"rank of ({query_id!r}, {docid!r})", found=rank,
                                expected="an integer from 1 on; is this a run with scores?")  # fmt: skip
        ranked[query_id] = best_first([docid for docid, _ in hits], [1 / rank for _, rank in hits])
    return ranked


def write_any_run(path: str | Path, run: Run, form: Form = "tsv", *, tag: str = "teva") -> None:
    """Write a run in one of the forms that :func:`read_any_run` reads."""
    if form in ("tsv", "trec"):
        write_run(path, run, layout=form, tag=tag)  # type: ignore[arg-type]
        return
    with atomic_file(path, "w") as file:
        if form == "json":
            json.dump({query_id: dict(hits) for query_id, hits in run.items()}, file, ensure_ascii=False)
        else:
            for query_id, hits in run.items():
                file.writelines(f"{query_id}\t{docid}\t{rank}\n" for rank, (docid, _) in enumerate(hits, 1))


def _read_json(path: Path) -> Run:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"not JSON ({error})", file=path) from error
    run: Run = {}
    if not isinstance(content, Mapping) or not content:
        raise DataError("not a run", file=path, found=content, expected="{query_id: {docid: score}}")
    for query_id, found in content.items():
        numbers = isinstance(found, dict) and all(type(score) in (int, float) for score in found.values())
        if not numbers:
            raise DataError("not results", file=path, field=query_id, found=found, expected="{docid: score}")
        run[query_id] = best_first(list(found), list(found.values()))
    return run

"""The command line: ``teva-eval score --qrels QRELS --run RUN [RUN ...]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from teva_data import commandline
from teva_data.errors import TevaError
from teva_data.files import atomic_file, write_json

if TYPE_CHECKING:
    from .scoring import Scores


def score(
    qrels: Path,
    run: tuple[Path, ...],
    measures: tuple[str, ...] = ("nDCG@10", "R@100", "RR@10", "AP@100"),
    missing: Literal["zero", "drop"] = "zero",
    relevance_level: int = 1,
    depth: int | None = None,
    self_hits: Literal["keep", "drop"] = "keep",
    json: Path | None = None,
    per_query: Path | None = None,
) -> None:
    """Score run files against judgements, as trec_eval does.

    Args:
        qrels: judgements: BEIR's TSV with a header, or TREC's four columns; .gz too.
        run: run files: `query_id docid score`, or TREC's six columns; .gz too. Several make one table.
        measures: e.g. nDCG@10 R@100 RR@10 AP@100 P@5 Success@1 Rprec Bpref; trec_eval's own names are taken too.
        missing: what a judged query without results counts: zero (trec_eval -c), or drop it from the mean.
        relevance_level: lowest grade that is relevant; nDCG takes grades as they are (trec_eval -l).
        depth: look at the best DEPTH documents of each query only (trec_eval -M).
        self_hits: a hit whose docid is the query's id: keep it, or drop it (as BEIR does).
        json: write means, counts, settings and versions here: an object whose `runs` has one entry a run.
        per_query: write the values of every query here, as TSV; a column `run` stands first where there are several.
    """
    from .scoring import score as score_run

    if not run:
        raise TevaError("no run files: name at least one after --run")
    scored: dict[Path, Scores] = {}
    for path in run:
        scored[path] = score_run(
            qrels, path, measures, missing=missing, relevance_level=relevance_level, depth=depth, self_hits=self_hits
        )
    # Printed first: a path that cannot be written must not cost the scores.
    print(next(iter(scored.values())).table() if len(scored) == 1 else _table(scored))
    try:
        _write(scored, json, per_query)
    except OSError as error:
        raise TevaError(f"cannot write: {error}") from error


def _write(scored: dict[Path, Scores], json: Path | None, per_query: Path | None) -> None:
    from .scoring import SCHEMA

    if json is not None:
        write_json(json, {"schema": SCHEMA, "runs": [scores.to_json() for scores in scored.values()]})
    if per_query is not None:
        _write_per_query(per_query, scored)


def _table(scored: dict[Path, Scores]) -> str:
    """One line a run, one column a measure."""
    names = list(next(iter(scored.values())).mean)
    rows = [["run", *names, "queries", "missing"]]
    for path, scores in scored.items():
        means = [f"{scores.mean[name]:.4f}" for name in names]
        rows.append([str(path), *means, str(scores.queries), str(len(scores.missing))])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def _write_per_query(path: Path, scored: dict[Path, Scores]) -> None:
    if len(scored) == 1:
        next(iter(scored.values())).write_per_query(path)
        return
    with atomic_file(path, "w") as file:
        file.write("\t".join(("run", "query_id", *next(iter(scored.values())).per_query)) + "\n")
        for run, scores in scored.items():
            file.writelines(f"{run}\t{line}\n" for line in scores.per_query_lines())


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``teva-eval`` and return its exit status."""
    return commandline.run("teva-eval", "Score retrieval runs as trec_eval does.", {"score": score}, argv)


if __name__ == "__main__":
    sys.exit(main())

"""The verbs of `teva-eval` that work on run files: fuse, filter, convert."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from teva_data.errors import TevaError


def fuse(
    runs: tuple[Path, ...],
    /,
    *,
    output: Path,
    method: Literal["rrf", "scores"] = "rrf",
    weights: tuple[float, ...] = (),
    k: float = 60,
    scale: Literal["minmax", "zscore", "none"] = "minmax",
    depth: int = 1000,
) -> None:
    """Fuse runs into one: by reciprocal ranks, or by weighted scores.

    Args:
        runs: two run files or more.
        output: the fused run; its form follows its name: .json, .trec, else tab-separated; .gz of the latter two.
        method: rrf sums weight / (k + rank); scores sums weighted scores.
        weights: of each run; 1 where not given.
        k: of rrf.
        scale: of scores, in each query of each run.
        depth: documents kept for each query.
    """
    from .fusing import fuse as fuse_runs
    from .fusing import read_any_run

    fused = fuse_runs(
        [read_any_run(path) for path in runs], method=method, weights=weights, k=k, scale=scale, depth=depth
    )
    _write_run(output, fused)


def filter_(
    run: Path,
    /,
    *,
    output: Path,
    qrels: Path | None = None,
    queries: Path | None = None,
    documents: Path | None = None,
    without: Path | None = None,
    self_hits: Literal["keep", "drop"] = "keep",
    lowest: float | None = None,
    depth: int | None = None,
) -> None:
    """Write what is left of a run.

    Args:
        run: the run file.
        output: the new one; its form follows its name, as of fuse.
        qrels: keep the queries that are judged here.
        queries: keep these queries: a file with an id a line (what follows a tab is ignored).
        documents: keep these documents: a file with an id a line.
        without: leave these documents out: a file with an id a line.
        self_hits: drop a document whose id is the query's.
        lowest: leave out lower scores.
        depth: then keep the best DEPTH of each query.
    """
    from teva_data.runs import read_qrels

    from .fusing import filter_run, read_any_run

    if qrels is not None and queries is not None:
        raise TevaError("--qrels and --queries: give one of them")
    wanted = set(read_qrels(qrels)) if qrels is not None else _ids(queries)
    left = filter_run(
        read_any_run(run), queries=wanted, documents=_ids(documents), without=_ids(without) or (), self_hits=self_hits,
        lowest=lowest, depth=depth,
    )  # fmt: skip
    _write_run(output, left)


def convert(
    run: Path,
    /,
    *,
    output: Path,
    source: Literal["msmarco", "json"] | None = None,
    to: Literal["tsv", "trec", "msmarco", "json"] | None = None,
    tag: str = "teva",
) -> None:
    """Write a run in another form: tsv (query docid score), trec (six columns), msmarco (query docid rank), json.

    Args:
        run: the run file; its form is told by its lines, but for msmarco.
        output: the new one.
        source: the form of the run, where it must be named: msmarco's ranks look like scores.
        to: the new form; told by the name where not given: .json, .trec, else tsv.
        tag: the run's name, of trec.
    """
    from .fusing import read_any_run

    _write_run(output, read_any_run(run, source), to, tag)


def _write_run(output: Path, run: Any, form: Any = None, tag: str = "teva") -> None:
    from .fusing import write_any_run

    suffix = output.with_suffix("").suffix if output.suffix == ".gz" else output.suffix
    guessed: Any = {".json": "json", ".trec": "trec"}.get(suffix, "tsv")
    write_any_run(output, run, form or guessed, tag=tag)
    print(f"{output}: {len(run):,} queries, {sum(map(len, run.values())):,} documents")


def _ids(path: Path | None) -> set[str] | None:
    from teva_data.reader import read_lines

    return None if path is None else {line.split("\t")[0].strip() for _, line in read_lines(path) if line.strip()}

"""The command `teva-eval`: its verbs are thin skins over the package's functions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from teva_data import commandline
from teva_data.errors import TevaError
from teva_data.files import atomic_file, write_json

from .cli_runs import convert, filter_, fuse

if TYPE_CHECKING:
    from .benchmarks import Task
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
    from .tables import aligned

    names = list(next(iter(scored.values())).mean)
    rows = [["run", *names, "queries", "missing"]]
    for path, scores in scored.items():
        means = [f"{scores.mean[name]:.4f}" for name in names]
        rows.append([str(path), *means, str(scores.queries), str(len(scores.missing))])
    return aligned(rows)


def _write_per_query(path: Path, scored: dict[Path, Scores]) -> None:
    if len(scored) == 1:
        next(iter(scored.values())).write_per_query(path)
        return
    with atomic_file(path, "w") as file:
        file.write("\t".join(("run", "query_id", *next(iter(scored.values())).per_query)) + "\n")
        for run, scores in scored.items():
            file.writelines(f"{run}\t{line}\n" for line in scores.per_query_lines())


def run(
    model: tuple[str, ...] = (),
    benchmark: str | None = None,
    task: tuple[str, ...] = (),
    dataset: tuple[Path, ...] = (),
    *,
    output: Path,
    split: str = "test",
    data: Path | None = None,
    bm25: bool = False,
    embeddings: tuple[Path, ...] = (),
    dims: tuple[int, ...] = (),
    depth: int = 1000,
    measures: tuple[str, ...] = (),
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    instruct: str | None = None,
    title: Literal["join", "drop"] | None = None,
    self_hits: Literal["keep", "drop"] | None = None,
    missing: Literal["zero", "drop"] = "zero",
    engine: str = "torch",
    device: str = "auto",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    vector_dtype: Literal["float32", "float16"] = "float32",
    max_length: int | None = None,
    batch_tokens: int = 16384,
    revision: str | None = None,
    offline: bool = False,
    overwrite: bool = False,
) -> None:
    """Run models over a benchmark: encode, search, score, record. A killed run goes on when started again.

    Args:
        model: model directories or hub ids; NAME=MODEL gives one another name in tables.
        benchmark: a declared benchmark; `teva-eval benchmarks` lists them.
        task: these tasks alone, of the benchmark or of any.
        dataset: datasets of teva's, or of any layout that `teva-data convert` reads, as tasks of their own.
        output: the directory for results, runs, prepared data and embeddings.
        split: the split of --dataset.
        data: local copies of the tasks' data: DIR/<task>/, or DIR itself. Without it they come from the hub.
        bm25: a row of BM25 too (extra bm25).
        embeddings: directories of embeddings that exist (corpus/ and <split>/, or <dataset>/corpus/ ...).
        dims: further dimensions, for Matryoshka models.
        depth: documents for each query.
        measures: instead of the tasks' own; the first is the main one.
        query_prompt: instead of the tasks' and the models' own.
        document_prompt: instead of the tasks' and the models' own.
        instruct: a query prompt with {instruction} in it, which becomes the task's sentence.
        title: join title and text, or drop the title; instead of the tasks' own policy.
        self_hits: keep or drop a hit whose docid is the query's id; instead of the tasks' own policy.
        missing: what a judged query without results counts: zero, or drop it from the mean.
        engine: the engine that encodes.
        device: auto, cpu, cuda, cuda:1, mps.
        dtype: what the models compute in.
        vector_dtype: how vectors are stored.
        max_length: tokens, special ones included, instead of the models' own limits.
        batch_tokens: tokens of a batch, counted as rows times the longest row.
        revision: of the models, on the hub.
        offline: take the hub's local cache only.
        overwrite: do again what is there with other settings.
    """
    from .running import Settings, evaluate
    from .systems import System, load_system
    from .tables import results_table

    chosen = _tasks(benchmark, task, dataset, split)
    if dataset and data is not None:
        raise TevaError("--dataset names its data itself; leave --data out")
    settings = Settings(
        depth=depth, missing=missing, title=title, self_hits=self_hits, query_prompt=query_prompt,
        document_prompt=document_prompt, instruct=instruct, measures=measures,
    )  # fmt: skip
    dense = {
        "engine": engine, "device": device, "dtype": dtype, "vector_dtype": vector_dtype, "max_length": max_length,
        "batch_tokens": batch_tokens, "dims": dims, "revision": revision, "offline": offline,
    }  # fmt: skip
    systems: list[System] = [load_system("bm25")] if bm25 else []
    for each in model:
        name, equals, place = each.partition("=")
        systems.append(load_system("dense", model=place if equals else each, name=name if equals else None, **dense))
    systems += [load_system("dense", embeddings=each, dims=dims) for each in embeddings]
    if not systems:
        raise TevaError("nothing to run: name a --model, --embeddings or --bm25")
    records = []
    for one, own in chosen:
        records += evaluate(systems, [one], output, data=own or data, settings=settings, offline=offline,
                            overwrite=overwrite)  # fmt: skip
    print(results_table(records, benchmark))


def _tasks(
    benchmark: str | None, names: tuple[str, ...], datasets: tuple[Path, ...], split: str
) -> list[tuple[Task, Path | None]]:
    from .benchmarks import Task, find_task
    from .benchmarks import benchmark as find_benchmark

    declared = () if benchmark is None else find_benchmark(benchmark).tasks
    if names:
        known = {task.name: task for task in declared}
        declared = tuple(known[name] if name in known else find_task(name) for name in names)
    found: list[tuple[Task, Path | None]] = [(task, None) for task in declared]
    found += [(Task(name=path.resolve().name, split=split), path) for path in datasets]
    if not found:
        raise TevaError("nothing to run on: name a --benchmark, a --task or a --dataset")
    return found


def rerun(
    result: Path,
    /,
    *,
    model: str | None = None,
    data: Path | None = None,
    output: Path | None = None,
    device: str = "auto",
) -> int:
    """Do a recorded result again and say where it differs; the exit status is 0 where it is identical.

    Args:
        result: a result.json, or its directory.
        model: where the model is now, if not where it was.
        data: where the data are now, if not where they were.
        output: keep the new result here.
        device: where the model computes.
    """
    from .repeating import rerun as again

    found = again(result, model=model, data=data, output=output, device=device)
    if not found.differences:
        print(f"identical: {', '.join(f'{k} {v:.4f}' for k, v in found.record['scores'].items())}")
        return 0
    print("\n".join(found.differences))
    if found.changed:
        print(f"{len(found.changed)} queries have other results, e.g. {', '.join(found.changed[:5])}")
    return 1


def benchmarks(name: str | None = None, /) -> None:
    """List the declared benchmarks, or tell what one of them declares.

    Args:
        name: the benchmark.
    """
    from .benchmarks import benchmark, benchmarks

    if name is not None:
        print(benchmark(name).describe())
        return
    for each in benchmarks():
        print(f"{each.name:<17} {len(each.tasks):>2} tasks  {each.measure:<11} {each.title}")


def compare(
    one: Path,
    other: Path,
    /,
    *,
    measure: str | None = None,
    level: float = 0.05,
    resamples: int = 10_000,
    seed: int = 0,
    queries: int = 3,
    documents: int = 3,
) -> None:
    """Compare two systems task by task: interval, p, p corrected for the number of tasks, the queries that changed.

    Args:
        one: a directory with one system's results (OUTPUT/<system>), or one result.
        other: the other's; differences are its means less the first's.
        measure: what is compared; each task's main one where not given.
        level: of the bootstrap interval and of significance.
        resamples: of the paired bootstrap and of the randomisation test.
        seed: for both.
        queries: how many of the queries that changed most are shown, of each task.
        documents: how many documents of each.
    """
    from .comparing import compare as compare_results

    found = compare_results(
        one, other, measure=measure, level=level, resamples=resamples, seed=seed, queries=queries, documents=documents
    )
    print(found.text())


def report(
    results: tuple[Path, ...], /, *, output: Path, title: str = "Retrieval results", reference: bool = True
) -> None:
    """Write report.html (one page that needs nothing beside it), report.md and report.tex.

    Args:
        results: directories with results.
        output: the directory for the three files.
        title: of the page.
        reference: the paper's rows in its tables, marked as published.
    """
    from .reporting import report as write_report

    print("\n".join(map(str, write_report(results, output, title=title, reference=reference))))


def mteb(results: tuple[Path, ...], /, *, output: Path) -> None:
    """Write results in MTEB's layout: {org__model}/{revision}/{Task}.json.

    Args:
        results: directories with results.
        output: MTEB's directory `results`.
    """
    from .mteb_results import write_mteb

    print("\n".join(map(str, write_mteb(results, output))))


DESCRIPTION = "Benchmarks of dense retrieval as one command each; runs scored as trec_eval does."
VERBS: dict[str, Callable[..., Any]] = {
    "run": run, "rerun": rerun, "compare": compare, "report": report, "benchmarks": benchmarks, "score": score,
    "mteb": mteb,
    "fuse": fuse, "filter": filter_, "convert": convert,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``teva-eval`` and return its exit status."""
    return commandline.run("teva-eval", DESCRIPTION, VERBS, argv)


if __name__ == "__main__":
    sys.exit(main())

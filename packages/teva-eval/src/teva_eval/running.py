"""Runs systems over tasks: search, score, record. What is done already is not done again.

OUTPUT/
  data/<task>/                    the task's data, converted once
  embeddings/                     shards, shared by all tasks over the same documents
  <system>/<task>/result.json     the record; run.tsv.gz and per_query.tsv beside it
  <system>/<task>/run.log
"""

from __future__ import annotations

import datetime
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from teva_data.errors import DataError, TevaError
from teva_data.files import checksum, fingerprint, lock_directory, remove_leftovers, write_sealed
from teva_data.logfile import log_to
from teva_data.runs import Qrels, Run, write_run

from .answers import judge_by_answers
from .benchmarks import Benchmark, Task
from .preparing import Prepared, prepare
from .records import PER_QUERY, RESULT, RUN, SCHEMA, describe_data, read_record, versions
from .scoring import TIES, Scores, score
from .systems import System, as_system

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is the same for all tasks of a run.

    Attributes:
        depth: documents for each query.
        missing: what a judged query without results counts; see :func:`teva_eval.score`.
        title: instead of the tasks' own policy.
        self_hits: instead of the tasks' own policy.
        query_prompt: instead of the tasks' and the model's own.
        document_prompt: instead of the tasks' and the model's own.
        instruct: a query prompt in which ``{instruction}`` stands for the task's sentence.
        measures: instead of the tasks' own.
    """

    depth: int = 1000
    missing: Literal["zero", "drop"] = "zero"
    title: Literal["join", "drop"] | None = None
    self_hits: Literal["keep", "drop"] | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    instruct: str | None = None
    measures: tuple[str, ...] = ()

    def of(self, task: Task) -> Task:
        """The task with these settings in place of its own."""
        if self.instruct is not None and self.query_prompt is not None:
            raise TevaError("instruct and query_prompt: give one of them")
        changes: dict[str, Any] = {
            name: value for name in ("title", "self_hits", "query_prompt", "document_prompt")
            if (value := getattr(self, name)) is not None
        }  # fmt: skip
        if self.instruct is not None:
            if "{instruction}" not in self.instruct:
                raise TevaError(f"instruct: found {self.instruct!r}; expected a text with {{instruction}} in it")
            if not task.instruction:
                raise TevaError(f"task {task.name!r} declares no instruction; give a query prompt")
            changes["query_prompt"] = self.instruct.replace("{instruction}", task.instruction)
        if self.measures:
            changes["measures"] = self.measures
        return replace(task, **changes)


def evaluate(
    systems: object,
    tasks: Benchmark | Iterable[Task],
    output: str | Path,
    *,
    data: str | Path | None = None,
    settings: Settings | None = None,
    offline: bool = False,
    overwrite: bool = False,
) -> list[dict[str, Any]]:
    """Run systems over tasks and record the results. Started again after a kill, only what is missing is done.

    Args:
        systems: one or several: a :class:`teva_eval.System`, or an encoder (``encode_queries``, ``encode_documents``).
        tasks: a benchmark, or tasks.
        output: the directory for records, runs, prepared data and embeddings.
        data: where local copies of the tasks' data lie; the hub where not given.
        settings: prompts, policies, depth.
        offline: take the hub's local cache only.
        overwrite: do again what is there with other settings.

    Returns:
        the records, tasks within systems.

    Raises:
        DataError: bad data, with its address.
        TevaError: a result is there that other settings made.
    """
    output, settings = Path(output), settings or Settings()
    listed = [as_system(each) for each in (systems if isinstance(systems, list | tuple) else [systems])]
    names = [system.name for system in listed]
    if twice := sorted({name for name in names if names.count(name) > 1 or name in ("data", "embeddings")}):
        raise TevaError(f"two systems, or a system and a directory of the output, are named {twice[0]!r}: name them")
    chosen = tasks.tasks if isinstance(tasks, Benchmark) else tuple(tasks)
    records = []
    for system in listed:
        for task in chosen:
            records.append(
                _run_task(system, settings.of(task), output, None if data is None else Path(data), settings,
                          offline=offline, overwrite=overwrite)
            )  # fmt: skip
    return records


def _run_task(
    system: System, task: Task, output: Path, data: Path | None, settings: Settings, *, offline: bool, overwrite: bool
) -> dict[str, Any]:
    place = output / system.name / task.name
    place.mkdir(parents=True, exist_ok=True)
    with log_to(place / "run.log", "teva_eval", "teva_infer", "teva_data"), lock_directory(place, "evaluating"):
        remove_leftovers(place, "*")
        ready = prepare(task, output / "data", data, offline=offline)
        request = {
            "task": task.to_json(), "system": _described(system, task), "depth": settings.depth,
            "missing": settings.missing, "corpus": ready.dataset.corpus.fingerprint,
            "queries": ready.dataset.queries(ready.split).fingerprint, "qrels": _qrels_checksum(ready),
        }  # fmt: skip
        name = fingerprint("request", request)
        if (place / RESULT).exists() and not overwrite:
            there = read_record(place / RESULT)
            if there["fingerprint"] != name:
                raise TevaError(f"{place / RESULT} was made with other settings or data: {_why(there, request)}. Use "
                                "another output, or overwrite it (--overwrite)")  # fmt: skip
            if _whole(place, there):
                logger.info("%s, %s: done already", system.name, task.name)
                return there
        start = time.monotonic()
        runs = system.search(
            ready.dataset, ready.split, depth=settings.depth, exclude_self=task.self_hits == "drop",
            query_prompt=task.query_prompt, document_prompt=task.document_prompt, work=output / "embeddings",
        )  # fmt: skip
        record = _record(system, task, ready, runs, settings, place)
        record |= {"fingerprint": name, "seconds": round(time.monotonic() - start, 1)}
        record |= {"written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
        source = None if data is None else str(data.absolute())
        record |= {"request": {"data": source, "dataset": str(ready.dataset.path)}}
        write_sealed(place / RESULT, record)
        logger.info("%s, %s: %s %.4f", system.name, task.name, task.main, record["scores"][_main(task)])
    return record


def _record(
    system: System, task: Task, ready: Prepared, runs: Mapping[str, Run], settings: Settings, place: Path
) -> dict[str, Any]:
    variants: dict[str, Scores] = {}
    files: dict[str, dict[str, Any]] = {}
    qrels = {} if task.answers else ready.dataset.qrels(ready.split)
    for variant, run in runs.items():
        file = RUN if not variant else f"run.{variant}.tsv.gz"
        write_run(place / file, run)
        judged = _judged(task, ready, run) if task.answers else qrels
        variants[variant] = score(judged, run, task.measures, missing=settings.missing, self_hits=task.self_hits)
        files[variant] = {"file": file, "checksum": checksum(place / file), "hits": sum(map(len, run.values()))}
        if not variant:
            qrels = judged
    variants[""].write_per_query(place / PER_QUERY)
    main = variants[""]
    return {
        "per_query": {"file": PER_QUERY, "checksum": checksum(place / PER_QUERY)},
        "schema": SCHEMA, "task": task.to_json(), "system": _described(system, task),
        "data": describe_data(ready.dataset, ready.split, {} if task.answers else qrels, ready.source),
        "settings": {
            "depth": settings.depth, "missing": settings.missing, "relevance_level": 1, "ties": TIES,
            "title": task.title, "self_hits": task.self_hits,
        },
        "scores": main.mean,
        "variants": {variant: scores.mean for variant, scores in variants.items() if variant},
        "counts": {
            "queries": main.queries, "missing": len(main.missing), "unjudged": len(main.unjudged),
            "without_relevant": len(main.without_relevant),
        },
        "runs": files, "versions": versions(),
    }  # fmt: skip


def _whole(place: Path, record: Mapping[str, Any]) -> bool:
    """Whether the files of a result are there, as they were written."""
    for noted in [*record["runs"].values(), *([record["per_query"]] if "per_query" in record else [])]:
        path = place / noted["file"]
        if not path.exists():
            return False
        if checksum(path) != noted["checksum"]:
            logger.warning("%s: damaged; the task is run again", path)
            return False
    return True


def _judged(task: Task, ready: Prepared, run: Run) -> Qrels:
    from .measures import parse_measures

    cutoffs = [measure.cutoff for measure in parse_measures(task.measures)]
    if None in cutoffs:
        raise TevaError(f"task {task.name!r} is judged by answers, so its measures need a cutoff: {task.measures}")
    return judge_by_answers(run, ready.dataset, ready.answers, max(cutoff or 0 for cutoff in cutoffs))


def _main(task: Task) -> str:
    from .measures import parse_measure

    return parse_measure(task.main).name


def _described(system: System, task: Task) -> dict[str, Any]:
    """What a system says of itself, as JSON has it."""
    told = system.describe(query_prompt=task.query_prompt, document_prompt=task.document_prompt)
    return dict(json.loads(json.dumps(dict(told))))


def _qrels_checksum(ready: Prepared) -> str:
    directory = ready.dataset.path / "qrels"
    found = [path for end in ("", ".gz") if (path := directory / f"{ready.split}.tsv{end}").is_file()]
    if not found and not ready.answers:
        raise DataError("no judgements for this split", file=directory, expected=f"{ready.split}.tsv")
    return checksum(found[0]) if found else fingerprint("answers", ready.answers)


def _why(there: Mapping[str, Any], request: Mapping[str, Any]) -> str:
    from .records import differences

    mine = {"task": request["task"], "system": request["system"],
            "data": {"corpus_fingerprint": request["corpus"], "queries_fingerprint": request["queries"]}}  # fmt: skip
    theirs = {key: there[key] for key in ("task", "system")}
    theirs["data"] = {key: there["data"][key] for key in mine["data"]}
    lines = differences(theirs, mine)
    if there["settings"]["depth"] != request["depth"]:
        lines.append(f"depth: {there['settings']['depth']} there, {request['depth']} now")
    return "; ".join(lines[:4]) or "the judgements, or how missing queries count"


def benchmark_value(benchmark: Benchmark, records: Sequence[Mapping[str, Any]], variant: str = "") -> float | None:
    """The benchmark's number for one system, or for a variant of it, from its records; None where a task lacks."""
    from .measures import parse_measure

    name = parse_measure(benchmark.measure).name
    values = {}
    for record in records:
        scores = record["variants"].get(variant, {}) if variant else record["scores"]
        if name in scores:
            values[record["task"]["name"]] = scores[name]
    return benchmark.average(values)

"""Compares two systems over the tasks that both have results of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teva_data.dataset import Dataset
from teva_data.errors import DataError, TevaError
from teva_data.files import checksum
from teva_data.records import join_title
from teva_data.runs import Run, read_run

from .measures import parse_measure
from .records import PER_QUERY, RESULT, find_records, read_record
from .significance import Difference, holm, paired
from .tables import aligned

TEXT = 160  # characters shown of a query or document


@dataclass(frozen=True)
class Changed:
    """A query that went better or worse.

    Attributes:
        query_id: the query.
        values: of the two systems.
        text: the query's, where the data are at hand.
        documents: the first documents of the two, as (docid, grade or None, text).
    """

    query_id: str
    values: tuple[float, float]
    text: str
    documents: tuple[tuple[tuple[str, int | None, str], ...], ...]


@dataclass(frozen=True)
class TaskComparison:
    """One task.

    Attributes:
        task: its name.
        measure: what is compared.
        found: the difference, its interval, p.
        adjusted: p after Holm's correction over all tasks compared.
        changed: the queries that changed most.
    """

    task: str
    measure: str
    found: Difference
    adjusted: float
    changed: tuple[Changed, ...]


@dataclass(frozen=True)
class Comparison:
    """Two systems; differences are the second's less the first's."""

    systems: tuple[str, str]
    level: float
    tasks: tuple[TaskComparison, ...]

    def significant(self) -> tuple[str, ...]:
        """The tasks on which they differ at the level, after correction."""
        return tuple(each.task for each in self.tasks if each.adjusted < self.level)

    def table(self) -> str:
        """One line a task."""
        share = f"{100 * (1 - self.level):g} %"
        rows = [["task", "measure", *self.systems, "difference", share, "p", "p (Holm)", "wins", "losses", "ties"]]
        for each in self.tasks:
            found = each.found
            rows.append([
                each.task, each.measure, *(f"{mean:.4f}" for mean in found.means), f"{found.difference:+.4f}",
                f"{found.low:+.4f} to {found.high:+.4f}", f"{found.p:.4f}",
                f"{each.adjusted:.4f}{'*' if each.adjusted < self.level else ''}",
                str(found.wins), str(found.losses), str(found.queries - found.wins - found.losses),
            ])  # fmt: skip
        return aligned(rows)

    def text(self) -> str:
        """The table, and the queries that changed most, with their documents."""
        parts = [self.table(), f"* below {self.level:g} after Holm's correction over {len(self.tasks)} task(s)"]
        for each in self.tasks:
            for changed in each.changed:
                before, after = changed.values
                parts.append(f"\n{each.task}, query {changed.query_id}: {each.measure} {before:.4f} -> {after:.4f}"
                             + (f"\n  {changed.text}" if changed.text else ""))  # fmt: skip
                for system, documents in zip(self.systems, changed.documents, strict=True):
                    parts.append(f"  {system}:")
                    parts += [
                        f"    {rank}. {docid}{'' if grade is None else f' [grade {grade}]'}  {text}"
                        for rank, (docid, grade, text) in enumerate(documents, 1)
                    ]
        return "\n".join(parts)


def compare(
    one: str | Path,
    other: str | Path,
    *,
    measure: str | None = None,
    level: float = 0.05,
    resamples: int = 10_000,
    seed: int = 0,
    queries: int = 3,
    documents: int = 3,
) -> Comparison:
    """Compare two systems.

    Args:
        one: a directory with results of one system (``OUTPUT/<system>``), or one result.
        other: another's.
        measure: what is compared; each task's main one where not given.
        level: of the interval, and of what is marked.
        resamples: of the bootstrap and of the randomisation test.
        seed: for both.
        queries: how many of the queries that changed most are shown, of each task.
        documents: how many documents are shown of each.

    Raises:
        DataError: no results, a value file that does not fit them, or results over other queries.
        TevaError: no task in common, several systems in one directory, or a measure that the results lack.
    """
    sides = [_by_task(one), _by_task(other)]
    names = [name for name in sides[0] if name in sides[1]]
    if not names:
        raise TevaError(f"{one} and {other} have no task in common: {', '.join(sides[0])}; {', '.join(sides[1])}")
    rows = []
    for name in names:
        (place, record), (place2, record2) = sides[0][name], sides[1][name]
        wanted = parse_measure(measure or record["task"]["measures"][0]).name
        left, right = read_values(place, wanted), read_values(place2, wanted)
        _check_same(left, right, place, place2)
        found = paired(list(left.values()), [right[query_id] for query_id in left], resamples=resamples, level=level,
                       seed=seed)  # fmt: skip
        order = sorted(left, key=lambda query_id: (-abs(right[query_id] - left[query_id]), query_id))
        moved = [query_id for query_id in order if right[query_id] != left[query_id]][:queries]
        changed = _changed(moved, left, right, (place, record), (place2, record2), documents)
        rows.append((name, wanted, found, changed))
    adjusted = holm([found.p for _, _, found, _ in rows])
    systems = [next(iter(side.values()))[1]["system"]["name"] for side in sides]
    return Comparison(
        (systems[0], systems[1]), level,
        tuple(TaskComparison(name, wanted, found, p, changed)
              for (name, wanted, found, changed), p in zip(rows, adjusted, strict=True)),
    )  # fmt: skip


def read_values(directory: Path, measure: str) -> dict[str, float]:
    """A measure's values by query, of a result's ``per_query.tsv``.

    Raises:
        DataError: no such file or column, or a line that does not fit the header.
    """
    path = directory / PER_QUERY
    if path.exists() and (directory / RESULT).exists():
        noted = read_record(directory).get("per_query")  # earlier versions did not write it
        if noted is not None and checksum(path) != noted["checksum"]:
            raise DataError("damaged: its checksum differs from that in the result", file=path,
                            hint="Run the task again")  # fmt: skip
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError("no values of the queries", file=path, hint="Run the task again") from error
    header = lines[0].split("\t")
    if measure not in header[1:]:
        raise DataError("not among the measures", file=path, line=1, field=measure, found=header[1:])
    column, values = header.index(measure), {}
    for number, line in enumerate(lines[1:], 2):
        if line:
            cells = line.split("\t")
            if len(cells) != len(header):
                raise DataError("wrong columns", file=path, line=number, found=cells, expected=f"{len(header)}")
            values[cells[0]] = float(cells[column])
    return values


def _by_task(place: str | Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path, record in find_records([place]):
        name = record["task"]["name"]
        if name in found:
            raise TevaError(f"{place} holds several results of the task {name!r}: name one system's directory")
        found[name] = path.parent, record
    return found


def _check_same(left: Mapping[str, float], right: Mapping[str, float], one: Path, other: Path) -> None:
    if different := sorted(left.keys() ^ right.keys()):
        raise DataError("results over other queries", file=other / PER_QUERY, field="query_id", found=different[0],
                        expected=f"the {len(left)} queries of {one / PER_QUERY}",
                        hint="Were both run with the same data and the same rule for missing queries?")  # fmt: skip


def _changed(
    query_ids: Iterable[str], left: Mapping[str, float], right: Mapping[str, float],
    one: tuple[Path, dict[str, Any]], other: tuple[Path, dict[str, Any]], depth: int,
) -> tuple[Changed, ...]:  # fmt: skip
    query_ids = list(query_ids)
    if not query_ids:
        return ()
    runs = [_run(place, record) for place, record in (one, other)]
    dataset = _dataset(one[1]) or _dataset(other[1])
    split = one[1]["task"]["split"]
    texts = _query_texts(dataset, split, query_ids)
    qrels = {} if dataset is None or one[1]["task"]["answers"] else dataset.qrels(split)
    return tuple(
        Changed(query_id, (left[query_id], right[query_id]), texts.get(query_id, ""),
                tuple(_shown(run.get(query_id, [])[:depth], dataset, qrels.get(query_id, {})) for run in runs))
        for query_id in query_ids
    )  # fmt: skip


def _run(place: Path, record: Mapping[str, Any]) -> Run:
    path = place / record["runs"][""]["file"]
    return read_run(path) if path.exists() else {}


def _dataset(record: Mapping[str, Any]) -> Dataset | None:
    """The data of a result, where they still lie where they lay."""
    place = record["request"].get("dataset")
    return Dataset.open(place) if place and Path(place).is_dir() else None


def _query_texts(dataset: Dataset | None, split: str, query_ids: list[str]) -> dict[str, str]:
    if dataset is None:
        return {}
    store = dataset.queries(split)
    rows = [int(row) for row in store.rows(query_ids) if row >= 0]
    return {query.query_id: _cut(query.query_text) for query in store.get(rows)}


def _shown(
    hits: list[tuple[str, float]], dataset: Dataset | None, judged: Mapping[str, int]
) -> tuple[tuple[str, int | None, str], ...]:
    docids = [docid for docid, _ in hits]
    if dataset is None:
        return tuple((docid, None, "") for docid in docids)
    documents = dataset.corpus.lookup(docids)
    return tuple(
        (each.docid, judged.get(each.docid), _cut(join_title(each.title, each.document_text))) for each in documents
    )


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= TEXT else f"{text[: TEXT - 1]}…"

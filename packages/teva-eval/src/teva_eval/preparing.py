"""Finds a task's data, on this machine or on the hub, and makes a dataset of it, once.

What lies under ``--data DIR`` may be a dataset of teva's, which is read in place, or in any layout that
:mod:`teva_data.conversion` reads, as first published or as a copy of the hub's repository.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teva_data.conversion import convert, write_corpus
from teva_data.conversion.declared import convert_declared
from teva_data.conversion.tables import open_tables
from teva_data.dataset import Dataset
from teva_data.errors import DataError
from teva_data.files import atomic_directory, atomic_file, fingerprint, write_json
from teva_data.reader import read_rows
from teva_data.records import Document

from .benchmarks import Task
from .turning import turn

logger = logging.getLogger(__name__)

SOURCE = "source.json"
TURNED = "-to-text"  # ends the names of tasks of the other direction, which are made of the same files
VERSION = "1"  # of how data is prepared: another one prepares it anew


@dataclass(frozen=True)
class Prepared:
    """A task's data, ready to be searched.

    Attributes:
        dataset: documents and queries.
        split: the queries' split.
        source: where it came from: a directory, or ``owner/name@revision``.
        answers: answers of each query, for tasks that are judged by them.
    """

    dataset: Dataset
    split: str
    source: str
    answers: dict[str, list[str]]


def prepare(task: Task, cache: Path, data: Path | None = None, *, offline: bool = False) -> Prepared:
    """A task's data.

    Args:
        task: what is wanted.
        cache: the directory that prepared datasets are kept in.
        data: where local copies lie: ``DIR/<task>``, ``DIR/<repository>``, or the source itself. None: the hub.
        offline: take the hub's local cache only.

    Raises:
        DataError: it is not there (the message holds the command that fetches it), or a row is bad.
    """
    place = None if data is None else _find(task, data)
    plain = task.title == "join" and not task.answers and not task.turned
    if place is not None and plain and _is_dataset(place, task.split):
        return Prepared(Dataset.open(place), task.split, str(place), {})
    source = str(place) if place is not None else f"{task.hub}@{task.revision or 'newest'}"
    wanted = {"version": VERSION, "source": source, "fingerprint": _wanted(task, place)}
    target = cache / task.name
    if _was(target) != wanted:
        logger.info("%s: preparing %s", task.name, source)
        with atomic_directory(target) as temporary:
            made = temporary / "made"
            if place is not None and _is_dataset(place, task.split):
                made = place
            else:
                _convert(task, place, made, offline)
            _take_over(made, temporary, task, place)
            write_json(temporary / SOURCE, wanted)
    answers = _read_answers(target / "answers.jsonl") if task.answers else {}
    return Prepared(Dataset.open(target / "data"), task.split, source, answers)


def fetch_command(task: Task, data: Path) -> str:
    """The command that brings a task's data to where :func:`prepare` looks for it."""
    revision = f" --revision {task.revision}" if task.revision else ""
    lines = [f"  hf download --repo-type dataset {task.hub}{revision} --local-dir {data / _folder(task)}"]
    if task.dataset is not None:
        from teva_data.datasets import declaration

        lines = [
            f"  hf download --repo-type dataset {each.hub}{f' --revision {each.revision}' if each.revision else ''} "
            f"--local-dir {data / _folder(task) / each.folder}"
            for each in declaration(task.dataset).sources
        ]
    return "\n".join(lines)


def _folder(task: Task) -> str:
    return task.hub.partition("/")[2] if task.part else task.name


def _find(task: Task, data: Path) -> Path:
    if not data.is_dir():
        raise DataError("no such directory", file=data, hint=f"Fetch the task:\n{fetch_command(task, data)}")
    names = dict.fromkeys(
        (task.name, task.name.removesuffix(TURNED), _folder(task), task.hub.partition("/")[2], task.mteb or task.name)
    )
    for name in names:
        if name and (data / name).is_dir():
            return data / name
    entries = [entry.name for entry in data.iterdir()]
    if any(entry.startswith(("corpus", "topics", "qrels", "collection", "queries")) for entry in entries):
        return data
    if not task.hub:
        raise DataError("no data of this task", file=data, field=task.name, found=sorted(entries)[:8])
    raise DataError(
        "no data of this task", file=data, field=task.name, found=sorted(entries)[:8],
        expected=" or ".join(f"{name}/" for name in names if name), hint=f"Fetch it:\n{fetch_command(task, data)}",
    )  # fmt: skip


def _is_dataset(place: Path, split: str) -> bool:
    """Whether a directory is a dataset of teva's with this split, and not one in another layout."""
    try:
        dataset = Dataset.open(place)
    except DataError:
        return False
    return split in dataset.splits and any((place / "qrels" / f"{split}.tsv{end}").is_file() for end in ("", ".gz"))


def _wanted(task: Task, place: Path | None) -> str:
    """A name for what is made of a source: of the files there, by size and time, and of the task's own rules."""
    files = [] if place is None else [
        (str(path.relative_to(place)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(place.rglob("*"))
        if path.is_file() and ".teva" not in path.parts
    ]  # fmt: skip
    rules: list[Any] = [task.hub, task.revision, task.layout, task.part, task.split, task.title, task.answers]
    rules += ["turned"] * task.turned
    return fingerprint("prepared", VERSION, files, rules)


def _was(target: Path) -> Any:
    try:
        return json.loads((target / SOURCE).read_bytes())
    except (OSError, ValueError):
        return None


def _convert(task: Task, place: Path | None, target: Path, offline: bool) -> None:
    if place is None and task.dataset is not None:
        convert_declared(task.dataset, target, splits=(task.split,), offline=offline)
        return
    if place is not None and task.dataset is not None and len([e for e in place.iterdir() if e.is_dir()]) > 1:
        convert_declared(task.dataset, target, local=place, splits=(task.split,))
        return
    try:
        convert(
            task.hub if place is None else place, target, layout=task.layout if place is None else "auto",
            part=task.part if place is None or _has_parts(task, place) else None, splits=_splits(task, place),
            revision=task.revision if place is None else None, offline=offline,
        )  # fmt: skip
    except DataError as error:
        if place is not None:
            raise
        raise DataError(
            error.problem, file=error.file, field=error.field, found=error.found, expected=error.expected,
            hint=f"{error.hint or 'It was not reached'}. Or fetch it, and run with --data DIR:\n"
            + fetch_command(task, Path("DIR")),
        ) from error  # fmt: skip


def _has_parts(task: Task, place: Path) -> bool:
    """Whether a source holds several collections, so that one must be named."""
    return place.name != task.name


def _splits(task: Task, place: Path | None) -> tuple[str, ...]:
    return (task.split,)


def _take_over(made: Path, target: Path, task: Task, place: Path | None) -> None:
    """Give what was converted its place; without titles, where the task says so."""
    dataset = Dataset.open(made)
    if task.split not in dataset.splits:
        raise DataError("no such split", file=place or task.hub, field=task.name, found=dataset.splits,
                        expected=task.split)  # fmt: skip
    if task.turned:
        (target / "data").mkdir()
        inside = made.parent == target  # moves with it: its media are linked to from beside it
        turn(dataset, task.split, target / "data", Path("..") / made.name if inside else made.absolute())
    elif task.title == "drop":
        (target / "data" / "qrels").mkdir(parents=True)
        write_corpus(target / "data", _without_titles(dataset, place))
        for name in (p for p in made.iterdir() if p.is_file() and p.name.startswith((f"{task.split}.", "dataset."))):
            (target / "data" / name.name).write_bytes(name.read_bytes())
        for name in (made / "qrels").iterdir():
            (target / "data" / "qrels" / name.name).write_bytes(name.read_bytes())
    elif made.parent == target:
        made.rename(target / "data")
    else:
        (target / "data").symlink_to(made.absolute(), target_is_directory=True)
    if task.answers:
        if place is None:
            raise DataError("answers are read from a local copy", file=task.hub, field="answers",
                            hint=f"Fetch it, and run with --data DIR:\n{fetch_command(task, Path('DIR'))}")  # fmt: skip
        with atomic_file(target / "answers.jsonl", "w") as file:
            for query_id, answers in _answers(place, task.split):
                file.write(json.dumps({"query_id": query_id, "answers": answers}, ensure_ascii=False) + "\n")


def _without_titles(dataset: Dataset, place: Path | None) -> Iterator[Document]:
    for row, document in enumerate(dataset.corpus):
        if document.pieces or not document.document_text.strip():
            file, line = dataset.corpus.address(row)
            what = "a document of media" if document.pieces else "a document that is a title alone"
            raise DataError(what, file=file, line=line, found=document.docid, expected="a text",
                            hint="Titles cannot be dropped here; use the title policy `join`")  # fmt: skip
        yield Document(document.docid, document.document_text)


def _answers(place: Path, split: str) -> Iterator[tuple[str, list[str]]]:
    """Answers of the queries, from whichever table of the source has them (``answers`` or ``answer``)."""
    for directory in (place, *sorted(each for each in place.iterdir() if each.is_dir())):
        try:
            tables = open_tables(directory)
        except DataError:
            continue
        for name in tables.names():
            columns = tables.columns(name) & {"answers", "answer"}
            if columns and split in tables.splits(name):
                field = max(columns)
                for row in tables.rows(name, split):
                    found = row.record.get(field)
                    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
                        raise row.error("not answers", field, found, "a list of texts")
                    yield str(row.record.get("query_id", row.record.get("_id"))), found
                return
    raise DataError("no answers", file=place, field="answers", expected=f"a table with the split {split!r} and a "
                    "column `answers`, a list of texts")  # fmt: skip


def _read_answers(path: Path) -> dict[str, list[str]]:
    return {row.record["query_id"]: row.record["answers"] for row in read_rows(path)}

"""The files of negative mining: what is chosen waits on disk, queries are written with it, and a report says why."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from teva_data.dataset import Dataset
from teva_data.errors import DataError
from teva_data.files import atomic_file
from teva_data.pieces import KINDS, Media
from teva_data.records import Query

Note = Callable[..., None]


@dataclass(frozen=True)
class Chosen:
    """What mining chose for one query.

    Attributes:
        docids: its negatives.
        scores: the run's score of each, where scores are kept.
        positive_scores: the run's score of each of its positives, where scores are kept.
    """

    docids: Sequence[str]
    scores: Sequence[float] | None = None
    positive_scores: Sequence[float] | None = None


class Spool:
    """Keeps what is chosen, in the order of the run, until it is written in the order of the split.

    It lies in a nameless file, so that memory is 8 bytes for each query and a kill leaves nothing.

    Args:
        directory: where the file is.
        count: queries of the split.
    """

    _ABSENT, _DROPPED = -1, -2

    def __init__(self, directory: Path, count: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - closed by __exit__
        self._places = np.full(count, self._ABSENT, dtype=np.int64)
        self._end = 0

    def __enter__(self) -> Spool:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file, which removes it."""
        self._file.close()

    def holds(self, row: int) -> bool:
        """Whether the run held the query at a row, dropped or not."""
        return bool(self._places[row] != self._ABSENT)

    def put(self, row: int, chosen: Chosen) -> None:
        """Keep what is chosen for the query at a row."""
        line = json.dumps([chosen.docids, chosen.scores, chosen.positive_scores]).encode() + b"\n"
        self._file.write(line)
        self._places[row] = self._end
        self._end += len(line)

    def drop(self, row: int) -> None:
        """Note that the query at a row is not to be written."""
        self._places[row] = self._DROPPED

    def get(self, row: int) -> Chosen | None:
        """What was chosen for the query at a row, which the run held; None where it was dropped."""
        if self._places[row] == self._DROPPED:
            return None
        self._file.seek(self._places[row])
        return Chosen(*json.loads(self._file.readline()))


@contextlib.contextmanager
def report_file(path: Path | None) -> Iterator[Note]:
    """Gives a function that writes its keywords as one line of JSON; a file that appears when the block ends well."""
    if path is None:
        yield lambda **_: None
        return
    with atomic_file(path, "w") as file:
        yield lambda **values: print(json.dumps(values, ensure_ascii=False), file=file)


def write_mined(path: Path, queries: Iterable[Query], root: Path) -> None:
    """Write queries as a split's JSONL.

    Args:
        path: the file.
        queries: they may hold media where the file stands in ``root``.
        root: the dataset's directory, which their media are addressed from.
    """
    with atomic_file(path, "w") as file:
        for query in queries:
            print(json.dumps(_record(query, path, root), ensure_ascii=False), file=file)


def _record(query: Query, path: Path, root: Path) -> dict[str, Any]:
    record: dict[str, Any] = {"query_id": query.query_id, **_content(query, path, root)}
    record["positive_document_ids"] = query.positive_document_ids
    record["negative_document_ids"] = query.negative_document_ids
    for name in ("positive_scores", "negative_scores", "prompt"):
        if getattr(query, name) is not None:
            record[name] = getattr(query, name)
    return record


def _content(query: Query, path: Path, root: Path) -> dict[str, Any]:
    """The fields of text and media. A field's list holds null where its place belongs to another field."""
    if not query.pieces:
        return {"query_text": query.query_text}
    if query.media and path.parent.resolve() != root.resolve():
        raise DataError(
            f"the query {query.query_id!r} has media, which are addressed from the dataset's directory", file=path,
            expected=f"a file in {root}", hint="Write it there",
        )  # fmt: skip
    kinds = ("text", *KINDS)
    columns: dict[str, dict[int, Any]] = {}
    place, last = 0, -1
    for piece in query.pieces:
        kind = kinds.index(piece.kind if isinstance(piece, Media) else "text")
        # Within a place the kinds have this order; whatever goes against it begins the next place.
        place, last = (place, kind) if kind > last else (place + 1, kind)
        value = _media_value(piece, root) if isinstance(piece, Media) else piece
        columns.setdefault(f"query_{kinds[kind]}", {})[place] = value
    return {
        name: values[0] if [*values] == [0] else [values.get(at) for at in range(max(values) + 1)]
        for name, values in columns.items()
    }


def _media_value(media: Media, root: Path) -> str | dict[str, Any]:
    path = Path(media.path)
    name = path.relative_to(root).as_posix()
    whole = media.offset == 0 and media.length in (-1, path.stat().st_size)
    return name if whole else {"file": name, "offset": media.offset, "length": media.length}


def check_places(output: Path, report: Path | None, dataset: Dataset, split: str, overwrite: bool) -> None:
    """Refuse names that would hide or replace something."""
    if output.suffix != ".jsonl":
        raise DataError("not a name for queries", file=output, expected="a name that ends in .jsonl")
    inside = output.resolve().parent == dataset.path.resolve()
    taken = output.stem in ("corpus", split) or (output.stem in dataset.splits and not output.exists())
    if inside and taken:
        raise DataError(
            "the name is taken in this dataset", file=output, found=["corpus", *dataset.splits],
            hint=f"Choose another, such as {split}-mined.jsonl",
        )  # fmt: skip
    if report is not None and report.resolve().is_relative_to(dataset.path.resolve()):
        raise DataError(
            "a file in a dataset's directory is taken for a split", file=report,
            hint="Write the report to another directory",
        )  # fmt: skip
    if report is not None and report.resolve() == output.resolve():
        raise DataError("one file for the queries and the report", file=report, hint="Name another for the report")
    for path in (output, *([report] if report is not None else [])):
        if path.exists() and not overwrite:
            raise DataError("the file is there already", file=path, hint="Overwrite it (--overwrite) or name another")

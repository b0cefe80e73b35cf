"""The corpus and the queries of a dataset, by row and by id, from memory-mapped stores.

Opening costs the same for a thousand documents and for a hundred million. A store can be sent to another process: it
travels as its path. What builds and finds stores is :mod:`teva_data.building`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .building import CORPUS, QUERIES, ROWS_PER_BATCH, TABLE, Kind, ensure_store, read_manifest
from .errors import DataError
from .files import checksum
from .index import IdIndex
from .records import Document, Query
from .table import Table

Rows = Sequence[int] | NDArray[np.integer]


class Store:
    """What both stores share: length, fingerprint, ids to rows, addresses.

    Args:
        directory: the store.
        source: the file that it was made of, for addresses.
    """

    kind: Kind

    def __init__(self, directory: Path, source: Path) -> None:
        manifest = read_manifest(directory, self.kind)
        if manifest is None:
            raise DataError("not a whole store of this version", file=directory, hint="Remove the directory")
        self.directory, self.source = directory, source
        self.fingerprint: str = manifest["source"]["checksum"]
        """Checksum of the source's bytes."""
        self._count: int = manifest["rows"]
        self._files: dict[str, dict[str, Any]] = manifest["files"]
        self._table = Table(directory / TABLE, ROWS_PER_BATCH)
        self._id = self.kind.columns[0][0]
        self._index = IdIndex(directory, lambda rows: self._table.values(self._id, rows))

    @classmethod
    def open(cls, source: str | Path) -> Self:
        """The store of a JSONL file; built, with progress, where there is none or the file has changed.

        Raises:
            DataError: a row of the file is bad.
        """
        source = Path(source)
        return cls(ensure_store(source, cls.kind), source)

    def __len__(self) -> int:
        return self._count

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.directory, self.source)

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The row of each id, int64 [N]; -1 for an unknown id."""
        return self._index.rows(ids)

    def address(self, row: int) -> tuple[str, int]:
        """File and line of a row."""
        return str(self.source), self._values("line", [row])[0]

    def arrays(self, column: str) -> list[Any]:
        """The Arrow arrays of a column, one for each batch, on the mapped memory."""
        return self._table.arrays(column)

    def verify(self) -> None:
        """Compare the store's files with their checksums.

        Raises:
            DataError: a file is damaged; name it, so that the store can be removed and is built again.
        """
        for name, noted in self._files.items():
            if checksum(self.directory / name) != noted["checksum"]:
                raise DataError(
                    "the file is damaged: its checksum differs", file=self.directory / name,
                    hint=f"Remove {self.directory}; it is built again",
                )  # fmt: skip

    def _values(self, column: str, rows: Rows) -> list[Any]:
        return self._table.values(column, self._checked(rows))

    def _checked(self, rows: Rows) -> NDArray[np.int64]:
        # A negative row is an unknown id that nobody looked at, never the last row.
        numbers = np.asarray(rows, dtype=np.int64)
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= self._count):
            bad = numbers[(numbers < 0) | (numbers >= self._count)][0]
            raise IndexError(f"row {bad}; expected 0 to {self._count - 1} of {self.source}")
        return numbers

    def _slice(self, column: str, start: int, stop: int) -> list[Any]:
        if not 0 <= start <= stop <= self._count:
            raise IndexError(f"rows {start} to {stop}; expected a range within 0 to {self._count} of {self.source}")
        return self._table.slice(column, start, stop)


class CorpusStore(Store):
    """The documents of a corpus."""

    kind = CORPUS

    def get(self, rows: Rows) -> list[Document]:
        """The documents at rows [N], in their order. Raises IndexError for a row that is not there."""
        checked = self._checked(rows)
        columns = (self._table.values(name, checked) for name in ("docid", "document_text", "title"))
        return list(map(Document, *columns))

    def docids(self, start: int, stop: int) -> list[str]:
        """Ids of rows ``start`` to ``stop`` (not included)."""
        return self._slice("docid", start, stop)

    def documents(self, start: int, stop: int) -> list[Document]:
        """Rows ``start`` to ``stop`` (not included)."""
        columns = (self._slice(name, start, stop) for name in ("docid", "document_text", "title"))
        return list(map(Document, *columns))


class QueryStore(Store):
    """The queries of a split."""

    kind = QUERIES

    def __getitem__(self, row: int) -> Query:
        return self.get([row])[0]

    def __iter__(self) -> Iterator[Query]:
        for start in range(0, len(self), ROWS_PER_BATCH):
            yield from self.queries(start, min(start + ROWS_PER_BATCH, len(self)))

    def get(self, rows: Rows) -> list[Query]:
        """The queries at rows [N], in their order. Raises IndexError for a row that is not there."""
        checked = self._checked(rows)
        return _queries([self._table.values(name, checked) for name, _ in QUERIES.columns])

    def queries(self, start: int, stop: int) -> list[Query]:
        """Rows ``start`` to ``stop`` (not included)."""
        return _queries([self._slice(name, start, stop) for name, _ in QUERIES.columns])

    def query_ids(self, start: int, stop: int) -> list[str]:
        """Ids of rows ``start`` to ``stop`` (not included)."""
        return self._slice("query_id", start, stop)


def _queries(columns: list[list[Any]]) -> list[Query]:
    return [
        Query(
            query_id,
            text,
            tuple(positives),
            tuple(negatives),
            None if positive_scores is None else tuple(positive_scores),
            None if negative_scores is None else tuple(negative_scores),
            prompt,
        )
        for query_id, text, positives, negatives, positive_scores, negative_scores, prompt in zip(*columns, strict=True)
    ]

"""The corpus and the queries of a dataset, by row and by id, from memory-mapped stores.

Opening costs the same for a thousand documents and for a hundred million. A store can be sent to another process: it
travels as its path. What builds and finds stores is :mod:`teva_data.building`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .building import (
    CORPUS,
    PLACES,
    QUERIES,
    TABLE,
    Kind,
    ensure_store,
    open_files,
    open_index,
    read_manifest,
    row_address,
)
from .checked import SUFFIX
from .errors import DataError
from .files import checksum
from .pieces import load
from .records import Document, Query
from .sources import Source
from .table import NAMES, Table

BLOCK_ROWS = 4096
"""Rows that are read at once by what goes through a whole store."""

Rows = Sequence[int] | NDArray[np.integer]


class Store:
    """What both stores share: length, fingerprint, ids to rows, addresses.

    Args:
        directory: the store.
        source: what it was made of, for addresses and media.
        fingerprint: of the store that is meant, where the directory may hold a newer one by now.

    Attributes:
        fingerprint: checksum of the source's bytes.
        kinds: how many rows hold ``text``, ``image``, ``video``, ``audio``.
    """

    kind: Kind

    def __init__(self, directory: Path, source: Source, fingerprint: str | None = None) -> None:
        manifest = read_manifest(directory, self.kind)
        if manifest is None:
            raise DataError("not a whole store of this version", file=directory, hint="Remove the directory")
        if fingerprint not in (None, manifest["source"]["checksum"]):
            # Rows of the old store are other rows in the new one.
            raise DataError(
                "the source changed, and its store was built again, while another process has the old one open",
                file=source.path, hint="Start again with the data as it is now",
            )  # fmt: skip
        self.directory, self.source = directory, source.path
        self.fingerprint: str = manifest["source"]["checksum"]
        self.kinds: dict[str, int] = manifest["kinds"]
        self._plain = not manifest["in_pieces"]
        self._source, self._root = source, str(source.root)
        self._count: int = manifest["rows"]
        self._noted: dict[str, dict[str, Any]] = manifest["files"]
        self._rows_of = [note["rows"] for note in manifest["source"]["files"]]
        self._files = open_files(directory)
        self._table = Table(self._files[TABLE], self._files[PLACES], self.kind.columns)
        self._index = open_index(self._table, self._files, self.kind)

    @classmethod
    def open(cls, source: str | Path | Source) -> Self:
        """The store of a JSONL or Parquet file, or of a directory of them; built, with progress, where there is none
        or a file has changed.

        Raises:
            DataError: a row is bad.
        """
        source = source if isinstance(source, Source) else Source.of(Path(source).absolute())
        return cls(ensure_store(source, cls.kind), source)

    def __len__(self) -> int:
        return self._count

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.directory, self._source, self.fingerprint)

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The row of each id, int64 [N]; -1 for an unknown id."""
        return self._index.rows(ids)

    def address(self, row: int) -> tuple[str, int]:
        """File and line of a row; of a Parquet file the row's number in it."""
        self._checked([row])
        files = list(zip(map(str, self._source.files), self._rows_of, strict=True))
        return row_address(self._table, row, files)

    def arrays(self, column: str) -> list[Any]:
        """The Arrow arrays of a column, one for each batch, on the mapped memory; their checksums are not looked at."""
        return self._table.arrays(column)

    def verify(self) -> None:
        """Read all of the store and compare it with its checksums.

        Raises:
            DataError: a file is damaged; named, so that the store can be removed and is built again.
        """
        for name, file in self._files.items():
            if checksum(self.directory / (name + SUFFIX)) != self._noted[name + SUFFIX]["checksum"]:
                raise DataError(
                    "the file is damaged: its checksum differs", file=self.directory / (name + SUFFIX),
                    hint=f"Remove {self.directory}; it is built again",
                )  # fmt: skip
            file.check_all()

    def _checked(self, rows: Rows) -> NDArray[np.int64]:
        # A negative row is an unknown id that nobody looked at, never the last row.
        numbers = np.asarray(rows, dtype=np.int64)
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= self._count):
            bad = numbers[(numbers < 0) | (numbers >= self._count)][0]
            raise IndexError(f"row {bad}; expected 0 to {self._count - 1} of {self.source}")
        return numbers

    def _slice(self, column: str, start: int, stop: int) -> list[Any]:
        self._check_range(start, stop)
        return self._table.slice(column, start, stop)

    def _check_range(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self._count:
            raise IndexError(f"rows {start} to {stop}; expected a range within 0 to {self._count} of {self.source}")


class CorpusStore(Store):
    """The documents of a corpus."""

    kind = CORPUS

    def get(self, rows: Rows) -> list[Document]:
        """The documents at rows [N], in their order. Raises IndexError for a row that is not there."""
        return self._documents(self._checked(rows))

    def lookup(self, ids: Sequence[str]) -> list[Document]:
        """The documents with these ids [N], in their order: what ``get(rows(ids))`` gives, in one pass.

        Raises:
            DataError: there is no such document.
        """
        rows = self.rows(ids)
        if (rows < 0).any():
            raise DataError(
                "unknown document", file=self.source, field="docid", found=ids[int(np.flatnonzero(rows < 0)[0])],
                expected=f"one of its {len(self)} documents",
            )  # fmt: skip
        return self._documents(rows, ids)

    def docids(self, start: int, stop: int) -> list[str]:
        """Ids of rows ``start`` to ``stop`` (not included)."""
        return self._slice("docid", start, stop)

    def documents(self, start: int, stop: int) -> list[Document]:
        """Rows ``start`` to ``stop`` (not included)."""
        self._check_range(start, stop)
        return self._documents(np.arange(start, stop, dtype=np.int64))

    def __iter__(self) -> Iterator[Document]:
        for start in range(0, len(self), BLOCK_ROWS):
            yield from self.documents(start, min(start + BLOCK_ROWS, len(self)))

    def _documents(self, rows: NDArray[np.int64], ids: Sequence[str] | None = None) -> list[Document]:
        ids = self._table.values("docid", rows) if ids is None else ids
        if self._plain:
            texts, titles = self._table.columns(("document_text", "title"), rows)
            fields: Iterator[tuple[Any, ...]] = zip(ids, texts, titles, itertools.repeat(()), strict=False)
        else:
            texts, titles, stored = self._table.columns(("document_text", "title", "pieces"), rows)
            pieces = [load(text, each, self._root) for text, each in zip(texts, stored, strict=True)]
            fields = zip(ids, texts, titles, pieces, strict=True)
        new = tuple.__new__  # what Document(...) comes to, without a frame of Python for each
        return [new(Document, each) for each in fields]


class QueryStore(Store):
    """The queries of a split."""

    kind = QUERIES

    def __getitem__(self, row: int) -> Query:
        return self.get([row])[0]

    def __iter__(self) -> Iterator[Query]:
        for start in range(0, len(self), BLOCK_ROWS):
            yield from self.queries(start, min(start + BLOCK_ROWS, len(self)))

    def get(self, rows: Rows) -> list[Query]:
        """The queries at rows [N], in their order. Raises IndexError for a row that is not there."""
        return self._queries(self._checked(rows))

    def queries(self, start: int, stop: int) -> list[Query]:
        """Rows ``start`` to ``stop`` (not included)."""
        self._check_range(start, stop)
        return self._queries(np.arange(start, stop, dtype=np.int64))

    def query_ids(self, start: int, stop: int) -> list[str]:
        """Ids of rows ``start`` to ``stop`` (not included)."""
        return self._slice("query_id", start, stop)

    def _queries(self, rows: NDArray[np.int64]) -> list[Query]:
        columns = self._table.columns([name for name, _ in QUERIES.columns if name not in ("line", NAMES)], rows)
        return [
            Query(
                query_id,
                text,
                tuple(positives),
                tuple(negatives),
                None if positive_scores is None else tuple(positive_scores),
                None if negative_scores is None else tuple(negative_scores),
                prompt,
                load(text, pieces, self._root),
            )
            for query_id, text, positives, negatives, positive_scores, negative_scores, prompt, pieces in zip(
                *columns, strict=True
            )
        ]

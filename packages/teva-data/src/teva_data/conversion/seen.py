"""Memories of what a conversion has seen, on disk: ids, texts and judgements, whatever their number.

Each is one SQLite file in the conversion's own directory, keyed by 128-bit hashes, with a bounded cache before it. A
file is private to one conversion and goes with it, so it needs neither journal nor flush.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import xxhash

from teva_data.errors import DataError
from teva_data.records import Row

CACHE_ENTRIES = 100_000
_CACHE_KIB = 65_536
_serial = itertools.count()


def digest(*texts: str) -> bytes:
    """XXH3-128 of texts, each told apart from the next by its length; 16 bytes."""
    if len(texts) == 1:
        return xxhash.xxh3_128_digest(texts[0].encode("utf-8", "surrogatepass"))  # type: ignore[no-any-return]
    value = xxhash.xxh3_128()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        value.update(len(encoded).to_bytes(8, "little"))
        value.update(encoded)
    return value.digest()  # type: ignore[no-any-return]


class Memory:
    """A private SQLite file; :meth:`close` removes it."""

    tables = ""

    def __init__(self, directory: Path) -> None:
        self._path = directory / f"seen-{next(_serial)}.sqlite"
        self._base = sqlite3.connect(self._path, isolation_level=None)
        for setting in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", f"cache_size=-{_CACHE_KIB}"):
            self._base.execute(f"PRAGMA {setting}")
        self._base.executescript(self.tables)
        self._base.execute("BEGIN")

    def close(self) -> None:
        """Remove the file."""
        self._base.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _one(self, query: str, *values: object) -> Any:
        return self._base.execute(query, values).fetchone()

    def _do(self, query: str, *values: object) -> None:
        self._base.execute(query, values)


class Place(NamedTuple):
    """Where something was first seen."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class SeenIds(Memory):
    """The ids of a table, each allowed once."""

    tables = """
        CREATE TABLE files (number INTEGER PRIMARY KEY, name TEXT UNIQUE);
        CREATE TABLE ids (key BLOB PRIMARY KEY, file INTEGER, line INTEGER) WITHOUT ROWID;
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.count = 0
        self._numbers: dict[Path, int] = {}

    def add(self, identifier: str, row: Row, field: str) -> None:
        """Note an id and where it stands.

        Raises:
            DataError: it is there already; both places are named.
        """
        number = self._numbers.get(row.file)
        if number is None:
            number = self._numbers[row.file] = len(self._numbers)
            self._do("INSERT INTO files VALUES (?, ?)", number, str(row.file))
        key = digest(identifier)
        try:
            self._do("INSERT INTO ids VALUES (?, ?, ?)", key, number, row.line)
        except sqlite3.IntegrityError:
            file, line = self._one("SELECT name, line FROM ids JOIN files ON file = number WHERE key = ?", key)
            first = f"line {line}" if file == str(row.file) else Place(file, line)
            raise row.error(
                f"duplicate id, first on {first}", field, identifier, "each id once",
                "Remove one of the two lines or rename its id",
            ) from None  # fmt: skip
        self.count += 1

    def __contains__(self, identifier: object) -> bool:
        return self._one("SELECT 1 FROM ids WHERE key = ?", digest(str(identifier))) is not None


class SeenTexts(Memory):
    """Documents of which the same may come many times, by id and by content; what is equal becomes one.

    Attributes:
        merged: how many ids were given up for another id with the same content.
    """

    tables = """
        CREATE TABLE files (number INTEGER PRIMARY KEY, name TEXT UNIQUE);
        CREATE TABLE ids (key BLOB PRIMARY KEY, content BLOB, file INTEGER, line INTEGER, docid TEXT) WITHOUT ROWID;
        CREATE TABLE contents (key BLOB PRIMARY KEY, docid TEXT) WITHOUT ROWID;
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.count = self.merged = 0
        self._numbers: dict[Path, int] = {}
        self._ids: dict[str, tuple[bytes, str]] = {}
        self._contents: dict[bytes, None] = {}

    def named(self, docid: str, title: str, text: str, row: Row, field: str) -> tuple[str, bool]:
        """Take a document that has an id.

        Returns:
            The id under which its content is kept, and whether this is the first time that the content is seen.

        Raises:
            DataError: the id was seen with another content; both places are named.
        """
        content = digest(title, text)
        known, key = self._ids.get(docid), b""
        if known is None:
            key = digest(docid)
            known = self._known(docid, key)
        if known is None:
            first = self._one("SELECT docid FROM contents WHERE key = ?", content)
            kept = docid if first is None else first[0]
            self._note(docid, key, content, kept, row)
            self.merged += first is not None
            return kept, first is None
        if known[0] != content:
            raise self._conflict(docid, row, field, text)
        return known[1], False

    def unnamed(self, title: str, text: str) -> tuple[str, bool]:
        """Take a document without an id: its id is made of its content.

        Returns:
            The id, and whether this is the first time that the content is seen.
        """
        content = digest(title, text)
        docid = f"d-{content.hex()}"
        if content in self._contents:
            return docid, False
        new = self._one("SELECT 1 FROM contents WHERE key = ?", content) is None
        if new:
            self._do("INSERT INTO contents VALUES (?, ?)", content, "")
            self.count += 1
        _remember(self._contents, content, None)
        return docid, new

    def _known(self, docid: str, key: bytes) -> tuple[bytes, str] | None:
        found = self._one("SELECT content, docid FROM ids WHERE key = ?", key)
        if found is None:
            return None
        known = (found[0], found[1] or docid)
        _remember(self._ids, docid, known)
        return known

    def _note(self, docid: str, key: bytes, content: bytes, kept: str, row: Row) -> None:
        number = self._numbers.get(row.file)
        if number is None:
            number = self._numbers[row.file] = len(self._numbers)
            self._do("INSERT INTO files VALUES (?, ?)", number, str(row.file))
        other = None if kept == docid else kept
        self._do("INSERT INTO ids VALUES (?, ?, ?, ?, ?)", key, content, number, row.line, other)
        if other is None:
            self._do("INSERT INTO contents VALUES (?, ?)", content, docid)
            self.count += 1
        _remember(self._ids, docid, (content, kept))

    def _conflict(self, docid: str, row: Row, field: str, text: str) -> DataError:
        file, line = self._one("SELECT name, line FROM ids JOIN files ON file = number WHERE key = ?", digest(docid))
        return row.error(
            f"two different texts under the id {docid!r}, the first at {Place(file, line)}", field, text,
            "one text for each id", "Give one of the two another id",
        )  # fmt: skip


class Judged(Memory):
    """The judgements of a split, grouped by query on disk."""

    tables = """
        CREATE TABLE judged (number INTEGER PRIMARY KEY, query BLOB, docid TEXT, score INTEGER, line INTEGER);
        CREATE TABLE queries (key BLOB PRIMARY KEY, query TEXT, file TEXT, line INTEGER, asked INTEGER) WITHOUT ROWID;
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.count = self.queries = 0
        self._last = ""
        self._ready = False

    def add(self, query_id: str, docid: str, score: int, row: Row) -> None:
        """Note a judgement; all are noted before the first is asked for."""
        key = digest(query_id)
        self._do("INSERT INTO judged VALUES (?, ?, ?, ?, ?)", self.count, key, docid, score, row.line)
        self.count += 1
        if query_id != self._last:
            self._last = query_id
            done = self._base.execute(
                "INSERT OR IGNORE INTO queries VALUES (?, ?, ?, ?, 0)", (key, query_id, str(row.file), row.line)
            )
            self.queries += done.rowcount

    def of(self, query_id: str) -> list[tuple[str, int]]:
        """Documents and grades of a query, in the order in which they were noted; empty where it has none.

        Raises:
            DataError: a document was judged twice.
        """
        if not self._ready:
            self._do("CREATE INDEX by_query ON judged (query)")
            self._ready = True
        key = digest(query_id)
        found = self._base.execute("SELECT docid, score, line FROM judged WHERE query = ? ORDER BY number", (key,))
        judged: dict[str, int] = {}
        for docid, score, line in found:
            if docid in judged:
                file = self._one("SELECT file FROM queries WHERE key = ?", key)[0]
                raise DataError(
                    f"document twice for query {query_id!r}", file=file, line=line, field="docid", found=docid,
                    expected="each document once",
                )  # fmt: skip
            judged[docid] = score
        if judged:
            self._do("UPDATE queries SET asked = 1 WHERE key = ?", key)
        return list(judged.items())

    def never_asked(self) -> tuple[str, Place] | None:
        """A query that has judgements and was never asked for, the first in the file; None where there is none."""
        found = self._one("SELECT query, file, line FROM queries WHERE asked = 0 ORDER BY file, line LIMIT 1")
        return None if found is None else (found[0], Place(found[1], found[2]))

    def all(self) -> Iterator[tuple[str, str, int]]:
        """Query, document and grade of each judgement whose query was asked for, in the order of noting."""
        yield from self._base.execute(
            "SELECT q.query, j.docid, j.score FROM judged j JOIN queries q ON q.key = j.query "
            "WHERE q.asked = 1 ORDER BY j.number"
        )


def _remember(cache: dict[Any, Any], key: Any, value: Any) -> None:
    if len(cache) >= CACHE_ENTRIES:
        cache.clear()  # what still comes often is soon back; to drop one entry at a time would cost more
    cache[key] = value

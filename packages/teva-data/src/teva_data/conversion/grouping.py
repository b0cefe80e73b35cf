"""Queries that are known by their text: rows with equal texts become one query, with the answers of all of them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from teva_data.writing import DatasetWriter

from .seen import Memory, SeenTexts, digest
from .tables import TRAIN

logger = logging.getLogger(__name__)


class Group(NamedTuple):
    """One query.

    Attributes:
        query_id: made of the text (and the prompt).
        text: the query's.
        prompt: its own, or None.
        held_out: whether it belongs to the test.
        positives: docid to score (None where it has none), each once, in the order in which they came.
        negatives: the same, without those that are positives too.
    """

    query_id: str
    text: str
    prompt: str | None
    held_out: bool
    positives: dict[str, float | None]
    negatives: dict[str, float | None]


class Groups(Memory):
    """Queries by text, with their answers, on disk.

    Attributes:
        queries: how many.
        clashes: negatives left out since they are positives of the same query; counted by iterating.
    """

    tables = """
        CREATE TABLE queries (number INTEGER PRIMARY KEY, key BLOB UNIQUE, text TEXT, prompt TEXT, held INTEGER);
        CREATE TABLE answers (number INTEGER PRIMARY KEY, query INTEGER, docid TEXT, positive INTEGER, score REAL);
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.queries = self.held_out = self.clashes = 0
        self._last: tuple[tuple[str, str | None], int] | None = None

    def query(self, text: str, prompt: str | None = None, *, held_out: bool = False) -> int:
        """Take a query; returns its number, the same for the same text and prompt."""
        if self._last is not None and self._last[0] == (text, prompt):
            return self._last[1]
        key = digest(text) if prompt is None else digest(text, prompt)
        found = self._one("SELECT number FROM queries WHERE key = ?", key)
        if found is None:
            number = self.queries
            self._do("INSERT INTO queries VALUES (?, ?, ?, ?, ?)", number, key, text, prompt, held_out)
            self.queries += 1
            self.held_out += held_out
        else:
            number = found[0]
        self._last = (text, prompt), number
        return number

    def answer(self, query: int, docid: str, *, positive: bool, score: float | None = None) -> None:
        """Take an answer, or what is none, of a query."""
        self._do(
            "INSERT INTO answers (query, docid, positive, score) VALUES (?, ?, ?, ?)", query, docid, positive, score
        )

    def __iter__(self) -> Iterator[Group]:
        """The queries in the order in which they came first."""
        self._do("CREATE INDEX IF NOT EXISTS by_query ON answers (query)")
        self.clashes = 0
        rows = self._base.execute(
            "SELECT q.number, q.key, q.text, q.prompt, q.held, a.docid, a.positive, a.score FROM queries q "
            "LEFT JOIN answers a ON a.query = q.number ORDER BY q.number, a.number"
        )
        for _, group in itertools.groupby(rows, key=lambda row: row[0]):
            lists: tuple[dict[str, float | None], dict[str, float | None]] = {}, {}
            for row in group:
                if row[5] is not None:
                    lists[0 if row[6] else 1].setdefault(row[5], row[7])
            both = lists[1].keys() & lists[0].keys()
            self.clashes += len(both)
            negatives = {docid: score for docid, score in lists[1].items() if docid not in both}
            yield Group(f"q-{row[1].hex()}", row[2], row[3], bool(row[4]), lists[0], negatives)

    def shared_answers(self) -> int:
        """How many documents are positives of held out queries and of others too."""
        return int(
            self._one(
                "SELECT count(*) FROM (SELECT 1 FROM answers a JOIN queries q ON q.number = a.query WHERE a.positive "
                "GROUP BY a.docid HAVING min(q.held) <> max(q.held))"
            )[0]
        )


class GroupedTexts:
    """Queries and documents that are known by their texts alone, on their way into a dataset; a context manager.

    Args:
        name: of the source, for the log.
        writer: takes documents as they come, and a split's queries by :meth:`write`.
    """

    def __init__(self, name: str, writer: DatasetWriter) -> None:
        self._name, self._writer = name, writer
        self._seen, self._groups = SeenTexts(writer.work), Groups(writer.work)
        self._answers = 0

    def __enter__(self) -> GroupedTexts:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the memories."""
        self._seen.close()
        self._groups.close()

    def query(self, text: str, prompt: str | None = None) -> int:
        """Take a query; returns its number."""
        return self._groups.query(text, prompt)

    def answer(self, query: int, text: str, *, positive: bool, score: float | None = None) -> None:
        """Take a text that answers a query, or does not."""
        docid, new = self._seen.unnamed("", text)
        if new:
            self._writer.document(docid, text)
        self._answers += 1
        self._groups.answer(query, docid, positive=positive, score=score)

    def write(self, split: str) -> None:
        """Write the queries taken since the last call as a split; but of ``train``, positives are judgements too."""
        for group in self._groups:
            write_group(self._writer, split, group)
            if split != TRAIN:
                for docid in group.positives:
                    self._writer.judgement(split, group.query_id, docid, 1)
        logger.info(
            "%s, %s: %d texts of %d queries; %d documents so far; left out: %d negatives that are positives of the "
            "same query", self._name, split, self._answers, self._groups.queries, self._writer.documents,
            self._groups.clashes,
        )  # fmt: skip
        self._groups.close()
        self._groups, self._answers = Groups(self._writer.work), 0


def write_group(writer: DatasetWriter, split: str, group: Group) -> None:
    """Write a query; scores where every document of a list has one."""
    writer.query(
        split, group.query_id, group.text, list(group.positives), list(group.negatives),
        positive_scores=_scores(group.positives), negative_scores=_scores(group.negatives), prompt=group.prompt,
    )  # fmt: skip


def _scores(documents: dict[str, float | None]) -> list[float] | None:
    values = [value for value in documents.values() if value is not None]
    return values if documents and len(values) == len(documents) else None

"""Tevatron's first layout: one table of queries, each with its passages inside, so that passages stand many times."""

from __future__ import annotations

import logging
from typing import Any

from teva_data.conversion import Options, cells
from teva_data.conversion.joining import parts
from teva_data.conversion.seen import SeenIds, SeenTexts
from teva_data.conversion.tables import TRAIN, Tables
from teva_data.records import Row, parse_score
from teva_data.writing import DatasetWriter

logger = logging.getLogger(__name__)

POSITIVES, NEGATIVES = "positive_passages", "negative_passages"
QUERY_ID, QUERY = ("query_id", "_id", "id"), ("query", "query_text")
DOCID, TEXT, TITLE, SCORE = ("docid", "_id", "id"), "text", "title", "score"


def recognise(tables: Tables) -> str | None:
    """Queries with ``positive_passages``."""
    return f"queries with {POSITIVES!r}" if POSITIVES in tables.columns(tables.names()[0]) else None


def convert(tables: Tables, writer: DatasetWriter, options: Options) -> None:
    """Write queries with passages inside as a corpus and queries that name its documents.

    Passages of one content (title and text) become one document under the first of their ids. A document is named once
    in a list, and a positive of a query is not its negative. Scores of passages are kept where all of a list have one.
    The positives of splits other than ``train`` become judgements too.

    Raises:
        DataError: a row is bad, a query id stands twice, or an id has two different texts; both places are named.
    """
    conversion = _Conversion(tables, writer, options)
    for split, (name, part) in parts(tables, options).items():
        with SeenIds(writer.work) as queries:
            for row in tables.rows(name, part):
                queries.add(conversion.query(row, split), row, cells.field_of(row, QUERY_ID) or QUERY_ID[0])
    conversion.report()


class _Conversion:
    def __init__(self, tables: Tables, writer: DatasetWriter, options: Options) -> None:
        self._name, self._writer = tables.name, writer
        self._seen = SeenTexts(writer.work)
        self._query = (options.query_field,) if options.query_field else QUERY
        self._text = options.document_field or TEXT
        self.passages = self.clashes = self.repeated = 0

    def query(self, row: Row, split: str) -> str:
        """Write one query and what is new of its passages; returns its id."""
        query_id, text = cells.identifier(row, QUERY_ID), cells.text(row, self._query, needed=True)
        positives, negatives = self._documents(row, POSITIVES), self._documents(row, NEGATIVES)
        for docid in positives.keys() & negatives.keys():
            self.clashes += 1
            del negatives[docid]
        self._writer.query(
            split, query_id, text, list(positives), list(negatives),
            positive_scores=_scores(positives), negative_scores=_scores(negatives),
        )  # fmt: skip
        if split != TRAIN:
            for docid in positives:
                self._writer.judgement(split, query_id, docid, 1)
        return query_id

    def report(self) -> None:
        """Log what was made one, and what was left out."""
        logger.info(
            "%s: %d passages are %d documents; %d ids were given up for another id of the same content; left out: %d "
            "that stood twice in one list, %d negatives that are positives of the same query",
            self._name, self.passages, self._seen.count, self._seen.merged, self.repeated, self.clashes,
        )  # fmt: skip

    def _documents(self, row: Row, field: str) -> dict[str, float | None]:
        documents: dict[str, float | None] = {}
        for at, passage in enumerate(_passages(row, field)):
            place = f"{field}[{at}]"
            if not isinstance(passage, dict):
                raise row.error("not a passage", place, passage, "an object with docid, title and text")
            docid = self._document(row, place, passage)
            score = passage.get(SCORE)
            self.passages += 1
            self.repeated += docid in documents
            documents.setdefault(docid, None if score is None else parse_score(row, f"{place}.{SCORE}", score))
        return documents

    def _document(self, row: Row, place: str, passage: dict[str, Any]) -> str:
        title, text = passage.get(TITLE) or "", passage.get(self._text)
        for field, value in ((TITLE, title), (self._text, text)):
            if not isinstance(value, str):
                found = "null" if value is None else value
                raise row.error("not a text", f"{place}.{field}", found, "a string")
        assert isinstance(text, str)
        if not (text.strip() or title.strip()):
            raise row.error("empty passage", place, passage, "a title or a text", "Give it one or remove it")
        named = next((name for name in DOCID if passage.get(name) is not None), None)
        if named is None:
            docid, new = self._seen.unnamed(title, text)
        else:
            docid = cells.as_identifier(row, f"{place}.{named}", passage[named])
            docid, new = self._seen.named(docid, title, text, row, place)
        if new:
            cells.unicode(row, f"{place}.{self._text}", text)
            cells.unicode(row, f"{place}.{TITLE}", title)
            self._writer.document(docid, text, title)
        return docid


def _passages(row: Row, field: str) -> list[Any]:
    value = row.record.get(field)
    if value is None:
        return []
    if isinstance(value, dict) and all(isinstance(column, list) for column in value.values()):
        # Older files of the hub hold the columns of the passages, each a list.
        if len({len(column) for column in value.values()}) > 1:
            raise row.error("columns of unequal length", field, value, "as many docids as texts")
        return [dict(zip(value, item, strict=True)) for item in zip(*value.values(), strict=True)]
    if not isinstance(value, list):
        raise row.error("not a list of passages", field, value, "a list of objects with docid, title and text")
    return value


def _scores(documents: dict[str, float | None]) -> list[float] | None:
    values = [value for value in documents.values() if value is not None]
    return values if documents and len(values) == len(documents) else None

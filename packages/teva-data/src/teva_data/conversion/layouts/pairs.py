"""The layout of question-passage pairs: one table with a question and a passage that answers it in each row."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import xxhash

from teva_data.conversion import Options, cells
from teva_data.conversion.grouping import Groups, write_group
from teva_data.conversion.seen import SeenTexts
from teva_data.conversion.tables import TRAIN, Tables
from teva_data.errors import DataError, nearest
from teva_data.records import Row
from teva_data.writing import DatasetWriter

logger = logging.getLogger(__name__)

QUESTION = ("question", "query", "anchor")
PASSAGE = ("passage", "answer", "positive", "document", "text", "context")
# Columns that say how well a pair fits: to leave them out would make positives of pairs that are none.
GRADES = ("label", "score", "relevance")
# Columns of other layouts: a table that has one is no table of pairs.
OTHERS = ("positive_passages", "positive_document_ids", "pos", "image", "video", "audio", "docid", "_id")
HELD_OUT_SEED = 0x7E7A
TEST = "test"


@dataclass(frozen=True)
class Columns:
    """Which column is what.

    Attributes:
        question: the column of the question.
        passage: the column of the passage.
        title: the column of the passage's title, or None.
    """

    question: str
    passage: str
    title: str | None


def recognise(tables: Tables) -> str | None:
    """One table without the marks of another layout."""
    names = tables.names()
    if len(names) != 1 or len(tables.splits(names[0])) != 1:
        return None
    row = tables.first(names[0])
    names = [str(name).strip().lower() for name in row.record]
    if len(names) > 2 and any(isinstance(value, list) for value in row.record.values()):
        return None
    if not {*OTHERS}.isdisjoint(names) or any(name.startswith(("negative", "sentence")) for name in names):
        return None
    if "anchor" in names and ("positive" not in names or not {*GRADES, "scores"}.isdisjoint(names)):
        return None
    return "one table, taken for a question and a passage in each row"


def convert(tables: Tables, writer: DatasetWriter, options: Options) -> None:
    """Write a table of pairs.

    Equal passages (with equal titles) become one document, equal questions one query with several positives. Ids are
    hashes of the texts. Which questions are held out depends on their texts and on ``held_out`` alone: a question stays
    on its side when data is added. A passage may thus answer a held out question and a training question too; the log
    says how many do.

    Raises:
        DataError: a column is not found, or a row is bad.
    """
    names = tables.names()
    if len(names) != 1:
        raise DataError("not one table", file=tables.path or tables.name, found=names, expected="one file of pairs")
    columns: Columns | None = None
    with SeenTexts(writer.work) as seen, Groups(writer.work) as groups:
        for row in tables.rows(names[0]):
            columns = columns or _find_columns(row, options)
            question, passage = _text(row, columns.question), _text(row, columns.passage)
            title = "" if columns.title is None else cells.text(row, (columns.title,))
            docid, new = seen.unnamed(title, passage)
            if new:
                writer.document(docid, passage, title)
            query = groups.query(question, held_out=_share(question) < options.held_out)
            groups.answer(query, docid, positive=True)
        _write_splits(tables, writer, groups, options.held_out)


def _write_splits(tables: Tables, writer: DatasetWriter, groups: Groups, held_out: float) -> None:
    place = tables.path or tables.name
    logger.info(
        "%s: %d documents, %d queries to train on, %d held out",
        tables.name, writer.documents, groups.queries - groups.held_out, groups.held_out,
    )  # fmt: skip
    if groups.held_out == groups.queries:
        raise DataError("all questions are held out", file=place, hint="Give more pairs or a smaller held_out")
    for group in groups:
        write_group(writer, TEST if group.held_out else TRAIN, group)
        if group.held_out:
            for docid in group.positives:
                writer.judgement(TEST, group.query_id, docid, 1)
    if held_out and not groups.held_out:
        logger.warning("%s: too few questions for a share of %s: no split 'test'", place, held_out)
    elif groups.held_out:
        logger.info(
            "%s: %d documents answer both a held out question and a training question", place, groups.shared_answers()
        )


def _share(question: str) -> float:
    """A number in [0, 1) that depends on the question's text alone."""
    return float(xxhash.xxh3_64_intdigest(question.encode(), seed=HELD_OUT_SEED) / 2**64)


def _find_columns(row: Row, options: Options) -> Columns:
    """The columns by name, whatever their case.

    Raises:
        DataError: none or several fit, or a column grades the pairs.
    """
    names = {str(name).strip().lower(): str(name) for name in row.record}
    question = _column(row, names, QUESTION, options.query_field, "query_field")
    rest = {lower: name for lower, name in names.items() if name != question}
    passage = _column(row, rest, PASSAGE, options.document_field, "document_field")
    if grade := next((names[name] for name in GRADES if name in names), None):
        raise DataError(
            "the column grades the pairs, and this layout takes every pair as a positive one", file=row.file,
            field=grade, hint="Remove the pairs that do not fit, and the column",
        )  # fmt: skip
    columns = Columns(question, passage, names.get("title"))
    unread = sorted(set(row.record) - {columns.question, columns.passage, columns.title})
    title = "no title" if columns.title is None else f"title in {columns.title!r}"
    logger.info("%s: question in %r, passage in %r, %s", row.file, question, passage, title)
    if unread:
        logger.warning("%s: columns that are not read: %s", row.file, ", ".join(unread))
    return columns


def _column(row: Row, names: Mapping[str, str], known: tuple[str, ...], wanted: str | None, option: str) -> str:
    flag = f"--{option.replace('_', '-')}"
    if wanted is not None:
        if wanted.lower() not in names:
            raise DataError(
                f"no column {wanted!r}, which {flag} names", file=row.file, found=list(row.record),
                hint=nearest(wanted, map(str, row.record)),
            )  # fmt: skip
        known = (wanted.lower(),)
    fitting = [names[name] for name in known if name in names]
    if len(fitting) == 1:
        return fitting[0]
    raise DataError(
        f"several columns may be the {known[0]}" if fitting else f"no column {known[0]!r}", file=row.file,
        found=list(row.record), expected=f"one of {', '.join(known)}",
        hint=f"Name yours: `teva-data convert SOURCE DESTINATION {flag} COLUMN` (in Python {option})",
    )  # fmt: skip


def _text(row: Row, field: str) -> str:
    value = row.record.get(field)
    if not isinstance(value, str) or not value.strip():
        raise row.error(
            "no text", field, "null" if value is None else value, "a string that is not empty",
            "Give it a text or remove the row",
        )  # fmt: skip
    return cells.unicode(row, field, value)

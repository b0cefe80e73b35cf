"""The layout of question-passage pairs: one table, CSV, TSV or JSONL, with a question and a passage that answers it."""

from __future__ import annotations

import csv
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import xxhash

from .conversion import Options, write_card, write_corpus, write_queries
from .errors import DataError
from .reader import read_lines, read_rows
from .records import Document, Query, Row
from .runs import write_qrels

logger = logging.getLogger(__name__)

QUESTION = ("question", "query", "anchor")
PASSAGE = ("passage", "answer", "positive", "document", "text", "context")
# Columns that say how well a pair fits: to leave them out would make positives of pairs that are none.
GRADES = ("label", "score", "relevance")
HELD_OUT_SEED = 0x7E7A


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


def convert(source: Path, target: Path, options: Options) -> None:
    """Fill ``target`` from a file of pairs.

    Equal passages (with equal titles) become one document, equal questions one query with several positives. Ids are
    hashes of the texts. Which questions are held out depends on their texts and on ``held_out`` alone.

    Raises:
        DataError: a column is not found, or a row is bad.
    """
    positives: dict[str, dict[str, None]] = {}
    documents = write_corpus(target, _documents(source, options, positives))
    held_out = {text for text in positives if _share(text) < options.held_out}
    splits = {
        "train": [_query(text, docids) for text, docids in positives.items() if text not in held_out],
        "test": [_query(text, docids) for text, docids in positives.items() if text in held_out],
    }
    logger.info(
        "%s: %d documents, %d queries to train on, %d held out",
        source.name, documents, len(splits["train"]), len(splits["test"]),
    )  # fmt: skip
    _write_splits(source, target, splits, options.held_out)
    write_card(target, name=source.name.split(".")[0])


def _write_splits(source: Path, target: Path, splits: dict[str, list[Query]], held_out: float) -> None:
    if not splits["train"]:
        raise DataError("all questions are held out", file=source, hint="Give more pairs or a smaller held_out")
    write_queries(target / "train.jsonl", splits["train"])
    if splits["test"]:
        write_queries(target / "test.jsonl", splits["test"])
        (target / "qrels").mkdir()
        write_qrels(
            target / "qrels" / "test.tsv",
            {query.query_id: dict.fromkeys(query.positive_document_ids, 1) for query in splits["test"]},
        )
    elif held_out:
        logger.warning("%s: too few questions for a share of %s: no split 'test'", source, held_out)


def _documents(source: Path, options: Options, positives: dict[str, dict[str, None]]) -> Iterator[Document]:
    """Distinct passages as they come; questions are collected in ``positives``, with the ids of their passages."""
    seen: set[str] = set()
    columns: Columns | None = None
    for row in _rows(source):
        columns = columns or _find_columns(row, options)
        question, passage = _text(row, columns.question), _text(row, columns.passage)
        title = "" if columns.title is None else _text(row, columns.title, needed=False)
        docid = f"d-{_digest(f'{len(title)} {title}{passage}')}"
        positives.setdefault(question, {})[docid] = None
        if docid not in seen:
            seen.add(docid)
            yield Document(docid, passage, title)


def _query(text: str, docids: Mapping[str, None]) -> Query:
    return Query(f"q-{_digest(text)}", text, tuple(docids))


def _digest(text: str) -> str:
    return str(xxhash.xxh3_128_hexdigest(text.encode()))


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
    logger.info("%s: question in %r, passage in %r, title in %r", row.file, question, passage, columns.title)
    if unread:
        logger.warning("%s: columns that are not read: %s", row.file, ", ".join(unread))
    return columns


def _column(row: Row, names: Mapping[str, str], known: tuple[str, ...], wanted: str | None, option: str) -> str:
    if wanted is not None:
        known = (wanted.lower(),)
    fitting = [names[name] for name in known if name in names]
    if len(fitting) == 1:
        return fitting[0]
    raise DataError(
        f"several columns may be the {known[0]}" if fitting else f"no column {known[0]!r}", file=row.file,
        found=list(row.record), expected=f"one of {', '.join(known)}", hint=f"Name it with {option}",
    )  # fmt: skip


def _text(row: Row, field: str, *, needed: bool = True) -> str:
    value = row.record.get(field)
    if value is None and not needed:
        return ""
    if not isinstance(value, str) or (needed and not value.strip()):
        raise row.error(
            "no text", field, "null" if value is None else value, "a string that is not empty",
            "Give it a text or remove the row",
        )  # fmt: skip
    return value


def _rows(source: Path) -> Iterator[Row]:
    name = source.name.removesuffix(".gz").removesuffix(".zst")
    if name.endswith(".csv"):
        return _table_rows(source, ",")
    if name.endswith(".tsv"):
        return _table_rows(source, "\t")
    return read_rows(source)


def _table_rows(source: Path, delimiter: str) -> Iterator[Row]:
    """Rows of a CSV or TSV with a header; quoted as spreadsheets do; a row's line is its first.

    Line breaks inside a cell become ``\\n``.
    """
    limit = csv.field_size_limit(sys.maxsize)
    reader = csv.reader((line + "\n" for _, line in read_lines(source)), delimiter=delimiter, strict=True)
    start, rows, header, empty_line = 1, 0, None, None
    try:
        for cells in reader:
            first, start = start, reader.line_num + 1
            if not cells:
                empty_line = empty_line or first
                continue
            if empty_line is not None:
                raise DataError("empty line", file=source, line=empty_line, hint="Remove the line")
            if header is None:
                header = _header(cells, source)
                continue
            if len(cells) != len(header):
                raise DataError(
                    "not as many cells as the header has", file=source, line=first, found=len(cells),
                    expected=str(len(header)), hint="Quote cells that hold the separator or a line break",
                )  # fmt: skip
            rows += 1
            yield Row(dict(zip(header, cells, strict=True)), source, first)
    except csv.Error as error:
        raise DataError(
            f"malformed table: {error}", file=source, line=start, hint='Is a quote (") left open or not doubled?'
        ) from error
    finally:
        csv.field_size_limit(limit)
    if not rows:
        raise DataError("no rows", file=source, expected="a header and at least one row")


def _header(cells: list[str], source: Path) -> list[str]:
    lowered = [cell.strip().lower() for cell in cells]
    twice = [cell for cell in lowered if lowered.count(cell) > 1]
    if twice:
        raise DataError("the header names a column twice", file=source, line=1, found=twice[0])
    return cells

"""What layouts share that keep documents, queries and judgements apart, and name one by the id of another."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from teva_data.errors import DataError
from teva_data.records import DOCUMENT_ID, DOCUMENT_TEXT, QUERY_ID, QUERY_TEXT, TITLE, Row
from teva_data.writing import DatasetWriter

from . import cells
from .seen import Judged, SeenIds
from .table_files import read_cells
from .tables import DEFAULT, Tables

if TYPE_CHECKING:
    from teva_data.conversion import Options

logger = logging.getLogger(__name__)

JUDGED_QUERY = ("query-id", "query_id", "qid", "query")
JUDGED_DOCUMENT = ("corpus-id", "corpus_id", "docid", "doc_id", "doc-id", "pid")
TREC_QRELS = ("query_id", "iteration", "docid", "score")
GRADE = ("score", "relevance", "rel", "label")


@dataclass(frozen=True)
class Fields:
    """Which fields of a row are read: in each tuple, the first one that has a value.

    Attributes:
        docid: of a document.
        text: of a document.
        title: of a document.
        query_id: of a query.
        query: the query's text.
        media: whether media of documents and queries are read.
        modalities: what of a document is kept (``text``, ``image``, ...); empty: all.
        under: a directory that paths of media start from.
    """

    docid: tuple[str, ...] = DOCUMENT_ID
    text: tuple[str, ...] = DOCUMENT_TEXT
    title: tuple[str, ...] = TITLE
    query_id: tuple[str, ...] = QUERY_ID
    query: tuple[str, ...] = QUERY_TEXT
    media: bool = True
    modalities: tuple[str, ...] = ()
    under: str = ""

    def told(self, query_field: str | None, document_field: str | None) -> Fields:
        """These, with the texts read from the fields that the user named."""
        return dataclasses.replace(
            self,
            text=(document_field,) if document_field else self.text,
            query=(query_field,) if query_field else self.query,
        )


def parts(tables: Tables, options: Options, *, without: Collection[str] = ()) -> dict[str, tuple[str, str]]:
    """Table and split of each split that is to be written, of tables that hold queries.

    Args:
        tables: the source.
        options: ``part`` names a table (a config of the hub), ``splits`` the splits wanted.
        without: tables that hold something else.

    Raises:
        DataError: there is no such table, several configs and none is named, or no split is wanted.
    """
    names = [name for name in tables.names() if name not in without]
    place = tables.path or tables.name
    if options.part is not None:
        if options.part not in names:
            raise DataError("no such part", file=place, field="part", found=options.part, expected=", ".join(names))
        names = [options.part]
    elif tables.hub and len(names) > 1:
        raise DataError("several configs", file=place, found=names, hint="Name one with part (--part)")
    found = {}
    for name in names:
        splits = tables.splits(name)
        for split in splits:
            plain = len(names) == 1 or name == DEFAULT
            found[split if plain else name if len(splits) == 1 else f"{name}.{split}"] = name, split
    wanted = {split: part for split, part in found.items() if options.wants(split)}
    if not wanted:
        raise DataError(
            "no split", file=place, found=sorted(found), expected=", ".join(options.splits) or "one at least"
        )
    return wanted


def copy_corpus(tables: Tables, rows: Iterable[Row], writer: DatasetWriter, fields: Fields, *,
                prefix: str = "", seen: SeenIds | None = None, named: bool = False) -> SeenIds:  # fmt: skip
    """Write a table of documents.

    Args:
        tables: where the rows come from.
        rows: the documents.
        writer: takes them.
        fields: which fields are read.
        prefix: put before every id, where several corpora become one.
        seen: ids of documents that were written before.
        named: the text's field was named by the user: a row without it is an error.

    Returns:
        The ids of all documents; close it when the judgements are read.

    Raises:
        DataError: a row is bad, a document is empty, or an id stands twice (both places are named).
    """
    seen = seen or SeenIds(writer.work)
    for row in rows:
        docid = prefix + cells.identifier(row, fields.docid)
        seen.add(docid, row, cells.field_of(row, fields.docid) or fields.docid[0])
        title, text = cells.text(row, fields.title), cells.text(row, fields.text, needed=named)
        media = cells.pieces(tables, row, under=fields.under) if fields.media else {}
        if fields.modalities:
            media = {kind: value for kind, value in media.items() if kind in fields.modalities}
            title, text = (title, text) if "text" in fields.modalities else ("", "")
        if not (text.strip() or title.strip() or media):
            raise row.error(
                "empty document", found=docid, expected="a title, a text or a medium",
                hint="Give it one or remove the line",
            )  # fmt: skip
        writer.document(docid, text, title, **media)
    return seen


def judgement_rows(tables: Tables, name: str, split: str | None = None) -> Iterator[Row]:
    """The rows of a table of judgements; a TSV is cut at its tabs, and may be TREC's four columns without a header."""
    files = tables.files(name, split)
    if not files or not all(file.name.removesuffix(".gz").removesuffix(".zst").endswith(".tsv") for file in files):
        yield from tables.rows(name, split)
        return
    for file in files:
        header = None
        for number, cell in read_cells(file):
            cell = cell if len(cell) > 1 else cell[0].split()
            if header is None:
                known = [each.strip().lower() for each in cell]
                if not {*JUDGED_QUERY, *JUDGED_DOCUMENT}.isdisjoint(known):
                    header = known
                    continue
                header = list(TREC_QRELS)
            if len(cell) != len(header):
                raise DataError(
                    "wrong number of columns", file=file, line=number, found=cell, expected=", ".join(header),
                    hint="A header `query_id<TAB>docid<TAB>score`, or TREC's four columns without one",
                )  # fmt: skip
            yield Row(dict(zip(header, (each.strip() for each in cell), strict=True)), file, number)
        if header is None:
            raise DataError("no judgements", file=file)


def read_judgements(
    rows: Iterable[Row], documents: SeenIds, judged: Judged, *, corpus: str, query_prefix: str = "", prefix: str = ""
) -> Judged:
    """Note a table of judgements, with the names that BEIR, MTEB and others give its columns.

    Args:
        rows: the judgements.
        documents: the ids that there are.
        judged: takes them; returned.
        corpus: what the corpus is called, for a message.
        query_prefix: put before every query id.
        prefix: put before every docid.

    Raises:
        DataError: a row is bad, or a document is not in the corpus.
    """
    for row in rows:
        query_id = query_prefix + cells.identifier(row, JUDGED_QUERY)
        docid = cells.identifier(row, JUDGED_DOCUMENT)
        if prefix + docid not in documents:
            raise row.error("unknown document", "docid", docid, f"a document of {corpus}")
        judged.add(query_id, prefix + docid, cells.grade(row, GRADE), row)
    return judged


def copy_queries(tables: Tables, rows: Iterable[Row], judged: Judged, writer: DatasetWriter, split: str,
                 fields: Fields, *, source: str, prefix: str = "", extra: Mapping[str, Any] | None = None,
                 others: bool = False) -> None:  # fmt: skip
    """Write a split: its queries that have a positive judgement, and its judgements as they are.

    Args:
        tables: where the rows come from.
        rows: the queries; those without a judgement are left out, and counted in the log.
        judged: the judgements.
        writer: takes them.
        split: the split's name.
        fields: which fields are read.
        source: what the table of queries is called, for a message.
        prefix: put before every query id.
        extra: further arguments of each query, e.g. ``prompt``.
        others: judgements of queries that are not in ``rows`` are left out, not refused.

    Raises:
        DataError: a row is bad, an id stands twice, or a judgement names an unknown query.
    """
    unjudged = irrelevant = kept = 0
    with SeenIds(writer.work) as seen:
        for row in rows:
            query_id = prefix + cells.identifier(row, fields.query_id)
            seen.add(query_id, row, cells.field_of(row, fields.query_id) or fields.query_id[0])
            media = cells.pieces(tables, row, under=fields.under) if fields.media else {}
            text = cells.text(row, fields.query, needed=not media)
            grades = judged.of(query_id)
            positives = [docid for docid, score in grades if score > 0]
            unjudged += not grades
            irrelevant += bool(grades and not positives)
            if positives:
                kept += 1
                writer.query(split, query_id, text, positives, **media, **(extra or {}))
    if not others and (unknown := judged.never_asked()):
        raise DataError(
            "unknown query", file=unknown[1].file, line=unknown[1].line, field="query_id", found=unknown[0],
            expected=f"a query of {source}",
        )  # fmt: skip
    if not kept:
        raise DataError("no query has a positive judgement", file=source, found=split, expected="a score above 0")
    for query_id, docid, score in judged.all():
        writer.judgement(split, query_id, docid, score)
    logger.info(
        "%s: %d queries; left out: %d without a judgement, %d without a positive one",
        split, kept, unjudged, irrelevant,
    )  # fmt: skip

"""The layouts of ViDoRe, page images to be found by questions: three tables (v1, v2, v3) or one of questions and pages.

Three tables are named as BEIR's and have columns of their own: ``corpus-id, image``; ``query-id, query``; ``query-id,
corpus-id, score`` (``corpus_id`` and ``query_id`` in v3). The older form is one table, ``query, image,
image_filename``, with a page in every row.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from teva_data.conversion import Options, cells
from teva_data.conversion.joining import Fields, copy_corpus, copy_queries, judgement_rows, read_judgements
from teva_data.conversion.seen import Judged, SeenTexts, digest
from teva_data.conversion.tables import Tables
from teva_data.errors import DataError
from teva_data.records import Row
from teva_data.writing import DatasetWriter
from teva_data.writing.incoming import MediaBytes, read_piece

logger = logging.getLogger(__name__)

CORPUS, QUERIES, QRELS = "corpus", "queries", "qrels"
DOCID = ("corpus-id", "corpus_id")
QUERY_ID = ("query-id", "query_id")
IMAGE, FILENAME, QUERY, LANGUAGE = "image", "image_filename", "query", "language"


def recognise(tables: Tables) -> str | None:
    """A corpus with ``corpus-id`` and ``image``, or one table with ``query``, ``image`` and ``image_filename``."""
    names = tables.names()
    if all(name in names for name in (CORPUS, QUERIES, QRELS)):
        columns = tables.columns(CORPUS)
        if IMAGE in columns and not columns.isdisjoint(DOCID):
            return "tables corpus, queries and qrels, and pages with 'corpus-id' and 'image'"
        return None
    if len(names) == 1 and {QUERY, IMAGE, FILENAME} <= tables.columns(names[0]):
        return "one table of questions and pages: 'query', 'image', 'image_filename'"
    return None


def convert(tables: Tables, writer: DatasetWriter, options: Options) -> None:
    """Write a source in one of ViDoRe's layouts; a document is a page image.

    With ``part``, the queries of one language alone (their column ``language``). With ``document_field``, a column
    (``markdown`` in v3) becomes the documents' text beside their image.

    Raises:
        DataError: a table is missing, a row is bad, an image cannot be had, one file name stands for two images, or a
            judgement names an unknown query or page.
    """
    if CORPUS in tables.names():
        _convert_tables(tables, writer, options)
    else:
        _convert_questions(tables, writer, options)


def _convert_tables(tables: Tables, writer: DatasetWriter, options: Options) -> None:
    for name in (QUERIES, QRELS):
        if name not in tables.names():
            raise DataError(f"no {name}", file=tables.path or tables.name, found=tables.names(), expected=name)
    fields = Fields(DOCID, (), (), QUERY_ID, (QUERY,)).told(options.query_field, options.document_field)
    named = options.document_field is not None
    splits = [split for split in tables.splits(QRELS) if options.wants(split)]
    if not splits:
        raise DataError(
            "none of the splits that are wanted", file=tables.path or tables.name, found=list(options.splits),
            expected=f"some of {', '.join(tables.splits(QRELS))}",
        )  # fmt: skip
    with copy_corpus(tables, tables.rows(CORPUS), writer, fields, named=named) as documents:
        for split in splits:
            part = split if split in tables.splits(QUERIES) else None
            rows: Iterator[Row] = tables.rows(QUERIES, part)
            if options.part is not None:
                rows = (row for row in rows if row.record.get(LANGUAGE) == options.part)
            with Judged(writer.work) as judged:
                read_judgements(judgement_rows(tables, QRELS, split), documents, judged, corpus=CORPUS)
                copy_queries(
                    tables, rows, judged, writer, split, fields, source=QUERIES, others=options.part is not None
                )


def _convert_questions(tables: Tables, writer: DatasetWriter, options: Options) -> None:
    names = tables.names()
    if len(names) != 1:
        raise DataError(
            "not one table", file=tables.path or tables.name, found=names, expected="corpus, queries and qrels, or one"
        )
    name = names[0]
    splits = [split for split in tables.splits(name) if options.wants(split)]
    with SeenTexts(writer.work) as pages:
        for split in splits:
            _convert_split(tables, name, split, pages, writer, options)
        logger.info("%s: %d pages; %d file names for a page seen before", tables.name, pages.count, pages.merged)


def _convert_split(
    tables: Tables, name: str, split: str, pages: SeenTexts, writer: DatasetWriter, options: Options
) -> None:
    """One pass over the rows, which hold the images: questions wait on disk until all their pages are known."""
    waiting = writer.work / f"{split}.questions.jsonl"
    field = options.query_field or QUERY
    alone = 0
    with ExitStack() as stack:
        asked = stack.enter_context(SeenTexts(writer.work))
        found = stack.enter_context(SeenTexts(writer.work))
        judged = stack.enter_context(Judged(writer.work))
        with waiting.open("w", encoding="utf-8") as file:
            for row in tables.rows(name, split):
                docid = _page(tables, row, pages, writer, options)
                question = cells.text(row, (field,))
                if options.part is not None and row.record.get(LANGUAGE) != options.part:
                    question = ""
                if not question.strip():
                    alone += 1
                    continue
                query_id, new = asked.unnamed("", question)
                query_id = f"q-{query_id.removeprefix('d-')}"
                if new:
                    print(json.dumps([query_id, question]), file=file)
                if found.unnamed(query_id, docid)[1]:  # the same question and page may stand twice
                    judged.add(query_id, docid, 1, row)
        _write_questions(waiting, split, judged, writer)
    logger.info("%s: %d queries; %d rows without a question are pages alone", split, judged.queries, alone)


def _page(tables: Tables, row: Row, pages: SeenTexts, writer: DatasetWriter, options: Options) -> str:
    """Write the row's page where it is new; returns its id: its file name, or a name made of its bytes."""
    piece = tables.media(row, IMAGE)
    if piece is None or isinstance(piece, list):
        raise row.error("no image", IMAGE, "null" if piece is None else piece, "one image in every row")
    data = piece.data if isinstance(piece, MediaBytes) else read_piece(piece)
    text = cells.text(row, (options.document_field,), needed=True) if options.document_field else ""
    content = digest(text).hex() + digest_of(data)
    filename = cells.text(row, (FILENAME,))
    if filename.strip():
        try:
            docid, new = pages.named(filename, "", content, row, FILENAME)
        except DataError as error:
            # What is compared are pages, and their bytes are nothing to show.
            raise row.error(
                error.problem.replace("texts", "images"), FILENAME, filename, "one image for each file name"
            ) from error
    else:
        docid, new = pages.unnamed("", content)
    if new:
        writer.document(docid, text, image=piece)
    return docid


def digest_of(data: bytes) -> str:
    """A name for bytes: XXH3-128 in hexadecimal."""
    import xxhash

    return str(xxhash.xxh3_128_hexdigest(data))


def _write_questions(waiting: Path, split: str, judged: Judged, writer: DatasetWriter) -> None:
    with waiting.open(encoding="utf-8") as file:
        for line in file:
            query_id, question = json.loads(line)
            positives: list[Any] = [docid for docid, _ in judged.of(query_id)]
            writer.query(split, query_id, question, positives)
    for query_id, docid, score in judged.all():
        writer.judgement(split, query_id, docid, score)
    waiting.unlink()

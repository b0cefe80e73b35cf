"""Tevatron's second layout, and teva's own: a table of queries that name documents by id, and a table of documents."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from teva_data.conversion import Options, cells
from teva_data.conversion.joining import JUDGED_QUERY, Fields, copy_corpus, judgement_rows, parts, read_judgements
from teva_data.conversion.seen import Judged, SeenIds
from teva_data.conversion.tables import TRAIN, Tables
from teva_data.errors import DataError
from teva_data.records import Row
from teva_data.writing import DatasetWriter

logger = logging.getLogger(__name__)

CORPUS, QRELS = "corpus", "qrels"
POSITIVES, NEGATIVES = ("positive_document_ids",), ("negative_document_ids",)


def recognise(tables: Tables) -> str | None:
    """Queries with ``positive_document_ids``."""
    for name in tables.names():
        if name not in (CORPUS, QRELS) and POSITIVES[0] in tables.columns(name):
            return f"queries with {POSITIVES[0]!r}"
    return None


def convert(tables: Tables, writer: DatasetWriter, options: Options) -> None:
    """Write queries that name documents, and the documents.

    The documents are the table ``corpus`` of the source, or ``options.corpus``. Texts may be called ``document_text``
    (as Tevatron's documentation has it) or ``text`` (as its code reads), media alike. The judgements of a split are
    kept where the source has some; else, the positives of splits other than ``train`` become judgements.

    Raises:
        DataError: there is no corpus, a row is bad, an id stands twice, or a query names a document that is not there.
    """
    under = "" if options.assets is None else options.assets.as_posix()
    fields = Fields(modalities=options.modalities, under=under).told(options.query_field, options.document_field)
    documents, name = _corpus(tables, options)
    rows = documents.rows(name)
    judged = QRELS in tables.names()
    with copy_corpus(documents, rows, writer, fields, named=options.document_field is not None) as ids:
        without = {QRELS} if options.corpus is not None else {QRELS, CORPUS}
        for split, (table, part) in parts(tables, options, without=without).items():
            graded = judged and part in tables.splits(QRELS)
            _copy_split(
                tables, writer, split, tables.rows(table, part), ids, fields, as_qrels=not graded and split != TRAIN
            )
            if graded:
                _copy_qrels(tables, writer, split, part, ids)


def _corpus(tables: Tables, options: Options) -> tuple[Tables, str]:
    if options.corpus is None:
        if CORPUS not in tables.names():
            raise DataError(
                "no corpus", file=tables.path or tables.name, found=tables.names(), expected="a table 'corpus'",
                hint="Name the documents' file, directory or hub id with corpus (--corpus)",
            )  # fmt: skip
        return tables, CORPUS
    names = options.corpus.names()
    if CORPUS in names or len(names) == 1:
        return options.corpus, CORPUS if CORPUS in names else names[0]
    raise DataError(
        "not one table", file=options.corpus.path or options.corpus.name, field="corpus", found=names,
        expected="one table of documents",
    )  # fmt: skip


def _copy_split(
    tables: Tables,
    writer: DatasetWriter,
    split: str,
    rows: Iterable[Row],
    ids: SeenIds,
    fields: Fields,
    *,
    as_qrels: bool,
) -> None:
    clashes = 0
    with SeenIds(writer.work) as seen:
        for row in rows:
            query_id = cells.identifier(row, fields.query_id)
            seen.add(query_id, row, cells.field_of(row, fields.query_id) or fields.query_id[0])
            media = cells.pieces(tables, row)
            text = cells.field_of(row, fields.query)
            value = row.record[text] if text and isinstance(row.record[text], list) else None
            positives, negatives = _known(row, POSITIVES, ids), _known(row, NEGATIVES, ids)
            kept = {docid: score for docid, score in negatives[0].items() if docid not in positives[0]}
            clashes += len(negatives[0]) - len(kept)
            writer.query(
                split, query_id, value or cells.text(row, fields.query, needed=not media),
                list(positives[0]), list(kept),
                positive_scores=list(positives[0].values()) if positives[1] else None,  # type: ignore[arg-type]
                negative_scores=list(kept.values()) if negatives[1] else None,  # type: ignore[arg-type]
                prompt=cells.text(row, ("prompt",)) if row.record.get("prompt") is not None else None, **media,
            )  # fmt: skip
            if as_qrels:
                for docid in positives[0]:
                    writer.judgement(split, query_id, docid, 1)
    if clashes:
        logger.info("%s: left out %d negatives that are positives of the same query", split, clashes)


def _known(row: Row, names: tuple[str, ...], ids: SeenIds) -> tuple[dict[str, float | None], bool]:
    """Documents of a list with their scores, each document once; and whether they have scores."""
    listed = cells.identifiers(row, names)
    for at, docid in enumerate(listed):
        if docid not in ids:
            raise row.error("unknown document", f"{names[0]}[{at}]", docid, "a document of the corpus")
    scores = cells.scores(row, (names[0].replace("document_ids", "scores"),), len(listed))
    found: dict[str, float | None] = {}
    for at, docid in enumerate(listed):
        found.setdefault(docid, None if scores is None else scores[at])
    return found, scores is not None


def _copy_qrels(tables: Tables, writer: DatasetWriter, split: str, part: str, ids: SeenIds) -> None:
    with Judged(writer.work) as judged:
        read_judgements(judgement_rows(tables, QRELS, part), ids, judged, corpus="the corpus")
        for row in judgement_rows(tables, QRELS, part):
            judged.of(cells.identifier(row, JUDGED_QUERY))  # refuses what was judged twice
        for query_id, docid, score in judged.all():
            writer.judgement(split, query_id, docid, score)

"""The layout of BEIR: a corpus, queries, and judgements for each split; in files, or as configs of the hub.

BEIR's own uploads keep the judgements in a second repository, ``BeIR/scifact-qrels`` beside ``BeIR/scifact``.
"""

from __future__ import annotations

import logging

from teva_data.conversion import Options
from teva_data.conversion.joining import Fields, copy_corpus, copy_queries, judgement_rows, read_judgements
from teva_data.conversion.seen import Judged
from teva_data.conversion.tables import Tables
from teva_data.errors import DataError
from teva_data.writing import DatasetWriter

logger = logging.getLogger(__name__)

CORPUS, QUERIES, QRELS = "corpus", "queries", "qrels"


def recognise(tables: Tables) -> str | None:
    """A corpus and queries with ``_id``, and judgements in TSV files, in a config ``<name>-qrels`` or apart."""
    names = tables.names()
    queries = [name for name in names if name == QUERIES or name.startswith(f"{QUERIES}.")]
    judged = _judgement_tables(tables)
    apart = tables.hub and {*names} == {CORPUS, QUERIES}  # with a third config it is another layout of the hub
    if CORPUS not in names or not queries or not (judged or apart):
        return None
    if tables.hub and judged and not any(name.endswith(f"-{QRELS}") for name in names):
        return None
    if not all("_id" in tables.columns(name) for name in (CORPUS, queries[0])):
        return None
    return f"a corpus and queries with '_id', and judgements{'' if judged else ' apart, as on the hub'}"


def convert(tables: Tables, writer: DatasetWriter, options: Options) -> None:
    """Write a source in BEIR's layout.

    Queries of a split are those with a positive judgement there; judgements are kept as they are. ``_id`` may be
    ``docid`` and ``query_id``, as in other collections of the same arrangement.

    Raises:
        DataError: a table is missing, a row is bad, or a judgement names an unknown query or document.
    """
    if CORPUS not in tables.names():
        raise DataError("no corpus", file=tables.path or tables.name, found=tables.names(), expected="corpus.jsonl")
    judgements, places = _judgements(tables)
    splits = _splits(tables, judgements, places, options)
    fields = Fields(media=False).told(options.query_field, options.document_field)
    files = tables.files(CORPUS)
    corpus = files[0].name if files else CORPUS
    with copy_corpus(
        tables, tables.rows(CORPUS), writer, fields, named=options.document_field is not None
    ) as documents:
        for split, (queries, (name, part)) in splits.items():
            place = str(next(iter(tables.files(queries)), queries))
            with Judged(writer.work) as judged:
                read_judgements(judgement_rows(judgements, name, part), documents, judged, corpus=corpus)
                copy_queries(tables, tables.rows(queries), judged, writer, split, fields, source=place)


def _judgements(tables: Tables) -> tuple[Tables, dict[str, list[tuple[str, str]]]]:
    """The source that holds the judgements, and the table and split there of each split."""
    places = _judgement_tables(tables)
    if places or not tables.hub or (apart := tables.beside(f"-{QRELS}")) is None:
        return tables, places
    for name in apart.names():
        for split in apart.splits(name):
            places.setdefault(split, []).append((name, split))
    return apart, places


def _judgement_tables(tables: Tables) -> dict[str, list[tuple[str, str]]]:
    """Table and split of the judgements of each split."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name in tables.names():
        if name == QRELS or name.endswith(f"-{QRELS}"):
            for split in tables.splits(name):
                found.setdefault(split, []).append((name, split))
        elif name.startswith(f"{QRELS}."):
            found.setdefault(name.removeprefix(f"{QRELS}."), []).append((name, tables.splits(name)[0]))
    return found


def _splits(
    tables: Tables, judgements: Tables, judged: dict[str, list[tuple[str, str]]], options: Options
) -> dict[str, tuple[str, tuple[str, str]]]:
    """Table of queries, and table and split of the judgements, of each split that has both."""
    splits, alone = {}, []
    names = tables.names()
    for split, places in sorted(judged.items()):
        if not options.wants(split):
            continue
        files = judgements.files(*places[-1])
        where = str(files[0]) if files else places[0][0]
        if split == CORPUS or len(places) > 1 or len(files) > 1:
            raise DataError(
                "no name for a split" if split == CORPUS else f"two files of judgements for {split!r}",
                file=where, hint="Rename the file or remove it",
            )  # fmt: skip
        queries = next((name for name in (f"{QUERIES}.{split}", QUERIES) if name in names), None)
        if queries is None:
            alone.append(files[0].name if files else places[0][0])
        else:
            splits[split] = queries, places[0]
    if alone:
        logger.warning("%s: judgements without a query file are left out: %s", tables.name, ", ".join(alone))
    if not splits:
        raise DataError(
            "no split with queries and judgements", file=tables.path or tables.name, found=names,
            expected="qrels/<split>.tsv or qrels.<split>.tsv, and queries.jsonl or queries.<split>.jsonl; of the hub's "
            f"arrangement, judgements in {tables.name}-{QRELS}",
        )  # fmt: skip
    return splits

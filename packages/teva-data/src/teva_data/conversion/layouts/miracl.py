"""The layout of MIRACL and Mr. TyDi: topics and TREC judgements in files, passages in JSONL shards beside them.

As published: ``topics/topics.miracl-v1.0-<language>-<split>.tsv``, ``qrels/qrels.miracl-v1.0-<language>-<split>.tsv``,
and in another repository ``miracl-corpus-v1.0-<language>/docs-0.jsonl.gz`` with ``docid, title, text``; Mr. TyDi has
``topics.<split>.txt`` and ``qrels.<split>.txt``. Any other collection of topics and judgements that are named alike
(``topics.x.txt`` and ``qrels.x.txt``) is read too. The hub's rows (``query, positive_passages, negative_passages``)
with a corpus elsewhere are read here as well.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from teva_data.conversion import Options, cells
from teva_data.conversion.joining import TREC_QRELS, Fields, copy_corpus, read_judgements
from teva_data.conversion.seen import Judged, SeenIds
from teva_data.conversion.table_files import read_cells, read_table
from teva_data.conversion.tables import Tables
from teva_data.errors import DataError, nearest
from teva_data.records import Row
from teva_data.topics import read_topics
from teva_data.writing import DatasetWriter

logger = logging.getLogger(__name__)

_FILE = re.compile(r"(?P<kind>topics|qrels)\.(?P<rest>.+?)\.(?:tsv|txt|jsonl)(?:\.gz|\.zst)?")
_SPLIT = re.compile(r"(?:^|[-.])(train|dev|test(?:[-.]?[ab])?|validation)$", re.IGNORECASE)
_LANGUAGE = re.compile(r"(?:^|[-.])v\d+(?:\.\d+)*-([a-z]+)$", re.IGNORECASE)
_SHARD = re.compile(r"(?:docs|corpus|collection)(?:-\d+)?\.jsonl(?:\.gz|\.zst)?")
PASSAGES = ("positive_passages", "negative_passages")


class Topics(NamedTuple):
    """Files of one split of one language."""

    language: str
    split: str
    topics: Path
    qrels: Path


def recognise(tables: Tables) -> str | None:
    """Files ``topics.<name>`` and ``qrels.<name>`` of one name, anywhere below the source."""
    with suppress(DataError):
        if found := _pairs(tables.path):
            return f"{found[0].topics.name} and {found[0].qrels.name}"
    return None


def convert(tables: Tables, writer: DatasetWriter, options: Options) -> None:
    """Write one language in MIRACL's layout.

    Documents judged 0 for a query are its negatives: annotators looked at them and found no answer. Passages come from
    the source, or from ``corpus`` where one is given. For the hub's rows, the documents are those of ``corpus``.

    Raises:
        DataError: there are several languages and none is named, there is no corpus, a row is bad, or a judgement
            names an unknown topic or passage.
    """
    if tables.path is not None and tables.path.is_dir() and (pairs := _pairs(tables.path)):
        _convert_files(tables, _chosen(pairs, tables, options), writer, options)
    else:
        _convert_rows(tables, writer, options)


def _pairs(source: Path | None) -> list[Topics]:
    """Topics that have judgements, by language and split."""
    if source is None or not source.is_dir():
        return []
    found: dict[str, dict[tuple[str, Path], Path]] = {"topics": {}, "qrels": {}}
    # Two directories down and no further: a source may hold a million pictures.
    for path in sorted(path for depth in ("", "*/", "*/*/") for path in source.glob(f"{depth}*.*.*")):
        if (match := _FILE.fullmatch(path.name)) and path.is_file():
            # In `<language>/topics/` and `<language>/qrels/`, or side by side.
            folder = path.parent.parent if path.parent.name == match["kind"] else path.parent
            same = found[match["kind"]]
            if (key := (match["rest"], folder)) in same:
                raise DataError("the same file twice", file=path, found=same[key].name, hint="Remove one of them")
            same[key] = path
    return [
        Topics(*_name(rest, folder), path, found["qrels"][rest, folder])
        for (rest, folder), path in found["topics"].items()
        if (rest, folder) in found["qrels"]
    ]


def _name(rest: str, folder: Path) -> tuple[str, str]:
    """Language and split: ``miracl-v1.0-ko-dev`` is ``ko`` and ``dev``."""
    match = _SPLIT.search(rest)
    split, before = (match[1].lower(), rest[: match.start()]) if match else ("test", rest)
    for name in (before, folder.name, folder.parent.name):
        if language := _LANGUAGE.search(name):
            return language[1], split
    return before, split


def _chosen(pairs: list[Topics], tables: Tables, options: Options) -> list[Topics]:
    languages = sorted({pair.language for pair in pairs})
    if options.part is not None and options.part not in languages:
        raise DataError(
            "no such language",
            file=tables.path,
            field="part",
            found=options.part,
            hint=nearest(options.part, languages),
        )
    if options.part is None and len(languages) > 1:
        raise DataError(
            "several languages", file=tables.path, found=languages, expected="one",
            hint="Name one with part (--part); each has a corpus of its own",
        )  # fmt: skip
    chosen = [pair for pair in pairs if options.part in (None, pair.language) and options.wants(pair.split)]
    if not chosen:
        raise DataError(
            "none of the splits that are wanted", file=tables.path, found=list(options.splits),
            expected=f"some of {', '.join(sorted({pair.split for pair in pairs}))}",
        )  # fmt: skip
    return chosen


def _convert_files(tables: Tables, pairs: list[Topics], writer: DatasetWriter, options: Options) -> None:
    fields = Fields(media=False).told(None, options.document_field)
    if pairs[0].language.isalpha() and len(pairs[0].language) == 2:
        writer.card(languages=[pairs[0].language])
    with copy_corpus(tables, _passages(tables, pairs[0].language, options), writer, fields) as documents:
        for pair in pairs:
            with Judged(writer.work) as judged:
                read_judgements(_judgements(pair.qrels), documents, judged, corpus="the corpus")
                _write_split(pair, judged, writer)


def _passages(tables: Tables, language: str, options: Options) -> Iterator[Row]:
    if options.corpus is not None:
        names = options.corpus.names()
        name = next((each for each in (language, "corpus", "default") if each in names), names[0] if names else "")
        yield from options.corpus.rows(name)
        return
    assert tables.path is not None
    shards = sorted(
        path for depth in ("", "*/", "*/*/") for path in tables.path.glob(f"{depth}*.jsonl*")
        if _SHARD.fullmatch(path.name)
    )  # fmt: skip
    # Where several languages lie side by side, those in a directory that is named after this one.
    own = [path for path in shards if path.parent.name.endswith(f"-{language}")]
    if not shards:
        raise DataError(
            "no passages", file=tables.path, expected="docs-0.jsonl.gz and so on, with docid, title and text",
            hint="MIRACL keeps them apart: `hf download --repo-type dataset miracl/miracl-corpus`; name them with "
            "corpus (--corpus)",
        )  # fmt: skip
    for path in own or shards:
        yield from read_table(path)


def _judgements(path: Path) -> Iterator[Row]:
    """Rows of a TREC file, cut at tabs or blanks."""
    for number, cell in read_cells(path):
        cell = cell if len(cell) > 1 else cell[0].split()
        if len(cell) != len(TREC_QRELS):
            raise DataError(
                "wrong number of columns", file=path, line=number, found=cell, expected=", ".join(TREC_QRELS)
            )
        yield Row(dict(zip(TREC_QRELS, (each.strip() for each in cell), strict=True)), path, number)


def _write_split(pair: Topics, judged: Judged, writer: DatasetWriter) -> None:
    texts = read_topics(pair.topics)
    kept = 0
    for query_id, text in texts.items():
        grades = judged.of(query_id)
        positives = [docid for docid, score in grades if score > 0]
        if positives:
            kept += 1
            writer.query(pair.split, query_id, text, positives, [docid for docid, score in grades if score <= 0])
    if unknown := judged.never_asked():
        raise DataError(
            "unknown query", file=unknown[1].file, line=unknown[1].line, field="query_id", found=unknown[0],
            expected=f"a topic of {pair.topics.name}",
        )  # fmt: skip
    if not kept:
        raise DataError("no query has a positive judgement", file=pair.qrels, expected="a grade above 0")
    for query_id, docid, score in judged.all():
        writer.judgement(pair.split, query_id, docid, score)
    logger.info("%s: %d queries; left out: %d without a positive judgement", pair.split, kept, len(texts) - kept)


def _convert_rows(tables: Tables, writer: DatasetWriter, options: Options) -> None:
    """The hub's rows, whose passages are looked up by id in a corpus elsewhere."""
    if options.corpus is None:
        raise DataError(
            "no corpus", file=tables.path or tables.name, found=tables.names(),
            expected="the passages in another source",
            hint="Name it with corpus (--corpus), e.g. miracl/miracl-corpus; or convert the rows with the passages "
            "that they hold as tevatron-v1",
        )  # fmt: skip
    name = options.part or tables.names()[0]
    fields = Fields().told(None, options.document_field)
    with copy_corpus(options.corpus, _passages(tables, name, options), writer, fields) as documents:
        for split in tables.splits(name):
            if options.wants(split):
                with SeenIds(writer.work) as seen:
                    for row in tables.rows(name, split):
                        _write_row(row, split, documents, seen, writer, options)


def _write_row(
    row: Row, split: str, documents: SeenIds, seen: SeenIds, writer: DatasetWriter, options: Options
) -> None:
    query_id = cells.identifier(row, ("query_id", "_id", "id"))
    seen.add(query_id, row, "query_id")
    text = cells.text(row, (options.query_field,) if options.query_field else ("query", "query_text"), needed=True)
    found: list[list[str]] = []
    for field in PASSAGES:
        passages = row.record.get(field) or []
        if not isinstance(passages, list) or not all(isinstance(passage, dict) for passage in passages):
            raise row.error("not a list of passages", field, passages, "a list of objects with 'docid'")
        found.append([])
        for at, passage in enumerate(passages):
            docid = cells.as_identifier(row, f"{field}[{at}].docid", passage.get("docid"))
            if docid not in documents:
                raise row.error("unknown document", f"{field}[{at}].docid", docid, "a document of the corpus")
            found[-1].append(docid)
    writer.query(split, query_id, text, *found)
    for grade, docids in ((1, found[0]), (0, found[1])):
        for docid in docids:
            writer.judgement(split, query_id, docid, grade)

"""The layout of MS MARCO: files cut at tabs, without header and without quotes.

``collection.tsv`` (id, passage), ``queries.<split>.tsv`` (id, text), ``qrels.<split>.tsv`` (TREC's four columns), and
``qidpidtriples.<split>….tsv`` (query, positive, negative: ids). Or one file of triples in texts,
``triples.<split>….tsv``, which brings its own passages.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from teva_data.conversion import Options
from teva_data.conversion.joining import judgement_rows, read_judgements
from teva_data.conversion.seen import Judged, SeenIds, SeenTexts
from teva_data.conversion.table_files import read_cells
from teva_data.conversion.tables import Tables
from teva_data.conversion.triples import Triples
from teva_data.errors import DataError
from teva_data.progress import Progress
from teva_data.records import Row
from teva_data.topics import read_topics
from teva_data.writing import DatasetWriter

logger = logging.getLogger(__name__)

_FILE = re.compile(r"(?P<kind>collection|queries|qrels|qidpidtriples|triples)(?:\.(?P<rest>.+))?\.tsv(?:\.gz|\.zst)?")


def recognise(tables: Tables) -> str | None:
    """A directory with ``collection.tsv`` and queries, or files of triples in texts."""
    files = _files(tables)
    if "collection" in files and files.get("queries"):
        return f"{files['collection'][''].name} and {', '.join(path.name for path in files['queries'].values())}"
    if "triples" in files and "collection" not in files:
        return f"triples of texts: {', '.join(path.name for path in files['triples'].values())}"
    return None


def convert(tables: Tables, writer: DatasetWriter, options: Options) -> None:
    """Write a source in MS MARCO's layout.

    Queries of a split are those with a positive judgement or a triple there; of triples, the positives are added to
    the judged ones, and the negatives are the query's negatives.

    Raises:
        DataError: a file is missing, a line is bad, an id stands twice, or a line names an unknown query or passage.
    """
    files = _files(tables)
    if "collection" in files:
        _convert_files(tables, files, writer, options)
    elif "triples" in files:
        for name, path in files["triples"].items():
            if options.wants(split := _split_of(name)):
                _convert_texts(path, split, writer)
    else:
        raise DataError(
            "no collection", file=tables.path or tables.name, found=tables.names(),
            expected="collection.tsv with queries.<split>.tsv and qrels.<split>.tsv, or triples.<split>.tsv",
        )  # fmt: skip


def _files(tables: Tables) -> dict[str, dict[str, Path]]:
    """The source's files by kind and by what stands after it in the name."""
    path = tables.path
    if path is None:
        return {}
    found: dict[str, dict[str, Path]] = {}
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if (match := _FILE.fullmatch(file.name)) and file.is_file():
            same = found.setdefault(match["kind"], {})
            if (rest := match["rest"] or "") in same:
                raise DataError("the same file twice", file=file, found=same[rest].name, hint="Remove one of them")
            same[rest] = file
    return found


def _split_of(rest: str) -> str:
    """``train.full.2`` is of the split ``train``; so is a name that tells nothing."""
    return rest.partition(".")[0] or "train"


def _convert_files(tables: Tables, files: dict[str, dict[str, Path]], writer: DatasetWriter, options: Options) -> None:
    splits = _splits(tables, files, options)
    with SeenIds(writer.work) as documents:
        _copy_collection(files["collection"][""], documents, writer)
        for split, (queries, triples) in splits.items():
            with Judged(writer.work) as judged:
                if split in files.get("qrels", {}):
                    rows = judgement_rows(tables, f"qrels.{split}")
                    read_judgements(rows, documents, judged, corpus=files["collection"][""].name)
                size = sum(path.stat().st_size * (6 if path.suffix == ".gz" else 1) for path in triples)
                texts = read_topics(queries)
                with Triples(writer.work, size) as grouped:
                    for path in triples:
                        _read_triples(path, texts, documents, grouped, queries)
                    _write_split(split, queries, texts, judged, grouped, writer)


def _splits(tables: Tables, files: dict[str, dict[str, Path]], options: Options) -> dict[str, tuple[Path, list[Path]]]:
    """Query file and files of triples of each split that has judgements or triples."""
    triples: dict[str, list[Path]] = {}
    for rest, path in files.get("qidpidtriples", {}).items():
        triples.setdefault(_split_of(rest), []).append(path)
    queries, found = files.get("queries", {}), {}
    for split in sorted({*files.get("qrels", {}), *triples}):
        # `qrels.dev.small` judges some queries of `queries.dev` where there is no `queries.dev.small`.
        name = next((each for each in (split, _split_of(split)) if each in queries), None)
        if name is None:
            raise DataError(
                f"no queries for {split!r}", file=tables.path, found=[path.name for path in queries.values()],
                expected=f"queries.{split}.tsv",
            )  # fmt: skip
        if options.wants(split):
            found[split] = queries[name], triples.get(split, [])
    unused = sorted(path.name for name, path in queries.items() if path not in {place for place, _ in found.values()})
    if unused:
        logger.warning("%s: left out, without judgements or not wanted: %s", tables.name, ", ".join(unused))
    if not found:
        raise DataError(
            "no split", file=tables.path, found=sorted({*files.get("qrels", {}), *triples}),
            expected="qrels.<split>.tsv" if not options.splits else ", ".join(options.splits),
        )  # fmt: skip
    return found


def _cells(path: Path, columns: str) -> Iterator[tuple[int, list[str]]]:
    """Lines cut at tabs, each with as many cells as there are names in ``columns``."""
    names = columns.split()
    with Progress(path.stat().st_size // 1000, f"read {path.name}", "kB") as progress:
        for number, cell in read_cells(path, progress=progress):
            if len(cell) != len(names):
                raise DataError(
                    "wrong number of columns", file=path, line=number, found=cell, expected="<tab>".join(names)
                )
            yield number, cell


def _copy_collection(path: Path, documents: SeenIds, writer: DatasetWriter) -> None:
    for number, (docid, text) in _cells(path, "id passage"):
        row = Row({"id": docid, "passage": text}, path, number)
        if not docid.strip():
            raise row.error("not an id", "id", docid, "a string that is not empty")
        if not text.strip():
            raise row.error("empty document", "passage", docid, "a text", "Give it one or remove the line")
        documents.add(docid, row, "id")
        writer.document(docid, text)


def _read_triples(path: Path, texts: dict[str, str], documents: SeenIds, grouped: Triples, queries: Path) -> None:
    for number, (query_id, positive, negative) in _cells(path, "query positive negative"):
        row = Row({}, path, number)
        if query_id not in texts:
            raise row.error("unknown query", "query", query_id, f"a query of {queries.name}")
        for field, docid in (("positive", positive), ("negative", negative)):
            if docid not in documents:
                raise row.error("unknown document", field, docid, "a passage's id")
        if positive == negative:
            raise row.error("positive and negative at once", "negative", negative, "a passage that is no answer")
        grouped.add(query_id, positive, negative)


def _write_split(
    split: str, queries: Path, texts: dict[str, str], judged: Judged, grouped: Triples, writer: DatasetWriter
) -> None:
    """The queries in their file's order; where the triples are many, part by part of them."""
    kept = 0
    for part in range(grouped.parts):
        triples = grouped.of_part(part)
        for query_id, text in texts.items():
            if grouped.part_of(query_id) == part:
                kept += _write_query(split, query_id, text, judged, *triples.get(query_id, ([], [])), writer)
    if unknown := judged.never_asked():
        raise DataError(
            "unknown query", file=unknown[1].file, line=unknown[1].line, field="query_id", found=unknown[0],
            expected=f"a query of {queries.name}",
        )  # fmt: skip
    if not kept:
        raise DataError("no query has a positive", file=queries, expected="a judgement above 0, or a triple")
    for query_id, docid, score in judged.all():
        writer.judgement(split, query_id, docid, score)
    logger.info("%s: %d queries; left out: %d without a positive", split, kept, len(texts) - kept)


def _write_query(
    split: str, query_id: str, text: str, judged: Judged, more: list[str], negatives: list[str], writer: DatasetWriter
) -> bool:
    grades = dict(judged.of(query_id))
    positives = [docid for docid, score in grades.items() if score > 0]
    positives += [docid for docid in more if docid not in positives]
    if positives:
        writer.query(split, query_id, text, positives, [docid for docid in negatives if docid not in positives])
    return bool(positives)


def _convert_texts(path: Path, split: str, writer: DatasetWriter) -> None:
    """Triples in texts: a passage's and a query's id is made of its text, and each is kept once."""
    size, alike = path.stat().st_size, 0
    with SeenTexts(writer.work) as passages, Triples(writer.work, size) as grouped, SeenTexts(writer.work) as queries:
        for number, texts in _cells(path, "query positive negative"):
            row = Row(dict(zip(("query", "positive", "negative"), texts, strict=True)), path, number)
            for field, text in row.record.items():
                if not text.strip():
                    raise row.error("no text", field, text, "a string that is not empty", "Remove the line")
            docids = [_passage(text, passages, writer) for text in texts[1:]]
            if docids[0] == docids[1]:  # the collection has some texts under two ids
                alike += 1
            else:
                grouped.add(texts[0], *docids)
        for query, (positives, negatives) in grouped:
            query_id = f"q-{queries.unnamed('', query)[0].removeprefix('d-')}"
            writer.query(split, query_id, query, positives, negatives)
        logger.info("%s: %d triples, %d passages", split, grouped.count, passages.count)
    if alike:
        logger.warning("%s: left out: %d triples whose positive and negative have the same text", path, alike)


def _passage(text: str, passages: SeenTexts, writer: DatasetWriter) -> str:
    docid, new = passages.unnamed("", text)
    if new:
        writer.document(docid, text)
    return docid

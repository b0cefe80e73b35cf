"""The layout of BEIR: a corpus, queries, and judgements for each split."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .building import CORPUS, build_store
from .conversion import Options, find_file, write_card, write_corpus, write_queries
from .errors import DataError
from .reader import COMPRESSIONS, read_lines, read_rows
from .records import Document, Query, parse_document, parse_query
from .runs import read_qrels, write_qrels
from .sources import Source
from .store import CorpusStore

logger = logging.getLogger(__name__)


def convert(source: Path, target: Path, options: Options) -> None:
    """Fill ``target`` from a directory in BEIR's layout.

    Queries of a split are those with a positive judgement there; judgements are kept as they are.

    Raises:
        DataError: a file is missing, a row is bad, or a judgement names an unknown query or document.
    """
    corpus_file = find_file(source, "corpus.jsonl")
    if corpus_file is None:
        raise DataError("no corpus", file=source, expected="corpus.jsonl, plain or compressed")
    splits = _splits(source)
    corpus = _corpus(corpus_file, target / ".work", options)
    write_corpus(target, _documents(corpus))
    (target / "qrels").mkdir()
    texts: dict[Path, dict[str, str]] = {}  # splits may share their query file
    for split, (query_file, qrels_file) in splits.items():
        if query_file not in texts:
            texts[query_file] = _read_queries(query_file, options)
        _convert_split(split, query_file, texts[query_file], qrels_file, corpus, target)
    shutil.rmtree(target / ".work")
    write_card(target, name=source.resolve().name)


def _splits(source: Path) -> dict[str, tuple[Path, Path]]:
    """Query file and judgements of each split that has both."""
    splits, alone = {}, []
    for split, qrels_file in sorted(_qrels_files(source).items()):
        query_file = find_file(source, f"queries.{split}.jsonl") or find_file(source, "queries.jsonl")
        if query_file is None:
            alone.append(qrels_file.name)
        else:
            splits[split] = query_file, qrels_file
    if alone:
        logger.warning("%s: judgements without a query file are left out: %s", source, ", ".join(alone))
    if not splits:
        raise DataError(
            "no split with queries and judgements", file=source, found=sorted(path.name for path in source.iterdir()),
            expected="qrels/<split>.tsv or qrels.<split>.tsv, and queries.jsonl or queries.<split>.jsonl",
        )  # fmt: skip
    return splits


def _qrels_files(source: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for directory, prefix in ((source / "qrels", ""), (source, "qrels.")):
        for path in directory.glob(f"{prefix}*"):
            for ending in COMPRESSIONS:
                if not (name := path.name.removeprefix(prefix)).endswith(f".tsv{ending}"):
                    continue
                split = name.removesuffix(f".tsv{ending}")
                if split == "corpus" or split in found:
                    raise DataError(
                        "no name for a split" if split == "corpus" else f"two files of judgements for {split!r}",
                        file=path, hint="Rename the file or remove it",
                    )  # fmt: skip
                found[split] = path
    return found


def _corpus(file: Path, work: Path, options: Options) -> CorpusStore:
    """A store of the source's corpus in a place that goes away: checks it, and finds ids without a set of them all."""
    kind = CORPUS.with_parser(lambda row, shelf: parse_document(row, options.document_field, shelf))
    source = Source.of(file)
    build_store(source, work / "corpus", kind)
    return CorpusStore(work / "corpus", source)


def _documents(corpus: CorpusStore) -> Iterator[Document]:
    for start in range(0, len(corpus), 4096):
        yield from corpus.documents(start, min(start + 4096, len(corpus)))


def _convert_split(
    split: str, query_file: Path, queries: dict[str, str], qrels_file: Path, corpus: CorpusStore, target: Path
) -> None:
    qrels = read_qrels(qrels_file)
    _check_judgements(qrels, queries, query_file, qrels_file, corpus)
    positives = {
        query_id: tuple(docid for docid, score in judged.items() if score > 0) for query_id, judged in qrels.items()
    }
    kept = [Query(query_id, text, positives[query_id]) for query_id, text in queries.items() if positives.get(query_id)]
    if not kept:
        raise DataError("no query has a positive judgement", file=qrels_file, expected="a score above 0")
    write_queries(target / f"{split}.jsonl", kept)
    write_qrels(target / "qrels" / f"{split}.tsv", qrels)
    unjudged = len(queries.keys() - qrels.keys())
    logger.info(
        "%s: %d queries; left out: %d without a judgement, %d without a positive one",
        split, len(kept), unjudged, len(queries) - unjudged - len(kept),
    )  # fmt: skip


def _read_queries(file: Path, options: Options) -> dict[str, str]:
    """Text of each query by id, in the file's order."""
    queries: dict[str, str] = {}
    lines: dict[str, int] = {}
    for row in read_rows(file):
        query_id, text, *_ = parse_query(row, options.query_field)
        if query_id in queries:
            raise row.error(
                f"duplicate id, first on line {lines[query_id]}", "query_id", query_id, "each id once",
                "Remove one of the two lines or rename its id",
            )  # fmt: skip
        queries[query_id], lines[query_id] = text, row.line
    return queries


def _check_judgements(
    qrels: dict[str, dict[str, int]],
    queries: dict[str, str],
    query_file: Path,
    qrels_file: Path,
    corpus: CorpusStore,
) -> None:
    for query_id, judged in qrels.items():
        if query_id not in queries:
            line = _line_of(qrels_file, query_id, next(iter(judged)))
            raise DataError(
                "unknown query", file=qrels_file, line=line, field="query_id", found=query_id,
                expected=f"a query of {query_file.name}",
            )  # fmt: skip
    pairs = [(query_id, docid) for query_id, judged in qrels.items() for docid in judged]
    unknown = np.flatnonzero(corpus.rows([docid for _, docid in pairs]) < 0)
    if len(unknown):
        query_id, docid = pairs[int(unknown[0])]
        raise DataError(
            "unknown document", file=qrels_file, line=_line_of(qrels_file, query_id, docid), field="docid",
            found=docid, expected=f"a document of {corpus.source.name}",
        )  # fmt: skip


def _line_of(file: Path, query_id: str, docid: str) -> int | None:
    """The line of a judgement, looked up only when it has to be named."""
    for number, line in read_lines(file):
        cells = [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
        if query_id in cells and docid in cells:
            return number
    return None

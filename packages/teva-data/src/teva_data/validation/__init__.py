"""All problems of a dataset in one go, with their addresses; the dataset need not be one that can be opened.

Errors are what training or evaluation stops at, or would silently get wrong. Warnings are what is often a mistake:
contents that stand twice, texts of markup alone, test queries that are trained on. Memory is bounded: two hashes of 8
bytes for each row and none of its text, and so many kept problems of each class.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from teva_data.columns import QrelsRow, qrels_rows
from teva_data.dataset import CARD, CORPUS, read_card
from teva_data.errors import DataError
from teva_data.pieces import Shelf, Stored
from teva_data.progress import Progress
from teva_data.records import DOCUMENT_ID, DOCUMENT_TEXT, QUERY_ID, QUERY_TEXT, Row, parse_document, parse_query
from teva_data.sources import Reading, Source, find_sources

from .ids import Keys, Place, Reread, hashes_of, same_keys
from .report import Report
from .rows import (
    Sink,
    all_problems,
    classify,
    content,
    identifier,
    references,
    undecodable,
    unseen,
)  # fmt: skip

BATCH = 4096


def validate(path: str | Path, *, split: str | None = None, decode: bool = False, keep: int = 1000) -> Report:
    """Look for everything that is wrong with a dataset. It reads the files themselves, and builds no store.

    Args:
        path: the dataset's directory.
        split: look at the corpus and at this split alone.
        decode: also open every picture, recording and clip (``teva-data[image]``, ``[audio]``, ``[video]``).
        keep: problems of each class that are kept; all are counted.

    Returns:
        The problems; :attr:`Report.errors` is 0 where the dataset is right.

    Raises:
        DataError: there is no such directory, or no such split.
        MissingExtraError: ``decode`` needs a decoder that is not installed.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise DataError(
            "not a dataset", file=directory, found="a file" if directory.exists() else "nothing",
            expected="a directory with a corpus and its splits",
        )  # fmt: skip
    report = Report(directory, keep)
    sources = _sources(directory, report)
    judged = _qrels_files(directory, report)
    if split is not None and split not in sources and split not in judged:
        known = sorted((set(sources) | set(judged)) - {CORPUS})
        raise DataError("unknown split", file=directory, found=split, expected=f"one of {known}")
    check = _Check(report, directory, decode)
    _check_card(directory / CARD, report)
    corpus = check.corpus(sources.pop(CORPUS)) if CORPUS in sources else None
    chosen = [name for name in dict.fromkeys([*sources, *judged]) if split in (None, name)]
    queries = {name: check.split(name, sources.get(name), judged.get(name), corpus) for name in chosen}
    check.overlap({name: keys for name, keys in queries.items() if keys is not None}, sources)
    report.problems.sort(key=lambda problem: (str(problem.error.file), problem.error.line or 0))
    return report


@dataclass
class _Check:
    """The passes over the files.

    Attributes:
        report: takes the problems.
        root: the dataset's directory.
        decode: whether media are opened.
    """

    report: Report
    root: Path
    decode: bool

    def corpus(self, source: Source) -> Keys:
        """Check all documents; returns their ids."""
        ids, contents = Keys(), Keys()
        shelf = Shelf(self.root)
        for row in self._rows(source):
            if self._row(row, lambda row: parse_document(row, shelf=shelf), DOCUMENT_TEXT):
                contents.add(content(row.record, DOCUMENT_TEXT))
            if (docid := identifier(row.record, DOCUMENT_ID)) is not None:
                ids.add(docid)
        self._duplicates(ids, source, DOCUMENT_ID)
        again = _reread(source, lambda row: content(row.record, DOCUMENT_TEXT))
        for _, first, (file, line) in same_keys(contents.repeated(), again):
            problem = f"the content of {_at(first, file)} again"
            self._add("duplicate-content", problem, file, line, hint="Two ids for one document make false negatives")
        return ids

    def split(self, name: str, source: Source | None, qrels: Path | None, corpus: Keys | None) -> Keys | None:
        """Check a split and its judgements; returns what its queries say, None where there are no queries."""
        ids, contents, unanswered = Keys(), Keys(), list[tuple[str, Place]]()
        if source is not None:
            shelf = Shelf(self.root)
            for batch in _batches(self._rows(source)):
                for row in batch:
                    if self._row(row, lambda row: parse_query(row, shelf=shelf), QUERY_TEXT):
                        contents.add(content(row.record, QUERY_TEXT))
                    self._query(row, ids, unanswered)
                if corpus is not None:
                    self._unknown_documents(batch, corpus)
            self._duplicates(ids, source, QUERY_ID)
        elif qrels is not None:
            self._add(
                "qrels-without-queries", "no queries for these judgements", qrels, None,
                expected=f"a split {name!r} in the dataset", hint="Is the split's file missing, or named otherwise?",
            )  # fmt: skip
        answered = self._judgements(qrels, None if source is None else ids, corpus) if qrels is not None else Keys()
        lacking = ~answered.holds(hashes_of(query_id for query_id, _ in unanswered))
        for (query_id, (file, line)), bad in zip(unanswered, lacking.tolist(), strict=True):
            if bad:
                self._add(
                    "no-positive", "no positive", file, line, field="positive_document_ids", found=query_id,
                    expected="at least one docid" + (", or a judgement above 0" if qrels is not None else ""),
                )  # fmt: skip
        return None if source is None else contents

    def overlap(self, queries: dict[str, Keys], sources: dict[str, Source]) -> None:
        """Queries of other splits that stand in a split to train on (its name begins with ``train``) too."""
        say = [_reread(sources[name], lambda row: content(row.record, QUERY_TEXT)) for name in queries]
        reread = dict(zip(queries, say, strict=True))
        for train, other in itertools.product(queries, queries):
            if not train.startswith("train") or other.startswith("train"):
                continue
            common = queries[train].common(queries[other])
            for _, first, (file, line) in same_keys(common, reread[train], reread[other]):
                problem = f"the query stands in {_at(first, file)} too"
                self._add(
                    "train-test-overlap",
                    problem,
                    file,
                    line,
                    hint="Scores on it would be of queries that were trained on",
                )

    def _rows(self, source: Source) -> Iterator[Row]:
        reading, count = Reading(), 0
        sink = Sink(lambda error: self.report.add("malformed", error))
        with Progress(source.size // 1000, f"read {source.path.name}", "kB") as progress:
            for file in source.files:
                try:
                    for row in reading.rows(file, sink):
                        count += 1
                        yield row
                        if count % BATCH == 0:
                            progress.add(reading.bytes // 1000 - progress.count)
                except DataError as error:  # the file itself: gone, or changed meanwhile
                    self.report.add("malformed", error)
            progress.add(reading.bytes // 1000 - progress.count)
        self.report.rows[source.path.name] = count

    def _row(self, row: Row, parse: Callable[[Row], tuple[Any, ...]], text: Sequence[str]) -> bool:
        """Check a row by itself; whether it can be read."""
        problems, values = all_problems(row, parse)
        for error in problems:
            self.report.add(classify(error), error)
        pieces: Stored | None = None if values is None else values[-1]
        if self.decode and pieces is not None:
            for error in undecodable(row, pieces, self.root):
                self.report.add("unreadable-media", error)
        if (found := unseen(row.record, text)) is not None:
            error = row.error("a text that shows nothing", found[0], found=found[1], expected="more than markup")
            self.report.add("no-visible-text", error)
        return not problems

    def _query(self, row: Row, ids: Keys, unanswered: list[tuple[str, Place]]) -> None:
        query_id = identifier(row.record, QUERY_ID)
        positives, negatives = references(row.record)
        if query_id is not None:
            ids.add(query_id)
        if not positives:
            unanswered.append((query_id or "", (row.file, row.line)))
        for docid in sorted(set(positives).intersection(negatives)):
            self.report.add(
                "positive-and-negative",
                row.error(
                    "positive and negative at once", "negative_document_ids", found=docid,
                    expected="a document that does not answer the query",
                ),
            )  # fmt: skip
        for name, docids in (("positive_document_ids", positives), ("negative_document_ids", negatives)):
            if len(set(docids)) < len(docids):
                twice = next(docid for docid, count in Counter(docids).items() if count > 1)
                self.report.add("listed-twice", row.error("listed twice", name, found=twice))

    def _unknown_documents(self, batch: Sequence[Row], corpus: Keys) -> None:
        named = [
            (row, name, docid)
            for row in batch
            for name, docids in zip(
                ("positive_document_ids", "negative_document_ids"), references(row.record), strict=True
            )
            for docid in docids
        ]
        known = corpus.holds(hashes_of(docid for _, _, docid in named))
        for at in np.flatnonzero(~known).tolist():
            row, name, docid = named[at]
            self.report.add("unknown-docid", row.error("unknown document", name, docid, "a docid of the corpus"))

    def _judgements(self, path: Path, queries: Keys | None, corpus: Keys | None) -> Keys:
        """Check a file of judgements; returns ids of the queries that it names an answer of."""
        bad = Sink(lambda error: self.report.add("bad-judgement", error))
        pairs, answered, count = Keys(), Keys(), 0
        try:
            for batch in _batches(qrels_rows(path, bad)):
                self._judgement_ids(path, batch, queries, corpus)
                for each in batch:
                    pairs.add(f"{each.query_id}\t{each.docid}")
                    if each.grade > 0:
                        answered.add(each.query_id)
                count += len(batch)
        except DataError as error:
            bad.append(error)
        self.report.rows[f"qrels/{path.name}"] = count

        def again() -> Iterator[tuple[Place, str]]:
            with contextlib.suppress(DataError):  # it has been told of in the first reading
                for each in qrels_rows(path, Sink(lambda _: None)):
                    yield (path, each.line), f"{each.query_id}\t{each.docid}"

        for pair, (_, first), (_, line) in same_keys(pairs.repeated(), again):
            query_id, _, docid = pair.partition("\t")
            problem = f"document twice for query {query_id!r}, first on line {first}"
            self._add("duplicate-judgement", problem, path, line, field="docid", found=docid)
        return answered

    def _judgement_ids(self, path: Path, batch: Sequence[QrelsRow], queries: Keys | None, corpus: Keys | None) -> None:
        for kind, keys, name, ids in (
            ("unknown-query", queries, "query_id", [each.query_id for each in batch]),
            ("unknown-docid", corpus, "docid", [each.docid for each in batch]),
        ):
            if keys is None:
                continue
            for at in np.flatnonzero(~keys.holds(hashes_of(ids))).tolist():
                what = "a query of the split" if name == "query_id" else "a docid of the corpus"
                self._add(kind, "unknown", path, batch[at].line, field=name, found=ids[at], expected=what)

    def _duplicates(self, ids: Keys, source: Source, names: tuple[str, ...]) -> None:
        for found, first, (file, line) in same_keys(
            ids.repeated(), _reread(source, lambda row: identifier(row.record, names))
        ):
            self._add(
                "duplicate-id", f"duplicate id, first on {_at(first, file)}", file, line, field=names[0], found=found,
                expected="each id once", hint="Remove one of the two lines or rename its id",
            )  # fmt: skip

    def _add(self, kind: str, problem: str, file: Path | None, line: int | None, **more: Any) -> None:
        self.report.add(kind, DataError(problem, file=file, line=line, **more))


def _at(place: Place, file: Path) -> str:
    return f"line {place[1]}" + ("" if place[0] == file else f" of {place[0].name}")


def _reread(source: Source, key: Callable[[Row], str | None]) -> Reread:
    def again() -> Iterator[tuple[Place, str]]:
        with contextlib.suppress(DataError):  # it has been told of in the first reading
            for row in source.rows(problems=Sink(lambda _: None)):
                if (found := key(row)) is not None:
                    yield (row.file, row.line), found

    return again


def _batches(items: Iterator[Any]) -> Iterator[list[Any]]:
    while batch := list(itertools.islice(items, BATCH)):
        yield batch


def _sources(directory: Path, report: Report) -> dict[str, Source]:
    sources = find_sources(directory, Sink(lambda error: report.add("layout", error)))
    if CORPUS not in sources:
        found = sorted(path.name for path in directory.iterdir())
        report.add("layout", DataError("no corpus", file=directory, found=found, expected=f"{CORPUS}.jsonl"))
    return sources


def _qrels_files(directory: Path, report: Report) -> dict[str, Path]:
    """The judgements of each split; of two files for one split the first, and a problem."""
    found: dict[str, Path] = {}
    for place in sorted((directory / "qrels").glob("*")):
        if not place.name.endswith((".tsv", ".tsv.gz")) or not place.is_file():
            continue
        first = found.setdefault(place.name.removesuffix(".gz").removesuffix(".tsv"), place)
        if first != place:
            error = DataError(
                "two files of judgements for one split", file=place, expected=f"{first.name} alone, or this one",
                hint="Remove the one that is out of date",
            )  # fmt: skip
            report.add("layout", error)
    return found


def _check_card(path: Path, report: Report) -> None:
    try:
        read_card(path)
    except DataError as error:
        report.add("card", error)
        # The reader tells the first; the checker knows all.
        if isinstance(error.__cause__, ValidationError):
            for other in error.__cause__.errors()[1:]:
                name = ".".join(map(str, other["loc"]))
                problem = "unknown key" if other["type"] == "extra_forbidden" else other["msg"]
                report.add("card", DataError(problem, file=path, field=name, found=other["input"]))

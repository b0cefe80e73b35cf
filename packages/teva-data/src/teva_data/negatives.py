"""Training negatives from a run: what a search ranked high and no judgement calls an answer."""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from .conversion import write_queries
from .dataset import Dataset
from .errors import DataError
from .progress import Progress
from .records import Query, join_title
from .runs import read_run
from .store import CorpusStore, QueryStore

logger = logging.getLogger(__name__)

BLOCK = 256

# (prompt, text) of a query to the ids of its positives, in order.
_Positives = defaultdict[tuple[str | None, str], dict[str, None]]


@dataclass(slots=True)
class Report:
    """What mining did.

    Attributes:
        queries: queries written.
        unsearched: of these, how many the run does not hold; they have no negatives.
        too_few: how many have fewer than ``count`` negatives (those without any included).
        without: how many have none.
        excluded_positives: ranked documents left out because they are positives of the query, or of one with its text.
        excluded_equal: ranked documents left out because their text (with title) is that of a positive.
    """

    queries: int = 0
    unsearched: int = 0
    too_few: int = 0
    without: int = 0
    excluded_positives: int = 0
    excluded_equal: int = 0

    def __str__(self) -> str:
        return (
            f"{self.queries} queries; {self.too_few} with fewer negatives than asked for, {self.without} with none, "
            f"{self.unsearched} not in the run; left out {self.excluded_positives} ranked positives and "
            f"{self.excluded_equal} documents with the text of a positive"
        )


@dataclass(frozen=True)
class _Choice:
    """How negatives are chosen; see :func:`mine_negatives`."""

    count: int
    skip: int
    depth: int
    sample: Literal["top", "random"]
    seed: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise DataError("out of range", field="count", found=self.count, expected="at least 1")
        if not 0 <= self.skip < self.depth:
            raise DataError(
                "out of range", field="skip", found=self.skip, expected=f"0 to {self.depth - 1} (depth - 1)"
            )
        if self.sample not in ("top", "random"):
            raise DataError("unknown", field="sample", found=self.sample, expected="top or random")
        if not 0 <= self.seed < 2**64:
            raise DataError("out of range", field="seed", found=self.seed, expected="0 to 2**64 - 1")

    def pick(self, query_id: str, candidates: list[str]) -> list[str]:
        """``count`` of the candidates, in their order."""
        if self.sample == "top" or len(candidates) <= self.count:
            return candidates[: self.count]
        # The smallest keyed hashes are a uniform sample, and it depends on no other query and no generator's state.
        key = [xxhash.xxh3_64_intdigest(f"{query_id}\t{docid}".encode(), seed=self.seed) for docid in candidates]
        chosen = sorted(sorted(range(len(candidates)), key=key.__getitem__)[: self.count])
        return [candidates[at] for at in chosen]


def mine_negatives(
    dataset: Dataset | str | Path,
    split: str,
    run: str | Path,
    output: str | Path,
    *,
    count: int = 8,
    skip: int = 0,
    depth: int = 100,
    sample: Literal["top", "random"] = "random",
    seed: int = 0,
    overwrite: bool = False,
) -> Report:
    """Write a split's queries with negatives taken from a run; negatives that they had are replaced.

    A document is no negative where it is a positive of the query, or of another query with the same text and prompt,
    or where its text, title included, is that of such a positive.

    Args:
        dataset: the dataset, or its directory.
        split: whose queries.
        run: a run of these queries over the dataset's corpus (three or six columns).
        output: the file to write, ``.jsonl``; in the dataset's directory it is a new split.
        count: negatives wanted for each query.
        skip: ranks left out at the top, where unjudged answers are likeliest.
        depth: ranks looked at, those left out included.
        sample: ``top`` takes the best ranked; ``random`` any of the ranks, each equally likely.
        seed: names the random choice.
        overwrite: replace a file that is there.

    Returns:
        Counts of what was done; they are logged too.

    Raises:
        DataError: the run names an unknown document, or none of the split's queries; the split does not pass
            :meth:`Dataset.check_references`; the output may not be written; or an argument is out of range.
    """
    choice = _Choice(count, skip, depth, sample, seed)
    if not isinstance(dataset, Dataset):
        dataset = Dataset.open(dataset)
    output = Path(output)
    _check_output(output, dataset, split, overwrite)
    dataset.check_references(split)
    queries, ranked = dataset.queries(split), read_run(run)
    query_ids = queries.query_ids(0, len(queries))
    if not any(query_id in ranked for query_id in query_ids):
        raise DataError(
            f"no query of the split {split!r} is in the run", file=run, found=list(ranked)[:3],
            expected=f"ids such as {query_ids[0]!r}", hint="Is it the run of another split?",
        )  # fmt: skip
    miner = _Miner(choice, ranked, Path(run), _positives_by_question(queries), _Texts(dataset.corpus), Report())
    write_queries(output, miner.mine(queries))
    logger.info("%s: %s", output, miner.report)
    return miner.report


@dataclass(frozen=True)
class _Miner:
    """One pass over the queries of a split.

    Attributes:
        choice: how negatives are chosen.
        ranked: the run.
        run: its file, for errors.
        positives: what answers a question, whichever of the queries that ask it says so.
        texts: what documents say.
        report: counts what is done.
    """

    choice: _Choice
    ranked: Mapping[str, Sequence[tuple[str, float]]]
    run: Path
    positives: _Positives
    texts: _Texts
    report: Report

    def mine(self, queries: QueryStore) -> Iterator[Query]:
        """The queries with negatives, in their order."""
        with Progress(len(queries), "mine negatives", "queries") as progress:
            for start in range(0, len(queries), BLOCK):
                block = queries.queries(start, min(start + BLOCK, len(queries)))
                found = [self._found(query) for query in block]
                own = [self.positives[_question(query)] for query in block]
                hashes = self.texts.of(itertools.chain(*own, *found))
                for query, positives, docids in zip(block, own, found, strict=True):
                    yield self._with_negatives(query, self._candidates(query, positives, docids, hashes))
                progress.add(len(block))

    def _found(self, query: Query) -> list[str]:
        pairs = self.ranked.get(query.query_id, ())[self.choice.skip : self.choice.depth]
        return [docid for docid, _ in pairs]

    def _candidates(
        self, query: Query, positives: Iterable[str], found: list[str], hashes: Mapping[str, int | None]
    ) -> list[str]:
        positives = set(positives)
        positive_texts = {hashes[docid] for docid in positives}
        candidates = []
        for docid in found:
            text = hashes[docid]
            if text is None:
                raise DataError(
                    f"unknown document, found for the query {query.query_id!r}", file=self.run, field="docid",
                    found=docid, expected=f"a docid of {self.texts.corpus.source.name}",
                    hint="Is it a run over another corpus?",
                )  # fmt: skip
            if docid in positives:
                self.report.excluded_positives += 1
            elif text in positive_texts:
                self.report.excluded_equal += 1
            else:
                candidates.append(docid)
        return candidates

    def _with_negatives(self, query: Query, candidates: list[str]) -> Query:
        negatives = self.choice.pick(query.query_id, candidates)
        self.report.queries += 1
        self.report.unsearched += query.query_id not in self.ranked
        self.report.too_few += len(negatives) < self.choice.count
        self.report.without += not negatives
        return replace(query, negative_document_ids=tuple(negatives), negative_scores=None)


def _question(query: Query) -> tuple[str | None, str]:
    return query.prompt, query.query_text


def _positives_by_question(queries: QueryStore) -> _Positives:
    positives: _Positives = defaultdict(dict)
    for query in queries:
        positives[_question(query)].update(dict.fromkeys(query.positive_document_ids))
    return positives


class _Texts:
    """Hashes of documents' texts, title included; each document is read once. 9 bytes for each of the corpus."""

    def __init__(self, corpus: CorpusStore) -> None:
        self.corpus = corpus
        self._hashes = np.zeros(len(corpus), dtype=np.uint64)
        self._known = np.zeros(len(corpus), dtype=bool)

    def of(self, docids: Iterable[str]) -> dict[str, int | None]:
        """The hash of each document; None for an unknown id."""
        distinct = list(dict.fromkeys(docids))
        rows = self.corpus.rows(distinct)
        inside = rows >= 0
        self._read(np.unique(rows[inside]))
        hashes: dict[str, int | None] = dict.fromkeys(distinct)
        for at, number in zip(np.flatnonzero(inside).tolist(), self._hashes[rows[inside]].tolist(), strict=True):
            hashes[distinct[at]] = number
        return hashes

    def _read(self, rows: NDArray[np.int64]) -> None:
        new = rows[~self._known[rows]]
        self._hashes[new] = [
            xxhash.xxh3_64_intdigest(join_title(document.title, document.document_text).encode())
            for document in self.corpus.get(new)
        ]
        self._known[new] = True


def _check_output(output: Path, dataset: Dataset, split: str, overwrite: bool) -> None:
    if output.suffix != ".jsonl":
        raise DataError("not a name for queries", file=output, expected="a name that ends in .jsonl")
    inside = output.resolve().parent == dataset.path.resolve()
    taken = output.stem in ("corpus", split) or (output.stem in dataset.splits and not output.exists())
    if inside and taken:
        raise DataError(
            "the name is taken in this dataset", file=output, found=["corpus", *dataset.splits],
            hint=f"Choose another, such as {split}-mined.jsonl",
        )  # fmt: skip
    if output.exists() and not overwrite:
        raise DataError("the file is there already", file=output, hint="Overwrite it (--overwrite) or name another")

"""How negatives are mined: which ranked documents may be one, which queries are left out, and what is counted."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from teva_data.errors import DataError
from teva_data.progress import Progress
from teva_data.records import Query
from teva_data.runs import Found, iterate_run
from teva_data.store import QueryStore

from .answers import Answers, Texts
from .choice import Choice, Pairs, Report
from .files import Chosen, Note, Spool

BLOCK = 256

# Rank (from 1) and score of those positives of a query that the run holds.
Held = dict[str, tuple[int, float]]


@dataclass(frozen=True)
class Miner:
    """One pass over the run, and one over the queries of the split.

    Attributes:
        choice: how negatives are chosen.
        split: the split's name, for errors.
        run: the run's file.
        queries: the split's queries.
        answers: what answers a question, whichever of the queries that ask it says so.
        texts: what documents say.
        spool: what was chosen.
        note: writes a line of the report's file.
        report: counts what is done.
    """

    choice: Choice
    split: str
    run: Path
    queries: QueryStore
    answers: Answers
    texts: Texts
    spool: Spool
    note: Note
    report: Report

    def search(self) -> None:
        """Choose for each query that the run holds."""
        known, strangers = 0, list[str]()
        with Progress(len(self.queries), "mine negatives", "queries") as progress:
            for block in _blocks(iterate_run(self.run)):
                rows = self.queries.rows([found.query_id for found in block]).tolist()
                pairs = [(row, found) for row, found in zip(rows, block, strict=True) if row >= 0]
                self._choose(pairs)
                known += len(pairs)
                if not known:
                    strangers += [found.query_id for found in block[: 3 - len(strangers)]]
                progress.add(len(pairs))
        if not known:
            raise DataError(
                f"no query of the split {self.split!r} is in the run", file=self.run, found=strangers,
                expected=f"ids such as {self.queries.query_ids(0, 1)[0]!r}",
                hint="Is it the run of another split?",
            )  # fmt: skip

    def _choose(self, block: Sequence[tuple[int, Found]]) -> None:
        queries = self.queries.get([row for row, _ in block])
        answers = [self.answers.of(query) for query in queries]
        windows = [found.pairs[self.choice.skip : self.choice.depth] for _, found in block]
        ranked = (docid for window in windows for docid, _ in window)
        hashes = self.texts.of(itertools.chain(*answers, ranked))
        for (row, found), query, own, window in zip(block, queries, answers, windows, strict=True):
            if self.spool.holds(row):
                raise DataError(
                    "the lines of a query do not stand together", file=self.run, line=found.line, field="query_id",
                    found=query.query_id, hint="Sort the run by its first column (sort -s -k1,1)",
                )  # fmt: skip
            held = _held(query, found.pairs)
            if self._dropped(query, held):
                self.spool.drop(row)
            else:
                limit = self.choice.limit(_score(held, found.pairs))
                self._refuse_unknown(found, window, hashes)
                candidates = self._candidates(query, set(own), window, hashes, limit)
                self.spool.put(row, self._chosen(query, self.choice.pick(query.query_id, candidates), held, found))

    def _dropped(self, query: Query, held: Held) -> bool:
        """Whether a query is left out for where its positives rank; counted and noted."""
        most = self.choice.drop_below
        scored = self.choice.by_score or self.choice.keep_scores
        if most is not None and not any(rank <= most for rank, _ in held.values()):
            self.report.dropped_low += 1
            self._note(query, f"no positive among the first {most}", query.positive_document_ids, dropped=True)
            return True
        if not held and scored and self.choice.unranked == "drop":
            self.report.dropped_unranked += 1
            self._note(query, "no positive in the run", query.positive_document_ids, dropped=True)
            return True
        return False

    def _refuse_unknown(self, found: Found, window: Pairs, hashes: Mapping[str, int | None]) -> None:
        for docid, _ in window:
            if hashes[docid] is None:
                raise DataError(
                    f"unknown document, found for the query {found.query_id!r}", file=self.run, line=found.line,
                    field="docid", found=docid, expected=f"a docid of {self.texts.corpus.source.name}",
                    hint="That is the query's first line. Is it a run over another corpus?",
                )  # fmt: skip

    def _candidates(
        self, query: Query, answers: set[str], window: Pairs, hashes: Mapping[str, int | None], limit: float
    ) -> Pairs:
        texts = {hashes[docid] for docid in answers}
        kept, positive, equal, near = Pairs(), list[str](), list[str](), list[str]()
        for docid, score in window:
            if docid in answers:
                positive.append(docid)
            elif hashes[docid] in texts:
                equal.append(docid)
            elif score > limit:
                near.append(docid)
            else:
                kept.append((docid, score))
        self.report.excluded_positives += len(positive)
        self.report.excluded_equal += len(equal)
        self.report.excluded_near += len(near)
        self._note(query, "answers the question", positive)
        self._note(query, "text of an answer", equal)
        self._note(query, "score too near to the positive's", near, limit=limit)
        return kept

    def _chosen(self, query: Query, negatives: Pairs, held: Held, found: Found) -> Chosen:
        docids = [docid for docid, _ in negatives]
        self.report.unranked += len(held) < len(set(query.positive_document_ids))
        if not self.choice.keep_scores:
            return Chosen(docids)
        lowest = found.pairs[-1][1]
        positive_scores = [held[docid][1] if docid in held else lowest for docid in query.positive_document_ids]
        return Chosen(docids, [score for _, score in negatives], positive_scores)

    def mined(self) -> Iterator[Query]:
        """The queries with negatives, in the split's order."""
        for start in range(0, len(self.queries), BLOCK):
            block = self.queries.queries(start, min(start + BLOCK, len(self.queries)))
            for row, query in enumerate(block, start):
                if (chosen := self._of(row, query)) is not None:
                    yield self._with_negatives(query, chosen)
        if not self.report.queries:
            raise DataError(
                "every query is dropped", file=self.run,
                found=f"{self.report.dropped_low} low, {self.report.dropped_unranked} not ranked at all",
                expected="a positive of a query among what the run found for it",
                hint="Is it the run of this split, and deep enough?",
            )  # fmt: skip

    def _of(self, row: int, query: Query) -> Chosen | None:
        if self.spool.holds(row):
            return self.spool.get(row)
        if self._dropped(query, {}):
            return None
        self.report.unsearched += 1
        self.report.unranked += 1
        return Chosen([])

    def _with_negatives(self, query: Query, chosen: Chosen) -> Query:
        self.report.queries += 1
        self.report.too_few += len(chosen.docids) < self.choice.count
        self.report.without += not chosen.docids
        changed = replace(
            query,
            negative_document_ids=tuple(chosen.docids),
            negative_scores=None if chosen.scores is None else tuple(chosen.scores),
        )
        if self.choice.keep_scores:
            # Scores of another teacher beside the run's would not be comparable.
            own = None if chosen.positive_scores is None else tuple(chosen.positive_scores)
            changed = replace(changed, positive_scores=own)
        return changed

    def _note(
        self, query: Query, reason: str, docids: Iterable[str], *, dropped: bool = False, limit: float | None = None
    ) -> None:
        if listed := list(docids):
            more = {} if limit is None else {"limit": limit}
            self.note(query_id=query.query_id, dropped=dropped, reason=reason, docids=listed, **more)


def _blocks(found: Iterable[Found]) -> Iterator[list[Found]]:
    iterator = iter(found)
    while block := list(itertools.islice(iterator, BLOCK)):
        yield block


def _held(query: Query, pairs: Pairs) -> Held:
    wanted = set(query.positive_document_ids)
    return {docid: (rank, score) for rank, (docid, score) in enumerate(pairs, 1) if docid in wanted}


def _score(held: Held, pairs: Pairs) -> float:
    """The score that the margins are counted from."""
    return min((score for _, score in held.values()), default=pairs[-1][1])

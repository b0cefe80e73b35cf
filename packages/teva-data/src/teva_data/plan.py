"""Which queries, positives and negatives make the batch at a step: a pure function of (seed, data, settings, step).

No iterator has a state, so a stopped run goes on with exactly the batches that it would have seen. The order of the
queries is :mod:`teva_data.mixture`'s, the choice of each query's documents :mod:`teva_data.sampling`'s; both are
arithmetic and equal in every interpreter. A global batch is cut by position over any number of processes, so it is the
same for each number of them; a process reads the id lists of all its queries but the texts of its own documents only.

Sameness is decided by ids, never by content: a process cannot compare texts that it does not read, and what is masked
must not depend on how many processes there are. Converting a dataset merges documents of one text, and mining leaves
out negatives that have a positive's text.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .dataset import Dataset
from .errors import DataError
from .files import fingerprint
from .mixture import Batches, Draw, Mixture, Strategy
from .recipe import Recipe
from .records import Document, Query
from .sampling import Method, Sampler
from .store import BLOCK_ROWS, CorpusStore, QueryStore

Int64 = NDArray[np.int64]
_VERSION = 1  # counted up where the same settings and data would give other batches


@dataclasses.dataclass(frozen=True)
class Part:
    """One dataset of a plan.

    Attributes:
        dataset: where queries and documents come from.
        split: the training split.
        weight: its share of the batches relative to the others', for mixing ``weighted`` alone.
        repeat: how often each of its queries comes in an epoch, for mixing ``proportional`` and ``temperature``.
        limit: queries used at most, the same ones in all epochs; None: all.
        negatives: listed negatives taken for each query; None: as many as the plan says.
        query_prompt: put before its queries that have no prompt of their own; None: the model's.
        document_prompt: put before its documents; None: the model's.
    """

    dataset: Dataset
    split: str = "train"
    weight: float | None = None
    repeat: float = 1
    limit: int | None = None
    negatives: int | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """One process's part of a global batch of Q queries and the D distinct documents that they name.

    A document is one column of the score matrix. Two columns have the same docid only where they are of different
    corpora, or have different prompts.

    Attributes:
        step: which batch this is.
        queries: the process's own, q of them; their prompts are the rows' own, else their part's, else None.
        documents: the process's own.
        document_prompts: of each own document, None for the model's.
        query_range: first (included) and last (not included) of the own queries in the global batch.
        document_range: the same of the own documents: their columns.
        query_count: Q.
        document_count: D.
        positives: int64 [q], the column of each query's positive.
        groups: int64 [q, 1 + n], columns of each query's positive and of its own listed negatives, -1 for none.
        scores: float64 [q, 1 + n], the teacher's scores of the groups, NaN for none.
        excluded: int64 [M, 2], pairs (own query, column) of documents that are neither positive nor negative for a
            query: their id is one of its positives', or of another query's of the same text and prompt.
        dataset: int64 [q], number of the part that each query is of.
        all_positives: int64 [Q], ``positives`` of all queries of the global batch, for losses that compare queries.
        all_excluded: int64 [N, 2], ``excluded`` of all, as (query of the global batch, column).
    """

    step: int
    queries: list[Query]
    documents: list[Document]
    document_prompts: list[str | None]
    query_range: tuple[int, int]
    document_range: tuple[int, int]
    query_count: int
    document_count: int
    positives: Int64
    groups: Int64
    scores: NDArray[np.float64]
    excluded: Int64
    dataset: Int64
    all_positives: Int64
    all_excluded: Int64

    @property
    def allowed(self) -> NDArray[np.bool_]:
        """bool [q, D], False where a pair is excluded: what a loss leaves out."""
        allowed = np.ones((len(self.queries), self.document_count), dtype=bool)
        allowed[self.excluded[:, 0], self.excluded[:, 1]] = False
        return allowed


class BatchPlan:
    """The batches of one or several datasets.

    Args:
        parts: the datasets; their ids are checked here.
        batch_size: queries in a global batch.
        negatives: listed negatives taken for each query; a query that has fewer gives all it has.
        seed: names the order and all choices.
        mixing: the datasets' shares, see :class:`teva_data.mixture.Mixture`.
        mixing_temperature: for mixing ``temperature``.
        batches: what one batch may hold; a dataset's modality is the set of kinds that its queries and documents have.
        positive_sampling: how a query's positive is chosen, see :mod:`teva_data.sampling`.
        negative_sampling: how its negatives are.
        score_temperature: for ``scored`` sampling.

    Raises:
        DataError: a split is empty; a query names no positive or an unknown document, or has no scores to sample by.
        ValueError: a setting is out of range, or has no meaning with the others.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        batch_size: int,
        negatives: int,
        seed: int,
        mixing: Strategy = "proportional",
        mixing_temperature: float | None = None,
        batches: Batches = "mixed",
        positive_sampling: Method = "rotate",
        negative_sampling: Method = "rotate",
        score_temperature: float = 1.0,
    ) -> None:
        self.parts, self.batch_size, self.seed = list(parts), batch_size, seed
        self._wanted = [negatives if part.negatives is None else part.negatives for part in parts]
        if min([negatives, *self._wanted]) < 0:
            raise ValueError(f"negatives {min([negatives, *self._wanted])}; expected at least 0")
        sampling = {"positive": positive_sampling, "negative": negative_sampling}
        self._sampler = Sampler(seed, **sampling, score_temperature=score_temperature)
        self._stores = [_checked(part) for part in parts]
        self.mixture = Mixture(
            [len(store) for store in self._stores], batch_size=batch_size, seed=seed, strategy=mixing,
            weights=_weights(parts, mixing), repeats=[part.repeat for part in parts],
            limits=[part.limit for part in parts], temperature=mixing_temperature, batches=batches,
            groups=[modality(part) for part in parts] if batches == "one_modality" else None,
        )  # fmt: skip
        for store, wanted in zip(self._stores, self._wanted, strict=True):
            _check_scores(store, wanted, **sampling)
        self._settings = {
            "batch_size": batch_size, "seed": seed, "mixing": mixing, "mixing_temperature": mixing_temperature,
            "batches": batches, **sampling, "score_temperature": score_temperature, "negatives": self._wanted,
        }  # fmt: skip
        corpora = [_corpus_name(part, parts) for part in parts]
        self._corpora = {name: part.dataset.corpus for name, part in zip(corpora, parts, strict=True)}
        # What makes documents of one id the same: corpus and prompt.
        self._sources = [(name, part.document_prompt) for name, part in zip(corpora, parts, strict=True)]

    @classmethod
    def of(cls, dataset: Dataset, split: str, *, batch_size: int, negatives: int, seed: int) -> BatchPlan:
        """The plan of one split of one dataset."""
        return cls([Part(dataset, split)], batch_size=batch_size, negatives=negatives, seed=seed)

    @classmethod
    def from_recipe(cls, recipe: Recipe, datasets: Sequence[Dataset] | None = None) -> BatchPlan:
        """The plan that a recipe's ``data`` and ``train`` sections describe.

        Args:
            recipe: a checked recipe.
            datasets: those of ``recipe.data.listed()``, where they are open already.
        """
        data = recipe.data
        if datasets is None:
            datasets = [Dataset.open(one.path, lenient=data.bad_pictures == "skip") for one in data.listed()]
        parts = [
            Part(dataset, **one.model_dump(exclude={"path"}))
            for dataset, one in zip(datasets, data.listed(), strict=True)
        ]
        return cls(
            parts, batch_size=recipe.train.batch_size, negatives=data.negatives, seed=recipe.train.seed,
            mixing=data.mixing, mixing_temperature=data.mixing_temperature, batches=data.batches,
            positive_sampling=data.positive_sampling, negative_sampling=data.negative_sampling,
            score_temperature=data.score_temperature,
        )  # fmt: skip

    @property
    def size(self) -> int:
        """Queries in all, those past a limit not counted."""
        return sum(self.mixture.counts)

    @cached_property
    def data_fingerprints(self) -> list[str]:
        """The fingerprint of each part's corpus and split."""
        return [part.dataset.fingerprint(part.split) for part in self.parts]

    @cached_property
    def fingerprint(self) -> str:
        """A name for all batches: of the bytes of the data and of the settings, not of where the data lie."""
        settings = [
            (part.weight, part.repeat, part.limit, part.query_prompt, part.document_prompt) for part in self.parts
        ]
        return fingerprint("plan", _VERSION, self.data_fingerprints, settings, self._settings)

    def steps(self, epochs: float) -> int:
        """Batches in ``epochs`` passes over the queries; the last is filled from the next pass."""
        return self.mixture.steps(epochs)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The batch of a step: any step, in any order, the same each time.

        Args:
            step: from 0.
            rank: which process's part, 0 to ``world`` - 1.
            world: processes; each has the queries ``rank * Q // world`` to ``(rank + 1) * Q // world``, and the same
                of the documents, so that the parts together are the global batch.
        """
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world}; expected 0 to {world - 1}")
        draw = self.mixture.draw(step)
        queries = self._queries(draw)
        columns, groups, scores = self._documents(queries, draw)
        own = (rank * len(queries) // world, (rank + 1) * len(queries) // world)
        held = (rank * len(columns) // world, (rank + 1) * len(columns) // world)
        everyones = _excluded(queries, columns, groups)
        # Sorted by query, so a process's own stand together.
        excluded = everyones[slice(*np.searchsorted(everyones[:, 0], own))] - (own[0], 0)
        positives = groups[:, 0].copy()
        groups, scores = groups[slice(*own)], scores[slice(*own)]
        # An own negative that another query of this text has for a positive is none.
        out = np.zeros((len(groups), len(columns) + 1), dtype=bool)
        out[excluded[:, 0], excluded[:, 1]] = True
        dropped = np.take_along_axis(out, groups, axis=1)
        groups, scores = np.where(dropped, -1, groups), np.where(dropped, np.nan, scores)
        keys = columns[slice(*held)]
        return Batch(
            step, queries[slice(*own)], self._texts(keys), [self._sources[part][1] for part, _ in keys],
            own, held, len(queries), len(columns), positives[slice(*own)], groups, scores, excluded,
            draw.dataset[slice(*own)], positives, everyones,
        )  # fmt: skip

    def _queries(self, draw: Draw) -> list[Query]:
        """All queries of a global batch, in its order."""
        queries: dict[int, Query] = {}
        for number in np.unique(draw.dataset).tolist():
            places = np.flatnonzero(draw.dataset == number)
            prompt = self.parts[number].query_prompt
            for place, query in zip(places.tolist(), self._stores[number].get(draw.row[places]), strict=True):
                own = query.prompt is not None or prompt is None
                queries[place] = query if own else dataclasses.replace(query, prompt=prompt)
        return [queries[place] for place in range(len(draw.dataset))]

    def _documents(
        self, queries: Sequence[Query], draw: Draw
    ) -> tuple[list[tuple[int, str]], Int64, NDArray[np.float64]]:
        """The distinct documents of a global batch as (part, docid), the groups and the scores of all queries."""
        positives = self._sampler.positives(
            _lengths([query.positive_document_ids for query in queries]),
            [query.positive_scores for query in queries], draw,
        )  # fmt: skip
        negatives = self._sampler.negatives(
            _lengths([query.negative_document_ids for query in queries]), np.asarray(self._wanted)[draw.dataset],
            [query.negative_scores for query in queries], draw,
        )  # fmt: skip
        columns, keys = dict[tuple[str, str | None, str], int](), list[tuple[int, str]]()
        groups = np.full((len(queries), 1 + max(self._wanted)), -1, dtype=np.int64)
        scores = np.full(groups.shape, np.nan)

        def column(part: int, docid: str) -> int:
            found = columns.setdefault((*self._sources[part], docid), len(keys))
            if found == len(keys):
                keys.append((part, docid))
            return found

        rows = list(zip(queries, draw.dataset.tolist(), positives.tolist(), negatives, strict=True))
        # All positives get their columns first, so that a query's own column does not depend on others' negatives.
        for at, (query, part, place, _) in enumerate(rows):
            groups[at, 0] = column(part, query.positive_document_ids[place])
            if query.positive_scores is not None:
                scores[at, 0] = query.positive_scores[place]
        for at, (query, part, _, places) in enumerate(rows):
            seen = set[int]()  # a list may name a document twice
            for place in places:
                of = column(part, query.negative_document_ids[place])
                if of not in seen:
                    seen.add(of)
                    groups[at, len(seen)] = of
                    if query.negative_scores is not None:
                        scores[at, len(seen)] = query.negative_scores[place]
        return keys, groups, scores

    def _texts(self, keys: Sequence[tuple[int, str]]) -> list[Document]:
        """The documents of some columns, each corpus asked once."""
        by_corpus: defaultdict[str, list[int]] = defaultdict(list)
        for place, (part, _) in enumerate(keys):
            by_corpus[self._sources[part][0]].append(place)
        documents: dict[int, Document] = {}
        for corpus, places in by_corpus.items():
            found = self._corpora[corpus].lookup([keys[place][1] for place in places])
            documents.update(zip(places, found, strict=True))
        return [documents[place] for place in range(len(keys))]


def modality(part: Part) -> str:
    """The kinds that a dataset's queries and documents have, as one name: ``text``, ``image+text``."""
    stores: list[CorpusStore | QueryStore] = [part.dataset.corpus, part.dataset.queries(part.split)]
    return "+".join(sorted({kind for store in stores for kind, count in store.kinds.items() if count}))


def _corpus_name(part: Part, parts: Sequence[Part]) -> str:
    """Equal for parts whose corpora are the same.

    Of texts that is told by their bytes. The fingerprint of a corpus with media knows where they lie in the dataset's
    directory and not what they show, so such corpora are the same in one directory alone.
    """
    name, kinds = part.dataset.fingerprint(), part.dataset.corpus.kinds
    if not any(count for kind, count in kinds.items() if kind != "text"):
        return name
    here = part.dataset.path.resolve()
    return f"{name} {next(at for at, other in enumerate(parts) if other.dataset.path.resolve() == here)}"


def _checked(part: Part) -> QueryStore:
    part.dataset.check_references(part.split)
    store = part.dataset.queries(part.split)
    if not len(store):
        raise DataError("no queries", file=store.source, expected="at least one to train on")
    return store


def _weights(parts: Sequence[Part], mixing: Strategy) -> list[float] | None:
    given = [part.weight for part in parts if part.weight is not None]
    if len(given) != (len(parts) if mixing == "weighted" else 0):
        raise ValueError(
            f"mixing {mixing!r}, {len(given)} weights; expected one for each dataset under 'weighted' alone"
        )
    return given or None


def _check_scores(store: QueryStore, wanted: int, positive: Method, negative: Method) -> None:
    """Refuse a split in which a query would be sampled by scores that it does not have."""
    columns = [name for name, method in (("positive", positive), ("negative", negative)) if method == "scored"]
    if not any(array.null_count for name in columns for array in store.arrays(f"{name}_scores")):
        return
    for start in range(0, len(store), BLOCK_ROWS):
        for row, query in enumerate(store.queries(start, min(start + BLOCK_ROWS, len(store))), start):
            for name in columns:
                taken = 1 if name == "positive" else wanted
                listed = len(getattr(query, f"{name}_document_ids"))
                if 0 < taken < listed and getattr(query, f"{name}_scores") is None:
                    file, line = store.address(row)
                    raise DataError(
                        "no scores to sample by", file=file, line=line, field=f"{name}_scores",
                        expected=f"a score for each of the {listed} documents",
                        hint=f"Choose another data.{name}_sampling than 'scored', or have a teacher score them",
                    )  # fmt: skip


def _excluded(queries: Sequence[Query], columns: Sequence[tuple[int, str]], groups: Int64) -> Int64:
    """int64 [N, 2]: (query, column) of what is neither positive nor negative, sorted; see :class:`Batch`."""
    by_text: defaultdict[object, set[str]] = defaultdict(set)
    for query in queries:
        by_text[query.prompt, query.query_text, query.pieces].update(query.positive_document_ids)
    by_docid: defaultdict[str, list[int]] = defaultdict(list)
    for column, (_, docid) in enumerate(columns):
        by_docid[docid].append(column)
    pairs = []
    for at, query in enumerate(queries):
        docids = by_text[query.prompt, query.query_text, query.pieces]
        named = {column for docid in docids for column in by_docid.get(docid, ())}
        pairs += [(at, column) for column in sorted(named - {int(groups[at, 0])})]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _lengths(lists: Sequence[Sequence[str]]) -> Int64:
    return np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))

"""What is in a dataset, in numbers: sizes, lengths, what stands twice, what splits have in common.

Memory is bounded by counts: some 20 bytes for each document and query, and nothing of their texts.
"""

from __future__ import annotations

import dataclasses
import itertools
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from teva_data.dataset import CORPUS, Dataset
from teva_data.negatives.answers import content
from teva_data.progress import Progress
from teva_data.records import Document, Query, join_title
from teva_data.rendering import Renderer
from teva_data.store import BLOCK_ROWS, CorpusStore, QueryStore

from .scripts import count_scripts, shares

QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class Statistics:
    """How many rows, and how their sizes are spread.

    Attributes:
        name: ``corpus`` or the split.
        rows: documents or queries.
        spreads: what is measured for each row, to its mean and :data:`QUANTILES`; text lengths are in characters,
            those called tokens in tokens of the model, special ones and its prompt included, nothing cut.
        histograms: of each length, the rows with 0, with 1, with 2 to 3, with 4 to 7, ...: a bin for each power of 2.
        repeated: rows that say what an earlier row says (title, text and the places of media; a query's prompt is no
            part of it).
        media: pieces of each kind of media.
        media_bytes: bytes of each kind of media, as often as rows name them.
        scripts: share of each script among the letters at the start of the texts.
        unknown: ids of documents that the rows name and the corpus does not have.
    """

    name: str
    rows: int
    spreads: dict[str, tuple[float, ...]] = field(default_factory=dict)
    histograms: dict[str, tuple[int, ...]] = field(default_factory=dict)
    repeated: int = 0
    media: dict[str, int] = field(default_factory=dict)
    media_bytes: dict[str, int] = field(default_factory=dict)
    scripts: dict[str, float] = field(default_factory=dict)
    unknown: int = 0


@dataclass(frozen=True)
class Overlap:
    """What two splits have in common.

    Attributes:
        splits: their names.
        queries: questions (text and media) that stand in both.
        positives: documents that are positives in both.
    """

    splits: tuple[str, str]
    queries: int
    positives: int


@dataclass(frozen=True)
class DatasetStatistics:
    """Numbers of a whole dataset.

    Attributes:
        parts: of the corpus, and of each split.
        overlaps: of every two splits.
        unnamed: documents that no query names, neither as positive nor as negative.
    """

    parts: list[Statistics]
    overlaps: list[Overlap]
    unnamed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


def statistics(dataset: Dataset | str | Path, *, model: str | Path | None = None) -> DatasetStatistics:
    """Statistics of the corpus, of each split, and of what they have to do with each other.

    Rows are told apart by 64-bit hashes of what they say: among a hundred million, one pair is taken for equal by
    chance once in four thousand datasets.

    Args:
        dataset: the dataset, or its directory.
        model: also count tokens, with the tokenizer and the prompts of this model (directory or hub id).

    Raises:
        DataError: a row of the dataset is bad.
        ArtifactError: the model cannot be read.
    """
    if not isinstance(dataset, Dataset):
        dataset = Dataset.open(dataset)
    renderer = None
    if model is not None:
        from teva_data.artifact import Artifact

        renderer = Renderer.from_artifact(Artifact.load(model))
    corpus = dataset.corpus
    named = np.zeros(len(corpus), dtype=np.bool_)
    parts, positives, questions = [_of_corpus(corpus, renderer)], {}, {}
    for split in dataset.splits:
        part, questions[split], positives[split] = _of_split(split, dataset.queries(split), corpus, named, renderer)
        parts.append(part)
    overlaps = [
        Overlap(
            (first, second),
            len(np.intersect1d(questions[first], questions[second])),
            len(np.intersect1d(positives[first], positives[second])),
        )
        for first, second in itertools.combinations(dataset.splits, 2)
    ]
    return DatasetStatistics(parts, overlaps, int(len(corpus) - named.sum()))


class _Part:
    """Adds up the rows of one part."""

    def __init__(self, name: str, measures: Sequence[str]) -> None:
        self.name, self.rows = name, 0
        self.sizes = {measure: array("i") for measure in measures}
        self.hashes = array("Q")
        self._media: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._scripts: Counter[str] = Counter()

    def add(self, rows: Sequence[Document] | Sequence[Query], texts: Sequence[str], said: Iterable[str]) -> None:
        """Take the next rows, their texts, and what makes them equal to others."""
        self.rows += len(rows)
        self.hashes.extend(xxhash.xxh3_64_intdigest(each.encode("utf-8", "surrogatepass")) for each in said)
        self._scripts += count_scripts(texts)
        for row in rows:
            for medium in row.media if row.pieces else ():
                self._media[medium.kind] += 1
                self._bytes[medium.kind] += medium.length

    def done(self, unknown: int = 0) -> Statistics:
        """The numbers."""
        hashes = np.frombuffer(self.hashes, dtype=np.uint64)
        return Statistics(
            self.name, self.rows,
            spreads={measure: _spread(sizes) for measure, sizes in self.sizes.items()},
            histograms={measure: histogram(sizes) for measure, sizes in self.sizes.items() if measure in _LENGTHS},
            repeated=len(hashes) - len(np.unique(hashes)),
            media=dict(self._media), media_bytes=dict(self._bytes), scripts=shares(self._scripts), unknown=unknown,
        )  # fmt: skip


_LENGTHS = ("text", "title and text", "tokens")


def _of_corpus(corpus: CorpusStore, renderer: Renderer | None) -> Statistics:
    part = _Part(CORPUS, ["text", "title and text", *(["tokens"] if renderer else [])])
    for start, stop in _blocks(len(corpus), CORPUS):
        rows = corpus.documents(start, stop)
        texts = [join_title(row.title, row.document_text) for row in rows]
        part.sizes["text"].extend(len(row.document_text) for row in rows)
        part.sizes["title and text"].extend(len(row.title) + len(row.document_text) for row in rows)
        if renderer:
            rendered = [renderer.document(row.document_text, row.title, None, row.pieces) for row in rows]
            part.sizes["tokens"].extend(renderer.lengths(rendered))
        part.add(rows, texts, map(content, rows))
    return part.done()


def _of_split(
    split: str, queries: QueryStore, corpus: CorpusStore, named: NDArray[np.bool_], renderer: Renderer | None
) -> tuple[Statistics, NDArray[np.uint64], NDArray[np.int64]]:
    """The numbers; hashes of the questions; rows of the documents that are positives, each once. Marks ``named``."""
    part = _Part(split, ["text", *(["tokens"] if renderer else []), "positives", "negatives"])
    answers, unknown = np.empty(0, dtype=np.int64), 0
    for start, stop in _blocks(len(queries), split):
        rows = queries.queries(start, stop)
        texts = [row.query_text for row in rows]
        part.sizes["text"].extend(map(len, texts))
        if renderer:
            rendered = [renderer.query(row.query_text, row.prompt, row.pieces) for row in rows]
            part.sizes["tokens"].extend(renderer.lengths(rendered))
        part.sizes["positives"].extend(len(row.positive_document_ids) for row in rows)
        part.sizes["negatives"].extend(len(row.negative_document_ids) for row in rows)
        part.add(rows, texts, (f"{row.query_text}\0{row.media}" for row in rows))
        found = []
        for ids in ([each.positive_document_ids for each in rows], [each.negative_document_ids for each in rows]):
            places = corpus.rows(list(itertools.chain.from_iterable(ids)))
            unknown += int((places < 0).sum())
            found.append(places[places >= 0])
            named[found[-1]] = True
        answers = np.union1d(answers, found[0])
    return part.done(unknown), np.unique(np.frombuffer(part.hashes, dtype=np.uint64)), answers


def _blocks(rows: int, name: str) -> Iterator[tuple[int, int]]:
    with Progress(rows, f"count {name}", "rows") as progress:
        for start in range(0, rows, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, rows)
            yield start, stop
            progress.add(stop - start)


def _spread(sizes: array[int]) -> tuple[float, ...]:
    values = np.frombuffer(sizes, dtype=np.int32)
    return (float(np.mean(values)), *map(float, np.quantile(values, QUANTILES)))


def histogram(sizes: Sequence[int] | array[int]) -> tuple[int, ...]:
    """Rows in the bins 0, 1, 2 to 3, 4 to 7, ..., up to the last that has any."""
    # frexp's exponent is the number of binary digits, exactly, for whole numbers below 2**53.
    digits = np.frexp(np.asarray(sizes, dtype=np.int64).astype(np.float64))[1]
    return tuple(np.bincount(digits).tolist())

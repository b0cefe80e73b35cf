"""A dataset: a directory with a corpus, query files (the splits), and judgements where a split has them."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from .building import locked
from .errors import DataError, nearest
from .files import fingerprint, remove_leftovers, write_json
from .progress import Progress
from .records import Query
from .runs import read_qrels
from .sources import ENDINGS, Source, find_sources
from .store import BLOCK_ROWS, CorpusStore, QueryStore

CARD = "dataset.yaml"
CORPUS = "corpus"


class DefaultPrompts(BaseModel):
    """Prompts that the dataset was made for; None: none of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    query: str | None = None
    document: str | None = None


class DatasetCard(BaseModel):
    """What ``dataset.yaml`` tells about a dataset; all of it is optional."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    schema_version: Literal["1"] = Field(default="1", alias="schema")
    name: str | None = None
    license: str | None = None
    source: str | None = None
    revision: str | None = None
    citation: str | None = None
    languages: list[str] = Field(default_factory=list)
    modalities: list[str] = Field(default_factory=list)
    prompts: DefaultPrompts = Field(default_factory=DefaultPrompts)

    @field_validator("schema_version", mode="before")
    @classmethod
    def _unquoted(cls, value: object) -> object:
        return str(value) if type(value) is int else value  # YAML reads an unquoted 1 as a number


class Dataset:
    """A dataset on disk. Make one with :meth:`open`; stores are built when they are first asked for.

    Attributes:
        path: the directory, absolute.
        card: what ``dataset.yaml`` says.
        splits: names of the query files, sorted.
    """

    def __init__(self, path: Path, card: DatasetCard, corpus: Source, splits: dict[str, Source]) -> None:
        self.path, self.card = path, card
        self.splits = sorted(splits)
        self._corpus_source, self._query_sources = corpus, splits
        self._corpus: CorpusStore | None = None
        self._queries: dict[str, QueryStore] = {}

    @classmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> Dataset:
        """Look at a directory; no data is read yet.

        Args:
            path: the directory.
            lenient: leave it to who reads a media file to find out that it is not there or empty. Otherwise the row
                that names it is refused when a store is built.

        Raises:
            DataError: it is no directory, it has not exactly one corpus file, a split has two files, or
                ``dataset.yaml`` is wrong.
        """
        # Not relative to a directory that the process, or another one that it hands the dataset to, may leave.
        path = Path(path).absolute()
        if not path.is_dir():
            raise DataError(
                "not a dataset", file=path, found="a file" if path.exists() else "nothing",
                expected="a directory with corpus.jsonl and a file for each split",
                hint="`teva-data convert` makes one of other layouts",
            )  # fmt: skip
        sources = {name: dataclasses.replace(each, lenient=lenient) for name, each in find_sources(path).items()}
        if CORPUS not in sources:
            raise DataError(
                "no corpus", file=path, found=sorted(entry.name for entry in path.iterdir()),
                expected=f"{' or '.join(f'{CORPUS}{ending}' for ending in ENDINGS)}, or a directory of them",
                hint="`teva-data convert` makes a dataset of other layouts",
            )  # fmt: skip
        return cls(path, read_card(path / CARD), sources.pop(CORPUS), sources)

    @property
    def corpus(self) -> CorpusStore:
        """The documents. The first use builds the store where it is not there yet.

        Raises:
            DataError: a row of the corpus is bad.
        """
        if self._corpus is None:
            self._corpus = CorpusStore.open(self._corpus_source)
        return self._corpus

    def queries(self, split: str) -> QueryStore:
        """The queries of a split.

        Raises:
            DataError: there is no such split, or a row of it is bad.
        """
        if split not in self._query_sources:
            hint = nearest(split, self.splits) if self.splits else "It has a corpus only"
            raise DataError("unknown split", file=self.path, found=split, hint=hint)
        if split not in self._queries:
            self._queries[split] = QueryStore.open(self._query_sources[split])
        return self._queries[split]

    def qrels(self, split: str) -> dict[str, dict[str, int]]:
        """The judgements of a split, by query id and docid, of ``qrels/<split>.tsv[.gz]``.

        Raises:
            DataError: there is no such file, or a line of it is bad.
        """
        places = [self.path / "qrels" / f"{split}.tsv{ending}" for ending in ("", ".gz")]
        there = [place for place in places if place.is_file()]
        if len(there) != 1:
            directory = self.path / "qrels"
            raise DataError(
                "two files of judgements for one split" if there else "no judgements for this split", file=directory,
                found=sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else "no directory",
                expected=" or ".join(place.name for place in places),
            )  # fmt: skip
        return read_qrels(there[0])

    def fingerprint(self, split: str | None = None) -> str:
        """A name for the data: of the bytes of the corpus file, and of the split's where one is given."""
        parts = [self.corpus.fingerprint]
        if split is not None:
            parts.append(self.queries(split).fingerprint)
        return fingerprint("dataset", *parts)

    def verify(self) -> list[str]:
        """Read all stores of the dataset and compare them with their checksums; their names.

        A source that has changed gets a new store first, as it would for any other use.

        Raises:
            DataError: a store's file is damaged, or a row of a source is bad.
        """
        stores = {CORPUS: self.corpus, **{split: self.queries(split) for split in self.splits}}
        with Progress(len(stores), "verify", "stores") as progress:
            for store in stores.values():
                store.verify()
                progress.add(1)
        return list(stores)

    def check_references(self, split: str) -> None:
        """Check the ids of a split against the corpus; a success is remembered for these two files.

        Raises:
            DataError: a query has no positive, names an unknown document, or names one as positive and as negative;
                with the query's line.
        """
        queries, name = self.queries(split), self.fingerprint(split)
        memory = queries.directory / "references.json"
        if _remembered(memory) == name:
            return
        for start in range(0, len(queries), BLOCK_ROWS):
            block = queries.queries(start, min(start + BLOCK_ROWS, len(queries)))
            for at, query in enumerate(block, start=start):
                _check_query(query, queries, at)
            self._check_known(queries, block, start)
        # A read-only store is checked again next time.
        with contextlib.suppress(OSError), locked(queries.directory) as alone:
            if alone:
                remove_leftovers(queries.directory, memory.name)
            write_json(memory, {"fingerprint": name})

    def _check_known(self, queries: QueryStore, block: list[Query], start: int) -> None:
        lists = [ids for query in block for ids in (query.positive_document_ids, query.negative_document_ids)]
        ids = list(itertools.chain.from_iterable(lists))
        unknown = np.flatnonzero(self.corpus.rows(ids) < 0)
        if not len(unknown):
            return
        ends = np.cumsum([len(each) for each in lists])
        number = int(np.searchsorted(ends, unknown[0], side="right"))
        file, line = queries.address(start + number // 2)
        raise DataError(
            "unknown document", file=file, line=line,
            field=("positive_document_ids", "negative_document_ids")[number % 2], found=ids[int(unknown[0])],
            expected=f"a docid of {self._corpus_source.path.name}", hint="Do the two files belong together?",
        )  # fmt: skip

    def __reduce__(self) -> tuple[Any, ...]:
        # With the stores that are open, so that the other process has the same rows or an error, never newer ones.
        opened = {"_corpus": self._corpus, "_queries": self._queries}
        return Dataset, (self.path, self.card, self._corpus_source, self._query_sources), opened

    def __repr__(self) -> str:
        return f"Dataset({str(self.path)!r}, splits={self.splits})"


def read_card(path: Path) -> DatasetCard:
    """The card in a ``dataset.yaml``; an empty one where there is no such file.

    Raises:
        DataError: it is no YAML mapping, a key is unknown (the nearest known one is named) or a value is wrong.
    """
    if not path.exists():
        return DatasetCard()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise DataError(f"malformed YAML: {error.problem}", file=path, line=line) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"malformed YAML: {error}", file=path) from error
    if content is None:
        return DatasetCard()
    if not isinstance(content, dict):
        raise DataError("not a mapping", file=path, found=content, expected="key: value lines")
    try:
        return DatasetCard.model_validate(content)
    except ValidationError as error:
        raise _card_error(path, error) from error


def _card_error(path: Path, error: ValidationError) -> DataError:
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        model: type[BaseModel] = DefaultPrompts if len(first["loc"]) > 1 else DatasetCard
        known = [info.alias or name for name, info in model.model_fields.items()]
        return DataError("unknown key", file=path, field=field, hint=nearest(str(first["loc"][-1]), known))
    hint = "Quote it: YAML reads an unquoted no as false" if first["input"] is False else None
    return DataError(first["msg"], file=path, field=field, found=first["input"], hint=hint)


def _check_query(query: Query, queries: QueryStore, row: int) -> None:
    positives = query.positive_document_ids
    if not positives:
        file, line = queries.address(row)
        raise DataError(
            "no positive", file=file, line=line, field="positive_document_ids", found=[],
            expected="at least one docid", hint="A split to train on needs an answer for each query",
        )  # fmt: skip
    if both := set(positives).intersection(query.negative_document_ids):
        file, line = queries.address(row)
        raise DataError(
            "positive and negative at once", file=file, line=line, field="negative_document_ids", found=min(both),
            expected="a document that does not answer the query", hint="Remove it from one of the two lists",
        )  # fmt: skip


def _remembered(memory: Path) -> str | None:
    try:
        return str(json.loads(memory.read_bytes())["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None

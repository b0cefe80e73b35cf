"""The dataset of a run: the standard library's documentation, a file of pairs, or a view of one that is there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from teva_data.conversion import convert, write_card, write_corpus, write_queries
from teva_data.dataset import CARD, Dataset
from teva_data.errors import DataError
from teva_data.files import atomic_directory, checksum, write_json
from teva_data.records import Query
from teva_data.runs import write_qrels

from . import docstrings
from .options import Options
from .splitting import hold_out
from .tour import Tour

STAMP = "made-from.json"
TEST_SPLITS = ("test", "dev", "validation", "valid", "val")
"""Names under which held-out queries are looked for, the first one that has judgements."""


@dataclass(frozen=True)
class Prepared:
    """The data of a run.

    Attributes:
        path: the dataset's directory, inside the run's.
        test: the split that is held out.
        title: what it is, for people.
    """

    path: Path
    test: str
    title: str

    @property
    def qrels(self) -> Path:
        """The judgements of the held-out split."""
        place = self.path / "qrels" / f"{self.test}.tsv"
        return place if place.exists() else place.with_name(f"{place.name}.gz")


def prepare(options: Options, tour: Tour) -> Prepared:
    """Make the run's dataset, or find it made.

    Raises:
        DataError: the data is bad, or the output directory holds a dataset made from something else.
    """
    path = options.output / "data"
    if options.data is None:
        tour.note(f"Documentation strings of {docstrings.standard_library()}; the files are parsed, not imported")
        made, prepared = _made_of_docstrings(), Prepared(path, "test", docstrings.NAME)
    elif options.data.is_dir():
        dataset = Dataset.open(options.data)
        test = _test_split(dataset)
        tour.note(f"{options.data}: {f'split {test!r} is the test' if test else 'a part of train is held out'}")
        made = _made_of_dataset(dataset, test, options.held_out)
        prepared = Prepared(path, test or "test", dataset.card.name or options.data.resolve().name)
    elif options.data.is_file():
        tour.command("teva-data", "convert", options.data, path, layout="pairs", held_out=options.held_out)
        made = {"pairs": checksum(options.data), "held_out": options.held_out}
        prepared = Prepared(path, "test", options.data.name)
    else:
        raise DataError("no such data", file=options.data, expected="a directory, or a CSV, TSV or JSONL file")
    if not _is_there(path, made, options.overwrite):
        _make(path, options, prepared, made)
    tour.command("teva-data", "stats", path)
    tour.note(f"Not run here: it prints lengths and splits of the {len(Dataset.open(path).corpus):,} documents")
    return prepared


def _make(path: Path, options: Options, prepared: Prepared, made: dict[str, Any]) -> None:
    if options.data is None:
        _write_docstrings(path)
    elif options.data.is_dir():
        _write_view(path, Dataset.open(options.data), prepared.test, options)
    else:
        convert(options.data, path, layout="pairs", held_out=options.held_out, overwrite=options.overwrite)
        if not (path / "test.jsonl").is_file():
            raise DataError(
                "no question is held out", file=options.data, hint="Give more pairs, or a greater --held-out"
            )
    # Written last: a directory without it is one that was not finished.
    write_json(path / STAMP, made)


def _is_there(path: Path, made: dict[str, Any], overwrite: bool) -> bool:
    stamp = path / STAMP
    if overwrite or not stamp.is_file():
        return False
    found = json.loads(stamp.read_text(encoding="utf-8"))
    if found != made:
        raise DataError(
            "holds a dataset made from something else", file=path, found=found, expected=repr(made),
            hint="Give another --output, or --overwrite to begin anew",
        )  # fmt: skip
    return True


def _made_of_docstrings() -> dict[str, Any]:
    return {"docstrings": docstrings.source(), "held_out": docstrings.HELD_OUT}


def _write_docstrings(path: Path) -> None:
    documents, train, test = docstrings.build(docstrings.standard_library())
    with atomic_directory(path) as temporary:
        write_corpus(temporary, documents)
        _write_splits(temporary, train, test)
        write_card(
            temporary, name=docstrings.NAME, license=docstrings.LICENSE, source=docstrings.source(), languages=["en"]
        )


def _test_split(dataset: Dataset) -> str | None:
    """The split to test on; None where there is none with judgements."""
    if "train" not in dataset.splits:
        raise DataError(
            "no split to train on", file=dataset.path, found=dataset.splits, expected="train.jsonl",
            hint="`teva-data convert` makes a dataset of BEIR's layout",
        )  # fmt: skip
    for name in TEST_SPLITS:
        if name in dataset.splits and any((dataset.path / "qrels").glob(f"{name}.tsv*")):
            return name
    return None


def _made_of_dataset(dataset: Dataset, test: str | None, held_out: float) -> dict[str, Any]:
    made = {"dataset": str(dataset.path.resolve()), "fingerprint": dataset.fingerprint("train")}
    return {**made, "test": dataset.fingerprint(test)} if test else {**made, "held_out": held_out}


def _write_view(path: Path, dataset: Dataset, test: str, options: Options) -> None:
    """A directory of links to a dataset's files, so that nothing is copied and nothing written into the user's own."""
    wanted = {dataset.corpus.source, dataset.path / CARD}
    with atomic_directory(path) as temporary:
        if _test_split(dataset):
            wanted |= {dataset.queries(split).source for split in ("train", test)}
            (temporary / "qrels").symlink_to((dataset.path / "qrels").resolve(), target_is_directory=True)
        else:
            dataset.check_references("train")
            _write_splits(temporary, *_held_out(dataset, options.held_out))
        for file in wanted:
            if file.exists():
                (temporary / file.name).symlink_to(file.resolve())


def _held_out(dataset: Dataset, share: float) -> tuple[list[Query], list[Query]]:
    """Hold documents out, and the queries that they answer."""

    def held(query: Query) -> bool:
        return all(xxhash.xxh3_64_intdigest(docid.encode()) < share * 2**64 for docid in query.positive_document_ids)

    train, test = hold_out(list(dataset.queries("train")), held)
    if not train or not test:
        raise DataError(
            f"nothing is left to {'test' if train else 'train'} on", file=dataset.queries("train").source,
            hint="Give it a split test.jsonl with qrels/test.tsv, or another --held-out",
        )  # fmt: skip
    return train, test


def _write_splits(path: Path, train: Sequence[Query], test: Sequence[Query]) -> None:
    write_queries(path / "train.jsonl", train)
    write_queries(path / "test.jsonl", test)
    write_qrels(path / "qrels" / "test.tsv", {q.query_id: dict.fromkeys(q.positive_document_ids, 1) for q in test})

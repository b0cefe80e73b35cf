"""Turns data as it is found into teva's form: a directory with one corpus, a file for each split, and judgements.

A layout is a function from a source to a filled directory, entered in :func:`_layouts`; add one there.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from .errors import DataError
from .files import atomic_directory, atomic_file
from .reader import COMPRESSIONS
from .records import Document, Query
from .schema import SCHEMA

logger = logging.getLogger(__name__)

Layout = Literal["auto", "beir", "pairs"]


@dataclass(frozen=True)
class Options:
    """What a layout may be told.

    Attributes:
        query_field: read the query's text from this field (column).
        document_field: read the document's text from this field (column).
        held_out: share of the queries that become the split ``test``, where the source has no splits.
    """

    query_field: str | None = None
    document_field: str | None = None
    held_out: float = 0.1


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    layout: Layout = "auto",
    query_field: str | None = None,
    document_field: str | None = None,
    held_out: float = 0.1,
    overwrite: bool = False,
) -> Path:
    """Make a dataset of data in another layout. The destination appears whole or not at all.

    Args:
        source: for ``beir``, a directory with ``corpus.jsonl``, ``queries.jsonl`` or ``queries.<split>.jsonl``, and
            ``qrels/<split>.tsv`` or ``qrels.<split>.tsv`` (each may be compressed); for ``pairs``, one CSV, TSV or
            JSONL file with a question and a passage in each row.
        destination: the directory to make.
        layout: ``auto`` guesses, and says what it guessed.
        query_field: take the query's text from this field in place of the usual names.
        document_field: take the document's text from this field in place of the usual names.
        held_out: ``pairs`` only: share of the questions that become the split ``test``.
        overwrite: replace a dataset that is there.

    Returns:
        ``destination``.

    Raises:
        DataError: the source is in no known layout or holds a bad row, or the destination is not empty.
    """
    source, destination = Path(source), Path(destination)
    if not 0 <= held_out < 1:
        raise DataError("not a share", field="held_out", found=held_out, expected="at least 0 and below 1")
    _check_places(source, destination, overwrite)
    if layout == "auto":
        layout = _guess(source)
        logger.info("%s: read in the layout %r", source, layout)
    layouts = _layouts()
    if layout not in layouts:
        raise DataError("unknown", field="layout", found=layout, expected=f"auto, {', '.join(layouts)}")
    options = Options(query_field, document_field, held_out)
    with atomic_directory(destination) as temporary:
        layouts[layout](source, temporary, options)
    logger.info("%s: written", destination)
    return destination


def _layouts() -> dict[str, Callable[[Path, Path, Options], None]]:
    # Imported here, since the layouts use this module's writers.
    from . import from_beir, from_pairs

    return {"beir": from_beir.convert, "pairs": from_pairs.convert}


def find_file(directory: Path, stem: str) -> Path | None:
    """``<directory>/<stem>``, plain or compressed; None where there is none.

    Raises:
        DataError: there are two.
    """
    there = [path for ending in COMPRESSIONS if (path := directory / f"{stem}{ending}").is_file()]
    if len(there) > 1:
        raise DataError(
            "the same file twice", file=directory, found=[path.name for path in there], expected="one of them"
        )
    return there[0] if there else None


def write_corpus(directory: Path, documents: Iterable[Document]) -> int:
    """Write ``corpus.jsonl``; returns the number of documents."""
    count = 0
    with _json_lines(directory / "corpus.jsonl") as write:
        for each in documents:
            count += 1
            write({"docid": each.docid, "title": each.title, "document_text": each.document_text})
    return count


def write_queries(path: Path, queries: Iterable[Query]) -> int:
    """Write a split's file; returns the number of queries. Scores and prompts are written where a query has them."""
    count = 0
    with _json_lines(path) as write:
        for each in queries:
            count += 1
            optional = {
                "positive_scores": each.positive_scores,
                "negative_scores": each.negative_scores,
                "prompt": each.prompt,
            }
            write(
                {
                    "query_id": each.query_id,
                    "query_text": each.query_text,
                    "positive_document_ids": each.positive_document_ids,
                    "negative_document_ids": each.negative_document_ids,
                    **{name: value for name, value in optional.items() if value is not None},
                }
            )
    return count


def write_card(directory: Path, **fields: object) -> None:
    """Write ``dataset.yaml``."""
    text = yaml.safe_dump({"schema": SCHEMA["dataset"], **fields}, sort_keys=False, allow_unicode=True)
    (directory / "dataset.yaml").write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _json_lines(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    with atomic_file(path, "w") as file:
        yield lambda record: print(json.dumps(record, ensure_ascii=False), file=file)


def _guess(source: Path) -> Literal["beir", "pairs"]:
    if source.is_dir() and find_file(source, "corpus.jsonl") and any(source.glob("queries*.jsonl*")):
        return "beir"
    if source.is_file() and source.name.removesuffix(".gz").removesuffix(".zst").endswith((".csv", ".tsv", ".jsonl")):
        return "pairs"
    if not source.exists():
        raise DataError("nothing here", file=source)
    raise DataError(
        "the layout is not known", file=source,
        found=sorted(path.name for path in source.iterdir()) if source.is_dir() else source.name,
        expected="a directory with corpus.jsonl, queries.jsonl and qrels; or a CSV, TSV or JSONL file of pairs",
        hint="A directory with corpus.jsonl and train.jsonl is a dataset already",
    )  # fmt: skip


def _check_places(source: Path, destination: Path, overwrite: bool) -> None:
    inner, outer = source.resolve(), destination.resolve()
    if inner == outer or outer in inner.parents:
        raise DataError("the destination holds the source", file=destination, hint="Write to another directory")
    if destination.exists() and not destination.is_dir():
        raise DataError("the destination is a file", file=destination, expected="a directory that can be made")
    if not destination.exists() or not any(destination.iterdir()):
        return
    if not overwrite:
        raise DataError("the destination is not empty", file=destination, hint="Pass overwrite (--overwrite)")
    if find_file(destination, "corpus.jsonl") is None:
        raise DataError(
            "the destination is not a dataset, so it is not overwritten", file=destination,
            found=sorted(path.name for path in destination.iterdir()), hint="Choose another directory",
        )  # fmt: skip

"""Turns data as it is found into teva's form: a directory with one corpus, a file for each split, and judgements.

A layout is a module of :mod:`teva_data.conversion.layouts` with two functions, entered in :data:`LAYOUTS`; add one
there. ``recognise(tables)`` gives a reason why the source is in this layout, or None; ``convert(tables, writer,
options)`` writes it. What they share: ``tables`` (rows of any source), ``cells`` (checked values), ``joining`` (ids of
one table in another), ``seen`` and ``grouping`` (memories on disk); :mod:`teva_data.writing` takes what they make.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

from teva_data.errors import DataError
from teva_data.files import atomic_directory
from teva_data.pieces import KINDS
from teva_data.reader import COMPRESSIONS
from teva_data.writing import DatasetWriter, Form, MediaForm, write_card, write_corpus, write_queries

from .tables import Tables, expected_files, open_tables

__all__ = [
    "LAYOUTS", "Layout", "Options", "check_destination", "convert", "find_file", "recognise", "write_card",
    "write_corpus", "write_dataset", "write_queries",
]  # fmt: skip

logger = logging.getLogger(__name__)

LAYOUTS = {
    "beir": "beir",
    "pairs": "pairs",
    "tevatron-v1": "tevatron_v1",
    "tevatron-v2": "tevatron_v2",
    "sentence-transformers": "sentence_transformers",
    "flagembedding": "flagembedding",
    "plain": "plain",
    "mteb": "mteb",
    "vidore": "vidore",
    "miracl": "miracl",
    "msmarco": "msmarco",
    "captions": "captions",
}
"""Module of each layout, by the layout's name."""

_TEXTS, _PARTS = {"query_field", "document_field"}, {"splits", "part"}
READS: dict[str, set[str]] = {
    "beir": {*_TEXTS, "splits"},
    "pairs": {*_TEXTS, "held_out"},
    "tevatron-v1": {*_TEXTS, *_PARTS},
    "tevatron-v2": {*_TEXTS, *_PARTS, "modalities", "corpus", "assets"},
    "sentence-transformers": {"query_field", *_PARTS},
    "flagembedding": {"query_field", *_PARTS},
    "plain": {*_TEXTS, *_PARTS, "modalities"},
    "mteb": {*_TEXTS, *_PARTS},
    "vidore": {*_TEXTS, *_PARTS},
    "miracl": {*_TEXTS, *_PARTS, "corpus"},
    "msmarco": {"splits"},
    "captions": {"query_field", "splits", "assets", "missing"},
}
"""The fields of :class:`Options` that a layout reads; another one that is given is an error, not ignored."""

WITHOUT_TABLES = ("miracl", "captions")
"""Layouts that read files of their own too, so that a source may have no table."""


@dataclass(frozen=True)
class Options:
    """What a layout may be told; each reads what concerns it.

    Attributes:
        query_field: read the query's text from this field (column).
        document_field: read the document's text from this field (column).
        held_out: share of the queries that become the split ``test``, where the source has no splits.
        splits: the splits wanted; empty: all.
        part: which of several collections in one source, e.g. a config, a language or ``image``.
        modalities: what is kept of documents that have several, e.g. ``image``; empty: the layout's choice.
        corpus: where the documents are, for layouts that keep them in another source than the queries.
        assets: where clips are that lie apart from what names them: a directory or an archive (tar); of the layout
            ``tevatron-v2``, a directory of the corpus that its paths start from.
        missing: what a clip that is not there is: an ``error``, or left out with its captions (``skip``).
    """

    query_field: str | None = None
    document_field: str | None = None
    held_out: float = 0.1
    splits: tuple[str, ...] = ()
    part: str | None = None
    modalities: tuple[str, ...] = ()
    corpus: Tables | None = None
    assets: Path | None = None
    missing: Literal["error", "skip"] = "error"

    def wants(self, split: str) -> bool:
        """Whether a split is wanted."""
        return not self.splits or split in self.splits


class Layout(Protocol):
    """What the module of a layout has."""

    def recognise(self, tables: Tables) -> str | None:
        """Why the source is in this layout; None where it is not."""

    def convert(self, tables: Tables, writer: DatasetWriter, options: Options) -> None:
        """Write the source."""


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    layout: str = "auto",
    query_field: str | None = None,
    document_field: str | None = None,
    held_out: float = 0.1,
    splits: tuple[str, ...] = (),
    part: str | None = None,
    modalities: tuple[str, ...] = (),
    corpus: str | Path | None = None,
    assets: str | Path | None = None,
    missing: Literal["error", "skip"] = "error",
    form: Form = "jsonl",
    media: MediaForm = "files",
    revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
    overwrite: bool = False,
) -> Path:
    """Make a dataset of data in another layout. The destination appears whole or not at all.

    Rows are streamed; what has to be remembered of them (ids, judgements) is kept on disk in the destination until it
    is done, so memory does not grow with the source.

    Args:
        source: a file, a directory, or the hub id of a dataset (``owner/name``).
        destination: the directory to make.
        layout: one of :data:`LAYOUTS`; ``auto`` guesses, and says what it guessed and why.
        query_field: take the query's text from this field in place of the usual names.
        document_field: take the document's text from this field in place of the usual names.
        held_out: ``pairs`` only: share of the questions that become the split ``test``.
        splits: the splits wanted; empty: all.
        part: which of several collections in one source, e.g. a config or a language.
        modalities: what is kept of documents that have several of ``text``, ``image``, ``video`` and ``audio``; empty:
            all that there is, and of the layout ``plain`` the media alone, whose texts are captions.
        corpus: ``tevatron-v2`` and others that keep documents apart: their file, directory or hub id.
        assets: ``captions``: a directory of clips or an archive (tar) of them; the source's own directory where not
            given.
        missing: ``captions``: a clip that is not there is an ``error``, or left out with its captions (``skip``).
        form: of the corpus and the splits: ``jsonl``, ``jsonl.zst`` or ``parquet``.
        media: ``files``: each picture, clip or recording becomes a file; ``bytes``: they go into uncompressed
            archives; ``link``: nothing is copied, the dataset links to the source.
        revision: branch, tag or commit on the hub.
        token: the hub's access token; the one that is logged in where not given.
        offline: take hub ids from the hub's local cache only (as ``HF_HUB_OFFLINE=1`` does).
        overwrite: replace a dataset that is there.

    Returns:
        ``destination``.

    Raises:
        DataError: the source is in no known layout or in several, holds a bad row, or cannot be reached; an option is
            given that the layout does not read; or the destination is not empty.
    """
    destination = Path(destination)
    _check_told(layout, modalities, held_out)
    tables = open_tables(source, revision=revision, token=token, offline=offline)
    check_destination(tables.path, destination, overwrite)
    if layout == "auto":
        layout, reason = recognise(tables)
        logger.info("%s: read in the layout %r: %s", source, layout, reason)
    documents = None if corpus is None else open_tables(corpus, token=token, offline=offline)
    clips = None if assets is None else Path(assets)
    options = Options(
        query_field, document_field, held_out, tuple(splits), part, tuple(modalities), documents, clips, missing
    )
    write_dataset(tables, destination, layout, options, form=form, media=media, overwrite=overwrite)
    return destination


def write_dataset(
    tables: Tables, destination: Path, layout: str, options: Options, *, form: Form = "jsonl",
    media: MediaForm = "files", card: Mapping[str, object] | None = None, overwrite: bool = False,
) -> dict[str, int]:  # fmt: skip
    """Write tables that are open; see :func:`convert`.

    Args:
        tables: the source.
        destination: the directory to make; see :func:`check_destination`.
        layout: one of :data:`LAYOUTS`.
        options: for the layout.
        form: see :func:`convert`.
        media: see :func:`convert`.
        card: fields of ``dataset.yaml``, which come before those of the layout.
        overwrite: a dataset that is there when this one is done is replaced.

    Returns:
        How many queries each split has.

    Raises:
        DataError: a row is bad, or an option is given that the layout does not read.
        TevaError: another process has put something at ``destination`` meanwhile.
    """
    _check_read(layout, options)
    root = tables.path.parent if tables.path is not None and tables.path.is_file() else tables.path
    with (
        atomic_directory(destination, replace=overwrite) as temporary,
        DatasetWriter(temporary, form=form, media=media, source=root) as writer,
    ):
        writer.card(**{"name": tables.name, **(card or {})})
        _layout(layout).convert(tables, writer, options)
        if not writer.documents:
            raise DataError(
                "no documents", file=tables.path or tables.name, expected="one document at least",
                hint=f"Is it in the layout {layout!r}, and are its rows those of the splits that are wanted?",
            )  # fmt: skip
        counts = f"{writer.documents:,} documents"
        for split, count in writer.queries.items():
            counts += f", {split}: {count:,} queries"
    logger.info("%s: written: %s", destination, counts)
    return dict(writer.queries)


def recognise(tables: Tables) -> tuple[str, str]:
    """The layout of a source, and why it is this one.

    Raises:
        DataError: none fits, or several do.
    """
    reasons: dict[str, str] = {}
    problem: DataError | None = None
    for name in LAYOUTS if tables.names() else WITHOUT_TABLES:
        try:
            if reason := _layout(name).recognise(tables):
                reasons[name] = reason
        except DataError as error:  # a file without a header may look malformed to a layout that is not its own
            problem = problem or error
    if not reasons and problem is not None:
        raise problem
    if len(reasons) > 1:
        reasons.pop("pairs", None)  # any table may be one of pairs; another layout knows its own
    if len(reasons) == 1:
        return next(iter(reasons.items()))
    if reasons:
        raise DataError(
            "several layouts fit", file=tables.path or tables.name,
            found="; ".join(f"{name}: {reason}" for name, reason in reasons.items()),
            hint="Name one with layout (--from)",
        )  # fmt: skip
    raise DataError(
        "the layout is not known", file=tables.path or tables.name, found=_content(tables),
        expected=f"one of {', '.join(LAYOUTS)}",
        hint=f"Name it with layout (--from). Files that are read: {expected_files()}",
    )  # fmt: skip


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


def _check_told(layout: str, modalities: tuple[str, ...], held_out: float) -> None:
    if not 0 <= held_out < 1:
        raise DataError("not a share", field="held_out", found=held_out, expected="at least 0 and below 1")
    if layout != "auto" and layout not in LAYOUTS:
        raise DataError("unknown", field="layout", found=layout, expected=f"auto, {', '.join(LAYOUTS)}")
    if unknown := set(modalities) - {"text", *KINDS}:
        raise DataError("unknown", field="modalities", found=sorted(unknown)[0], expected=f"text, {', '.join(KINDS)}")


def _check_read(layout: str, options: Options) -> None:
    for field in dataclasses.fields(Options):
        value = getattr(options, field.name)
        if value != field.default and field.name not in READS[layout]:
            readers = [name for name, read in READS.items() if field.name in read]
            raise DataError(
                f"not read by the layout {layout!r}", field=field.name.replace("_", "-"),
                found=value.name if isinstance(value, Tables) else value, expected=f"one of {', '.join(readers)}",
                hint="Leave it out, or name another layout (--from)",
            )  # fmt: skip


def _layout(name: str) -> Layout:
    return cast(Layout, importlib.import_module(f".layouts.{LAYOUTS[name]}", __package__))


def _content(tables: Tables) -> object:
    if tables.path is None or not tables.path.is_dir():
        return tables.names() if tables.path is None else tables.path.name
    return sorted(path.name for path in tables.path.iterdir())


def check_destination(source: Path | None, destination: Path, overwrite: bool) -> None:
    """Check that a dataset may be written there.

    Args:
        source: what is converted, where it is local.
        destination: the directory to make.
        overwrite: a dataset that is there may be replaced.

    Raises:
        DataError: it holds the source, is a file, or holds something that may not be replaced.
    """
    outer = destination.resolve()
    if source is not None and (source.resolve() == outer or outer in source.resolve().parents):
        raise DataError("the destination holds the source", file=destination, hint="Write to another directory")
    if destination.exists() and not destination.is_dir():
        raise DataError("the destination is a file", file=destination, expected="a directory that can be made")
    if not destination.exists() or not any(destination.iterdir()):
        return
    if not overwrite:
        raise DataError("the destination is not empty", file=destination, hint="Pass overwrite (--overwrite)")
    if not any(
        (destination / f"corpus{ending}").exists() for ending in ("", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
    ):
        raise DataError(
            "the destination is not a dataset, so it is not overwritten", file=destination,
            found=sorted(path.name for path in destination.iterdir()), hint="Choose another directory",
        )  # fmt: skip

"""Writes datasets in teva's form: documents, queries and judgements as they come, media beside them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, get_args

import yaml

from teva_data.errors import DataError
from teva_data.files import atomic_file
from teva_data.records import Document, Query
from teva_data.schema import SCHEMA

from .incoming import MediaBytes, MediaFile, Piece
from .media import MediaForm, MediaWriter
from .rows import Form, RowWriter, row_writer

__all__ = [
    "DatasetWriter", "Form", "MediaBytes", "MediaFile", "MediaForm", "Piece", "Value", "write_card", "write_corpus",
    "write_queries",
]  # fmt: skip

WORK = ".work"
QRELS_HEADER = "query_id\tdocid\tscore\n"
_NO_ID_IN_QRELS = re.compile(r"[\t\r\n\0]|^\ufeff")

# What a field is given: one piece, or a list in which None holds a place.
Value = Piece | Sequence[Piece | None] | None


class DatasetWriter:
    """Fills a directory with a dataset, row by row; use as a context manager.

    The directory is made by the caller, by :func:`teva_data.files.atomic_directory` where it should appear whole or
    not at all. Ids are not compared with one another: that takes a memory of all of them, and belongs to who reads.

    Args:
        directory: where to write; exists.
        form: of corpus and splits.
        media: ``files``: each piece becomes ``media/<name>``; ``bytes``: pieces go into uncompressed archives,
            ``media/00000.tar``; ``link``: nothing is copied, ``media/source`` links to ``source``.
        source: the directory where the media are, for ``link``.

    Attributes:
        directory: where it writes.
        documents: how many have been written.
        queries: how many have been written, by split.
    """

    def __init__(
        self, directory: Path, *, form: Form = "jsonl", media: MediaForm = "files", source: Path | None = None
    ) -> None:
        if form not in get_args(Form):
            raise DataError("unknown", field="form", found=form, expected=", ".join(get_args(Form)))
        self.directory = Path(directory)
        self.documents, self.queries = 0, dict[str, int]()
        self._form: Form = form
        self._media = MediaWriter(self.directory, media, source)
        self._files: dict[str, RowWriter] = {}
        self._qrels: dict[str, IO[str]] = {}
        self._card: dict[str, Any] = {}

    @property
    def work(self) -> Path:
        """A directory for temporary files of who fills the dataset; :meth:`close` removes it."""
        place = self.directory / WORK
        place.mkdir(exist_ok=True)
        return place

    def document(
        self,
        docid: str,
        text: Value = None,
        title: str = "",
        *,
        image: Value = None,
        video: Value = None,
        audio: Value = None,
    ) -> None:
        """Add a document. Of lists, position i of all fields comes before position i + 1.

        Raises:
            DataError: it has neither title nor text nor media, a text is not Unicode, or a piece cannot be read.
        """
        record: dict[str, Any] = {"docid": self._text("docid", docid)}
        if title:
            record["title"] = self._text("title", title, docid)
        self._pieces(record, "document", text, {"image": image, "video": video, "audio": audio}, docid)
        if len(record) == 1:
            raise DataError("empty document", found=docid, expected="a title, a text, a picture, a clip or a recording")
        self._rows("corpus").write(record)
        self.documents += 1

    def query(
        self,
        split: str,
        query_id: str,
        text: Value = None,
        positives: Sequence[str] = (),
        negatives: Sequence[str] = (),
        *,
        positive_scores: Sequence[float] | None = None,
        negative_scores: Sequence[float] | None = None,
        prompt: str | None = None,
        image: Value = None,
        video: Value = None,
        audio: Value = None,
    ) -> None:
        """Add a query to a split.

        Raises:
            DataError: it has neither text nor media, there is not a score for each id, the split's name is no name for
                a file, a text is not Unicode, or a piece cannot be read.
        """
        record: dict[str, Any] = {"query_id": self._text("query_id", query_id)}
        self._pieces(record, "query", text, {"image": image, "video": video, "audio": audio}, query_id)
        if len(record) == 1:
            raise DataError("empty query", found=query_id, expected="a text, a picture, a clip or a recording")
        for name, ids, scores in (("positive", positives, positive_scores), ("negative", negatives, negative_scores)):
            record[f"{name}_document_ids"] = [self._text(f"{name}_document_ids", docid) for docid in ids]
            if scores is not None:
                if len(scores) != len(ids):
                    raise DataError(
                        "not one score for each id", field=f"{name}_scores", found=len(scores), expected=str(len(ids))
                    )
                record[f"{name}_scores"] = [float(score) for score in scores]
        if prompt is not None:
            record["prompt"] = self._text("prompt", prompt, query_id)
        self._rows(self._split(split)).write(record)
        self.queries[split] = self.queries.get(split, 0) + 1

    def judgement(self, split: str, query_id: str, docid: str, score: int) -> None:
        """Add a graded judgement to ``qrels/<split>.tsv``.

        Raises:
            DataError: an id that a TSV cannot hold, or a grade that is no integer.
        """
        for field, name in (("query_id", query_id), ("docid", docid)):
            self._text(field, name)
            if _NO_ID_IN_QRELS.search(name):
                raise DataError(
                    "id cannot be written", field=field, found=name, expected="an id without tab, line break and NUL"
                )
        if type(score) is not int:
            raise DataError("not a grade", field="score", found=score, expected="an integer")
        if (file := self._qrels.get(split)) is None:
            place = self.directory / "qrels" / f"{self._split(split)}.tsv"
            place.parent.mkdir(exist_ok=True)
            file = self._qrels[split] = place.open("w", encoding="utf-8", newline="\n", buffering=1 << 20)
            file.write(QRELS_HEADER)
        file.write(f"{query_id}\t{docid}\t{score}\n")

    def card(self, **fields: object) -> None:
        """Fields of ``dataset.yaml``; those without a value are left out, later ones replace earlier ones."""
        self._card |= {name: value for name, value in fields.items() if value is not None}

    def close(self) -> None:
        """Finish the files.

        Raises:
            DataError: no document was written.
        """
        self._close_files()
        if not self.documents:
            raise DataError("no documents", file=self.directory, hint="A dataset has one document at least")
        write_card(self.directory, **self._card)

    def __enter__(self) -> DatasetWriter:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close; after an error, the files only."""
        if error is None:
            self.close()
        else:
            with suppress(OSError):  # a full disk: the first error is the one to show
                self._close_files()

    def _close_files(self) -> None:
        files: list[Any] = [*self._files.values(), *self._qrels.values(), self._media]
        self._files, self._qrels = {}, {}
        for file in files:
            file.close()
        shutil.rmtree(self.directory / WORK, ignore_errors=True)

    def _rows(self, stem: str) -> RowWriter:
        if stem not in self._files:
            self._files[stem] = row_writer(self.directory, stem, self._form)
        return self._files[stem]

    def _split(self, split: str) -> str:
        if split == "corpus" or split != split.strip() or not re.fullmatch(r"[\w@+\-][\w.@+\- ]*", split):
            raise DataError(
                "no name for a split", field="split", found=split,
                expected="letters, digits, '.', '-' and '_'; and not 'corpus'",
            )  # fmt: skip
        return split

    def _pieces(self, record: dict[str, Any], side: str, text: Value, media: dict[str, Value], owner: str) -> None:
        if isinstance(text, str):
            if text:
                record[f"{side}_text"] = self._text(f"{side}_text", text, owner)
        elif isinstance(text, Sequence) and any(text):
            # A place without a text is null, since readers refuse an empty text in a list.
            record[f"{side}_text"] = [self._text(f"{side}_text", piece, owner) if piece else None for piece in text]
        elif text is not None and not isinstance(text, Sequence):
            raise DataError("not a text", field=f"{side}_text", found=text, expected="a string, or a list of them")
        for kind, value in media.items():
            if value is None:
                continue
            if isinstance(value, Sequence) and not isinstance(value, str):
                record[f"{side}_{kind}"] = [None if piece is None else self._medium(kind, piece) for piece in value]
            else:
                record[f"{side}_{kind}"] = self._medium(kind, value)

    def _medium(self, kind: str, piece: Piece) -> Any:
        if isinstance(piece, str):
            raise DataError("not a piece of media", field=kind, found=piece, expected="MediaBytes or MediaFile")
        address = self._media.add(piece)
        if self._form == "parquet" and isinstance(address, str):  # a column has one type
            return {"file": address, "offset": 0, "length": (self.directory / address).stat().st_size}
        return address

    def _text(self, field: str, value: Any, owner: str | None = None) -> str:
        if not isinstance(value, str) or (owner is None and not value):
            expected = "a string" if owner is not None else "an id: a string that is not empty"
            raise DataError("not a text", field=field, found=value, expected=expected)
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise DataError(
                    f"not Unicode text: half of a surrogate pair{'' if owner is None else f' (of {owner!r})'}",
                    field=field, found=value, hint="Was the text cut in the middle of a character?",
                ) from None  # fmt: skip
        return value


def write_corpus(directory: Path, documents: Iterable[Document]) -> int:
    """Write ``corpus.jsonl`` of documents that are text; returns how many."""
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


@contextmanager
def _json_lines(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    with atomic_file(path, "w") as file:
        yield lambda record: print(json.dumps(record, ensure_ascii=False), file=file)

"""What a dataset is made of, documents and queries, and how a row of a file becomes one.

Rows are checked by hand-written code: a corpus has millions of them, and the error must name the place. Names found in
the wild are read too (``_id``, ``text``, ...); what teva writes has the first name of each list.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .errors import DataError
from .pieces import KINDS, Media, Piece, Shelf, Stored, arrange

logger = logging.getLogger(__name__)

DOCUMENT_ID = ("docid", "_id", "id")
DOCUMENT_TEXT = ("document_text", "text", "contents")
TITLE = ("title",)
QUERY_ID = ("query_id", "_id", "id")
QUERY_TEXT = ("query_text", "query", "text")
POSITIVES, NEGATIVES = ("positive_document_ids",), ("negative_document_ids",)
POSITIVE_SCORES, NEGATIVE_SCORES = ("positive_scores",), ("negative_scores",)
PROMPT = ("prompt",)

DOCUMENT_MEDIA = tuple((kind, (f"document_{kind}", kind)) for kind in KINDS)
QUERY_MEDIA = tuple((kind, (f"query_{kind}", kind)) for kind in KINDS)

DOCUMENT_FIELDS = (*DOCUMENT_ID, *DOCUMENT_TEXT, *TITLE, *(name for _, names in DOCUMENT_MEDIA for name in names))
QUERY_FIELDS = (
    *QUERY_ID, *QUERY_TEXT, *POSITIVES, *NEGATIVES, *POSITIVE_SCORES, *NEGATIVE_SCORES, *PROMPT,
    *(name for _, names in QUERY_MEDIA for name in names),
)  # fmt: skip
# Fields that a row need not have, so that a misspelt name would go unnoticed: names, and how near a name must come.
# Looser for the text: without it a corpus is trained on its titles alone.
_Groups = tuple[tuple[tuple[str, ...], float], ...]
_OPTIONAL_OF_DOCUMENT: _Groups = ((DOCUMENT_TEXT, 0.75), (TITLE, 0.8))
_OPTIONAL_OF_QUERY: _Groups = (
    (POSITIVES, 0.8), (NEGATIVES, 0.8), (POSITIVE_SCORES, 0.8), (NEGATIVE_SCORES, 0.8), (PROMPT, 0.8),
)  # fmt: skip
MEDIA = frozenset(name for _, names in (*DOCUMENT_MEDIA, *QUERY_MEDIA) for name in names)
INLINE = ("positive_passages", "negative_passages")


class Document(NamedTuple):
    """One document of a corpus. A named tuple: batches make thousands of them a second.

    Attributes:
        docid: its name, unique in the corpus.
        document_text: the text as the file has it, several texts joined by a space; may be empty where there is a title
            or media.
        title: empty where there is none.
        pieces: texts and media in order; empty where the document is one text and nothing else.
    """

    docid: str
    document_text: str
    title: str = ""
    pieces: tuple[Piece, ...] = ()

    @property
    def media(self) -> tuple[Media, ...]:
        """Its pictures, clips and recordings, in order."""
        return tuple(piece for piece in self.pieces if isinstance(piece, Media))


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a split.

    Attributes:
        query_id: its name, unique in the split.
        query_text: the text as the file has it.
        positive_document_ids: documents that answer it.
        negative_document_ids: documents that do not.
        positive_scores: a teacher's score of each positive, or None.
        negative_scores: a teacher's score of each negative, or None.
        prompt: put before this query in place of the dataset's or the model's prompt; None: theirs.
        pieces: texts and media in order; empty where the query is one text and nothing else.
    """

    query_id: str
    query_text: str
    positive_document_ids: tuple[str, ...] = ()
    negative_document_ids: tuple[str, ...] = ()
    positive_scores: tuple[float, ...] | None = None
    negative_scores: tuple[float, ...] | None = None
    prompt: str | None = None
    pieces: tuple[Piece, ...] = ()

    @property
    def media(self) -> tuple[Media, ...]:
        """Its pictures, clips and recordings, in order."""
        return tuple(piece for piece in self.pieces if isinstance(piece, Media))


def join_title(title: str, text: str) -> str:
    """Title and text as one string, joined by a space as BEIR and MTEB do; without it where one is empty.

    >>> join_title("Rhine", "A river."), join_title("", "A river.")
    ('Rhine A river.', 'A river.')
    """
    return f"{title} {text}" if title and text else title or text


@dataclass(slots=True)
class Row:
    """One record of a file, with its address.

    Attributes:
        record: the fields.
        file: where it stands.
        line: its line, counted from 1.
    """

    record: Mapping[str, Any]
    file: Path
    line: int

    def error(
        self,
        problem: str,
        field: str | None = None,
        found: object = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> DataError:
        """A :class:`DataError` that points here."""
        return DataError(
            problem, file=self.file, line=self.line, field=field, found=found, expected=expected, hint=hint
        )


# The columns of a store, in order: docid, title, document_text, pieces.
DocumentValues = tuple[str, str, str, Stored | None]
# query_id, query_text, positives, negatives, positive scores, negative scores, prompt, pieces.
QueryValues = tuple[
    str, str, list[str], list[str], list[float] | None, list[float] | None, str | None, Stored | None
]  # fmt: skip


def parse_document(row: Row, text_field: str | None = None, shelf: Shelf | None = None) -> DocumentValues:
    """Check one document.

    Args:
        row: the record; fields that teva does not know are ignored.
        text_field: read the text from this field alone.
        shelf: finds the files that media fields name; without it, media fields are refused.

    Returns:
        docid, title, text and pieces; title and text are "" where there is none, pieces None where it is one text.

    Raises:
        DataError: a field is missing, of the wrong type or given twice with different values; or there is neither a
            title nor a text nor media.
    """
    _refuse_inline(row)
    field, value = _required(row, DOCUMENT_ID, DOCUMENT_FIELDS)
    docid = _identifier(row, field, value)
    _refuse_misspelt(row, DOCUMENT_FIELDS, _OPTIONAL_OF_DOCUMENT)
    title = _string(row, *_pick(row, TITLE))
    names = DOCUMENT_TEXT if text_field is None else (text_field,)
    field, value = _pick(row, names) if text_field is None else _required(row, names, names)
    text, pieces = _content(row, field, value, DOCUMENT_MEDIA, shelf)
    if pieces is None and not (text.strip() or title.strip()):
        raise row.error(
            "empty document", found=docid, expected="a title, a text or media",
            hint=f"Give it one or remove the line{_unread(row, DOCUMENT_FIELDS, names)}",
        )  # fmt: skip
    if pieces is None and not text:
        _tell_unread(row.file, tuple(row.record))
    return docid, title, text, pieces


def parse_query(row: Row, text_field: str | None = None, shelf: Shelf | None = None) -> QueryValues:
    """Check one query; see :class:`Query` for the fields and :func:`parse_document` for the rest."""
    _refuse_inline(row)
    field, value = _required(row, QUERY_ID, QUERY_FIELDS)
    query_id = _identifier(row, field, value)
    names = QUERY_TEXT if text_field is None else (text_field,)
    has_media = any(row.record.get(name) is not None for _, names in QUERY_MEDIA for name in names)
    field, value = _pick(row, names) if has_media else _required(row, names, QUERY_FIELDS)
    text, pieces = _content(row, field, value, QUERY_MEDIA, shelf)
    if pieces is None and not text.strip():
        raise row.error("empty query", field, found=text, hint="Give it a text or remove the line")
    _refuse_misspelt(row, QUERY_FIELDS, _OPTIONAL_OF_QUERY)
    positives, negatives = _identifiers(row, *_pick(row, POSITIVES)), _identifiers(row, *_pick(row, NEGATIVES))
    field, value = _pick(row, PROMPT)
    return (
        query_id,
        text,
        positives,
        negatives,
        _scores(row, *_pick(row, POSITIVE_SCORES), len(positives)),
        _scores(row, *_pick(row, NEGATIVE_SCORES), len(negatives)),
        None if value is None else _string(row, field, value),
        pieces,
    )


def _content(
    row: Row, field: str, value: Any, media: tuple[tuple[str, tuple[str, ...]], ...], shelf: Shelf | None
) -> tuple[str, Stored | None]:
    """The text, and the pieces where there is more than one text."""
    if MEDIA.isdisjoint(row.record) and not isinstance(value, list):
        return _string(row, field, value), None
    found = [(kind, *_pick(row, names)) for kind, names in media]
    if shelf is None and (given := next((each for each in found if each[2] is not None), None)):
        raise row.error("media are not read here", given[1], found=given[2], hint="Remove the field")
    fields = {"text": field, **{kind: name for kind, name, _ in found}}
    values = arrange([("text", value), *((kind, each) for kind, _, each in found)])
    texts: list[str] = []
    pieces: Stored = []
    length = 0
    for kind, each in values:
        if kind != "text":
            assert shelf is not None
            pieces.append(shelf.place(row, fields[kind], each, kind))
            continue
        text = _string(row, field, each)
        if isinstance(value, list) and not text.strip():
            raise row.error("an empty text in a list", field, found=value, hint="Remove it, or write null")
        start = length + bool(texts)
        length = start + len(text)
        texts.append(text)
        pieces.append([start, length])
    text = " ".join(texts)
    return text, None if not pieces or pieces == [[0, len(text)]] else pieces


def _refuse_inline(row: Row) -> None:
    record = row.record
    for field in INLINE:
        if record.get(field):
            raise row.error(
                "passages inside a query row are not read", field, found=record[field],
                expected=f"a corpus file, and ids in {field.replace('passages', 'document_ids')!r}",
                hint="`teva-data convert` makes both of it",
            )  # fmt: skip


def _refuse_misspelt(row: Row, known: tuple[str, ...], optional: _Groups) -> None:
    # Rows of a file nearly all have the same fields: one look for each set of them.
    if found := _near_miss(tuple(row.record), known, optional):
        raise row.error("unknown field", found[0], hint=f"Did you mean {found[1]!r}? Rename it or remove it")


@functools.lru_cache(maxsize=1024)
def _near_miss(fields: tuple[str, ...], known: tuple[str, ...], optional: _Groups) -> tuple[str, str] | None:
    others = [field for field in fields if field not in known]
    for names, cutoff in optional:
        if others and not any(name in fields for name in names):
            for name in names:
                if close := difflib.get_close_matches(name, others, n=1, cutoff=cutoff):
                    return close[0], name
    return None


def _pick(row: Row, names: tuple[str, ...]) -> tuple[str, Any]:
    """The first of the names that the record has with a value, and the value; None for no value."""
    chosen, value = names[0], None
    for name in names:
        other = row.record.get(name)
        if other is None:
            continue
        if value is None:
            chosen, value = name, other
        elif str(other) != str(value):
            raise row.error(
                f"two names of one field, {chosen!r} and {name!r}, have different values", name, found=other,
                expected=f"the value of {chosen!r}, {value!r}", hint="Remove the one that is not meant",
            )  # fmt: skip
    return chosen, value


def _required(row: Row, names: tuple[str, ...], known: Sequence[str]) -> tuple[str, Any]:
    field, value = _pick(row, names)
    if value is not None:
        return field, value
    for name in names:
        if name in row.record:
            raise row.error("no value", name, found="null", expected="a value", hint="Give it one or remove the line")
    also = f" (or {', '.join(names[1:])})" if names[1:] else ""
    hint = _misspelt(row.record, names, known) or f"The row has: {', '.join(map(repr, row.record)) or 'no fields'}"
    raise row.error(f"missing{also}", names[0], hint=hint)


def _unread(row: Row, known: Sequence[str], names: Sequence[str]) -> str:
    """Of an empty record: the fields that are not read, for its text may stand in one of them."""
    others = [str(field) for field in row.record if field not in known]
    return f". Not read: {', '.join(map(repr, others))}; a text stands in {names[0]!r}" if others else ""


@functools.lru_cache(maxsize=1024)
def _tell_unread(file: Path, fields: tuple[str, ...]) -> None:
    """Say once of a file that its documents are their titles, where the text may stand in a field that is not read."""
    others = [str(field) for field in fields if field not in DOCUMENT_FIELDS]
    if others and not any(name in fields for name in DOCUMENT_TEXT):
        logger.warning("%s: documents have no field of text: their title is all that is read of them; not read: %s. "
                       "A text stands in %r", file, ", ".join(others), DOCUMENT_TEXT[0])  # fmt: skip


def _misspelt(record: Mapping[str, Any], names: Sequence[str], known: Sequence[str]) -> str | None:
    for name in names:
        others = [field for field in record if field not in known]
        if close := difflib.get_close_matches(name, others, n=1, cutoff=0.75):
            return f"The row has {close[0]!r}; did you mean {name!r}?"
    return None


def _identifier(row: Row, field: str, value: Any) -> str:
    if type(value) is str and value:
        return value
    if type(value) is int:
        return str(value)
    raise row.error("not an id", field, found=value, expected="a string that is not empty, or an integer")


def _identifiers(row: Row, field: str, value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise row.error("not a list of ids", field, found=value, expected="a list of strings")
    return [_identifier(row, f"{field}[{at}]", item) for at, item in enumerate(value)]


def _string(row: Row, field: str, value: Any) -> str:
    if value is None:
        return ""
    if type(value) is not str:
        raise row.error("not a text", field, found=value, expected="a string")
    return value


def _scores(row: Row, field: str, value: Any, count: int) -> list[float] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != count:
        ids = field.replace("scores", "document_ids")
        raise row.error("not one score for each id", field, found=value, expected=f"a list as long as {ids!r}, {count}")
    return [parse_score(row, f"{field}[{at}]", score) for at, score in enumerate(value)]


def parse_score(row: Row, field: str, value: Any) -> float:
    """A finite number.

    Raises:
        DataError: it is none.
    """
    if type(value) in (int, float):
        with contextlib.suppress(OverflowError):  # an integer that no float can hold
            if math.isfinite(score := float(value)):
                return score
    raise row.error("not a score", field, found=value, expected="a finite number")

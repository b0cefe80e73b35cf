"""Rows of a file that may be bad: every line is looked at, and every problem of a line is told."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import xxhash

from teva_data.errors import DataError
from teva_data.pieces import Media, Stored
from teva_data.records import (
    DOCUMENT_ID,
    DOCUMENT_TEXT,
    MEDIA,
    NEGATIVES,
    POSITIVES,
    QUERY_ID,
    QUERY_TEXT,
    Row,
    join_title,
)  # fmt: skip

Values = TypeVar("Values")

# What no reader sees: tags, entities for spaces, white space, and characters of no width.
_UNSEEN = re.compile(
    r"<[^<>]*>|&(?:nbsp|ensp|emsp|thinsp|zwnj|zwj|lrm|rlm|#160|#8203);|[\s\u00ad\u200b-\u200f\u2060\ufeff]"
)
_ID_NAMES = frozenset((*DOCUMENT_ID, *QUERY_ID))
_TEXT_NAMES = frozenset((*DOCUMENT_TEXT, *QUERY_TEXT))


class Sink(list[DataError]):
    """A list that readers note bad lines in; it keeps none, so that a file of bad lines fills no memory."""

    def __init__(self, take: Callable[[DataError], None]) -> None:
        super().__init__()
        self._take = take

    def append(self, error: DataError) -> None:
        """Hand the error on."""
        self._take(error)


def all_problems(row: Row, parse: Callable[[Row], Values]) -> tuple[list[DataError], Values | None]:
    """Every problem that a parser finds in a row: after each one its field is put right, and the row parsed again.

    Returns:
        The problems, and what the parser made of the row in the end; None where no end came.
    """
    record, found = dict(row.record), list[DataError]()
    while True:
        try:
            return found, parse(Row(record, row.file, row.line))
        except DataError as error:
            if any(
                (error.field, error.problem, error.found) == (each.field, each.problem, each.found) for each in found
            ):
                return found, None
            found.append(error)
            _put_right(record, error)


def _put_right(record: dict[str, Any], error: DataError) -> None:
    field = None if error.field is None else re.split(r"[\[.]", error.field)[0]
    if field is None:
        record["document_text"] = "x"  # there was neither a title nor a text
    elif field in MEDIA:
        _remove_medium(record, field, error.found)
    elif field in _ID_NAMES | _TEXT_NAMES and not error.problem.startswith("two names"):
        record[field] = "x"
    else:
        record.pop(field, None)
        record.pop(field.replace("document_ids", "scores"), None)


def _remove_medium(record: dict[str, Any], field: str, found: object) -> None:
    value = record[field]
    items = value if isinstance(value, list) else [value]
    others = [each for each in items if each != found and not (isinstance(each, dict) and found in each.values())]
    record[field] = others if len(others) < len(items) and others else None
    # The row still has its media, though they are bad: it is not empty.
    if not any(record.get(name) for name in _TEXT_NAMES):
        record["query_text" if "query_id" in record else "document_text"] = "x"


def undecodable(row: Row, pieces: Stored, root: Path) -> Iterator[DataError]:
    """Decode the media of a row and tell which ones cannot be.

    Args:
        row: for addresses.
        pieces: as the parser gave them: ``[kind, file, offset, length, size]`` of a medium.
        root: the dataset's directory.

    Raises:
        MissingExtraError: a decoder is not installed.
    """
    from teva_data.modalities import decode

    for kind, file, offset, length, _ in (piece for piece in pieces if len(piece) > 2):
        try:
            decode(Media(kind, str(root / file), offset, length))
        except DataError as error:
            found = file if offset == 0 else {"file": file, "offset": offset, "length": length}
            yield row.error(error.problem, kind, found, hint=error.hint)


def classify(error: DataError) -> str:
    """The class of a problem that a parser found."""
    problem = error.problem
    if error.field is not None and re.split(r"[\[.]", error.field)[0] in MEDIA:
        return "unreadable-media"
    if problem.startswith(("missing", "no value")):
        return "missing-field"
    if problem.startswith(("not a score", "not one score")):
        return "bad-score"
    if problem.startswith("empty"):
        return "empty-text"
    return "wrong-type" if problem.startswith("not a") else "bad-field"


def identifier(record: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The id of a record, where it has one."""
    value = next((record[name] for name in names if record.get(name) is not None), None)
    return str(value) if type(value) is int or (type(value) is str and value) else None


def references(record: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Ids of the positives and of the negatives, as far as they are ids."""
    return _ids(record, POSITIVES), _ids(record, NEGATIVES)


def _ids(record: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    value = next((record[name] for name in names if record.get(name) is not None), None)
    return [str(each) for each in value if type(each) in (str, int)] if isinstance(value, list) else []


def content(record: Mapping[str, Any], names: Sequence[str]) -> str:
    """A short name for what a record says: equal for equal title, text and media (128 bits, so never by chance)."""
    text = next((record[name] for name in names if record.get(name) is not None), "")
    title = record.get("title") or ""
    plain = type(text) is str and type(title) is str
    said = join_title(title, text) if plain else json.dumps([title, text], sort_keys=True)
    media = {name: record[name] for name in sorted(MEDIA.intersection(record)) if record[name] is not None}
    if media:
        said += "\0" + json.dumps(media, sort_keys=True, default=repr)
    return str(xxhash.xxh3_128_hexdigest(said.encode("utf-8", "surrogatepass")))


def unseen(record: Mapping[str, Any], names: Sequence[str]) -> tuple[str, str] | None:
    """Field and value of a text that is there and shows nothing: markup, white space."""
    for name in names:
        value = record.get(name)
        if type(value) is str and value:
            # Nearly every text begins with what is seen.
            return None if value[0].isalnum() or _UNSEEN.sub("", value) else (name, value)
    return None

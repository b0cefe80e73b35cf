"""What the converters take out of a row: ids, texts, lists of ids, grades; each error with its address."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Sequence
from typing import Any

from teva_data.errors import DataError
from teva_data.records import Row, parse_score

from .tables import Tables

# Names of media fields, by kind, as they are found.
MEDIA = {
    kind: (f"document_{kind}", kind, f"query_{kind}") for kind in ("image", "video", "audio")
}  # fmt: skip


def field_of(row: Row, names: Sequence[str]) -> str | None:
    """The first of the names under which the row has a value."""
    return next((name for name in names if row.record.get(name) is not None), None)


def identifier(row: Row, names: Sequence[str]) -> str:
    """An id: a string that is not empty, or an integer, which becomes a string.

    Raises:
        DataError: none of the names has a value, or it is no id.
    """
    name = field_of(row, names)
    if name is None:
        raise _missing(row, names)
    return as_identifier(row, name, row.record[name])


def as_identifier(row: Row, field: str, value: Any) -> str:
    """A value as an id; see :func:`identifier`."""
    if type(value) is str and value:
        return unicode(row, field, value)
    if type(value) is int:
        return str(value)
    raise row.error("not an id", field, value, "a string that is not empty, or an integer")


def text(row: Row, names: Sequence[str], *, needed: bool = False) -> str:
    """A text; "" where none of the names has a value.

    Args:
        row: the row.
        names: fields that may hold it; the first with a value counts.
        needed: a text that is missing or blank is an error.

    Raises:
        DataError: it is missing though needed, or no string.
    """
    name = field_of(row, names)
    if name is None:
        if needed:
            raise _missing(row, names)
        return ""
    value = row.record[name]
    if not isinstance(value, str):
        raise row.error("not a text", name, value, "a string")
    if needed and not value.strip():
        raise row.error("no text", name, value, "a string that is not empty", "Give it a text or remove the row")
    return unicode(row, name, value)


def content(row: Row, names: Sequence[str], *, needed: bool = False) -> str | list[str | None]:
    """A text, or a list of texts and of None for places without one, as a document of several pieces has it.

    Args:
        row: the row.
        names: fields that may hold it; the first with a value counts.
        needed: a text that is missing or blank is an error.

    Raises:
        DataError: it is missing though needed, neither a string nor a list of strings, or a text of a list is blank.
    """
    name = field_of(row, names)
    value = None if name is None else row.record[name]
    if name is None or not isinstance(value, list):
        return text(row, names, needed=needed)
    items: list[str | None] = [
        None
        if item is None
        else text(Row({f"{name}[{at}]": item}, row.file, row.line), (f"{name}[{at}]",), needed=True)
        for at, item in enumerate(value)
    ]
    if needed and not any(items):
        raise row.error("no text", name, value, "one text at least", "Give it a text or remove the row")
    return items


def texts(row: Row, field: str) -> list[str]:
    """A list of texts, each not empty; a single text is a list of one; [] where there is no value.

    Raises:
        DataError: another value.
    """
    value = row.record.get(field)
    if value is None:
        return []
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list):
        raise row.error("not a list of texts", field, value, "a list of strings")
    for at, item in enumerate(items):
        if not isinstance(item, str) or not item.strip():
            raise row.error(
                "no text", f"{field}[{at}]", item, "a string that is not empty", "Give it a text or take it out"
            )
        unicode(row, f"{field}[{at}]", item)
    return items


def identifiers(row: Row, names: Sequence[str]) -> list[str]:
    """A list of ids; [] where there is no value."""
    name = field_of(row, names)
    if name is None:
        return []
    value = row.record[name]
    if not isinstance(value, list):
        raise row.error("not a list of ids", name, value, "a list of strings")
    return [as_identifier(row, f"{name}[{at}]", item) for at, item in enumerate(value)]


def scores(row: Row, names: Sequence[str], count: int) -> list[float] | None:
    """One finite number for each of ``count`` ids; None where there is no value."""
    name = field_of(row, names)
    if name is None:
        return None
    value = row.record[name]
    if not isinstance(value, list) or len(value) != count:
        raise row.error("not one score for each", name, value, f"a list of {count} numbers")
    return [parse_score(row, f"{name}[{at}]", item) for at, item in enumerate(value)]


def grade(row: Row, names: Sequence[str]) -> int:
    """A whole number of 64 bits at most: a grade of relevance, as a number or as its text."""
    name = field_of(row, names)
    if name is None:
        raise _missing(row, names)
    value = row.record[name]
    with contextlib.suppress(ValueError, OverflowError):
        found = None
        if type(value) is int or (isinstance(value, str) and value.strip().lstrip("+-").isdecimal()):
            found = int(value)
        elif isinstance(value, float | str) and (number := float(value)).is_integer():
            found = int(number)
        if found is not None and -(1 << 63) <= found < 1 << 63:
            return found
    raise row.error("not a grade", name, value, "an integer")


def pieces(tables: Tables, row: Row, *, under: str = "") -> dict[str, Any]:
    """The media of a row by kind, where it has any: what :class:`DatasetWriter` takes as ``image=`` and so on."""
    found = {}
    for kind, names in MEDIA.items():
        if (name := field_of(row, names)) is not None:
            found[kind] = tables.media(row, name, under=under)
    return found


def unicode(row: Row, field: str, value: str) -> str:
    """The text, where it is Unicode.

    Raises:
        DataError: it holds half of a surrogate pair, which no file and no tokenizer takes.
    """
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise row.error(
                "not Unicode text: half of a surrogate pair", field, value,
                hint="Was the text cut in the middle of a character?",
            ) from None  # fmt: skip
    return value


def _missing(row: Row, names: Sequence[str]) -> DataError:
    nulls = [name for name in names if name in row.record]
    if nulls:
        return row.error("no value", nulls[0], "null", "a value", "Give it one or remove the row")
    also = f" (or {', '.join(names[1:])})" if names[1:] else ""
    has = f"The row has: {', '.join(map(repr, row.record)) or 'no fields'}"
    close = difflib.get_close_matches(names[0], map(str, row.record), n=1, cutoff=0.75)
    return row.error(f"missing{also}", names[0], hint=f"{has}; did you mean {close[0]!r}?" if close else has)

"""The errors that teva raises for bad input: each says where, what was found, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class TevaError(Exception):
    """Base of every error that teva raises on purpose; the command lines print it without a traceback."""


class DataError(TevaError):
    """Bad input data, with its address.

    Args:
        problem: what is wrong, in a few words.
        file: the file that holds the bad value.
        line: its line, counted from 1.
        field: the field of the record.
        found: the value found (shortened for display).
        expected: what would have been right.
        hint: what to do about it.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        line: int | None = None,
        field: str | None = None,
        found: object = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.problem, self.file, self.line, self.field = problem, file, line, field
        self.found, self.expected, self.hint = found, expected, hint
        address = "" if file is None else f"{file}:{line}: " if line is not None else f"{file}: "
        message = f"{address}{problem}" if field is None else f"{address}field {field!r}: {problem}"
        if found is not None:
            message += f"; found {shorten(found)}"
        if expected is not None:
            message += f"; expected {expected}"
        if hint is not None:
            message += f". {hint}"
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are pickled by their args, which a keyword-only signature would not survive
        # on the way out of a worker process.
        return _rebuild_data_error, (
            type(self), self.problem, self.file, self.line, self.field, self.found, self.expected, self.hint,
        )  # fmt: skip


class MediaError(DataError):
    """A picture, recording or clip that cannot be read or decoded; with the address of its file."""


def _rebuild_data_error(
    kind: type[DataError],
    problem: str,
    file: str | Path | None,
    line: int | None,
    field: str | None,
    found: object,
    expected: str | None,
    hint: str | None,
) -> DataError:
    return kind(problem, file=file, line=line, field=field, found=found, expected=expected, hint=hint)


class RecipeError(TevaError):
    """A recipe that cannot be run: unknown key, wrong type, value out of range, settings that exclude each other."""


class ArtifactError(TevaError):
    """A model directory that cannot be read, or whose layout teva cannot reproduce exactly."""


class EngineMemoryError(TevaError, MemoryError):
    """A batch does not fit into the memory of the device that was to encode it; a smaller one may."""


class MissingExtraError(TevaError, ImportError):
    """An optional dependency is not installed; the message holds the line that installs it.

    Args:
        what: what cannot be done without it.
        requirement: what to install, e.g. ``teva-infer[faiss]``.
    """

    def __init__(self, what: str, requirement: str) -> None:
        self.requirement = requirement
        super().__init__(f'{what} needs {requirement}: pip install "{requirement}"')


def shorten(value: object, width: int = 80) -> str:
    """``repr(value)``, cut to ``width`` characters.

    >>> shorten("a long text", width=8)
    "'a long…"
    """
    text = repr(value)
    return text if len(text) <= width else f"{text[: width - 1]}…"


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that names the known name nearest to a misspelt one, or lists what is known.

    >>> nearest("titel", ["title", "text"])
    "Did you mean 'title'?"
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known)}"

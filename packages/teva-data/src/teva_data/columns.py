"""How the lines of run and qrels files are cut into columns, and what their values may be; streamed."""

from __future__ import annotations

import functools
import io
import itertools
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .errors import DataError
from .files import open_binary

LINE_LIMIT = 1 << 24
"""Bytes of a line at most: a small compressed file can hold one that fills the memory."""
FLOAT32_END = (2 - 2.0**-24) * 2.0**127  # what lies below rounds to a finite float32

_QUERY_NAMES = ("query_id", "query-id", "qid")
_DOCUMENT_NAMES = ("docid", "doc_id", "doc-id", "corpus-id", "corpus_id")
_GRADE_NAMES = ("score", "relevance", "rel")
_QRELS_HINT = "Write BEIR's header `query_id<TAB>docid<TAB>score` above the rows, or use TREC's four columns"


class RunRow(NamedTuple):
    """One line of a run; the score as the file has it, within float32's range."""

    line: int
    query_id: str
    docid: str
    score: float


class QrelsRow(NamedTuple):
    """One judgement."""

    line: int
    query_id: str
    docid: str
    grade: int


def run_rows(path: Path) -> Iterator[RunRow]:
    """The rows of a run file, in its order; the layouts and errors are those of :func:`teva_data.runs.read_run`."""
    layout, lines = _run_layout(path, _lines(path))
    none = True
    for number, line in lines:
        if row := layout.row(line, path, number):
            none = False
            query_id = _identifier(row[0], path, number, "query_id")
            yield RunRow(number, query_id, _identifier(row[1], path, number, "docid"), _score(row[2], path, number))
    if none:
        raise DataError("no rows", file=path, hint="The file holds comments and nothing else")


def qrels_rows(path: Path, problems: list[DataError] | None = None) -> Iterator[QrelsRow]:
    """The rows of a qrels file, in its order; the layouts and errors are those of :func:`teva_data.runs.read_qrels`.

    Args:
        path: the file.
        problems: takes the errors of single lines, which are then left out; without it the first one is raised.
    """
    layout, lines = _qrels_layout(path, _lines(path))
    none = True
    for number, line in lines:
        try:
            if row := layout.row(line, path, number):
                none = False
                query_id = _identifier(row[0], path, number, "query_id")
                yield QrelsRow(
                    number, query_id, _identifier(row[1], path, number, "docid"), _grade(row[2], path, number)
                )
        except DataError as error:
            if problems is None:
                raise
            none = False
            problems.append(error)
    if none:
        raise DataError("no judgements", file=path, hint="The file holds a header or comments, and nothing else")


def listed_twice(path: Path, number: int | None, query_id: str, docid: str) -> DataError:
    """The error for a document that stands twice for one query."""
    problem = f"document twice for query {query_id!r}"
    return DataError(problem, file=path, line=number, field="docid", found=docid, expected="each document once")


class _Columns(NamedTuple):
    """How a line is cut, and which three of its columns are wanted (query, document, value)."""

    separator: bytes | None  # None: any white space
    width: int
    wanted: tuple[int, int, int]
    comments: bool = False  # TREC's layouts have them
    more: bool = False  # TREC's runs: whatever follows the tag is ignored
    expected: str = ""

    def row(self, line: bytes, path: Path, number: int) -> tuple[bytes, bytes, bytes] | None:
        """The wanted columns of a line; None for a comment."""
        if self.comments and line.startswith(b"#"):
            return None
        columns = line.split(self.separator)
        if self.comments:
            if self.separator is not None and len(columns) != self.width:
                columns = line.split()
            columns = [column.strip() for column in columns]
        if len(columns) != self.width and not self._is_longer(columns):
            raise DataError(
                "wrong number of columns", file=path, line=number, found=_shown(line),
                expected=f"{self.width}: {self.expected}, separated by {'tabs' if self.separator else 'white space'}",
            )  # fmt: skip
        query, document, value = self.wanted
        return columns[query], columns[document], columns[value]

    def _is_longer(self, columns: list[bytes]) -> bool:
        # A docid with a space shifts the columns: its second half would be the rank, and the rank the score.
        return self.more and len(columns) > self.width and columns[3].lstrip(b"-").isdigit()


def _run_layout(path: Path, lines: Iterator[tuple[int, bytes]]) -> tuple[_Columns, Iterator[tuple[int, bytes]]]:
    number, line, lines = _first(path, lines, "query_id docid score")
    three, six = "query_id, docid, score", "query_id, Q0, docid, rank, score, tag"
    tabbed, spaced = len(line.split(b"\t")), len(line.split())
    if tabbed == 3 or (spaced == 3 and tabbed != 6):
        separator = b"\t" if tabbed == 3 else None
        return _Columns(separator, 3, (0, 1, 2), expected=three), lines
    if tabbed == 6 or spaced >= 6:
        separator = b"\t" if tabbed == 6 else None
        return _Columns(separator, 6, (0, 2, 4), comments=True, more=True, expected=six), lines
    expected = f"3 columns ({three}) or TREC's 6 ({six})"
    raise DataError("not a line of a run", file=path, line=number, found=_shown(line), expected=expected)


def _qrels_layout(path: Path, lines: Iterator[tuple[int, bytes]]) -> tuple[_Columns, Iterator[tuple[int, bytes]]]:
    number, line, lines = _first(path, lines, "query_id docid score")
    separator = b"\t" if b"\t" in line else None
    names = [column.strip().lower().decode("utf-8", "replace") for column in line.split(separator)]
    groups = (_QUERY_NAMES, _DOCUMENT_NAMES, _GRADE_NAMES)
    if any(name in group for name in names for group in groups):
        places = [[place for place, name in enumerate(names) if name in group] for group in groups]
        if len(names) != 3 or any(len(place) != 1 for place in places):
            expected = f"three columns, one of each: {'/'.join(_QUERY_NAMES)}; {'/'.join(_DOCUMENT_NAMES)}; score"
            raise DataError("header not understood", file=path, line=number, found=_shown(line), expected=expected)
        # Anything above the header would be a row of a layout that has no comments.
        rows = (item for item in lines if item[0] != number)
        wanted = (places[0][0], places[1][0], places[2][0])
        return _Columns(separator, 3, wanted, expected=", ".join(names)), rows
    if len(line.split(b"\t")) == 4 or len(line.split()) == 4:
        separator = b"\t" if len(line.split(b"\t")) == 4 else None
        expected = "query_id, iteration, docid, relevance"
        return _Columns(separator, 4, (0, 2, 3), comments=True, expected=expected), lines
    expected = "a header (query_id, docid, score), or TREC's 4 columns without one"
    raise DataError(
        "not the first line of qrels", file=path, line=number, found=_shown(line), expected=expected, hint=_QRELS_HINT
    )


def _first(path: Path, lines: Iterator[tuple[int, bytes]], row: str) -> tuple[int, bytes, Iterator[tuple[int, bytes]]]:
    """The line that tells the layout (the first that cannot be a comment), and all lines."""
    seen: list[tuple[int, bytes]] = []
    for item in lines:
        seen.append(item)
        if not item[1].startswith(b"#"):
            break
    if not seen:
        raise DataError("the file is empty", file=path, line=1, expected=f"rows `{row}`")
    number, line = seen[0] if seen[-1][1].startswith(b"#") else seen[-1]
    return number, line, itertools.chain(seen, lines)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, with their numbers from 1, without line ends and byte order mark."""
    number = 0
    try:
        with open_binary(path) as file, io.BufferedReader(file, 1 << 20) as reader:  # type: ignore[type-var]
            for number, line in enumerate(iter(functools.partial(reader.readline, LINE_LIMIT + 1), b""), 1):
                if len(line) > LINE_LIMIT:
                    raise DataError(
                        f"a line of more than {LINE_LIMIT >> 20} MiB", file=path, line=number,
                        expected="one row a line",
                        hint="Are the line ends missing?",
                    )  # fmt: skip
                line = line.rstrip(b"\r\n")
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line and not line.isspace():
                    yield number, line
    except FileNotFoundError:
        raise DataError("no such file", file=path) from None
    except (OSError, EOFError, zlib.error) as error:
        hint = "Is the file whole, and of the kind that its ending says?"
        raise DataError("cannot be read further", file=path, line=number + 1, found=str(error), hint=hint) from error


def _identifier(value: bytes, path: Path, number: int, field: str) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise DataError("not UTF-8", file=path, line=number, field=field, found=value) from None
    if not text or "\0" in text:
        problem = "NUL inside an id" if text else "empty id"
        raise DataError(problem, file=path, line=number, field=field, found=text or None)
    return text


def _score(value: bytes, path: Path, number: int) -> float:
    try:
        score = float(value)
    except ValueError:
        score = math.nan
    if -FLOAT32_END < score < FLOAT32_END and b"_" not in value:
        return score
    expected = "a finite number within float32's range"
    raise DataError("not a score", file=path, line=number, field="score", found=_shown(value), expected=expected)


def _grade(value: bytes, path: Path, number: int) -> int:
    try:
        grade = float(value)
        if grade.is_integer() and b"_" not in value:
            # Through int where it can be: a float would round what is beyond 2**53.
            return int(grade) if b"." in value or b"e" in value.lower() else int(value)
    except ValueError:
        pass
    raise DataError("not a grade", file=path, line=number, field="score", found=_shown(value), expected="an integer")


def _shown(value: bytes) -> str:
    return value.decode("utf-8", "replace")

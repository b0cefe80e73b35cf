"""Run files (what a search found) and qrels files (what was judged relevant): reading and writing them exactly.

The order of a run is trec_eval's everywhere: score as float32, highest first; equal scores by docid, descending.
Whatever rank a file claims is ignored. Nothing in a file is skipped but blank lines and TREC comments.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from .errors import DataError
from .files import atomic_file, open_binary

Layout = Literal["tsv", "trec"]
Run = dict[str, list[tuple[str, float]]]
Qrels = dict[str, dict[str, int]]

FLOAT32_END = (2 - 2.0**-24) * 2.0**127  # what lies below rounds to a finite float32

_QUERY_NAMES = ("query_id", "query-id", "qid")
_DOCUMENT_NAMES = ("docid", "doc_id", "doc-id", "corpus-id", "corpus_id")
_GRADE_NAMES = ("score", "relevance", "rel")
_QRELS_HINT = "Write BEIR's header `query_id<TAB>docid<TAB>score` above the rows, or use TREC's four columns"

# What would not come back from a file as it went in. NUL and white space end an id for trec_eval.
_NOT_IN_TSV = re.compile(r"^$|[\t\r\n\0]|^\ufeff")
_NOT_IN_TREC = re.compile(r"^$|[\s\0]|^\ufeff|^#")


def best_first(docids: Sequence[str], scores: Sequence[float] | npt.NDArray[Any]) -> list[tuple[str, float]]:
    """The documents of one query in trec_eval's order.

    Args:
        docids: N document ids.
        scores: N scores; rounded to float32 before they are compared.

    Returns:
        N pairs (docid, score), score descending, then docid descending; the scores are the float32 values.

    Raises:
        DataError: as many scores as documents were not given, or a score is not a finite float32.
    """
    if len(docids) != len(scores):
        raise DataError("as many scores as documents are needed", found=(len(docids), len(scores)))
    rounded = _float32(docids, scores)
    ordered = sorted(zip(rounded.tolist(), docids, strict=True), reverse=True)
    return [(docid, score) for score, docid in ordered]


def read_run(path: str | Path) -> Run:
    """Read a run file, plain or compressed (``.gz``, ``.zst``).

    Two layouts are told apart by the first line. Three columns ``query_id docid score``, separated by tabs (ids may
    then hold spaces) or by white space; and TREC's six, ``query_id Q0 docid rank score tag``, where the rank is
    ignored and lines that begin with ``#`` are comments. MS MARCO's ``query_id docid rank`` has three columns as well
    and cannot be told from the first: **the third column is always taken for a score**, higher is better; convert such
    a file first (score = 1 / rank).

    Returns:
        query_id to its (docid, score) pairs, in trec_eval's order (see :func:`best_first`); queries as in the file.

    Raises:
        DataError: with file and line: no rows, a wrong number of columns, an id that is empty or holds a NUL, text that
            is not UTF-8, a score that is no finite float32, a document listed twice for a query.
    """
    path = Path(path)
    layout, lines = _run_layout(path, _lines(path))
    scores: dict[str, dict[str, float]] = {}
    for number, line in lines:
        row = layout.row(line, path, number)
        if row is None:
            continue
        query_id, docid = _text(row[0], path, number, "query_id"), _text(row[1], path, number, "docid")
        found = scores.setdefault(query_id, {})
        if docid in found:
            raise _twice(path, number, query_id, docid)
        found[docid] = _score(row[2], path, number)
    if not scores:
        raise DataError("no rows", file=path, hint="The file holds comments and nothing else")
    return {query_id: best_first(list(found), list(found.values())) for query_id, found in scores.items()}


def write_run(
    path: str | Path,
    run: Mapping[str, Iterable[tuple[str, float]]],
    *,
    layout: Layout = "tsv",
    tag: str = "teva",
) -> None:
    """Write a whole run, atomically. See :class:`RunWriter` for the arguments, the layouts and what is raised."""
    with RunWriter(path, layout=layout, tag=tag) as writer:
        for query_id, pairs in run.items():
            listed = list(pairs)
            writer.write(query_id, [docid for docid, _ in listed], [score for _, score in listed])


class RunWriter:
    """Writes a run query by query; the file appears, whole, when the ``with`` block ends well.

    Scores are written with as many digits as read back to the same float32, so no ties are invented.

    Args:
        path: the file; compressed where it ends in ``.gz``.
        layout: ``tsv`` (``query_id docid score``) or ``trec`` (six columns).
        tag: the run's name, the sixth column of ``trec``.

    Raises:
        DataError: an id that the layout cannot hold, a score that is no finite float32, a query written twice, a
            document twice for a query; when the block ends: a run without any document.
    """

    def __init__(self, path: str | Path, layout: Layout = "tsv", tag: str = "teva") -> None:
        if layout not in ("tsv", "trec"):
            raise DataError("unknown layout of a run file", found=layout, expected="'tsv' or 'trec'")
        self.path, self.layout, self.tag = Path(path), layout, tag
        if self.path.suffix == ".zst":
            raise DataError("run files are not written as .zst", file=path, hint="Use .gz, or no compression")
        self._forbidden = _NOT_IN_TSV if layout == "tsv" else _NOT_IN_TREC
        if layout == "trec":
            self._check(tag, "tag")
        self._queries: set[str] = set()
        self._rows = 0
        self._stack = contextlib.ExitStack()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> RunWriter:
        """Open the temporary file."""
        file = self._stack.enter_context(atomic_file(self.path))
        if self.path.suffix == ".gz":
            # No name and time in the header: the same run gives the same bytes.
            packed = gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)
            file = self._stack.enter_context(cast(IO[bytes], packed))
        self._file = file
        return self

    def write(self, query_id: str, docids: Sequence[str], scores: Sequence[float] | npt.NDArray[Any]) -> None:
        """Add what was found for one query, in any order. A query for which nothing was found leaves no line."""
        if self._file is None:
            raise ValueError("a RunWriter writes inside its `with` block only")
        self._check(query_id, "query_id")
        if query_id in self._queries:
            raise DataError("query written twice", file=self.path, field="query_id", found=query_id)
        for docid in docids:
            self._check(docid, "docid", query_id)
        if len(set(docids)) != len(docids):
            twice = next(docid for docid, other in itertools.pairwise(sorted(docids)) if docid == other)
            raise _twice(self.path, None, query_id, twice)
        self._file.write("".join(self._format(query_id, best_first(docids, scores))).encode())
        self._queries.add(query_id)
        self._rows += len(docids)

    def _format(self, query_id: str, pairs: list[tuple[str, float]]) -> Iterator[str]:
        for rank, (docid, score) in enumerate(pairs, 1):
            text = str(np.float32(score))
            if self.layout == "tsv":
                yield f"{query_id}\t{docid}\t{text}\n"
            else:
                yield f"{query_id} Q0 {docid} {rank} {text} {self.tag}\n"

    def _check(self, name: str, field: str, query_id: str | None = None) -> None:
        if not self._forbidden.search(name) and _encodes(name):
            return
        where = field if query_id is None else f"{field} of query {query_id!r}"
        held = "an id" + (
            " without tab, line break and NUL" if self.layout == "tsv" else " without white space, NUL and leading '#'"
        )
        hint = "Write layout='tsv', which takes ids with spaces" if self.layout == "trec" else None
        raise DataError("id cannot be written", file=self.path, field=where, found=name, expected=held, hint=hint)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Give the file its name, or remove it after an error."""
        self._file = None
        if error is None and self._rows == 0:
            with self._stack:  # takes the temporary file away
                raise DataError("the run is empty", file=self.path, hint="No query found any document")
        self._stack.__exit__(kind, error, tb)


def read_qrels(path: str | Path) -> Qrels:
    """Read judgements, plain or compressed (``.gz``, ``.zst``).

    Two layouts: BEIR's TSV with a header (``query_id``/``query-id``, ``docid``/``doc_id``/``corpus-id``,
    ``score``/``relevance``, in any order), and TREC's ``query_id iteration docid relevance`` without one, where lines
    that begin with ``#`` are comments, as in trec_eval 10 (a ``#`` inside a line is not).

    Returns:
        query_id to docid to grade. Grades are integers; negative ones are kept (trec_eval: pooled, but not judged).

    Raises:
        DataError: with file and line: no rows, a missing header, a wrong number of columns, an id that is empty or
            holds a NUL, text that is not UTF-8, a grade that is no integer, a document judged twice for a query.
    """
    path = Path(path)
    layout, lines = _qrels_layout(path, _lines(path))
    qrels: Qrels = {}
    for number, line in lines:
        row = layout.row(line, path, number)
        if row is None:
            continue
        query_id, docid = _text(row[0], path, number, "query_id"), _text(row[1], path, number, "docid")
        judged = qrels.setdefault(query_id, {})
        if docid in judged:
            raise _twice(path, number, query_id, docid)
        judged[docid] = _grade(row[2], path, number)
    if not qrels:
        raise DataError("no judgements", file=path, hint="The file holds a header or comments, and nothing else")
    return qrels


def write_qrels(path: str | Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Write judgements as TSV with the header ``query_id docid score``, atomically (compressed where it ends in .gz).

    Raises:
        DataError: no judgements at all or for a query, an id that holds a tab or a line break, a grade that is no
            integer.
    """
    path = Path(path)
    if path.suffix == ".zst":
        raise DataError("qrels are not written as .zst", file=path, hint="Use .gz, or no compression")
    rows = ["query_id\tdocid\tscore\n"]
    for query_id, judged in qrels.items():
        if not judged:
            raise DataError("query without judgements", file=path, field="query_id", found=query_id)
        for docid, grade in judged.items():
            for field, name in (("query_id", query_id), ("docid", docid)):
                if _NOT_IN_TSV.search(name) or not _encodes(name):
                    expected = "an id without tab, line break and NUL"
                    raise DataError("id cannot be written", file=path, field=field, found=name, expected=expected)
            if isinstance(grade, bool) or not isinstance(grade, int | np.integer):
                raise DataError("not a grade", file=path, field=f"score of ({query_id!r}, {docid!r})", found=grade,
                                expected="an integer")  # fmt: skip
            rows.append(f"{query_id}\t{docid}\t{int(grade)}\n")
    if len(rows) == 1:
        raise DataError("no judgements", file=path)
    data = "".join(rows).encode()
    with atomic_file(path) as file:
        file.write(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


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
            for number, line in enumerate(reader, 1):
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


def _text(value: bytes, path: Path, number: int, field: str) -> str:
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


def _float32(docids: Sequence[str], scores: Sequence[float] | npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    wide = np.asarray(scores, dtype=np.float64)
    bad = ~(np.abs(wide) < FLOAT32_END)
    if bad.any():
        place = int(bad.argmax())
        field = f"score of {docids[place]!r}"
        raise DataError("not a score", field=field, found=float(wide[place]), expected="a finite float32")
    return wide.astype(np.float32)


def _twice(path: Path, number: int | None, query_id: str, docid: str) -> DataError:
    problem = f"document twice for query {query_id!r}"
    return DataError(problem, file=path, line=number, field="docid", found=docid, expected="each document once")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: bytes) -> str:
    return value.decode("utf-8", "replace")

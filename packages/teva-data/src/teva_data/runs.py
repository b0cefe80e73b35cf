"""Run files (what a search found) and qrels files (what was judged relevant): reading and writing them exactly.

The order of a run is trec_eval's everywhere: score as float32, highest first; equal scores by docid, descending.
Whatever rank a file claims is ignored. Nothing in a file is skipped but blank lines and TREC comments.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from .columns import FLOAT32_END, listed_twice, qrels_rows, run_rows
from .errors import DataError
from .files import atomic_file

Layout = Literal["tsv", "trec"]
Run = dict[str, list[tuple[str, float]]]
Qrels = dict[str, dict[str, int]]


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
    scores: dict[str, dict[str, float]] = {}
    for number, query_id, docid, score in run_rows(path):
        found = scores.setdefault(query_id, {})
        if docid in found:
            raise listed_twice(path, number, query_id, docid)
        found[docid] = score
    return {query_id: best_first(list(found), list(found.values())) for query_id, found in scores.items()}


class Found(NamedTuple):
    """What a run found for one query.

    Attributes:
        query_id: the query.
        line: the first of its lines in the file.
        pairs: (docid, score), in trec_eval's order (see :func:`best_first`).
    """

    query_id: str
    line: int
    pairs: list[tuple[str, float]]


def iterate_run(path: str | Path) -> Iterator[Found]:
    """Read a run query by query, for runs larger than memory; layouts and errors are those of :func:`read_run`.

    The lines of a query must stand together, as they do in the runs that tools write. A query whose lines do not is
    returned once for each place where it stands: the caller, who knows the queries, can notice that.
    """
    path = Path(path)
    for query_id, rows in itertools.groupby(run_rows(path), key=lambda row: row.query_id):
        first, scores = 0, dict[str, float]()
        for line, _, docid, score in rows:
            first = first or line
            if docid in scores:
                raise listed_twice(path, line, query_id, docid)
            scores[docid] = score
        yield Found(query_id, first, best_first(list(scores), list(scores.values())))


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
            raise listed_twice(self.path, None, query_id, twice)
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
    qrels: Qrels = {}
    for number, query_id, docid, grade in qrels_rows(path):
        judged = qrels.setdefault(query_id, {})
        if docid in judged:
            raise listed_twice(path, number, query_id, docid)
        judged[docid] = grade
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


def _float32(docids: Sequence[str], scores: Sequence[float] | npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    wide = np.asarray(scores, dtype=np.float64)
    bad = ~(np.abs(wide) < FLOAT32_END)
    if bad.any():
        place = int(bad.argmax())
        field = f"score of {docids[place]!r}"
        raise DataError("not a score", field=field, found=float(wide[place]), expected="a finite float32")
    return wide.astype(np.float32)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

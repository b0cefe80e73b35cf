"""Reads JSONL, plain or compressed, and Parquet, record by record; what cannot be read is an error with its line."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import xxhash

from .errors import DataError
from .files import CHUNK
from .records import Row

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

COMPRESSIONS = ("", ".gz", ".zst")
LINE_LIMIT = 1 << 27
"""Bytes of a line at most: a file without line ends must not fill the memory."""
PARQUET_ROWS = 256  # read at once; a row may hold a picture


class Tap:
    """Counts and checksums the bytes of a file, before decompression, while something reads it.

    Attributes:
        bytes: how many have been read.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._digest = xxhash.xxh3_128()

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        self.bytes += len(data)
        self._digest.update(data)

    @property
    def checksum(self) -> str:
        """As :func:`teva_data.files.checksum` of what has been read."""
        return str(self._digest.hexdigest())


def read_lines(path: str | Path, tap: Tap | None = None) -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 text file with their numbers from 1, without their ends; compressed by ending.

    A byte order mark at the start and CRLF are taken. Only ``\\n`` ends a line.

    Args:
        path: the file.
        tap: told of every byte of the file, to its end.

    Raises:
        DataError: the file cannot be opened or decompressed, a line is not UTF-8 or longer than :data:`LINE_LIMIT`.
    """
    return _numbered_lines(Path(path), tap, _Bad(None))


def _numbered_lines(path: Path, tap: Tap | None, bad: _Bad) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        for number, raw in enumerate(_raw_lines(path, tap or Tap()), start=1):
            if number == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            try:
                line = raw.removesuffix(b"\r").decode()
            except UnicodeDecodeError as error:
                bad.note(
                    DataError(
                        f"not UTF-8 at byte {error.start + 1} of the line: {error.reason}", file=path, line=number,
                        found=raw[error.start : error.start + 8], hint="Save the file as UTF-8",
                    )
                )  # fmt: skip
                continue
            yield number, line
    except _CannotGoOnError as error:
        bad.note(error.problem)


class _CannotGoOnError(Exception):
    """The file ends for us here."""

    def __init__(self, problem: DataError) -> None:
        self.problem = problem
        super().__init__(str(problem))


def read_rows(path: str | Path, tap: Tap | None = None, problems: list[DataError] | None = None) -> Iterator[Row]:
    """Records of a JSONL file, streamed. Empty lines are allowed at the end only.

    Args:
        path: the file.
        tap: told of every byte of the file, to its end.
        problems: where given, what is wrong with a line is noted here and reading goes on with the next line; what is
            wrong with the file as a whole ends it.

    Raises:
        DataError: as :func:`read_lines`; a line is not a JSON object, or names a field twice; or there is no row.
    """
    path = Path(path)
    bad = _Bad(problems)
    empty_line = None
    none = True
    for number, line in _numbered_lines(path, tap, bad):
        if not line.strip():
            empty_line = empty_line or number
            continue
        none = False
        if empty_line is not None:
            bad.note(
                DataError("empty line", file=path, line=empty_line, expected="a JSON object", hint="Remove the line")
            )
            empty_line = None
        try:
            record = _parse(line, path, number)
        except DataError as error:
            bad.note(error)
        else:
            yield Row(record, path, number)
    if none:
        bad.note(DataError("no rows", file=path, expected="at least one JSON object"))


def read_parquet(path: str | Path, problems: list[DataError] | None = None) -> Iterator[Row]:
    """Rows of a Parquet file, streamed; a row's line is its number from 1.

    Raises:
        DataError: the file cannot be read as Parquet, or has no row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    bad = _Bad(problems)
    number = 0
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            refuse_twice(file.schema_arrow.names)
            for batch in file.iter_batches(PARQUET_ROWS):
                for record in batch.to_pylist():
                    number += 1
                    yield Row(record, path, number)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # a date may be one that Python has not
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        bad.note(
            DataError(
                f"cannot be read as Parquet after row {number}: {reason}", file=path,
                hint="Is the file cut short or damaged?",
            )
        )  # fmt: skip
        return
    if not number:
        bad.note(DataError("no rows", file=path, expected="at least one row"))


def refuse_twice(names: Sequence[str]) -> None:
    """Refuse columns of one name, of which a row would keep the last.

    Raises:
        ValueError: two columns have one name.
    """
    if len(set(names)) < len(names):
        raise ValueError(f"two columns have the name {next(name for name in names if names.count(name) > 1)!r}")


class _Bad:
    """Raises what is wrong, or notes it where there is a list for it."""

    def __init__(self, problems: list[DataError] | None) -> None:
        self._problems = problems

    def note(self, error: DataError) -> None:
        if self._problems is None:
            raise error
        self._problems.append(error)


def _parse(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        record = _DECODER.decode(line)
    except json.JSONDecodeError as error:
        hint = "One object a line; is the line cut, or the object spread over several lines?"
        raise DataError(
            f"malformed JSON at column {error.colno}: {error.msg}", file=path, line=number,
            found=line[max(0, error.pos - 20) : error.pos + 20], hint=hint,
        ) from error  # fmt: skip
    except RecursionError as error:
        raise DataError("JSON is nested too deeply", file=path, line=number) from error
    except ValueError as error:  # a field twice, or an integer of thousands of digits
        raise DataError(f"JSON cannot be read: {error}", file=path, line=number) from error
    if not isinstance(record, dict):
        raise DataError("not a JSON object", file=path, line=number, found=record, expected="one object a line")
    if "\\ud" in line or "\\uD" in line:
        _refuse_lone_surrogates(record, path, number)
    return record


def _fields_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {next(name for name in names if names.count(name) > 1)!r} stands twice in one object")
    return record


_DECODER = json.JSONDecoder(object_pairs_hook=_fields_once)


def _refuse_lone_surrogates(record: dict[str, Any], path: Path, number: int) -> None:
    """Half of a surrogate pair is valid JSON and no text: no tokenizer and no file takes it."""
    for field, value in record.items():
        for text in [field, *_texts_in(value)]:
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise DataError(
                    "not Unicode text: half of a surrogate pair", file=path, line=number, field=field, found=text,
                    hint="Was the text cut in the middle of a character?",
                )  # fmt: skip


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _texts_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts_in(item)


class _Tapped(io.RawIOBase):
    """A file whose reads pass a tap."""

    def __init__(self, file: io.FileIO, tap: Tap) -> None:
        self._file, self._tap = file, tap

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        count = self._file.readinto(buffer)
        self._tap.update(memoryview(buffer)[: count or 0])
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _open(path: Path, tap: Tap) -> tuple[IO[bytes], IO[bytes]]:
    """The decompressed file, and the raw one below it."""
    raw = io.BufferedReader(_Tapped(io.FileIO(path), tap), CHUNK)
    if path.suffix == ".gz":
        return gzip.GzipFile(fileobj=raw), raw  # type: ignore[return-value]
    if path.suffix == ".zst":
        import pyarrow as pa

        return pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd"), raw
    return raw, raw


def _raw_lines(path: Path, tap: Tap) -> Iterator[bytes]:
    try:
        file, raw = _open(path, tap)
    except OSError as error:
        raise _CannotGoOnError(DataError(f"cannot be opened: {error.strerror or error}", file=path)) from error
    with raw, file:
        rest: list[bytes] = []
        lines = held = 0
        while chunk := _read(file, path, lines):
            first, *others = chunk.split(b"\n")
            rest.append(first)
            held += len(first)
            if held > LINE_LIMIT:
                raise _CannotGoOnError(
                    DataError(
                        f"a line of more than {LINE_LIMIT >> 20} MiB", file=path, line=lines + 1,
                        expected="one record a line", hint="Are the line ends missing?",
                    )
                )  # fmt: skip
            if others:
                yield b"".join(rest)
                *whole, last = others
                yield from whole
                rest, held, lines = [last], len(last), lines + len(others)
        if last_line := b"".join(rest):
            yield last_line
        while raw.read(CHUNK):  # a decompressor need not look at the last bytes; the tap is promised all
            pass


def _read(file: IO[bytes], path: Path, lines: int) -> bytes:
    try:
        return file.read(CHUNK)
    except (OSError, EOFError, zlib.error) as error:
        # gzip and zstd report damage in three ways, none of which names the file.
        raise _CannotGoOnError(
            DataError(
                f"cannot be read after line {lines}: {error}", file=path, hint="Is the file cut short or damaged?"
            )
        ) from error

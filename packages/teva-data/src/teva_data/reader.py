"""Reads JSONL, plain or compressed, one record at a time; whatever cannot be read is a DataError with its line."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import xxhash

from .errors import DataError
from .files import CHUNK
from .records import Row

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

COMPRESSIONS = ("", ".gz", ".zst")


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
        DataError: the file cannot be opened or decompressed, or a line is not UTF-8.
    """
    path = Path(path)
    number = 0
    for number, raw in enumerate(_raw_lines(path, tap or Tap()), start=1):
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        try:
            yield number, raw.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"not UTF-8 at byte {error.start + 1} of the line: {error.reason}", file=path, line=number,
                found=raw[error.start : error.start + 8], hint="Save the file as UTF-8",
            ) from error  # fmt: skip


def read_rows(path: str | Path, tap: Tap | None = None) -> Iterator[Row]:
    """Records of a JSONL file, streamed. Empty lines are allowed at the end only.

    Raises:
        DataError: as :func:`read_lines`; a line is not a JSON object, or names a field twice; or there is no row.
    """
    path = Path(path)
    empty_line = None
    none = True
    for number, line in read_lines(path, tap):
        if not line.strip():
            empty_line = empty_line or number
            continue
        if empty_line is not None:
            raise DataError("empty line", file=path, line=empty_line, expected="a JSON object", hint="Remove the line")
        none = False
        yield Row(_parse(line, path, number), path, number)
    if none:
        raise DataError("no rows", file=path, expected="at least one JSON object")


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
        for text in [field, *(value if isinstance(value, list) else [value])]:
            if isinstance(text, str) and any("\ud800" <= character <= "\udfff" for character in text):
                raise DataError(
                    "not Unicode text: half of a surrogate pair", file=path, line=number, field=field, found=text,
                    hint="Was the text cut in the middle of a character?",
                )  # fmt: skip


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
        raise DataError(f"cannot be opened: {error.strerror or error}", file=path) from error
    with raw, file:
        rest: list[bytes] = []
        lines = 0
        while chunk := _read(file, path, lines):
            first, *others = chunk.split(b"\n")
            rest.append(first)
            if others:
                yield b"".join(rest)
                *whole, last = others
                yield from whole
                rest, lines = [last], lines + len(others)
        if last_line := b"".join(rest):
            yield last_line
        while raw.read(CHUNK):  # a decompressor need not look at the last bytes; the tap is promised all
            pass


def _read(file: IO[bytes], path: Path, lines: int) -> bytes:
    try:
        return file.read(CHUNK)
    except (OSError, EOFError, zlib.error) as error:
        # gzip and zstd report damage in three ways, none of which names the file.
        raise DataError(
            f"cannot be read after line {lines}: {error}", file=path, hint="Is the file cut short or damaged?"
        ) from error

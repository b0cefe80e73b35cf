"""Reads the rows of one file as tables are found: JSONL, CSV, TSV, Parquet, Arrow; streamed, each row with its address.

A picture or recording inside a row (``{"bytes": …, "path": …}``, as Hugging Face stores them) comes as
:class:`~teva_data.writing.incoming.MediaBytes`, or as the path that it names.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from teva_data.errors import DataError
from teva_data.progress import Progress
from teva_data.reader import COMPRESSIONS, Tap, read_lines, read_rows, refuse_twice
from teva_data.records import Row
from teva_data.writing.incoming import MediaBytes, ending_of

TEXT_ENDINGS = (".jsonl", ".csv", ".tsv")
ENDINGS = (*(f"{kind}{packed}" for kind in TEXT_ENDINGS for packed in COMPRESSIONS), ".parquet", ".arrow")
BATCH_BYTES, BATCH_ROWS = 4 << 20, 1024


def table_stem(path: Path) -> str | None:
    """The name of a table's file without its ending; None for a file that is no table."""
    for ending in ENDINGS:
        if path.name.endswith(ending) and not path.name.startswith("."):
            return path.name.removesuffix(ending)
    return None


def read_table(path: Path, progress: Progress | None = None) -> Iterator[Row]:
    """The rows of a file, by its ending; ``line`` of a row of Parquet or Arrow is its number, counted from 1.

    Args:
        path: the file.
        progress: told of the kilobytes read.

    Raises:
        DataError: the file is damaged, has no rows, or a row is malformed.
    """
    name = path.name
    if name.endswith(".parquet"):
        return _numbered(_parquet(path, progress), path)
    if name.endswith(".arrow"):
        return _numbered(_arrow(path, progress), path)
    tap = Tap()
    plain = name.removesuffix(".gz").removesuffix(".zst")
    if plain.endswith((".csv", ".tsv")):
        rows = _separated(path, "," if plain.endswith(".csv") else "\t", tap)
    else:
        rows = read_rows(path, tap)
    return rows if progress is None else _reported(rows, tap, progress)


def media_value(value: Any, number: int = 0) -> Any:
    """A value with what Hugging Face stores of media turned into pieces: bytes where there are any, else the path.

    Args:
        value: of a row; lists are looked into.
        number: of the row, to name a piece that has no name.
    """
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        data, path = value["bytes"], value["path"]
        return path if data is None else MediaBytes(path or f"{number}{ending_of(data)}", data)
    if isinstance(value, bytes):
        return MediaBytes(f"{number}{ending_of(value)}", value)
    if isinstance(value, list) and value and isinstance(value[0], dict | bytes | None):
        return [media_value(item, number) for item in value]
    return value


def _reported(rows: Iterator[Row], tap: Tap, progress: Progress) -> Iterator[Row]:
    done = 0
    for row in rows:
        if tap.bytes != done:
            progress.add(tap.bytes // 1000 - done // 1000)
            done = tap.bytes
        yield row


def _numbered(batches: Iterator[Any], path: Path) -> Iterator[Row]:
    number = 0
    try:
        for batch in batches:
            refuse_twice(batch.schema.names)
            for record in batch.to_pylist():
                number += 1
                yield Row({field: media_value(value, number) for field, value in record.items()}, path, number)
    except (OSError, ValueError, OverflowError) as error:  # pyarrow's are kinds of these; dates that Python has not
        raise DataError(
            f"cannot be read after row {number}: {error}", file=path, hint="Is the file whole, and what it is named?"
        ) from error
    if not number:
        raise DataError("no rows", file=path, expected="at least one")


def _parquet(path: Path, progress: Progress | None) -> Iterator[Any]:
    import pyarrow.parquet as pq

    size = path.stat().st_size / 1000
    with pq.ParquetFile(path) as file:
        about = file.metadata
        unpacked = sum(about.row_group(group).total_byte_size for group in range(about.num_row_groups))
        rows = max(1, min(BATCH_ROWS, BATCH_BYTES * about.num_rows // max(1, unpacked)))
        done = 0
        for batch in file.iter_batches(batch_size=rows):
            yield batch
            if progress is not None:
                progress.add(int(size * (done + len(batch)) / about.num_rows) - int(size * done / about.num_rows))
            done += len(batch)


def _arrow(path: Path, progress: Progress | None) -> Iterator[Any]:
    """Batches of an Arrow file, or of an Arrow stream, which is what Hugging Face saves under the same ending."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        if source.read(6) == b"ARROW1":
            file = pa.ipc.open_file(source)
            batches = (file.get_batch(number) for number in range(file.num_record_batches))
        else:
            source.seek(0)
            batches = iter(pa.ipc.open_stream(source))
        for batch in batches:
            for start in range(0, len(batch), BATCH_ROWS):
                yield batch.slice(start, BATCH_ROWS)
            if progress is not None:
                progress.add(batch.nbytes // 1000)


def _separated(source: Path, delimiter: str, tap: Tap) -> Iterator[Row]:
    """Rows of a CSV or TSV with a header; quoted as spreadsheets do; a row's line is its first.

    Line breaks inside a cell become ``\\n``.
    """
    limit = csv.field_size_limit(sys.maxsize)
    reader = csv.reader((line + "\n" for _, line in read_lines(source, tap)), delimiter=delimiter, strict=True)
    start, rows, header, empty_line = 1, 0, None, None
    try:
        for cells in reader:
            first, start = start, reader.line_num + 1
            if not cells:
                empty_line = empty_line or first
                continue
            if empty_line is not None:
                raise DataError("empty line", file=source, line=empty_line, hint="Remove the line")
            if header is None:
                header = _header(cells, source)
                continue
            if len(cells) != len(header):
                raise DataError(
                    "not as many cells as the header has", file=source, line=first, found=len(cells),
                    expected=str(len(header)), hint="Quote cells that hold the separator or a line break",
                )  # fmt: skip
            rows += 1
            yield Row(dict(zip(header, cells, strict=True)), source, first)
    except csv.Error as error:
        raise DataError(
            f"malformed table: {error}", file=source, line=start, hint='Is a quote (") left open or not doubled?'
        ) from error
    finally:
        csv.field_size_limit(limit)
    if not rows:
        raise DataError("no rows", file=source, expected="a header and at least one row")


def _header(cells: list[str], source: Path) -> list[str]:
    lowered = [cell.strip().lower() for cell in cells]
    twice = [cell for cell in lowered if lowered.count(cell) > 1]
    if twice:
        raise DataError("the header names a column twice", file=source, line=1, found=twice[0])
    return cells


def read_cells(path: Path, delimiter: str = "\t", progress: Progress | None = None) -> Iterator[tuple[int, list[str]]]:
    """Cells of each line of a file without header and quoting, with the line's number; empty lines end a file only.

    Raises:
        DataError: an empty line inside, or as :func:`teva_data.reader.read_lines`.
    """
    tap, done, empty_line = Tap(), 0, None
    for number, line in read_lines(path, tap):
        if not line.strip():
            empty_line = empty_line or number
            continue
        if empty_line is not None:
            raise DataError("empty line", file=path, line=empty_line, hint="Remove the line")
        if progress is not None and tap.bytes != done:
            progress.add(tap.bytes // 1000 - done // 1000)
            done = tap.bytes
        yield number, line.split(delimiter)

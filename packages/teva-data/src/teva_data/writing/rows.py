"""Files of rows, written as they come: JSONL, JSONL compressed with zstd, and Parquet whose columns may still widen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Protocol

Form = Literal["jsonl", "jsonl.zst", "parquet"]
GROUP_BYTES, GROUP_ROWS = 8 << 20, 65_536
MEDIA_FIELDS = ("image", "video", "audio")
_IDS = ("positive_document_ids", "negative_document_ids")
# Made once: json.dumps would make an encoder for each row. Without spaces, which a list of ids would be full of.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_SCORES = ("positive_scores", "negative_scores")


class RowWriter(Protocol):
    """Takes the rows of one file."""

    def write(self, record: dict[str, Any]) -> None:
        """Add a row; fields without a value are left out of it."""

    def close(self) -> None:
        """Finish the file."""


def row_writer(directory: Path, stem: str, form: Form) -> RowWriter:
    """A writer of ``<directory>/<stem>.<form>``."""
    path = directory / f"{stem}.{form}"
    return ParquetRows(path) if form == "parquet" else JsonRows(path)


class JsonRows:
    """JSONL, compressed with zstd where the path ends in ``.zst``."""

    def __init__(self, path: Path) -> None:
        self._file: Any
        if path.suffix == ".zst":
            import pyarrow as pa

            self._file = pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd")
        else:
            self._file = path.open("wb", buffering=1 << 20)

    def write(self, record: dict[str, Any]) -> None:
        """Add a row."""
        self._file.write(_encode(record).encode() + b"\n")

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


class ParquetRows:
    """Parquet in row groups of about 8 MiB, compressed with zstd.

    A column stands in the file from the first row that has it, and is a list from the first row that has a list: what
    is written already is then rewritten, group by group. That happens a few times at most, whatever the file's length.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._types: dict[str, Any] = {}
        self._writer: Any = None
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def write(self, record: dict[str, Any]) -> None:
        """Add a row."""
        self._rows.append(record)
        self._bytes += sum(map(_size, record.values()))
        if self._bytes >= GROUP_BYTES or len(self._rows) >= GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left and finish the file."""
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._rows:
            return
        types = self._wanted()
        if self._writer is None or types != self._types:
            self._widen(types)
        columns = [pa.array([_fitted(row.get(name), kind) for row in self._rows], kind) for name, kind in types.items()]
        self._writer.write_table(pa.table(columns, schema=pa.schema(list(types.items()))))
        self._rows, self._bytes = [], 0

    def _wanted(self) -> dict[str, Any]:
        import pyarrow as pa

        types = dict(self._types)
        for row in self._rows:
            for name, value in row.items():
                if value is None:
                    continue
                kind = _type(name, value)
                if name not in types or (pa.types.is_large_list(kind) and not pa.types.is_large_list(types[name])):
                    types[name] = kind
        return types

    def _widen(self, types: dict[str, Any]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema(list(types.items()))
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, schema, compression="zstd")
        else:
            self._writer.close()
            old = self._path.with_name(f".{self._path.name}.old")
            self._path.replace(old)
            self._writer = pq.ParquetWriter(self._path, schema, compression="zstd")
            with pq.ParquetFile(old) as file:
                for group in range(file.num_row_groups):
                    self._writer.write_table(_widened(file.read_row_group(group), types, schema))
            old.unlink()
        self._types = types


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list | tuple):
        return 8 + sum(map(_size, value))
    return 32


def _type(name: str, value: Any) -> Any:
    import pyarrow as pa

    text = pa.large_string()
    if name in _IDS:
        return pa.large_list(text)
    if name in _SCORES:
        return pa.large_list(pa.float64())
    single = text
    if name.endswith(MEDIA_FIELDS):
        single = pa.struct([("file", text), ("offset", pa.int64()), ("length", pa.int64())])
    return pa.large_list(single) if isinstance(value, list | tuple) else single


def _fitted(value: Any, kind: Any) -> Any:
    import pyarrow as pa

    if value is None or not pa.types.is_large_list(kind) or isinstance(value, list | tuple):
        return value
    return [value]


def _widened(table: Any, types: dict[str, Any], schema: Any) -> Any:
    """A table that was written with fewer columns or with single values, with those of ``types``."""
    import pyarrow as pa

    columns = []
    for name, kind in types.items():
        if name not in table.column_names:
            columns.append(pa.nulls(len(table), kind))
        elif table.schema.field(name).type == kind:
            columns.append(table.column(name))
        else:
            values = [_fitted(value, kind) for value in table.column(name).to_pylist()]
            columns.append(pa.array(values, kind))
    return pa.table(columns, schema=schema)

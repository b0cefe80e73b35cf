"""Random access to the rows of a memory-mapped Arrow file whose batches all have one size, but the last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Table:
    """Values of an Arrow IPC file by row.

    Nothing is read ahead and nothing is kept but a handle for each batch touched; the operating system's page cache is
    the only cache, shared by all processes.

    Args:
        path: the file.
        rows_per_batch: rows of every batch; the last may have fewer.
    """

    def __init__(self, path: Path, rows_per_batch: int) -> None:
        import pyarrow as pa

        self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._size = rows_per_batch
        self._columns: dict[tuple[int, str], Any] = {}

    def values(self, column: str, rows: NDArray[np.integer]) -> list[Any]:
        """Python values of a column at rows, [N] in 0..rows-1, in their order."""
        batches, offsets = np.divmod(rows, self._size)
        wanted = batches.tolist()
        arrays = {batch: self._column(batch, column) for batch in set(wanted)}
        return [arrays[batch][offset].as_py() for batch, offset in zip(wanted, offsets.tolist(), strict=True)]

    def slice(self, column: str, start: int, stop: int) -> list[Any]:
        """Python values of a column at rows ``start`` to ``stop`` (not included)."""
        values: list[Any] = []
        while start < stop:
            batch, offset = divmod(start, self._size)
            count = min(self._size - offset, stop - start)
            values += self._column(batch, column).slice(offset, count).to_pylist()
            start += count
        return values

    def arrays(self, column: str) -> list[Any]:
        """The column's Arrow arrays, one for each batch, on the mapped memory."""
        return [self._column(batch, column) for batch in range(self._reader.num_record_batches)]

    def _column(self, batch: int, column: str) -> Any:
        array = self._columns.get((batch, column))
        if array is None:
            record_batch = self._reader.get_batch(batch)
            for name in record_batch.schema.names:
                self._columns[batch, name] = record_batch.column(name)
            array = self._columns[batch, column]
        return array

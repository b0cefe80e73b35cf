"""Random access to the rows of a memory-mapped Arrow file, without Arrow on the way.

Arrow lays a column out in plain buffers. Where each buffer of each record batch begins is noted once, when the file is
written (:func:`write_places`), so a row's bytes are found by arithmetic: opening costs the same for
any number of rows, and a batch of random rows a few numpy gathers and one decoding for each text. The file stays an
ordinary Arrow IPC file that any other program reads (:meth:`Table.arrays`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checked import CheckedFile

Column = tuple[str, str]
Rows = NDArray[np.int64]

# Buffers of each column type, depth first, as Arrow has them: v validity, o offsets (int64), d data.
_BUFFERS = {"text": "vod", "integer": "vd", "texts": "vovod", "numbers": "vovd", "codes": "vovd"}
NAMES = "named_ids"
"""The column of texts that codes stand for: the first row of each batch holds those of the whole batch."""


def arrow_schema(columns: Sequence[Column]) -> Any:
    """The Arrow schema of columns (name, form).

    ``text`` large_string, ``integer`` int64, ``texts`` large_list of large_string, ``numbers`` large_list of float64,
    ``codes`` large_list of int32, numbers of texts in the column :data:`NAMES`.
    """
    import pyarrow as pa

    text = pa.large_string()
    types = {
        "text": text,
        "integer": pa.int64(),
        "texts": pa.large_list(text),
        "numbers": pa.large_list(pa.float64()),
        "codes": pa.large_list(pa.int32()),
    }
    return pa.schema([(name, types[form]) for name, form in columns])


def write_places(table: Path, target: Path, columns: Sequence[Column]) -> None:
    """Write where the batches of an Arrow file begin: int64 [batches + 1, 1 + buffers].

    Column 0 is a batch's first row; the others are the file positions of its buffers, -1 for one that is not there. The
    last line holds the number of rows alone.
    """
    import pyarrow as pa

    width = 1 + sum(len(_BUFFERS[form]) for _, form in columns)
    first, places = 0, []
    with pa.memory_map(str(table)) as file:
        base = file.read_buffer(1).address
        file.seek(0)
        reader = pa.ipc.open_file(file)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            buffers = itertools.chain.from_iterable(column.buffers() for column in batch.columns)
            places.append(
                [first, *(buffer.address - base if buffer is not None and buffer.size else -1 for buffer in buffers)]
            )
            first += batch.num_rows
        places.append([first, *[-1] * (width - 1)])
    np.array(places, dtype="<i8").tofile(target)


class Table:
    """Values of an Arrow IPC file by row.

    Nothing is read ahead and nothing is kept; the operating system's page cache is the only cache, shared by all
    processes.

    Args:
        file: the Arrow file.
        places: what :func:`write_places` wrote for it.
        columns: name and form of each column, as the file has them.
    """

    def __init__(self, file: CheckedFile, places: CheckedFile, columns: Sequence[Column]) -> None:
        self._file, self._map = file, file.map
        self._integers: Any = file.array("<i8")
        self._octets: Any = file.array("<u1")
        self._fours: Any = file.array("<i4")
        self._forms = dict(columns)
        self._first_buffer = dict(
            zip(
                self._forms,
                itertools.accumulate((len(_BUFFERS[form]) for form in self._forms.values()), initial=1),
                strict=False,
            )
        )
        places.check_all()
        width = 1 + sum(len(_BUFFERS[form]) for form in self._forms.values())
        self._places: Any = places.array("<i8").reshape(-1, width)
        self._starts = np.ascontiguousarray(self._places[:, 0])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def columns(self, names: Sequence[str], rows: Rows) -> list[list[Any]]:
        """Python values of columns at rows, int64 [N] in 0..len-1, in their order; None where there is none."""
        places, local = self._locate(rows)
        return [self._column(name, places, local) for name in names]

    def values(self, column: str, rows: Rows) -> list[Any]:
        """Python values of one column; see :meth:`columns`."""
        return self.columns([column], rows)[0]

    def raw(self, column: str, rows: Rows) -> list[bytes]:
        """UTF-8 bytes of a text column at rows; b"" where there is none."""
        places, local = self._locate(rows)
        at = self._first_buffer[column]
        return self._octets_of(*self._ends(places[:, at + 1], places[:, at + 2], local))

    def slice(self, column: str, start: int, stop: int) -> list[Any]:
        """Python values of a column at rows ``start`` to ``stop`` (not included)."""
        return self.values(column, np.arange(start, stop, dtype=np.int64))

    def arrays(self, column: str) -> list[Any]:
        """The column's Arrow arrays, one for each batch, on the mapped memory; their checksums are not looked at."""
        import pyarrow as pa

        reader = pa.ipc.open_file(pa.memory_map(str(self._file.path)))
        return [reader.get_batch(number).column(column) for number in range(reader.num_record_batches)]

    def _locate(self, rows: Rows) -> tuple[Rows, Rows]:
        """The line of ``places`` of each row's batch, and the row's number in it."""
        places = self._places[np.searchsorted(self._starts, rows, side="right") - 1]
        return places, rows - places[:, 0]

    def _column(self, name: str, places: Rows, local: Rows) -> list[Any]:
        at, form = self._first_buffer[name], self._forms[name]
        if form == "text":
            values: list[Any] = self._texts(places[:, at + 1], places[:, at + 2], local)
        elif form == "integer":
            values = self._eights(places[:, at + 1], local).tolist()
        else:
            values = self._lists(places, at + 1, local, form)
        if (places[:, at] >= 0).any():  # no nulls, no buffer
            for row in np.flatnonzero(~self._valid(places[:, at], local)).tolist():
                values[row] = None
        return values

    def _eights(self, buffers: Rows, local: Rows) -> Any:
        """Items of 8 bytes as int64."""
        places = buffers + local * 8
        self._file.check(places, places + 8)
        return self._integers[places >> 3]

    def _ranges(self, offsets: Rows, local: Rows) -> tuple[Rows, Rows]:
        """Where values begin and end, from an offsets buffer."""
        places = offsets + local * 8
        self._file.check(places, places + 16)
        places >>= 3
        return self._integers[places], self._integers[places + 1]

    def _ends(self, offsets: Rows, data: Rows, local: Rows) -> tuple[list[int], list[int]]:
        """Where texts begin and end in the file; both have been checked."""
        starts, stops = self._ranges(offsets, local)
        starts, stops = starts + data, stops + data
        filled = stops > starts
        if not filled.all():  # where all texts of a batch are empty there is no data buffer to point into
            starts, stops = np.where(filled, starts, 0), np.where(filled, stops, 0)
        self._file.check(starts, stops)
        # One gather waits for the memory of all rows at once; slicing would wait for each in turn.
        self._octets[starts]
        return starts.tolist(), stops.tolist()

    def _octets_of(self, starts: list[int], stops: list[int]) -> list[bytes]:
        source = self._map
        return [source[start:stop] for start, stop in zip(starts, stops, strict=True)]

    def _texts(self, offsets: Rows, data: Rows, local: Rows) -> list[str]:
        source = self._map
        starts, stops = self._ends(offsets, data, local)
        return [source[start:stop].decode() for start, stop in zip(starts, stops, strict=True)]

    def _lists(self, places: Rows, at: int, local: Rows, form: str) -> list[list[Any]]:
        """Lists of a form; ``at`` is the place of the list's offsets among the buffers."""
        starts, stops = self._ranges(places[:, at], local)
        counts = stops - starts
        ends = np.cumsum(counts)
        owner = np.repeat(np.arange(len(local)), counts)
        items = np.arange(len(owner)) - np.repeat(ends - counts, counts) + np.repeat(starts, counts)
        if form == "texts":
            flat: list[Any] = self._texts(places[owner, at + 2], places[owner, at + 3], items)
        elif form == "numbers":
            flat = self._eights(places[owner, at + 2], items).view(np.float64).tolist()
        else:
            flat = self._named(places[owner], places[owner, at + 2] + items * 4)
        return [flat[end - count : end] for end, count in zip(ends.tolist(), counts.tolist(), strict=True)]

    def _named(self, places: Rows, codes: Rows) -> list[str]:
        """The texts that the codes at these places of the file stand for, each in its own batch."""
        self._file.check(codes, codes + 4)
        names = self._first_buffer[NAMES] + 1
        first, _ = self._ranges(places[:, names], np.zeros(len(codes), dtype=np.int64))
        return self._texts(places[:, names + 2], places[:, names + 3], first + self._fours[codes >> 2])

    def _valid(self, buffers: Rows, local: Rows) -> NDArray[np.bool_]:
        valid = buffers < 0
        asked = np.flatnonzero(~valid)
        places = buffers[asked] + (local[asked] >> 3)
        self._file.check(places, places + 1)
        valid[asked] = (self._octets[places] >> (local[asked] & 7)) & 1 > 0
        return valid

"""From an id to its row: sorted hashes on disk, so that nothing for each document lives in Python's memory.

Two files: ``hashes.npy``, uint64 [N], sorted; ``order.npy``, the row of each hash, uint32 (uint64 past 2**32 rows). A
lookup is one vectorised binary search; the id itself is compared afterwards, so ids that share a hash are told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

HASHES, ORDER = "hashes.npy", "order.npy"

# Gives the ids at rows (int64 [N]).
IdsAt = Callable[[NDArray[np.int64]], list[str]]


def hash_id(identifier: str) -> int:
    """XXH3-64 of an id's UTF-8 bytes."""
    return xxhash.xxh3_64_intdigest(identifier.encode("utf-8", "surrogatepass"))  # type: ignore[no-any-return]


def write_index(directory: Path, hashes: NDArray[np.uint64]) -> None:
    """Write the index of the rows' hashes, uint64 [N] in row order."""
    order = np.argsort(hashes, kind="stable")
    np.save(directory / HASHES, hashes[order])
    np.save(directory / ORDER, order.astype(np.uint32 if len(order) <= 2**32 else np.uint64))


class IdIndex:
    """A written index, memory-mapped.

    Args:
        directory: where its two files are.
        ids_at: gives the ids at rows.
    """

    def __init__(self, directory: Path, ids_at: IdsAt) -> None:
        # Plain arrays on the mapped memory: numpy's memmap class costs more than the search itself.
        self._hashes: NDArray[np.uint64] = np.asarray(_map(directory / HASHES))
        self._order: NDArray[np.unsignedinteger] = np.asarray(_map(directory / ORDER))
        self._ids_at = ids_at

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The row of each id, int64 [N]; -1 for an id that is not there."""
        found = np.full(len(ids), -1, dtype=np.int64)
        wanted = np.fromiter(map(hash_id, ids), dtype=np.uint64, count=len(ids))
        places = np.searchsorted(self._hashes, wanted)
        open_ = np.arange(len(ids))
        # Nearly always one round; one more for each further id that shares the hash.
        while len(open_):
            inside = places[open_] < len(self._hashes)
            open_ = open_[inside]
            open_ = open_[self._hashes[places[open_]] == wanted[open_]]
            rows = self._order[places[open_]].astype(np.int64)
            same = np.fromiter(
                (ids[at] == other for at, other in zip(open_.tolist(), self._ids_at(rows), strict=True)),
                dtype=bool,
                count=len(rows),
            )
            found[open_[same]] = rows[same]
            open_ = open_[~same]
            places[open_] += 1
        return found

    def first_duplicate(self) -> tuple[int, int] | None:
        """The two rows of an id that stands twice, or None; of several such ids, any one."""
        for rows in self._equal_hashes():
            seen: dict[str, int] = {}
            for row, identifier in zip(rows.tolist(), self._ids_at(rows), strict=True):
                if identifier in seen:
                    return seen[identifier], row
                seen[identifier] = row
        return None

    def _equal_hashes(self) -> Iterator[NDArray[np.int64]]:
        again = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])
        starts = again[np.flatnonzero(np.diff(again, prepend=-2) != 1)]
        for start in starts:
            end = np.searchsorted(self._hashes, self._hashes[start], side="right")
            yield self._order[start:end].astype(np.int64)


def _map(path: Path) -> NDArray[np.unsignedinteger]:
    return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]

"""From an id to its row: sorted hashes on disk, so that nothing for each document lives in Python's memory.

Three files. ``ids.hashes``: uint64 [N], sorted. ``ids.rows``: the row of each hash, uint32 (uint64 past 2**32 rows).
``ids.buckets``: uint64 [2**b + 1], where the hashes with the same first b bits begin, so that a lookup touches one
short run of hashes however many there are. A lookup is vectorised; the id itself is compared afterwards, so ids that
share a hash are told apart.

Built out of core: past :data:`IN_MEMORY` rows, (hash, row) pairs are spilled into 256 files by the first byte of the
hash, and each is sorted by itself.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from .checked import CheckedFile

HASHES, ROWS, BUCKETS = "ids.hashes", "ids.rows", "ids.buckets"
INDEX_FILES = (HASHES, ROWS, BUCKETS)
IN_MEMORY = 1 << 22
"""Rows that are sorted in memory, 16 bytes each; more are spilled."""
_PER_BUCKET = 32
_FEWEST_BITS = 8  # a bucket never spans two of the spilled parts

Hashes = NDArray[np.uint64]
# Gives the UTF-8 bytes of the ids at rows (int64 [N]).
IdsAt = Callable[[NDArray[np.int64]], list[bytes]]


def encode_id(identifier: str) -> bytes:
    """An id's UTF-8 bytes; half a surrogate pair, which no stored id has, is let through."""
    return identifier.encode("utf-8", "surrogatepass")


def hash_id(identifier: bytes) -> int:
    """XXH3-64 of an id's UTF-8 bytes."""
    return xxhash.xxh3_64_intdigest(identifier)  # type: ignore[no-any-return]


def hash_ids(identifiers: Iterable[bytes]) -> Hashes:
    """:func:`hash_id` of each, uint64 [N]."""
    return np.array(list(map(hash_id, identifiers)), dtype=np.uint64)


class IndexWriter:
    """Takes the hashes of ids in the order of their rows and writes the index.

    Args:
        directory: where its files, and the spilled parts meanwhile, go.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pending: list[Hashes] = []
        self._held = self._spilled = 0
        self._parts: list[Any] = []

    def add(self, hashes: Hashes) -> None:
        """Take the hashes of the next rows, uint64 [N]."""
        self._pending.append(hashes)
        self._held += len(hashes)
        if self._held >= IN_MEMORY:
            self._spill()

    def finish(self) -> None:
        """Write the index."""
        count = self._spilled + self._held
        wide = count > 2**32
        bits = max(_FEWEST_BITS, int(max(1, count // _PER_BUCKET)).bit_length())
        parts = self._sorted_parts()
        with (
            (self._directory / HASHES).open("wb") as hash_file,
            (self._directory / ROWS).open("wb") as row_file,
            (self._directory / BUCKETS).open("wb") as bucket_file,
        ):
            written = 0
            for first, last, hashes, rows in parts:
                hash_file.write(hashes.astype("<u8", copy=False).tobytes())
                row_file.write(rows.astype("<u8" if wide else "<u4").tobytes())
                # The buckets whose prefix begins with the bytes first..last of this part.
                edges = np.arange(first << (bits - 8), (last + 1) << (bits - 8), dtype=np.uint64)
                begins = np.searchsorted(hashes, edges << np.uint64(64 - bits)) + written
                bucket_file.write(begins.astype("<u8").tobytes())
                written += len(hashes)
            bucket_file.write(np.array([written], dtype="<u8").tobytes())

    def _take_pending(self) -> tuple[Hashes, NDArray[np.uint64]]:
        hashes = np.concatenate(self._pending) if self._pending else np.empty(0, dtype=np.uint64)
        rows = np.arange(self._spilled, self._spilled + len(hashes), dtype=np.uint64)
        self._pending, self._held = [], 0
        self._spilled += len(hashes)
        return hashes, rows

    def _spill(self) -> None:
        if not self._parts:
            self._parts = [(self._directory / f"spill-{part:02x}").open("w+b", buffering=0) for part in range(256)]
        hashes, rows = self._take_pending()
        first_byte = (hashes >> np.uint64(56)).astype(np.uint8)
        order = np.argsort(first_byte, kind="stable")
        pairs = np.stack([hashes[order], rows[order]], axis=1)
        ends = np.cumsum(np.bincount(first_byte, minlength=256))
        for part, file in enumerate(self._parts):
            file.write(pairs[ends[part - 1] if part else 0 : ends[part]].tobytes())

    def _sorted_parts(self) -> Iterator[tuple[int, int, Hashes, NDArray[np.uint64]]]:
        """First and last leading byte, sorted hashes and their rows, part by part."""
        if not self._parts:
            hashes, rows = self._take_pending()
            order = np.argsort(hashes, kind="stable")
            yield 0, 255, hashes[order], rows[order]
            return
        self._spill()
        for part, file in enumerate(self._parts):
            file.seek(0)
            pairs = np.frombuffer(file.read(), dtype=np.uint64).reshape(-1, 2)
            file.close()
            (self._directory / f"spill-{part:02x}").unlink()
            order = np.argsort(pairs[:, 0], kind="stable")
            yield part, part, pairs[order, 0], pairs[order, 1]


class IdIndex:
    """A written index, memory-mapped.

    Args:
        files: its files by name, as :data:`INDEX_FILES` has them.
        ids_at: gives the ids at rows.
    """

    def __init__(self, files: dict[str, CheckedFile], ids_at: IdsAt) -> None:
        self._files, self._ids_at = files, ids_at
        self._hashes: Any = files[HASHES].array("<u8")
        self._width = 4 if len(files[ROWS].map) == 4 * len(self._hashes) else 8
        self._rows: Any = files[ROWS].array(f"<u{self._width}")
        self._buckets: Any = files[BUCKETS].array("<u8")
        self._shift = np.uint64(64 - (len(self._buckets) - 1).bit_length() + 1)

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The row of each id, int64 [N]; -1 for an id that is not there."""
        encoded = [encode_id(each) for each in ids]
        found, places, wanted = self._first_places(encoded)
        open_ = np.flatnonzero(found >= 0)
        # Nearly always one round; one more for each further id that shares the hash.
        while len(open_):
            rows = found[open_]
            asked = encoded if len(open_) == len(encoded) else [encoded[at] for at in open_.tolist()]
            same = np.array(list(map(operator.eq, asked, self._ids_at(rows))), dtype=bool)
            open_ = open_[~same]
            places[open_] += 1
            found[open_] = self._rows_at(places[open_], wanted[open_])
            open_ = open_[found[open_] >= 0]
        return found

    def first_duplicate(self) -> tuple[int, int] | None:
        """The two rows of an id that stands twice, or None; of several such ids, any one."""
        for rows in self._equal_hashes():
            seen: dict[bytes, int] = {}
            for row, identifier in zip(rows.tolist(), self._ids_at(rows), strict=True):
                if identifier in seen:
                    return seen[identifier], row
                seen[identifier] = row
        return None

    def _first_places(self, ids: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64], Hashes]:
        """Rows of the first equal hashes, their places among the hashes, and the hashes asked for."""
        wanted = hash_ids(ids)
        buckets = (wanted >> self._shift).astype(np.int64)
        self._files[BUCKETS].check(buckets * 8, buckets * 8 + 16)
        low, high = self._buckets[buckets].astype(np.int64), self._buckets[buckets + 1].astype(np.int64)
        self._files[HASHES].check(low * 8, high * 8)
        hashes, last = self._hashes, len(self._hashes) - 1
        while (low < high).any():
            middle = (low + high) >> 1
            less = hashes[np.minimum(middle, last)] < wanted
            less &= low < high
            low = np.where(less, middle + 1, low)
            high = np.where(less, high, np.minimum(middle, high))
        return self._rows_at(low, wanted), low, wanted

    def _rows_at(self, places: NDArray[np.int64], wanted: Hashes) -> NDArray[np.int64]:
        """The rows at places whose hash is the wanted one; -1 elsewhere."""
        rows = np.full(len(places), -1, dtype=np.int64)
        inside = np.flatnonzero(places < len(self._hashes))
        self._files[HASHES].check(places[inside] * 8, places[inside] * 8 + 8)
        inside = inside[self._hashes[places[inside]] == wanted[inside]]
        offsets = places[inside] * self._width
        self._files[ROWS].check(offsets, offsets + self._width)
        rows[inside] = self._rows[places[inside]].astype(np.int64)
        return rows

    def _equal_hashes(self) -> Iterator[NDArray[np.int64]]:
        """Rows that share a hash, for each hash that several have; the hashes are looked through in blocks."""
        block = 1 << 20
        done = 0
        for start in range(0, len(self._hashes), block):
            part = self._hashes[start : start + block + 1]
            for place in (start + np.flatnonzero(part[1:] == part[:-1])).tolist():
                if place >= done:
                    done = place + int(np.searchsorted(self._hashes[place:], self._hashes[place], side="right"))
                    yield self._rows[place:done].astype(np.int64)

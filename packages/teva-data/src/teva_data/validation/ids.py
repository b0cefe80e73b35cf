"""Ids and contents of rows as 64-bit hashes: who stands twice, who is known. 8 bytes for each row, no strings.

A hash alone accuses nobody: where two rows share one, the file is read again and the ids themselves are compared.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

# Hashes looked into in one more reading of the file; bounds the memory for what stands twice.
AT_ONCE = 200_000

Place = tuple[Path, int]
# Reads a file again: place and key (an id, a content) of each row.
Reread = Callable[[], Iterable[tuple[Place, str]]]


class Keys:
    """The keys of a file's rows."""

    def __init__(self) -> None:
        self._added = array("Q")
        self._sorted: NDArray[np.uint64] | None = None

    def add(self, key: str) -> None:
        """Take the key of the next row."""
        self._added.append(hash_key(key))

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """Hashes of all keys, sorted, uint64 [N]; no key is taken afterwards."""
        if self._sorted is None:
            self._sorted = np.sort(np.frombuffer(self._added, dtype=np.uint64))
            self._added = array("Q")
        return self._sorted

    def holds(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether each hash is one of a key's, bool [M]. False is certain."""
        if not len(self.hashes):
            return np.zeros(len(hashes), dtype=np.bool_)
        places = np.searchsorted(self.hashes, hashes).clip(max=len(self.hashes) - 1)
        found: NDArray[np.bool_] = self.hashes[places] == hashes
        return found

    def repeated(self) -> NDArray[np.uint64]:
        """Hashes that more than one row has, sorted, each once."""
        hashes = self.hashes
        return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])

    def common(self, other: Keys) -> NDArray[np.uint64]:
        """Hashes that rows of both have, sorted, each once."""
        return np.intersect1d(self.hashes, other.hashes)


def hash_key(key: str) -> int:
    """XXH3-64 of a key."""
    return xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass"))  # type: ignore[no-any-return]


def hashes_of(keys: Iterable[str]) -> NDArray[np.uint64]:
    """The hash of each key, uint64 [N]."""
    return np.fromiter(map(hash_key, keys), dtype=np.uint64)


def same_keys(
    hashes: NDArray[np.uint64], first: Reread, second: Reread | None = None
) -> Iterator[tuple[str, Place, Place]]:
    """Rows whose keys are equal: the key, where it stood first, and where it stands again.

    Args:
        hashes: hashes to look into, sorted.
        first: reads the rows among which a key stood first.
        second: reads the rows that may have it again; those of ``first`` where not given.
    """
    for start in range(0, len(hashes), AT_ONCE):
        wanted = set(hashes[start : start + AT_ONCE].tolist())
        places: dict[str, Place] = {}
        for place, key in first():
            if hash_key(key) not in wanted:
                continue
            if key not in places:
                places[key] = place
            elif second is None:
                yield key, places[key], place
        for place, key in second() if second is not None else ():
            if key in places:
                yield key, places[key], place

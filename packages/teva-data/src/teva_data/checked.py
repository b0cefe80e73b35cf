"""A memory-mapped file whose blocks are compared with their checksums when a process first reads them.

A flipped bit on a disk or in a copy is thus an error that names the file, never a wrong document. The checksums stand
in a second file, 8 bytes for each :data:`BLOCK`; which blocks have been compared is one byte each in memory.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from .errors import DataError

BLOCK = 1 << 14
"""Bytes of a block: small, since one random read checks a whole one."""
_SHIFT = 14
SUFFIX = ".checks"

Places = NDArray[np.int64]


class CheckedFile:
    """A file for reading at random, its blocks checked when first touched.

    Args:
        path: the file; its checksums are in ``<path>.checks``.
        remedy: what to do where it is damaged, for the message.

    Attributes:
        map: the whole file, mapped; a slice of it is a copy. :meth:`check` what is read through it.

    Raises:
        DataError: the checksums are not as many as the blocks.
        OSError: one of the two files cannot be opened.
    """

    def __init__(self, path: Path, remedy: str) -> None:
        self.path, self._remedy = path, remedy
        self.map = _map(path)
        self._view = memoryview(self.map)
        self._sums = np.frombuffer(_map(path.with_name(path.name + SUFFIX)), dtype="<u8")
        blocks = -(-len(self.map) // BLOCK)
        if len(self._sums) != blocks:
            raise self._error(f"{len(self._sums)} checksums for {blocks} blocks")
        self._seen = np.zeros(blocks, dtype=bool)

    def array(self, dtype: str) -> NDArray[np.generic]:
        """The file as an array of a little-endian type (``<i8``); bytes past the last whole item are left out.

        :meth:`check` what is read through it.
        """
        size = np.dtype(dtype).itemsize
        return np.frombuffer(self._view[: len(self._view) // size * size], dtype=dtype)

    def check(self, starts: Places, stops: Places) -> None:
        """Compare the blocks of the byte ranges ``starts`` to ``stops`` (int64 [N] each) that nobody has looked at yet.

        Raises:
            DataError: a block is not what was written.
        """
        first, last = starts >> _SHIFT, (np.maximum(stops - 1, starts)) >> _SHIFT
        seen = self._seen
        np.minimum(first, len(seen) - 1, out=first)  # an empty range at the very end
        np.minimum(last, len(seen) - 1, out=last)
        if seen[first].all() and seen[last].all() and (not len(first) or int((last - first).max()) <= 1):
            return
        for low, high in zip(first.tolist(), last.tolist(), strict=True):
            if high - low > 1 or not (seen[low] and seen[high]):
                self._check_blocks(low, high + 1)

    def check_all(self) -> None:
        """Compare every block, those that have been looked at too; raises as :meth:`check`."""
        self._seen[:] = False
        self._check_blocks(0, len(self._seen))

    def _check_blocks(self, start: int, stop: int) -> None:
        for block in (start + np.flatnonzero(~self._seen[start:stop])).tolist():
            content = self._view[block * BLOCK : (block + 1) * BLOCK]
            if xxhash.xxh3_64_intdigest(content) != self._sums[block]:
                raise self._error(
                    f"bytes {block * BLOCK:,} to {block * BLOCK + len(content):,} are not what was written"
                )
            self._seen[block] = True

    def _error(self, what: str) -> DataError:
        return DataError(f"the file is damaged: {what}", file=self.path, hint=self._remedy)


def write_checks(path: Path) -> None:
    """Read a file once and write the checksums of its blocks beside it."""
    with path.open("rb") as file, path.with_name(path.name + SUFFIX).open("wb") as target:
        while chunk := file.read(256 * BLOCK):
            view = memoryview(chunk)
            sums = [xxhash.xxh3_64_intdigest(view[at : at + BLOCK]) for at in range(0, len(view), BLOCK)]
            target.write(np.array(sums, dtype="<u8").tobytes())


def _map(path: Path) -> mmap.mmap | bytes:
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return b""  # an empty file cannot be mapped
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

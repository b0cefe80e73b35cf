"""Embeddings on disk: Arrow shards that appear whole or not at all, and a manifest that says what they hold.

A directory holds one job: these texts through this model with this prompt. `EmbeddingWriter` fills it and can be
killed at any moment; `Embeddings` reads it, memory-mapped::

    emb/
      manifest.json                    the job, the rows and the checksum of each shard
      shard-00000-of-00002.arrow       columns id: string, vector: fixed-size list of float32, float16, int8 or uint8
      shard-00001-of-00002.arrow

The schema metadata of every shard names its job and holds a digest of its contents, so a shard that a killed writer
had renamed but not yet entered into the manifest is recognised and kept. Rows that could not be encoded, and were to be
left out, are named there and in the manifest, with why.

Of ``int8`` a column ``scale`` (float32) holds what each row's numbers are multiplied by: the largest of a row is 127.
Of ``binary`` the bits say which numbers are above 0, eight to a uint8; a row is read as +1 and -1 over sqrt(dim), so
that it has length 1. Each row is made by itself: no ranges have to be learnt first, and a restart changes nothing.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .errors import DataError, TevaError
from .files import checksum, read_whole
from .shardfiles import VERSION, raw, shard_name

MANIFEST = "manifest.json"
MAPPED = 4096  # shards whose mapping is kept; systems allow a process some 65,000 mappings


class Embeddings:
    """A finished directory of embeddings, read without copying.

    Attributes:
        directory: where it lies.
        manifest: the contents of ``manifest.json``; of a part, with its own shards alone.
        dim: numbers in a vector.
        dtype: "float32", "float16", "int8" or "binary", as stored.
        normalized: whether the model says that its vectors have length 1.
        role: "query" or "document".
        left_out: the ids of rows that could not be encoded and were to be left out, and why.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any]) -> None:
        self.directory, self.manifest = directory, manifest
        job = manifest["job"]
        self.dim, self.dtype = int(job["dim"]), str(job["dtype"])
        self.normalized, self.role = bool(job.get("normalized", False)), str(job.get("role", ""))
        entries = self._entries = sorted(manifest["shards"], key=lambda entry: str(entry["file"]))
        self.left_out = {name: why for entry in entries for name, why in entry.get("left_out", {}).items()}
        self._files = [directory / entry["file"] for entry in entries]
        self._starts = np.cumsum([0, *(entry["rows"] for entry in entries)])
        self._mapped: dict[Path, Any] = {}

    @classmethod
    def open(cls, directory: str | Path, verify: bool = True) -> Embeddings:
        """Open a finished directory.

        Args:
            directory: what an `EmbeddingWriter` has filled.
            verify: read every shard once and compare its checksum; without it only sizes are compared.

        Raises:
            DataError: no manifest, an unknown schema, shards missing, truncated or damaged.
        """
        directory = Path(directory)
        manifest = read_manifest(directory)
        entries = {entry["file"]: entry for entry in manifest["shards"]}
        names = [shard_name(shard, len(manifest["job"]["shards"])) for shard in range(len(manifest["job"]["shards"]))]
        missing = [name for name in names if name not in entries or not (directory / name).exists()]
        if missing:
            raise DataError(
                "unfinished embeddings", file=directory, found=f"{len(missing)} of {len(names)} shards missing: "
                + ", ".join(missing[:3]) + (", …" if len(missing) > 3 else ""),
                hint="Start the same encode again; it does only what is missing",
            )  # fmt: skip
        for name in names:
            _verify(directory / name, entries[name], verify)
        return cls(directory, manifest)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def sizes(self) -> list[int]:
        """The rows of each shard."""
        return [int(size) for size in np.diff(self._starts)]

    def part(self, number: int, count: int) -> Embeddings:
        """One of ``count`` parts of about equally many shards, in order; number 0 is the first. A part may be empty.

        Raises:
            TevaError: no such part.
        """
        if not 0 <= number < count:
            raise TevaError(f"part: found {number} of {count}; expected 0 to {count - 1}")
        low, high = (len(self._files) * each // count for each in (number, number + 1))
        part = copy.copy(self)
        part._files = self._files[low:high]
        part._entries = self._entries[low:high]
        part.manifest = {**self.manifest, "shards": part._entries}  # an index of one part is not that of another
        part._starts = self._starts[low : high + 1] - self._starts[low]
        return part

    def shards(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield each shard's ids and its vectors, [rows, dim].

        Vectors are float32 or float16 as stored, a read-only view of the file; those of int8 and binary embeddings are
        made float32 a shard at a time.
        """
        for shard in range(len(self._starts) - 1):
            yield self.shard(shard)

    def shard(self, number: int) -> tuple[list[str], np.ndarray]:
        """The ids and vectors of one shard, as `shards` yields them."""
        batch = self._batch(number)
        return batch.column("id").to_pylist(), self._vectors(batch)

    def raw(self, number: int) -> tuple[list[str], np.ndarray, np.ndarray | None]:
        """The ids of one shard, its numbers as stored ([rows, dim]; of binary embeddings uint8 [rows, dim / 8]), and of
        int8 embeddings the scale of each row, float32 [rows]."""
        batch = self._batch(number)
        return batch.column("id").to_pylist(), *raw(batch, self.dim)

    def vectors(self) -> Iterator[np.ndarray]:
        """Yield each shard's vectors as `shards` does, without reading the ids."""
        for shard in range(len(self._starts) - 1):
            yield self._vectors(self._batch(shard))

    def ids(self) -> list[str]:
        """All ids, in row order."""
        return [name for shard in range(len(self._starts) - 1) for name in self._batch(shard).column("id").to_pylist()]

    def take_ids(self, rows: np.ndarray) -> np.ndarray:
        """The ids at some rows.

        Args:
            rows: integers in 0..len(self)-1, any shape.

        Returns:
            An object array of str, of the same shape. Reads no more than the shards that the rows lie in.
        """
        wanted, back = np.unique(rows, return_inverse=True)
        names = np.empty(len(wanted), dtype=object)
        bounds = np.searchsorted(wanted, self._starts)
        for shard, (low, high) in enumerate(itertools.pairwise(bounds)):
            if low < high:
                found = self._kept(shard).column("id").take(pa.array(wanted[low:high] - self._starts[shard]))
                names[low:high] = found.to_pylist()
        return names[back.reshape(np.shape(rows))]

    def take_vectors(self, rows: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The vectors at some rows, shard by shard.

        Args:
            rows: integers in 0..len(self)-1, [n], in any order, any number of times.
            size: rows given at a time at most.

        Yields:
            Places in ``rows`` and their vectors, float32 or float16 [at most size, dim]; all places once, in the order
            of the shards. The vectors lie in one buffer, which the next ones overwrite: new memory for each would take
            ten times as long as copying them.
        """
        buffer = np.empty((min(size, len(rows)), self.dim), dtype=np.float16 if self.dtype == "float16" else np.float32)
        for order, own, numbers, scale in self.by_shard(rows):
            for start in range(0, len(order), size):
                places, here = order[start : start + size], own[start : start + size]
                vectors = buffer[: len(places)]
                if numbers.dtype == vectors.dtype:
                    np.take(numbers, here, axis=0, out=vectors, mode="clip")  # other modes copy once more
                else:
                    vectors[:] = self._wide(numbers[here], scale if scale is None else scale[here])
                yield places, vectors

    def by_shard(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]]:
        """Which rows lie in which shard.

        Args:
            rows: integers in 0..len(self)-1, [n], in any order, any number of times.

        Yields:
            For each shard that has any, in order: places in ``rows``, int64 [m], ascending, and their rows within the
            shard, int64 [m]; the shard's numbers as stored, a view of the file; and of int8 embeddings the scales.
        """
        sizes = np.diff(self._starts)
        if sizes[0] and (sizes[:-1] == sizes[0]).all() and sizes[-1] <= sizes[0]:
            shards = rows // sizes[0]
        else:
            shards = np.searchsorted(self._starts, rows, side="right") - 1
        # Numbers of 16 bits are put in order by counting them.
        order = np.argsort(shards.astype(np.uint16) if len(sizes) <= 2**16 else shards, kind="stable")
        bounds = np.cumsum([0, *np.bincount(shards, minlength=len(sizes))])
        for shard, (low, high) in enumerate(itertools.pairwise(bounds)):
            if low < high:
                places = order[low:high]
                yield places, rows[places] - self._starts[shard], *raw(self._kept(shard), self.dim)

    def matrix(self) -> np.ndarray:
        """All vectors as float32 [len(self), dim], in memory."""
        whole = np.empty((len(self), self.dim), dtype=np.float32)
        for start, vectors in zip(self._starts, self.vectors(), strict=False):
            whole[start : start + len(vectors)] = vectors
        return whole

    def _vectors(self, batch: Any) -> np.ndarray:
        return self._wide(*raw(batch, self.dim))

    def _wide(self, numbers: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
        """Stored numbers as vectors: float32, or float16 as they are."""
        if scale is not None:
            scaled: np.ndarray = numbers * scale[:, None]
            return scaled
        if numbers.dtype == np.uint8:
            signs = np.unpackbits(numbers, axis=1).astype(np.float32)
            return (2 * signs - 1) / np.float32(np.sqrt(self.dim))
        return numbers

    def _kept(self, shard: int) -> Any:
        """A shard that stays mapped, for single rows: mapping it anew costs a page fault for each of them."""
        path = self._files[shard]
        batch = self._mapped.get(path)
        if batch is None:
            if len(self._mapped) >= MAPPED:
                # Threads read at once: an iterator over the mapping itself would see another's shard come in.
                for oldest in list(self._mapped)[:1]:
                    self._mapped.pop(oldest, None)
            batch = self._mapped[path] = self._batch(shard)
        return batch

    def _batch(self, shard: int) -> Any:
        path = self._files[shard]
        try:
            found = pa.ipc.open_file(pa.memory_map(str(path)))
        except FileNotFoundError:
            raise _changed_meanwhile(path) from None
        # A slow reader opens one shard after another: another job may have overwritten what is left of them.
        if (found.schema.metadata or {}).get(b"teva.job", b"").decode() != self.manifest["fingerprint"]:
            raise _changed_meanwhile(path)
        return found.get_batch(0)


def _changed_meanwhile(path: Path) -> DataError:
    return DataError(
        "the embeddings were overwritten or removed while they were read", file=path,
        hint="Start again with what is there now",
    )  # fmt: skip


def _verify(path: Path, entry: Mapping[str, Any], contents: bool) -> None:
    hint = "Start the same encode again; it makes this shard anew"
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise DataError("damaged shard", file=path, found=f"{size:,} bytes", expected=f"{entry['bytes']:,}", hint=hint)
    if contents and (found := checksum(path)) != entry["checksum"]:
        raise DataError("damaged shard", file=path, found=f"checksum {found}", expected=entry["checksum"], hint=hint)


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a directory of embeddings.

    Raises:
        DataError: there is none, or it is damaged, incomplete or of another version.
    """
    path = directory / MANIFEST
    overwrite = "Encode it again with overwrite=True (--overwrite)"
    try:
        manifest = read_whole(path, overwrite)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError("no embeddings here", file=directory, expected=f"a directory with {MANIFEST}",
                        hint="Make it with `teva-infer encode`") from None  # fmt: skip
    found = manifest.get("schema")
    if found != VERSION:
        raise DataError("unknown version", file=path, field="schema", found=found or "none", expected=VERSION,
                        hint="Read it with the version of teva-data that wrote it")  # fmt: skip
    job, shards = manifest.get("job"), manifest.get("shards")
    if not isinstance(job, dict) or not {"dim", "dtype", "shards"} <= set(job):
        raise DataError("incomplete", file=path, field="job", found=job, expected="dim, dtype, shards", hint=overwrite)
    keys = {"file", "rows", "bytes", "checksum"}
    if not isinstance(shards, list) or not all(isinstance(entry, dict) and keys <= set(entry) for entry in shards):
        raise DataError("incomplete", file=path, field="shards", found=shards,
                        expected="file, rows, bytes, checksum of each", hint=overwrite)  # fmt: skip
    return manifest

"""One shard of embeddings: an Arrow file that says itself what it holds (:mod:`teva_data.embeddings`)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import pyarrow as pa
import xxhash

from .errors import DataError
from .files import atomic_file, checksum
from .schema import SCHEMA

VERSION = SCHEMA["embeddings"]  # of the manifest and the shards; the reader takes this one
DTYPES: Mapping[str, Any] = {
    "float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8(), "binary": pa.uint8(),
}  # fmt: skip
VectorDtype = Literal["float32", "float16", "int8", "binary"]


def shard_name(shard: int, shards: int) -> str:
    """The file name of one shard, counted from 0."""
    return f"shard-{shard:05d}-of-{shards:05d}.arrow"


@dataclasses.dataclass(frozen=True)
class ShardFiles:
    """Writes shards, in any process that sees their directory.

    Attributes:
        directory: where they are.
        fingerprint: of the job that they belong to.
        rows: of each shard.
        dim: numbers in a vector.
        dtype: as stored.
    """

    directory: Path
    fingerprint: str
    rows: tuple[int, ...]
    dim: int
    dtype: VectorDtype

    def write(
        self, shard: int, ids: Sequence[str], vectors: np.ndarray, left_out: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Write one whole shard; arguments and errors are those of :meth:`EmbeddingWriter.write`.

        Returns:
            Its entry in the manifest.
        """
        path, left_out = self.directory / shard_name(shard, len(self.rows)), dict(left_out or {})
        vectors = self._checked(path, self.rows[shard] - len(left_out), ids, vectors)
        try:
            with atomic_file(path) as file:
                _write_shard(file, ids, *_stored(vectors, self.dtype), DTYPES[self.dtype], self.fingerprint, left_out)
        except OSError as error:
            # A full disk does not say which file it had no room for.
            if error.filename is None and error.errno is not None:
                raise OSError(error.errno, error.strerror, str(path)) from error
            raise
        return entry_of(path, len(ids), left_out)

    def _checked(self, path: Path, rows: int, ids: Sequence[str], vectors: np.ndarray) -> np.ndarray:
        """The vectors, of a stored float16 in it; refused where one cannot be stored."""
        if vectors.shape != (rows, self.dim) or len(ids) != rows:
            raise DataError(
                "wrong shape", file=path, field="vector",
                found=f"{len(ids)} ids, vectors {list(vectors.shape)}",
                expected=f"{rows} ids, vectors [{rows}, {self.dim}]",
            )  # fmt: skip
        kept = self.dtype if self.dtype == "float16" else "float32"
        if vectors.dtype not in (np.dtype(np.float32), np.dtype(kept)):
            expected = "float32" if kept == "float32" else f"float32 or {kept}"
            raise DataError("wrong dtype", file=path, field="vector", found=str(vectors.dtype), expected=expected)
        with np.errstate(over="ignore"):  # the check below names the row that does not fit
            stored = np.ascontiguousarray(vectors, dtype=kept)
        for bad, what, hint in (
            (~np.isfinite(stored).all(axis=1), "holds NaN or infinity", "Encode in float32 or bfloat16"),
            (~stored.any(axis=1), "is zero throughout, so it has no direction", "Look at this text and at the model"),
        ):
            if bad.any():
                row = int(bad.argmax())
                raise DataError(f"the vector of {ids[row]!r} {what}", file=path, field="vector",
                                found=f"{int(bad.sum())} such of {rows}", expected="finite numbers, not all zero",
                                hint=hint)  # fmt: skip
        return stored


def entry_of(path: Path, rows: int, left_out: Mapping[str, str]) -> dict[str, Any]:
    """A shard's entry in the manifest: how many rows it has, and what of its rows it has left out."""
    entry = {"file": path.name, "rows": rows, "bytes": path.stat().st_size, "checksum": checksum(path)}
    return {**entry, "left_out": dict(left_out)} if left_out else entry


def _stored(vectors: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Vectors as they are stored, and of int8 each row's scale."""
    if dtype == "int8":
        scale = np.abs(vectors).max(axis=1) / np.float32(127)
        # A row of the smallest numbers there are has a scale of 0, and is 0.
        whole = np.divide(vectors, scale[:, None], out=np.zeros_like(vectors), where=scale[:, None] > 0)
        return np.rint(whole).astype(np.int8), scale
    if dtype == "binary":
        return np.packbits(vectors > 0, axis=1), None
    return vectors, None


def _write_shard(
    file: IO[bytes],
    ids: Sequence[str],
    vectors: np.ndarray,
    scale: np.ndarray | None,
    dtype: Any,
    job: str,
    left_out: Mapping[str, str],
) -> None:
    width = vectors.shape[1]
    columns = [pa.array(ids, pa.string()), pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), width)]
    fields = [pa.field("id", pa.string(), False), pa.field("vector", pa.list_(dtype, width), False)]
    if scale is not None:
        columns.append(pa.array(scale))
        fields.append(pa.field("scale", pa.float32(), False))
    digest = _digest(ids, vectors, scale)
    metadata = {"teva.schema": VERSION, "teva.job": job, "teva.digest": digest}
    if left_out:
        metadata["teva.left_out"] = json.dumps(left_out)
    schema = pa.schema(fields, metadata=metadata)
    with pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))


def _digest(ids: Sequence[str], vectors: np.ndarray, scale: np.ndarray | None = None) -> str:
    digest = xxhash.xxh3_128(json.dumps(list(ids)).encode())
    for numbers in (vectors,) if scale is None else (vectors, scale):
        digest.update(np.ascontiguousarray(numbers).view(np.uint8).data)
    return digest.hexdigest()


def raw(batch: Any, dim: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The numbers as stored [rows, dim] (of binary [rows, dim / 8]), and of int8 the scales: views of the file."""
    numbers: np.ndarray = batch.column("vector").flatten().to_numpy(zero_copy_only=True)
    width = dim // 8 if numbers.dtype == np.uint8 else dim
    scale = batch.column("scale").to_numpy(zero_copy_only=True) if "scale" in batch.schema.names else None
    return numbers.reshape(-1, width), scale


def metadata_of(path: Path) -> dict[str, str] | None:
    """What a shard says of itself; None where the file is not a whole Arrow file."""
    try:
        with pa.memory_map(str(path)) as file:
            metadata = pa.ipc.open_file(file).schema.metadata or {}
    except (pa.ArrowInvalid, OSError):
        return None
    return {key.decode().removeprefix("teva."): value.decode() for key, value in metadata.items()}


def left_out_of(path: Path, job: str, rows: int, dim: int) -> dict[str, str] | None:
    """What a whole shard of a job has left out; None of any other file."""
    metadata = metadata_of(path)
    if metadata is None or metadata.get("job") != job:
        return None
    try:
        left_out: dict[str, str] = json.loads(metadata.get("left_out", "{}"))
        with pa.memory_map(str(path)) as file:
            batch = pa.ipc.open_file(file).get_batch(0)
            ids = batch.column("id").to_pylist()
            whole = len(ids) + len(left_out) == rows and metadata.get("digest") == _digest(ids, *raw(batch, dim))
            return left_out if whole else None
    except (pa.ArrowException, OSError, ValueError):  # ValueError: ids that are no longer UTF-8
        return None

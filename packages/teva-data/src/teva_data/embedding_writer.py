"""Writing embeddings: shards appear whole, and a writer that was killed goes on (:mod:`teva_data.embeddings`)."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from .embeddings import MANIFEST, read_manifest
from .errors import TevaError, shorten
from .files import fingerprint, lock_directory, write_sealed
from .shardfiles import DTYPES, VERSION, ShardFiles, VectorDtype, entry_of, left_out_of, metadata_of, shard_name

logger = logging.getLogger(__name__)

ANOTHER_JOB = "Use another directory, or overwrite=True (--overwrite) to remove them"


class EmbeddingWriter:
    """Writes the shards of one job, in any order, over any number of starts.

    Opening a directory that holds an unfinished job checks the shards that are there (checksums) and goes on; a
    damaged one counts as missing again. The directory is locked while the writer is open. Use as a context manager.

    Args:
        directory: made where it does not exist.
        job: what identifies the work, as JSON: ``role`` ("query" or "document"), ``normalized``, the model's
            fingerprint, prompt, maximum length, the data's fingerprint. Another value of any key is another job.
        shards: the number of rows of each shard.
        dim: numbers in a vector.
        dtype: "float32", "float16", "int8" or "binary", as stored.
        info: further facts for the manifest that do not identify the work, e.g. library versions.
        overwrite: begin anew where the directory holds embeddings already; they are removed.

    Raises:
        TevaError: the directory holds another job, or another process is writing to it.
        DataError: the manifest there cannot be read.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        job: Mapping[str, Any],
        shards: Sequence[int],
        dim: int,
        dtype: VectorDtype = "float32",
        info: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        if dtype not in DTYPES:
            raise TevaError(f"embeddings cannot be stored as {dtype!r}; known: {', '.join(DTYPES)}")
        if dtype == "binary" and dim % 8:
            raise TevaError(f"embeddings of {dim} numbers cannot be stored as 'binary': eight bits make a byte")
        self.directory = Path(directory)
        self._job = {**job, "dim": dim, "dtype": dtype, "shards": [int(rows) for rows in shards]}
        self._job = json.loads(json.dumps(self._job))  # as it will be read back
        self._info = dict(info or {})
        self._dim, self._rows = dim, [int(rows) for rows in shards]
        self.fingerprint = fingerprint(VERSION, self._job)
        self.files = ShardFiles(self.directory.resolve(), self.fingerprint, tuple(self._rows), dim, dtype)
        self._done: dict[int, dict[str, Any]] = {}
        self._pending = False  # shards that the manifest does not name yet
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = lock_directory(self.directory, "writing embeddings")
        try:
            self._start(overwrite)
        except BaseException:
            self.close()
            raise

    def missing(self) -> list[int]:
        """The shards that are still to be written, in ascending order."""
        return [shard for shard in range(len(self._rows)) if shard not in self._done]

    def write(
        self, shard: int, ids: Sequence[str], vectors: np.ndarray, left_out: Mapping[str, str] | None = None
    ) -> None:
        """Write one whole shard and enter it into the manifest.

        Args:
            shard: its number, from 0.
            ids: the rows' ids.
            vectors: float32 (or the stored dtype, of float16) [rows, dim].
            left_out: of the shard's rows those that it does not hold: their ids, and why.

        Raises:
            DataError: a wrong shape or dtype; a vector with NaN or infinity, or of zeros alone (its id is named).
            TevaError: the writer is closed.
        """
        if self._lock.closed:
            raise TevaError(f"{self.directory}: the writer is closed")
        self._enter(shard, self.files.write(shard, ids, vectors, left_out))

    def enter(self, shard: int, entry: Mapping[str, Any]) -> None:
        """Enter a shard that another process has written.

        Args:
            shard: its number, from 0.
            entry: what :meth:`ShardFiles.write` gave there.

        Raises:
            TevaError: the file is not here: the other process wrote to another disk. Or the writer is closed.
        """
        if self._lock.closed:
            raise TevaError(f"{self.directory}: the writer is closed")
        path = self._path(shard)
        size = path.stat().st_size if path.exists() else None
        if size != entry["bytes"]:
            raise TevaError(
                f"{path}: another process wrote {entry['bytes']:,} bytes, and here are {size}. Do both see one "
                "directory?"
            )
        self._enter(shard, dict(entry))

    def _enter(self, shard: int, entry: dict[str, Any]) -> None:
        self._done[shard] = entry
        self._pending = True
        # The manifest names all shards, so writing it for each of many would take longer than the shards: it takes a
        # twentieth of the time at most. A shard says itself what it is, so one that is not named yet is kept too.
        if len(self._done) == len(self._rows) or time.monotonic() >= self._next_manifest:
            self._write_manifest()

    def left_out(self) -> dict[str, str]:
        """The ids of the rows that the shards written so far do not hold, and why."""
        return {name: why for entry in self._done.values() for name, why in entry.get("left_out", {}).items()}

    def close(self) -> None:
        """Give the directory free for other writers."""
        if self._pending and not self._lock.closed:
            with contextlib.suppress(OSError):  # on a full disk the shards say themselves what they are
                self._write_manifest()
        self._lock.close()

    def __enter__(self) -> EmbeddingWriter:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Give the directory free."""
        self.close()

    def _path(self, shard: int) -> Path:
        return self.directory / shard_name(shard, len(self._rows))

    def _start(self, overwrite: bool) -> None:
        """Take over what an earlier writer of the same job has left."""
        for pattern in (".shard-*.tmp", f".{MANIFEST}.*.tmp"):
            for leftover in self.directory.glob(pattern):
                leftover.unlink()
        if overwrite:
            # The manifest first: shards without one belong to nobody, a manifest without shards would be a lie.
            (self.directory / MANIFEST).unlink(missing_ok=True)
            for path in self.directory.glob("shard-*.arrow"):
                path.unlink()
        recorded: list[dict[str, Any]] = []
        if (self.directory / MANIFEST).exists():
            manifest = read_manifest(self.directory)
            self._refuse_another_job(manifest["job"])
            recorded = manifest["shards"]
        elif foreign := self._foreign_shard():
            raise TevaError(f"{foreign} is of another job. {ANOTHER_JOB}")
        self._take_over({entry["file"]: entry for entry in recorded})
        self._write_manifest()

    def _refuse_another_job(self, theirs: Mapping[str, Any]) -> None:
        if theirs == self._job:
            return
        keys = [key for key in (*self._job, *(set(theirs) - set(self._job))) if theirs.get(key) != self._job.get(key)]
        differences = "; ".join(
            f"{key}: {shorten(theirs.get(key))} there, {shorten(self._job.get(key))} now" for key in keys
        )
        raise TevaError(f"{self.directory} holds embeddings of another job ({differences}). {ANOTHER_JOB}")

    def _foreign_shard(self) -> Path | None:
        for path in sorted(self.directory.glob("shard-*.arrow")):
            metadata = metadata_of(path)
            if metadata is not None and metadata.get("job") != self.fingerprint:
                return path
        return None

    def _take_over(self, recorded: Mapping[str, dict[str, Any]]) -> None:
        for shard, rows in enumerate(self._rows):
            path = self._path(shard)
            known = recorded.get(path.name)
            if not path.exists():
                if known is not None:
                    logger.warning("%s: gone since it was written; it is made again", path)
            elif known is not None and entry_of(path, known["rows"], known.get("left_out", {})) == known:
                self._done[shard] = known
            elif known is None and (left_out := left_out_of(path, self.fingerprint, rows, self._dim)) is not None:
                logger.info("%s: whole, and kept from an earlier start", path)
                self._done[shard] = entry_of(path, rows - len(left_out), left_out)
            else:
                logger.warning("%s: damaged; it is made again", path)

    def _write_manifest(self) -> None:
        start = time.monotonic()
        write_sealed(
            self.directory / MANIFEST,
            {
                "schema": VERSION,
                "fingerprint": self.fingerprint,
                "job": self._job,
                "info": self._info,
                "count": sum(self._rows) - len(self.left_out()),
                "shards": [self._done[shard] for shard in sorted(self._done)],
            },
        )
        self._pending = False
        end = time.monotonic()
        self._next_manifest = end + 19 * (end - start)

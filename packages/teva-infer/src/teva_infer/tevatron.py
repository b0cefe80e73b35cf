"""Embeddings as Tevatron writes them, a pickled pair of an array and a list of ids, into shards.

A pickle is a program. It is read on demand alone, by an unpickler that builds numpy's arrays and nothing else: any
other name in it is refused before it is looked up.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from teva_data.embedding_writer import EmbeddingWriter
from teva_data.embeddings import Embeddings
from teva_data.errors import DataError, TevaError
from teva_data.files import fingerprint

from .encoding import SHARD_SIZE

# What numpy 1 and 2 name in the pickle of an array. None of these runs anything that the pickle brings along.
_KNOWN = {
    (f"numpy.{core}.{module}", name)
    for core in ("core", "_core")
    for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The class or function of a name that arrays need."""
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def import_embeddings(
    files: Sequence[str | Path],
    output: str | Path,
    *,
    role: Literal["query", "document"],
    model: str,
    unpickle: bool = False,
    overwrite: bool = False,
) -> Embeddings:
    """Write shards of the embeddings in Tevatron's files.

    Args:
        files: pickles of ``(vectors [N, dim], ids)``, in order.
        output: the directory for the shards.
        role: whose they are.
        model: names the model; searching asks that queries and documents have the same name.
        unpickle: must be True; without it no byte of a pickle is read.
        overwrite: remove other embeddings in the directory.

    Returns:
        The embeddings, opened. They are taken as normalised where all vectors have length 1 (to 1e-3).

    Raises:
        TevaError: ``unpickle`` was not given.
        DataError: a file that is no such pickle, or that asks for anything but arrays.
    """
    if not unpickle:
        raise TevaError(
            "a pickle can run code when it is read. If these files are your own, say so: unpickle=True (--unpickle)"
        )
    if not files:
        raise TevaError("no files")
    parts = [_read(Path(file)) for file in files]
    ids = [name for names, _ in parts for name in names]
    vectors = np.concatenate([each for _, each in parts])
    lengths = np.linalg.norm(vectors, axis=1)
    job = {
        "role": role, "model_fingerprint": fingerprint("tevatron", model), "engine": "tevatron",
        "normalized": bool(np.abs(lengths - 1).max() < 1e-3), "ids": fingerprint(ids),
    }  # fmt: skip
    shards = [min(SHARD_SIZE, len(ids) - start) for start in range(0, len(ids), SHARD_SIZE)]
    with EmbeddingWriter(
        output, job=job, shards=shards, dim=vectors.shape[1], info={"model": model}, overwrite=overwrite
    ) as writer:
        for shard in writer.missing():
            rows = slice(shard * SHARD_SIZE, shard * SHARD_SIZE + shards[shard])
            writer.write(shard, ids[rows], vectors[rows])
    return Embeddings.open(output, verify=False)


def _read(path: Path) -> tuple[list[str], np.ndarray]:
    hint = "Tevatron's encode writes a pickled pair: an array of vectors, and a list of ids"
    try:
        with path.open("rb") as file:
            found = _ArraysOnly(file).load()
    except OSError as error:
        raise DataError(error.strerror or str(error), file=path) from error
    except Exception as error:
        raise DataError(f"not read: {error}", file=path, expected="numpy arrays and lists alone", hint=hint) from error
    if not (isinstance(found, tuple | list) and len(found) == 2 and isinstance(found[0], np.ndarray)):
        raise DataError("no embeddings of Tevatron's", file=path, found=type(found).__name__, hint=hint)
    vectors, names = found[0], [str(name) for name in found[1]]
    if vectors.ndim != 2 or len(vectors) != len(names) or vectors.dtype.kind != "f":
        raise DataError("vectors and ids do not fit", file=path,
                        found=f"{vectors.dtype} {list(vectors.shape)}, {len(names)} ids", hint=hint)  # fmt: skip
    return names, vectors.astype(np.float32)

"""An index is built part by part from shards of embeddings: what a kill costs is one part.

A directory holds one index::

    index/
      index.json               what it was built from; the checksum of each file, and the longest vector's length
      trained.index            the structure as it was trained, without vectors
      part-00000.index         the structure over the first ``part_rows`` vectors, and so on

Only one part is in memory while it is built, and the vectors are read from the memory-mapped shards.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from teva_data.embeddings import Embeddings
from teva_data.errors import TevaError
from teva_data.files import (
    checksum,
    fingerprint,
    lock_directory,
    naming,
    read_sealed,
    remove_leftovers,
    write_sealed,
)
from teva_data.progress import Progress

from . import MOST, Kind, Numbers, Structure, bounded, find_kind, moved

logger = logging.getLogger(__name__)

SCHEMA = "2"
MANIFEST, TRAINED = "index.json", "trained.index"
PART_ROWS = 2**20
BLOCK = 8192  # vectors added at a time


def part_name(part: int) -> str:
    """The file of one part, counted from 0."""
    return f"part-{part:05d}.index"


def contents(corpus: Embeddings) -> str:
    """A short name for the vectors of embeddings: equal where they are equal."""
    return fingerprint([(entry["rows"], entry["checksum"]) for entry in corpus.manifest["shards"]])


def build_index(
    corpus: Embeddings | str | Path,
    output: str | Path,
    *,
    kind: str = "hnsw",
    settings: Numbers | None = None,
    part_rows: int = PART_ROWS,
    seed: int = 0,
    device: str = "cpu",
    overwrite: bool = False,
) -> Path:
    """Build an index of a corpus's embeddings. A killed build goes on when it is started again.

    Args:
        corpus: embeddings, or their directory; they stay where they are: searching reads ids and exact scores there.
        output: the index's directory.
        kind: ``hnsw``, ``ivf``, ``sq8``, ``pq``, ``rabitq``, ``binary``, ``flat``, or what an installed package
            registers.
        settings: of the kind.
        part_rows: vectors of a part, which must fit in memory. ``hnsw`` searches each part by itself, so one searches
            fastest; the parts of other kinds are put together when an index is opened.
        seed: of the sample that is learned from.
        device: where it is computed: "cpu", or "cuda", "cuda:1" with faiss-gpu (not ``hnsw`` and ``binary``).
        overwrite: begin anew where the directory holds another index.

    Returns:
        The directory.

    Raises:
        TevaError: unknown kinds or settings, another index in the directory, or another process that builds there.
        DataError: damaged or unfinished embeddings.
    """
    corpus = corpus if isinstance(corpus, Embeddings) else Embeddings.open(corpus)
    if part_rows < 1:
        raise TevaError(f"part_rows: found {part_rows}; expected at least 1")
    if not 0 <= seed <= MOST:
        raise TevaError(f"seed: found {seed}; expected 0 to {MOST:,}")
    if not len(corpus):
        raise TevaError(f"{corpus.directory}: no vectors to index")
    found = find_kind(kind)
    bounded(settings or {})
    job = {
        "kind": kind, "settings": found.resolve(settings or {}, dim=corpus.dim, rows=len(corpus)), "dim": corpus.dim,
        "rows": len(corpus), "part_rows": part_rows, "seed": seed, "embeddings": contents(corpus),
    }  # fmt: skip
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    with lock_directory(output, "building an index"):
        _Build(corpus, output, found, job, overwrite, device).go()
    return output


class _Build:
    """One build: what is there already, and what is missing."""

    def __init__(
        self, corpus: Embeddings, output: Path, kind: Kind, job: Mapping[str, Any], overwrite: bool, device: str
    ) -> None:  # fmt: skip
        self.corpus, self.output, self.kind, self.job, self.device = corpus, output, kind, dict(job), device
        manifest = read_sealed(output / MANIFEST)
        if manifest is None and (output / MANIFEST).exists() and not overwrite:
            raise TevaError(f"{output / MANIFEST}: damaged. Build the index again with overwrite=True (--overwrite)")
        same = manifest is not None and manifest.get("job") == self.job and manifest.get("schema") == SCHEMA
        if manifest is not None and not same and not overwrite:
            raise TevaError(
                f"{output}: holds another index ({_difference(manifest, self.job)}). Use another directory, "
                "or overwrite=True (--overwrite)"
            )
        files = manifest["files"] if manifest is not None and same else {}
        self.files = {name: entry for name, entry in files.items() if _whole(output / name, entry)}
        for name in files.keys() - self.files.keys():
            logger.warning("%s: damaged or missing; it is built anew", output / name)
        for name in ("*.index", MANIFEST):
            remove_leftovers(output, name)
        for path in (output / TRAINED, *output.glob("part-[0-9]*.index")):
            if path.name not in self.files:
                path.unlink(missing_ok=True)
        self._note()

    def go(self) -> None:
        """Build what is missing."""
        total, size = len(self.corpus), self.job["part_rows"]
        parts = [(start, min(start + size, total)) for start in range(0, total, size)]
        missing = [number for number in range(len(parts)) if part_name(number) not in self.files]
        if not missing:
            return
        self._train()
        done = total - sum(parts[number][1] - parts[number][0] for number in missing)
        with Progress(total, "index", "documents", done=done) as progress:
            for number in missing:
                structure = moved(self.kind.load(self.output / TRAINED, self.job["settings"]), self.device)
                longest = 0.0
                for vectors in rows_between(self.corpus, *parts[number]):
                    structure.add(vectors)
                    with np.errstate(over="ignore"):  # searching refuses vectors that are so long
                        squares = np.vecdot(vectors, vectors)
                    # Rounded up: how far a float32 product can be off follows from it.
                    longest = max(longest, float(np.sqrt(squares.max())) * 1.001)
                    progress.add(len(vectors))
                self._keep(part_name(number), structure, longest=longest)

    def _train(self) -> None:
        if TRAINED in self.files:
            return
        structure = self.kind.empty(self.job["settings"], dim=self.corpus.dim, seed=self.job["seed"])
        structure = moved(structure, self.device)
        wanted = min(self.kind.sample(self.job["settings"]), len(self.corpus))
        if wanted:
            logger.info("index: learning from %s vectors", f"{wanted:,}")
            structure.train(sample(self.corpus, wanted, self.job["seed"]))
        self._keep(TRAINED, structure)

    def _keep(self, name: str, structure: Structure, **facts: float) -> None:
        # Written by the structure's own library, which takes a path: renamed when it is whole.
        temporary = self.output / f".{name}.new.tmp"
        try:
            with naming(self.output / name):
                structure.save(temporary)
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        entry = {"bytes": temporary.stat().st_size, "checksum": checksum(temporary), **facts}
        temporary.replace(self.output / name)
        self.files[name] = entry
        self._note()

    def _note(self) -> None:
        write_sealed(self.output / MANIFEST, {"schema": SCHEMA, "job": self.job, "files": self.files})


def sample(corpus: Embeddings, count: int, seed: int) -> np.ndarray:
    """Vectors at random, without repeats: float32 [count, dim], in the corpus's order."""
    rows = np.sort(np.random.default_rng(seed).choice(len(corpus), count, replace=False))
    found = np.empty((count, corpus.dim), dtype=np.float32)
    for places, vectors in corpus.take_vectors(rows, BLOCK):
        found[places] = vectors
    return found


def rows_between(corpus: Embeddings, start: int, stop: int) -> Any:
    """Yield the vectors of rows ``start`` to ``stop``, float32 [at most BLOCK, dim]."""
    for first in range(start, stop, BLOCK):
        rows = np.arange(first, min(first + BLOCK, stop))
        block = np.empty((len(rows), corpus.dim), dtype=np.float32)
        for places, vectors in corpus.take_vectors(rows, BLOCK):
            block[places] = vectors
        yield block


def _whole(path: Path, entry: Mapping[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == entry["bytes"] and checksum(path) == entry["checksum"]


def _difference(manifest: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    old = manifest.get("job")
    if not isinstance(old, dict) or manifest.get("schema") != SCHEMA:
        return "one that this version does not read"
    return ", ".join(f"{key}: {old.get(key)!r}, not {new[key]!r}" for key in new if old.get(key) != new[key])

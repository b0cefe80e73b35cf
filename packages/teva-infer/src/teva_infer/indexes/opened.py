"""Searching an index: candidates from its parts, their exact scores from the embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from teva_data.embeddings import Embeddings
from teva_data.errors import DataError, TevaError
from teva_data.files import checksum, read_sealed
from teva_infer.topk import TopK

from . import Numbers, Structure, bounded, checked, find_kind, moved
from .building import MANIFEST, SCHEMA, contents, part_name
from .rescoring import rescore

_AGAIN = "Build it again with `teva-infer index`"
OVERSAMPLE = "oversample"


class Index:
    """A finished index, its parts in memory.

    Args:
        directory: what :func:`teva_infer.indexes.building.build_index` made.
        corpus: the embeddings that it was built from.
        knobs: how much a search looks at: the kind's own names, and ``oversample``: candidates whose exact scores are
            computed, for each hit that is wanted; 0 takes the structure's own scores. Defaults where not given.
        device: where it is searched: "cpu", or "cuda", "cuda:1" with faiss-gpu. Exact scores are computed on the CPU.

    Attributes:
        job: what it is: kind, settings, rows.
        knobs: all of them.

    Raises:
        DataError: unfinished, damaged, or of other embeddings.
        TevaError: knobs that the kind does not have, or a device that is not there.
    """

    def __init__(
        self, directory: str | Path, corpus: Embeddings, knobs: Numbers | None = None, device: str = "cpu"
    ) -> None:  # fmt: skip
        self.directory, self.corpus = Path(directory), corpus
        manifest = _manifest(self.directory)
        self.job = manifest["job"]
        if self.job["embeddings"] != contents(corpus):
            raise DataError(
                "an index of other embeddings", file=self.directory, found=f"that of {self.job['rows']:,} vectors",
                expected=f"that of the {len(corpus):,} in {corpus.directory}", hint=_AGAIN,
            )  # fmt: skip
        self.kind = find_kind(self.job["kind"])
        self.knobs = self.resolve(knobs or {})
        self._longest = max((entry.get("longest", 0.0) for entry in manifest["files"].values()), default=0.0)
        self._parts: list[tuple[int, int, Structure]] = []  # first row, rows
        size, total = self.job["part_rows"], self.job["rows"]
        for number, start in enumerate(range(0, total, size)):
            self._take(start, min(size, total - start), self._load(part_name(number), manifest["files"]))
        self._parts = [(start, rows, moved(structure, device)) for start, rows, structure in self._parts]

    def resolve(self, knobs: Numbers) -> dict[str, int]:
        """All knobs, those that are not given at their defaults.

        Raises:
            TevaError: a knob that the kind does not have, or one below its least value.
        """
        found = {**{name: values[0] for name, values in self.kind.knobs.items()}, OVERSAMPLE: self.kind.oversample}
        checked(knobs, found, "a knob of the index")
        bounded(knobs)
        found |= knobs
        for name, value in found.items():
            if value < (name != OVERSAMPLE):
                raise TevaError(f"{name}: found {value}; expected at least {int(name != OVERSAMPLE)}")
        return found

    def search(
        self, queries: np.ndarray, depth: int, knobs: Numbers | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Search with queries that are in memory.

        Args:
            queries: float32 [Q, dim].
            depth: documents for each query.
            knobs: in place of the index's own.

        Returns:
            Scores, float32 [Q, depth], best first (equal scores by row); corpus rows, int64 [Q, depth]; and which of
            the places are filled.
        """
        *_, last = self.steps(queries, depth, self.knobs if knobs is None else self.resolve({**self.knobs, **knobs}))
        assert not isinstance(last, int)
        return last

    def scan(
        self, queries: np.ndarray, corpus: Embeddings, depth: int
    ) -> Iterator[int | tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """As the backends of :func:`teva_infer.search` do it, over the index's own corpus."""
        return self.steps(queries, depth, self.knobs)

    def steps(
        self, queries: np.ndarray, depth: int, knobs: Numbers
    ) -> Iterator[int | tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Search; yields the rows of each part that is done, and the hits at the end."""
        lengths = np.sqrt(np.einsum("qd,qd->q", queries, queries, dtype=np.float64))
        if self._longest * lengths.max(initial=0) > np.finfo(np.float32).max / 2:
            raise DataError("scores too large for float32", file=self.corpus.directory, field="vector",
                            hint="These vectors are too long for inner products; normalise them")  # fmt: skip
        own = {name: value for name, value in knobs.items() if name != OVERSAMPLE}
        wanted = max(1, knobs[OVERSAMPLE]) * depth
        candidates = TopK(len(queries), min(wanted, self.job["rows"]))
        for start, rows, structure in self._parts:
            scores, found = structure.search(queries, min(wanted, rows), own)
            if len(self._parts) > 1 or not knobs[OVERSAMPLE]:
                candidates.add_hits(scores, _from(found, start))
            yield rows
        if knobs[OVERSAMPLE] and len(self._parts) == 1:
            yield rescore(queries, self.corpus, _from(found, start), depth, self._longest)
            return
        scores, found, filled = candidates.best()
        if knobs[OVERSAMPLE]:
            yield rescore(queries, self.corpus, np.where(filled, found, -1), depth, self._longest)
        else:
            yield _wide(scores, -np.inf, depth), _wide(found, 0, depth), _wide(filled, False, depth)

    def _take(self, start: int, rows: int, structure: Structure) -> None:
        """Put the next part to the one before, so that what all parts share is looked through once for each query."""
        if self._parts:
            first, before, whole = self._parts[-1]
            join = getattr(whole, "join", None)
            if join is not None and join(structure, start - first):
                self._parts[-1] = (first, before + rows, whole)
                return
        self._parts.append((start, rows, structure))

    def _load(self, name: str, files: Mapping[str, Mapping[str, Any]]) -> Structure:
        path = self.directory / name
        if name not in files or not path.is_file():
            raise DataError("unfinished index", file=path, found="no such part",
                            hint="Start the same build again; it does only what is missing")  # fmt: skip
        if (found := checksum(path)) != files[name]["checksum"]:
            raise DataError("damaged index", file=path, found=f"checksum {found}",
                            expected=files[name]["checksum"], hint=_AGAIN)  # fmt: skip
        return self.kind.load(path, self.job["settings"])


def _wide(values: np.ndarray, empty: Any, depth: int) -> np.ndarray:
    """The first ``depth`` columns, filled up where there are fewer."""
    missing = max(0, depth - values.shape[1])
    return np.pad(values[:, :depth], ((0, 0), (0, missing)), constant_values=empty)


def _from(rows: np.ndarray, start: int) -> np.ndarray:
    """Rows of a part as rows of the corpus; -1 stays what it is."""
    return np.where(rows < 0, -1, rows + start)


def _manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    if not path.is_file():
        raise DataError("no index here", file=directory, expected=f"a directory with {MANIFEST}", hint=_AGAIN)
    found = read_sealed(path)
    if found is None:
        raise DataError("damaged", file=path, hint=_AGAIN)
    if found.get("schema") != SCHEMA:
        raise DataError("unknown version", file=path, field="schema", found=found.get("schema"), expected=SCHEMA,
                        hint="Read it with the version of teva-infer that wrote it")  # fmt: skip
    return found

"""A kind of index: vectors projected onto fewer random orthogonal directions, kept as int8 and compared there.

Inner products survive such a projection up to an error that falls with its width (Johnson and Lindenstrauss, 1984; the
proof by Dasgupta and Gupta, "An elementary proof of a theorem of Johnson and Lindenstrauss", 2003). Candidates' exact
scores decide, so what is lost is found hits, never their scores. For each document ``width`` bytes are kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from teva_data.errors import TevaError
from teva_infer.indexes import Numbers, checked


@dataclasses.dataclass(frozen=True)
class SketchKind:
    """See :class:`teva_infer.indexes.Kind`.

    Attributes:
        settings: ``width``: numbers kept of each vector; 0: half of the dimension.
        knobs: none.
        oversample: candidates for each hit, whose exact scores decide.
    """

    settings: Numbers = dataclasses.field(default_factory=lambda: {"width": 0})
    knobs: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
    oversample: int = 10

    def resolve(self, settings: Numbers, *, dim: int, rows: int) -> dict[str, int]:
        """All settings.

        Raises:
            TevaError: a setting that is not known, or a width that does not fit the vectors.
        """
        checked(settings, self.settings, "a setting of the index")
        width = settings.get("width", 0) or max(1, dim // 2)
        if not 1 <= width <= dim:
            raise TevaError(f"width: found {width}; expected 1 to {dim}, the vectors' dimension")
        return {"width": width}

    def sample(self, settings: Numbers) -> int:
        """Nothing is learned."""
        return 0

    def empty(self, settings: Numbers, *, dim: int, seed: int) -> Sketch:
        """A structure without vectors."""
        width = settings["width"]
        rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))
        return Sketch(
            rotation[:, :width].astype(np.float32), np.empty((0, width), dtype=np.int8), np.empty(0, dtype=np.float32)
        )

    def load(self, file: Path, settings: Numbers) -> Sketch:
        """What :meth:`Sketch.save` wrote."""
        with np.load(file, allow_pickle=False) as stored:
            return Sketch(stored["directions"], stored["codes"], stored["scales"])


class Sketch:
    """See :class:`teva_infer.indexes.Structure`.

    Args:
        directions: float32 [dim, width].
        codes: int8 [n, width].
        scales: float32 [n], what a row's codes are multiplied by.
    """

    def __init__(self, directions: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
        self.directions, self.codes, self.scales = directions, codes, scales

    def train(self, sample: np.ndarray) -> None:
        """Nothing is learned."""

    def add(self, vectors: np.ndarray) -> None:
        """Take in vectors, float32 [n, dim]."""
        projected = vectors @ self.directions
        scales = np.maximum(np.abs(projected).max(axis=1), 1e-30) / 127
        codes = np.rint(projected / scales[:, None]).astype(np.int8)
        self.codes = np.concatenate([self.codes, codes])
        self.scales = np.concatenate([self.scales, scales.astype(np.float32)])

    def search(self, queries: np.ndarray, depth: int, knobs: Numbers) -> tuple[np.ndarray, np.ndarray]:
        """Scores [Q, depth], larger is better, and rows [Q, depth], -1 where there is none."""
        similarity = (queries @ self.directions) @ self.codes.T.astype(np.float32) * self.scales
        best = np.argsort(-similarity, axis=1, kind="stable")[:, :depth]
        scores = np.full((len(queries), depth), -np.inf, dtype=np.float32)
        rows = np.full((len(queries), depth), -1, dtype=np.int64)
        rows[:, : best.shape[1]] = best
        scores[:, : best.shape[1]] = np.take_along_axis(similarity, best, axis=1)
        return scores, rows

    def join(self, other: Sketch, first_row: int) -> bool:
        """Take in the rows of another, which come right behind: all parts have the same directions."""
        assert first_row == len(self.codes)
        self.codes = np.concatenate([self.codes, other.codes])
        self.scales = np.concatenate([self.scales, other.scales])
        return True

    def on(self, device: str) -> Sketch:
        """Itself.

        Raises:
            TevaError: a device other than the CPU.
        """
        if device != "cpu":
            raise TevaError(f"an index of the kind 'sketch' is searched on the CPU; found {device!r}")
        return self

    def save(self, file: Path) -> None:
        """Write it; numpy adds an ending to a path, and none to an open file."""
        with file.open("wb") as stream:
            np.savez(stream, directions=self.directions, codes=self.codes, scales=self.scales)


SKETCH = SketchKind()

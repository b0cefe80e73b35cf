"""FAISS's structures (Douze et al., "The Faiss library", arXiv 2401.08281), each under the name of a kind."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from teva_data.errors import TevaError

from . import Numbers, checked

logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it tells of every build of its library not found

import faiss  # noqa: E402

_WRITTEN = 1 << 20  # bytes at a time
_LEAST = {"links": 2}  # of settings; FAISS divides by the logarithm of a graph's links

# FAISS warns below 39 training vectors for each centroid; more than 64 change little.
_FOR_EACH_LIST = 64
_ENTRIES = 256  # of a product quantiser's codebook
_CODEBOOK = _ENTRIES * 64  # training vectors of them
# From here on a graph over the centroids finds a vector's list; comparing with all of them takes most of a build.
_MANY_LISTS = 8192


@dataclasses.dataclass(frozen=True)
class FaissKind:
    """A kind whose structure FAISS's ``index_factory`` makes.

    Attributes:
        factory: the factory's words, with settings by name.
        settings: see :class:`teva_infer.indexes.Kind`.
        knobs: likewise; FAISS's own names.
        oversample: likewise.
        at_build: settings that are parameters of FAISS's structure, and no words of the factory.
    """

    factory: str
    settings: Numbers = dataclasses.field(default_factory=dict)
    knobs: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
    oversample: int = 1
    at_build: tuple[str, ...] = ()

    def resolve(self, settings: Numbers, *, dim: int, rows: int) -> dict[str, int]:
        """See :class:`teva_infer.indexes.Kind`."""
        checked(settings, self.settings, "a setting of the index")
        found = {**self.settings, **settings}
        if "lists" in found and not found["lists"]:
            # As FAISS's guide has it: 4 to 16 times the root of the rows; the lower end trains faster.
            found["lists"] = max(1, min(4 * math.isqrt(rows), rows // 39))
        if "graph" in found and "graph" not in settings and found["lists"] >= _MANY_LISTS:
            found["graph"] = 32
        if "bytes" in found:
            found["bytes"] = found["bytes"] or max(size for size in range(1, max(1, dim // 8) + 1) if dim % size == 0)
            if found["bytes"] < 1 or dim % found["bytes"]:
                raise TevaError(f"bytes: found {found['bytes']}; expected a divisor of the dimension {dim}")
            if rows < _ENTRIES:
                raise TevaError(f"an index of codes learns from {_ENTRIES} vectors at least; found {rows}. "
                                "Take another kind: so few are searched at once")  # fmt: skip
        if found.get("graph") == 1:
            raise TevaError("graph: found 1; expected 0 (none), or at least 2 links")
        for name, value in found.items():
            if value < (least := 0 if name == "graph" else _LEAST.get(name, 1)):
                raise TevaError(f"{name}: found {value}; expected at least {least}")
        if found.get("lists", 0) > rows:
            raise TevaError(f"lists: found {found['lists']}; expected at most the {rows} vectors there are")
        return found

    def sample(self, settings: Numbers) -> int:
        """See :class:`teva_infer.indexes.Kind`."""
        if "lists" not in settings:
            return 0
        return max(_FOR_EACH_LIST * settings["lists"], _CODEBOOK if "bytes" in settings else 0)

    def empty(self, settings: Numbers, *, dim: int, seed: int) -> FaissStructure:
        """See :class:`teva_infer.indexes.Kind`."""
        words = self.factory.format(**settings, coarse=f"_HNSW{settings['graph']}" if settings.get("graph") else "")
        index = faiss.index_factory(dim, words, faiss.METRIC_INNER_PRODUCT)
        for name in self.at_build:
            faiss.ParameterSpace().set_index_parameter(index, name, settings[name])
        if "lists" in settings:
            faiss.extract_index_ivf(index).cp.seed = seed
        return FaissStructure(index)

    def load(self, file: Path, settings: Numbers) -> FaissStructure:
        """See :class:`teva_infer.indexes.Kind`."""
        return FaissStructure(faiss.read_index(str(file)))


class FaissStructure:
    """An index of FAISS.

    Args:
        index: of inner products.
        resources: of the GPU that it lies on; to be kept as long as the index.
        space: what sets the knobs.
    """

    def __init__(self, index: Any, resources: Any = None, space: Any = None) -> None:
        self.index, self._resources = index, resources
        self._space = faiss.ParameterSpace() if space is None else space

    def train(self, sample: np.ndarray) -> None:
        """See :class:`teva_infer.indexes.Structure`."""
        self.index.train(sample)

    def add(self, vectors: np.ndarray) -> None:
        """See :class:`teva_infer.indexes.Structure`."""
        self.index.add(np.ascontiguousarray(vectors, dtype=np.float32))

    def search(self, queries: np.ndarray, depth: int, knobs: Numbers) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`teva_infer.indexes.Structure`."""
        for name, value in knobs.items():
            self._space.set_index_parameter(self.index, name, value)
        scores, rows = self.index.search(np.ascontiguousarray(queries, dtype=np.float32), depth)
        return scores, rows

    def save(self, file: Path) -> None:
        """See :class:`teva_infer.indexes.Structure`."""
        index = self.index if self._resources is None else faiss.index_gpu_to_cpu(self.index)
        _write(faiss.write_index, index, file)

    def join(self, other: FaissStructure, first_row: int) -> bool:
        """See :class:`teva_infer.indexes.Structure`: lists and flat vectors are put together, graphs are not."""
        if not isinstance(self.index, (faiss.IndexIVF, faiss.IndexFlat)) or first_row != self.index.ntotal:
            return False
        # Rows of lists have numbers of their own; rows of flat vectors are their places.
        self.index.merge_from(other.index, first_row if isinstance(self.index, faiss.IndexIVF) else 0)
        return True

    def on(self, device: str) -> FaissStructure:
        """See :class:`teva_infer.indexes.Structure`.

        Raises:
            TevaError: no such GPU, or a structure that FAISS has for the CPU alone.
        """
        if device == "cpu":
            return self
        kind, _, number = device.partition(":")
        count = faiss.get_num_gpus()
        if kind != "cuda" or not (number or "0").isdecimal() or int(number or 0) >= count:
            raise TevaError(f"device {device!r}: this FAISS sees {count} GPUs; expected cpu, cuda or cuda:N. "
                            "GPUs need the package faiss-gpu in place of faiss-cpu")  # fmt: skip
        if not isinstance(self.index, (faiss.IndexIVF, faiss.IndexFlat)):
            raise TevaError(f"device {device!r}: {type(self.index).__name__} is searched on the CPU alone")
        resources = faiss.StandardGpuResources()
        try:
            moved = faiss.index_cpu_to_gpu(resources, int(number or 0), self.index)
        except RuntimeError as error:
            raise TevaError(
                f"device {device!r}: FAISS does not take {type(self.index).__name__} there: {error}"
            ) from error
        return FaissStructure(moved, resources, faiss.GpuParameterSpace())


@dataclasses.dataclass(frozen=True)
class BinaryKind:
    """Signs of the numbers, one bit each, compared by how many differ: a 32nd of float32 vectors.

    Attributes:
        settings: none.
        knobs: none.
        oversample: see :class:`teva_infer.indexes.Kind`.
    """

    settings: Numbers = dataclasses.field(default_factory=dict)
    knobs: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
    oversample: int = 40

    def resolve(self, settings: Numbers, *, dim: int, rows: int) -> dict[str, int]:
        """See :class:`teva_infer.indexes.Kind`."""
        checked(settings, self.settings, "a setting of the index")
        if dim % 8:
            raise TevaError(f"an index of the kind 'binary' wants a dimension that 8 divides; found {dim}")
        return {}

    def sample(self, settings: Numbers) -> int:
        """See :class:`teva_infer.indexes.Kind`."""
        return 0

    def empty(self, settings: Numbers, *, dim: int, seed: int) -> BinaryStructure:
        """See :class:`teva_infer.indexes.Kind`."""
        return BinaryStructure(faiss.IndexBinaryFlat(dim))

    def load(self, file: Path, settings: Numbers) -> BinaryStructure:
        """See :class:`teva_infer.indexes.Kind`."""
        return BinaryStructure(faiss.read_index_binary(str(file)))


class BinaryStructure:
    """FAISS's index of bits.

    Args:
        index: of Hamming distances.
    """

    def __init__(self, index: Any) -> None:
        self.index = index

    def train(self, sample: np.ndarray) -> None:
        """Nothing is learned: the sign parts each number at 0."""

    def add(self, vectors: np.ndarray) -> None:
        """See :class:`teva_infer.indexes.Structure`."""
        self.index.add(np.packbits(vectors > 0, axis=1))

    def search(self, queries: np.ndarray, depth: int, knobs: Numbers) -> tuple[np.ndarray, np.ndarray]:
        """Scores are the number of equal signs less that of different ones, over the dimension."""
        distances, rows = self.index.search(np.packbits(queries > 0, axis=1), depth)
        scores = 1 - 2 * distances.astype(np.float32) / self.index.d
        return np.where(rows >= 0, scores, -np.inf).astype(np.float32), rows

    def save(self, file: Path) -> None:
        """See :class:`teva_infer.indexes.Structure`."""
        _write(faiss.write_index_binary, self.index, file)


def _write(write: Callable[..., None], index: Any, file: Path) -> None:
    """By Python's file: of a disk that is full when its own is closed, FAISS only prints."""
    with file.open("wb") as opened:
        write(index, faiss.PyCallbackIOWriter(opened.write, _WRITTEN))  # type: ignore[attr-defined]


_PROBES = {"nprobe": (16, 1, 2, 4, 8, 32, 64, 128, 256)}
FLAT = FaissKind("Flat")
_LISTS = {"lists": 0, "graph": 0}
IVF = FaissKind("IVF{lists}{coarse},Flat", _LISTS, _PROBES)
HNSW = FaissKind(
    "HNSW{links},Flat", {"links": 32, "efConstruction": 200},
    {"efSearch": (128, 16, 32, 64, 256, 512)}, at_build=("efConstruction",),
)  # fmt: skip
SQ8 = FaissKind("IVF{lists}{coarse},SQ8", _LISTS, _PROBES, oversample=2)
# "np": without putting codes in an order that lets them be compared as bits, which takes seconds for each byte of a
# code and is of use to nothing here.
PQ = FaissKind("IVF{lists}{coarse},PQ{bytes}np", {**_LISTS, "bytes": 0}, _PROBES, oversample=10)
RABITQ = FaissKind("IVF{lists}{coarse},RaBitQ", _LISTS, _PROBES, oversample=10)
BINARY = BinaryKind()

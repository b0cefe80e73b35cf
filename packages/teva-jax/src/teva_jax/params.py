"""Parameters: a flat dictionary, keyed and laid out as Hugging Face does, with the layers of a stack on axis 0.

``layers.*.mlp.up_proj.weight`` [L, out, in] holds the tensors ``layers.0.mlp.up_proj.weight`` and so on. So nothing is
transposed or renamed on the way in or out.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from numpy.typing import DTypeLike, NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

import jax
from teva_data.errors import ArtifactError
from teva_data.files import write_json

from .mesh import shardings

Change = Callable[[str, int | None, jax.Array], jax.Array]
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 2 << 30
"""Bytes of one file of weights at most, unless a tensor is larger; it is what saving holds in memory."""

# How a checkpoint of a larger model names the backbone within it.
_PREFIXES = ("", "model.", "bert.", "roberta.", "language_model.model.", "model.language_model.", "language_model.")
# Names that converted TensorFlow checkpoints have kept (bert-base-uncased among them).
_OLD = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


@dataclasses.dataclass(frozen=True)
class Spec:
    """A parameter before it is there.

    Attributes:
        shape: with the layers of a stack first.
        axes: what each axis means, a key of :data:`teva_jax.mesh.RULES`.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]


def members(name: str, spec: Spec) -> list[str]:
    """The tensors of a checkpoint that a parameter holds, in order."""
    if "*" not in name:
        return [name]
    return [name.replace("*", str(layer)) for layer in range(spec.shape[0])]


def count(table: Mapping[str, Spec]) -> int:
    """Numbers in all parameters of a table."""
    return sum(math.prod(spec.shape) for spec in table.values())


def load(
    directory: str | Path, table: Mapping[str, Spec], mesh: Mesh, dtype: DTypeLike = jnp.float32
) -> dict[str, jax.Array]:
    """Read a checkpoint's tensors straight into their shards: a process reads the parts of its own devices alone.

    Args:
        directory: with ``model.safetensors``, or ``model.safetensors.index.json`` and its files.
        table: what is wanted.
        mesh: the devices.
        dtype: of the parameters, whatever the files have.

    Returns:
        An array for each name of the table.

    Raises:
        ArtifactError: no safetensors; a tensor is missing or has another shape.
    """
    with Checkpoint(Path(directory)) as checkpoint:
        places = shardings(table, mesh)
        checkpoint.expect(table)
        return {
            name: jax.make_array_from_callback(spec.shape, places[name], checkpoint.reader(name, spec, dtype))
            for name, spec in table.items()
        }


def random(
    key: jax.Array, table: Mapping[str, Spec], mesh: Mesh, dtype: DTypeLike = jnp.float32, scale: float = 0.02
) -> dict[str, jax.Array]:
    """Parameters drawn from a normal distribution, each made in its shards; for measurements and plans."""

    def draw(key: jax.Array) -> dict[str, jax.Array]:
        keys = jax.random.split(key, len(table))
        return {
            name: (scale * jax.random.normal(each, spec.shape, jnp.float32)).astype(jnp.dtype(dtype))
            for each, (name, spec) in zip(keys, table.items(), strict=True)
        }

    made: dict[str, jax.Array] = jax.jit(draw, out_shardings=shardings(table, mesh))(key)
    return made


def save(
    directory: str | Path,
    params: Mapping[str, jax.Array],
    config: Mapping[str, Any],
    *,
    extra: Mapping[str, NDArray[Any]] | None = None,
    change: Change | None = None,
    dtype: DTypeLike | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write ``config.json`` and weights as transformers writes them. All processes call it; process 0 writes.

    Args:
        directory: where; exists already.
        params: as :func:`load` gives them; gathered one layer's tensor at a time.
        config: for ``config.json``.
        extra: tensors that the file shall hold beside them, by their names.
        change: what each tensor becomes before it is written, e.g. with an adapter in it; its shape stays.
        dtype: of the files; that of the (changed) parameters where not given.
        shard_bytes: of one file, where no tensor is larger.
    """
    directory, first = Path(directory), jax.process_index() == 0
    # As if all were float32 where the type is not known yet: a bound.
    width = 4 if dtype is None else jnp.dtype(dtype).itemsize
    sizes = {name: array.size * width for name, array in (extra or {}).items()}
    for name, value in params.items():
        size = value.size // (value.shape[0] if "*" in name else 1) * width
        sizes |= dict.fromkeys(members(name, Spec(value.shape, ())), size)
    files, total = _split(sizes, shard_bytes), 0
    held: dict[str, NDArray[Any]] = {}
    place = {name: number for number, names in enumerate(files) for name in names}
    left = [len(names) for names in files]
    for name, array in _tensors(params, extra or {}, change, dtype):
        if not first:
            continue
        held[name] = array
        total += array.nbytes
        number = place[name]
        left[number] -= 1
        if not left[number]:
            names = files[number]
            save_file({each: held.pop(each) for each in names}, directory / _file(number, len(files)), {"format": "pt"})
    if first:
        if len(files) > 1:
            where = {name: _file(number, len(files)) for name, number in place.items()}
            write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
        write_json(directory / "config.json", dict(config))


class Checkpoint:
    """The safetensors files of a directory, opened; a tensor is found by its name in the bare backbone."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._open: dict[str, Any] = {}
        self.where = self._find()
        self.prefix = ""

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.clear()

    def _find(self) -> dict[str, str]:
        if (self.directory / INDEX).is_file():
            found: dict[str, str] = json.loads((self.directory / INDEX).read_text(encoding="utf-8"))["weight_map"]
            return found
        single = self.directory / "model.safetensors"
        if not single.is_file():
            raise ArtifactError(
                f"{self.directory}: no model.safetensors; expected weights as safetensors. Save the model once with "
                "transformers, which writes them"
            )
        return dict.fromkeys(self._file(single.name).keys(), single.name)

    def _file(self, name: str) -> Any:
        if name not in self._open:
            self._open[name] = safe_open(self.directory / name, framework="numpy")
        return self._open[name]

    def expect(self, table: Mapping[str, Spec]) -> None:
        """Find the prefix of the names, and refuse a checkpoint that lacks a tensor or has one of another shape."""
        wanted = {each: spec for name, spec in table.items() for each in members(name, spec)}
        lacking = {}
        for prefix in _PREFIXES:
            self.prefix = prefix
            lacking[prefix] = [name for name in wanted if self._name(name) not in self.where]
            if not lacking[prefix]:
                break
        else:
            self.prefix = min(lacking, key=lambda prefix: len(lacking[prefix]))
            names = lacking[self.prefix]
            raise ArtifactError(
                f"{self.directory}: the weights lack {len(names)} of the model's {len(wanted)} tensors, first "
                f"{names[0]!r}. Fetch or export the model again"
            )
        for name, spec in wanted.items():
            expected = list(spec.shape[1:]) if name not in table else list(spec.shape)
            found = list(self.slice(name).get_shape())
            if found != expected:
                raise ArtifactError(
                    f"{self.directory}: the tensor {name!r} has the shape {found}; expected {expected} by config.json"
                )

    def _name(self, name: str) -> str:
        name = self.prefix + name
        if name not in self.where:
            for new, old in _OLD.items():
                if name.endswith(new) and (other := name.removesuffix(new) + old) in self.where:
                    return other
        return name

    def slice(self, name: str) -> Any:
        """safetensors' lazy view of a tensor."""
        name = self._name(name)
        return self._file(self.where[name]).get_slice(name)

    def reader(self, name: str, spec: Spec, dtype: DTypeLike) -> Callable[[Any], NDArray[Any]]:
        """What gives any part of a parameter, read once for all devices that hold it."""
        known: dict[str, NDArray[Any]] = {}

        def read(index: tuple[slice, ...]) -> NDArray[Any]:
            key = repr(index)
            if key not in known:
                if "*" in name:
                    layers = range(spec.shape[0])[index[0]]
                    parts = [self.slice(name.replace("*", str(layer)))[index[1:]] for layer in layers]
                    known[key] = np.stack([part.astype(dtype) for part in parts])
                else:
                    known[key] = np.asarray(self.slice(name)[index]).astype(dtype)
            return known[key]

        return read

    def others(self, table: Mapping[str, Spec], beginnings: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Tensors that the table does not know, whose names begin so: what the model does not use but its class has."""
        known = {self._name(each) for name, spec in table.items() for each in members(name, spec)}
        return {
            name.removeprefix(self.prefix): np.asarray(self._file(file).get_tensor(name))
            for name, file in self.where.items()
            if name not in known and name.removeprefix(self.prefix).startswith(tuple(beginnings))
        }


def gather(value: jax.Array) -> NDArray[Any]:
    """An array on this host, whole, wherever its parts are; all processes call it."""
    if value.is_fully_addressable:
        return np.asarray(value)
    return np.asarray(multihost_utils.process_allgather(value, tiled=True))


def _tensors(
    params: Mapping[str, jax.Array],
    extra: Mapping[str, NDArray[Any]],
    change: Change | None,
    dtype: DTypeLike | None,
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Each tensor of a checkpoint, gathered when it is asked for."""
    for name, value in params.items():
        for layer, each in enumerate(members(name, Spec(value.shape, ()))):
            one = value[layer] if "*" in name else value
            array = gather(one if change is None else change(name, layer if "*" in name else None, one))
            yield each, np.ascontiguousarray(array if dtype is None else array.astype(dtype))
    for name, array in extra.items():
        yield name, np.ascontiguousarray(array if dtype is None else array.astype(dtype))


def _split(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    files: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if files[-1] and filled + size > limit:
            files.append([])
            filled = 0
        files[-1].append(name)
        filled += size
    return files


def _file(number: int, of: int) -> str:
    return "model.safetensors" if of == 1 else f"model-{number + 1:05}-of-{of:05}.safetensors"

"""The engine that teva-infer finds as ``jax``: token ids in, vectors out, over this process's devices."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import jax
from teva_data.artifact import Artifact
from teva_data.errors import EngineMemoryError, TevaError, nearest

from .mesh import make_mesh, sharding
from .model import Params, Retriever
from .params import gather

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


class JaxEngine:
    """Encodes with JAX; rows are split over the devices (the ``Engine`` protocol of teva-infer).

    Rows and lengths are filled up to a few sizes, so that few programs are compiled.

    Args:
        retriever: what to compute.
        params: its parameters.
        adapter: LoRA's factors, where it has some.
    """

    def __init__(self, retriever: Retriever, params: Params, adapter: Params | None = None) -> None:
        if retriever.model.mesh is None:
            raise TevaError("an engine needs a retriever with a mesh")
        self.retriever, self.params, self.adapter = retriever, params, adapter
        self._mesh = retriever.model.mesh
        self._least = self._mesh.shape["data"] * self._mesh.shape["fsdp"]
        self._embed = jax.jit(retriever.embed)

    @classmethod
    def load(
        cls, artifact: Artifact, *, device: str = "auto", dtype: str = "float32", fsdp: int = 1, tensor: int = 1
    ) -> JaxEngine:
        """The engine of an artifact, on all devices of a kind that this process has.

        Args:
            artifact: the model.
            device: ``auto`` (JAX's first choice), ``cpu``, ``gpu`` or ``cuda``, ``tpu``, or one of them, ``cuda:1``.
            dtype: of weights and computation: ``float32``, ``bfloat16`` or ``float16``.
            fsdp: devices that share one copy of the weights, each with texts of its own; -1 for all.
            tensor: devices that share the computation of each text.

        Raises:
            TevaError: an unknown type or device, or devices that are not divided by ``fsdp`` times ``tensor``.
        """
        if dtype not in DTYPES:
            raise TevaError(f"dtype {dtype!r}: not known. {nearest(dtype, DTYPES)}")
        fsdp, tensor = int(fsdp), int(tensor)
        mesh = make_mesh(data=1 if fsdp == -1 else -1, fsdp=fsdp, tensor=tensor, devices=_devices(device))
        kind = DTYPES[dtype]
        return cls(*Retriever.load(artifact, mesh, param_dtype=kind, compute_dtype=kind))

    def encode(self, token_ids: Sequence[Sequence[int]], /) -> NDArray[np.float32]:
        """Vectors of one batch: float32 [B, dim], pooled, normalised where the artifact says so.

        Raises:
            EngineMemoryError: the batch does not fit into the devices' memory.
        """
        with _memory(token_ids):
            return gather(self._begin(token_ids))[: len(token_ids)]

    def stream(self, batches: Iterable[Sequence[Sequence[int]]]) -> Iterator[NDArray[np.float32]]:
        """Vectors of each batch, in order; the devices have the next batch before those of the last are copied."""
        waiting: tuple[jax.Array, Sequence[Sequence[int]]] | None = None

        def take() -> Iterator[NDArray[np.float32]]:
            if waiting is not None:
                vectors, rows = waiting
                with _memory(rows):
                    yield gather(vectors)[: len(rows)]

        for batch in batches:
            try:
                with _memory(batch):
                    begun = self._begin(batch)
            except EngineMemoryError:
                yield from take()
                raise
            yield from take()
            waiting = begun, batch
        yield from take()

    def _begin(self, token_ids: Sequence[Sequence[int]]) -> jax.Array:
        """Start a batch; what is returned has rows of filling behind the batch's."""
        longest = max(map(len, token_ids))
        length = bucket(longest, self.retriever.model.positions)
        ids = np.zeros((_power(len(token_ids), self._least), length), np.int32)
        lengths = np.ones(len(ids), np.int32)
        for row, tokens in enumerate(token_ids):
            ids[row, : len(tokens)] = tokens
            lengths[row] = len(tokens)
        vectors: jax.Array = self._embed(self.params, self.adapter, self._put(ids), self._put(lengths))
        return vectors

    def _put(self, rows: NDArray[np.int32]) -> jax.Array:
        """Rows over the devices, each process giving those of its own."""
        place = sharding(("batch", *(None,) * (rows.ndim - 1)), self._mesh, rows.shape)
        return jax.make_array_from_callback(rows.shape, place, rows.__getitem__)


def bucket(longest: int, positions: int) -> int:
    """The length that rows are filled up to: 16, 32, or a multiple of 64; the model's positions at most."""
    return min(positions, next((size for size in (16, 32) if longest <= size), -(-longest // 64) * 64))


@contextlib.contextmanager
def _memory(token_ids: Sequence[Sequence[int]]) -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "out of memory" not in str(error).lower():
            raise
        rows, longest = len(token_ids), max(map(len, token_ids))
        raise EngineMemoryError(
            f"out of memory with a batch of {rows} texts of up to {longest} tokens. "
            f"Lower batch_tokens (--batch-tokens {max(longest, rows * longest // 2)})"
        ) from error


def _power(rows: int, least: int) -> int:
    """Rows filled up to a power of two times the devices."""
    return int(least * 2 ** np.ceil(np.log2(max(1, rows / least))))


def _devices(name: str) -> list[jax.Device]:
    kind, _, number = name.partition(":")
    try:
        found = jax.local_devices() if kind == "auto" else jax.local_devices(backend={"cuda": "gpu"}.get(kind, kind))
    except RuntimeError as error:
        raise TevaError(f"device {name!r}: {error}. Use auto") from error
    if number and not (number.isdigit() and int(number) < len(found)):
        raise TevaError(f"device {name!r}: expected a number below {len(found)}")
    return [found[int(number)]] if number else found

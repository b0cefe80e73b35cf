"""A batch of the plan as arrays over the mesh, prepared in the background while the devices compute.

Every process reads and tokenises the whole batch and gives its own devices their rows: what stands in which chunk is so
a function of the step alone, without an exchange, whatever the number of processes. Legend: R rows of a chunk, T
tokens, P rows of the pool of vectors.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

import jax
from teva_data import feed as texts
from teva_data.errors import DataError
from teva_data.files import fingerprint
from teva_data.plan import BatchPlan
from teva_data.prefetch import prefetch
from teva_data.recipe import Recipe
from teva_data.rendering import Renderer

from .engine import bucket
from .losses import Targets
from .mesh import replicated, sharding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chunk:
    """What goes through the model in one pass.

    Attributes:
        token_ids: int32 [R, T], padded on the right.
        lengths: int32 [R].
        rows: int32 [R], the places of the vectors in the pool; P where a row is no text.
        key: uint32 [2], of what dropout draws. Both passes of gradient caching are given it, so it cannot change
            between them.
    """

    token_ids: jax.Array
    lengths: jax.Array
    rows: jax.Array
    key: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Places:
    """Where the vectors of the queries and documents stand in the pool: texts of the same tokens are encoded once.

    Attributes:
        queries: int32 [Q]; P in rows without a query.
        documents: int32 [D]; P in rows without a document.
        targets: of the batch.
    """

    queries: jax.Array
    documents: jax.Array
    targets: Targets


@dataclasses.dataclass(frozen=True)
class MeshBatch:
    """A global batch over the mesh."""

    item: texts.TokenBatch
    chunks: list[Chunk]
    places: Places

    @property
    def padded_tokens(self) -> int:
        """Tokens that go through the model, padding included."""
        return sum(math.prod(chunk.token_ids.shape) for chunk in self.chunks)


@dataclasses.dataclass(frozen=True)
class Shapes:
    """What is the same in all batches of a run, so that few programs are compiled.

    Attributes:
        queries: Q, filled up so that the devices divide it.
        documents: D, the most that a batch may have, likewise.
        chunk_tokens: of one pass on one device.
        limit: tokens of the longest text.
        devices: that the rows of a chunk are split over.
    """

    queries: int
    documents: int
    chunk_tokens: int
    limit: int
    devices: int = 1

    @classmethod
    def of(cls, recipe: Recipe, mesh: Mesh, chunk_tokens: int) -> Shapes:
        """The shapes of a recipe's batches."""
        devices = mesh.shape["data"] * mesh.shape["fsdp"]
        negatives = max(one.negatives or 0 for one in recipe.data.listed())
        size = recipe.train.batch_size
        return cls(
            queries=_up(size, devices),
            documents=_up(size * (1 + negatives), devices),
            chunk_tokens=chunk_tokens,
            limit=max(recipe.model.query_max_length, recipe.model.document_max_length),
            devices=devices,
        )

    @property
    def pool(self) -> int:
        """P, rows of the pool of vectors."""
        return self.queries + self.documents

    def rows(self, length: int) -> int:
        """R of a chunk of texts of a length: a multiple of the devices."""
        return self.devices * max(1, self.chunk_tokens // length)

    def lengths(self) -> list[int]:
        """Every T that a chunk may have: one program each."""
        return sorted({bucket(longest, self.limit) for longest in range(1, self.limit + 1)})


class Feed:
    """The plan's batches over the mesh.

    Args:
        plan: which examples each step has.
        renderer: how they become tokens.
        recipe: its limits of length and its seed.
        shapes: of all batches.
        mesh: the devices.
        scored: whether the loss needs a teacher's score of every document of a group.
    """

    def __init__(
        self, plan: BatchPlan, renderer: Renderer, recipe: Recipe, shapes: Shapes, mesh: Mesh, *, scored: bool = False
    ) -> None:
        self._texts, self.shapes, self.mesh, self._scored = texts.Feed(plan, renderer, recipe), shapes, mesh, scored
        self._seed = recipe.train.seed

    def batch(self, step: int) -> MeshBatch:
        """One batch.

        Raises:
            DataError: a query or document has no text, or no teacher's score where the loss needs one.
        """
        item = self._texts.batch(step)
        if self._scored:
            _expect_scores(item)
        return arrange(item, self.shapes, self.mesh, self._seed)

    def batches(self, start: int, stop: int, ahead: int = 2) -> Iterator[MeshBatch]:
        """The batches of steps ``start`` to ``stop`` - 1, at most ``ahead`` of them waiting.

        An error of the background thread is raised here, at the step that it belongs to.
        """
        return prefetch(self.batch, start, stop, ahead=ahead)


def arrange(item: texts.TokenBatch, shapes: Shapes, mesh: Mesh, seed: int = 0) -> MeshBatch:
    """A batch's texts in chunks, and where their vectors will stand.

    Args:
        item: the global batch.
        shapes: of all batches.
        mesh: the devices.
        seed: of dropout, which is a function of it, of the step and of the chunk.
    """
    numbers: dict[tuple[int, ...], int] = {}
    which = [numbers.setdefault(tuple(ids), len(numbers)) for ids in (*item.query_ids, *item.document_ids)]
    distinct = list(numbers)
    chunks: list[Chunk] = []
    for rows in chunked([len(ids) for ids in distinct], shapes):
        name = fingerprint("dropout", seed, item.batch.step, len(chunks))
        key = np.array([int(name[:8], 16), int(name[8:16], 16)], np.uint32)
        chunks.append(_chunk(rows, distinct, shapes, mesh, key))
    count = len(item.query_ids)
    whole = replicated(mesh)
    places = Places(
        queries=_filled(which[:count], shapes.queries, shapes.pool),  # type: ignore[arg-type]
        documents=_filled(which[count:], shapes.documents, shapes.pool),  # type: ignore[arg-type]
        targets=Targets.of(item.batch, shapes.queries, shapes.documents),
    )
    return MeshBatch(item, chunks, jax.tree.map(lambda value: put(np.asarray(value), whole), places))


def chunked(lengths: Sequence[int], shapes: Shapes) -> list[NDArray[np.int64]]:
    """Positions in ``lengths`` that go through the model together: longest first, so that what does not fit in memory
    fails at once; all chunks full but the last.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    chunks: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        rows = shapes.rows(bucket(lengths[order[start]], shapes.limit))
        chunks.append(order[start : start + rows])
        start += rows
    return chunks


def put(value: NDArray[np.generic], place: jax.sharding.Sharding) -> jax.Array:
    """An array that every process has, over the devices."""
    return jax.make_array_from_callback(value.shape, place, value.__getitem__)


def _chunk(
    rows: NDArray[np.int64], distinct: Sequence[Sequence[int]], shapes: Shapes, mesh: Mesh, key: NDArray[np.uint32]
) -> Chunk:
    length = bucket(len(distinct[rows[0]]), shapes.limit)
    count = shapes.rows(length)
    ids, lengths = np.zeros((count, length), np.int32), np.ones(count, np.int32)
    for at, row in enumerate(rows):
        ids[at, : len(distinct[row])] = distinct[row]
        lengths[at] = len(distinct[row])
    split = sharding(("batch", None), mesh, ids.shape), sharding(("batch",), mesh, lengths.shape)
    return Chunk(
        put(ids, split[0]), put(lengths, split[1]), put(_filled(rows, count, shapes.pool), replicated(mesh)),
        put(key, replicated(mesh)),
    )  # fmt: skip


def _filled(values: Sequence[int] | NDArray[np.int64], count: int, fill: int) -> NDArray[np.int32]:
    filled = np.full(count, fill, np.int32)
    filled[: len(values)] = values
    return filled


def _up(count: int, devices: int) -> int:
    return -(-count // devices) * devices


def _expect_scores(item: texts.TokenBatch) -> None:
    """Refuse a query whose group has a document that the teacher has not scored: the loss would be NaN."""
    missing = ((item.batch.groups >= 0) & np.isnan(item.batch.scores)).any(axis=1).nonzero()[0]
    if len(missing):
        raise DataError(
            "a document of the query's group has no teacher's score",
            found=item.batch.queries[int(missing[0])].query_id, expected="positive_scores and negative_scores",
            hint="A distillation needs them: have a teacher score the split",
        )  # fmt: skip

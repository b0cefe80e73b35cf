"""What a loss is told beside the vectors, and what a loss is."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar, TypeAlias

import jax.numpy as jnp
import numpy as np

import jax
from teva_data.plan import Batch

Learned: TypeAlias = Mapping[str, jax.Array]
_LEAST_PAIRS = 256


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Targets:
    """What the queries of the global batch are to be near to, and far from.

    A compiled program has one shape: rows that are no queries and columns that are no documents stand behind those
    that are.

    Attributes:
        positives: int32 [Q], the column (row of the documents) of each query's positive; -1 in rows without a query.
        groups: int32 [Q, 1 + n], columns of each query's positive and of its own listed negatives, -1 for none.
        scores: float32 [Q, 1 + n], the teacher's scores of the groups, NaN for none.
        excluded: int32 [M, 2], pairs (query, column) that are neither positive nor negative; filled up with (Q, D).
        query_count: int32 scalar, the queries.
        document_count: int32 scalar, the documents.
    """

    positives: jax.Array
    groups: jax.Array
    scores: jax.Array
    excluded: jax.Array
    query_count: jax.Array
    document_count: jax.Array

    @classmethod
    def of(cls, batch: Batch, rows: int | None = None, columns: int | None = None) -> Targets:
        """The targets of a global batch (one that is not cut over processes).

        Args:
            batch: the batch.
            rows: Q; as many as there are queries where not given.
            columns: D; likewise.
        """
        rows = batch.query_count if rows is None else rows
        columns = batch.document_count if columns is None else columns
        more = rows - batch.query_count
        pairs = batch.all_excluded
        # A power of two, so that few programs are compiled.
        length = max(_LEAST_PAIRS, 1 << (len(pairs) - 1).bit_length() if len(pairs) else 0)
        filled = np.tile(np.array([[rows, columns]]), (length, 1))
        filled[: len(pairs)] = pairs
        return cls(
            positives=np.pad(batch.all_positives, (0, more), constant_values=-1).astype(np.int32),  # type: ignore[arg-type]
            groups=np.pad(batch.groups, ((0, more), (0, 0)), constant_values=-1).astype(np.int32),  # type: ignore[arg-type]
            scores=np.pad(batch.scores, ((0, more), (0, 0)), constant_values=np.nan).astype(np.float32),  # type: ignore[arg-type]
            excluded=filled.astype(np.int32),  # type: ignore[arg-type]
            query_count=np.int32(batch.query_count),  # type: ignore[arg-type]
            document_count=np.int32(batch.document_count),  # type: ignore[arg-type]
        )

    def check(self, queries: jax.Array, documents: jax.Array) -> None:
        """Compare shapes with those of the vectors [Q, H] and [D, H].

        Raises:
            ValueError: they do not fit together; found and expected shape are named.
        """
        if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1]:
            raise ValueError(f"queries {queries.shape}, documents {documents.shape}; expected [Q, H] and [D, H]")
        q, width = queries.shape[0], self.groups.shape[-1]
        for name, expected in (("positives", (q,)), ("groups", (q, width)), ("scores", (q, width))):
            found = tuple(getattr(self, name).shape)
            if found != expected:
                raise ValueError(f"targets.{name} {found}; expected {expected}")
        if self.excluded.ndim != 2 or self.excluded.shape[1] != 2:
            raise ValueError(f"targets.excluded {self.excluded.shape}; expected [M, 2]")


class Loss(abc.ABC):
    """Base of all losses: a function of vectors, targets and what it learns itself.

    Attributes:
        needs_scores: whether every document of a group must have a teacher's score.
    """

    needs_scores: ClassVar[bool] = False

    def initial(self) -> dict[str, float]:
        """Scalars that are trained with the model: name to where they start."""
        return {}

    def clamp(self, learned: Learned) -> dict[str, jax.Array]:
        """What is learned, within its bounds; called after each step."""
        return dict(learned)

    def scored(self) -> bool:
        """Whether this loss, or one that it is made of, needs scores."""
        return self.needs_scores

    @abc.abstractmethod
    def __call__(
        self, queries: jax.Array, documents: jax.Array, targets: Targets, learned: Learned | None = None
    ) -> jax.Array:
        """The loss of a global batch.

        Args:
            queries: [Q, H].
            documents: [D, H].
            targets: of all queries.
            learned: as :meth:`initial` names them; their start where not given.

        Returns:
            float32 scalar: the mean over the queries.
        """

    def values(self, learned: Learned | None = None) -> dict[str, jax.Array]:
        """What is learned as float32 arrays; where it starts, if not given."""
        if learned is not None:
            return dict(learned)
        return {name: jnp.asarray(value, jnp.float32) for name, value in self.initial().items()}


class Function(Loss):
    """A plain function ``(queries, documents, targets) -> scalar`` as a loss."""

    def __init__(self, function: Callable[[jax.Array, jax.Array, Targets], jax.Array]) -> None:
        self.function = function

    def __call__(
        self, queries: jax.Array, documents: jax.Array, targets: Targets, learned: Learned | None = None
    ) -> jax.Array:
        """See :class:`Loss`."""
        return self.function(queries, documents, targets)


def as_loss(loss: Loss | Callable[[jax.Array, jax.Array, Targets], jax.Array]) -> Loss:
    """A loss as it is, or a function as a loss."""
    return loss if isinstance(loss, Loss) else Function(loss)

"""The gradient of one batch: exact over all its negatives, in the memory of one chunk of texts.

Gao, Zhang, Han and Callan, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (RepL4NLP 2021,
arXiv 2101.06983), over a mesh of devices. The loss depends on the model through the vectors alone, so a batch takes
three parts, each a compiled program:

1. ``encode``: a chunk's vectors are written into the pool of all vectors of the batch.
2. ``loss``: the loss of the batch, and its gradient with respect to the pool.
3. ``pull``: a chunk is encoded once more, with the dropout that it had, and the gradient of its vectors goes back
   through it into one float32 sum.

The rows of each chunk are split over the devices, so all of them work on each chunk. *Plain* keeps what 1 computed for
the way back instead of encoding again; what it needs grows with the batch. Parts 1 and 3 are compiled once for each
length of texts, part 2 once. The second pass must give the vectors of the first, or the gradient would be of something
else: that is compared.

Legend: P rows of the pool, R rows of a chunk, Q queries, D documents, H size of a vector.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax.numpy as jnp
from jax.sharding import Mesh

import jax
from teva_data.errors import TevaError

from .feed import Chunk, MeshBatch, Places
from .losses import Loss
from .mesh import constrain, replicated

# What is trained: {"retriever": {name: array}, "loss": {name: scalar}}.
Trained: TypeAlias = dict[str, dict[str, jax.Array]]
Frozen: TypeAlias = Mapping[str, jax.Array]
# ``(trained["retriever"], frozen, token_ids [R, T], lengths [R], key) -> float32 [R, H]``
Embed: TypeAlias = Callable[[Any, Frozen, jax.Array, jax.Array, jax.Array | None], jax.Array]

# What two passes over one chunk may differ by, relative to the vectors' norm: two programs round differently; another
# draw of dropout at 1 % is above.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}


class PassError(TevaError):
    """The second pass of gradient caching gave other vectors than the first."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """What is to be known of a batch, still on the devices.

    Attributes:
        loss: float32 scalar.
        finite: whether all vectors are finite.
        difference: of the two passes over a chunk, the largest, relative to its vectors' norm; 0 where not cached.
    """

    loss: jax.Array
    finite: jax.Array
    difference: jax.Array


class BatchGradient:
    """Sums the gradient of batches.

    Args:
        embed: the encoder.
        loss: of the vectors.
        pool: P and H.
        mesh: the devices.
        places: where the parts of what is trained lie; the sum lies there too.
        cached: encode twice and keep one chunk's activations; otherwise once, and keep those of all.
        dropout: whether the encoder draws any.
        precision: of the computation, for what the two passes may differ by.
    """

    def __init__(
        self,
        embed: Embed,
        loss: Loss,
        pool: tuple[int, int],
        mesh: Mesh,
        places: Any,
        *,
        cached: bool,
        dropout: bool = True,
        precision: str = "float32",
    ) -> None:
        self.embed, self.loss, self.shape, self.mesh = embed, loss, pool, mesh
        self.cached, self._dropout, self._most = cached, dropout, _TOLERANCE[precision]
        whole = replicated(mesh)
        self.zeros = jax.jit(lambda trained: jax.tree.map(_zero, trained), out_shardings=places)
        # What a program starts from lies as what it gives back: else the second chunk would compile it anew.
        self._empty = jax.jit(lambda: (jnp.zeros(pool, jnp.float32), jnp.float32(0)), out_shardings=(whole, whole))
        self.encode = jax.jit(self._encode, donate_argnums=2, out_shardings=whole)
        self.keep = jax.jit(self._keep, donate_argnums=2)
        self.loss_of = jax.jit(self._loss, out_shardings=(whole, whole, places["loss"], whole))
        self.pull = jax.jit(self._pull, donate_argnums=(2, 6), out_shardings=(places["retriever"], whole))
        self.pull_kept = jax.jit(self._pull_kept, donate_argnums=0, out_shardings=places["retriever"])

    def add(
        self, trained: Trained, frozen: Frozen, total: Trained, batch: MeshBatch, scale: float = 1.0
    ) -> tuple[Trained, Figures]:
        """All parts of one batch, sent to the devices; what comes back may still be being computed.

        Args:
            trained: the parameters.
            frozen: those that are not trained.
            total: the sum so far, which is used up.
            batch: over the mesh.
            scale: 1 over the number of batches whose mean the step follows.

        Returns:
            The sum, and the figures of the batch.
        """
        (pool, difference), kept = self._empty(), []
        for chunk in batch.chunks:
            if self.cached:
                pool = self.encode(trained["retriever"], frozen, pool, chunk)
            else:
                pool, back = self.keep(trained["retriever"], frozen, pool, chunk)
                kept.append(back)
        loss, gradients, of_loss, finite = self.loss_of(pool, trained["loss"], batch.places, jnp.float32(scale))
        own = total["retriever"]
        for number, chunk in enumerate(batch.chunks):
            if self.cached:
                own, difference = self.pull(trained["retriever"], frozen, own, pool, gradients, chunk, difference)
            else:
                own = self.pull_kept(own, kept[number], gradients, chunk)
                kept[number] = None
        learned = {name: value + of_loss[name] for name, value in total["loss"].items()}
        return {"retriever": own, "loss": learned}, Figures(loss, finite, difference)

    def check(self, difference: float) -> None:
        """Refuse a second pass that was not the first's.

        Raises:
            PassError: the passes differ by more than two programs' rounding.
        """
        if not difference <= self._most:  # so that NaN fails too
            raise PassError(
                "gradient caching: the second pass over a chunk of texts gave other vectors than the first (relative "
                f"difference {difference:.2g}; expected at most {self._most}). The model draws random numbers that are "
                "not its key's. Set jax.gradient_cache: false"
            )

    def compilations(self) -> dict[str, int]:
        """Programs compiled so far, by part."""
        parts: dict[str, Any] = {
            "encode": self.encode, "pull": self.pull, "keep": self.keep, "pull_kept": self.pull_kept,
        }  # fmt: skip
        return {name: part._cache_size() for name, part in {**parts, "loss": self.loss_of}.items()}

    # Programs ---------------------------------------------------------------------------------------------------------

    def _vectors(self, trained: Any, frozen: Frozen, chunk: Chunk) -> jax.Array:
        key = jax.random.wrap_key_data(chunk.key) if self._dropout else None
        return self.embed(trained, frozen, chunk.token_ids, chunk.lengths, key)

    def _encode(self, trained: Any, frozen: Frozen, pool: jax.Array, chunk: Chunk) -> jax.Array:
        return pool.at[chunk.rows].set(self._vectors(trained, frozen, chunk), mode="drop")

    def _keep(self, trained: Any, frozen: Frozen, pool: jax.Array, chunk: Chunk) -> tuple[jax.Array, Any]:
        vectors, back = jax.vjp(lambda weights: self._vectors(weights, frozen, chunk), trained)
        return pool.at[chunk.rows].set(vectors, mode="drop"), back

    def _loss(
        self, pool: jax.Array, learned: dict[str, jax.Array], places: Places, scale: jax.Array
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array], jax.Array]:
        def value(pool: jax.Array, learned: dict[str, jax.Array]) -> jax.Array:
            queries = constrain(take(pool, places.queries), ("batch", None), self.mesh)
            return self.loss(queries, take(pool, places.documents), places.targets, learned)

        loss, (gradients, of_loss) = jax.value_and_grad(value, argnums=(0, 1))(pool, learned)
        of_loss = {name: one * scale for name, one in of_loss.items()}
        return loss, gradients * scale, of_loss, jnp.isfinite(pool).all()

    def _pull(
        self,
        trained: Any,
        frozen: Frozen,
        total: Any,
        pool: jax.Array,
        gradients: jax.Array,
        chunk: Chunk,
        difference: jax.Array,
    ) -> tuple[Any, jax.Array]:
        vectors, back = jax.vjp(lambda weights: self._vectors(weights, frozen, chunk), trained)
        (own,) = back(take(gradients, chunk.rows))
        first = take(pool, chunk.rows)
        real = (chunk.rows < self.shape[0])[:, None]
        off = jnp.linalg.norm(jnp.where(real, vectors - first, 0)) / jnp.maximum(jnp.linalg.norm(first), 1e-30)
        return _sum(total, own), jnp.maximum(difference, off)

    def _pull_kept(self, total: Any, back: Any, gradients: jax.Array, chunk: Chunk) -> Any:
        (own,) = back(take(gradients, chunk.rows))
        return _sum(total, own)


def take(pool: jax.Array, rows: jax.Array) -> jax.Array:
    """Rows of an array; 0 where a row is behind its end."""
    return pool.at[rows].get(mode="fill", fill_value=0)


def _zero(value: jax.Array) -> jax.Array:
    return jnp.zeros(value.shape, jnp.float32)


def _sum(total: Any, own: Any) -> Any:
    return jax.tree.map(lambda one, more: one + more.astype(jnp.float32), total, own)

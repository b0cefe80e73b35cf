"""Matryoshka: any loss, summed over prefixes of the vectors.

Kusupati et al., "Matryoshka Representation Learning" (arXiv 2205.13147), equation 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp

import jax
from teva_jax.pooling import normalize as to_length_1

from .targets import Learned, Loss, Targets, as_loss


class Matryoshka(Loss):
    """Sum over dimensions m of weight_m times a loss of the first m numbers of every vector.

    Args:
        loss: of one dimension.
        dims: the dimensions.
        weights: one for each; 1 where not given.
        normalize: whether the vectors have length 1: then every shorter prefix is given length 1 again.

    Raises:
        ValueError: no dimensions, one below 1 or given twice, or another number of weights.
    """

    def __init__(
        self,
        loss: Loss | Callable[[jax.Array, jax.Array, Targets], jax.Array],
        dims: Sequence[int],
        weights: Sequence[float] | None = None,
        *,
        normalize: bool,
    ) -> None:
        weights = [1.0] * len(dims) if weights is None else weights
        if not dims or min(dims) < 1 or len(set(dims)) != len(dims) or len(weights) != len(dims):
            raise ValueError(f"dims {list(dims)}, weights {list(weights)}; expected distinct dims, a weight for each")
        self.loss, self.dims, self.weights, self.normalize = as_loss(loss), tuple(dims), tuple(weights), normalize

    def initial(self) -> dict[str, float]:
        """See :class:`.targets.Loss`."""
        return self.loss.initial()

    def clamp(self, learned: Learned) -> dict[str, jax.Array]:
        """See :class:`.targets.Loss`."""
        return self.loss.clamp(learned)

    def scored(self) -> bool:
        """See :class:`.targets.Loss`."""
        return self.loss.scored()

    def __call__(
        self, queries: jax.Array, documents: jax.Array, targets: Targets, learned: Learned | None = None
    ) -> jax.Array:
        """The sum, see :class:`.targets.Loss`.

        Raises:
            ValueError: a dimension is above H.
        """
        if max(self.dims) > queries.shape[1]:
            raise ValueError(f"dims {list(self.dims)}; expected at most {queries.shape[1]}, the size of the vectors")
        total = jnp.zeros((), jnp.float32)
        for dim, weight in zip(self.dims, self.weights, strict=True):
            total += weight * self.loss(self._prefix(queries, dim), self._prefix(documents, dim), targets, learned)
        return total

    def _prefix(self, vectors: jax.Array, dim: int) -> jax.Array:
        if dim == vectors.shape[1]:
            return vectors
        prefix = vectors[:, :dim].astype(jnp.float32)
        return to_length_1(prefix) if self.normalize else prefix

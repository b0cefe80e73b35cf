"""Matryoshka: any loss, summed over prefixes of the vectors.

Kusupati et al., "Matryoshka Representation Learning" (arXiv 2205.13147), equation 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .targets import Loss, Targets


class Matryoshka(nn.Module):
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
        self, loss: Loss, dims: Sequence[int], weights: Sequence[float] | None = None, *, normalize: bool
    ) -> None:
        super().__init__()
        weights = [1.0] * len(dims) if weights is None else weights
        if not dims or min(dims) < 1 or len(set(dims)) != len(dims) or len(weights) != len(dims):
            raise ValueError(f"dims {list(dims)}, weights {list(weights)}; expected distinct dims, a weight for each")
        self.loss, self.dims, self.weights, self.normalize = loss, tuple(dims), tuple(weights), normalize

    def forward(self, queries: Tensor, documents: Tensor, targets: Targets) -> Tensor:
        """The sum, see :data:`.targets.Loss`.

        Raises:
            ValueError: a dimension is above H.
        """
        if max(self.dims) > queries.shape[1]:
            raise ValueError(f"dims {list(self.dims)}; expected at most {queries.shape[1]}, the size of the vectors")
        total = queries.new_zeros((), dtype=torch.float32)
        for dim, weight in zip(self.dims, self.weights, strict=True):
            total = total + weight * self.loss(self._prefix(queries, dim), self._prefix(documents, dim), targets)
        return total

    def _prefix(self, vectors: Tensor, dim: int) -> Tensor:
        if dim == vectors.shape[1]:
            return vectors
        prefix = vectors[:, :dim].float()
        return nn.functional.normalize(prefix, dim=1) if self.normalize else prefix

"""Products of queries with tiles of a corpus on a GPU, for teva-infer's exact search (``teva_infer.products``)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import torch

from .device import choose_device


class TorchProduct:
    """Float32 products; TF32 stays off, since the search counts on float32's error.

    Args:
        queries: float32 [Q, dim].
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    """

    def __init__(self, queries: NDArray[np.float32], device: str = "auto") -> None:
        self._device = choose_device(device)
        self._queries = torch.from_numpy(queries).to(self._device)

    def above(self, tile: NDArray[Any], limits: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Scores of a tile [n, dim] above each query's limit [Q]: queries, rows (int64) and scores (float32)."""
        scores = self._product(tile)
        query, row = torch.nonzero(scores > torch.from_numpy(limits).to(self._device)[:, None], as_tuple=True)
        return query.cpu().numpy(), row.cpu().numpy(), scores[query, row].cpu().numpy()

    def greatest(self, tile: NDArray[Any], depth: int) -> NDArray[np.float32]:
        """The ``depth``-th greatest score of each query in a tile: float32 [Q]."""
        found: NDArray[np.float32] = self._product(tile).topk(depth, dim=1).values[:, -1].cpu().numpy()
        return found

    def _product(self, tile: NDArray[Any]) -> torch.Tensor:
        # A view of a mapped file may not be written to, which torch warns of: it is only read here.
        rows = torch.from_numpy(np.array(tile)).to(self._device).float()
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            return self._queries @ rows.T
        finally:
            torch.set_float32_matmul_precision(before)

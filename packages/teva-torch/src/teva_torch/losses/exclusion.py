"""Which pairs the sums of :mod:`.tiled` leave out, written into a tile at a time and never as a matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from .targets import Targets


class ListedPairs:
    """Leaves out pairs that are listed.

    Args:
        pairs: int64 [P, 2], (row, column), in any order, any pair several times.
        side: side of the tiles.
        columns: columns of the whole matrix.
    """

    def __init__(self, pairs: Tensor, side: int, columns: int) -> None:
        across = -(-columns // side)
        tiles, order = (pairs[:, 0] // side * across + pairs[:, 1] // side).sort()
        self._within = (pairs[order] % side).unbind(dim=1)
        self._side, self._across = side, across
        numbers, counts = torch.unique_consecutive(tiles, return_counts=True)  # type: ignore[no-untyped-call]
        ends = counts.cumsum(0)
        # One transfer for all tiles: a GPU is not waited for at each of them.
        places = torch.stack([numbers, ends - counts, ends]).tolist()
        self._places = {number: slice(start, end) for number, start, end in zip(*places, strict=True)}

    def __call__(self, tile: Tensor, rows: slice, columns: slice) -> None:
        """Write -inf at the listed pairs of a tile."""
        number = rows.start // self._side * self._across + columns.start // self._side
        if (place := self._places.get(number)) is not None:
            row, column = self._within
            tile[row[place], column[place]] = -torch.inf


class OtherQueries:
    """Leaves out queries that a document's own query shares it with: rows are own queries, columns all queries.

    Query j is left out for own query i where i's positive is a positive of j, or (``both``) j's is one of i; so is i
    itself. Which positives a query has beside the one in the batch is what its excluded columns say.

    Args:
        targets: with ``all_positives`` and ``all_excluded``.
        documents: D.
        both: see above.

    Raises:
        ValueError: the targets do not have them.
    """

    def __init__(self, targets: Targets, documents: int, *, both: bool) -> None:
        if targets.all_positives is None or targets.all_excluded is None:
            raise ValueError(
                "targets.all_positives and targets.all_excluded are missing; the directions document_to_query and "
                "query_to_query need those of all queries of the global batch"
            )
        self._own, self._all = targets.positives, targets.all_positives
        self._first, self._documents, self._both = targets.own[0], documents, both
        self._keys = (targets.all_excluded[:, 0] * documents + targets.all_excluded[:, 1]).sort().values

    def __call__(self, tile: Tensor, rows: slice, columns: slice) -> None:
        """Write -inf at the pairs of a tile."""
        own, other = self._own[rows, None], self._all[None, columns]
        out = own == other
        if len(self._keys):
            number = torch.arange(columns.start, columns.stop, device=tile.device)
            out |= self._excluded(number[None] * self._documents + own)
            if self._both:
                number = torch.arange(rows.start, rows.stop, device=tile.device) + self._first
                out |= self._excluded(number[:, None] * self._documents + other)
        tile.masked_fill_(out, -torch.inf)

    def _excluded(self, keys: Tensor) -> Tensor:
        """Whether (query, column), as one number each, is in the list."""
        place = torch.searchsorted(self._keys, keys).clamp_(max=len(self._keys) - 1)
        return self._keys[place] == keys

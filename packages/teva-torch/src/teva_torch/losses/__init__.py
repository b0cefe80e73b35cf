"""Losses: functions of vectors and targets, one a file, each with a numpy oracle in ``tests/reference``.

Legend of all of them: Q queries and D documents of the global batch, q own queries, n listed negatives, M excluded
pairs, H hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from teva_data.plan import Batch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Targets:
    """What a process's own queries are to be near to, and far from.

    A loss is a callable ``loss(queries, documents, targets)`` of queries [Q, H] and documents [D, H], both of the whole
    global batch. It gives a float32 scalar: the sum over the own queries divided by Q, so that the sum over processes
    is the mean over the global batch. Gradients reach all queries and all documents.

    Attributes:
        own: first (included) and last (not included) own query in the global batch; q is their difference.
        positives: int64 [q], the column (row of the documents) of each own query's positive.
        groups: int64 [q, 1 + n], columns of each own query's positive and of its own listed negatives, -1 for none.
        scores: float32 [q, 1 + n], the teacher's scores of the groups, NaN for none.
        excluded: int64 [M, 2], pairs (own query, counted from 0; column) that are neither positive nor negative.
    """

    own: tuple[int, int]
    positives: Tensor
    groups: Tensor
    scores: Tensor
    excluded: Tensor

    @classmethod
    def of(cls, batch: Batch, device: torch.device | str) -> Targets:
        """The targets of a process's part of a global batch, on a device."""
        return cls(
            own=batch.query_range,
            positives=torch.from_numpy(batch.positives).to(device),
            groups=torch.from_numpy(batch.groups).to(device),
            scores=torch.from_numpy(batch.scores).to(torch.float32).to(device),
            excluded=torch.from_numpy(batch.excluded).to(device),
        )

"""What a loss is told beside the vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from teva_data.plan import Batch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Targets:
    """What a process's own queries are to be near to, and far from.

    Attributes:
        own: first (included) and last (not included) own query in the global batch; q is their difference.
        positives: int64 [q], the column (row of the documents) of each own query's positive.
        groups: int64 [q, 1 + n], columns of each own query's positive and of its own listed negatives, -1 for none.
        scores: float32 [q, 1 + n], the teacher's scores of the groups, NaN for none.
        excluded: int64 [M, 2], pairs (own query, counted from 0; column) that are neither positive nor negative.
        all_positives: int64 [Q], the positives of all queries of the global batch. Only losses that compare with
            other queries want it and the next.
        all_excluded: int64 [N, 2], pairs (query of the global batch, column) that are neither positive nor negative.
    """

    own: tuple[int, int]
    positives: Tensor
    groups: Tensor
    scores: Tensor
    excluded: Tensor
    all_positives: Tensor | None = None
    all_excluded: Tensor | None = None

    @classmethod
    def of(cls, batch: Batch, device: torch.device | str) -> Targets:
        """The targets of a process's part of a global batch, on a device."""
        return cls(
            own=batch.query_range,
            positives=torch.from_numpy(batch.positives).to(device),
            groups=torch.from_numpy(batch.groups).to(device),
            scores=torch.from_numpy(batch.scores).to(torch.float32).to(device),
            excluded=torch.from_numpy(batch.excluded).to(device),
            all_positives=torch.from_numpy(batch.all_positives).to(device),
            all_excluded=torch.from_numpy(batch.all_excluded).to(device),
        )

    def check(self, queries: Tensor, documents: Tensor) -> None:
        """Compare shapes with those of the vectors [Q, H] and [D, H].

        Raises:
            ValueError: they do not fit together; found and expected shape are named.
        """
        q = self.own[1] - self.own[0]
        width = self.groups.shape[-1]
        if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1]:
            raise ValueError(
                f"queries {tuple(queries.shape)}, documents {tuple(documents.shape)}; expected [Q, H] and [D, H]"
            )
        if not 0 <= self.own[0] <= self.own[1] <= len(queries):
            raise ValueError(f"own queries {self.own}; expected a part of 0 to {len(queries)}")
        for name, expected in (("positives", (q,)), ("groups", (q, width)), ("scores", (q, width))):
            found = tuple(getattr(self, name).shape)
            if found != expected:
                raise ValueError(f"targets.{name} {found}; expected {expected}")
        if self.excluded.ndim != 2 or self.excluded.shape[1] != 2:
            raise ValueError(f"targets.excluded {tuple(self.excluded.shape)}; expected [M, 2]")
        if self.all_positives is not None and self.all_positives.shape != queries.shape[:1]:
            raise ValueError(f"targets.all_positives {tuple(self.all_positives.shape)}; expected ({len(queries)},)")


Loss: TypeAlias = Callable[[Tensor, Tensor, Targets], Tensor]
"""``loss(queries [Q, H], documents [D, H], targets)``, both of the whole global batch: a float32 scalar, the sum over
the own queries divided by Q, so that the sum over processes is the mean over the global batch. Gradients reach all
queries and all documents."""

"""Grouping sequences of like length, so that little is spent on padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def token_batches(
    lengths: Sequence[int] | NDArray[np.integer], max_tokens: int, max_rows: int | None = None
) -> list[NDArray[np.int64]]:
    """Split sequences into batches of like length, longest first.

    Longest first, so that a batch that does not fit in memory fails at once and not after hours.

    Args:
        lengths: tokens of each sequence [N].
        max_tokens: bound on rows times longest of a batch, padding included; one sequence longer than it is a batch.
        max_rows: bound on the rows of a batch.

    Returns:
        Arrays of positions (int64) that together hold 0..N-1 once each; sequences of one length keep their order.

    >>> [batch.tolist() for batch in token_batches([3, 9, 4, 2], max_tokens=10)]
    [[1], [2, 0], [3]]
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        rows = max(1, max_tokens // max(1, int(sizes[order[start]])))
        rows = min(rows, max_rows) if max_rows else rows
        batches.append(order[start : start + rows])
        start += rows
    return batches

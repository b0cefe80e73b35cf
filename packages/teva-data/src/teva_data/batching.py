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


def least_work_batches(
    lengths: Sequence[int] | NDArray[np.integer], max_tokens: int, pass_tokens: int, max_rows: int | None = None
) -> list[NDArray[np.int64]]:
    """Split sequences into batches of like length so that padding and passes together cost least; longest first.

    :func:`token_batches` fills each batch to its bound, whatever padding that takes. Here padding is weighed against
    what another pass through a model costs by itself. The best cuts of the sorted lengths, found by dynamic programming
    over where the last batch begins: O(N x rows of a batch).

    Args:
        lengths: tokens of each sequence [N].
        max_tokens: bound on rows times longest of a batch; one sequence longer than it is a batch.
        pass_tokens: what a pass costs beside its tokens, in tokens.
        max_rows: bound on the rows of a batch.

    Returns:
        As :func:`token_batches`.

    >>> [batch.tolist() for batch in least_work_batches([3, 90, 4, 2], max_tokens=1000, pass_tokens=64)]
    [[1], [2, 0, 3]]
    """
    sizes = np.maximum(np.asarray(lengths, dtype=np.int64), 1)
    order = np.argsort(-sizes, kind="stable")
    longest, count = sizes[order], len(sizes)
    least = np.zeros(count + 1)
    begins = np.zeros(count + 1, dtype=np.int64)
    first = 0  # the earliest beginning of a batch that ends here and keeps to the bound
    for end in range(1, count + 1):
        first = max(first, end - (max_rows or end))
        while first < end - 1 and (end - first) * longest[first] > max_tokens:
            first += 1
        starts = np.arange(first, end)
        work = least[starts] + (end - starts) * longest[starts]
        begins[end] = starts[np.argmin(work)]
        least[end] = work.min() + pass_tokens
    batches, end = list[NDArray[np.int64]](), count
    while end:
        batches.append(order[begins[end] : end])
        end = int(begins[end])
    return batches[::-1]

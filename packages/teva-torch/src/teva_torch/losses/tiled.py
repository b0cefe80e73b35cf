"""Sums over all pairs of two sets of vectors, in memory that is linear in their number.

The matrix of similarities is never whole: one tile of it is computed at a time, forward with a running maximum and sum
(Milakov and Gimelshein, "Online normalizer calculation for softmax", arXiv 1805.02867; Cheng et al., "Breaking the
Memory Barrier: Near Infinite Batch Size Scaling for Contrastive Loss", arXiv 2410.17243), backward once more from the
vectors. All of it in float32, whatever autocast and the precision of matrix products are set to: at temperature 0.01
the step between two neighbouring bfloat16 numbers near 0.7 would be 0.4 in the logit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor

FLOOR = -1e30
"""The log of an empty sum: finite, so that no gradient of it is NaN, and 0 in any sum it is added to."""

LeaveOut: TypeAlias = Callable[[Tensor, slice, slice], None]
"""Writes -inf into a tile (rows ``rows``, columns ``columns`` of the matrix) where a pair is left out."""


def tile_side(tile: int | None, device: torch.device) -> int:
    """Side of the square tiles on a device: ``tile``, or a good default.

    1 MiB of it fits a core's cache; a GPU wants fewer and larger products.

    Raises:
        ValueError: it is below 1.
    """
    side = (512 if device.type == "cpu" else 4096) if tile is None else tile
    if side < 1:
        raise ValueError(f"tile {side}; expected at least 1")
    return side


def log_sum_exp(
    rows: Tensor, columns: Tensor, leave_out: LeaveOut, *, limit: Tensor | None = None, tile: int | None = None
) -> Tensor:
    """For each row, log of the sum over columns of exp(row . column).

    Args:
        rows: float32 [R, H].
        columns: float32 [C, H].
        leave_out: the pairs that the sums leave out.
        limit: float32 [R]; pairs above their row's limit are left out too. No gradient goes through it.
        tile: side of a tile; see :func:`tile_side`.

    Returns:
        float32 [R]; ``FLOOR`` where a row has no pair left.
    """
    side = tile_side(tile, rows.device)
    result: Tensor = _LogSumExp.apply(rows, columns, leave_out, limit, side)  # type: ignore[no-untyped-call]
    return result


def group_similarity(queries: Tensor, documents: Tensor, groups: Tensor) -> Tensor:
    """Dot products of each query with its own few documents.

    Args:
        queries: float32 [q, H].
        documents: float32 [D, H].
        groups: int64 [q, G], rows of ``documents``; -1 for none.

    Returns:
        float32 [q, G], 0 where there is none.
    """
    result: Tensor = _GroupSimilarity.apply(queries, documents, groups)  # type: ignore[no-untyped-call]
    return result


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Within it products of float32 matrices are float32 throughout: no autocast, no TF32, no bfloat16 passes."""
    # Not torch.get_float32_matmul_precision, which raises where somebody has set the two below.
    backends: Any = torch.backends
    settings = (backends.cuda.matmul, backends.mkldnn.matmul)
    before = [setting.fp32_precision for setting in settings]
    for setting in settings:
        setting.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, columns: Tensor, leave_out: LeaveOut, limit: Tensor | None, side: int
    ) -> Tensor:
        top, total = rows.new_full((len(rows),), FLOOR), rows.new_zeros(len(rows))
        with full_precision(rows.device):
            for r, _, tile in _tiles(rows, columns, leave_out, limit, side):
                peak = torch.maximum(top[r], tile.amax(dim=1))
                total[r] = total[r] * (top[r] - peak).exp() + tile.sub_(peak[:, None]).exp_().sum(dim=1)
                top[r] = peak
        result = (top + total.log()).clamp_(min=FLOOR)
        ctx.save_for_backward(rows, columns, limit, result)
        ctx.leave_out, ctx.side = leave_out, side
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, columns, limit, result = ctx.saved_tensors
        of_rows = torch.zeros_like(rows) if ctx.needs_input_grad[0] else None
        of_columns = torch.zeros_like(columns) if ctx.needs_input_grad[1] else None
        with full_precision(rows.device):
            for r, c, tile in _tiles(rows, columns, ctx.leave_out, limit, ctx.side):
                # The derivative of log sum exp is the softmax, that of a pair which is left out 0.
                tile.sub_(result[r, None])
                if limit is not None:
                    # A pair at its very limit may fall on the other side of it when its tile is computed again; it
                    # then stands in no sum, and its share of that sum would have no bound.
                    tile.clamp_(max=0)
                tile.exp_().mul_(gradient[r, None])
                if of_rows is not None:
                    of_rows[r].addmm_(tile, columns[c])
                if of_columns is not None:
                    of_columns[c].addmm_(tile.T, rows[r])
        return of_rows, of_columns, None, None, None


def _tiles(
    rows: Tensor, columns: Tensor, leave_out: LeaveOut, limit: Tensor | None, side: int
) -> Iterator[tuple[slice, slice, Tensor]]:
    """The matrix of dot products tile by tile, all in one buffer; -inf where a pair is left out."""
    buffer = rows.new_empty(min(side, len(rows)) * min(side, len(columns)))
    for r in _slices(len(rows), side):
        for c in _slices(len(columns), side):
            shape = (r.stop - r.start, c.stop - c.start)
            tile = buffer[: shape[0] * shape[1]].view(shape)
            torch.mm(rows[r], columns[c].T, out=tile)
            if limit is not None:
                tile.masked_fill_(tile > limit[r, None], -torch.inf)
            leave_out(tile, r, c)
            yield r, c, tile


class _GroupSimilarity(torch.autograd.Function):
    # A gather under autograd would keep [q, G, H], a second copy of the documents.

    @staticmethod
    def forward(ctx: Any, queries: Tensor, documents: Tensor, groups: Tensor) -> Tensor:
        ctx.save_for_backward(queries, documents, groups)
        result = queries.new_zeros(groups.shape)
        with full_precision(queries.device):
            for place in range(groups.shape[1]):
                own, there = groups[:, place], groups[:, place] >= 0
                result[:, place] = (queries * documents[own.clamp(min=0)]).sum(dim=1).where(there, 0)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, documents, groups = ctx.saved_tensors
        of_queries = torch.zeros_like(queries) if ctx.needs_input_grad[0] else None
        of_documents = torch.zeros_like(documents) if ctx.needs_input_grad[1] else None
        for place in range(groups.shape[1]):
            own = groups[:, place].clamp(min=0)
            weight = gradient[:, place, None].where(groups[:, place, None] >= 0, 0)
            if of_queries is not None:
                of_queries.addcmul_(weight, documents[own])
            if of_documents is not None:
                of_documents.index_add_(0, own, weight * queries)
        return of_queries, of_documents, None


def _slices(count: int, side: int) -> Iterator[slice]:
    return (slice(start, min(start + side, count)) for start in range(0, count, side))

"""What stops a run, in words that help: numbers that are not finite, memory that does not suffice."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from teva_data.errors import TevaError
from teva_data.feed import TokenBatch
from torch import Tensor

from .losses import Targets

if TYPE_CHECKING:
    from .caching import Passes

_NAMED = 8
_ADVICE = "Lower train.learning_rate, or use train.precision float32. The newest checkpoint is kept"


class TrainingError(TevaError):
    """Training cannot go on."""


def expect_finite(item: TokenBatch, queries: Tensor, documents: Tensor) -> None:
    """Refuse vectors that are not finite, by the ids of their texts.

    Args:
        item: the batch.
        queries: [q, H], of the own queries.
        documents: [d, H], of the own documents.

    Raises:
        TrainingError: some are not.
    """
    # One number first: naming the texts is for the bad case.
    if not (bool(queries.isfinite().all()) and bool(documents.isfinite().all())):
        named = []
        for role, vectors, ids in (
            ("queries", queries, [query.query_id for query in item.batch.queries]),
            ("documents", documents, [document.docid for document in item.batch.documents]),
        ):
            bad = (~vectors.isfinite().all(dim=1)).nonzero().flatten().tolist() if len(ids) else []
            if bad:
                named.append(f"{len(bad)} of {len(ids)} {role} ({_list([ids[row] for row in bad])})")
        raise TrainingError(f"the vectors of {' and '.join(named)} are not finite. {_ADVICE}")


def check_loss(loss: object) -> None:
    """Refuse what is no loss, which a loss of one's own may give.

    Raises:
        TrainingError: it is not one number that depends on the vectors.
    """
    expected = "one number: the sum over the own queries, divided by the number of all queries (docs/extend/loss.md)"
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = f"a tensor {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TrainingError(f"the loss gave {found}; expected {expected}")
    if not loss.requires_grad:
        raise TrainingError("the loss has no gradient: nothing in it depends on the vectors. Was it detached?")


def loss_not_finite(
    value: float,
    item: TokenBatch,
    loss: Callable[[Tensor, Tensor, Targets], Tensor],
    queries: Tensor,
    documents: Tensor,
    targets: Targets,
) -> TrainingError:
    """The error for a loss that is not finite, with the queries whose own share of it is not."""
    ids = [query.query_id for query in item.batch.queries]
    bad = []
    with torch.no_grad():
        for row, name in enumerate(ids):
            if not bool(loss(queries, documents, _alone(targets, row)).isfinite()):
                bad.append(name)
    return TrainingError(f"the loss is {value}; queries {_list(bad or ids)}. {_ADVICE}")


def gradient_not_finite(step: int, norm: float, item: TokenBatch) -> TrainingError:
    """The error for a gradient that is not finite; no single query can be named."""
    ids = [query.query_id for query in item.batch.queries]
    return TrainingError(f"step {step + 1}: the norm of the gradient is {norm}; queries {_list(ids)}. {_ADVICE}")


@contextlib.contextmanager
def memory(phase: str, item: TokenBatch, passes: Passes) -> Iterator[None]:
    """Turn an error of too little memory into one that names the settings which would help most.

    Raises:
        TrainingError: in its place.
    """
    try:
        yield
    except RuntimeError as error:
        # A CPU has no error type of its own for it.
        if not isinstance(error, torch.OutOfMemoryError) and "not enough memory" not in str(error):
            raise
        raise TrainingError(
            f"out of memory in {phase}, {_size(item)}. Would help most: {'; '.join(_help(phase, item, passes))}. The "
            "newest checkpoint is kept"
        ) from error


def _help(phase: str, item: TokenBatch, passes: Passes) -> list[str]:
    batch = item.batch
    if phase == "the loss":
        texts = batch.query_count + batch.document_count
        return [f"a lower train.batch_size or data.negatives (every process holds the vectors of all {texts:,} texts)"]
    if phase == "the optimiser":
        return ["a smaller model"]
    longest = max(map(len, [*item.query_ids, *item.document_ids]), default=0)
    most = []
    if not passes.cached:
        most.append(
            f"torch.gradient_cache true (keeps the activations of {passes.chunk_tokens:,} tokens instead of the "
            f"batch's {item.tokens:,})"
        )
    elif passes.chunk_tokens > longest:
        most.append(f"torch.chunk_tokens {max(longest, passes.chunk_tokens // 2)} (now {passes.chunk_tokens})")
    else:
        most.append(f"a lower model.document_max_length (one text of {longest} tokens is a chunk by itself)")
    if passes.precision == torch.float32:
        most.append("train.precision bfloat16")
    if not passes.cached:
        most.append("a lower train.batch_size, data.negatives or model.document_max_length")
    return most


def _size(item: TokenBatch) -> str:
    queries, documents = len(item.query_ids), len(item.document_ids)
    return f"{queries:,} queries and {documents:,} documents of {item.tokens:,} tokens"


def _alone(targets: Targets, row: int) -> Targets:
    """The targets of one own query."""
    only, start = slice(row, row + 1), targets.own[0] + row
    excluded = targets.excluded[targets.excluded[:, 0] == row].clone()
    excluded[:, 0] = 0
    return dataclasses.replace(
        targets, own=(start, start + 1), positives=targets.positives[only], groups=targets.groups[only],
        scores=targets.scores[only], excluded=excluded,
    )  # fmt: skip


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")

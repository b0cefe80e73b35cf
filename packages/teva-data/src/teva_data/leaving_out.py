"""Records with a picture that cannot be read: an error, or left out of their batch.

The plan knows nothing of it, so the batches are the same with and without. What is left out of a batch is left out of
its loss: a document is nobody's negative, and a query goes where it or its positive is bad. Until then one token stands
in such a record's place, so that the parts of a batch keep their sizes.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .errors import MediaError
from .inputs import PieceTokens, load_media, media_of
from .pieces import Media
from .plan import Batch
from .rendering import Renderer

_TRIED = 64  # inputs whose pictures are in memory together where they are not kept


def read_inputs(
    renderer: Renderer,
    texts: Sequence[str],
    max_length: int | None = None,
    *,
    workers: int = 1,
    bad: dict[int, MediaError] | None = None,
    keep: bool = True,
) -> list[list[int]]:
    """Token ids of rendered texts, with their pictures decoded.

    Args:
        renderer: of the model.
        texts: as the renderer renders them.
        max_length: as in :meth:`Renderer.tokenize`.
        workers: threads that decode.
        bad: gets the positions of texts with a picture that cannot be read, and why; their ids are one token of
            padding. Where not given, the first of them is an error.
        keep: the decoded pictures; otherwise they are decoded to see whether they can be, where ``bad`` is given.

    Raises:
        MediaError: a picture cannot be read, and ``bad`` is not given.
        DataError: the pictures of a text are more tokens than it may have.
    """
    ids = tokenized(renderer, texts, max_length, bad)
    if bad is None:
        if keep:
            load_media(ids, workers)
        return ids
    failed: dict[Media, MediaError] = {}
    if keep:
        load_media(ids, workers, failed)
    for start in range(0, 0 if keep else len(ids), _TRIED):
        load_media([_bare(each) for each in ids[start : start + _TRIED]], workers, failed)
    for at, each in enumerate(ids):
        for media in media_of(each):
            if media in failed:
                bad.setdefault(at, failed[media])
                ids[at] = _stand_in(renderer)
    return ids


def tokenized(
    renderer: Renderer, texts: Sequence[str], max_length: int | None, bad: dict[int, MediaError] | None
) -> list[list[int]]:
    """Token ids of rendered texts, pictures not decoded; arguments and errors are those of :func:`read_inputs`."""
    try:
        return renderer.tokenize(texts, max_length)
    except MediaError:
        if bad is None:
            raise
    found = []
    for at, text in enumerate(texts):
        try:
            found += renderer.tokenize([text], max_length)
        except MediaError as error:
            bad[at] = error
            found.append(_stand_in(renderer))
    return found


def _bare(ids: Sequence[int]) -> Sequence[int]:
    """The same input; what is decoded for it is not kept by the given one."""
    return PieceTokens(list(map(copy.copy, ids.parts))) if isinstance(ids, PieceTokens) else copy.copy(ids)


def _stand_in(renderer: Renderer) -> list[int]:
    return [renderer.tokenizer.pad_token_id or 0]


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """What is left of a global batch.

    Attributes:
        batch: the batch without the others; its queries and documents are counted anew.
        queries: int64 [Q'], the places of its queries in the whole batch.
        documents: int64 [D'], of its documents.
    """

    batch: Batch
    queries: NDArray[np.int64]
    documents: NDArray[np.int64]


def without(batch: Batch, queries: NDArray[np.bool_], documents: NDArray[np.bool_]) -> Kept:
    """A batch without some of its queries and documents, and without the queries whose positive is among these.

    Args:
        batch: one process's part of a global batch.
        queries: bool [Q], True of those to leave out.
        documents: bool [D].
    """
    stay = ~queries & ~documents[batch.all_positives]
    row, column = _numbers(stay), _numbers(~documents)
    own = stay[slice(*batch.query_range)]
    held = ~documents[slice(*batch.document_range)]
    own_row = _numbers(own)

    def pairs(found: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        moved = np.stack([rows[found[:, 0]], column[found[:, 1]]], axis=1)
        return moved[(moved >= 0).all(axis=1)]

    groups = np.where(batch.groups >= 0, column[batch.groups], -1)[own]
    kept = dataclasses.replace(
        batch,
        queries=[query for query, stays in zip(batch.queries, own, strict=True) if stays],
        documents=[document for document, stays in zip(batch.documents, held, strict=True) if stays],
        document_prompts=[prompt for prompt, stays in zip(batch.document_prompts, held, strict=True) if stays],
        query_range=_span(stay, batch.query_range), document_range=_span(~documents, batch.document_range),
        query_count=int(stay.sum()), document_count=int((~documents).sum()),
        positives=column[batch.positives[own]], groups=groups, scores=np.where(groups >= 0, batch.scores[own], np.nan),
        excluded=pairs(batch.excluded, own_row), dataset=batch.dataset[own],
        all_positives=column[batch.all_positives[stay]], all_excluded=pairs(batch.all_excluded, row),
    )  # fmt: skip
    return Kept(kept, np.flatnonzero(stay), np.flatnonzero(~documents))


def _numbers(stay: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The new number of each place; -1 of those that go."""
    return np.where(stay, np.cumsum(stay) - 1, -1)


def _span(stay: NDArray[np.bool_], span: tuple[int, int]) -> tuple[int, int]:
    return int(stay[: span[0]].sum()), int(stay[: span[1]].sum())

"""Records of several pieces as one vector: pieces in one sequence, the mean of the pieces' vectors, or the first alone.

Which of them is best for documents of text and pictures is open (Ma et al., "Tevatron 2.0", arXiv 2505.02466, leave it
to later work): ``model.merging`` chooses, and the artifact carries the choice in its ``config.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import DataError
from .inputs import PLACE, PieceTokens, Rendered, RenderedPieces
from .pieces import Media, Piece
from .records import join_title

Merging = Literal["sequence", "mean", "first"]


def rendered(prompt: str, title: str, pieces: Sequence[Piece], merging: Merging, *, apart: bool) -> str:
    """A record of several pieces whose pieces are inputs of their own.

    Prompt and title stand before every piece. Where pictures are inputs ``apart`` nothing can stand before them: there
    the title goes before every text, and is a piece of its own where there is no text (but not the first, where that
    stands for all).

    Args:
        prompt: as it is to stand.
        title: likewise.
        pieces: in order; at least one.
        merging: what is made of them.
        apart: whether the model takes a picture alone.

    Returns:
        The one piece, where only one is left; else :class:`RenderedPieces`.

    Raises:
        DataError: several pieces that are to be one sequence, which the model does not read.
    """
    parts: list[str] = []
    pieces = [piece for piece in pieces if isinstance(piece, Media) or piece.strip()] or pieces[:1]
    if apart and title and merging != "first" and not any(isinstance(piece, str) for piece in pieces):
        parts.append(prompt + title)
    for piece in pieces:
        before = "" if apart and isinstance(piece, Media) else prompt
        if isinstance(piece, str):
            parts.append(before + join_title(title, piece))
        else:
            parts.append(Rendered(PLACE if apart else before + join_title(title, PLACE), (piece,)))
    if merging == "sequence" and len(parts) > 1:
        seen = next(piece for piece in pieces if isinstance(piece, Media))
        raise DataError(
            "several pieces for a model that reads a text or a picture", file=seen.path, found=f"{len(parts)} pieces",
            expected="one text or one picture", hint="Set model.merging: mean, or first",
        )  # fmt: skip
    return parts[0] if merging == "first" or len(parts) == 1 else RenderedPieces(parts)


def spread(inputs: Sequence[Any]) -> tuple[list[Any], NDArray[np.int64]]:
    """Inputs with the pieces of each in its place.

    Args:
        inputs: N rendered texts or token ids; :class:`RenderedPieces` or :class:`PieceTokens` among them.

    Returns:
        M inputs, and int64 [M]: which of the N each belongs to.
    """
    several = (PieceTokens, RenderedPieces)
    pairs = [
        (part, at) for at, each in enumerate(inputs) for part in (each.parts if isinstance(each, several) else (each,))
    ]
    return [part for part, _ in pairs], np.array([at for _, at in pairs], dtype=np.int64)


def mean(vectors: NDArray[np.float32], owners: NDArray[np.int64], *, normalize: bool) -> NDArray[np.float32]:
    """The mean of the vectors that belong together.

    Args:
        vectors: float32 [M, H].
        owners: int64 [M], ascending, without a gap: see :func:`spread`.
        normalize: whether the mean gets length 1.

    Returns:
        float32 [N, H].
    """
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    counts = np.diff(np.append(starts, len(owners)))
    means = np.add.reduceat(vectors, starts) / counts[:, None].astype(np.float32)
    if normalize:
        # A single vector is left as it is, to the bit; pieces that cancel out are named by whoever stores them.
        lengths = np.where(counts > 1, np.linalg.norm(means, axis=1), 1)[:, None]
        means = np.divide(means, lengths, out=np.zeros_like(means), where=lengths != 0)
    return means.astype(np.float32, copy=False)

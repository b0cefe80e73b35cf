"""The parity gate: the vectors of a saved artifact, by every runtime at hand, against those of the trained model.

Here is what all trainers share: which texts are compared, and what passes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import TevaError
from .plan import BatchPlan
from .records import join_title
from .rendering import Renderer

logger = logging.getLogger(__name__)
Vectors = NDArray[np.float32]


class ParityError(TevaError):
    """A runtime's vectors are not the trained ones."""


def sample_texts(plan: BatchPlan, renderer: Renderer, size: int = 16) -> dict[str, list[str]]:
    """Queries and documents to compare: up to ``size`` of each from the first steps of training, which every dataset
    of the plan has its share of, and one of each that the limit cuts.
    """
    queries, documents = dict[str, None](), dict[str, None]()
    for step in range(size):
        batch = plan.batch(step)
        queries |= dict.fromkeys(query.query_text for query in batch.queries)
        documents |= dict.fromkeys(join_title(each.title, each.document_text) for each in batch.documents)
        if len(queries) >= size <= len(documents):
            break
    # Later steps than the run has may hold what has no text; the first ones, which it has been through, do not.
    samples = {"query": [*filter(str.strip, queries)][:size], "document": [*filter(str.strip, documents)][:size]}
    # Of a corpus of pictures alone there is no text to take.
    samples = {role: texts or _STOCK[role] for role, texts in samples.items()}
    return {role: [*texts, _too_long(texts, renderer)] for role, texts in samples.items()}


def stock_texts(renderer: Renderer) -> dict[str, list[str]]:
    """Queries and documents to compare where there is no data: several scripts and lengths, one of each cut."""
    return {role: [*texts, _too_long(texts, renderer)] for role, texts in _STOCK.items()}


_STOCK = {
    "query": [
        "how do I reset a forgotten password",
        "capital of Peru",
        "¿qué es la fotosíntesis?",
        "地震の原因",
        "C++ vs. Rust?",
    ],
    "document": [
        "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
        "Lima is the capital and the largest city of Peru. It lies on the Pacific coast.",
        "Das Passwort lässt sich auf der Anmeldeseite zurücksetzen; eine E-Mail führt durch die Schritte.",
        "地震は、地下の岩盤がずれ動くことで起こる。",
        "x",
        "  Numbers such as 3.14159, 1,000,000 and 0xFF;\ttabs, \n new lines and   spaces.  ",
    ],
}


def _too_long(texts: list[str], renderer: Renderer) -> str:
    """The texts over and over, until the limit cuts."""
    text = " ".join(texts)[: 16 * renderer.max_length]
    while len(renderer.tokenize([text])[0]) < renderer.max_length:
        text = f"{text} {text}"
    return f"{text} {text}"


def rendered(texts: Mapping[str, list[str]], renderer: Renderer) -> list[list[int]]:
    """Token ids of sampled texts, the queries first."""
    found = [renderer.query(text) for text in texts["query"]]
    return renderer.tokenize(found + [renderer.document(text) for text in texts["document"]])


def gate(
    expected: Vectors,
    found: Mapping[str, tuple[str, Vectors]],
    threshold: float,
    *,
    key: str,
    base: Vectors | None = None,
) -> dict[str, Any]:
    """Refuse an artifact that some runtime gives other vectors for.

    Args:
        expected: the trained model's vectors [N, H].
        found: of each runtime, its version and its vectors for the artifact.
        threshold: the smallest cosine that passes.
        key: the recipe's key of the threshold, for the message.
        base: of a model with an adapter, the vectors without it.

    Returns:
        For each runtime: texts compared, smallest cosine, largest absolute difference, version.

    Raises:
        ParityError: a cosine below ``threshold``; of a model with an adapter, vectors nearer to those without it.
    """
    figures = {name: {"version": version, **compare(expected, each)} for name, (version, each) in found.items()}
    for runtime, figure in figures.items():
        logger.info(
            "parity: %s: smallest cosine %.7f, largest difference %.1e over %d texts",
            runtime, figure["min_cosine"], figure["max_difference"], figure["texts"],
        )  # fmt: skip
        if not figure["min_cosine"] >= threshold:  # so that NaN fails too
            raise ParityError(
                f"{runtime} gives other vectors for the exported model: smallest cosine {figure['min_cosine']:.6f}; "
                f"expected at least {threshold} ({key})"
            )
        if base is not None:
            _expect_adapted(runtime, found[runtime][1], expected, base)
    return figures


def _expect_adapted(runtime: str, found: Vectors, trained: Vectors, base: Vectors) -> None:
    """Few steps move a vector by less than any threshold on the cosine would see: a lost adapter must be told still."""
    if not (trained != base).any():
        raise ParityError("the adapter changes no vector: nothing was learnt. Raise train.learning_rate or train.steps")
    if np.linalg.norm(found - trained) >= np.linalg.norm(found - base):
        raise ParityError(f"{runtime} gives the vectors of the model without its adapter for the exported one")


def expect_same(what: str, found: Vectors, expected: Vectors, threshold: float) -> None:
    """Refuse vectors [N, H] that are not those expected.

    Raises:
        ParityError: a cosine below ``threshold``.
    """
    least = compare(expected, found)["min_cosine"]
    if not least >= threshold:
        raise ParityError(f"{what} gives other vectors: smallest cosine {least:.6f}; expected at least {threshold}")


def compare(expected: Vectors, found: Vectors) -> dict[str, Any]:
    """Smallest cosine and largest absolute difference of two arrays [N, H] of vectors."""
    if expected.shape != found.shape:
        raise ParityError(f"vectors of shape {found.shape}; expected {expected.shape}")
    left, right = expected.astype(np.float64), found.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return {
        "texts": len(expected),
        "min_cosine": float(((left * right).sum(axis=1) / norms).min()),
        "max_difference": float(np.abs(left - right).max()),
    }

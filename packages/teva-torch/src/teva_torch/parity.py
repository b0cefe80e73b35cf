"""The parity gate: the vectors of the saved artifact, by every runtime at hand, against those of the trained model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import torch
from teva_data.artifact import Artifact
from teva_data.errors import TevaError
from teva_data.plan import BatchPlan
from teva_data.records import join_title
from teva_data.rendering import Renderer

from .engine import TorchEngine
from .lora import is_adapted
from .model import Retriever

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
    return {role: [*texts, _too_long(texts, renderer)] for role, texts in samples.items()}


def stock_texts(renderer: Renderer) -> dict[str, list[str]]:
    """Queries and documents to compare where there is no data: several scripts and lengths, one of each cut."""
    queries = [
        "how do I reset a forgotten password",
        "capital of Peru",
        "¿qué es la fotosíntesis?",
        "地震の原因",
        "C++ vs. Rust?",
    ]
    documents = [
        "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
        "Lima is the capital and the largest city of Peru. It lies on the Pacific coast.",
        "Das Passwort lässt sich auf der Anmeldeseite zurücksetzen; eine E-Mail führt durch die Schritte.",
        "地震は、地下の岩盤がずれ動くことで起こる。",
        "x",
        "  Numbers such as 3.14159, 1,000,000 and 0xFF;\ttabs, \n new lines and   spaces.  ",
    ]
    return {
        "query": [*queries, _too_long(queries, renderer)],
        "document": [*documents, _too_long(documents, renderer)],
    }


def _too_long(texts: list[str], renderer: Renderer) -> str:
    """The texts over and over, until the limit cuts."""
    text = " ".join(texts)[: 16 * renderer.max_length]
    while len(renderer.tokenize([text])[0]) < renderer.max_length:
        text = f"{text} {text}"
    return f"{text} {text}"


def check(
    trained: Retriever, renderer: Renderer, directory: Path, texts: dict[str, list[str]], threshold: float
) -> dict[str, Any]:
    """Compare the artifact in ``directory`` with the model in memory.

    Args:
        trained: the model as training left it.
        renderer: its rendering.
        directory: the artifact.
        texts: ``query`` and ``document`` texts, without prompts.
        threshold: the smallest cosine that passes.

    Returns:
        For each runtime: texts compared, smallest cosine, largest absolute difference, version.

    Raises:
        ParityError: a cosine below ``threshold``; of a model with an adapter, vectors nearer to those without it.
    """
    expected = _by_engine(TorchEngine(trained), renderer, texts)
    base = _without_adapter(trained, renderer, texts)
    artifact = Artifact.load(directory)
    engine = TorchEngine.load(artifact, device=str(trained.device))
    vectors = {"teva-torch": _by_engine(engine, Renderer.from_artifact(artifact), texts)}
    versions = {"teva-torch": torch.__version__}
    del engine
    try:
        import sentence_transformers
    except ImportError:
        logger.info("parity: sentence-transformers is not installed, so it is not compared")
    else:
        vectors["sentence-transformers"] = _by_sentence_transformers(directory, texts, str(trained.device))
        versions["sentence-transformers"] = sentence_transformers.__version__
    figures = {name: {"version": versions[name], **compare(expected, found)} for name, found in vectors.items()}
    for runtime, figure in figures.items():
        logger.info(
            "parity: %s: smallest cosine %.7f, largest difference %.1e over %d texts",
            runtime, figure["min_cosine"], figure["max_difference"], figure["texts"],
        )  # fmt: skip
        if not figure["min_cosine"] >= threshold:  # so that NaN fails too
            raise ParityError(
                f"{runtime} gives other vectors for the exported model: smallest cosine {figure['min_cosine']:.6f}; "
                f"expected at least {threshold} (torch.parity_cosine)"
            )
        if base is not None:
            _expect_adapted(runtime, vectors[runtime], expected, base)
    return figures


def _without_adapter(trained: Retriever, renderer: Renderer, texts: dict[str, list[str]]) -> Vectors | None:
    """What the model would give without its adapter; None where it has none."""
    if not is_adapted(trained.backbone):
        return None
    with trained.backbone.disable_adapter():
        return _by_engine(TorchEngine(trained), renderer, texts)


def _expect_adapted(runtime: str, found: Vectors, trained: Vectors, base: Vectors) -> None:
    """Few steps move a vector by less than any threshold on the cosine would see: a lost adapter must be told still."""
    if not (trained != base).any():
        raise ParityError("the adapter changes no vector: nothing was learnt. Raise train.learning_rate or train.steps")
    if np.linalg.norm(found - trained) >= np.linalg.norm(found - base):
        raise ParityError(f"{runtime} gives the vectors of the model without its adapter for the exported one")


def vectors(model: Retriever, renderer: Renderer, texts: dict[str, list[str]]) -> Vectors:
    """The vectors [N, H] of sampled texts by a model in memory; all processes have the same texts."""
    training = model.training
    found = _by_engine(TorchEngine(model), renderer, texts)
    model.train(training)
    return found


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


def _by_engine(engine: TorchEngine, renderer: Renderer, texts: dict[str, list[str]]) -> Vectors:
    rendered = [renderer.query(text) for text in texts["query"]]
    rendered += [renderer.document(text) for text in texts["document"]]
    # One at a time: what is compared then holds no padding at all.
    return np.concatenate([engine.encode([ids]) for ids in renderer.tokenize(rendered)])


def _by_sentence_transformers(directory: Path, texts: dict[str, list[str]], device: str) -> Vectors:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(directory), device=device, local_files_only=True)
    encode: Sequence[Vectors] = [
        model.encode_query(texts["query"], show_progress_bar=False),
        model.encode_document(texts["document"], show_progress_bar=False),
    ]
    return np.concatenate(encode)

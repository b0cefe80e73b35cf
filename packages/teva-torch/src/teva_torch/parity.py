"""The parity gate of :mod:`teva_data.parity` for models of torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import torch
from teva_data import probes
from teva_data.artifact import Artifact
from teva_data.layout import is_own
from teva_data.parity import Vectors, gate, rendered
from teva_data.rendering import Renderer

from . import omni
from .engine import TorchEngine
from .lora import is_adapted
from .model import Retriever
from .pair import RetrieverPair

logger = logging.getLogger(__name__)


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
    versions = {"teva-torch": str(torch.__version__)}
    del engine
    known = importlib.util.find_spec("sentence_transformers") is not None
    if not known:
        logger.info("parity: sentence-transformers is not installed, so it is not compared")
    elif is_own(artifact.pooling):
        known = False
        logger.warning("parity: sentence-transformers has no pooling %r, so it is not compared", artifact.pooling)
    elif omni.part_of(trained.backbone) is not None:
        # It loads by transformers' AutoModel, which knows no Qwen2.5-Omni.
        known = False
        logger.info("parity: sentence-transformers does not load %s", trained.backbone.config.model_type)
    if known and (theirs := _by_sentence_transformers(directory, texts, str(trained.device))) is not None:
        vectors["sentence-transformers"] = theirs
        versions["sentence-transformers"] = importlib.metadata.version("sentence-transformers")
    found = {name: (versions[name], each) for name, each in vectors.items()}
    return gate(expected, found, threshold, key="torch.parity_cosine", base=base)


def store_probes(trained: Retriever, renderer: Renderer, directory: Path, threshold: float) -> dict[str, Any]:
    """Store what the trained model gives for the probes, for `teva-infer verify`, in an artifact's directory.

    Those with pictures are compared with what the artifact gives, read from the directory: its tower, its processor and
    its limits have not been looked at by :func:`check`, whose samples are texts.

    Returns:
        As :func:`check`; nothing of a model that sees no pictures.

    Raises:
        ParityError: a cosine below ``threshold``.
    """
    found = [*probes.probe_set(renderer), *probes.picture_set(renderer, directory)]
    ids = renderer.tokenize(probes.rendered(found, renderer, directory))
    engine = TorchEngine(trained)
    vectors = np.concatenate([engine.encode([row]) for row in ids])
    base = None
    if is_adapted(trained.backbone):
        with trained.backbone.disable_adapter():
            base = np.concatenate([engine.encode([row]) for row in ids])
    seen = [at for at, probe in enumerate(found) if probe.image]
    figures = {}
    if seen:
        artifact = Artifact.load(directory)
        loaded, own = TorchEngine.load(artifact, device=str(trained.device)), Renderer.from_artifact(artifact)
        again = own.tokenize(probes.rendered([found[at] for at in seen], own, directory))
        theirs = np.concatenate([loaded.encode([row]) for row in again])
        runtime = {"teva-torch, pictures": (str(torch.__version__), theirs)}
        figures = gate(vectors[seen], runtime, threshold, key="torch.parity_cosine")
    probes.write_probes(directory, found, vectors, base)
    return figures


def _without_adapter(trained: Retriever, renderer: Renderer, texts: dict[str, list[str]]) -> Vectors | None:
    """What the model would give without its adapter; None where it has none."""
    if not is_adapted(trained.backbone):
        return None
    with trained.backbone.disable_adapter():
        return _by_engine(TorchEngine(trained), renderer, texts)


def vectors(model: Retriever | RetrieverPair, renderer: Renderer, texts: dict[str, list[str]]) -> Vectors:
    """The vectors [N, H] of sampled texts by a model in memory; all processes have the same texts."""
    training = model.training
    found = []
    for role, own in texts.items():
        if own:
            alone = {name: own if name == role else [] for name in texts}
            found.append(_by_engine(TorchEngine(model.of(role)), renderer, alone))
    model.train(training)
    return np.concatenate(found)


def _by_engine(engine: TorchEngine, renderer: Renderer, texts: dict[str, list[str]]) -> Vectors:
    # One at a time: what is compared then holds no padding at all.
    return np.concatenate([engine.encode([ids]) for ids in rendered(texts, renderer)])


def _by_sentence_transformers(directory: Path, texts: dict[str, list[str]], device: str) -> Vectors | None:
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(str(directory), device=device, local_files_only=True)
    except ImportError as error:
        # For models that see it wants more (torchvision): no reason to refuse what hours of training gave.
        needs = " ".join(str(error).split())
        logger.warning(
            "parity: sentence-transformers lacks what it needs for this model, so it is not compared. Once that is "
            "there, `teva-infer verify MODEL --engines torch sentence-transformers` compares it. It says: %s", needs,
        )  # fmt: skip
        return None
    encode: Sequence[Vectors] = [
        model.encode_query(texts["query"], show_progress_bar=False),
        model.encode_document(texts["document"], show_progress_bar=False),
    ]
    return np.concatenate(encode)

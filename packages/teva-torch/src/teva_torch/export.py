"""Writing the artifact of a trained model (the layout is teva_data.artifact's)."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from teva_data import exporting
from teva_data.artifact import MERGING, Artifact
from teva_data.exporting import git_revision
from teva_data.files import atomic_directory, write_json
from teva_data.layout import ROLES
from teva_data.model_card import model_card, pair_card
from teva_data.pair import ArtifactPair, load_artifact, write_pair
from teva_data.recipe import Recipe
from teva_data.rendering import Renderer
from teva_data.schema import SCHEMA
from teva_data.versions import DECODERS, installed

from . import lora, parity
from .backbones import save_backbone, weight_options
from .model import Retriever
from .pair import RetrieverPair
from .recipe import torch_section

_VERSIONS = ("teva-data", "teva-torch", "torch", "transformers", "tokenizers", "safetensors", "numpy")


def export(
    model: Retriever | RetrieverPair,
    base: Artifact | ArtifactPair,
    renderer: Renderer,
    recipe: Recipe,
    directory: Path,
    *,
    record: dict[str, Any],
    texts: dict[str, list[str]],
) -> Artifact | ArtifactPair:
    """Write a trained model as an artifact, and keep it only if every runtime at hand gives its vectors.

    Args:
        model: the trained model.
        base: what its training started from.
        renderer: its tokenizer, prompts and limit.
        recipe: resolved: pooling, normalisation and prompts are set.
        directory: where; an artifact that is there already is replaced when the new one is whole.
        record: what ``teva.json`` holds beside the recipe, versions and parity figures (data, figures of the run).
        texts: what the parity gate compares, as :func:`teva_data.parity.sample_texts` gives.

    Raises:
        ParityError: a runtime gives other vectors; the directory is left as it was.
    """
    teva = {
        "schema": SCHEMA["artifact"],
        "recipe": recipe.to_dict(),
        "versions": versions(),
        "git": git_revision(),
        **record,
    }
    if isinstance(model, Retriever):
        return _export(model, base.front, renderer, recipe, directory, teva, texts)
    with atomic_directory(directory) as temporary:
        halves = {
            role: _export(
                model.of(role), base.of(role), renderer, recipe, temporary / role,
                {**teva, "base": record["base"][role]}, texts, role=role,
            )
            for role in ROLES
        }  # fmt: skip
        teva["parity"] = {role: half.teva["parity"] for role, half in halves.items()}
        write_pair(temporary, teva, pair_card(recipe, renderer, _names(teva)))
    return load_artifact(directory)


def _export(
    model: Retriever,
    base: Artifact,
    renderer: Renderer,
    recipe: Recipe,
    directory: Path,
    teva: dict[str, Any],
    texts: dict[str, list[str]],
    role: str | None = None,
) -> Artifact:
    assert recipe.model.pooling is not None
    return write_artifact(
        directory, model, renderer, pooling=recipe.model.pooling, teva=teva,
        card=model_card(recipe, renderer, _names(teva), role), save=partial(_save_weights, model, base, recipe),
        texts=texts, threshold=torch_section(recipe).parity_cosine,
    )  # fmt: skip


def _names(teva: dict[str, Any]) -> list[str]:
    return [one["name"] for one in teva["data"]["datasets"] if one["name"]]


def write_artifact(
    directory: Path,
    model: Retriever,
    renderer: Renderer,
    *,
    pooling: str,
    teva: dict[str, Any],
    card: str,
    save: Callable[[Path], None],
    texts: dict[str, list[str]],
    threshold: float,
) -> Artifact:
    """:func:`teva_data.exporting.write_artifact` of a model of torch.

    Args:
        directory: where; an artifact that is there already is replaced when the new one is whole.
        model: what the vectors are compared with.
        renderer: its tokenizer, prompts and limit.
        pooling: the name of the model's pooling.
        teva: the record for ``teva.json``; the figures of parity are put into it.
        card: Markdown with its YAML header.
        save: writes configuration and weights into a directory.
        texts: what is compared, as :func:`teva_data.parity.sample_texts` gives.
        threshold: the smallest cosine that passes.

    Raises:
        ParityError: a runtime gives other vectors; the directory is left as it was.
    """

    def check(written: Path) -> dict[str, Any]:
        figures = parity.check(model, renderer, written, texts, threshold)
        return {**figures, **parity.store_probes(model, renderer, written, threshold)}

    return exporting.write_artifact(
        directory, renderer, pooling=pooling, normalize=model.normalize, dim=model.dim,
        teva=teva, card=card, save=save, check=check,
    )  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of the libraries that the vectors depend on."""
    return installed((*_VERSIONS, *DECODERS))


def _save_weights(model: Retriever, base: Artifact, recipe: Recipe, directory: Path) -> None:
    """The weights as every runtime loads them; of a model with an adapter, the adapter beside them."""
    settings, options = recipe.model, torch_section(recipe)
    backbone = model.backbone
    if lora.is_adapted(backbone):
        lora.save_adapter(backbone, directory / lora.ADAPTER, base=base.name, revision=base.revision)
        # From the files, not from memory: what is merged is what was written, and the trained model stays as it is.
        backbone = lora.merge(
            base, directory / lora.ADAPTER,
            bidirectional=settings.bidirectional, **weight_options(options.weights, model.device),
        )  # fmt: skip
    save_backbone(backbone, directory, None if options.export_weights == "float32" else torch.bfloat16)
    change: dict[str, Any] = {}
    if recipe.loss.matryoshka_dims:
        # vLLM cuts vectors to these and to no others.
        change["matryoshka_dimensions"] = sorted({*recipe.loss.matryoshka_dims, model.dim})
    if settings.merging is not None:
        change[MERGING] = settings.merging
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    write_json(directory / "config.json", {**config, **change})

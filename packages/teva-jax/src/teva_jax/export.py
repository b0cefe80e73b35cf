"""Writing a trained model's artifact (its layout is teva_data.artifact's): all processes call, the first writes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.experimental import multihost_utils
from jax.sharding import Mesh

import jax
from teva_data import exporting
from teva_data.artifact import Artifact
from teva_data.exporting import git_revision
from teva_data.layout import is_own
from teva_data.model_card import model_card
from teva_data.parity import Vectors, gate, rendered
from teva_data.probes import probe_set, write_probes
from teva_data.probes import rendered as rendered_probes
from teva_data.recipe import Recipe
from teva_data.rendering import Renderer
from teva_data.schema import SCHEMA
from teva_data.versions import installed

from .adapters import to_peft
from .engine import JaxEngine
from .lora import merge_tensor
from .mesh import make_mesh
from .model import Params, Retriever
from .params import Checkpoint, save
from .peer import sentence_transformers_vectors

ADAPTER = "adapter"  # the folder of an artifact that holds it
VERSIONS = ("teva-data", "teva-jax", "jax", "jaxlib", "flax", "transformers", "tokenizers", "safetensors", "numpy")
# The backbone of each type in transformers.
_CLASSES = {
    "bert": "BertModel", "roberta": "RobertaModel", "xlm-roberta": "XLMRobertaModel", "camembert": "CamembertModel",
    "llama": "LlamaModel", "mistral": "MistralModel", "qwen2": "Qwen2Model", "qwen3": "Qwen3Model",
    "gemma2": "Gemma2Model", "gemma3_text": "Gemma3TextModel",
}  # fmt: skip
# Tensors that an encoder's class has and that no vector depends on: copied, so that no reader draws them at random.
_UNUSED = ("pooler.",)


def export(
    retriever: Retriever,
    params: Params,
    adapter: Params | None,
    base: Artifact,
    renderer: Renderer,
    recipe: Recipe,
    directory: Path,
    *,
    record: dict[str, Any],
    texts: dict[str, list[str]],
    threshold: float = 0.9999,
    bfloat16: bool = False,
    role: str | None = None,
) -> Artifact:
    """Write a trained model as an artifact, and keep it only if every runtime at hand gives its vectors.

    Args:
        retriever: the trained model.
        params: its parameters.
        adapter: LoRA's factors; the artifact then holds merged weights, and the adapter beside them.
        base: what its training started from.
        renderer: its tokenizer, prompts and limit.
        recipe: resolved: pooling, normalisation and prompts are set.
        directory: where; an artifact that is there already is replaced when the new one is whole.
        record: what ``teva.json`` holds beside the recipe, versions and parity figures (data, figures of the run).
        texts: what the parity gate compares, as :func:`teva_data.parity.sample_texts` gives.
        threshold: the smallest cosine that passes.
        bfloat16: of the files, in place of float32: half the size, and rounds what was trained.
        role: of half a pair, what it encodes.

    Raises:
        ParityError: a runtime gives other vectors; the directory is left as it was.
    """
    teva = {
        "schema": SCHEMA["artifact"],
        "recipe": recipe.to_dict(),
        "versions": installed(VERSIONS),
        "git": git_revision(),
        **record,
    }
    names = [one["name"] for one in teva["data"]["datasets"] if one["name"]]
    return write_artifact(
        retriever, params, adapter, base, renderer, directory, teva=teva, texts=texts,
        card=model_card(recipe, renderer, names, role), threshold=threshold, bfloat16=bfloat16,
        matryoshka=recipe.loss.matryoshka_dims,
    )  # fmt: skip


def write_artifact(
    retriever: Retriever,
    params: Params,
    adapter: Params | None,
    base: Artifact,
    renderer: Renderer,
    directory: Path,
    *,
    teva: dict[str, Any],
    card: str,
    texts: dict[str, list[str]],
    threshold: float = 0.9999,
    bfloat16: bool = False,
    matryoshka: list[int] | None = None,
) -> Artifact:
    """:func:`teva_data.exporting.write_artifact` of a model of JAX; arguments are those of :func:`export`.

    Args:
        retriever: the trained model.
        params: its parameters.
        adapter: LoRA's factors, or None.
        base: what its training started from.
        renderer: its tokenizer, prompts and limit.
        directory: where.
        teva: the record for ``teva.json``.
        card: Markdown with its YAML header.
        texts: what the parity gate compares.
        threshold: the smallest cosine that passes.
        bfloat16: of the files.
        matryoshka: the dimensions that vectors may be cut to, where trained so.
    """
    # float32 whatever training computed in: what is compared is the weights and what is done with them.
    exact = dataclasses.replace(retriever, compute_dtype=jnp.float32, remat=False)
    expected = vectors(exact, params, adapter, renderer, texts)
    bare = None if adapter is None else vectors(exact, params, None, renderer, texts)
    asked = probe_set(renderer)
    ids = renderer.tokenize(rendered_probes(asked, renderer))
    # Here, where all processes are: what is gathered from their shards is kept by the one that writes.
    probed = JaxEngine(exact, params, adapter).encode(ids)
    probed_bare = None if adapter is None else JaxEngine(exact, params, None).encode(ids)
    config = saved_config(base, exact.model.config, bfloat16=bfloat16, matryoshka=matryoshka)
    write = partial(_save, retriever, params, adapter, base, config, bfloat16)

    def compared(written: Path) -> dict[str, Any]:
        found = _by_all(exact, renderer, written, texts)
        figures = gate(expected, found, threshold, key="jax.parity_cosine", base=bare)
        write_probes(written, asked, probed, probed_bare)
        return figures

    if jax.process_index() == 0:
        exporting.write_artifact(
            directory, renderer, pooling=retriever.pooling_name, normalize=retriever.normalize, dim=retriever.dim,
            teva=teva, card=card, save=write, check=compared,
        )  # fmt: skip
    else:
        write(directory)  # gathering is what all do together; this process writes nothing
    multihost_utils.sync_global_devices("artifact")
    return Artifact.load(directory)


def check(
    retriever: Retriever,
    params: Params,
    adapter: Params | None,
    renderer: Renderer,
    texts: dict[str, list[str]],
    directory: Path,
    threshold: float,
) -> dict[str, Any]:
    """The gate for an artifact that is there already; arguments are those of :func:`export`.

    Raises:
        ParityError: a runtime gives other vectors.
    """
    expected = vectors(retriever, params, adapter, renderer, texts)
    return gate(expected, _by_all(retriever, renderer, directory, texts), threshold, key="jax.parity_cosine")


def vectors(
    retriever: Retriever, params: Params, adapter: Params | None, renderer: Renderer, texts: Mapping[str, list[str]]
) -> Vectors:
    """The vectors [N, H] of sampled texts; all processes call it with the same."""
    return JaxEngine(retriever, params, adapter).encode(rendered(texts, renderer))


def saved_config(
    base: Artifact, config: Mapping[str, Any], *, bfloat16: bool, matryoshka: list[int] | None
) -> dict[str, Any]:
    """``config.json`` of the artifact: the base's own, with what this model does otherwise."""
    written = json.loads((base.path / "config.json").read_text(encoding="utf-8"))
    for key in ("torch_dtype", "_name_or_path"):
        written.pop(key, None)
    both_ways = {
        key: config[key] for key in ("is_causal", "use_bidirectional_attention") if config.get(key) is not None
    }
    written |= both_ways
    # The backbone alone is written, without a head.
    written["architectures"] = [_CLASSES[config["model_type"]]]
    written["dtype"] = "bfloat16" if bfloat16 else "float32"
    if matryoshka is not None:
        written["matryoshka_dimensions"] = sorted({*matryoshka, config["hidden_size"]})
    return written


def _save(
    retriever: Retriever,
    params: Params,
    adapter: Params | None,
    base: Artifact,
    config: Mapping[str, Any],
    bfloat16: bool,
    directory: Path,
) -> None:
    """Configuration, weights (of an adapted model, merged), and the adapter."""
    lora, change = retriever.lora, None
    if adapter is not None:
        assert lora is not None  # embed has looked
        to_peft(directory / ADAPTER, adapter, lora, base=base.name, revision=base.revision)
        change = partial(merge_tensor, adapter=adapter, settings=lora)
    with Checkpoint(base.path) as checkpoint:
        checkpoint.expect(retriever.model.table)
        unused = checkpoint.others(retriever.model.table, _UNUSED)
    save(directory, params, config, extra=unused, change=change, dtype=jnp.bfloat16 if bfloat16 else jnp.float32)


def _by_all(
    trained: Retriever, renderer: Renderer, directory: Path, texts: dict[str, list[str]]
) -> dict[str, tuple[str, Vectors]]:
    """Vectors of a written artifact by this package, read anew, and by sentence-transformers where it is there."""
    artifact = Artifact.load(directory)
    mesh = _local(trained)
    again, params = Retriever.load(artifact, mesh)
    found = {"teva-jax": (jax.__version__, vectors(again, params, None, Renderer.from_artifact(artifact), texts))}
    if not is_own(artifact.pooling) and (peer := sentence_transformers_vectors(directory, texts)) is not None:
        found["sentence-transformers"] = peer
    return found


def _local(trained: Retriever) -> Mesh:
    """The trained model's mesh; of several processes, one of this process's devices."""
    mesh = trained.model.mesh
    if mesh is not None and jax.process_count() == 1:
        return mesh
    return make_mesh(data=1, fsdp=-1, devices=jax.local_devices())

"""The families: from config.json to a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from teva_data.errors import ArtifactError

from . import decoder, encoder
from .base import Model

__all__ = ["Model", "build", "read_config"]


def build(config: Mapping[str, Any], mesh: Mesh | None = None) -> Model:
    """A model by its configuration; it holds no weights.

    Args:
        config: as :func:`read_config` gives it: complete, in transformers' current words.
        mesh: the devices that parameters and batches will lie on; needed where they are several.

    Raises:
        ArtifactError: a family, or a variant of one, that is not known here.
    """
    kind = config.get("model_type")
    if config.get("quantization_config"):
        raise ArtifactError(
            f"config.json: quantization_config: found {config['quantization_config']}; expected weights of float32 or "
            "bfloat16. Take the model that it was made from"
        )
    for family in (encoder, decoder):
        if kind in family.TYPES:
            return Model(config, family.architecture(config), mesh)
    known = ", ".join((*encoder.TYPES, *decoder.TYPES))
    raise ArtifactError(f"config.json: model_type: found {kind!r}; expected one of {known}. Use teva-torch for it")


def read_config(directory: str | Path, *, bidirectional: bool | None = None) -> dict[str, Any]:
    """A directory's ``config.json`` with all defaults of its architecture, old keys translated.

    Args:
        directory: of the model.
        bidirectional: whether each token of a decoder sees the whole text; as the file says where not given.

    Raises:
        ArtifactError: it cannot be read.
        RecipeError: ``bidirectional: false`` of an encoder.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(directory), local_files_only=True).to_dict()
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{directory}: config.json cannot be read: {error}") from error
    return config if bidirectional is None else with_direction(config, bidirectional=bidirectional)


def with_direction(config: Mapping[str, Any], *, bidirectional: bool) -> dict[str, Any]:
    """A configuration with the direction in which a decoder reads, in the keys that transformers and vLLM heed.

    Raises:
        RecipeError: an encoder cannot be made to read from left to right.
    """
    from teva_data.errors import RecipeError

    if config.get("model_type") in encoder.TYPES:
        if bidirectional:
            return dict(config)
        raise RecipeError(f"model.bidirectional: {config['model_type']} reads both ways. Leave the key out")
    changed = {**config, "use_bidirectional_attention": bidirectional}
    if config.get("model_type") != "gemma3_text" and (bidirectional or "is_causal" in config):
        changed["is_causal"] = not bidirectional
    return changed

"""Models with two towers (CLIP, SigLIP, CLAP): texts go through one, pictures or sounds the other, into one space.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (arXiv 2103.00020); Zhai et al.,
"Sigmoid Loss for Language Image Pre-Training" (arXiv 2303.15343); Wu et al., "Large-scale Contrastive Language-Audio
Pretraining" (arXiv 2211.06687). An input is a text, a picture, a clip or a sound, never two of them: of a record with
several pieces each becomes an input of its own, and their vectors are merged (``model.merging``). Every picture is
brought to the one size, every sound to the one length that the tower was made for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TYPES = ("clip", "siglip", "vision-text-dual-encoder", "clap")
"""What transformers calls them in ``config.json``."""

POOLING = "towers"
"""The name of their pooling: each tower's own, projected into the common space."""

# sentence-transformers' description of such a model in `sentence_bert_config.json`.
_LAYOUT: Mapping[str, Any] = {
    "transformer_task": "feature-extraction",
    "module_output_name": "sentence_embedding",
}


def is_one(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is that of such a model."""
    return config.get("model_type") in TYPES


def media_kinds(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What such a model takes beside texts: pictures and the frames of clips, recordings and the sound of clips, or all
    but the last."""
    if "audio_config" not in config:
        return "image", "video"
    return ("image", "video", "audio") if "vision_config" in config else ("audio", "video")


def dim(config: Mapping[str, Any]) -> int:
    """Numbers in a vector: those of the common space. SigLIP's pictures are not projected: its texts are, to them."""
    if config["model_type"] == "siglip":
        return int(config["vision_config"].get("hidden_size", 768))
    return int(config.get("projection_dim", 512))


def fixed_length(config: Mapping[str, Any]) -> int | None:
    """Tokens that every text is filled up to, without a mask: SigLIP's, which pools at the last place; else None."""
    if config.get("model_type") != "siglip":
        return None
    return int(config["text_config"].get("max_position_embeddings", 64))


def layout(config: Mapping[str, Any]) -> dict[str, Any]:
    """What ``sentence_bert_config.json`` of such a model says beside the limit of length."""
    length = fixed_length(config)
    filled = {"processing_kwargs": {"text": {"padding": "max_length", "max_length": length}}} if length else {}
    own = media_kinds(config)[0]
    methods = {
        kind: {"method": f"get_{kind}_features", "method_output_name": "pooler_output"} for kind in ("text", own)
    }
    return {**_LAYOUT, "modality_config": methods, **filled}

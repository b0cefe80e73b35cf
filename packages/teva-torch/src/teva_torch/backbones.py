"""Backbones: loading a model of transformers, and whether its tokens see what stands after them.

A decoder reads both ways by transformers' own mechanism (``config.is_causal``), so that sentence-transformers and vLLM,
which read the same key, do as training did. Nothing is patched: an architecture that does not heed the key is refused.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import logging
from pathlib import Path
from typing import Any

import torch
from teva_data.artifact import Artifact
from teva_data.errors import ArtifactError, MissingExtraError, RecipeError
from teva_data.files import write_json
from teva_data.pictures import OMNI
from torch import nn

from . import hearing, omni

logger = logging.getLogger(__name__)

# What layers may be for their attention to be made to look both ways.
_ATTENTION_LAYERS = {"full_attention", "sliding_attention"}


def load_backbone(
    artifact: Artifact,
    *,
    dtype: torch.dtype = torch.float32,
    attention: str | None = None,
    bidirectional: bool | None = None,
    **options: Any,
) -> Any:
    """The transformers model of an artifact, without a head.

    Args:
        artifact: the directory's description.
        dtype: of the weights.
        attention: transformers' ``attn_implementation``; its own choice where not given.
        bidirectional: whether each token sees the whole text; as the model's configuration says where not given.
        options: of ``AutoModel.from_pretrained``.

    Raises:
        ArtifactError: weights that cannot be loaded, or are missing in part; an encoder-decoder.
        RecipeError: ``bidirectional`` cannot be had of this architecture.
    """
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    _expect_peft(artifact)
    if attention is not None:
        options["attn_implementation"] = attention
    try:
        config = AutoConfig.from_pretrained(str(artifact.path), local_files_only=True)
        if config.is_encoder_decoder:
            raise ArtifactError(
                f"{artifact.path}: found an encoder-decoder ({config.model_type}); expected an encoder or a decoder"
            )
        if bidirectional is not None:
            config = with_direction(config, bidirectional=bidirectional)
        kind: Any = hearing.model_class() if hearing.is_one(config) else AutoModel
        if config.model_type in OMNI:
            config, kind = getattr(config, "thinker_config", config), omni.model_class()
        backbone, report = kind.from_pretrained(
            str(artifact.path), config=config, dtype=dtype, local_files_only=True, output_loading_info=True, **options
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ArtifactError(f"{artifact.path}: the model cannot be loaded: {error}") from error
    _expect_whole(artifact, report["missing_keys"])
    if bidirectional is not None and reads_both_ways(backbone) != bidirectional:
        wanted, other = ("both ways", "from left to right") if bidirectional else ("from left to right", "both ways")
        raise RecipeError(
            f"model.bidirectional: {config.model_type} reads {other} whatever its configuration says; it cannot be "
            f"made to read {wanted}. Leave the key out"
        )
    return backbone


def weight_options(weights: str, device: torch.device) -> dict[str, Any]:
    """How ``torch.weights`` loads a model: options of :func:`load_backbone`.

    Raises:
        MissingExtraError: 4 bits without bitsandbytes.
    """
    if weights == "nf4":
        from transformers import BitsAndBytesConfig

        if importlib.util.find_spec("bitsandbytes") is None:
            raise MissingExtraError("torch.weights: nf4", "teva-torch[bitsandbytes]")
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )  # fmt: skip
        return {"dtype": torch.bfloat16, "quantization_config": config, "device_map": {"": str(device)}}
    return {"dtype": {"float32": torch.float32, "bfloat16": torch.bfloat16}[weights]}


def attention_option(name: str, device: torch.device) -> str | None:
    """transformers' ``attn_implementation`` for ``torch.attention``; None leaves the choice to it.

    Raises:
        MissingExtraError: flash_attention_2 without flash-attn.
        RecipeError: flash_attention_2 without a GPU.
    """
    if name == "flash_attention_2":
        if device.type != "cuda":
            raise RecipeError(f"torch.attention: flash_attention_2 runs on GPUs alone, not on {device.type}. Use auto")
        if importlib.util.find_spec("flash_attn") is None:
            raise MissingExtraError("torch.attention: flash_attention_2", "teva-torch[flash-attn]")
    # `varlen` is turned on once the model is there, whose architecture decides whether it can be.
    return None if name in ("auto", "varlen") else name


def attention_dropout(config: Any) -> float:
    """The dropout of an architecture's attention weights in training."""
    return float(getattr(config, "attention_dropout", getattr(config, "attention_probs_dropout_prob", 0.0)) or 0.0)


def tell_capped_scores(config: Any) -> None:
    """Warn where transformers' fast attention is not the architecture's own (Gemma 2)."""
    cap = getattr(config, "attn_logit_softcapping", None)
    if cap is not None and config._attn_implementation == "sdpa":
        logger.warning(
            "%s caps the scores of its attention at %s, which transformers leaves out with sdpa, in "
            "sentence-transformers too; vLLM does not. Their vectors differ by what the cap does",
            config.model_type, cap,
        )  # fmt: skip


def with_direction(config: Any, *, bidirectional: bool) -> Any:
    """A model's configuration with the direction in which it reads.

    Raises:
        RecipeError: layers that have a state in place of attention.
    """
    kinds = {*(getattr(config, "layer_types", None) or ())} - _ATTENTION_LAYERS
    if bidirectional and kinds:
        raise RecipeError(
            f"model.bidirectional: {config.model_type} has layers of {', '.join(sorted(kinds))}, which read from left "
            "to right. Leave the key out"
        )
    if config.model_type == "gemma3_text":
        # It has a key of its own, which halves the window to each side: the configuration must be made with it.
        window = config.to_dict()
        return type(config).from_dict({**window, "use_bidirectional_attention": bidirectional})
    if bidirectional or hasattr(config, "is_causal"):
        config.is_causal = not bidirectional
        # Which of the two keys a reader looks at depends on its age.
        config.use_bidirectional_attention = bidirectional
    return config


@torch.no_grad()
def reads_both_ways(backbone: Any) -> bool:
    """Whether a token's vector depends on what stands after it, found by trying."""
    training = backbone.training
    ids = (
        torch.tensor([[3, 4, 5, 6], [3, 4, 5, 7]], device=backbone.device)
        % backbone.config.get_text_config().vocab_size
    )
    hidden = backbone.eval()(input_ids=ids, **without_cache(backbone)).last_hidden_state[:, 1].float()
    backbone.train(training)
    return bool((hidden[0] - hidden[1]).abs().max() > 1e-4 * hidden.abs().max())


def without_cache(backbone: Any) -> dict[str, Any]:
    """The argument that keeps a decoder from building a cache of keys and values; empty where there is none."""
    return {"use_cache": False} if "use_cache" in inspect.signature(backbone.forward).parameters else {}


def pad_id(config: Any) -> int:
    """An id to fill short rows with: the padding's, else the end's, else 0. It is masked, so any does."""
    for name in ("pad_token_id", "eos_token_id"):
        found = getattr(config, name, None)
        if isinstance(found, list):
            found = found[0]
        if found is not None:
            return int(found)
    return 0


def checkpoint_gradients(backbone: Any) -> None:
    """Keep a layer's input alone for the backward pass, and compute the rest again.

    Raises:
        RecipeError: the architecture does not support it.
    """
    try:
        backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except ValueError as error:
        raise RecipeError(f"torch.gradient_checkpointing: {error}") from None


def save_backbone(backbone: Any, directory: Path, dtype: torch.dtype | None = None) -> None:
    """Write a model's configuration and weights under the names that it is published with.

    A bare vision-language model has its two parts side by side, which transformers reads and vLLM does not: it is
    written as the model with a head is, whose head is not there.

    Args:
        backbone: a model of transformers.
        directory: where.
        dtype: of the files; as they are, where not given.
    """
    state = backbone.state_dict() if dtype is None else {k: v.to(dtype) for k, v in backbone.state_dict().items()}
    change: dict[str, Any] = {} if dtype is None else {"dtype": str(dtype).removeprefix("torch.")}
    kind = type(backbone).__name__
    if hasattr(backbone, "visual") and hasattr(backbone, "language_model"):
        old = kind.startswith("Qwen2")  # later ones keep the parts' names
        state = {name.replace("language_model.", "", 1) if old else name: value for name, value in state.items()}
        state = {name if old and name.startswith("visual.") else f"model.{name}": each for name, each in state.items()}
        change["architectures"] = [f"{kind.removesuffix('Model')}ForConditionalGeneration"]
    if omni.part_of(backbone) is not None:
        change["architectures"] = [omni.ARCHITECTURE]
    backbone.save_pretrained(directory, state_dict=state)
    if change:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        write_json(directory / "config.json", {**config, **change})


def blocks(backbone: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """The outermost lists of layers, each with its name: what is repeated in a transformer."""
    found: list[tuple[str, nn.ModuleList]] = []
    for name, module in backbone.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer, _ in found):
            found.append((name, module))
    return found


def _expect_peft(artifact: Artifact) -> None:
    """transformers loads an adapter that lies beside the weights, and says nothing where it cannot."""
    if not (artifact.path / "adapter_config.json").is_file():
        return
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(f"{artifact.path}: an adapter, which", "teva-torch[lora]") from error


def _expect_whole(artifact: Artifact, missing: set[str]) -> None:
    lacking = [name for name in missing if not name.startswith("pooler.")]
    if lacking:
        raise ArtifactError(
            f"{artifact.path}: the weights lack {len(lacking)} of the model's tensors, first {min(lacking)!r}; "
            "they would be random. Fetch or export the model again"
        )

"""LoRA by peft: what is adapted, the adapter's files, and the weights with the adapter in them.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685). Adapters are float32 whatever the
frozen weights are. An artifact holds the merged weights, which every runtime loads, and the adapter beside them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from teva_data.artifact import Artifact
from teva_data.errors import ArtifactError, MissingExtraError, RecipeError, nearest
from torch import nn

from . import vision
from .backbones import blocks, load_backbone
from .recipe import LoraSection

logger = logging.getLogger(__name__)
ADAPTER = "adapter"  # the folder of an artifact that holds it


def add_lora(backbone: Any, settings: LoraSection) -> Any:
    """A backbone with trainable adapters; all else is frozen.

    Args:
        backbone: a model of transformers.
        settings: ``torch.lora``.

    Returns:
        peft's model around it; its forward is the backbone's.

    Raises:
        RecipeError: a target that the backbone does not have, or nothing to adapt.
        MissingExtraError: peft is not installed.
    """
    peft = _peft()
    found = (
        None if settings.vision else vision.tower_name(backbone),
        None if settings.audio else vision.hearing_tower_name(backbone),
    )
    towers = [name for name in found if name is not None]
    targets = _checked(backbone, settings.targets) if settings.targets else default_targets(backbone, *towers)
    if not targets:
        raise RecipeError(
            f"torch.lora: {backbone.config.model_type} has no linear layers in its blocks. Name some in "
            "torch.lora.targets"
        )
    config = peft.LoraConfig(
        task_type=peft.TaskType.FEATURE_EXTRACTION, r=settings.rank, lora_alpha=settings.alpha,
        lora_dropout=settings.dropout, target_modules=targets, use_dora=settings.dora, use_rslora=settings.rslora,
        exclude_modules=rf"(.*\.)?({'|'.join(map(re.escape, towers))})\..*" if towers else None,
    )  # fmt: skip
    adapted = peft.get_peft_model(backbone, config)
    logger.info("LoRA of rank %d on %s: %d layers", settings.rank, ", ".join(targets), len(_layers(adapted)))
    return adapted


def default_targets(backbone: nn.Module, *towers: str) -> list[str]:
    """The linear layers of the blocks, each by the shortest name that none outside the blocks has.

    What lies in ``towers`` is left out of account: it is not adapted whatever it is called.

    Of Llama and its like that is q, k, v, o, gate, up and down; BERT's pooler and heads are not among them.
    """
    inside, outside = set[str](), set[str]()
    lists = [name for name, _ in blocks(backbone)]
    for name, module in backbone.named_modules():
        if _is_linear(module) and not name.startswith(tuple(f"{tower}." for tower in towers)):
            holder = next((each for each in lists if name.startswith(f"{each}.")), None)
            # Without the block's number: `layers.0.mlp.up_proj` is `mlp.up_proj`.
            (outside if holder is None else inside).add(name if holder is None else _within(name, holder))
    return sorted({_shortest(name, outside) for name in inside})


def is_adapted(backbone: Any) -> bool:
    """Whether a backbone carries adapters."""
    return bool(_layers(backbone))


def save_adapter(backbone: Any, directory: Path, *, base: str, revision: str | None) -> None:
    """Write the adapter in PEFT's format.

    Args:
        backbone: with adapters.
        directory: where; made.
        base: the name of the model that it adapts, as another machine would find it.
        revision: its branch, tag or commit.
    """
    for config in backbone.peft_config.values():
        config.base_model_name_or_path, config.revision = base, revision
    backbone.save_pretrained(directory, save_embedding_layers=False)


def merge(base: Artifact, adapter: Path, **options: Any) -> Any:
    """The base model with an adapter in its weights, computed in float32 on the CPU.

    Args:
        base: the model that the adapter was trained on.
        adapter: a directory in PEFT's format.
        options: of :func:`teva_torch.backbones.load_backbone`. ``dtype`` is that of training: what the adapter was
            trained beside were weights rounded to it.

    Raises:
        ArtifactError: the adapter cannot be read, or does not fit the base.
    """
    peft = _peft()
    backbone = load_backbone(base, **options)
    if getattr(backbone, "is_quantized", False):
        backbone = backbone.dequantize()
    backbone = backbone.to("cpu").float()
    names = {name for name, _ in backbone.named_modules()}
    try:
        adapted = peft.PeftModel.from_pretrained(backbone, str(adapter), autocast_adapter_dtype=True)
        _expect_all(adapted, adapter)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise ArtifactError(f"{adapter}: the adapter cannot be loaded into {base.name}: {error}") from error
    merged = adapted.merge_and_unload(safe_merge=True)
    assert {name for name, _ in merged.named_modules()} == names
    return merged


def _expect_all(adapted: Any, adapter: Path) -> None:
    """Refuse an adapter that has tensors which the model has no place for, or lacks some: peft only warns of either."""
    from safetensors import safe_open

    file = adapter / "adapter_model.safetensors"
    if not file.is_file():
        raise ArtifactError(f"{adapter}: no adapter_model.safetensors; expected a directory that peft has saved")
    with safe_open(file, framework="pt") as stored:
        given = {name.replace(".weight", "") for name in stored.keys()}  # noqa: SIM118 (not a mapping)
    have = {name.replace(".default", "").replace(".weight", "") for name, _ in adapted.named_parameters()}
    if lost := sorted(given - have):
        raise ArtifactError(f"{adapter}: {len(lost)} tensors that the model has no place for, first {lost[0]!r}")
    if lacking := sorted(name for name in have - given if ".lora_" in name):
        raise ArtifactError(f"{adapter}: lacks {len(lacking)} tensors that the model asks for, first {lacking[0]!r}")


def _layers(backbone: Any) -> list[nn.Module]:
    return [module for module in backbone.modules() if hasattr(module, "lora_A") and hasattr(module, "base_layer")]


def _checked(backbone: nn.Module, targets: Sequence[str]) -> list[str]:
    """The recipe's targets, each of which must be the end of some linear layer's name."""
    names = [name for name, module in backbone.named_modules() if _is_linear(module)]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            known = {name.rpartition(".")[2] for name in names}
            raise RecipeError(f"torch.lora.targets: no linear layer is called {target!r}. {nearest(target, known)}")
    return list(targets)


def _is_linear(module: nn.Module) -> bool:
    # Quantised ones are subclasses of it.
    return isinstance(module, nn.Linear)


def _within(name: str, holder: str) -> str:
    return name[len(holder) + 1 :].partition(".")[2]


def _shortest(name: str, outside: set[str]) -> str:
    """The shortest end of a dotted name that is the end of none of ``outside``."""
    parts = name.split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1))
    for end in ends:
        if not any(f".{other}".endswith(f".{end}") for other in outside):
            return end
    raise RecipeError(f"torch.lora.targets: {name!r} also stands outside the blocks. Name the layers to adapt")


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("torch.lora", "teva-torch[lora]") from error
    return peft

"""Pictures in a forward pass: what a vision-language backbone takes beside token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import torch
from teva_data.errors import RecipeError
from teva_data.pictures import Picture, Tokens
from torch import Tensor, nn

# What transformers calls the part of a model that sees.
_TOWERS = ("visual", "vision_tower", "vision_model")


def arguments(backbone: Any, token_ids: Sequence[Sequence[int]], ids: Tensor) -> dict[str, Tensor]:
    """The pictures of a batch under transformers' names; nothing where it has none.

    Args:
        backbone: of the family of Qwen2-VL.
        token_ids: B inputs; those with pictures are :class:`teva_data.pictures.Tokens`.
        ids: int64 [B, T], the same padded, on the model's device.

    Returns:
        ``pixel_values`` float32 [P, C], ``image_grid_thw`` int64 [pictures, 3], ``mm_token_type_ids`` int32 [B, T]: 1
        where a token stands for a part of a picture.
    """
    pictures: list[Picture] = [one for each in token_ids if isinstance(each, Tokens) for one in each.pictures]
    if not pictures:
        return {}
    patches = torch.from_numpy(np.concatenate([picture.patches for picture in pictures]))
    return {
        "pixel_values": patches.to(ids.device, non_blocking=True),
        "image_grid_thw": torch.tensor([picture.grid for picture in pictures], device=ids.device),
        "mm_token_type_ids": (ids == backbone.config.image_token_id).int(),
    }


def blank(backbone: Any) -> Tokens:
    """An input that is the smallest picture there is, of a single token."""
    config = backbone.config
    seen = config.vision_config
    ids = [config.vision_start_token_id, config.image_token_id, config.vision_end_token_id]
    side = seen.spatial_merge_size
    numbers = getattr(seen, "in_channels", 3) * seen.temporal_patch_size * seen.patch_size**2
    return Tokens.of(ids, [Picture(np.zeros((side * side, numbers), np.float32), (1, side, side))])


def tower_name(backbone: nn.Module) -> str | None:
    """The dotted name of what sees pictures; None in a model of text."""
    names = [name for name, _ in backbone.named_modules() if name.rpartition(".")[2] in _TOWERS]
    return min(names, key=len) if names else None


def freeze_tower(backbone: nn.Module) -> None:
    """Train all but what sees pictures."""
    name = tower_name(backbone)
    if name is not None:
        backbone.get_submodule(name).requires_grad_(False)


def freeze_text(backbone: nn.Module) -> None:
    """Train all but the tower that reads, of a model that has one apart.

    Raises:
        RecipeError: it has none.
    """
    if not hasattr(backbone, "text_model") or not hasattr(backbone, "vision_model"):
        raise RecipeError("torch.freeze_text: this model has no tower of its own for texts. Leave it out")
    backbone.text_model.requires_grad_(False)  # type: ignore[operator]

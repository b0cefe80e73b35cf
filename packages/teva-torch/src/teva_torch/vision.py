"""Pictures in a forward pass: what a vision-language backbone takes beside token ids."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import torch
from teva_data.errors import RecipeError
from teva_data.pictures import Picture, Tokens
from torch import Tensor, nn

# What transformers calls the part of a model that sees.
_TOWERS = ("visual", "vision_tower", "vision_model")


def arguments(backbone: Any, token_ids: Sequence[Sequence[int]], ids: Tensor, seen: Any = None) -> dict[str, Any]:
    """The pictures of a batch under transformers' names; nothing where it has none.

    Args:
        backbone: of the family of Qwen2-VL.
        token_ids: B inputs; those with pictures are :class:`teva_data.pictures.Tokens`.
        ids: int64 [B, T], the same padded, on the model's device.
        seen: what the tower has put out for these pictures (:func:`watched`), where it is not to run.

    Returns:
        ``pixel_values`` float32 [P, C], or in their place ``mm_encoder_outputs``; ``image_grid_thw`` int64
        [pictures, 3], ``mm_token_type_ids`` int32 [B, T]: 1 where a token stands for a part of a picture.
    """
    pictures: list[Picture] = [one for each in token_ids if isinstance(each, Tokens) for one in each.pictures]
    if not pictures:
        return {}
    return {
        **({"pixel_values": _patches(pictures, ids.device)} if seen is None else {"mm_encoder_outputs": seen}),
        "image_grid_thw": torch.tensor([picture.grid for picture in pictures], device=ids.device),
        "mm_token_type_ids": (ids == backbone.config.image_token_id).int(),
    }


def _patches(pictures: Sequence[Picture], device: torch.device) -> Tensor:
    """float32 [P, C]; bytes, an eighth of that, are what goes to the device."""
    tone = pictures[0].tone  # all are one model's
    pixels = torch.from_numpy(np.concatenate([picture.pixels for picture in pictures])).to(device, non_blocking=True)
    if tone is None:
        return pixels
    scale, shift = (torch.from_numpy(each).to(device)[:, None, None] for each in (tone.scale, tone.shift))
    values = pixels.view(len(pixels), len(tone.scale), 1, -1) * scale + shift
    return values.expand(-1, -1, tone.frames, -1).reshape(len(pixels), -1)


def blank(backbone: Any) -> Tokens:
    """An input that is the smallest picture there is, of a single token."""
    config = backbone.config
    seen = config.vision_config
    ids = [config.vision_start_token_id, config.image_token_id, config.vision_end_token_id]
    side = seen.spatial_merge_size
    numbers = getattr(seen, "in_channels", 3) * seen.temporal_patch_size * seen.patch_size**2
    return Tokens.of(ids, [Picture(np.zeros((side * side, numbers), np.float32), (1, side, side))])


@contextlib.contextmanager
def watched(backbone: nn.Module) -> Iterator[list[dict[str, Any]]]:
    """What a frozen tower puts out within the block, one entry a pass: a later pass takes it in the pictures' place.

    Of each token of a picture it is a vector (of Qwen3-VL, one for each layer that takes some too): the tower's output
    as transformers has it, without what it was projected from. Empty where the tower is trained, since a gradient must
    go back through it then, or where the backbone does not take what another pass has seen.
    """
    found: list[dict[str, Any]] = []
    tower = frozen_tower(backbone)
    if tower is None:
        yield found
        return

    outputs: list[Any] = []
    hook = tower.register_forward_hook(lambda _module, _arguments, output: outputs.append(output))
    try:
        yield found
    finally:
        hook.remove()
    # Only now: until here transformers has put them, in their places, into the form that it takes.
    for output in outputs:
        kept = {key: value for key, value in output.items() if key != "last_hidden_state"}
        found.append({"image": type(output)(**kept)})


def frozen_tower(backbone: nn.Module) -> nn.Module | None:
    """The tower that sees, where nothing in it is trained and a pass can do without running it; else None."""
    name = tower_name(backbone)
    if name is None:
        return None
    whole = backbone.get_submodule(name.rpartition(".")[0])  # transformers' model, within an adapter's wrapping
    if "mm_encoder_outputs" not in inspect.signature(whole.forward).parameters:
        return None
    tower = backbone.get_submodule(name)
    return None if any(one.requires_grad for one in tower.parameters()) else tower


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

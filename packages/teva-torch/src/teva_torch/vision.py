"""Pictures, clips and sounds in a forward pass: what a backbone that sees or hears takes beside token ids."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import torch
from teva_data.errors import RecipeError
from teva_data.inputs import Tokens
from teva_data.pictures import Picture
from teva_data.sounds import Sound
from torch import Tensor, nn

from . import omni

# What transformers calls the part of a model that sees, and the one that hears.
_SEES = ("visual", "vision_tower", "vision_model")
_HEARS = ("audio_tower", "audio_model")


def arguments(backbone: Any, token_ids: Sequence[Sequence[int]], ids: Tensor, seen: Any = None) -> dict[str, Any]:
    """The pictures of a batch under transformers' names; nothing where it has none.

    Args:
        backbone: of the family of Qwen2-VL.
        token_ids: B inputs; those with pictures are :class:`teva_data.inputs.Tokens`.
        ids: int64 [B, T], the same padded, on the model's device.
        seen: what the tower has put out for these pictures (:func:`watched`), where it is not to run.

    Returns:
        ``pixel_values`` float32 [P, C], or in their place ``mm_encoder_outputs``; ``image_grid_thw`` int64
        [pictures, 3], ``mm_token_type_ids`` int32 [B, T]: 1 where a token stands for a part of a picture.
    """
    if omni.part_of(backbone) is not None:
        return omni.arguments(backbone, token_ids, ids, seen)
    pictures: list[Picture] = [one for each in token_ids if isinstance(each, Tokens) for one in each.pictures]
    if not pictures:
        return {}
    return {
        **({"pixel_values": patches(pictures, ids.device)} if seen is None else {"mm_encoder_outputs": seen}),
        "image_grid_thw": torch.tensor([picture.grid for picture in pictures], device=ids.device),
        "mm_token_type_ids": (ids == backbone.config.image_token_id).int(),
    }


def patches(pictures: Sequence[Picture], device: torch.device) -> Tensor:
    """float32 [P, C] of pictures and clips in their order; bytes, a fraction of that, are what goes to the device."""
    runs = itertools.groupby(pictures, key=lambda picture: (picture.depth, picture.tone is None))
    found = [_values(list(run), device) for _, run in runs]
    return torch.cat(found) if len(found) > 1 else found[0]


def _values(pictures: Sequence[Picture], device: torch.device) -> Tensor:
    """Those of pictures of one depth."""
    tone = pictures[0].tone  # all are one model's
    pixels = torch.from_numpy(np.concatenate([picture.pixels for picture in pictures])).to(device, non_blocking=True)
    if tone is None:
        return pixels
    scale, shift = (torch.from_numpy(each).to(device)[:, None, None] for each in (tone.scale, tone.shift))
    depth = pictures[0].depth
    values = pixels.view(len(pixels), len(tone.scale), depth, -1) * scale + shift
    if depth < tone.frames:
        values = values.expand(-1, -1, tone.frames, -1)
    return values.reshape(len(pixels), -1)


def blanks(backbone: Any, token_ids: Sequence[Sequence[int]]) -> list[Tokens]:
    """Inputs of a few tokens that show a pass what it lacks, so that it goes through all towers of the model.

    Args:
        backbone: that takes media.
        token_ids: the pass so far.
    """
    held = [one for each in token_ids if isinstance(each, Tokens) for one in each.pictures]
    sees = any(isinstance(one, Picture) for one in held)
    if omni.part_of(backbone) is None:
        return [] if sees else [blank(backbone)]
    hears = any(isinstance(one, Sound) or getattr(one, "sound", None) is not None for one in held)
    return [] if sees and hears else [omni.blank(backbone.config, vision=not sees, audio=not hears)]


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
    part = omni.part_of(backbone)
    if part is not None:
        part.kept = []
        try:
            yield found
        finally:
            kept, part.kept = part.kept, None
        frozen = {"vision": _is_frozen(part.visual), "audio": _is_frozen(part.audio_tower)}
        passes = [{kind: one.detach() for kind, one in each.items() if frozen[kind]} for each in kept]
        found += [each for each in passes if each]
        return
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
    return tower if _is_frozen(tower) else None


def _is_frozen(module: nn.Module) -> bool:
    return not any(one.requires_grad for one in module.parameters())


def tower_name(backbone: nn.Module, names: Sequence[str] = _SEES) -> str | None:
    """The dotted name of what sees pictures; None in a model of text."""
    found = [name for name, _ in backbone.named_modules() if name.rpartition(".")[2] in names]
    return min(found, key=len) if found else None


def hearing_tower_name(backbone: nn.Module) -> str | None:
    """The dotted name of what hears sounds; None in a model that does not."""
    return tower_name(backbone, _HEARS)


def freeze_tower(backbone: nn.Module) -> None:
    """Train all but what sees pictures.

    Raises:
        RecipeError: it sees none.
    """
    _freeze(backbone, tower_name(backbone), "torch.freeze_vision: this model sees no pictures")


def freeze_audio(backbone: nn.Module) -> None:
    """Train all but what hears sounds.

    Raises:
        RecipeError: it hears none.
    """
    _freeze(backbone, hearing_tower_name(backbone), "torch.freeze_audio: this model hears no sounds")


def _freeze(backbone: nn.Module, name: str | None, problem: str) -> None:
    if name is None:
        raise RecipeError(f"{problem}. Leave it out")
    backbone.get_submodule(name).requires_grad_(False)


def freeze_text(backbone: nn.Module) -> None:
    """Train all but the tower that reads, of a model that has one apart.

    Raises:
        RecipeError: it has none.
    """
    if not hasattr(backbone, "text_model") or tower_name(backbone, (*_SEES, *_HEARS)) is None:
        raise RecipeError("torch.freeze_text: this model has no tower of its own for texts. Leave it out")
    backbone.text_model.requires_grad_(False)  # type: ignore[operator]

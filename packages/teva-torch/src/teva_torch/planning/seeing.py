"""What pictures and clips cost: the tower that sees is run on a few patches, and all it does grows with their number.

How patches are cut into windows depends on values, which tensors without values do not have, so here they are real: two
or four blocks of the tower at their full width, on a picture of a few hundred patches. The decoder knows nothing of
pictures: to it they are tokens. A tower that hears counts by its parameters: what it does for a recording is a small
part of what the decoder does for its tokens, and is not foretold.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from types import SimpleNamespace
from typing import Any

import torch
from teva_data.recipe import Recipe
from teva_torch import omni
from teva_torch.backbones import checkpoint_gradients
from teva_torch.lora import add_lora, default_targets
from teva_torch.recipe import LoraSection, torch_section
from teva_torch.vision import tower_name
from torch import nn

from .layout import Sizes, counted
from .tracing import ATTENTION, Build, Costs, Live, as_on_gpu, by_depth, cast, config_of, register

OMNI = "qwen2_5_omni_thinker"
_SIDE = 16  # patches of a side of the picture that is run, at most


@dataclasses.dataclass(frozen=True)
class Seen:
    """The pictures of a run.

    Attributes:
        number: of a document.
        tokens: of a picture.
        trained: whether the tower, or an adapter in it, is.
        once: whether a batch is seen once, where gradient caching makes two passes.
    """

    number: int
    tokens: int
    trained: bool
    once: bool


def text_part(config: str) -> str:
    """The configuration of what reads tokens, of a model that sees too; of another, its own."""
    found = config_of(config)
    text = found.get_text_config()
    if found.model_type == OMNI:
        # Its decoder is Qwen2's, which transformers makes by itself; positions of three axes cost the same.
        values = {key: value for key, value in text.to_dict().items() if key != "rope_parameters"}
        return json.dumps({**values, "model_type": "qwen2", "rope_theta": 1e6}, default=str)
    return config if text is found else json.dumps(text.to_dict(), default=str)


def sees(config: str) -> bool:
    """Whether a model sees pictures in a way that is known here."""
    values = json.loads(config)
    return "vision_config" in values and ("image_token_id" in values or values["model_type"] == OMNI)


def seen_of(recipe: Recipe, config: str, number: int | None) -> Seen | None:
    """The pictures that a plan is of; None where there are none.

    Args:
        recipe: its limits of pixels and of tokens bound a picture's tokens.
        config: the model's, as JSON.
        number: of a document; where not given, one, if the model sees.
    """
    if not sees(config) or number == 0:
        return None
    values, options = config_of(config).vision_config, torch_section(recipe)
    side = values.patch_size * values.spatial_merge_size
    most = recipe.model.document_max_length // (number or 1) - 2  # between a token that begins it and one that ends it
    tokens = most if recipe.model.max_pixels is None else min(most, recipe.model.max_pixels // side**2)
    whole = options.lora is None and not options.freeze_vision
    trained = whole or (options.lora is not None and options.lora.vision)
    if recipe.model.max_pixels is not None and config_of(config).model_type == OMNI:
        tokens = most  # a clip's frames together may be more than a picture
    return Seen(number or 1, max(1, tokens), trained, options.gradient_cache and not trained and options.keep_vision)


def with_pictures(text: Costs, config: str, build: Build, seen: Seen, rows: int) -> Costs:
    """The costs of a pass of ``rows`` documents with their pictures; the tower is run before the decoder."""
    patches = rows * seen.number * seen.tokens * config_of(config).vision_config.spatial_merge_size ** 2
    tower = _traced(config, build, seen.trained)
    one = {field.name: patches * getattr(tower, field.name) for field in dataclasses.fields(tower)}
    # Caching counts two passes forward; of a tower that sees once that is half of each.
    share = 0.5 if seen.once else 1.0
    return Costs(
        shared=text.shared, shared_back=text.shared_back, kept=text.kept + one["kept"],
        forward=max(text.forward, one["forward"] - text.kept),
        backward=max(text.backward, one["backward"] - text.kept), fresh=max(text.fresh, one["fresh"] - text.kept),
        blind=max(text.blind, one["blind"]), flops=text.flops + share * one["flops"],
        back_flops=text.back_flops + one["back_flops"], moved=text.moved + share * one["moved"],
        back_moved=text.back_moved + one["back_moved"],
    )  # fmt: skip


def kept_between_passes(config: str, build: Build, seen: Seen, documents: int) -> float:
    """Bytes of what a frozen tower has put out for a batch's pictures, from the first pass to the second."""
    if not seen.once:
        return 0.0
    vision, hidden = config_of(config).vision_config, config_of(config).get_text_config().hidden_size
    vectors = 1 + len(getattr(vision, "deepstack_visual_indexes", ()))
    return float(documents * seen.number * seen.tokens * hidden * vectors * (2 if build.half else 4))


def with_tower(text: Sizes, config: str, build: Build, *, trained: bool, hears: bool = False) -> Sizes:
    """The sizes of a model of its two parts, or its three: the one that hears is trained where
    ``hears``."""
    plain = dataclasses.replace(build, cast=False, checkpointing=False)
    parts = [text, _sizes(config, plain, trained)]
    if config_of(config).model_type == OMNI:
        parts.append(_hearing_sizes(config, plain, hears))
    summed = ("parameters", "trained", "loaded", "rest", "trained_rest")
    return Sizes(**{
        field.name: sum(values) if field.name in summed else max(values)
        for field in dataclasses.fields(Sizes)
        for values in [[getattr(part, field.name) for part in parts]]
    })  # fmt: skip


@functools.lru_cache(maxsize=64)
def _hearing_sizes(config: str, build: Build, trained: bool) -> Sizes:
    """The sizes of the tower that hears."""
    tower = _whole(config_of(config), build, None).audio_tower
    if build.lora is not None and trained:
        section = LoraSection.model_validate_json(build.lora)
        tower = add_lora(tower, section.model_copy(update={"targets": default_targets(tower)})).get_base_model()
    elif not trained:
        tower.requires_grad_(False)
    tower.get_parameter("audio_bos_eos_token.weight").requires_grad_(False)
    return counted(tower, build)


@functools.lru_cache(maxsize=64)
def _sizes(config: str, build: Build, trained: bool) -> Sizes:
    shape = config_of(config)
    found: Sizes = by_depth(_blocks(shape), lambda depth: counted(_tower(shape, build, trained, depth), build))
    return found


@functools.lru_cache(maxsize=64)
def _traced(config: str, build: Build, trained: bool) -> Costs:
    """Costs of a patch."""
    shape = config_of(config)
    found: Costs = by_depth(
        _blocks(shape), lambda depth: _measured(shape, build, trained, depth), constant=("forward", "backward")
    )
    return found


def _blocks(config: Any) -> Any:
    """As :func:`.tracing.by_depth` asks for the depth: four blocks at least, for those of Qwen3-VL that put out too."""
    depth = config.vision_config.depth
    return SimpleNamespace(num_hidden_layers=depth, layer_types=[at % 4 for at in range(depth)])


def _tower(config: Any, build: Build, trained: bool, depth: int | None, live: Live | None = None) -> nn.Module:
    """The tower on the meta device, of so many blocks."""
    register(live or Live())
    whole = _whole(config, build, depth)
    with torch.device("meta"):
        if build.checkpointing:
            checkpoint_gradients(whole)
        tower: nn.Module = whole.get_submodule(tower_name(whole))
        if build.lora is not None and trained:
            section = LoraSection.model_validate_json(build.lora)
            section = section.model_copy(update={"targets": default_targets(tower), "vision": True})
            tower = add_lora(tower, section).get_base_model()  # its wrapping is made for what reads ids
    if not trained:
        tower.requires_grad_(False)
    if build.cast and build.half:
        tower.to(torch.bfloat16)
    return tower.train()


def _whole(config: Any, build: Build, depth: int | None) -> Any:
    """The model on the meta device, with a decoder of one block, and so many blocks of the tower that sees."""
    from transformers import AutoModel

    values = config.to_dict()
    text, seeing = values["text_config"], values["vision_config"]
    values["text_config"] = text | {"num_hidden_layers": 1, "vocab_size": config.image_token_id + 1}
    if text.get("layer_types"):
        values["text_config"]["layer_types"] = text["layer_types"][:1]
    if depth is not None:
        values["vision_config"] = seeing | {"depth": depth}
        if places := seeing.get("deepstack_visual_indexes"):
            values["vision_config"]["deepstack_visual_indexes"] = list(range(len(places)))
    attention = ATTENTION if build.gpu and build.attention != "eager" else build.attention
    make = omni.model_class()._from_config if config.model_type == OMNI else AutoModel.from_config
    with torch.device("meta"):
        return make(type(config).from_dict(values), attn_implementation=attention, dtype=build.dtype)


def _measured(config: Any, build: Build, trained: bool, depth: int | None) -> Costs:
    live = Live()
    tower = _tower(config, build, trained, depth, live).to_empty(device="cpu")
    with torch.no_grad():
        for one in (*tower.parameters(), *tower.buffers()):
            one.zero_()
    if build.gpu:
        as_on_gpu(tower, build)
        for module in tower.modules():
            if build.half and isinstance(module, nn.LayerNorm):
                module.float()  # as autocast makes its weights too
    seeing = config.vision_config
    grid = torch.tensor([[1, _SIDE, _SIDE]])
    numbers = getattr(seeing, "in_channels", 3) * seeing.temporal_patch_size * seeing.patch_size**2

    def see() -> Any:
        return tower(torch.zeros((_SIDE * _SIDE, numbers)).to(_dtype(tower)), grid_thw=grid).pooler_output

    with live:
        live.own(tower)
        costs = _passes(see, live, build)
    values = {key: value / (_SIDE * _SIDE) for key, value in dataclasses.asdict(costs).items()}
    return Costs(**values)


def _passes(see: Any, live: Live, build: Build) -> Costs:
    """A pass that keeps nothing, one that keeps what its way back wants, and that way."""
    before = live.mark()
    with torch.no_grad(), cast(build):
        see()
    blind = live.most - before
    before, live.flops, live.moved = live.mark(), 0, 0
    with cast(build):
        found = see()
    flops, moved, kept = live.flops, live.moved, live.now - before
    forward = live.most - live.now
    held, live.flops, live.moved = live.mark(), 0, 0
    if found.requires_grad:
        torch.autograd.backward([found], [torch.empty_like(found)])
    fresh = live.most - held
    return Costs(0, 0, kept, forward, fresh, fresh, blind, flops, live.flops, moved, live.moved)


def _dtype(tower: nn.Module) -> torch.dtype:
    return next(one.dtype for one in tower.parameters() if one.is_floating_point())

"""What a process holds of a model between and during passes, by strategy. P parameters, T of them trained, W processes.

Bytes of the optimisers and of ZeRO's stages: Rajbhandari et al., "ZeRO" (arXiv 1910.02054), section 3, with what
teva_torch.strategies makes of them; FSDP2 gathers a block and the next one.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

from teva_torch.backbones import blocks
from teva_torch.distributed import BUCKET
from torch import nn

from .tracing import Build, by_depth, config_of, make_model

# What DeepSpeed does where its settings are silent.
_LIVE, _BUCKET = 1e9, 5e8  # stage3_max_live_parameters, reduce_bucket_size
_NF4 = 0.5 + 0.127 / 8 + 1e-3  # bytes of a 4-bit weight with its scales, quantised twice (QLoRA, section 3)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Parameters of a model; ``bytes`` are those of its weights as loaded.

    Attributes:
        parameters: P.
        trained: T.
        loaded: bytes.
        rest: parameters outside the blocks; ``rest_trained`` of them are trained.
        block: parameters of the largest block; ``block_trained`` of them are trained.
        largest: parameters of the largest tensor.
        trained_rest: see ``rest``.
        trained_block: see ``block``.
    """

    parameters: float
    trained: float
    loaded: float
    rest: float
    block: float
    largest: float
    trained_rest: float
    trained_block: float


@dataclasses.dataclass(frozen=True)
class Layout:
    """Bytes that a process has on its device.

    Attributes:
        weights: always there.
        masters: float32 weights beside those that compute.
        optimizer: its two moments.
        gradients: once they are there.
        standing: whether they are there from the start to the end.
        gathered: weights of the others, during passes.
        exchange: buffers during the way back.
        whole_gradients: all gradients in one piece, as autograd sums those of several passes that go back at once.
        at_end: buffers when the gradients of what stands outside the blocks leave, and no activation is left.
        step: buffers of the optimiser and of an exchange before it.
        host: in the CPU's memory.
        whole: all weights as they are gathered for a pass; 0 where each process holds them.
        stepped: parameters that the process's optimiser changes.
    """

    weights: float
    masters: float
    optimizer: float
    gradients: float
    standing: bool
    gathered: float
    exchange: float
    whole_gradients: float
    at_end: float
    step: float
    host: float
    whole: float
    stepped: float


@functools.lru_cache(maxsize=64)
def sizes(config: str, build: Build) -> Sizes:
    """Count the parameters of a model that is built on the meta device."""
    build, model = dataclasses.replace(build, cast=False, checkpointing=False), config_of(config)
    found: Sizes = by_depth(model, lambda depth: counted(make_model(model, build, depth), build))
    return found


def counted(model: nn.Module, build: Build) -> Sizes:
    """The sizes of a module; what it repeats are its blocks."""
    holders = [(f"{name}.", len(layers)) for name, layers in blocks(model)]
    each: dict[str, list[int]] = {}
    loaded = 0.0
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for name, one in model.named_parameters():
        holder = next((start for start, _ in holders if name.startswith(start)), None)
        key = "" if holder is None else re.match(rf"{re.escape(holder)}\d+", name)[0]  # type: ignore[index]
        found = each.setdefault(key, [0, 0])
        found[0] += one.numel()
        found[1] += one.numel() if one.requires_grad else 0
        quantised = build.weights == 4 and name in linear and not one.requires_grad and holder is not None
        loaded += one.numel() * (_NF4 if quantised else one.element_size())
    rest = each.pop("", [0, 0])
    block = max(each.values(), default=[0, 0])
    total, trained = (rest[at] + sum(one[at] for one in each.values()) for at in (0, 1))
    largest = max(one.numel() for one in model.parameters())
    return Sizes(total, trained, loaded, rest[0], block[0], largest, rest[1], block[1])


def layout(
    strategy: str,
    size: Sizes,
    processes: int,
    *,
    half: bool,
    optimizer: str,
    zero: Mapping[str, Any] | None = None,
    reshard: bool = True,
) -> Layout:
    """Bytes by part.

    Args:
        strategy: single, ddp, fsdp2, or a stage of ZeRO: zero0, zero1, zero2, zero3, zero3-offload.
        size: of the model.
        processes: W.
        half: whether passes compute in bfloat16.
        optimizer: adamw or adamw_8bit.
        zero: ``zero_optimization`` of DeepSpeed's settings.
        reshard: whether fsdp2 lets go of a block after its forward pass.
    """
    trained, world = size.trained, processes
    moments = (8 if optimizer == "adamw" else 2.06) * trained
    if strategy in ("single", "ddp"):
        flat = 4 * min(trained, max(BUCKET, size.largest)) if world > 1 else 0
        return Layout(
            weights=size.loaded, masters=0, optimizer=moments, gradients=4 * trained, standing=False, gathered=0,
            exchange=0, whole_gradients=4 * trained, at_end=0, step=flat, host=0, whole=0, stepped=trained,
        )  # fmt: skip
    if strategy == "fsdp2":
        return _fsdp2(size, world, moments, half=half, reshard=reshard)
    if strategy.startswith("zero3"):
        return _zero3(size, world, moments, zero or {}, half=half, offload=strategy.endswith("offload"))
    return _zero(int(strategy[4]), size, world, moments, zero or {}, half=half)


def _fsdp2(size: Sizes, world: int, moments: float, *, half: bool, reshard: bool) -> Layout:
    unit = 2 if half else size.loaded / size.parameters
    # The block at work and the next one, gathered and as they came; what stands outside the blocks stays gathered.
    gathered = unit * (size.rest + 3 * size.block if reshard else size.parameters + size.block)
    return Layout(
        weights=size.loaded / world, masters=0, optimizer=moments / world, gradients=4 * size.trained / world,
        standing=False, gathered=gathered, exchange=(unit + 4) * size.trained_block,
        whole_gradients=unit * size.trained, at_end=(unit + 4) * size.trained_rest,
        step=8 * size.largest / world if size.trained else 0, host=0,
        whole=unit * size.parameters, stepped=size.trained / world,
    )  # fmt: skip


def _zero(stage: int, size: Sizes, world: int, moments: float, zero: Mapping[str, Any], *, half: bool) -> Layout:
    """Stages 0 to 2: weights whole."""
    unit, trained = (2 if half else 4), size.trained
    if stage == 0:
        return Layout(
            weights=size.loaded, masters=0, optimizer=moments, gradients=4 * trained, standing=False, gathered=0,
            exchange=0, whole_gradients=4 * trained, at_end=0, step=4 * min(trained, _BUCKET), host=0, whole=0,
            stepped=trained,
        )  # fmt: skip
    return Layout(
        weights=unit * size.parameters, masters=4 * trained / world, optimizer=moments / world,
        gradients=unit * trained / (world if stage == 2 else 1), standing=False, gathered=0,
        exchange=unit * float(zero.get("reduce_bucket_size", _BUCKET)), whole_gradients=unit * trained,
        at_end=0, step=4 * trained / world, host=0, whole=0, stepped=trained / world,
    )  # fmt: skip


def _zero3(size: Sizes, world: int, moments: float, zero: Mapping[str, Any], *, half: bool, offload: bool) -> Layout:
    unit, trained = (2 if half else 4), size.trained
    bucket = unit * float(zero.get("reduce_bucket_size", _BUCKET))
    gathered = unit * min(size.parameters, float(zero.get("stage3_max_live_parameters", _LIVE)))
    weights, own = unit * size.parameters / world, {"masters": 4 * trained / world, "optimizer": moments / world}
    gradients = unit * trained / world
    # A bucket's gradients are copied when they leave; a tensor larger than it leaves alone.
    leaving = min(unit * trained, max(bucket, unit * size.largest))
    host = weights + sum(own.values()) + gradients if offload else 0.0
    return Layout(
        weights=0 if offload else weights, **({"masters": 0, "optimizer": 0} if offload else own),
        gradients=bucket + (0 if offload else gradients), standing=True, gathered=gathered, exchange=leaving,
        whole_gradients=unit * trained, at_end=0,
        step=0 if offload else 4 * trained / world, host=host, whole=unit * size.parameters, stepped=trained / world,
    )  # fmt: skip

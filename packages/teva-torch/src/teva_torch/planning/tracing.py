"""What a pass through a model costs, found by running it on tensors that have shapes and no values.

The model is built from its configuration and run under torch's ``FakeTensorMode``: the operators are those of a real
pass, in its order and with its dtypes, and every storage that comes and goes is counted. A model of 8 billion
parameters takes a second or two and no memory. Sizes grow by the same amount with each further block, so a deep model
is traced at two small depths.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

import torch
from teva_torch.backbones import checkpoint_gradients, with_direction
from teva_torch.lora import add_lora
from teva_torch.model import Retriever
from teva_torch.pooling import mean_pooling
from teva_torch.recipe import LoraSection
from torch import Tensor, nn

# Deeper models are traced at two depths of so many blocks: a multiple of how often kinds of layers alternate.
_DEPTHS = 6


@dataclasses.dataclass(frozen=True)
class Build:
    """How a model is made for a trace: what decides its operators.

    Attributes:
        half: whether passes compute in bfloat16.
        weights: bits of a frozen weight: 32, 16 or 4.
        cast: whether weights are held in the precision of the passes already, as where they are gathered for a pass.
        gpu: whether attention never holds its matrix, and autocast is that of CUDA.
        packed: rows without padding.
    """

    half: bool = False
    weights: int = 32
    cast: bool = False
    gpu: bool = True
    packed: bool = False
    attention: str = "sdpa"
    bidirectional: bool | None = None
    checkpointing: bool = False
    lora: str | None = None  # JSON of the section, so that builds can be compared

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen weights, as operators see them."""
        return torch.float32 if self.weights == 32 and not (self.cast and self.half) else torch.bfloat16


@dataclasses.dataclass(frozen=True)
class Costs:
    """Bytes and operations of a pass of one shape, beside the weights and their gradients.

    Attributes:
        shared: bytes that the first pass keeps and later ones share: weights in the precision of the passes.
        shared_back: those of ``shared`` that are still there once all passes forward are done.
        kept: bytes that a pass keeps for its way back.
        forward: bytes more than those at the highest point of the pass.
        backward: bytes above what was held before the way back, at its highest point, the gradients there already.
        fresh: likewise, the gradients not there yet: they are part of it.
        blind: bytes at the highest point of a pass that keeps nothing (the first of gradient caching).
        flops: floating-point operations of the pass.
        back_flops: of the way back, with what is computed again.
        moved: bytes that operators other than matrix products read and write, forward.
        back_moved: likewise, on the way back.
    """

    shared: float
    shared_back: float
    kept: float
    forward: float
    backward: float
    fresh: float
    blind: float
    flops: float
    back_flops: float
    moved: float
    back_moved: float


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that operators make, and what the operators do.

    Attributes:
        now: bytes alive.
        most: the largest ``now`` since :meth:`mark`.
        flops: of matrix products.
        moved: bytes read and written by all other operators.
        cast: bytes of weights that autocast has made of others, and keeps for its block.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = self.flops = self.moved = self.cast = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()
        self._weights: weakref.WeakSet[Any] = weakref.WeakSet()

    def own(self, model: nn.Module) -> None:
        """Count a model's tensors, and know its trained weights again, which are those that autocast keeps cast."""
        for one in (*model.parameters(), *model.buffers()):
            self._see(one)
            if one.requires_grad:
                self._weights.add(one.untyped_storage())

    def mark(self) -> int:
        """Begin a new highest point; returns what is alive."""
        self.most = self.now
        return self.now

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [one for one in tree_leaves(result) if isinstance(one, Tensor)]
        new = [one for one in made if self._see(one)]
        if func is torch.ops.aten._to_copy.default and args[0].untyped_storage() in self._weights:
            self.cast += sum(_size(one) for one in new)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        elif new or func._schema.is_mutable:  # a view moves nothing
            given = [one for one in tree_leaves(args) if isinstance(one, Tensor)]
            self.moved += sum(_size(one) for one in (*given, *made))
        return result

    def _see(self, tensor: Tensor) -> bool:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return False
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, size)
        return True

    def _gone(self, size: int) -> None:
        self.now -= size


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


class _Flash(torch.autograd.Function):
    """Attention as a fused kernel holds it: queries, keys, values, result, and one number for each row of its matrix.

    Dao et al., "FlashAttention" (arXiv 2205.14135). The values are not computed: shapes alone count.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, live: Live) -> Tensor:
        result = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, result, query.new_empty(query.shape[:-1], dtype=torch.float32))
        # Two products forward, five on the way back (FlashAttention-2, arXiv 2307.08691, section 3.1).
        ctx.live, ctx.pairs = live, query.shape[:-1].numel() * key.shape[2] * query.shape[3]
        live.flops += 4 * ctx.pairs
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        ctx.live.flops += 10 * ctx.pairs
        return *(torch.empty_like(one) for one in ctx.saved_tensors[:3]), None


ATTENTION = "teva_planned"  # its name in transformers' registry


def _attention(
    live: Live, module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: Any
) -> tuple[Tensor, None]:
    """A fused kernel's attention as transformers calls it: with a mask, heads that share keys get copies of them."""
    heads = query.shape[1]
    if attention_mask is not None and key.shape[1] != heads:
        key, value = (one.repeat_interleave(heads // one.shape[1], dim=1) for one in (key, value))
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (one.to(torch.get_autocast_dtype("cpu")) for one in (query, key, value))
    result: Tensor = _Flash.apply(query, key, value, live)  # type: ignore[no-untyped-call]
    return result.transpose(1, 2).contiguous(), None


def register(live: Live) -> None:
    """Enter a fused kernel's attention in transformers' registries; ``live`` counts what it computes."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, functools.partial(_attention, live))
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def as_on_gpu(model: nn.Module, build: Build) -> None:
    """CUDA's autocast computes this in float32, the CPU's does not."""
    for module in model.modules():
        if build.half and isinstance(module, nn.LayerNorm):
            module.register_forward_pre_hook(lambda _, given: tuple(one.float() for one in given))


def make_model(config: Any, build: Build, depth: int | None = None, live: Live | None = None) -> Retriever:
    """A model on the meta device.

    Args:
        config: transformers' configuration of the backbone.
        build: how.
        depth: blocks, where not all.
        live: counts what attention computes.
    """
    from transformers import AutoModel

    register(live or Live())
    config = type(config).from_dict({**config.to_dict(), **(_shallow(config, depth) if depth else {})})
    if build.bidirectional is not None:
        config = with_direction(config, bidirectional=build.bidirectional)
    attention = ATTENTION if build.gpu and build.attention != "eager" else build.attention
    with torch.device("meta"):
        backbone = AutoModel.from_config(config, attn_implementation=attention, dtype=build.dtype)
    model = Retriever(backbone, mean_pooling, normalize=True, pad_id=0)
    if build.checkpointing:
        checkpoint_gradients(model.backbone)
    if build.lora is not None:
        with torch.device("meta"):
            model.backbone = add_lora(model.backbone, LoraSection.model_validate_json(build.lora))
    if build.cast and build.half:
        model.to(torch.bfloat16)
    return model.train()


@functools.lru_cache(maxsize=512)
def _traced(config: str, build: Build, rows: int, length: int) -> Costs:
    return trace(config_of(config), build, rows, length)


def traced(config: str, build: Build, shapes: Sequence[tuple[int, int]]) -> list[Costs]:
    """What passes of some shapes [B, T] cost.

    Where attention holds no matrix, all but the largest follow from that by their number of tokens.

    Args:
        config: transformers' configuration as JSON.
        build: how the model is made.
        shapes: texts and tokens of each.
    """
    if not build.gpu or build.attention == "eager":
        return [_traced(config, build, *shape) for shape in shapes]
    largest = max(shapes, key=math.prod)
    found = _traced(config, build, *largest)
    return [_scaled(found, math.prod(shape) / math.prod(largest)) for shape in shapes]


def _scaled(costs: Costs, share: float) -> Costs:
    same = {"shared": costs.shared, "shared_back": costs.shared_back}  # of weights, not of tokens
    values = {field.name: share * getattr(costs, field.name) for field in dataclasses.fields(costs)}
    return Costs(**(values | same))


def config_of(text: str) -> Any:
    """transformers' configuration from its JSON.

    Raises:
        ValueError: no ``model_type``, or one that transformers does not know.
    """
    from transformers import AutoConfig

    values = json.loads(text)
    return AutoConfig.for_model(values.pop("model_type"), **values)


def trace(config: Any, build: Build, rows: int, length: int) -> Costs:
    """What passes of ``rows`` texts of ``length`` tokens each cost."""
    found: Costs = by_depth(
        config, lambda depth: _trace(config, build, rows, length, depth), constant=("forward", "backward")
    )
    return found


def by_depth(config: Any, measure: Callable[[int | None], Any], constant: Sequence[str] = ()) -> Any:
    """What a dataclass of numbers comes to for the whole model: a deep one is measured at two small depths.

    Args:
        config: transformers' configuration.
        measure: gives it for a number of blocks; for all of them where that is None.
        constant: fields that are the same whatever the depth.
    """
    layers = getattr(config, "num_hidden_layers", 0)
    if layers <= _DEPTHS:
        return measure(None)
    few = _period(config)
    first, second = measure(few), measure(2 * few)
    share = (layers - few) / few
    pairs = zip(dataclasses.astuple(first), dataclasses.astuple(second), strict=True)
    found = type(first)(*(one + share * (two - one) for one, two in pairs))
    # What is there for a moment does not grow with the depth.
    return dataclasses.replace(found, **{name: getattr(second, name) for name in constant})


def _period(config: Any) -> int:
    """Blocks after which the kinds of layers begin anew, and at least 2."""
    kinds = getattr(config, "layer_types", None)
    for size in range(2, _DEPTHS):
        if not kinds or all(kind == kinds[at % size] for at, kind in enumerate(kinds)):
            return size
    return _DEPTHS


def _shallow(config: Any, depth: int) -> dict[str, Any]:
    kinds = getattr(config, "layer_types", None)
    return {"num_hidden_layers": depth, **({"layer_types": kinds[:depth]} if kinds else {})}


def _trace(config: Any, build: Build, rows: int, length: int, depth: int | None) -> Costs:
    live = Live()
    model = make_model(config, build, depth, live)
    if build.gpu:
        as_on_gpu(model, build)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _to_fake(model)
        ids = torch.zeros((rows, length), dtype=torch.int64)
        mask = torch.ones_like(ids)
        with live:
            live.own(model)
            return _measure(model, build, live, ids, mask)


def _to_fake(model: nn.Module) -> None:
    """Put tensors that pass for the CPU's in the place of those of the meta device, which knows no autocast."""
    for module in model.modules():
        for name, one in module._parameters.items():
            if one is not None:
                empty = torch.empty(one.shape, dtype=one.dtype)
                module._parameters[name] = nn.Parameter(empty, requires_grad=one.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _measure(model: Retriever, build: Build, live: Live, ids: Tensor, mask: Tensor) -> Costs:
    def encode() -> Tensor:
        if not build.packed:
            return model(ids, mask)  # type: ignore[no-any-return]
        hidden = model.backbone(input_ids=ids, **model._options).last_hidden_state
        return nn.functional.normalize(model.pooling(hidden, mask).float(), dim=-1)

    def back(vectors: Tensor) -> int:
        held = live.mark()
        torch.autograd.backward([vectors], [torch.empty_like(vectors)])
        return live.most - held

    before = live.mark()
    with torch.no_grad(), cast(build):
        encode()
    blind = live.most - before

    before, live.flops, live.moved, live.cast = live.mark(), 0, 0, 0
    with cast(build):
        vectors = encode()
        flops, moved, shared = live.flops, live.moved, live.cast
        kept, forward = live.now - before - shared, live.most - live.now
    shared_back = live.now - before - kept
    live.flops = live.moved = 0
    fresh, back_flops, back_moved = back(vectors), live.flops, live.moved
    del vectors
    backward = fresh
    if sum(one.nbytes for one in model.parameters() if one.requires_grad) > kept / 10:
        with cast(build):
            again = encode()
        backward = back(again)
    return Costs(shared, shared_back, kept, forward, backward, fresh, blind, flops, back_flops, moved, back_moved)


@contextlib.contextmanager
def cast(build: Build) -> Iterator[None]:
    """Autocast as a pass has it."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=build.half):
        yield

"""Memory and time of one training step, from a recipe and the configuration of its model.

A step has phases (teva_torch.caching): passes forward, the loss on vectors, the way back, the optimiser. Each holds
other things; the largest of them is what a GPU must have. All texts are taken to be as long as the recipe lets them be,
and all documents of a batch to be distinct: what a run needs at most.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping
from typing import Any

import torch
from teva_data.batching import least_work_batches
from teva_data.recipe import Recipe
from teva_torch.model import PASS_TOKENS
from teva_torch.recipe import TorchSection, torch_section
from teva_torch.strategies.zero import settings_of

from .gpus import Gpu
from .layout import layout, sizes
from .phases import phases_of
from .seeing import kept_between_passes, seen_of, sees, text_part, with_pictures, with_tower
from .timing import Assumed, seconds_of
from .tracing import Build, traced

GIB = 2**30
_CUT = 8  # passes, beyond which all but the last are full


@dataclasses.dataclass(frozen=True)
class Load:
    """One batch of a process: how many texts of which length.

    Attributes:
        queries: own ones.
        documents: own ones.
        all_texts: of all processes.
        query_length: tokens.
        document_length: tokens.
    """

    queries: int
    documents: int
    all_texts: int
    query_length: int
    document_length: int

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return max(self.query_length, self.document_length)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What one step takes.

    Attributes:
        strategy: single, ddp, fsdp2, zero0 to zero3, zero3-offload.
        phase: in which the highest point of the step is.
        parts: bytes by part at that point.
        phases: bytes at the highest point of each phase.
        host: bytes in the CPU's memory.
        seconds: of a step; by what it is spent on.
        passes: forward passes of a process and batch.
        parameters: of the model.
        trained: of them.
    """

    strategy: str
    phase: str
    parts: Mapping[str, float]
    phases: Mapping[str, float]
    host: float
    seconds: Mapping[str, float]
    passes: int
    parameters: float
    trained: float

    @property
    def bytes(self) -> float:
        """At the highest point."""
        return max(self.phases.values())

    @property
    def time(self) -> float:
        """Seconds of a step."""
        return sum(self.seconds.values())


def strategy_of(options: TorchSection, processes: int) -> str:
    """The strategy by one name: a stage of ZeRO stands for deepspeed and its settings."""
    if options.strategy == "deepspeed":
        zero = _zero(options)
        offload = "-offload" if zero.get("offload_param", {}).get("device", "none") != "none" else ""
        return f"zero{int(zero.get('stage', 0))}{offload}"
    if options.strategy == "auto":
        return "single" if processes == 1 else "ddp"
    return options.strategy


def _zero(options: TorchSection) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if options.strategy == "deepspeed":
        found = settings_of(options.deepspeed).get("zero_optimization", {})
    return found


def load_of(recipe: Recipe, processes: int) -> Load:
    """The texts of the process that has most of a batch."""
    batch, documents = recipe.train.batch_size, recipe.train.batch_size * (1 + recipe.data.negatives)
    own = [-(-count // processes) for count in (batch, documents)]
    return Load(own[0], own[1], batch + documents, recipe.model.query_max_length, recipe.model.document_max_length)


def predict(
    recipe: Recipe,
    config: str,
    gpu: Gpu,
    processes: int,
    assumed: Assumed | None = None,
    pictures: int | None = None,
) -> Prediction:
    """Memory and time of a step.

    Args:
        recipe: as :func:`teva_torch.recipe.read_recipe` gives.
        config: transformers' configuration of the model, as JSON.
        gpu: the device.
        processes: how many of them.
        assumed: shares and constants that no configuration tells.
        pictures: of a document; one where not given, if the model sees.

    Raises:
        RecipeError: settings that the model does not have.
    """
    assumed, options = assumed or Assumed(), torch_section(recipe)
    strategy, load = strategy_of(options, processes), load_of(recipe, processes)
    build, text = build_of(recipe, strategy, gpu), text_part(config)
    plainest = dataclasses.replace(build, packed=False, gpu=False, attention="sdpa")
    size, seen = sizes(text, plainest), seen_of(recipe, config, pictures)
    if sees(config):
        trained = options.lora is None and not options.freeze_vision
        hears = options.lora.audio if options.lora is not None else not options.freeze_audio
        size = with_tower(size, config, plainest, trained=trained if seen is None else seen.trained, hears=hears)
    held = layout(
        strategy, size, processes, half=build.half, optimizer=options.optimizer, zero=_zero(options),
        reshard=options.reshard_after_forward,
    )  # fmt: skip
    own_queries, own_documents = dataclasses.replace(load, documents=0), dataclasses.replace(load, queries=0)
    queries, chunks = (chunks_of(one, chunk_tokens(recipe, gpu)) for one in (own_queries, own_documents))
    seeing, chunks = len(queries), queries + chunks
    costs = traced(text, build, [shape for shape, _ in chunks])
    if seen is not None:
        of_documents = zip(costs[seeing:], chunks[seeing:], strict=True)
        costs[seeing:] = [with_pictures(one, config, build, seen, shape[0]) for one, (shape, _) in of_documents]
    passes = [(one, count) for one, (_, count) in zip(costs, chunks, strict=True)]
    cached = options.gradient_cache
    phases = phases_of(
        held, passes, cached=cached, accumulated=recipe.train.accumulate > 1, own=load.queries + load.documents,
        own_queries=load.queries, everyone=load.all_texts, hidden=int(json.loads(text)["hidden_size"]),
        device=torch.device("cuda" if gpu.memory else "cpu"),
    )  # fmt: skip
    if seen is not None:
        for parts in phases.values():
            parts["pictures"] = kept_between_passes(config, build, seen, load.documents)
    if gpu.memory:
        fixed = (assumed.context + (assumed.communication if processes > 1 else 0)) * GIB
        for parts in phases.values():
            loose = sum(parts.get(key, 0) for key in ("activations", "working memory", "gathered weights"))
            parts |= {"driver and libraries": fixed, "fragments": assumed.fragments * loose}
    highest = max(phases, key=lambda name: sum(phases[name].values()))
    seconds = seconds_of(
        held, passes, gpu, assumed, half=build.half, cached=cached, batches=recipe.train.accumulate,
        processes=processes, trained=size.trained,
    )  # fmt: skip
    return Prediction(
        strategy, highest, phases[highest], {name: sum(parts.values()) for name, parts in phases.items()}, held.host,
        seconds, sum(count for _, count in chunks), size.parameters, size.trained,
    )  # fmt: skip


def build_of(recipe: Recipe, strategy: str, gpu: Gpu) -> Build:
    """How the model is made for its trace."""
    options, half = torch_section(recipe), recipe.train.precision == "bfloat16"
    attention = "eager" if options.attention == "eager" else "sdpa"
    return Build(
        half=half, weights={"float32": 32, "bfloat16": 16, "nf4": 4}[options.weights],
        cast=strategy == "fsdp2" or (strategy.startswith("zero") and strategy != "zero0"), gpu=gpu.name != "cpu",
        packed=options.attention == "varlen" and gpu.name != "cpu", attention=attention,
        bidirectional=recipe.model.bidirectional, checkpointing=options.gradient_checkpointing,
        lora=None if options.lora is None else options.lora.model_dump_json(),
    )  # fmt: skip


def chunk_tokens(recipe: Recipe, gpu: Gpu) -> int:
    """Tokens of a pass, as training has it."""
    options = torch_section(recipe)
    return options.chunk_tokens or (1024 if options.gradient_cache and gpu.name == "cpu" else 16384)


def chunks_of(load: Load, tokens: int) -> list[tuple[tuple[int, int], int]]:
    """Shapes [B, T] of a process's passes in their order, and how often each comes."""
    found: list[tuple[tuple[int, int], int]] = []
    for count, length in ((load.queries, load.query_length), (load.documents, load.document_length)):
        rows = max(1, tokens // length)
        if count <= _CUT * rows:  # as training cuts them
            sizes = [len(batch) for batch in least_work_batches([length] * count, tokens, PASS_TOKENS)]
        else:
            sizes = [rows] * (count // rows) + ([count % rows] if count % rows else [])
        found += [((size, length), len(list(same))) for size, same in itertools.groupby(sizes)]
    return found

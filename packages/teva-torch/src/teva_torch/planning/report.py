"""A plan in words and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from teva_torch.recipe import torch_section

from .planned import Option, Plan
from .prediction import GIB, Load, chunk_tokens, load_of

_SHOWN = 8


def as_json(found: Plan) -> dict[str, Any]:
    """A plan as JSON takes it: bytes, seconds."""

    def option(one: Option) -> dict[str, Any]:
        return {
            "changes": dict(one.changes), "gpus": one.gpus, "fits": one.fits, "bytes": round(one.prediction.bytes),
            "seconds": one.prediction.time, **_rounded(dataclasses.asdict(one.prediction), skip=("seconds",)),
            "seconds_by_part": dict(one.prediction.seconds),
        }  # fmt: skip

    return {
        "model": found.recipe.model.name, "gpu": dataclasses.asdict(found.gpu),
        "batch": dataclasses.asdict(_load(found)), "chunk_tokens": chunk_tokens(found.recipe, found.gpu),
        "plan": option(found.asked), "cheapest": None if found.cheapest is None else option(found.cheapest),
        "others": [option(one) for one in found.others], "assumed": dataclasses.asdict(found.assumed),
    }  # fmt: skip


def as_text(found: Plan) -> str:
    """A plan as a person reads it."""
    asked, load, options = found.asked, _load(found), torch_section(found.recipe)
    prediction, recipe = asked.prediction, found.recipe
    lines = [
        f"{recipe.model.name}: {_count(prediction.parameters)} parameters, {_count(prediction.trained)} trained"
        f"{f', LoRA of rank {options.lora.rank}' if options.lora else ''}, {recipe.train.precision}",
        f"{asked.gpus} x {found.gpu.name}, {prediction.strategy}; of each batch a process has {load.queries:,} queries "
        f"of {load.query_length} tokens and {load.documents:,} documents of {load.document_length}, in "
        f"{prediction.passes:,} passes of at most {chunk_tokens(recipe, found.gpu):,} tokens",
        "",
        f"Memory of each GPU at its highest ({_words(prediction.phase)}), GiB:",
    ]
    lines += [f"  {part:<22}{size / GIB:8.2f}" for part, size in prediction.parts.items() if size]
    of = f" of {found.gpu.memory:g}: {'fits' if asked.fits else 'DOES NOT FIT'}" if found.gpu.memory else ""
    lines.append(f"  {'total':<22}{prediction.bytes / GIB:8.2f}{of}")
    if prediction.host:
        lines.append(f"  and in the CPU's memory, for each GPU: {prediction.host / GIB:.2f}")
    if prediction.seconds:
        parts = ", ".join(f"{name} {value:.2f}" for name, value in prediction.seconds.items() if value >= 0.005)
        queries = recipe.train.batch_size * recipe.train.accumulate
        lines += ["", f"A step takes {prediction.time:.2f} s ({parts}): {queries / prediction.time:,.1f} queries/s"]
    lines += _others(found)
    return "\n".join([*lines, "", *_assumptions(found)])


def _others(found: Plan) -> list[str]:
    if not found.gpu.memory:
        return []
    lines = [""]
    if not found.asked.fits:
        best = found.cheapest
        lines.append(
            "Nothing tried fits: a smaller model, LoRA with torch.weights bfloat16 or nf4, or shorter texts would help."
            if best is None else f"The cheapest change that fits: {_described(best, found.asked.gpus)}"
        )  # fmt: skip
    lines.append("With the same batches and the same gradients:     GiB   s/step")
    for one in found.others[:_SHOWN]:
        figures = f"{one.prediction.bytes / GIB:8.2f} {one.prediction.time:8.2f}"
        lines.append(f"  {'fits' if one.fits else 'no':<5}{figures}   {_described(one, found.asked.gpus)}")
    return lines


def _assumptions(found: Plan) -> list[str]:
    assumed = found.assumed
    lines = ["Assumed: every text as long as the recipe lets it be, every document of a batch another one."]
    if found.seen is not None:
        lines.append(
            f"Each document holds {found.seen.number} picture(s) of {found.seen.tokens:,} tokens, queries none "
            f"(--pictures); the tower that sees is {'trained' if found.seen.trained else 'frozen'}."
        )
    if found.gpu.memory:
        lines.append(
            f"Matrix products reach {assumed.matrix:.0%} of the peak, all else {assumed.moving:.0%} of the memory's "
            f"bandwidth, exchanges {assumed.linking:.0%} of a link; driver and libraries take {assumed.context} GiB "
            f"({assumed.communication} more for several GPUs), fragments {assumed.fragments:.0%} of what passes need. "
            f"Peaks: {found.gpu.source}."
        )
    return lines


def _described(one: Option, gpus: int) -> str:
    words = [
        f"--{key} {str(value).lower() if isinstance(value, bool) else value}" for key, value in one.changes.items()
    ]
    if one.gpus != gpus:
        words.append(f"on {one.gpus} GPUs")
    return " ".join(words) or "as it is"


def _load(found: Plan) -> Load:
    return load_of(found.recipe, found.asked.gpus)


def _count(number: float) -> str:
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.2f} {name}"
    return f"{number:,.0f}"


def _words(phase: str) -> str:
    kind = phase.split()[0]
    return {
        "forward": "the passes forward", "loss": "the loss", "optimizer": "the optimizer's step",
        "again": "a pass made again", "back": "the way back", "end": "the end of the way back",
    }[kind]  # fmt: skip


def _rounded(values: Mapping[str, Any], skip: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        key: {name: round(one) for name, one in value.items()} if isinstance(value, Mapping)
        else round(value) if isinstance(value, float) else value
        for key, value in values.items() if key not in skip
    }  # fmt: skip

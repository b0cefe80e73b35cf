"""A recipe's plan on some GPUs: what it takes, whether it fits, and the changes by which it would, cheapest first."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from teva_data.artifact import encoders_of
from teva_data.errors import ArtifactError, RecipeError
from teva_data.progress import Progress
from teva_data.recipe import Recipe
from teva_torch.recipe import TorchSection, read_recipe, torch_section

from .gpus import Gpu, find_gpu
from .prediction import GIB, Prediction, load_of, predict, strategy_of
from .seeing import Seen, seen_of
from .timing import Assumed

_MOST = 8  # times the GPUs that are asked about, where fewer do not do


@dataclasses.dataclass(frozen=True)
class Option:
    """Settings and what they take.

    Attributes:
        changes: the recipe's keys that differ, and their values.
        gpus: how many.
        prediction: what it takes on each.
        fits: whether that is there.
    """

    changes: Mapping[str, Any]
    gpus: int
    prediction: Prediction
    fits: bool

    @property
    def cost(self) -> float:
        """GPU seconds of a step."""
        return self.gpus * self.prediction.time


@dataclasses.dataclass(frozen=True)
class Plan:
    """What :func:`plan` finds.

    Attributes:
        recipe: with its changes.
        gpu: the device.
        asked: the recipe as it is.
        others: it with changes, those that fit first, the cheapest first of those.
        assumed: what was taken for granted.
        seen: the pictures that it is of; None where there are none.
    """

    recipe: Recipe
    gpu: Gpu
    asked: Option
    others: Sequence[Option]
    assumed: Assumed
    seen: Seen | None = None

    @property
    def cheapest(self) -> Option | None:
        """What fits and costs least of the recipe and its changes; None where nothing does."""
        fitting = [one for one in (self.asked, *self.others) if one.fits]
        return self.asked if self.asked.fits else min(fitting, key=lambda one: one.cost, default=None)


def plan(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    gpu: str,
    gpus: int = 1,
    config: str | Path | None = None,
    assumed: Assumed | None = None,
    pictures: int | None = None,
) -> Plan:
    """Memory and time of a recipe, from its settings and the configuration of its model alone.

    Args:
        recipe: as for :func:`teva_torch.training.train`.
        overrides: dotted keys that replace the recipe's.
        gpu: a name of the table, in whatever way it is written.
        gpus: how many; each is a process.
        config: the model's ``config.json``, or a directory with one, where ``model.name`` cannot be reached.
        assumed: what no configuration tells.
        pictures: of a document; one where not given, if the model sees.

    Raises:
        RecipeError: the recipe is not valid, or cannot be planned.
        ArtifactError: the model's configuration cannot be had.
        TevaError: an unknown GPU.
    """
    found, device, assumed = read_recipe(recipe, overrides), find_gpu(gpu), assumed or Assumed()
    if gpus < 1:
        raise RecipeError(f"--gpus {gpus}; expected at least 1")
    if gpus > 1 and torch_section(found).strategy == "single":
        raise RecipeError(f"torch.strategy: single, and --gpus {gpus}. Use auto or ddp")
    if not found.model.tied:
        raise RecipeError("model.tied: false: a plan is of one encoder. Plan it with model.tied true: both take twice")
    shape = configuration(found, config)

    def option(changes: Mapping[str, Any], count: int) -> Option:
        prediction = predict(read_recipe(found, changes), shape, device, count, assumed, pictures)
        return Option(changes, count, prediction, prediction.bytes <= device.memory * GIB)

    asked, others, count = option({}, gpus), list[Option](), gpus
    while device.memory and count <= _MOST * gpus and not any(one.fits for one in others):
        changes = [*_changes(found, count)]
        with Progress(len(changes), f"plan {count} x {device.name}", "settings") as progress:
            for one in changes:
                others.append(option(one, count))
                progress.add(1)
        count *= 2
    others.sort(key=lambda one: (not one.fits, one.cost if one.fits else one.prediction.bytes, len(one.changes)))
    return Plan(found, device, asked, others, assumed, seen_of(found, shape, pictures))


def configuration(recipe: Recipe, config: str | Path | None = None) -> str:
    """The configuration of a recipe's model as JSON; of the hub, one small file.

    Raises:
        ArtifactError: it cannot be had.
        RecipeError: not a model of one vector for a text.
    """
    from transformers import AutoConfig

    name: str | Path = recipe.model.name if config is None else config
    path = Path(name).expanduser()
    if path.is_dir() and (halves := encoders_of(path)):
        path = path / halves["query"]
    options = {} if path.exists() or config is not None else {"revision": recipe.model.revision}
    try:
        found = AutoConfig.from_pretrained(str(path) if path.exists() else str(name), **options)
    except (OSError, ValueError, KeyError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ArtifactError(
            f"{name}: its configuration cannot be read: {first.rstrip('.')}. Give the model's config.json with --config"
        ) from error
    found = getattr(found, "thinker_config", found)  # of Qwen2.5-Omni, the part that is trained
    if not hasattr(found.get_text_config(), "hidden_size"):
        raise RecipeError(f"{name}: found {found.model_type}, whose configuration has no hidden_size; expected a text "
                          "encoder or decoder")  # fmt: skip
    return json.dumps(found.to_dict(), default=str)


def _changes(recipe: Recipe, gpus: int) -> Iterator[dict[str, Any]]:
    """What may be changed without changing what is trained: no batch, no negatives, no length, no precision."""
    options = torch_section(recipe)
    tokens = options.chunk_tokens or 16384
    longest = load_of(recipe, gpus).longest
    chunks = sorted({tokens, max(longest, tokens // 8)}, reverse=True)
    seen: set[str] = set()
    for layout, keeps, caches, chunk in itertools.product(
        _layouts(options, gpus), (False, True), (False, True), chunks
    ):
        if not caches and chunk != tokens:
            continue  # all chunks are kept, however small
        wanted = {
            **layout,
            "torch.gradient_checkpointing": keeps,
            "torch.gradient_cache": caches,
            "torch.chunk_tokens": chunk,
        }
        changes = {key: value for key, value in wanted.items() if value != _now(options, key, tokens)}
        name = json.dumps(changes, sort_keys=True)
        if name not in seen and changes:
            seen.add(name)
            yield changes


def _layouts(options: TorchSection, gpus: int) -> list[dict[str, Any]]:
    current = strategy_of(options, gpus)
    found: list[dict[str, Any]] = [{}]
    whole = options.weights != "nf4" and options.optimizer == "adamw"  # else nothing can lie in parts
    if gpus > 1:
        if current != "ddp":
            found.append({"torch.strategy": "ddp"})
        if current != "fsdp2" and whole:
            found.append({"torch.strategy": "fsdp2"})
    if whole and current != "zero3-offload":
        found.append({"torch.strategy": "deepspeed", "torch.deepspeed": "zero3-offload"})
    return found


def _now(options: TorchSection, key: str, tokens: int) -> Any:
    name = key.partition(".")[2]
    if name == "deepspeed" and options.strategy != "deepspeed":
        return None
    return tokens if name == "chunk_tokens" else getattr(options, name)

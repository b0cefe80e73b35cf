"""What every trainer does with a recipe beside training: fill it in, name the run, tell and record its data."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .artifact import Artifact
from .dataset import Dataset
from .errors import RecipeError
from .files import atomic_file, fingerprint
from .plan import BatchPlan
from .prompting import resolve_prompts
from .recipe import Recipe

logger = logging.getLogger(__name__)


def resolve(recipe: Recipe, artifact: Artifact, datasets: Sequence[Dataset]) -> Recipe:
    """Fill what the recipe leaves open: pooling and normalisation as the model has them; prompts as the datasets' cards
    say, else as the model has them.

    Where the cards differ, each dataset is trained with its own card's prompt, and the artifact keeps the model's.
    """
    normalize = artifact.normalize if recipe.model.normalize is None else recipe.model.normalize
    pooling, append_eos = recipe.model.pooling or artifact.pooling, recipe.model.append_eos
    if append_eos is None:
        # A published model that pools at the last token without EOS has its vectors from there: it stays so.
        append_eos = pooling == "last" != artifact.pooling
    merging = recipe.model.merging or (None if artifact.merging == "sequence" else artifact.merging)
    filled = {"pooling": pooling, "normalize": normalize, "append_eos": append_eos, "merging": merging}
    model = recipe.model.model_copy(update=filled)
    recipe = resolve_prompts(recipe, artifact, datasets)
    if model.pooling is None:
        raise RecipeError(
            f"model.pooling: {artifact.name} has no modules.json, so it does not say how to pool; set cls or mean "
            "(encoders such as BERT) or last (decoders such as Llama)"
        )
    if model.normalize and recipe.loss.temperature > 0.3:
        # A cosine is at most 1: divided by such a temperature, the softmax stays flat and little is learned.
        logger.warning("loss.temperature is %s with normalised vectors; 0.01 to 0.05 is usual", recipe.loss.temperature)
    return recipe.model_copy(update={"model": model})


def open_datasets(recipe: Recipe) -> list[Dataset]:
    """The datasets that a recipe lists; where bad pictures are left out, files that are not there are no error yet."""
    return [Dataset.open(one.path, lenient=recipe.data.bad_pictures == "skip") for one in recipe.data.listed()]


def make_output(output: Path) -> None:
    """The directory of a run.

    Raises:
        RecipeError: it cannot be made.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(
            f"train.output: {output}: cannot be made ({error.strerror}); expected a directory, or a place for one"
        ) from error


def steps_in_all(recipe: Recipe, plan: BatchPlan) -> int:
    """Optimiser steps of the whole run."""
    settings = recipe.train
    return settings.steps or -(-plan.steps(settings.epochs or 0) // settings.accumulate)


def identity(recipe: Recipe, plan: BatchPlan, base: str) -> dict[str, Any]:
    """What a run is: a resumed run must be the same.

    Args:
        recipe: resolved.
        plan: its batches.
        base: fingerprint of the model that training starts from.
    """
    return {"recipe": recipe.deciding(), "data": plan.data_fingerprints, "plan": plan.fingerprint, "base": base}


def refuse_another(output: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse a directory that holds another run.

    Raises:
        RecipeError: ``found`` is not ``expected``; the message says where they differ.
    """
    if found != expected:
        raise RecipeError(
            f"{output}: holds another run ({difference(found, expected)}). Give another "
            "train.output, or --overwrite to begin anew"
        )


_SEAL = "# checksum "


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write a run's resolved recipe as YAML; its first line, a comment, holds a checksum of the others."""
    text = yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True)
    with atomic_file(path, "w") as file:
        file.write(f"{_SEAL}{fingerprint(text)} of the lines below; take this line out where you change them\n{text}")


def expect_same_recipe(path: Path) -> None:
    """Refuse a recipe that :func:`write_recipe` wrote and that was changed since; one without its line passes.

    Raises:
        RecipeError: its checksum differs.
    """
    first, _, text = path.read_bytes().decode("utf-8", "replace").partition("\n")
    if first.startswith(_SEAL) and fingerprint(text) != first.removeprefix(_SEAL).partition(" ")[0]:
        raise RecipeError(
            f"{path}: damaged or edited: the checksum in its first line is not that of the others. Put it back as it "
            "was; where you have changed it yourself, take the first line out"
        )


def times(count: int, size: int) -> str:
    """``3 x 64``, or ``64`` where the count is 1."""
    return f"{count} x {size}" if count > 1 else f"{size}"


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The settings in which two runs differ, in words."""
    old, new = before.get("recipe", {}), now["recipe"]
    parts = [
        f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in {**old, **new} if old.get(key) != new.get(key)
    ]
    then, data = before.get("data"), now["data"]
    if then != data:
        which = ""
        if isinstance(then, list) and len(then) == len(data) > 1:
            numbers = [str(place) for place, (one, other) in enumerate(zip(then, data, strict=True)) if one != other]
            which = f" of data.datasets.{', '.join(numbers)}"
        parts.append(f"the data{which} differ")
    if before.get("base") != now["base"]:
        parts.append("the weights of the base model differ")
    if not parts:
        parts.append("the order of its batches differs; another version of teva-data made it")
    return "; ".join(parts)


def data_record(plan: BatchPlan) -> dict[str, Any]:
    """What ``teva.json`` says about the data."""
    parts = [
        {"name": part.dataset.card.name, "split": part.split, "fingerprint": one}
        for part, one in zip(plan.parts, plan.data_fingerprints, strict=True)
    ]
    alone = len(parts) == 1
    return {
        "name": parts[0]["name"] if alone else None,
        "fingerprint": parts[0]["fingerprint"] if alone else fingerprint("data", *plan.data_fingerprints),
        "plan": plan.fingerprint,
        "datasets": parts,
    }


def tell_mixture(plan: BatchPlan, steps: int, seen: Collection[str] = ()) -> None:
    """What comes of the settings: each dataset's share and epochs; and what of the data the model does not see.

    Args:
        plan: the run's.
        steps: its batches.
        seen: kinds of media that the model sees: ``image``.
    """
    for part, share, count in zip(plan.parts, plan.mixture.shares, plan.mixture.counts, strict=True):
        if len(plan.parts) > 1:
            logger.info(
                "%s %s: %s queries, %.2f %% of the batches, %.2f epochs", part.dataset.path, part.split, f"{count:,}",
                100 * share, share * steps * plan.batch_size / count,
            )  # fmt: skip
        stores = (part.dataset.corpus, part.dataset.queries(part.split))
        known = {"text", *seen}
        if media := sorted({kind for store in stores for kind, rows in store.kinds.items() if rows} - known):
            logger.warning("%s holds %s, which this model does not see", part.dataset.path, ", ".join(media))

"""Whose prompts and limits hold: the recipe's, the datasets' cards' or the model's. One answer for all trainers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

from .artifact import Artifact
from .dataset import Dataset
from .errors import RecipeError
from .limits import MediaLimits
from .recipe import Recipe
from .rendering import Renderer


def resolve_prompts(recipe: Recipe, artifact: Artifact, datasets: Sequence[Dataset]) -> Recipe:
    """Fill the prompts that a recipe leaves open: as the datasets' cards say, else as the model has them.

    Where the cards differ, each dataset is trained with its own card's prompt, and the artifact keeps the model's.

    Args:
        recipe: a checked recipe.
        artifact: the model that training starts from.
        datasets: those of ``recipe.data.listed()``, in order.

    Returns:
        The recipe with ``prompts`` complete, and where cards differ with the prompts of ``data.datasets``.
    """
    shared, entries = recipe.prompts.model_dump(), recipe.data.datasets
    for role, own in recipe.prompts.model_dump().items():
        cards = [getattr(dataset.card.prompts, role) for dataset in datasets]
        if own is None:
            agree = len(set(cards)) == 1 and cards[0] is not None
            shared[role] = cards[0] if agree else artifact.prompts[role]
            if entries and not agree:
                key = f"{role}_prompt"
                entries = [
                    entry if getattr(entry, key) is not None else entry.model_copy(update={key: card})
                    for entry, card in zip(entries, cards, strict=True)
                ]
    data = recipe.data.model_copy(update={"datasets": entries})
    return recipe.model_copy(update={"prompts": recipe.prompts.model_copy(update=shared), "data": data})


def training_renderer(recipe: Recipe, base: Artifact) -> Renderer:
    """Prompts and limit of the model to be; its one limit is the larger of the two that bound training.

    Args:
        recipe: its prompts are resolved.
        base: the model that training starts from.

    Raises:
        RecipeError: a limit is more than the model's positions, or leaves no room after the prompt, or one of clips and
            recordings means nothing to the model.
    """
    limit = max(recipe.model.query_max_length, recipe.model.document_max_length)
    if limit > base.positions:
        raise RecipeError(
            f"model.document_max_length, model.query_max_length: found {limit}; expected at most {base.positions}, the "
            f"positions of {base.name}"
        )
    # Where every text is filled up to one length, that is the length that it is cut at too.
    limit = base.fixed_length or limit
    renderer = Renderer.from_artifact(
        base, query_prompt=recipe.prompts.query, document_prompt=recipe.prompts.document, max_length=limit,
        append_eos=bool(recipe.model.append_eos), min_pixels=recipe.model.min_pixels,
        max_pixels=recipe.model.max_pixels, media=_media(recipe), merge=recipe.model.merging,
        chat=recipe.model.format == "chat",
    )  # fmt: skip
    if renderer.pictures is None and (recipe.model.min_pixels or recipe.model.max_pixels):
        raise RecipeError(f"model.min_pixels, model.max_pixels: {base.name} sees no pictures. Leave them out")
    _check_room(renderer, recipe)
    return renderer


def _media(recipe: Recipe) -> dict[str, Any]:
    """What the recipe says of clips and recordings."""
    names = (field.name for field in dataclasses.fields(MediaLimits))
    return {name: value for name in names if (value := getattr(recipe.model, name)) is not None}


def _check_room(renderer: Renderer, recipe: Recipe) -> None:
    """Refuse a prompt, of all or of one dataset, that fills a limit: every text would be cut down to it."""
    model, entries = recipe.model, recipe.data.datasets or ()
    for role, render, most in (
        ("query", renderer.query, model.query_max_length),
        ("document", partial(renderer.document, ""), model.document_max_length),
    ):
        prompts = [getattr(entry, f"{role}_prompt") for entry in entries]
        texts = [render("", prompt) for prompt in dict.fromkeys([None, *prompts])]
        for text, tokens in zip(texts, renderer.tokenize(texts), strict=True):
            if len(tokens) >= most:
                raise RecipeError(
                    f"model.{role}_max_length: found {most}; expected more than the {len(tokens)} tokens of the prompt "
                    f"{text!r} and the special tokens"
                )

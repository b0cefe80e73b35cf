"""The recipe's ``torch:`` section, and recipes that ship with the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field

from teva_data.errors import RecipeError, nearest
from teva_data.recipe import Recipe, Section, load_recipe


class TorchSection(Section):
    """What only teva-torch has."""

    device: str = Field("auto", description="auto (cuda, then mps, then cpu), or cpu, cuda, cuda:1, mps")
    attention: str | None = Field(
        None, description="transformers' attn_implementation: sdpa, eager, flash_attention_2; empty: its own choice"
    )
    gradient_checkpointing: bool = Field(
        False, description="keep a layer's input alone for the backward pass: less memory, a third more time"
    )
    chunk_tokens: int | None = Field(
        None, ge=1, description="tokens, padding included, of one forward pass; empty: 1024 on cpu, 16384 elsewhere"
    )
    parity_cosine: float = Field(
        0.9999, gt=0, le=1, description="the export fails where a vector's cosine with a reloaded one is below this"
    )


def read_recipe(
    source: str | Path | Mapping[str, Any] | Recipe, overrides: Mapping[str, Any] | Sequence[str] = ()
) -> Recipe:
    """A checked recipe with its ``torch`` section complete.

    Args:
        source: a YAML file, the name of a recipe that ships with the package, a mapping, or a recipe.
        overrides: dotted keys that replace the recipe's (:func:`teva_data.recipe.load_recipe`).

    Raises:
        RecipeError: the recipe cannot be read or is not valid.
    """
    if isinstance(source, Recipe):
        source = source.to_dict()
    elif isinstance(source, str) and "/" not in source and not Path(source).suffix and not Path(source).exists():
        source = shipped_recipe(source)
    return load_recipe(source, overrides, owners={"torch": TorchSection})


def torch_section(recipe: Recipe) -> TorchSection:
    """The ``torch`` section as its own type."""
    return TorchSection.model_validate(recipe.torch)


def shipped() -> dict[str, Path]:
    """Recipes that ship with the package: name to file."""
    folder = Path(str(resources.files("teva_torch") / "recipes"))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def shipped_recipe(name: str) -> Path:
    """The file of a shipped recipe.

    Raises:
        RecipeError: there is none of that name.
    """
    known = shipped()
    if name not in known:
        raise RecipeError(f"{name}: no file and no recipe of this name ships with teva-torch. {nearest(name, known)}")
    return known[name]

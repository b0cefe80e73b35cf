"""Recipes that ship inside a trainer's package, in its folder ``recipes``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import create_model

from .errors import RecipeError, nearest
from .recipe import Recipe, load_recipe
from .sections import Section


def read_recipe(
    source: str | Path | Mapping[str, Any] | Recipe,
    overrides: Mapping[str, Any] | Sequence[str],
    *,
    package: str,
    owners: Mapping[str, type[Section]],
) -> Recipe:
    """A checked recipe whose owned sections are complete.

    Args:
        source: a YAML file, the name of a recipe that ships with the package, a mapping, or a recipe.
        overrides: dotted keys that replace the recipe's (:func:`teva_data.recipe.load_recipe`).
        package: the trainer's import name.
        owners: the sections that it owns.

    Raises:
        RecipeError: the recipe cannot be read or is not valid.
    """
    if isinstance(source, Recipe):
        source = source.to_dict()
    elif isinstance(source, str) and "/" not in source and not Path(source).suffix and not Path(source).exists():
        source = shipped_recipe(source, package)
    return load_recipe(source, overrides, owners=owners)


def shipped(package: str) -> dict[str, Path]:
    """Recipes that ship with a package (import name): name to file."""
    folder = Path(str(resources.files(package) / "recipes"))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def shipped_recipe(name: str, package: str) -> Path:
    """The file of a shipped recipe.

    Raises:
        RecipeError: there is none of that name.
    """
    known = shipped(package)
    if name not in known:
        prog = package.replace("_", "-")
        raise RecipeError(f"{name}: no file and no recipe of this name ships with {prog}. {nearest(name, known)}")
    return known[name]


def json_schema(owners: Mapping[str, type[Section]]) -> dict[str, Any]:
    """The JSON schema of a recipe (draft 2020-12), for editors: keys, types, limits, and what each key means.

    Args:
        owners: sections that a trainer owns and their types; the others stay open.
    """
    whole = create_model("Recipe", __base__=Recipe, **{name: (kind, {}) for name, kind in owners.items()})  # type: ignore[call-overload]
    found: dict[str, Any] = whole.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def schema_text(owners: Mapping[str, type[Section]]) -> str:
    """What ``recipes schema`` prints: :func:`json_schema` as text."""
    return json.dumps(json_schema(owners), indent=2) + "\n"


def list_or_show(action: str, name: str | None, package: str) -> str:
    """What ``recipes list`` and ``recipes show NAME`` print.

    Raises:
        RecipeError: there is none of that name, or none is named.
    """
    if action == "list":
        return "".join(
            f"{known:<24} {file.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}\n"
            for known, file in shipped(package).items()
        )
    if name is None:
        raise RecipeError(f"recipes show: which one? `{package.replace('_', '-')} recipes list` names them")
    return shipped_recipe(name, package).read_text(encoding="utf-8")

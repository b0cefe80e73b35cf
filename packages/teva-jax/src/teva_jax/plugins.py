"""Losses and poolings, found by entry point, so that another package can add one."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from teva_data.errors import RecipeError, nearest

LOSSES, POOLINGS = "teva_jax.losses", "teva_jax.poolings"


def find(group: str, name: str, key: str) -> Callable[..., Any]:
    """The function registered under a name: a pooling, or a factory of losses.

    Args:
        group: ``teva_jax.losses`` or ``teva_jax.poolings``.
        name: as the recipe gives it.
        key: the recipe's key, for the message.

    Raises:
        RecipeError: no installed package registers that name.
    """
    found = {point.name: point for point in entry_points(group=group)}
    if name not in found:
        raise RecipeError(
            f"{key}: found {name!r}; expected a name under the entry point {group}. {nearest(name, found)}"
        )
    function: Callable[..., Any] = found[name].load()
    return function

"""Losses and poolings, found by entry point, so that another package can add one."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from teva_data.errors import RecipeError, nearest

LOSSES, POOLINGS = "teva_torch.losses", "teva_torch.poolings"


def find(group: str, name: str, key: str) -> Callable[..., Any]:
    """The function registered under a name: a pooling, or a factory of losses (:func:`teva_torch.losses.build_loss`).

    Args:
        group: ``teva_torch.losses`` or ``teva_torch.poolings``.
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

"""What packages register by entry points: losses, poolings, engines, indexes, systems, datasets, benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .errors import MissingExtraError, RecipeError, TevaError, nearest


def find(group: str, name: str, key: str) -> Callable[..., Any]:
    """The function registered under a name: a pooling, or a factory of losses.

    Args:
        group: of entry points, e.g. ``teva_torch.losses``.
        name: as the recipe gives it.
        key: the recipe's key, for the message.

    Raises:
        RecipeError: no installed package registers that name.
        TevaError: the package that registers it does not have it.
    """
    found = {point.name: point for point in entry_points(group=group)}
    if name not in found:
        raise RecipeError(
            f"{key}: found {name!r}; expected a name under the entry point {group}. {nearest(name, found)}"
        )
    function: Callable[..., Any] = loaded(found[name])
    return function


def loaded(point: EntryPoint, what: str = "", requirement: str = "") -> Any:
    """What an entry point names.

    Args:
        point: the entry point.
        what: it is, for the message, where another module may be missing.
        requirement: what brings that module, e.g. ``teva-infer[faiss]``.

    Raises:
        MissingExtraError: a module is not installed that the entry point's own asks for.
        TevaError: its package has no such module or name, or its import fails; the package is named.
    """
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else ""
        if requirement and missing and not f"{point.module}.".startswith(f"{missing}."):
            raise MissingExtraError(f"{what} (no module {missing!r})", requirement) from error
        package = f" of the package {point.dist.name}" if point.dist else ""
        raise TevaError(
            f"{point.group}: the entry point {point.name} = {point.value!r}{package} cannot be loaded: {error}. "
            "Mend the package and install it again"
        ) from error

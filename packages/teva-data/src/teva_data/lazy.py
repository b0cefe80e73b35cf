"""Public names of a package that are imported when they are first used, so that importing the package costs nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any

from .siblings import expect


def attributes(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package.

    No module may be named like a public function: importing it would put the module in the function's place.

    Args:
        package: its import name; the distribution has the same with ``-`` for ``_``.
        modules: a module's name within the package to the public names that it holds; ``__version__`` comes by itself.

    Raises:
        ImportError: a sibling is installed that the package does not go with (:mod:`teva_data.siblings`).
    """
    expect(package.replace("_", "-"))
    homes = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name == "__version__":
            value: Any = version(package.replace("_", "-"))
        elif name in homes:
            value = getattr(import_module(f"{package}.{homes[name]}"), name)
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted([*homes, "__version__"])

    return get, names

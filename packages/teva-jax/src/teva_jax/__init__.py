"""teva-jax trains dense retrievers on JAX: the recipe, batches and artifact of teva-torch, without torch.

>>> from teva_jax import Retriever, make_mesh
>>> retriever, params = Retriever.load("my-model", make_mesh())  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine import JaxEngine
    from .lora import LoraSettings
    from .mesh import make_mesh
    from .model import Retriever

__all__ = ["JaxEngine", "LoraSettings", "Retriever", "__version__", "make_mesh"]

# Importing the package must not import jax: names are looked up when they are first asked for.
_WHERE = {
    "JaxEngine": ("engine", "JaxEngine"),
    "LoraSettings": ("lora", "LoraSettings"),
    "Retriever": ("model", "Retriever"),
    "make_mesh": ("mesh", "make_mesh"),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("teva-jax")
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _WHERE[name]
    value = getattr(import_module(f".{module}", __name__), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

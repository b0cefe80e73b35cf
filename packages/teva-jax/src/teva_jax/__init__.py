"""teva-jax trains dense retrievers on JAX: the recipe, batches and artifact of teva-torch, without torch.

>>> from teva_jax import train
>>> result = train("recipe.yaml", {"train.steps": 200})  # doctest: +SKIP
>>> result.artifact.path  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine import JaxEngine
    from .guards import TrainingError
    from .init import propose
    from .lora import LoraSettings
    from .losses import InfoNCE, Loss, Targets, build_loss, infonce
    from .mesh import make_mesh
    from .model import Retriever
    from .recipe import JaxSection, read_recipe, shipped
    from .training import TrainResult, train

__all__ = [
    "InfoNCE",
    "JaxEngine",
    "JaxSection",
    "LoraSettings",
    "Loss",
    "Retriever",
    "Targets",
    "TrainResult",
    "TrainingError",
    "__version__",
    "build_loss",
    "infonce",
    "make_mesh",
    "propose",
    "read_recipe",
    "shipped",
    "train",
]

# Importing the package must not import jax: names are looked up when they are first asked for.
_WHERE = {
    "InfoNCE": ("losses", "InfoNCE"),
    "JaxEngine": ("engine", "JaxEngine"),
    "JaxSection": ("recipe", "JaxSection"),
    "LoraSettings": ("lora", "LoraSettings"),
    "Loss": ("losses", "Loss"),
    "Retriever": ("model", "Retriever"),
    "Targets": ("losses", "Targets"),
    "TrainResult": ("training", "TrainResult"),
    "TrainingError": ("guards", "TrainingError"),
    "build_loss": ("losses", "build_loss"),
    "infonce": ("losses", "infonce"),
    "make_mesh": ("mesh", "make_mesh"),
    "propose": ("init", "propose"),
    "read_recipe": ("recipe", "read_recipe"),
    "shipped": ("recipe", "shipped"),
    "train": ("training", "train"),
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

"""teva-torch trains dense retrievers on PyTorch: a recipe in, an artifact out.

>>> from teva_torch import train
>>> result = train("recipe.yaml", {"train.steps": 200})  # doctest: +SKIP
>>> result.artifact.path  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import latest as latest_checkpoint
    from .engine import TorchEngine
    from .init import propose
    from .losses import InfoNCE, Targets, build_loss, infonce
    from .model import Retriever
    from .recipe import TorchSection, read_recipe, shipped
    from .training import TrainingError, TrainResult, train

__all__ = [
    "InfoNCE",
    "Retriever",
    "Targets",
    "TorchEngine",
    "TorchSection",
    "TrainResult",
    "TrainingError",
    "__version__",
    "build_loss",
    "infonce",
    "latest_checkpoint",
    "propose",
    "read_recipe",
    "shipped",
    "train",
]

# Importing the package must not import torch: names are looked up when they are first asked for.
_WHERE = {
    "InfoNCE": ("losses", "InfoNCE"),
    "Retriever": ("model", "Retriever"),
    "Targets": ("losses", "Targets"),
    "TorchEngine": ("engine", "TorchEngine"),
    "TorchSection": ("recipe", "TorchSection"),
    "TrainResult": ("training", "TrainResult"),
    "TrainingError": ("training", "TrainingError"),
    "build_loss": ("losses", "build_loss"),
    "infonce": ("losses", "infonce"),
    "latest_checkpoint": ("checkpoint", "latest"),
    "propose": ("init", "propose"),
    "read_recipe": ("recipe", "read_recipe"),
    "shipped": ("recipe", "shipped"),
    "train": ("training", "train"),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("teva-torch")
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _WHERE[name]
    value = getattr(import_module(f".{module}", __name__), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

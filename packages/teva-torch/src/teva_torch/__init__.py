"""teva-torch trains dense retrievers on PyTorch: a recipe in, an artifact out.

>>> from teva_torch import train
>>> result = train("recipe.yaml", {"train.steps": 200})  # doctest: +SKIP
>>> result.artifact.path  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from teva_data.lazy import attributes

if TYPE_CHECKING:
    from .checkpoint import latest_checkpoint
    from .engine import TorchEngine
    from .guards import TrainingError
    from .init import propose
    from .losses import InfoNCE, Targets, build_loss, infonce
    from .model import Retriever
    from .recipe import TorchSection, read_recipe, shipped
    from .training import TrainResult, train

    __version__: str


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

__getattr__, __dir__ = attributes(
    __name__,
    {
        "checkpoint": ("latest_checkpoint",),
        "engine": ("TorchEngine",),
        "guards": ("TrainingError",),
        "init": ("propose",),
        "losses": ("InfoNCE", "Targets", "build_loss", "infonce"),
        "model": ("Retriever",),
        "recipe": ("TorchSection", "read_recipe", "shipped"),
        "training": ("TrainResult", "train"),
    },
)

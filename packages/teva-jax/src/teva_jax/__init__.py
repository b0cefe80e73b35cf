"""teva-jax trains dense retrievers on JAX: the recipe, batches and artifact of teva-torch, without torch.

>>> from teva_jax import train
>>> result = train("recipe.yaml", {"train.steps": 200})  # doctest: +SKIP
>>> result.artifact.path  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from teva_data.lazy import attributes

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

    __version__: str


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

__getattr__, __dir__ = attributes(
    __name__,
    {
        "engine": ("JaxEngine",),
        "guards": ("TrainingError",),
        "init": ("propose",),
        "lora": ("LoraSettings",),
        "losses": ("InfoNCE", "Loss", "Targets", "build_loss", "infonce"),
        "mesh": ("make_mesh",),
        "model": ("Retriever",),
        "recipe": ("JaxSection", "read_recipe", "shipped"),
        "training": ("TrainResult", "train"),
    },
)

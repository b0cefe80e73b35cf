"""From a recipe's ``loss`` section to one loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from teva_data.errors import RecipeError
from teva_data.recipe import LossSection
from teva_torch import plugins
from torch import Tensor, nn

from .matryoshka import Matryoshka
from .targets import Loss, Targets


class WeightedSum(nn.Module):
    """Several losses, each times its weight.

    Args:
        parts: weight and loss of each.
    """

    def __init__(self, parts: Sequence[tuple[float, Loss]]) -> None:
        super().__init__()
        self.weights = tuple(weight for weight, _ in parts)
        self.losses = nn.ModuleList(as_module(loss) for _, loss in parts)

    def forward(self, queries: Tensor, documents: Tensor, targets: Targets) -> Tensor:
        """The sum, see :data:`.targets.Loss`."""
        parts = zip(self.weights, self.losses, strict=True)
        return torch.stack([weight * loss(queries, documents, targets) for weight, loss in parts]).sum()


def build_loss(settings: LossSection, *, hidden: int, normalize: bool) -> nn.Module:
    """The loss of a recipe: the one that it names, with distillation and Matryoshka as it says.

    Args:
        settings: the recipe's section.
        hidden: size of the vectors.
        normalize: whether the vectors have length 1.

    Returns:
        A module; its parameters, a learned temperature for one, are to be trained with the model's.

    Raises:
        RecipeError: no such loss, settings that it does not take, or a dimension above ``hidden``.
    """
    loss = _find(settings, settings.name, "loss.name")
    if settings.distillation is not None:
        second = _find(settings, settings.distillation, "loss.distillation")
        loss = WeightedSum([(settings.weight, loss), (settings.distillation_weight, second)])
    if (dims := settings.matryoshka_dims) is not None:
        if max(dims) > hidden:
            raise RecipeError(f"loss.matryoshka_dims: found {max(dims)}; expected at most {hidden}, the model's size")
        loss = Matryoshka(loss, dims, settings.matryoshka_weights, normalize=normalize)
    return loss


def as_module(loss: Loss) -> nn.Module:
    """A loss as a module: itself, or a module that calls it."""
    return loss if isinstance(loss, nn.Module) else _Function(loss)


class _Function(nn.Module):
    def __init__(self, function: Loss) -> None:
        super().__init__()
        self.function = function

    def forward(self, queries: Tensor, documents: Tensor, targets: Targets) -> Tensor:
        return self.function(queries, documents, targets)


def _find(settings: LossSection, name: str, key: str) -> nn.Module:
    loss: Any = plugins.find(plugins.LOSSES, name, key)(settings)
    if not callable(loss):
        raise RecipeError(f"{key}: the factory {name!r} gave {type(loss).__name__}; expected a callable")
    return as_module(loss)

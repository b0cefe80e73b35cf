"""From a recipe's ``loss`` section to one loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

import jax
from teva_data.errors import RecipeError
from teva_data.plugins import find
from teva_data.recipe import LossSection

from .matryoshka import Matryoshka
from .targets import Learned, Loss, Targets, as_loss

LOSSES = "teva_jax.losses"


class WeightedSum(Loss):
    """Several losses, each times its weight.

    Args:
        parts: weight and loss of each.
    """

    def __init__(
        self, parts: Sequence[tuple[float, Loss | Callable[[jax.Array, jax.Array, Targets], jax.Array]]]
    ) -> None:
        self.weights = tuple(weight for weight, _ in parts)
        self.losses = [as_loss(loss) for _, loss in parts]

    def initial(self) -> dict[str, float]:
        """See :class:`Loss`; names begin with the number of their loss."""
        return {
            f"{number}.{name}": value
            for number, loss in enumerate(self.losses)
            for name, value in loss.initial().items()
        }

    def clamp(self, learned: Learned) -> dict[str, jax.Array]:
        """See :class:`Loss`."""
        return {
            f"{number}.{name}": value
            for number, loss in enumerate(self.losses)
            for name, value in loss.clamp(_own(learned, number)).items()
        }

    def scored(self) -> bool:
        """See :class:`Loss`."""
        return any(loss.scored() for loss in self.losses)

    def __call__(
        self, queries: jax.Array, documents: jax.Array, targets: Targets, learned: Learned | None = None
    ) -> jax.Array:
        """The sum, see :class:`Loss`."""
        values = self.values(learned)
        each = [
            weight * loss(queries, documents, targets, _own(values, number))
            for number, (weight, loss) in enumerate(zip(self.weights, self.losses, strict=True))
        ]
        return jnp.stack(each).sum()


def build_loss(settings: LossSection, *, hidden: int, normalize: bool) -> Loss:
    """The loss of a recipe: the one that it names, with distillation and Matryoshka as it says.

    Args:
        settings: the recipe's section.
        hidden: size of the vectors.
        normalize: whether the vectors have length 1.

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


def _find(settings: LossSection, name: str, key: str) -> Loss:
    loss: Any = find(LOSSES, name, key)(settings)
    if not callable(loss):
        raise RecipeError(f"{key}: the factory {name!r} gave {type(loss).__name__}; expected a callable")
    return as_loss(loss)


def _own(learned: Learned, number: int) -> dict[str, jax.Array]:
    """What one loss of several learns."""
    start = f"{number}."
    return {name.removeprefix(start): value for name, value in learned.items() if name.startswith(start)}

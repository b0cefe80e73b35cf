"""The optimiser: AdamW as torch has it, over the float32 parameters that are trained, in their shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

import jax
from teva_data.recipe import TrainSection
from teva_data.schedule import learning_rate

from .caching import Trained
from .mesh import replicated


def schedule(settings: TrainSection, total: int) -> optax.Schedule:
    """The learning rate of :func:`teva_data.schedule.learning_rate` as a schedule of optax.

    Args:
        settings: peak rate, schedule, warm-up.
        total: steps of the whole run.
    """
    rates = jnp.asarray([learning_rate(step, total, settings) for step in range(total)], jnp.float32)
    return lambda count: rates[jnp.minimum(count, total - 1)]


def make_optimizer(settings: TrainSection) -> optax.GradientTransformation:
    """AdamW without its learning rate; biases and norms (vectors and scalars) are not decayed."""
    return optax.chain(
        optax.scale_by_adam(settings.adam_beta1, settings.adam_beta2, settings.adam_epsilon),
        optax.add_decayed_weights(settings.weight_decay, mask=decayed),
    )


def decayed(trained: Trained) -> dict[str, dict[str, bool]]:
    """Which parameters are matrices, the axis of stacked layers not counted."""
    return {
        part: {name: value.ndim - ("*" in name) >= 2 for name, value in values.items()}
        for part, values in trained.items()
    }


def state_places(state: Any, places: Mapping[str, Mapping[str, NamedSharding]], mesh: Mesh) -> Any:
    """Where the optimiser's state lies: what is like the parameters lies as they do, all else everywhere.

    Without this it would all be on one device: zeros depend on no parameter, so the compiler places them anywhere.
    """
    same: Any = jax.tree.structure(places)

    def like(node: Any) -> bool:
        return bool(jax.tree.structure(node) == same)

    return jax.tree.map(lambda node: places if like(node) else replicated(mesh), state, is_leaf=like)


class Optimizer:
    """The step that changes parameters.

    Args:
        settings: the recipe's section.
        places: where the parts of what is trained lie.
        mesh: the devices.
        clamp: keeps what the loss learns within its bounds.
    """

    def __init__(
        self,
        settings: TrainSection,
        places: Mapping[str, Mapping[str, NamedSharding]],
        mesh: Mesh,
        clamp: Callable[[Mapping[str, jax.Array]], dict[str, jax.Array]],
    ) -> None:
        self._settings, self._places, self._mesh, self._clamp = settings, places, mesh, clamp
        self.transform = make_optimizer(settings)

    def init(self, trained: Trained) -> Any:
        """The state before the first step, each part beside its parameter's."""
        shapes = jax.eval_shape(self.transform.init, trained)
        self.state_places = state_places(shapes, self._places, self._mesh)
        self.update = jax.jit(
            self._update, donate_argnums=(0, 1),
            out_shardings=(self._places, self.state_places, replicated(self._mesh)),
        )  # fmt: skip
        if isinstance(jax.tree.leaves(trained)[0], jax.ShapeDtypeStruct):  # a plan, which has no values
            return jax.tree.map(_placed, shapes, self.state_places)
        return jax.jit(self.transform.init, out_shardings=self.state_places)(trained)

    def _update(
        self, trained: Trained, state: Any, gradient: Trained, rate: jax.Array
    ) -> tuple[Trained, Any, jax.Array]:
        """One step; nothing changes where the gradient is not finite.

        Returns:
            Parameters, state, and the norm of the gradient before it was clipped.
        """
        norm = optax.global_norm(gradient)
        # As torch clips: with the same small number under the fraction.
        scale = jnp.minimum(1, self._settings.max_grad_norm / (norm + 1e-6))
        clipped = jax.tree.map(lambda one: one * scale, gradient)
        step, changed = self.transform.update(clipped, state, trained)
        moved = jax.tree.map(lambda value, by: value - rate * by, trained, step)
        moved["loss"] = self._clamp(moved["loss"])
        good = jnp.isfinite(norm)
        keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)  # noqa: E731
        return keep(moved, trained), keep(changed, state), norm


def _placed(shape: jax.ShapeDtypeStruct, place: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place)

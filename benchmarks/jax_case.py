"""A run of a recipe without its loop, for tests and claims: its setup on any mesh, its values, its batches."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

import jax
from teva_data import running
from teva_data.artifact import Artifact
from teva_data.dataset import Dataset
from teva_data.plan import BatchPlan
from teva_data.prompting import training_renderer
from teva_jax.caching import Figures
from teva_jax.feed import Feed
from teva_jax.mesh import make_mesh
from teva_jax.params import gather
from teva_jax.recipe import read_recipe
from teva_jax.state import Setup

ONE = (1, 1, 1)


class Case:
    """Everything that a step takes.

    Args:
        recipe: as :func:`teva_jax.read_recipe` takes it.
        overrides: likewise.
        sizes: of the mesh's axes data, fsdp, tensor.
    """

    def __init__(self, recipe: Any, overrides: Any = (), sizes: tuple[int, int, int] = ONE) -> None:
        devices = jax.devices()[: int(np.prod(sizes))]
        self.mesh = make_mesh(data=sizes[0], fsdp=sizes[1], tensor=sizes[2], devices=devices)
        recipe = read_recipe(recipe, overrides)
        datasets = [Dataset.open(one.path) for one in recipe.data.listed()]
        base = Artifact.load(recipe.model.name)
        self.recipe = running.resolve(recipe, base, datasets)
        self.renderer = training_renderer(self.recipe, base)
        self.plan = BatchPlan.from_recipe(self.recipe, datasets)
        self.setup = Setup.of(self.recipe, base, self.mesh)
        self.state = self.setup.load()
        self.feed = Feed(self.plan, self.renderer, self.recipe, self.setup.shapes, self.mesh)

    def gradient(self, step: int = 0) -> tuple[float, dict[str, dict[str, np.ndarray]], Figures]:
        """Loss, gradient, and the figures of a batch; of several processes, all call it."""
        state, gradient = self.state, self.setup.gradient
        total = gradient.zeros(state.trained)
        total, figures = gradient.add(state.trained, state.frozen, total, self.feed.batch(step))
        gradient.check(float(figures.difference))
        found = {part: {name: gather(value) for name, value in each.items()} for part, each in total.items()}
        return float(figures.loss), found, figures


def relative(found: Any, expected: Any) -> float:
    """Relative L2 distance of two trees."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))
    off = sum(float(np.square(np.asarray(a, float) - np.asarray(b, float)).sum()) for a, b in pairs)
    return float((off / sum(float(np.square(np.asarray(b, float)).sum()) for _, b in pairs)) ** 0.5)


def shaken(adapter: dict[str, jax.Array], scale: float = 0.02) -> dict[str, jax.Array]:
    """An adapter whose second factors are not zero, so that all of its gradient is there."""
    return {
        name: value + scale * jax.random.normal(jax.random.key(number), value.shape, jnp.float32)
        for number, (name, value) in enumerate(adapter.items())
    }

"""A run of a recipe without its loop, for tests and claims: its setup on any mesh, its values, its batches."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

import jax
from teva_data import running
from teva_data.artifact import Artifact
from teva_data.dataset import Dataset
from teva_data.plan import BatchPlan
from teva_data.prompting import training_renderer
from teva_jax.feed import Feed
from teva_jax.mesh import make_mesh
from teva_jax.recipe import read_recipe
from teva_jax.state import Setup

ONE = (1, 1, 1)


class Case:
    """Everything that a step takes."""

    def __init__(self, recipe, overrides=(), sizes=ONE, devices=None):
        count = int(np.prod(sizes))
        devices = jax.devices()[:count] if devices is None else devices
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

    def gradient(self, step=0, state=None):
        """Loss, gradient as numpy, and the figures of a batch."""
        state, gradient = state or self.state, self.setup.gradient
        total, figures = gradient.add(state.trained, state.frozen, gradient.zeros(state.trained), self.feed.batch(step))
        gradient.check(float(figures.difference))
        return float(figures.loss), jax.tree.map(np.asarray, total), figures


def relative(found, expected):
    """Relative L2 distance of two trees."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))
    off = sum(float(np.square(np.asarray(a, float) - np.asarray(b, float)).sum()) for a, b in pairs)
    return (off / sum(float(np.square(np.asarray(b, float)).sum()) for _, b in pairs)) ** 0.5


def shaken(adapter, scale=0.02):
    """An adapter whose second factors are not zero, so that all of its gradient is there."""
    return {
        name: value + scale * jax.random.normal(jax.random.key(number), value.shape, jnp.float32)
        for number, (name, value) in enumerate(adapter.items())
    }

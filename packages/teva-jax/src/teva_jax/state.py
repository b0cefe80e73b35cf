"""What a run is made of: the model, what of it is trained, its programs, and where everything lies on the mesh.

Nothing here has a value before :meth:`Setup.load`, so the same object serves a plan.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

import jax
from teva_data.artifact import Artifact
from teva_data.errors import RecipeError
from teva_data.recipe import Recipe

from . import lora, params
from .adapters import from_peft, read_settings
from .caching import BatchGradient, Frozen, Trained
from .feed import Shapes
from .lora import LoraSettings
from .losses import Loss, build_loss
from .mesh import make_mesh, replicated, shardings
from .model import Retriever
from .optim import Optimizer
from .params import Spec
from .recipe import JaxSection, LoraSection, jax_section


@dataclasses.dataclass
class State:
    """The values of a run: all that a step changes, and what it does not.

    Attributes:
        trained: float32.
        optimizer: the optimiser's state.
        frozen: the base model's parameters under an adapter; empty otherwise.
    """

    trained: Trained
    optimizer: Any
    frozen: Frozen


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run without its values.

    Attributes:
        recipe: resolved.
        base: what training starts from.
        mesh: the devices.
        retriever: the encoder.
        loss: the loss.
        shapes: of all batches.
        gradient: the programs of a batch.
        optimizer: the program of a step.
    """

    recipe: Recipe
    base: Artifact
    mesh: Mesh
    retriever: Retriever
    loss: Loss
    shapes: Shapes
    gradient: BatchGradient
    optimizer: Optimizer

    @classmethod
    def of(cls, recipe: Recipe, base: Artifact, mesh: Mesh) -> Setup:
        """The run that a recipe describes.

        Args:
            recipe: resolved: pooling and normalisation are set.
            base: what ``model.name`` names.
            mesh: the devices.

        Raises:
            ArtifactError: a family that is not known here.
            RecipeError: settings that the family does not have.
        """
        options, precision = jax_section(recipe), recipe.train.precision
        retriever = Retriever.describe(
            base, mesh, pooling=recipe.model.pooling, normalize=recipe.model.normalize,
            bidirectional=recipe.model.bidirectional, compute_dtype=jnp.dtype(precision), remat=options.remat,
            lora=None if options.lora is None else lora_settings(options.lora),
        )  # fmt: skip
        loss = build_loss(recipe.loss, hidden=retriever.dim, normalize=retriever.normalize)
        shapes = Shapes.of(recipe, mesh, chunk_tokens(options, mesh))
        places = {
            "retriever": shardings(_trained_table(retriever), mesh),
            "loss": dict.fromkeys(loss.initial(), replicated(mesh)),
        }
        gradient = BatchGradient(
            embedding(retriever), loss, (shapes.pool, retriever.dim), mesh, places,
            cached=options.gradient_cache, precision=precision,
        )  # fmt: skip
        optimizer = Optimizer(recipe.train, places, mesh, loss.clamp)
        return cls(recipe, base, mesh, retriever, loss, shapes, gradient, optimizer)

    @property
    def places(self) -> dict[str, dict[str, NamedSharding]]:
        """Where the parts of what is trained lie."""
        return {
            "retriever": shardings(_trained_table(self.retriever), self.mesh),
            "loss": dict.fromkeys(self.loss.initial(), replicated(self.mesh)),
        }

    @property
    def frozen_dtype(self) -> jnp.dtype:
        """Of the weights under an adapter."""
        return jnp.dtype(jax_section(self.recipe).weights)

    def load(self) -> State:
        """The values before the first step, read into their shards."""
        table, adapted = self.retriever.model.table, self.retriever.lora
        frozen: Frozen = {}
        if adapted is None:
            weights = params.load(self.base.path, table, self.mesh, jnp.float32)
        else:
            frozen = params.load(self.base.path, table, self.mesh, self.frozen_dtype)
            weights = self._adapter(adapted)
        learned = jax.device_put(self.loss.values(), self.places["loss"])
        trained = {"retriever": weights, "loss": learned}
        return State(trained, self.optimizer.init(trained), frozen)

    def _adapter(self, settings: LoraSettings) -> dict[str, jax.Array]:
        """The adapter that training starts from: the one that the recipe names, or a new one."""
        section, table = jax_section(self.recipe).lora, self.retriever.model.table
        if section is not None and section.adapter is not None:
            return from_peft(section.adapter, table, self.mesh)[0]
        make = jax.jit(lambda key: lora.init(key, table, settings), out_shardings=self.places["retriever"])
        made: dict[str, jax.Array] = make(jax.random.key(self.recipe.train.seed))
        return made

    def shapes_of_state(self) -> State:
        """:meth:`load` without values: shapes, types and places."""
        table = self.retriever.model.table
        trained: Any = {
            "retriever": _abstract(_trained_table(self.retriever), self.places["retriever"], jnp.dtype("float32")),
            "loss": {
                name: jax.ShapeDtypeStruct((), jnp.float32, sharding=place)
                for name, place in self.places["loss"].items()
            },
        }
        adapted = self.retriever.lora is not None
        frozen: Any = _abstract(table, shardings(table, self.mesh), self.frozen_dtype) if adapted else {}
        return State(trained, self.optimizer.init(trained), frozen)

    def parts(self, state: State) -> tuple[Any, Any]:
        """What :meth:`Retriever.embed` takes: the model's parameters, and the adapter's or None."""
        if self.retriever.lora is None:
            return state.trained["retriever"], None
        return state.frozen, state.trained["retriever"]


def mesh_of(options: JaxSection, devices: Any = None) -> Mesh:
    """The mesh that a recipe's ``jax`` section describes, over all devices of all processes where none are given."""
    return make_mesh(data=options.data, fsdp=options.fsdp, tensor=options.tensor, devices=devices)


def chunk_tokens(options: JaxSection, mesh: Mesh) -> int:
    """Tokens of one pass on one device."""
    return options.chunk_tokens or (1024 if mesh.devices.flat[0].platform == "cpu" else 16384)


def lora_settings(section: LoraSection) -> LoraSettings:
    """The recipe's section as the model takes it; of an adapter to go on from, its own layers.

    Raises:
        RecipeError: that adapter has another rank or scale than the recipe.
    """
    targets = None if section.targets is None else tuple(section.targets)
    mine = LoraSettings(section.rank, section.alpha, section.dropout, targets, section.rslora)
    if section.adapter is None:
        return mine
    found = read_settings(section.adapter)
    for key in ("rank", "alpha", "rslora"):
        if getattr(found, key) != getattr(mine, key):
            raise RecipeError(
                f"jax.lora.{key}: found {getattr(mine, key)}; expected {getattr(found, key)}, as {section.adapter} has"
            )
    return dataclasses.replace(mine, targets=found.targets)


def embedding(retriever: Retriever) -> Any:
    """:meth:`Retriever.embed` as :data:`.caching.Embed`: what is trained comes first."""
    if retriever.lora is None:
        return lambda trained, frozen, ids, lengths, key: retriever.embed(trained, None, ids, lengths, key)
    return lambda trained, frozen, ids, lengths, key: retriever.embed(frozen, trained, ids, lengths, key)


def _trained_table(retriever: Retriever) -> dict[str, Spec]:
    table = retriever.model.table
    return dict(table) if retriever.lora is None else lora.table(table, retriever.lora)


def _abstract(
    table: dict[str, Spec], places: dict[str, NamedSharding], dtype: jnp.dtype
) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(spec.shape, dtype, sharding=places[name]) for name, spec in table.items()}

"""A model as a table of parameters and one function. Legend: B texts, T tokens, H hidden size, L layers."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from numpy.typing import DTypeLike, NDArray

import jax
from teva_data.errors import TevaError
from teva_jax.lora import LoraSettings, attach
from teva_jax.mesh import constrain
from teva_jax.params import Spec


@dataclasses.dataclass
class Scene:
    """What all layers of one forward pass share.

    Attributes:
        lengths: int32 [B].
        dtype: of the computation.
        mesh: the devices; None where the caller has none.
        rope: of a decoder, cosines and sines for full and for sliding layers.
    """

    lengths: jax.Array
    dtype: jnp.dtype
    mesh: Mesh | None
    rope: tuple[tuple[jax.Array, jax.Array], ...] = ()

    def constrain(self, x: jax.Array, axes: Sequence[str | None]) -> jax.Array:
        """Hold an intermediate value where the mesh's rules say."""
        return constrain(x, axes, self.mesh)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The parts of a family.

    Attributes:
        root: has ``begin(ids, scene, key) -> [B, T, H]`` and ``end(x) -> [B, T, H]``.
        layer: ``(x, scene, key, wide) -> x``; all layers are this one with other weights. ``wide`` is of the layer: a
            bool where all are alike, an array where not, None where the family has no windows.
        stack: name of the list of layers in the checkpoint.
        depth: L.
        positions: tokens of the longest text.
        wide: bool [L]: which layers see the whole text; None where the family has no windows.
    """

    root: nnx.Module
    layer: nnx.Module
    stack: str
    depth: int
    positions: int
    wide: NDArray[np.bool_] | None = None


class Model:
    """A backbone: no weights of its own, but a table of what it needs, and the function of them.

    Args:
        config: of the checkpoint.
        architecture: the family's parts.
        mesh: the devices that the parameters and batches lie on; needed where they are several.

    Attributes:
        table: the parameters, keyed as Hugging Face does.
        positions: tokens of the longest text.
        width: H.
    """

    def __init__(self, config: Mapping[str, Any], architecture: Architecture, mesh: Mesh | None = None) -> None:
        self.config, self.mesh = dict(config), mesh
        self.depth, self.positions = architecture.depth, architecture.positions
        self.width = int(config["hidden_size"])
        self.prefix = f"{architecture.stack}.*."
        self._wide = architecture.wide
        self._root, root = nnx.split(architecture.root)
        self._layer, layer = nnx.split(architecture.layer)
        self.table = {
            **{name: Spec(tuple(p.shape), p.axes) for name, p in _named(root).items()},
            **{
                self.prefix + name: Spec((self.depth, *p.shape), ("layers", *p.axes))
                for name, p in _named(layer).items()
            },
        }

    def hidden(
        self,
        params: Mapping[str, jax.Array],
        token_ids: jax.Array,
        lengths: jax.Array,
        *,
        adapter: Mapping[str, jax.Array] | None = None,
        lora: LoraSettings | None = None,
        dropout_key: jax.Array | None = None,
        compute_dtype: DTypeLike = jnp.float32,
        remat: bool = False,
    ) -> jax.Array:
        """The last layer's hidden states.

        Args:
            params: as ``table`` says.
            token_ids: int32 [B, T], rows padded on the right with any id of the vocabulary.
            lengths: int32 [B].
            adapter: LoRA's factors, as :func:`teva_jax.lora.table` names them.
            lora: how they are scaled; needed with ``adapter``.
            dropout_key: a key for all dropout of this pass; none without it.
            compute_dtype: of activations and products; softmax and norms are float32.
            remat: keep a layer's input alone for the way back.

        Returns:
            [B, T, H] in ``compute_dtype``; what stands behind a text's end has no meaning.

        Raises:
            TevaError: more tokens than the model has positions; an adapter without settings.
        """
        if token_ids.shape[1] > self.positions:
            raise TevaError(
                f"a batch of {token_ids.shape[1]} tokens; expected at most {self.positions}, by config.json"
            )
        if adapter and lora is None:
            raise TevaError("an adapter without the settings that scale it")
        scene = Scene(lengths, jnp.dtype(compute_dtype), self.mesh)
        keys = None if dropout_key is None else jax.random.split(dropout_key, self.depth + 1)
        inside = {name.removeprefix(self.prefix): value for name, value in params.items() if "*" in name}
        factors = {name.removeprefix(self.prefix): value for name, value in (adapter or {}).items()}
        # Only where layers differ does what they see go through the scan.
        mixed = self._wide is not None and 0 < self._wide.sum() < self.depth
        wide = jnp.asarray(self._wide) if mixed else None
        same = None if mixed or self._wide is None else bool(self._wide.all())

        def step(x: jax.Array, given: Any) -> tuple[jax.Array, None]:
            weights, factors, key, wide = given
            layer: Any = nnx.merge(self._layer, _state(weights))
            if lora is not None:
                key = attach(layer, factors, lora, key)
            x = layer(x, scene, key, same if wide is None else wide)
            return scene.constrain(x, ("batch", "length", None)), None

        with _precision(scene.dtype):
            root: Any = nnx.merge(self._root, _state({name: v for name, v in params.items() if "*" not in name}))
            x = root.begin(token_ids, scene, None if keys is None else keys[-1])
            x = scene.constrain(x, ("batch", "length", None))
            if remat:
                step = jax.checkpoint(step, prevent_cse=False)
            x, _ = jax.lax.scan(step, x, (inside, factors, None if keys is None else keys[:-1], wide))
            return root.end(x)


def _precision(dtype: jnp.dtype) -> Any:
    """float32 means float32: TPUs and GPUs else round what they multiply."""
    return jax.default_matmul_precision("float32") if dtype == jnp.float32 else contextlib.nullcontext()


def _named(state: Any) -> dict[str, Any]:
    return {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}


def _state(values: Mapping[str, jax.Array]) -> Any:
    return nnx.from_flat_state([(tuple(name.split(".")), value) for name, value in values.items()])

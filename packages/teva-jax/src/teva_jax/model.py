"""The retriever: a backbone, a pooling, and a normalisation. Legend: B texts, T tokens, H hidden size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import jax.numpy as jnp
from jax.sharding import Mesh
from numpy.typing import DTypeLike

import jax
from teva_data.artifact import Artifact
from teva_data.errors import ArtifactError

from . import params, plugins, pooling
from .lora import LoraSettings
from .models import Model, build, read_config

Params = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Retriever:
    """Takes token ids to one vector a text; a function of its parameters, which it does not hold.

    Attributes:
        model: the backbone.
        pooling: ``(hidden [B, T, H], lengths [B]) -> [B, H]``.
        pooling_name: its entry point.
        normalize: whether vectors get length 1.
        compute_dtype: of activations and products.
        remat: keep a layer's input alone for the way back.
        lora: how an adapter is scaled; None without one.
    """

    model: Model
    pooling: Callable[[jax.Array, jax.Array], jax.Array]
    pooling_name: str
    normalize: bool
    compute_dtype: DTypeLike = jnp.float32
    remat: bool = False
    lora: LoraSettings | None = None

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return self.model.width

    def embed(
        self,
        params: Params,
        adapter: Params | None,
        token_ids: jax.Array,
        lengths: jax.Array,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Vectors of padded token ids.

        Args:
            params: the backbone's parameters, as ``model.table`` says.
            adapter: LoRA's factors, or None.
            token_ids: int32 [B, T], padded on the right.
            lengths: int32 [B].
            dropout_key: for all dropout; none without it.

        Returns:
            float32 [B, H].
        """
        hidden = self.model.hidden(
            params, token_ids, lengths, adapter=adapter, lora=self.lora, dropout_key=dropout_key,
            compute_dtype=self.compute_dtype, remat=self.remat,
        )  # fmt: skip
        vectors = self.pooling(hidden, lengths).astype(jnp.float32)
        return pooling.normalize(vectors) if self.normalize else vectors

    @classmethod
    def describe(
        cls,
        artifact: Artifact,
        mesh: Mesh,
        *,
        pooling: str | None = None,
        normalize: bool | None = None,
        bidirectional: bool | None = None,
        compute_dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        lora: LoraSettings | None = None,
    ) -> Retriever:
        """The retriever of an artifact, without reading its weights; arguments are those of :meth:`load`."""
        pooling = pooling or artifact.pooling
        if pooling is None:
            raise ArtifactError(
                f"{artifact.name}: no modules.json, so it does not say how to pool. Set model.pooling in the recipe "
                "(cls or mean for encoders such as BERT, last for decoders such as Llama)"
            )
        return cls(
            model=build(read_config(artifact.path, bidirectional=bidirectional), mesh),
            pooling=plugins.find(plugins.POOLINGS, pooling, "model.pooling"), pooling_name=pooling,
            normalize=artifact.normalize if normalize is None else normalize,
            compute_dtype=compute_dtype, remat=remat, lora=lora,
        )  # fmt: skip

    @classmethod
    def load(
        cls,
        artifact: Artifact | str | Path,
        mesh: Mesh,
        *,
        pooling: str | None = None,
        normalize: bool | None = None,
        bidirectional: bool | None = None,
        param_dtype: DTypeLike = jnp.float32,
        compute_dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        lora: LoraSettings | None = None,
    ) -> tuple[Retriever, dict[str, jax.Array]]:
        """The retriever of an artifact or a bare backbone, and its parameters in their shards.

        Args:
            artifact: its description, or a directory or hub id.
            mesh: the devices.
            pooling: a registered pooling; the artifact's where not given.
            normalize: the artifact's where not given.
            bidirectional: whether each token of a decoder sees the whole text; as the model says where not given.
            param_dtype: of the parameters.
            compute_dtype: of activations and products.
            remat: keep a layer's input alone for the way back.
            lora: how an adapter will be scaled.

        Raises:
            ArtifactError: a family that is not known here, weights that cannot be read, or no pooling.
            RecipeError: no pooling of that name, or a direction that the family does not have.
        """
        if not isinstance(artifact, Artifact):
            artifact = Artifact.load(artifact)
        retriever = cls.describe(
            artifact, mesh, pooling=pooling, normalize=normalize, bidirectional=bidirectional,
            compute_dtype=compute_dtype, remat=remat, lora=lora,
        )  # fmt: skip
        return retriever, params.load(artifact.path, retriever.model.table, mesh, param_dtype)

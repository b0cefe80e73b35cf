"""The recipe's ``jax:`` section, and recipes that ship with the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from teva_data.recipe import Recipe
from teva_data.sections import Section, expect
from teva_data.shipped import read_recipe as read
from teva_data.shipped import shipped as shipped_with


class LoraSection(Section):
    """Low-rank adapters: what is trained in place of the weights."""

    rank: int = Field(16, ge=1, description="of the two factors")
    alpha: float = Field(32, gt=0, description="the product of the factors is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="of what goes into the first factor")
    targets: list[str] | None = Field(
        None, min_length=1, description="names of linear layers; empty: all in the blocks (q, k, v, o, gate, up, down)"
    )
    rslora: bool = Field(False, description="scale by alpha / sqrt(rank) (rank-stabilised LoRA)")
    adapter: str | None = Field(None, description="directory of an adapter (PEFT) to go on from; empty: a new one")

    @field_validator("targets", mode="before")
    @classmethod
    def _from_words(cls, value: object) -> object:
        # On a command line: q_proj,v_proj
        return value.split(",") if isinstance(value, str) else value


class JaxSection(Section):
    """What only teva-jax has."""

    data: int = Field(1, ge=-1, description="mesh: groups of devices that each hold all weights; -1: what is left")
    fsdp: int = Field(-1, ge=-1, description="mesh: devices that each hold a part of the weights and of the batch")
    tensor: int = Field(1, ge=-1, description="mesh: devices that share one text's computation")
    lora: LoraSection | None = Field(
        None, description="train adapters: rank, alpha, dropout, targets, rslora, adapter ({} for the defaults); "
        "empty: train all weights",
    )  # fmt: skip
    weights: Literal["float32", "bfloat16"] = Field(
        "float32", description="of what lora leaves frozen. What is trained is float32 always"
    )
    remat: bool = Field(
        False, description="keep a layer's input alone for the way back: less memory, a third more time"
    )
    chunk_tokens: int | None = Field(
        None, ge=1, description="tokens, padding included, of one forward pass on one device along data and fsdp; "
        "empty: 1024 on cpu, 16384 elsewhere",
    )  # fmt: skip
    gradient_cache: bool = Field(
        False, description="encode each chunk twice and keep the activations of one: large batches in little memory"
    )
    distributed: Literal["auto", "yes", "no"] = Field(
        "auto", description="several processes (jax.distributed): auto: where JAX_COORDINATOR_ADDRESS, Slurm or a TPU "
        "pod says so",
    )  # fmt: skip
    compilation_cache: str | None = Field(
        None, description="directory in which compiled programs are kept for the next start; empty: none are"
    )
    export_weights: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the artifact's files; bfloat16 is half the size, and rounds what was trained"
    )
    parity_cosine: float = Field(
        0.9999, gt=0, le=1, description="the export fails where a vector's cosine with a reloaded one is below this"
    )

    @model_validator(mode="after")
    def _agree(self) -> JaxSection:
        for key in ("data", "fsdp", "tensor"):
            expect(getattr(self, key) != 0, key, "expected -1 or at least 1")
        expect(
            self.weights == "float32" or self.lora is not None, "weights",
            "weights that are trained stay float32: set lora, which freezes them, or train.precision bfloat16 for the "
            "computation alone",
        )  # fmt: skip
        return self


OWNERS = {"jax": JaxSection}
"""The sections that only this trainer has."""


def read_recipe(
    source: str | Path | Mapping[str, Any] | Recipe, overrides: Mapping[str, Any] | Sequence[str] = ()
) -> Recipe:
    """A checked recipe with its ``jax`` section complete; arguments and errors as
    :func:`teva_data.shipped.read_recipe` has them.
    """
    return read(source, overrides, package="teva_jax", owners=OWNERS)


def jax_section(recipe: Recipe) -> JaxSection:
    """The ``jax`` section as its own type."""
    return JaxSection.model_validate(recipe.jax)


def shipped() -> dict[str, Path]:
    """Recipes that ship with the package: name to file."""
    return shipped_with("teva_jax")

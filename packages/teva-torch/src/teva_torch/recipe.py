"""The recipe's ``torch:`` section, and recipes that ship with the package."""

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
    dora: bool = Field(False, description="a trained length for each column of the weights (DoRA)")
    vision: bool = Field(False, description="adapt the tower that sees pictures too; otherwise it stays as it is")
    audio: bool = Field(False, description="adapt the tower that hears sounds too; otherwise it stays as it is")
    rslora: bool = Field(False, description="scale by alpha / sqrt(rank) (rank-stabilised LoRA)")

    @field_validator("targets", mode="before")
    @classmethod
    def _from_words(cls, value: object) -> object:
        # On a command line: q_proj,v_proj
        return value.split(",") if isinstance(value, str) else value


class TorchSection(Section):
    """What only teva-torch has."""

    device: str = Field("auto", description="auto (cuda, then mps, then cpu), or cpu, cuda, cuda:1, mps")
    strategy: Literal["auto", "single", "ddp", "fsdp2", "deepspeed"] = Field(
        "auto", description="of several processes: ddp (each holds the model), fsdp2 or deepspeed (each holds a part "
        "of it); auto: single for one process, else ddp",
    )  # fmt: skip
    deepspeed: str = Field(
        "zero3", description="for strategy: deepspeed: zero0, zero1, zero2, zero3, zero3-offload (optimizer and "
        "parameters in CPU memory), or a JSON file of DeepSpeed's settings",
    )  # fmt: skip
    reshard_after_forward: bool = Field(
        True, description="for strategy: fsdp2: a layer's weights are gathered anew for the way back (less memory)"
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "varlen"] = Field(
        "auto", description="auto (transformers' own choice), sdpa, eager, flash_attention_2, varlen (no padding; on "
        "GPUs, in bfloat16)",
    )  # fmt: skip
    lora: LoraSection | None = Field(
        None, description="train adapters: rank, alpha, dropout, targets, dora, rslora ({} for the defaults); empty: "
        "train all weights",
    )  # fmt: skip
    weights: Literal["float32", "bfloat16", "nf4"] = Field(
        "float32", description="of what lora leaves frozen; nf4 is QLoRA's 4 bits. What is trained is float32 always"
    )
    optimizer: Literal["adamw", "adamw_8bit"] = Field("adamw", description="adamw_8bit keeps its state in 8 bits")
    freeze_vision: bool = Field(
        False, description="leave the tower that sees pictures as it is (without lora, which leaves it anyway)"
    )
    freeze_audio: bool = Field(
        False, description="leave the tower that hears sounds as it is (without lora, which leaves it anyway)"
    )
    freeze_text: bool = Field(
        False, description="of a model with two towers (CLIP, SigLIP), leave the one that reads as it is"
    )
    gradient_checkpointing: bool = Field(
        False, description="keep a layer's input alone for the backward pass: less memory, a third more time"
    )
    chunk_tokens: int | None = Field(
        None,
        ge=1,
        description="tokens of one forward pass, padding included, at most; empty: 16384; cached on cpu, 1024",
    )
    gradient_cache: bool = Field(
        False, description="encode each chunk twice and keep the activations of one: large batches in little memory"
    )
    keep_vision: bool = Field(
        True, description="with gradient_cache: keep what a frozen tower made of a batch's pictures for the second "
        "pass (a vector for each of their tokens); false: it sees them twice",
    )  # fmt: skip
    gradient_cache_check: Literal["first", "all"] = Field(
        "first", description="chunks of which the second pass is compared with the first"
    )
    timeout: float = Field(1800.0, gt=0, description="seconds that a process waits for the others under torchrun")
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        [], description="that get the lines of metrics.jsonl too: tensorboard, wandb, trackio (tensorboard,wandb)"
    )
    tracker_project: str = Field("teva", min_length=1, description="the project of wandb and trackio")
    export_weights: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the artifact's files; bfloat16 is half the size, and rounds what was trained"
    )
    parity_cosine: float = Field(
        0.9999, gt=0, le=1, description="the export fails where a vector's cosine with a reloaded one is below this"
    )

    @field_validator("trackers", mode="before")
    @classmethod
    def _from_words(cls, value: object) -> object:
        # On a command line: tensorboard,wandb
        return [one for one in value.split(",") if one] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _trained_in_full(self) -> TorchSection:
        expect(
            self.weights == "float32" or self.lora is not None, "weights",
            "weights that are trained stay float32: set lora, which freezes them, or train.precision bfloat16 for the "
            "computation alone",
        )  # fmt: skip
        return self


OWNERS = {"torch": TorchSection}
"""The sections that only this trainer has."""


def read_recipe(
    source: str | Path | Mapping[str, Any] | Recipe, overrides: Mapping[str, Any] | Sequence[str] = ()
) -> Recipe:
    """A checked recipe with its ``torch`` section complete; arguments and errors as
    :func:`teva_data.shipped.read_recipe` has them.
    """
    return read(source, overrides, package="teva_torch", owners=OWNERS)


def torch_section(recipe: Recipe) -> TorchSection:
    """The ``torch`` section as its own type."""
    return TorchSection.model_validate(recipe.torch)


def shipped() -> dict[str, Path]:
    """Recipes that ship with the package: name to file."""
    return shipped_with("teva_torch")

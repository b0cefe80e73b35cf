"""The recipe: one YAML file that describes a run to every trainer.

Sections ``model``, ``prompts``, ``data``, ``loss`` and ``train`` are shared. ``torch`` and ``jax`` belong to
their trainers: teva-data keeps them as they are and the owner checks them, so a new option there needs no release of
teva-data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from .errors import RecipeError, shorten
from .sections import Section, deep_copy, expect, flatten, parse_overrides, read_yaml, replace, validated

# What decides no weight (`Recipe.deciding`).
_IDLE = {
    "train.output", "train.log_every", "train.save_every", "train.keep_checkpoints",
    "data.path", "data.picture_workers",
    "model.name", "model.revision", "model.document_name", "model.document_revision",
    "torch.device", "torch.parity_cosine", "torch.timeout",
    "torch.gradient_cache_check", "torch.export_weights", "torch.strategy", "torch.deepspeed",
    "torch.reshard_after_forward", "torch.trackers", "torch.tracker_project",
    "jax.data", "jax.fsdp", "jax.tensor", "jax.distributed", "jax.compilation_cache", "jax.export_weights",
    "jax.parity_cosine",
}  # fmt: skip


class ModelSection(Section):
    """The backbone and how a text becomes one vector."""

    name: str = Field(description="model directory or hub id (owner/name)")
    revision: str | None = Field(None, description="branch, tag or commit on the hub")
    tied: bool = Field(
        True, description="one encoder for both; false: queries and documents have one each, both trained"
    )
    document_name: str | None = Field(
        None, description="with tied: false, what the document encoder starts from; empty: as name"
    )
    document_revision: str | None = Field(None, description="branch, tag or commit of document_name on the hub")
    pooling: str | None = Field(None, description="cls, mean or last; empty: as the model says")
    normalize: bool | None = Field(None, description="vectors of length 1; empty: as the model says")
    bidirectional: bool | None = Field(
        None, description="decoders: whether each token sees the whole text; empty: as the model says"
    )
    append_eos: bool | None = Field(
        None, description="EOS behind every text, by the tokenizer; empty: where pooling becomes last and nothing is"
    )
    format: Literal["plain", "chat"] = Field(
        "plain", description="what a text stands in: nothing (plain), or a user's message of the model's chat template "
        "(chat), which is written into the tokenizer",
    )  # fmt: skip
    query_max_length: int = Field(64, ge=3, description="tokens of a query in training, special ones included")
    min_pixels: int | None = Field(
        None, ge=1, description="smaller pictures are enlarged to it; empty: the model's own limit"
    )
    max_pixels: int | None = Field(
        None, ge=1, description="larger pictures are made smaller; empty: the model's own limit"
    )
    video_rate: float | None = Field(
        None, gt=0, description="frames a second that are taken of a clip; empty: as the model says, else 2"
    )
    video_frames: int | None = Field(
        None, ge=1, description="frames of a clip at most, then spread over it; empty: as the model says, else 24"
    )
    video_pixels: int | None = Field(
        None, ge=1, description="larger frames are made smaller; empty: the model's own limit"
    )
    video_sound: bool | None = Field(
        None, description="hear a clip's sound too, of a model that hears; empty: as the model says, else not"
    )
    audio_seconds: float | None = Field(
        None, gt=0, description="seconds that are taken of a recording, from its beginning; empty: as the model says, "
        "else 30",
    )  # fmt: skip
    merging: Literal["sequence", "mean", "first"] | None = Field(
        None, description="of a record of several pieces: all in one sequence, the mean of the pieces' vectors, or the "
        "first alone; empty: as the model says, else sequence",
    )  # fmt: skip
    document_max_length: int = Field(256, ge=3, description="tokens of a document in training, special ones included")

    @model_validator(mode="after")
    def _two(self) -> ModelSection:
        expect(self.document_name is None or not self.tied, "document_name", "of no use without tied: false")
        named = self.document_revision is None or self.document_name is not None
        expect(named, "document_revision", "of no use without document_name")
        return self


class PromptsSection(Section):
    """Text put before every query and every document; empty: as the dataset's card says, else as the model says."""

    query: str | None = Field(None, description='e.g. "query: "; include the space at its end')
    document: str | None = Field(None, description='e.g. "passage: "')


class DatasetSection(Section):
    """One dataset of several."""

    path: str = Field(description="dataset directory")
    split: str | None = Field(None, description="empty: data.split")
    weight: float | None = Field(None, ge=0, description="share of the batches relative to the others', if weighted")
    repeat: float = Field(1, gt=0, description="how often each query comes in an epoch, if proportional or temperature")
    limit: int | None = Field(None, ge=1, description="queries used at most, the same in all epochs")
    negatives: int | None = Field(None, ge=0, description="empty: data.negatives")
    query_prompt: str | None = Field(
        None, description="before its queries; empty: prompts.query, else as its card says"
    )
    document_prompt: str | None = Field(None, description="before its documents; likewise")


class DataSection(Section):
    """The training data: one dataset, or several and how they are mixed."""

    path: str | None = Field(
        None, description="dataset directory (corpus.jsonl and the split's JSONL); or give datasets"
    )
    split: str = Field("train", description="name of the query file in it, without its ending")
    negatives: int = Field(7, ge=0, description="listed negatives taken for each query and step")
    datasets: list[DatasetSection] | None = Field(
        None, min_length=1, description="in place of path: a list of path, split, weight, repeat, limit, negatives, "
        "query_prompt, document_prompt",
    )  # fmt: skip
    mixing: Literal["proportional", "weighted", "temperature", "round_robin"] = Field(
        "proportional",
        description="of several datasets: proportional to size, weighted, temperature (size ** (1 / it)), round_robin",
    )
    mixing_temperature: float | None = Field(None, gt=0, description="for mixing: temperature; 1 is proportional")
    batches: Literal["mixed", "one_dataset", "one_modality"] = Field(
        "mixed", description="what one batch holds: mixed, one_dataset, one_modality"
    )
    positive_sampling: Literal["rotate", "best", "scored"] = Field(
        "rotate", description="a query's positive: rotate (by epoch), best (highest score), scored (drawn by score)"
    )
    negative_sampling: Literal["rotate", "best", "scored"] = Field("rotate", description="its negatives: likewise")
    score_temperature: float = Field(1.0, gt=0, description="for scored: drawn with softmax(score / this)")
    bad_pictures: Literal["error", "skip"] = Field(
        "error", description="a picture that cannot be read ends the run (error), or its record is left out of the "
        "batches it comes in and named in skipped.jsonl (skip)",
    )  # fmt: skip
    picture_workers: int | None = Field(
        None, ge=1, description="threads that decode a batch's pictures; empty: this process's cores, at most 8"
    )

    @model_validator(mode="after")
    def _agree(self) -> DataSection:
        expect((self.path is None) != (self.datasets is None), "path", "give exactly one of path and datasets")
        needed = self.mixing == "temperature"
        expect(
            (self.mixing_temperature is not None) == needed, "mixing_temperature",
            "missing for mixing: temperature" if needed else f"of no use with mixing: {self.mixing}",
        )  # fmt: skip
        weighted, repeatable = self.mixing == "weighted", self.mixing in ("proportional", "temperature")
        expect(not weighted or self.datasets is not None, "datasets", "missing for mixing: weighted")
        for place, one in enumerate(self.datasets or ()):
            expect(
                (one.weight is not None) == weighted, f"datasets.{place}.weight",
                "missing for mixing: weighted" if weighted else f"of no use with mixing: {self.mixing}",
            )  # fmt: skip
            expect(one.repeat == 1 or repeatable, f"datasets.{place}.repeat", f"of no use with mixing: {self.mixing}")
        weights = [one.weight for one in self.datasets or () if one.weight is not None]
        expect(not weights or max(weights) > 0, "datasets.0.weight", "all weights are 0")
        return self

    def listed(self) -> list[DatasetSection]:
        """The datasets, also where there is one alone; split and negatives filled in."""
        several = self.datasets or [DatasetSection(path=self.path or "")]
        return [
            one.model_copy(update={
                "split": self.split if one.split is None else one.split,
                "negatives": self.negatives if one.negatives is None else one.negatives,
            })
            for one in several
        ]  # fmt: skip


class LossSection(Section):
    """The loss."""

    name: str = Field("infonce", description="found by entry point; teva-torch brings infonce, kl and margin_mse")
    temperature: float = Field(0.02, gt=0, description="similarities are divided by it")
    learn_temperature: bool = Field(False, description="temperature is where it starts, and 0.01 the least it becomes")
    directions: list[
        Literal["query_to_document", "document_to_query", "query_to_query", "document_to_document"]
    ] = Field(
        ["query_to_document"], description="what infonce compares: query_to_document, and if listed too "
        "document_to_query, query_to_query, document_to_document",
    )  # fmt: skip
    false_negative_margin: float | None = Field(
        None, description="infonce leaves out what is nearer to the query than its positive by more than this"
    )
    false_negative_ratio: float | None = Field(
        None, gt=0, description="infonce leaves out what has more than this times the positive's similarity"
    )
    weight: float = Field(1.0, gt=0, description="of this loss where a distillation is added to it")
    distillation: str | None = Field(None, description="a second loss, of the teacher's scores: kl or margin_mse")
    distillation_weight: float = Field(1.0, gt=0, description="of the second loss")
    teacher_temperature: float = Field(1.0, gt=0, description="kl, margin_mse: the teacher's scores are divided by it")
    student_temperature: float | None = Field(
        None, gt=0, description="kl, margin_mse: similarities likewise; empty: temperature for kl, 1 for margin_mse"
    )
    matryoshka_dims: list[Annotated[int, Field(ge=1)]] | None = Field(
        None, min_length=1, description="the loss is summed over vectors cut to these dimensions, e.g. 64,128,384"
    )
    matryoshka_weights: list[Annotated[float, Field(gt=0)]] | None = Field(
        None, description="one for each of them; empty: 1 each"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="what the named loss alone takes; infonce: tile (side of its tiles)"
    )

    @field_validator("directions", "matryoshka_dims", "matryoshka_weights", mode="before")
    @classmethod
    def _words(cls, value: object) -> object:
        return [word.strip() for word in value.split(",")] if isinstance(value, str) else value  # of a command line

    @model_validator(mode="after")
    def _agree(self) -> LossSection:
        first, dims, weights = "query_to_document", self.matryoshka_dims, self.matryoshka_weights
        expect(first in self.directions, "directions", f"{first} is missing")
        expect(len(set(self.directions)) == len(self.directions), "directions", "one is given twice")
        expect(not self.learn_temperature or self.temperature >= 0.01, "temperature", "below 0.01, and to be learned")
        for key in ("weight", "distillation_weight"):
            alone = self.distillation is None
            expect(not alone or getattr(self, key) == 1, key, "of no use without distillation")
        expect(self.distillation != self.name, "distillation", "the same as name")
        expect(dims is None or len(set(dims)) == len(dims), "matryoshka_dims", "one is given twice")
        expect(weights is None or dims is not None, "matryoshka_weights", "of no use without matryoshka_dims")
        fits = weights is None or dims is None or len(weights) == len(dims)
        expect(fits, "matryoshka_weights", f"expected {len(dims or ())}, one for each of matryoshka_dims")
        return self


class TrainSection(Section):
    """The optimisation."""

    output: str = Field(description="directory for checkpoints, logs and the artifact")
    steps: int | None = Field(None, ge=1, description="optimiser steps; or give epochs")
    epochs: float | None = Field(None, gt=0, description="passes over the queries; or give steps")
    batch_size: int = Field(64, ge=1, description="queries in a batch; each is scored against the batch's documents")
    accumulate: int = Field(
        1, ge=1, description="batches whose mean gradient makes a step; each has negatives of its own alone"
    )
    learning_rate: float = Field(2e-5, gt=0, description="at its peak")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="decay after the warm-up")
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the rate climbs from 0")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's; not for biases and norms")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's decay of the gradient's mean")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="AdamW's decay of the squared gradient's mean")
    adam_epsilon: float = Field(1e-8, gt=0, description="AdamW's term against division by zero")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the forward and backward pass; weights and optimiser stay float32"
    )
    seed: int = Field(42, ge=0, description="of the order, the choices and dropout")
    log_every: int = Field(10, ge=1, description="steps between two lines of the metrics log")
    save_every: int = Field(100, ge=1, description="steps between two checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="how many of the newest are kept")
    eval_every: int | None = Field(
        None, ge=1, description="steps between two measurements of nDCG@10; the best step's weights are exported"
    )
    eval_split: str = Field("dev", description="the judged queries that are measured, of the training data's directory")
    eval_queries: int = Field(1000, ge=1, description="of the split at most")
    eval_documents: int = Field(
        20_000, ge=1, description="searched at most: those judged relevant, and others of the corpus"
    )
    patience: int | None = Field(
        None, ge=1, description="measurements without a better one after which training ends; empty: it never does"
    )

    @model_validator(mode="after")
    def _measured(self) -> TrainSection:
        expect(self.patience is None or self.eval_every is not None, "patience", "of no use without eval_every")
        return self

    @model_validator(mode="after")
    def _one_length(self) -> TrainSection:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                "give exactly one of steps and epochs; null empties one, e.g. --train.epochs null --train.steps 200"
            )
        return self


class Recipe(Section):
    """A whole run. ``torch`` and ``jax`` are checked by their trainers."""

    schema_version: Literal["1"] = Field("1", alias="schema")
    model: ModelSection
    prompts: PromptsSection = Field(default_factory=PromptsSection)
    data: DataSection
    loss: LossSection = Field(default_factory=LossSection)
    train: TrainSection
    torch: dict[str, Any] = Field(default_factory=dict)
    jax: dict[str, Any] = Field(default_factory=dict)

    @field_validator("schema_version", mode="before")
    @classmethod
    def _unquoted(cls, value: object) -> object:
        return str(value) if type(value) is int else value  # YAML reads an unquoted 1 as a number

    def to_dict(self) -> dict[str, Any]:
        """Plain values under the names that YAML has."""
        return self.model_dump(by_alias=True)

    def deciding(self) -> dict[str, Any]:
        """What decides the weights, as flat ``section.key`` names.

        Not among them: where things lie (data and base model are told apart by their contents), how often is written,
        on which device, and what the export accepts.
        """
        flat = flatten(self.to_dict())
        for place, one in enumerate(flat.pop("data.datasets") or ()):
            flat |= {f"data.datasets.{place}.{key}": value for key, value in one.items() if key != "path"}
        return {key: value for key, value in flat.items() if key not in _IDLE}


def load_recipe(
    source: str | Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | Sequence[str] = (),
    owners: Mapping[str, type[Section]] | None = None,
) -> Recipe:
    """Read and check a recipe.

    Args:
        source: a YAML file, or its contents as a mapping.
        overrides: dotted keys that replace the file's, as a mapping (``{"train.steps": 10}``) or as the words of a
            command line (``["--train.steps", "10"]``).
        owners: the sections that the caller owns and their types, e.g. ``{"torch": TorchSection}``; their values come
            back complete with defaults.

    Raises:
        RecipeError: with the file and line, the key, what was found and what was expected.
    """
    where, lines = "recipe", dict[str, int]()
    if isinstance(source, Mapping):
        value: Any = deep_copy(source)
    else:
        where = str(source)
        value, lines = read_yaml(Path(source))
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: found {shorten(value)}; expected a mapping with the sections model, data, train")
    # A section whose keys are all commented out reads as null; it means its defaults.
    value = {key: {} if item is None and key in Recipe.model_fields else item for key, item in value.items()}
    given = overrides if isinstance(overrides, Mapping) else parse_overrides(overrides)
    for key, item in given.items():
        replace(value, key, item)
    addresses = {**{key: f"{where}:{line}" for key, line in lines.items()}, **{key: f"--{key}" for key in given}}
    recipe: Recipe = validated(Recipe, value, (), where, addresses)
    complete = {
        name: validated(kind, getattr(recipe, name), (name,), where, addresses).model_dump()
        for name, kind in (owners or {}).items()
    }
    return recipe.model_copy(update=complete)

"""An adapter's files: PEFT's format in and out, so that what torch trained goes on here and the other way round.

PEFT names tensors by the model that it wraps: ``base_model.model.`` and then the name within that model. That of
``AutoModel`` has ``layers.0…``; that of ``AutoModelForCausalLM`` has ``model.layers.0…``. Loaded into the other kind,
PEFT leaves the factors zero and only warns; so the prefix is explicit here, and every name is accounted for.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

import jax
from teva_data.errors import ArtifactError
from teva_data.files import write_json

from .lora import DOWN, UP, LoraSettings, table
from .mesh import shardings
from .params import Spec, gather, members

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
# As wrapped around a model with a head.
_PREFIXES = (PREFIX, f"{PREFIX}model.", f"{PREFIX}bert.", f"{PREFIX}roberta.", f"{PREFIX}language_model.")
# Settings of PEFT that change what an adapter computes, each with the value under which it changes nothing.
_PLAIN: Mapping[str, Any] = {
    "use_dora": False, "lora_bias": False, "fan_in_fan_out": False, "rank_pattern": {}, "alpha_pattern": {},
    "layers_to_transform": None, "layers_pattern": None, "modules_to_save": None, "bias": "none",
    "layer_replication": None, "target_parameters": None, "trainable_token_indices": None, "use_qalora": False,
    "use_bdlora": None, "alora_invocation_tokens": None, "arrow_config": None, "exclude_modules": None,
}  # fmt: skip


def to_peft(
    directory: str | Path,
    adapter: Mapping[str, jax.Array],
    settings: LoraSettings,
    *,
    base: str,
    revision: str | None = None,
    prefix: str = PREFIX,
) -> None:
    """Write an adapter as PEFT does. All processes call it; process 0 writes.

    Args:
        directory: where; made.
        adapter: the factors, layers stacked.
        settings: rank and scale.
        base: the name of the model that it adapts, as another machine would find it.
        revision: its branch, tag or commit.
        prefix: of the tensors' names: PEFT's own, and the path of the backbone in the model that will load it.

    Raises:
        ArtifactError: all of B is zero: the adapter does nothing.
    """
    tensors: dict[str, NDArray[Any]] = {}
    for name, value in adapter.items():
        stacked = gather(value)
        for layer, each in enumerate(members(name, Spec(value.shape, ()))):
            tensors[prefix + each] = np.ascontiguousarray(stacked[layer])
    if not any(array.any() for name, array in tensors.items() if name.endswith(UP)):
        raise ArtifactError("the adapter's second factors are all zero: it changes nothing. Nothing was trained")
    if jax.process_index():
        return
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / WEIGHTS, {"format": "pt"})
    write_json(directory / CONFIG, _config(adapter, settings, base, revision))


def read_settings(directory: str | Path) -> LoraSettings:
    """The settings of an adapter in PEFT's format.

    Raises:
        ArtifactError: no adapter, another kind than LoRA, or a variant that is not known here.
    """
    file = Path(directory) / CONFIG
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file}: cannot be read ({error}); expected a directory that peft has saved") from None
    if config.get("peft_type") != "LORA":
        raise ArtifactError(f"{file}: field 'peft_type': found {config.get('peft_type')!r}; expected 'LORA'")
    for key, plain in _PLAIN.items():
        if config.get(key) not in (plain, None, False, "none", {}):
            raise ArtifactError(
                f"{file}: field {key!r}: found {config[key]!r}; expected {plain!r}. Use teva-torch for it"
            )
    return LoraSettings(
        rank=config["r"], alpha=config["lora_alpha"], dropout=config.get("lora_dropout") or 0.0,
        rslora=bool(config.get("use_rslora")),
    )  # fmt: skip


def from_peft(
    directory: str | Path, weights: Mapping[str, Spec], mesh: Mesh
) -> tuple[dict[str, jax.Array], LoraSettings]:
    """Read an adapter in PEFT's format into its shards.

    Args:
        directory: that peft or :func:`to_peft` has saved.
        weights: the table of the model that it adapts.
        mesh: the devices.

    Returns:
        The factors, float32, and the settings that they were trained with.

    Raises:
        ArtifactError: a tensor that the model has no place for, one that it lacks, or one of another shape.
    """
    settings = read_settings(directory)
    file = Path(directory) / WEIGHTS
    if not file.is_file():
        raise ArtifactError(f"{directory}: no {WEIGHTS}; expected a directory that peft has saved")
    every = table(weights, settings)
    with safe_open(file, framework="numpy") as stored:
        given = set(stored.keys())
        prefix = _prefix(given, every, file)
        names = {name: [prefix + each for each in members(name, spec)] for name, spec in every.items()}
        wanted = {name: spec for name, spec in every.items() if any(each in given for each in names[name])}
        _expect_same(file, given, {each for name in wanted for each in names[name]})
        places = shardings(wanted, mesh)
        found: dict[str, jax.Array] = {}
        for name, spec in wanted.items():
            stacked = np.stack([np.asarray(stored.get_tensor(each)).astype(np.float32) for each in names[name]])
            if stacked.shape != spec.shape:
                raise ArtifactError(
                    f"{file}: {name}: found the shape {list(stacked.shape[1:])}; expected {list(spec.shape[1:])}"
                )
            found[name] = jax.make_array_from_callback(spec.shape, places[name], stacked.__getitem__)
    return found, dataclasses.replace(settings, targets=tuple(_targets(found)))


def _prefix(given: set[str], every: Mapping[str, Spec], file: Path) -> str:
    names = [each for name, spec in every.items() for each in members(name, spec)]
    fits = {prefix: sum(prefix + name in given for name in names) for prefix in _PREFIXES}
    best = max(fits, key=lambda prefix: fits[prefix])
    if not fits[best]:
        raise ArtifactError(
            f"{file}: no tensor's name fits the model, e.g. {min(given, default='')!r}; expected names such as "
            f"{PREFIX + names[0]!r}"
        )
    return best


def _expect_same(file: Path, given: set[str], wanted: set[str]) -> None:
    if lost := sorted(given - wanted):
        raise ArtifactError(f"{file}: {len(lost)} tensors that the model has no place for, first {lost[0]!r}")
    if lacking := sorted(wanted - given):
        raise ArtifactError(f"{file}: lacks {len(lacking)} tensors that the model asks for, first {lacking[0]!r}")


def _targets(adapter: Mapping[str, jax.Array]) -> list[str]:
    """The adapted layers, by their names within a block."""
    return sorted({name.removesuffix(DOWN).rpartition("*.")[2] for name in adapter if name.endswith(DOWN)})


def _config(
    adapter: Mapping[str, jax.Array], settings: LoraSettings, base: str, revision: str | None
) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": base,
        "revision": revision,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "use_rslora": settings.rslora,
        "target_modules": _targets(adapter),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "use_dora": False,
    }

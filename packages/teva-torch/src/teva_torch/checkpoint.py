"""Checkpoints: everything that the next step depends on, written whole or not at all, without pickle.

``step-00000100/`` holds ``model.safetensors`` (trained weights and buffers; frozen weights are the base model's),
``optimizer.safetensors`` (its tensors, named ``parameter:key``) and ``state.json`` (step, what the run is, checksums of
the other two). It appears by rename. What dropout draws is a function of the step: generators have no state to keep.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

import torch
from teva_data.errors import TevaError
from teva_data.files import atomic_directory, checksum, write_json
from torch import nn

_FILES = ("model.safetensors", "optimizer.safetensors")
SCHEMA = "2"
_NAME = re.compile(r"step-(\d{8})")


def save(directory: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, run: dict[str, Any]) -> Path:
    """Write the checkpoint after ``step`` steps.

    Args:
        directory: of all checkpoints of the run.
        step: steps done.
        model: its trainable parameters and its buffers are kept.
        optimizer: its state is kept.
        run: what the run is; a resumed run must be the same.

    Returns:
        The checkpoint's directory.
    """
    path = directory / f"step-{step:08}"
    with atomic_directory(path) as temporary:
        # Parameters that are tied share memory, which safetensors refuses: each is kept once, under its first name.
        save_file({name: value.detach().contiguous() for name, value in _own(model)}, temporary / _FILES[0])
        save_file(_optimizer_tensors(model, optimizer), temporary / _FILES[1])
        checksums = {name: checksum(temporary / name) for name in _FILES}
        write_json(temporary / "state.json", {"schema": SCHEMA, "step": step, "run": run, "checksums": checksums})
    return path


def latest(directory: Path) -> Path | None:
    """The newest checkpoint of a run; None where there is none."""
    found = [path for path in directory.glob("step-*") if _NAME.fullmatch(path.name)]
    return max(found, default=None)


def prune(directory: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints."""
    for path in sorted(path for path in directory.glob("step-*") if _NAME.fullmatch(path.name))[:-keep]:
        shutil.rmtree(path)


def prune_after(directory: Path, step: int) -> None:
    """Remove the checkpoints of steps after ``step``."""
    for path in directory.glob("step-*"):
        if (name := _NAME.fullmatch(path.name)) and int(name[1]) > step:
            shutil.rmtree(path)


def read_state(path: Path) -> dict[str, Any]:
    """``state.json`` of a checkpoint.

    Raises:
        TevaError: a file is missing or its checksum is not the one that was written.
    """
    advice = f"Remove {path} to go on from the checkpoint before it"
    try:
        state: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if state["schema"] != SCHEMA:
            raise TevaError(f"{path}: schema {state['schema']!r}; expected {SCHEMA!r}. Use the version that wrote it")
        for name in _FILES:
            if (found := checksum(path / name)) != state["checksums"][name]:
                raise TevaError(
                    f"{path / name}: checksum {found}; expected {state['checksums'][name]}: the file is damaged. "
                    f"{advice}"
                )
    except (OSError, ValueError, KeyError) as error:
        raise TevaError(f"{path}: not a whole checkpoint ({error}). {advice}") from None
    return state


def restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's weights and optimiser state back."""
    device = next(model.parameters()).device
    stored = load_file(path / _FILES[0], device=str(device))
    with torch.no_grad():
        for name, value in _own(model):
            if name not in stored:
                raise TevaError(f"{path}: found no tensor {name!r}; expected all that the model trains")
            value.copy_(stored.pop(name))
    if stored:
        raise TevaError(f"{path}: tensors that the model does not have, first {sorted(stored)[0]!r}")
    names = dict(model.named_parameters())
    for key, value in load_file(path / _FILES[1]).items():
        name, _, part = key.rpartition(":")
        # AdamW keeps its step count on the CPU whatever the parameter's device.
        optimizer.state[names[name]][part] = _plain(value) if part == "step" else value.to(device)


def restore_weights(path: Path, model: nn.Module, prefix: str = "") -> None:
    """Put a checkpoint's weights alone into a model.

    Args:
        path: the checkpoint.
        model: made as training made it.
        prefix: what the checkpoint's names have before the model's, and what it holds besides is left aside.
    """
    stored = load_file(path / _FILES[0], device=str(next(model.parameters()).device))
    mine = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
    own = dict(_own(model))
    if different := sorted(mine.keys() ^ own.keys()):
        raise TevaError(f"{path}: not a checkpoint of this model; they differ in {different[0]!r}")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(mine[name])


def _own(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """What training changes. Frozen weights are those of the base model, which is part of what the run is."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [*trained, *((name, buffer) for name, buffer in model.named_buffers())]


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{name}:{key}": _stored(value)
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _stored(value: torch.Tensor | int) -> torch.Tensor:
    # The 8-bit optimiser counts its steps in a number, and its parameters share a table, which safetensors refuses.
    return torch.tensor(value) if isinstance(value, int) else value.detach().clone().contiguous()


def _plain(value: torch.Tensor) -> torch.Tensor | int:
    return value if value.is_floating_point() else int(value)

"""Checkpoints: everything that the next step depends on, written whole or not at all, without pickle.

``step-00000100/`` holds trained weights and buffers in ``model.safetensors`` (frozen weights are the base model's), the
optimiser's tensors, named ``parameter:key``, in ``optimizer.safetensors``, and ``state.json`` (step, what the run is,
checksums of the others). Where several processes hold a model in parts, each writes some of the tensors, whole, into
files of its own (``model-00001-of-00004.safetensors``): any number of processes can go on from them. The directory
appears by rename. What dropout draws is a function of the step: generators have no state to keep.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

import torch
from teva_data.errors import TevaError
from teva_data.files import atomic_directory, checksum, read_whole, write_sealed
from torch import Tensor, nn

from .strategies.replicated import Strategy, own

_KINDS = ("model", "optimizer")
SCHEMA = "3"
_READ = ("2", SCHEMA)  # of schema 2 each kind had one file
_NAME = re.compile(r"step-(\d{8})")


def save(directory: Path, step: int, strategy: Strategy, run: dict[str, Any], log: str | None = None) -> Path:
    """Write the checkpoint after ``step`` steps; all processes call it.

    Args:
        directory: of all checkpoints of the run; one that all processes see.
        step: steps done.
        strategy: holds the model and the optimiser.
        run: what the run is; a resumed run must be the same.
        log: name of what it has logged so far (:func:`teva_data.metrics.log_fingerprint`), which decides when it ends.

    Returns:
        The checkpoint's directory.

    Raises:
        ProcessError: another process could not write its part.
    """
    processes, path = strategy.processes, directory / f"step-{step:08}"
    with contextlib.ExitStack() as stack:
        with processes.together():
            temporary = stack.enter_context(atomic_directory(path)) if processes.main else None
        temporary = Path(processes.texts(str(temporary))[0])
        # Parameters that are tied share memory, which safetensors refuses: each is kept once, under its first name.
        parts = zip(_KINDS, (strategy.weights, strategy.states), strict=True)
        with processes.together(exchanging=strategy.sharded):
            tensors = {_file(kind, strategy): {n: t.detach().contiguous() for n, t in read()} for kind, read in parts}
        with processes.together():
            written = {name: part for name, part in tensors.items() if part or processes.main}
            for name, part in written.items():
                save_file(part, temporary / name)
            checksums = {name: checksum(temporary / name) for name in written}
        told = processes.texts(json.dumps(checksums))
        with processes.together():
            if processes.main:
                checksums = {name: value for one in told for name, value in json.loads(one).items()}
                state = {"schema": SCHEMA, "step": step, "run": run, "checksums": checksums}
                write_sealed(temporary / "state.json", state if log is None else {**state, "log": log})
            stack.close()
    return path


def _file(kind: str, strategy: Strategy) -> str:
    if not strategy.sharded or strategy.processes.world == 1:
        return f"{kind}.safetensors"
    return f"{kind}-{strategy.processes.rank + 1:05}-of-{strategy.processes.world:05}.safetensors"


def latest_checkpoint(directory: Path) -> Path | None:
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
        state = read_whole(path / "state.json", advice)
        if state["schema"] not in _READ:
            raise TevaError(
                f"{path}: schema {state['schema']!r}; expected {' or '.join(_READ)}. Use the version that wrote it"
            )
        for name in state["checksums"]:
            if (found := checksum(path / name)) != state["checksums"][name]:
                raise TevaError(
                    f"{path / name}: checksum {found}; expected {state['checksums'][name]}: the file is damaged. "
                    f"{advice}"
                )
    except (OSError, ValueError, KeyError) as error:
        raise TevaError(f"{path}: not a whole checkpoint ({error}). {advice}") from None
    return state


def restore(path: Path, strategy: Strategy) -> None:
    """Put a checkpoint's weights and optimiser state back, whatever number of processes wrote it.

    Raises:
        TevaError: it is not one of this model.
    """
    weights, states = (_tensors(path, kind) for kind in _KINDS)
    _expect_same(path, weights, strategy.trained)
    strategy.load(weights, states)


def restore_weights(path: Path, model: nn.Module, prefix: str = "") -> None:
    """Put a checkpoint's weights alone into a model.

    Args:
        path: the checkpoint.
        model: made as training made it, whole.
        prefix: what the checkpoint's names have before the model's, and what it holds besides is left aside.

    Raises:
        TevaError: it is not one of this model.
    """
    stored = _tensors(path, "model")
    mine = {name.removeprefix(prefix): read for name, read in stored.items() if name.startswith(prefix)}
    _expect_same(path, mine, model)
    with torch.no_grad():
        for name, value in own(model):
            value.copy_(mine[name]())


def _expect_same(path: Path, stored: Mapping[str, Any], model: nn.Module) -> None:
    mine = dict(own(model))
    if lacking := sorted(mine.keys() - stored.keys()):
        raise TevaError(f"{path}: found no tensor {lacking[0]!r}; expected all that the model trains")
    if more := sorted(stored.keys() - mine.keys()):
        raise TevaError(f"{path}: tensors that the model does not have, first {more[0]!r}")


def _tensors(path: Path, kind: str) -> dict[str, Callable[[], Tensor]]:
    """Name to what reads the tensor: one at a time, since a part of the model may be all that fits."""
    found: dict[str, Callable[[], Tensor]] = {}
    for file in sorted([*path.glob(f"{kind}.safetensors"), *path.glob(f"{kind}-*-of-*.safetensors")]):
        with safe_open(file, framework="pt") as stored:
            found |= {name: functools.partial(_read, file, name) for name in stored.keys()}  # noqa: SIM118
    return found


def _read(file: Path, name: str) -> Tensor:
    with safe_open(file, framework="pt") as stored:
        tensor: Tensor = stored.get_tensor(name)
        return tensor

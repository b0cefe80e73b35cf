"""Checkpoints by orbax: everything that the next step depends on, written beside the training, whole or not at all.

``step_00000100/`` appears by rename when all of it is on disk; only then is an older one removed, so the newest whole
one is never lost. It holds what is trained (frozen weights are the base model's) and the optimiser's state in the parts
in which they lie on the mesh, and is read into the parts of any other mesh. What dropout draws is a function of the
step: no generator has a state to keep.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

import jax
from teva_data.errors import TevaError

from .state import State

SCHEMA = "1"
logging.getLogger("absl").setLevel(logging.WARNING)  # orbax tells every file that it writes


class Checkpoints:
    """The checkpoints of a run. All processes make one, and call its methods together.

    Args:
        directory: of all of them; one that all processes see.
        run: what the run is, see :func:`teva_data.running.identity`.
        keep: how many of the newest are kept.
    """

    def __init__(self, directory: Path, run: dict[str, Any], keep: int) -> None:
        self.directory, self.run = directory.absolute(), run
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, step_prefix="step", step_format_fixed_length=8, create=True,
            cleanup_tmp_directories=True, enable_async_checkpointing=True,
        )  # fmt: skip
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def latest(self) -> int | None:
        """Steps that the newest whole checkpoint has done; None where there is none."""
        found: int | None = self._manager.latest_step()
        return found

    def save(self, step: int, state: State) -> None:
        """Copy the state after ``step`` steps from the devices, and write it while training goes on."""
        meta = {"schema": SCHEMA, "step": step, "run": self.run}
        self._manager.save(step, args=ocp.args.Composite(
            state=ocp.args.StandardSave({"trained": state.trained, "optimizer": state.optimizer}),
            meta=ocp.args.JsonSave(meta),
        ), force=True)  # fmt: skip

    def meta(self, step: int) -> dict[str, Any]:
        """What a checkpoint says of itself: schema, step, run.

        Raises:
            TevaError: it cannot be read, or is of another schema.
        """
        found = self._read(step, meta=ocp.args.JsonRestore())["meta"]
        if found.get("schema") != SCHEMA:
            raise TevaError(
                f"{self.path(step)}: schema {found.get('schema')!r}; expected {SCHEMA!r}. Use the version that wrote it"
            )
        return dict(found)

    def restore(self, step: int, like: State) -> State:
        """A checkpoint's values, in the parts that ``like`` has, whatever mesh wrote them.

        Raises:
            TevaError: it is not whole, or not one of this model.
        """
        shapes = jax.tree.map(_shape, {"trained": like.trained, "optimizer": like.optimizer})
        found = self._read(step, state=ocp.args.StandardRestore(shapes))["state"]
        return State(found["trained"], found["optimizer"], like.frozen)

    def remove_after(self, step: int) -> None:
        """Remove the checkpoints of steps after ``step``."""
        for found in self._manager.all_steps():
            if found > step:
                self._manager.delete(found)

    def wait(self) -> None:
        """Until all that was saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, and end the threads."""
        self._manager.close()

    def path(self, step: int) -> Path:
        """The directory of a checkpoint."""
        return self.directory / f"step_{step:08}"

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:
            raise TevaError(
                f"{self.path(step)}: cannot be read ({type(error).__name__}: {str(error).splitlines()[0][:200]}). "
                "Remove it to go on from the checkpoint before it"
            ) from error


def _shape(value: Any) -> Any:
    return jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=value.sharding)

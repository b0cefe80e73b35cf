"""Several processes, one on each host: they run the same program over one mesh (``jax.distributed``)."""

from __future__ import annotations

import os

from jax.experimental import multihost_utils

import jax
from teva_data.errors import TevaError
from teva_data.files import fingerprint

from .recipe import JaxSection

_ADDRESS, _COUNT, _NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


class ProcessError(TevaError):
    """The processes of a run do not go together."""


def join(options: JaxSection) -> None:
    """Become one of several processes, where the environment says that there are several.

    ``JAX_COORDINATOR_ADDRESS`` (host:port of process 0), ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID`` say it; under
    Slurm and on the hosts of a TPU pod JAX finds them by itself.

    Raises:
        ProcessError: it cannot be had.
    """
    if options.distributed == "no" or jax.distributed.is_initialized():
        return
    named = _ADDRESS in os.environ
    pod = "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    several = named or pod or int(os.environ.get("SLURM_NTASKS", "1")) > 1
    if options.distributed == "auto" and not several:
        return
    try:
        if named:
            jax.distributed.initialize(os.environ[_ADDRESS], int(os.environ[_COUNT]), int(os.environ[_NUMBER]))
        else:
            jax.distributed.initialize()
    except (KeyError, ValueError, RuntimeError) as error:
        raise ProcessError(
            f"jax.distributed: {error}. Set {_ADDRESS}, {_COUNT} and {_NUMBER}, or jax.distributed: no"
        ) from error


def main() -> bool:
    """Whether this process speaks for all."""
    return jax.process_index() == 0


def together(name: str) -> None:
    """Wait for the other processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def expect_same(what: str, value: str) -> None:
    """Refuse processes that do not have the same text.

    Raises:
        ProcessError: one differs from process 0's.
    """
    if jax.process_count() == 1:
        return
    import numpy as np

    own = np.array([int(fingerprint(value)[:8], 16)], np.uint32)
    told = multihost_utils.process_allgather(own).reshape(-1)
    if len(set(told.tolist())) > 1:
        other = next(rank for rank, one in enumerate(told.tolist()) if one != told[0])
        raise ProcessError(
            f"processes 0 and {other} differ in {what}. All hosts need the same recipe, data and versions, and one "
            "directory for train.output"
        )

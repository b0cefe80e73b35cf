"""TPU slices by name, as devices that a compiler can compile for though none are there."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Mapping

import jax
from teva_data.errors import MissingExtraError, TevaError, nearest

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice of TPU chips.

    Attributes:
        topology: as libtpu names it.
        kind: of its hosts, as TPU_ACCELERATOR_TYPE has it.
        memory: bytes of a chip.
        cores: whether two cores of a chip work as one device.
    """

    topology: str
    kind: str
    memory: int
    megacore: bool


def _slices() -> dict[str, Slice]:
    """cloud.google.com/tpu/docs: v4 and v5p are named by cores (two a chip), the others by chips."""
    cubes = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8"}
    squares = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
    made = {}
    for name, kind, memory in (("v4", "v4", 32), ("v5p", "v5p", 95)):
        for chips, shape in cubes.items():
            made[f"{name}-{2 * chips}"] = Slice(f"{name}:{shape}", f"{kind}-{2 * chips}", memory * GIB, True)
    for name, kind, memory in (("v5e", "v5litepod", 16), ("v6e", "v6e", 32)):
        for chips, shape in squares.items():
            made[f"{name}-{chips}"] = Slice(f"{name}:{shape}", f"{kind}-{chips}", memory * GIB, False)
    return made


SLICES: Mapping[str, Slice] = _slices()


def devices(name: str) -> list[jax.Device]:
    """The devices of a slice, to compile for.

    Raises:
        TevaError: there is no slice of that name.
        MissingExtraError: the TPU's compiler is not installed.
    """
    if name not in SLICES:
        raise TevaError(f"no TPU slice is called {name!r}. {nearest(name, SLICES)}")
    if importlib.util.find_spec("libtpu") is None:
        raise MissingExtraError("plan for a TPU", "teva-jax[plan]")
    from jax.experimental import topologies

    chosen = SLICES[name]
    # The compiler asks a TPU host's environment and its metadata server what it is; this is not one.
    os.environ.update(
        TPU_SKIP_MDS_QUERY="1", TPU_ACCELERATOR_TYPE=chosen.kind, TPU_WORKER_HOSTNAMES="localhost", TPU_WORKER_ID="0"
    )
    options = {"chip_config_name": "megacore"} if chosen.megacore else {}
    found = topologies.get_topology_desc(platform="tpu", topology_name=chosen.topology, **options)
    return list(found.devices)

"""The mesh of devices, and the one table that says which of its axes holds which axis of an array.

``data`` repeats the weights and splits the batch, ``fsdp`` splits both, ``tensor`` splits heads and widths of layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jax
from teva_data.errors import TevaError, nearest

if TYPE_CHECKING:
    from .params import Spec

AXES = ("data", "fsdp", "tensor")

# What an array's axis means -> the mesh's axes that hold its parts. What is not here is an error, never "replicated".
RULES: Mapping[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "rows": ("data",),  # a batch, while another of its axes lies on fsdp
    "length": (),
    "layers": (),
    "vocab": ("tensor",),
    "positions": (),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "mlp": ("tensor",),
    "norm": (),
    "rank": (),
}


def make_mesh(*, data: int = 1, fsdp: int = -1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices of all processes.

    Args:
        data: groups of devices that each hold all weights; the batch is split over them.
        fsdp: devices that each hold a part of the weights and of the batch.
        tensor: devices that share one text's computation.
        devices: instead of all.

    One size may be -1: it takes what the others leave.

    Raises:
        TevaError: the sizes do not multiply to the number of devices.
    """
    devices = list(devices) if devices is not None else jax.devices()
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    free = [name for name, size in sizes.items() if size == -1]
    given = math.prod(size for size in sizes.values() if size != -1)
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise TevaError(f"mesh: found {sizes}; expected sizes of at least 1, of which one may be -1 (what is left)")
    if len(devices) % given or (not free and given != len(devices)):
        raise TevaError(
            f"mesh: found {sizes}, which does not fit {len(devices)} devices; expected sizes that multiply to it"
        )
    if free:
        sizes[free[0]] = len(devices) // given
    shape = tuple(sizes[name] for name in AXES)
    # `Auto`: the compiler places what is computed. (`jax.make_mesh` makes axes `Explicit`, which gathers cannot take.)
    auto = (AxisType.Auto,) * len(AXES)
    if devices == jax.devices():
        return jax.make_mesh(shape, AXES, axis_types=auto)
    return Mesh(np.array(devices).reshape(shape), AXES, axis_types=auto)


def sharding(axes: Sequence[str | None], mesh: Mesh, shape: Sequence[int] | None = None) -> NamedSharding:
    """Where the parts of an array lie.

    Args:
        axes: what each axis of the array means (a key of ``RULES``), None for nothing.
        mesh: the devices.
        shape: of the array; an axis that the devices do not divide is not split.

    Raises:
        TevaError: an unknown name, or as many names as the array has no axes.
    """
    if shape is not None and len(shape) != len(axes):
        raise TevaError(f"axes {tuple(axes)} of an array of shape {tuple(shape)}; expected one name for each axis")
    parts: list[tuple[str, ...] | str | None] = []
    for place, name in enumerate(axes):
        if name is not None and name not in RULES:
            raise TevaError(f"unknown axis {name!r}. {nearest(name, RULES)}")
        held = () if name is None else tuple(axis for axis in RULES[name] if mesh.shape[axis] > 1)
        if shape is not None and shape[place] % math.prod(mesh.shape[axis] for axis in held):
            held = ()
        parts.append(None if not held else held[0] if len(held) == 1 else held)
    return NamedSharding(mesh, PartitionSpec(*parts))


def shardings(table: Mapping[str, Spec], mesh: Mesh) -> dict[str, NamedSharding]:
    """Where the parts of each parameter lie."""
    return {name: sharding(spec.axes, mesh, spec.shape) for name, spec in table.items()}


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def constrain(x: jax.Array, axes: Sequence[str | None], mesh: Mesh | None) -> jax.Array:
    """Hold an intermediate value by ``RULES``; as it is where there is no mesh, or one device."""
    if mesh is None or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, sharding(axes, mesh, x.shape))

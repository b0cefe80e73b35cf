"""Which device to compute on."""

from __future__ import annotations

import torch
from teva_data.errors import TevaError


def choose_device(name: str, number: int | None = None) -> torch.device:
    """The device of a name; ``auto`` is cuda where there is one, else mps, else cpu.

    Args:
        name: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        number: of the GPU, where ``cuda`` names none: a process of several takes its own.

    Raises:
        TevaError: no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.startswith("cuda:") and number is not None:
        raise TevaError(f"device {name!r}: found one GPU for several processes; use cuda, and each takes its own")
    if name == "cuda" and number is not None:
        name = f"cuda:{number}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise TevaError(f"device {name!r}: not usable here ({reason}). Use auto, cpu, cuda or mps") from None
    return device

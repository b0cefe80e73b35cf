"""What GPUs can do, from their makers' data sheets (``gpus.json``)."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from importlib import resources

from teva_data.errors import TevaError, nearest


@dataclasses.dataclass(frozen=True)
class Gpu:
    """One device.

    Attributes:
        name: as in the table; ``cpu`` for the memory of tensors alone.
        tflops_bf16: dense matrix products in bfloat16, teraFLOP/s.
        tflops_fp32: in float32.
        memory: GiB.
        bandwidth: of that memory, GB/s.
        link: to the other GPUs of the machine, GB/s in one direction.
        host: to the CPU's memory, GB/s in one direction.
        source: of these figures.
    """

    name: str
    tflops_bf16: float
    tflops_fp32: float
    memory: float
    bandwidth: float
    link: float
    host: float
    source: str


# Where tensors are all that counts, as in tests and claims: no context, no attention kernel of a GPU, no time.
CPU = Gpu("cpu", 0, 0, 0, 0, 0, 0, "the memory of tensors alone")


def gpus() -> dict[str, Gpu]:
    """All that are known, by name."""
    table = json.loads((resources.files("teva_torch") / "planning" / "gpus.json").read_text(encoding="utf-8"))
    return {name: Gpu(name, **values) for name, values in table["gpus"].items()}


def find_gpu(name: str) -> Gpu:
    """The GPU of a name, in whatever way it is written: ``h100``, ``NVIDIA A100-SXM4-80GB``, ``RTX 4090``.

    Raises:
        TevaError: it is not known; the nearest name is told.
    """
    known = gpus()
    asked = _plain(name)
    if asked == "cpu":
        return CPU
    for key, gpu in known.items():
        if _plain(key) == asked:
            return gpu
    # `NVIDIA A100-SXM4-80GB` is `A100-80`: all parts of a known name, the most of them.
    words = set(re.findall(r"[a-z]*\d+[a-z]*|[a-z]+", name.lower().replace("gb", "")))
    fits = [key for key in known if {*re.findall(r"[a-z]*\d+[a-z]*|[a-z]+", key.lower())} <= words]
    if fits:
        return known[max(fits, key=len)]
    close = difflib.get_close_matches(asked, [_plain(key) for key in known], n=1, cutoff=0.6)
    if close:
        key = next(key for key in known if _plain(key) == close[0])
        raise TevaError(f"--gpu {name}: not in the table. Did you mean {key!r}? Known: {', '.join(known)}")
    raise TevaError(f"--gpu {name}: not in the table. {nearest(name, known)}")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]|nvidia|amd|geforce|instinct|gb$", "", name.lower())

"""Seconds of a step: what its operators compute and move, and what processes exchange."""

from __future__ import annotations

import dataclasses

from .gpus import Gpu
from .layout import Layout
from .tracing import Costs


@dataclasses.dataclass(frozen=True)
class Assumed:
    """What no configuration tells.

    Attributes:
        matrix: share of the peak that matrix products reach.
        moving: share of the memory's bandwidth that all else reaches.
        linking: share of a link's bandwidth that exchanges reach.
        cpu: GB/s of the CPU's memory, for an optimiser that works there.
        context: GiB that a GPU's driver and libraries take.
        communication: GiB that the exchange's library takes, where there is more than one process.
        fragments: share of what passes need that an allocator loses to fragments.
    """

    matrix: float = 0.6
    moving: float = 0.7
    linking: float = 0.7
    cpu: float = 50.0
    context: float = 0.6
    communication: float = 0.5
    fragments: float = 0.05


def seconds_of(
    held: Layout,
    passes: list[tuple[Costs, int]],
    gpu: Gpu,
    assumed: Assumed,
    *,
    half: bool,
    cached: bool,
    batches: int,
    processes: int,
    trained: float,
) -> dict[str, float]:
    """Seconds of a step by what takes them; nothing of a CPU, of which no peak is known.

    Args:
        held: what the strategy makes of the model.
        passes: costs of a process's passes of one batch, and how often each comes.
        gpu: the device.
        assumed: what it reaches of its peaks.
        half: whether passes compute in bfloat16.
        cached: gradient caching: all passes forward twice.
        batches: of a step.
        processes: that share a batch.
        trained: parameters.
    """
    if not gpu.memory:
        return {}
    forward = 2 if cached else 1
    peak = (gpu.tflops_bf16 if half else gpu.tflops_fp32) * 1e12 * assumed.matrix
    memory, link = gpu.bandwidth * 1e9 * assumed.moving, gpu.link * 1e9 * assumed.linking
    flops = sum(count * (cost.flops * forward + cost.back_flops) for cost, count in passes)
    moved = sum(count * (cost.moved * forward + cost.back_moved) for cost, count in passes)
    compute = batches * (flops / peak + moved / memory)
    found = {"computation": compute}
    share = (processes - 1) / processes
    if held.whole:
        # Weights are gathered for each pass, either way; gradients leave after each way back. Both go on meanwhile.
        number = batches * sum(count for _, count in passes)
        exchange = number * share * ((forward + 1) * held.whole + 4 * trained) / link
        if held.host:
            exchange += number * (forward + 1) * held.whole / processes / (gpu.host * 1e9)
        found["exchange beyond the computation"] = max(0.0, exchange - compute)
    elif processes > 1:
        found["exchange of gradients"] = 2 * share * 4 * trained / link
    # AdamW reads four numbers of a parameter and writes three.
    found["optimizer"] = 28 * held.stepped / (assumed.cpu * 1e9 if held.host else memory)
    return found

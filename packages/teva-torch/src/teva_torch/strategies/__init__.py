"""How processes hold one model: each of them the whole (``single``, ``ddp``), or a part (``fsdp2``, ``deepspeed``).

A strategy owns what differs: how a model is laid out, the optimiser, the exchange of gradients, and the tensors of a
checkpoint. Everything else (batches, chunks, the loss, the loop) is one code, and a checkpoint is the same files by
whichever strategy and number of processes it was written: a run goes on under another number.
"""

from __future__ import annotations

import torch
from teva_data.errors import RecipeError
from teva_data.recipe import TrainSection
from teva_torch.distributed import Processes
from teva_torch.model import Retriever
from teva_torch.pair import RetrieverPair
from teva_torch.recipe import TorchSection
from torch import nn

from .replicated import Strategy

__all__ = ["SHARDED", "Strategy", "choose", "prepare"]

# Those under which a process holds a part of the model.
SHARDED = ("fsdp2", "deepspeed")


def choose(options: TorchSection, processes: Processes, *, tied: bool = True) -> str:
    """The strategy that a run has; ``auto`` is ``single`` for one process and ``ddp`` for several.

    Raises:
        RecipeError: it does not go with the number of processes or with other settings.
    """
    name = options.strategy
    if name == "auto":
        name = "single" if processes.world == 1 else "ddp"
    if name == "single" and processes.world > 1:
        raise RecipeError(f"torch.strategy: single, and torchrun started {processes.world} processes. Use auto or ddp")
    if name in SHARDED:
        if not tied and name == "deepspeed":
            raise RecipeError("model.tied: false does not go with torch.strategy: deepspeed. Use fsdp2 or ddp")
        for key, value, why in (
            ("weights", "nf4", "4-bit weights cannot be cut into parts"),
            ("optimizer", "adamw_8bit", "the 8-bit optimiser does not know tensors that lie in parts"),
        ):
            if getattr(options, key) == value:
                raise RecipeError(f"torch.{key}: {value} does not go with torch.strategy: {name}: {why}. Use ddp")
    return name


def prepare(
    name: str,
    model: Retriever | RetrieverPair,
    loss: nn.Module | None,
    settings: TrainSection,
    options: TorchSection,
    processes: Processes,
    device: torch.device,
) -> Strategy:
    """Lay a model out and make its optimiser.

    Args:
        name: as :func:`choose` gives.
        model: as :meth:`Retriever.for_training` gives; changed in place.
        loss: the loss, where it has parameters; every process holds the whole of it.
        settings: the optimiser's.
        options: the recipe's ``torch`` section.
        processes: those that train.
        device: where this one computes.
    """
    if name == "fsdp2":
        from .fsdp2 import FullySharded

        return FullySharded(model, loss, settings, options, processes, device)
    if isinstance(model, Retriever) and name == "deepspeed":
        from .zero import Zero

        return Zero(model, loss, settings, options, processes, device)
    return Strategy(model, loss, settings, options, processes, device)

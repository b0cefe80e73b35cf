"""The optimiser."""

from __future__ import annotations

from collections.abc import Callable

import torch
from teva_data.errors import MissingExtraError
from teva_data.recipe import TrainSection
from torch import nn


def make_optimizer(
    model: nn.Module, settings: TrainSection, kind: str = "adamw", *, fused: bool = False
) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters; biases and norms (vectors and scalars) are not decayed.

    Args:
        model: its parameters that require a gradient are taken.
        settings: rate, betas, epsilon and decay.
        kind: ``adamw``, or ``adamw_8bit``, whose state bitsandbytes keeps in 8 bits.
        fused: compute ``adamw`` in one pass over each tensor, where the device can; a tenth of a small model's step.

    Raises:
        MissingExtraError: 8 bits without bitsandbytes.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    able = all(one.device.type in ("cpu", "cuda", "mps") for one in trainable)
    return _adamw(kind)(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        **({"fused": True} if fused and able and kind == "adamw" else {}),
    )


def _adamw(kind: str) -> Callable[..., torch.optim.Optimizer]:
    if kind == "adamw":
        return torch.optim.AdamW
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise MissingExtraError("torch.optimizer: adamw_8bit", "teva-torch[bitsandbytes]") from error
    optimizer: Callable[..., torch.optim.Optimizer] = AdamW8bit
    return optimizer

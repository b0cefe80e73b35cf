"""The learning rate: a function of the step, without a state."""

from __future__ import annotations

import math

from .recipe import TrainSection


def learning_rate(step: int, total: int, settings: TrainSection) -> float:
    """The rate of a step (counted from 0): linear warm-up, then decay to 0 at the end.

    Args:
        step: 0..total-1.
        total: steps of the whole run.
        settings: peak rate, schedule, warm-up.
    """
    warmup = math.ceil(settings.warmup_ratio * total)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    factor = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[settings.schedule]
    return settings.learning_rate * factor

"""Losses: functions of vectors and targets, each with a numpy oracle in ``tests/reference``.

Legend of all of them: Q queries and D documents of the global batch, n listed negatives, M excluded pairs, H hidden
size. The similarity of a query and a document is the dot product of their vectors. A loss is written as if there were
one device.

A package adds one by an entry point of the group ``teva_jax.losses``: a name, and a factory that takes the recipe's
:class:`teva_data.recipe.LossSection` and returns a :class:`Loss` or a function ``(queries, documents, targets)``. What
only that loss takes stands under ``loss.options``; :func:`teva_data.sections.check_section` checks it.
"""

from __future__ import annotations

from .building import WeightedSum, build_loss
from .contrastive import InfoNCE, infonce
from .distillation import KLDivergence, MarginMSE, kl_divergence, margin_mse
from .matryoshka import Matryoshka
from .targets import Loss, Targets

__all__ = [
    "InfoNCE",
    "KLDivergence",
    "Loss",
    "MarginMSE",
    "Matryoshka",
    "Targets",
    "WeightedSum",
    "build_loss",
    "infonce",
    "kl_divergence",
    "margin_mse",
]

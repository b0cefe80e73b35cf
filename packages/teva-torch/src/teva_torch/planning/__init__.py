"""What a run takes before anything is loaded: memory of each GPU by part, the time of a step, and what would fit."""

from __future__ import annotations

from .gpus import Gpu, find_gpu, gpus
from .planned import Option, Plan, plan
from .prediction import Prediction, predict
from .report import as_json, as_text
from .timing import Assumed

__all__ = [
    "Assumed", "Gpu", "Option", "Plan", "Prediction", "as_json", "as_text", "find_gpu", "gpus", "plan", "predict",
]  # fmt: skip

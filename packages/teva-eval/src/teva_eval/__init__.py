"""Scores runs against judgements with trec_eval's own code: per query and in the mean, nothing left out in silence.

>>> import teva_eval
>>> scores = teva_eval.score({"q": {"a": 1}}, {"q": {"b": 2.0, "a": 1.0}}, measures=["RR@10"])
>>> scores.mean
{'RR@10': 0.5}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .measures import Measure, parse_measure
    from .scoring import DEFAULT_MEASURES, Scores, score

    __version__: str

__all__ = ["DEFAULT_MEASURES", "Measure", "Scores", "__version__", "parse_measure", "score"]

_HOMES = {
    "DEFAULT_MEASURES": "scoring",
    "Measure": "measures",
    "Scores": "scoring",
    "parse_measure": "measures",
    "score": "scoring",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("teva-eval")
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

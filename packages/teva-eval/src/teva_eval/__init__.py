"""Benchmarks of dense retrieval, scored with trec_eval's own code, recorded so that they can be done again.

>>> import teva_eval
>>> scores = teva_eval.score({"q": {"a": 1}}, {"q": {"b": 2.0, "a": 1.0}}, measures=["RR@10"])
>>> scores.mean
{'RR@10': 0.5}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .benchmarks import Benchmark, Task, benchmark
    from .comparing import compare
    from .fusing import fuse
    from .measures import Measure, parse_measure
    from .repeating import rerun
    from .reporting import report
    from .running import Settings, evaluate
    from .scoring import DEFAULT_MEASURES, Scores, score
    from .systems import System

    __version__: str

__all__ = [
    "DEFAULT_MEASURES", "Benchmark", "Measure", "Scores", "Settings", "System", "Task", "__version__", "benchmark",
    "compare", "evaluate", "fuse", "parse_measure", "report", "rerun", "score",
]  # fmt: skip

_HOMES = {
    "DEFAULT_MEASURES": "scoring", "Benchmark": "benchmarks", "Measure": "measures", "Scores": "scoring",
    "Settings": "running", "System": "systems", "Task": "benchmarks", "benchmark": "benchmarks",
    "compare": "comparing", "evaluate": "running", "fuse": "fusing", "parse_measure": "measures",
    "report": "reporting", "rerun": "repeating", "score": "scoring",
}  # fmt: skip


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

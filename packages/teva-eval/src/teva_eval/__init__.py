"""Benchmarks of dense retrieval, scored with trec_eval's own code, recorded so that they can be done again.

>>> import teva_eval
>>> scores = teva_eval.score({"q": {"a": 1}}, {"q": {"b": 2.0, "a": 1.0}}, measures=["RR@10"])
>>> scores.mean
{'RR@10': 0.5}
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from teva_data.lazy import attributes

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

__getattr__, __dir__ = attributes(
    __name__,
    {
        "benchmarks": ("Benchmark", "Task", "benchmark"),
        "comparing": ("compare",),
        "fusing": ("fuse",),
        "measures": ("Measure", "parse_measure"),
        "repeating": ("rerun",),
        "reporting": ("report",),
        "running": ("Settings", "evaluate"),
        "scoring": ("DEFAULT_MEASURES", "Scores", "score"),
        "systems": ("System",),
    },
)

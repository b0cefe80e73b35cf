"""Declarations of known benchmarks, one module each.

Add one by adding a module here with a :class:`Benchmark` (or several) in ``BENCHMARKS``, and its name to ``_MODULES``.
"""

from __future__ import annotations

import importlib

from teva_data.errors import TevaError, nearest

from .declaration import Benchmark, Task

__all__ = ["NAMES", "Benchmark", "Task", "benchmark", "benchmarks", "find_task"]

_MODULES = {
    "beir": "beir", "beir-cqadupstack": "beir", "cqadupstack": "beir", "miracl": "miracl", "vidore-v1": "vidore",
    "vidore-v2": "vidore", "vidore-v3": "vidore", "msmarco": "msmarco", "msrvtt": "media", "audiocaps": "media",
    "wiki-ss": "media",
}  # fmt: skip
NAMES = tuple(_MODULES)
"""The declared benchmarks."""


def benchmark(name: str) -> Benchmark:
    """A declared benchmark.

    Raises:
        TevaError: none of this name is declared; the nearest one is named.
    """
    if name not in _MODULES:
        raise TevaError(f"no benchmark {name!r} is declared. {nearest(name, NAMES)}")
    declared = importlib.import_module(f".{_MODULES[name]}", __name__).BENCHMARKS
    found = next(each for each in declared if each.name == name)
    assert isinstance(found, Benchmark)
    return found


def benchmarks() -> list[Benchmark]:
    """All declared benchmarks."""
    return [benchmark(name) for name in NAMES]


def find_task(name: str) -> Task:
    """A task of any benchmark.

    Raises:
        TevaError: there is none of this name; the nearest one is named.
    """
    tasks = {task.name: task for each in benchmarks() for task in each.tasks}
    if name not in tasks:
        raise TevaError(f"no task {name!r} is declared. {nearest(name, tasks)}")
    return tasks[name]

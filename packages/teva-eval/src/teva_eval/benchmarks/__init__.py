"""Declarations of known benchmarks, one module each.

Add one by adding a module here with a :class:`Benchmark` (or several) in ``BENCHMARKS``, and its name to ``_MODULES``;
or in a package of your own, by an entry point in the group ``teva_eval.benchmarks`` that names the :class:`Benchmark`.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points

from teva_data.errors import TevaError, nearest
from teva_data.plugins import loaded

from .declaration import Benchmark, Task

__all__ = ["NAMES", "Benchmark", "Task", "benchmark", "benchmarks", "find_task", "known"]

_MODULES = {
    "beir": "beir", "beir-cqadupstack": "beir", "cqadupstack": "beir", "miracl": "miracl", "vidore-v1": "vidore",
    "vidore-v2": "vidore", "vidore-v3": "vidore", "msmarco": "msmarco", "msrvtt": "media", "audiocaps": "media",
    "msrvtt-to-text": "media", "audiocaps-to-text": "media",
    "wiki-ss": "media",
}  # fmt: skip
NAMES = tuple(_MODULES)
"""The benchmarks that are declared here."""
GROUP = "teva_eval.benchmarks"


def known() -> tuple[str, ...]:
    """All declared benchmarks: those here, then those of installed packages."""
    return (*NAMES, *sorted({point.name for point in entry_points(group=GROUP)} - set(NAMES)))


def benchmark(name: str) -> Benchmark:
    """A declared benchmark.

    Raises:
        TevaError: none of this name is declared; the nearest one is named. Or a package's entry point names something
            else.
    """
    if name in _MODULES:
        declared = importlib.import_module(f".{_MODULES[name]}", __name__).BENCHMARKS
        found = next(each for each in declared if each.name == name)
    elif points := tuple(entry_points(group=GROUP, name=name)):
        found = loaded(points[0])
    else:
        raise TevaError(f"no benchmark {name!r} is declared. {nearest(name, known())}")
    if not isinstance(found, Benchmark) or found.name != name:
        raise TevaError(
            f"entry point {name!r} of {GROUP}: found {getattr(found, 'name', found)!r}; expected a Benchmark of that "
            "name"
        )
    return found


def benchmarks() -> list[Benchmark]:
    """All declared benchmarks."""
    return [benchmark(name) for name in known()]


def find_task(name: str) -> Task:
    """A task of any benchmark.

    Raises:
        TevaError: there is none of this name; the nearest one is named.
    """
    tasks = {task.name: task for each in benchmarks() for task in each.tasks}
    if name not in tasks:
        raise TevaError(f"no task {name!r} is declared. {nearest(name, tasks)}")
    return tasks[name]

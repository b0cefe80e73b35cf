"""Siblings that do not go together are refused when they are imported, and not by whatever name is missing later.

Installers keep to the ranges that packages declare; what was installed past them (``--no-deps``, a path, an old image)
is told here.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires, version


def expect(distribution: str) -> None:
    """Compare the siblings that are installed with the ranges that a package declares, extras included.

    Args:
        distribution: the package's own name, e.g. ``teva-torch``.

    Raises:
        ImportError: a sibling is outside of its range; both versions and the way out are named.
    """
    try:
        lines = {line for line in requires(distribution) or () if line.startswith("teva-")}
    except PackageNotFoundError:
        return  # run from a source tree that was never installed
    for line in lines:
        name, least, below = _range(line)
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        if not _numbers(least) <= _numbers(found) < _numbers(below):
            raise ImportError(
                f"{distribution} {version(distribution)} goes with {name}>={least},<{below}; found {name} {found}. "
                f"Install them together: pip install --upgrade {distribution} {name}"
            )


def _range(line: str) -> tuple[str, str, str]:
    """Name and both ends of a requirement: siblings are asked for by these alone (``tests/test_packages.py``)."""
    name = re.match(r"[a-z-]+", line)
    ends = dict(re.findall(r"(>=|<)\s*([\d.]+)", line.partition(";")[0]))
    assert name is not None
    return name[0].rstrip("-"), ends[">="], ends["<"]


def _numbers(text: str) -> tuple[int, ...]:
    """``0.2.1.dev3`` as (0, 2, 1)."""
    numbers = tuple(int(each) for each in re.findall(r"\d+", re.split(r"[a-z+-]|\.dev", text)[0]))
    return (*numbers, 0, 0, 0)[:3]

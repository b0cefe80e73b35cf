"""Tables of results as aligned text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .measures import parse_measure


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def results_table(records: Sequence[Mapping[str, Any]], benchmark: str | None = None) -> str:
    """One line a system (and variant), one column a task with its main measure, and the benchmark's mean."""
    tasks = list(dict.fromkeys(record["task"]["name"] for record in records))
    main = {record["task"]["name"]: parse_measure(record["task"]["measures"][0]).name for record in records}
    rows = [["system", *(f"{task} {main[task]}" for task in tasks)]]
    mean = _mean_of(benchmark)
    rows[0] += ["mean"] if mean else []
    for (system, variant), found in by_system(records).items():
        scores = {r["task"]["name"]: (r["variants"][variant] if variant else r["scores"]) for r in found}
        cells = [f"{scores[task][main[task]]:.4f}" if task in scores else "" for task in tasks]
        if mean:
            value = mean(found, variant)
            cells.append("" if value is None else f"{value:.4f}")
        rows.append([f"{system} {variant}".strip(), *cells])
    return aligned(rows)


def by_system(records: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Records of each system and variant."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in records:
        for variant in ("", *record["variants"]):
            found.setdefault((record["system"]["name"], variant), []).append(record)
    return found


def _mean_of(benchmark: str | None) -> Any:
    if benchmark is None:
        return None
    from .benchmarks import benchmark as find
    from .running import benchmark_value

    declared = find(benchmark)
    return lambda found, variant: benchmark_value(declared, found, variant)

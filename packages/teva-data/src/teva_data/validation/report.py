"""What a validation found: problems with their class and address, counted all and kept up to so many."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from teva_data.errors import DataError

Severity = Literal["error", "warning"]
WARNINGS = frozenset({"duplicate-content", "no-visible-text", "train-test-overlap", "listed-twice"})


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        severity: ``error`` or ``warning``.
        kind: its class, such as ``unknown-docid``.
        error: what and where.
    """

    severity: Severity
    kind: str
    error: DataError

    def __str__(self) -> str:
        return f"{self.severity}: {self.error} [{self.kind}]"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        error = self.error
        where = {"file": None if error.file is None else str(error.file), "line": error.line, "field": error.field}
        return {
            "severity": self.severity, "kind": self.kind, **where, "problem": error.problem, "hint": error.hint,
            "message": str(error),
        }  # fmt: skip


@dataclass
class Report:
    """What :func:`validate` found.

    Attributes:
        path: the dataset.
        keep: how many problems of each class are kept.
        counts: how many there are of each class, kept or not.
        problems: those that are kept, by file and line.
        rows: rows read, by file.
    """

    path: Path
    keep: int
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)

    @property
    def errors(self) -> int:
        """How many problems are errors."""
        return sum(count for kind, count in self.counts.items() if kind not in WARNINGS)

    @property
    def warnings(self) -> int:
        """How many problems are warnings."""
        return sum(count for kind, count in self.counts.items() if kind in WARNINGS)

    def add(self, kind: str, error: DataError) -> None:
        """Count a problem, and keep it where it is among the first of its class."""
        self.counts[kind] += 1
        if self.counts[kind] <= self.keep:
            self.problems.append(Problem("warning" if kind in WARNINGS else "error", kind, error))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "path": str(self.path), "errors": self.errors, "warnings": self.warnings, "counts": dict(self.counts),
            "rows": self.rows, "problems": [problem.to_dict() for problem in self.problems],
        }  # fmt: skip

    def __str__(self) -> str:
        lines = [", ".join(f"{count:,} rows in {name}" for name, count in self.rows.items()) or "no rows"]
        for name, number, bad in (("errors", self.errors, False), ("warnings", self.warnings, True)):
            kinds = [f"{count:,} {kind}" for kind, count in self.counts.most_common() if (kind in WARNINGS) is bad]
            lines.append(f"{name}: {number:,}" + (f" ({', '.join(kinds)})" if kinds else ""))
        return "\n".join(lines)

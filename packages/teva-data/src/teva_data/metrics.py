"""The metrics log (JSON lines), the sums between two of its lines, and the picture of the loss."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from .errors import DataError
from .files import atomic_file, fingerprint, naming

_SPEEDS = ("queries_per_second", "tokens_per_second")
DAMAGED_LOG = "Put the file back as it was, or begin anew with --overwrite"


class MetricsLog:
    """``metrics.jsonl``: one object a logged step.

    Args:
        path: the file.
        start: steps done already; lines of later steps (of a run that was killed after its last checkpoint) are
            taken out, so that a step stands once.
    """

    def __init__(self, path: Path, start: int) -> None:
        self.path = path
        kept = [row for row in read_metrics(path) if row["step"] <= start]
        with atomic_file(path, "w") as file:
            file.writelines(f"{json.dumps(row)}\n" for row in kept)
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Add one line, at once."""
        with naming(self.path):
            self._file.write(f"{json.dumps(row)}\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class History:
    """What a run has logged: all that a resumed run needs to know of the steps before.

    Args:
        path: the metrics log.
        start: steps done; later lines do not count.
        measure: the key of what is to become large, where it is measured.

    Attributes:
        loss: of the last line; NaN before the first.
        best: ``step`` and the measure where it was largest, the first of equals; None where none is measured.
        since_best: measurements after the best one.
    """

    def __init__(self, path: Path, start: int, measure: str) -> None:
        self.measure, self.loss = measure, math.nan
        self.best: dict[str, float] | None = None
        self.since_best = 0
        for row in read_metrics(path):
            if row["step"] <= start:
                self.add(row)

    def add(self, row: dict[str, Any]) -> bool:
        """Note one more line; whether it has a better measurement than all before it."""
        self.loss = float(row["loss"])
        if self.measure not in row:
            return False
        self.since_best += 1
        most = -math.inf if self.best is None else self.best[self.measure]
        if not row[self.measure] > most:  # so that NaN is never the best
            return False
        self.best, self.since_best = {"step": row["step"], self.measure: row[self.measure]}, 0
        return True


class Interval:
    """Sums between two lines of the metrics log.

    Attributes:
        tokens: of this process so far.
    """

    def __init__(self, loss: float = math.nan) -> None:
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._queries = self.tokens = 0
        self._start, self._before = time.monotonic(), loss

    def add(self, loss: float, norm: float, queries: int, tokens: int) -> None:
        """Count one step: its mean loss, its gradient's norm, its queries in all, its tokens in this process."""
        self._losses.append(loss)
        self._norms.append(norm)
        self._queries += queries
        self.tokens += tokens

    @property
    def loss(self) -> float:
        """The mean so far; that of the interval before where this one is empty."""
        return sum(self._losses) / len(self._losses) if self._losses else self._before

    def row(self, step: int, rate: float, tokens: float) -> dict[str, Any]:
        """The line of the log, from the tokens of all processes."""
        seconds = time.monotonic() - self._start
        return {
            "step": step,
            "loss": self.loss,
            "grad_norm": sum(self._norms) / len(self._norms),
            "learning_rate": rate,
            "queries_per_second": round(self._queries / seconds, 3),
            "tokens_per_second": round(tokens / seconds, 1),
        }


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics log; a last line that a kill cut short is left out.

    Raises:
        DataError: another line is none.
    """
    rows = []
    if path.exists():
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
            if line.endswith(b"\n"):
                rows.append(_row(line, path, number))
    return rows


def _row(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if isinstance(row.get("step"), int) and isinstance(row.get("loss"), int | float):
            return dict(row)
        problem = "not a line of the log"
    except (ValueError, AttributeError) as error:
        problem = f"not a line of the log ({error})"
    raise DataError(problem, file=path, line=number, expected='an object with "step" and "loss"', hint=DAMAGED_LOG)


def log_fingerprint(path: Path, step: int) -> str:
    """A short name for what a run has logged up to a step, speeds left out: what a resumed run counts on."""
    rows = [row for row in read_metrics(path) if row["step"] <= step]
    return fingerprint("log", [{key: value for key, value in row.items() if key not in _SPEEDS} for row in rows])


def draw_loss(metrics: Path, picture: Path, measure: str = "") -> None:
    """Draw a run as a PNG: :func:`figure_of`."""
    with atomic_file(picture) as file:
        figure_of(read_metrics(metrics), measure).savefig(file, format="png", dpi=120)


def figure_of(rows: list[dict[str, Any]], measure: str = "") -> Any:
    """The loss and the learning rate over the steps; beneath, where it is measured, what is to become large.

    Args:
        rows: of the metrics log.
        measure: the key of that measure.

    Returns:
        A figure of matplotlib.
    """
    # The object interface: pyplot would pick a backend that may want a screen, and keep the figure for ever.
    from matplotlib.figure import Figure

    measured = [row for row in rows if measure in row]
    figure = Figure(figsize=(7, 6 if measured else 4), layout="constrained")
    panels = figure.subplots(2 if measured else 1, 1, sharex=True, squeeze=False)[:, 0]
    steps = [row["step"] for row in rows]
    panels[0].plot(steps, [row["loss"] for row in rows], color="tab:blue")
    panels[0].set(ylabel="loss (mean since the last point)")
    rate = panels[0].twinx()
    rate.plot(steps, [row["learning_rate"] for row in rows], color="tab:gray", linewidth=0.8, linestyle="--")
    rate.set_ylabel("learning rate (dashed)")
    if measured:
        # The first of equals and never NaN, as it is exported.
        best = max(measured, key=lambda row: -math.inf if math.isnan(row[measure]) else row[measure])
        panels[1].plot([row["step"] for row in measured], [row[measure] for row in measured], "o-", color="tab:green")
        panels[1].plot(best["step"], best[measure], "*", color="tab:red", markersize=14, label=f"step {best['step']}")
        panels[1].set(ylabel=measure)
        panels[1].legend(title="best")
    panels[-1].set(xlabel="step")
    for panel in panels:
        panel.grid(alpha=0.3)
    return figure

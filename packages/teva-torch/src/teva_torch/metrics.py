"""The metrics log (JSON lines), the sums between two of its lines, and the picture of the loss."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from teva_data.files import atomic_file

from .distributed import Processes


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
        self._file.write(f"{json.dumps(row)}\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Interval:
    """Sums between two lines of the metrics log."""

    def __init__(self, loss: float = math.nan) -> None:
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._queries = self._tokens = 0
        self._start, self._before = time.monotonic(), loss

    def add(self, loss: float, norm: float, queries: int, tokens: int) -> None:
        """Count one step: its mean loss, its gradient's norm, its queries in all, its tokens in this process."""
        self._losses.append(loss)
        self._norms.append(norm)
        self._queries += queries
        self._tokens += tokens

    @property
    def loss(self) -> float:
        """The mean so far; that of the interval before where this one is empty."""
        return sum(self._losses) / len(self._losses) if self._losses else self._before

    def row(self, step: int, rate: float, processes: Processes) -> dict[str, Any]:
        """The line of the log; tokens are summed over the processes."""
        (tokens,) = processes.totals(self._tokens)
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
    """The rows of a metrics log; a last line that a kill cut short is left out."""
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                rows.append(json.loads(line))
    return rows


def draw_loss(metrics: Path, picture: Path) -> None:
    """Draw the loss and the learning rate over the steps as a PNG."""
    # The object interface: pyplot would pick a backend that may want a screen, and keep the figure for ever.
    from matplotlib.figure import Figure

    rows = read_metrics(metrics)
    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, [row["loss"] for row in rows], color="tab:blue")
    axes.set(xlabel="step", ylabel="loss (mean since the last point)")
    axes.grid(alpha=0.3)
    rate = axes.twinx()
    rate.plot(steps, [row["learning_rate"] for row in rows], color="tab:gray", linewidth=0.8, linestyle="--")
    rate.set_ylabel("learning rate (dashed)")
    with atomic_file(picture) as file:
        figure.savefig(file, format="png", dpi=120)

"""The metrics log (JSON lines) and the picture of the loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from teva_data.files import atomic_file


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

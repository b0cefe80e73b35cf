"""Draws the records of the claims ``index_*``: recall against queries a second, each kind's best points.

python -m benchmarks.index_curves docs/indexes.png
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.claims.runner import ROOT

MARKS = {"ivf": "o", "hnsw": "s", "sq8": "^", "pq": "v", "rabitq": "D", "binary": "x"}


def best(points: Sequence[tuple[dict[str, int], float, float]]) -> list[tuple[float, float]]:
    """Recall and speed of the points that no other beats in both, by recall."""
    found: list[tuple[float, float]] = []
    for _, recall, speed in sorted(points, key=lambda point: (-point[2], -point[1])):
        if not found or recall > found[-1][0]:
            found.append((recall, speed))
    return found


def draw(records: Sequence[dict[str, Any]], file: Path) -> None:
    """One picture of all records."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for record in records:
        details = record["details"]
        curve = best(details["points"])
        axes.plot(*zip(*curve, strict=True), marker=MARKS[details["kind"]], label=details["kind"], markersize=4)
    exact = [record["details"]["exact"] for record in records]
    axes.axhline(sum(exact) / len(exact), color="grey", linestyle="--", label="exact search")
    count, dim = (records[0]["figures"][name] for name in ("vectors", "dim"))
    axes.set(
        xlabel="recall@100", ylabel="queries a second of a core's time", yscale="log",
        title=f"{count} vectors of {dim} numbers", xlim=(0.5, 1.005),
    )  # fmt: skip
    axes.legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    """The records at hand, to the file that is named."""
    paths = [ROOT / f"benchmarks/results/index_{kind}.json" for kind in MARKS]
    records = [json.loads(path.read_text()) for path in paths if path.exists()]
    # Those by the clock, on several cores, are not comparable.
    draw([one for one in records if "built in, processor s" in one["figures"]], Path(sys.argv[1]))


if __name__ == "__main__":
    main()

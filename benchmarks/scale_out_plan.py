"""What 100 million and a billion documents take, from the records of the claims and the assumptions named here.

    python -m benchmarks.scale_out_plan

Prints the tables of docs/scale.md. Lines through measured points are drawn on: beyond the last of them they are a
guess that says how it was made.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.claims.runner import ROOT

CORES = 64  # of the machine that builds and searches
GPU_PEAK, GPU_SHARE, GPU_HOUR = 989e12, 0.4, 2.5  # an H100's bfloat16 peak, the share that is reached, dollars
MACHINE_HOUR = 4.0  # dollars: 64 cores, 512 GB
GB_MONTH = 0.023  # dollars, object storage
GPU_CORES, TOKENISED = 12, 520_000  # processor cores beside each GPU, and tokens a second that one of them makes
TOKENS = 180  # of a document
SIZES = (10**8, 10**9)


@dataclasses.dataclass(frozen=True)
class Model:
    """An encoder: the weights that a token goes through, and the numbers of a vector."""

    name: str
    weights: float
    dim: int


MODELS = (Model("22M (MiniLM)", 22e6, 384), Model("0.6B", 0.6e9, 1024), Model("8B", 8e9, 4096))


def record(name: str) -> dict[str, Any]:
    """A claim's record."""
    found: dict[str, Any] = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
    return found


def line(rows: Sequence[dict[str, Any]], name: str, count: int) -> float:
    """The power law through the last three points, at another size."""
    sizes, values = (np.log([row[key] for row in rows[-3:]]) for key in ("vectors", name))
    slope, start = np.polyfit(sizes, values, 1)
    return float(math.exp(start + slope * math.log(count)))


def hours(count: int, model: Model, gpus: int) -> float:
    """Of encoding: two operations for each weight and token, or tokenising where that takes longer."""
    tokens = min(GPU_PEAK * GPU_SHARE / (2 * model.weights), GPU_CORES * TOKENISED)
    return count * TOKENS / (tokens * gpus) / 3600


def encoding() -> list[str]:
    """Hours and dollars on GPUs, and what has to be written."""
    lines = ["| model | documents | hours on 8 GPUs | on 128 | dollars | documents/s of 128 | float16 vectors | MB/s |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for model in MODELS:
        for count in SIZES:
            many = hours(count, model, 128)
            rate, size = count / many / 3600, count * model.dim * 2
            cells = (
                model.name, f"{count:,}", f"{hours(count, model, 8):,.1f}", f"{many:,.2f}",
                f"{many * 128 * GPU_HOUR:,.0f}", f"{rate:,.0f}", f"{size / 1e9:,.0f} GB",
                f"{rate * model.dim * 2 / 1e6:,.0f}",
            )  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def searching(dim: int = 384) -> list[str]:
    """Exact search and indexes of vectors of ``dim`` numbers, on one machine of CORES cores."""
    exact = record("exact_search")["figures"]
    per_core = exact["k=100: product, GFLOP/s"] * 1e9 * exact["k=100: share of the product's rate"] / 2
    lists, graph = record("growth_ivf")["details"]["rows"], record("growth_hnsw")["details"]["rows"]
    # Work for each vector grows with its length; the growth was measured on vectors of 32 numbers, in a core's seconds.
    scale = dim / 32 / CORES
    head = ("documents", "exact: s for 1,000 queries", "lists: h to learn, add", "graph: h to add", "dollars to build")
    lines = [f"| {' | '.join(head)} |", "|---|---|---|---|---|"]
    for count in SIZES:
        learn, add = (line(lists, name, count) * scale / 3600 for name in ("learning", "adding"))
        linked = line(graph, "adding", count) * scale / 3600
        cells = (
            f"{count:,}", f"{1000 * count * dim * 2 / (per_core * CORES):,.0f}", f"{learn:,.1f}, {add:,.1f}",
            f"{linked:,.1f}", f"{(learn + add) * MACHINE_HOUR:,.0f}, {linked * MACHINE_HOUR:,.0f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def memory() -> list[str]:
    """Bytes of indexes and of what stays on disk."""
    lines = ["| kind | bytes a vector | at 100M | at 1B |", "|---|---|---|---|"]
    for kind in ("hnsw", "ivf", "sq8", "pq", "rabitq", "binary"):
        path = ROOT / f"benchmarks/results/index_{kind}.json"
        if path.exists():
            each = record(f"index_{kind}")["figures"]["bytes a vector"]
            lines.append(f"| `{kind}` | {each:,.0f} | {each / 10:,.1f} GB | {each:,.0f} GB |")
    store = record("store_of_10m")["figures"]["at 1B documents: store, GB"]
    lines.append(f"| documents of 20 words, on disk | {store} | {store / 10:,.1f} GB | {store} GB |")
    return lines


def main() -> None:
    """All tables whose records are here."""
    for table in (encoding, searching, memory):
        try:
            print("\n".join(table()), end="\n\n")
        except FileNotFoundError as error:
            print(f"{table.__name__}: no record {error.filename}\n")


if __name__ == "__main__":
    main()

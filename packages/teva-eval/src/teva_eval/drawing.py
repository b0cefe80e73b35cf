"""Pictures of results, as data URIs: bars of every task, quality by dimension (extra ``report``)."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from teva_data.errors import MissingExtraError

from .measures import parse_measure
from .tables import by_system

# Okabe and Ito's colours, told apart by those who see fewer colours too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")


def draw(records: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Captions and pictures (SVG in a data URI)."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("the report's pictures", "teva-eval[report]") from error
    matplotlib.use("Agg")
    figures = [_bars(records)]
    if any(record["variants"] for record in records):
        figures.append(_dimensions(records))
    return figures


def _bars(records: Sequence[dict[str, Any]]) -> tuple[str, str]:
    import matplotlib.pyplot as plt

    tasks = {record["task"]["name"]: parse_measure(record["task"]["measures"][0]).name for record in records}
    systems = [name for name, variant in by_system(records) if not variant]
    values = {(r["system"]["name"], r["task"]["name"]): 100 * r["scores"][tasks[r["task"]["name"]]] for r in records}
    figure, axes = plt.subplots(figsize=(max(5.0, 1.0 + 0.35 * len(tasks) * (len(systems) + 1)), 3.4))
    width = 0.8 / len(systems)
    for number, system in enumerate(systems):
        present = [(place, values[system, task]) for place, task in enumerate(tasks) if (system, task) in values]
        places = [place + (number - (len(systems) - 1) / 2) * width for place, _ in present]
        bars = axes.bar(places, [value for _, value in present], width, label=system, color=COLOURS[number % 8])
        if len(tasks) * len(systems) <= 24:
            axes.bar_label(bars, fmt="%.1f", fontsize=7)
    axes.set_xticks(range(len(tasks)), [f"{task}\n{measure}" for task, measure in tasks.items()], fontsize=8)
    axes.set_ylabel("times 100")
    axes.set_ylim(0, 105)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.spines[["top", "right"]].set_visible(False)
    return "The main measure of every task", _uri(figure)


def _dimensions(records: Sequence[dict[str, Any]]) -> tuple[str, str]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.4))
    for number, record in enumerate(each for each in records if each["variants"]):
        main = parse_measure(record["task"]["measures"][0]).name
        points = {int(name.removeprefix("dim=")): 100 * scores[main] for name, scores in record["variants"].items()
                  if name.startswith("dim=")}  # fmt: skip
        if record["system"].get("dim"):
            points[int(record["system"]["dim"])] = 100 * record["scores"][main]
        label = f"{record['system']['name']}, {record['task']['name']} {main}"
        axes.plot(*zip(*sorted(points.items()), strict=True), "o-", label=label, color=COLOURS[number % 8])
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("numbers of a vector")
    axes.set_ylabel("times 100")
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return "Quality by dimension: vectors cut to their first numbers", _uri(figure)


def _uri(figure: Any) -> str:
    import matplotlib.pyplot as plt

    file = io.BytesIO()
    figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"

"""What an index finds of what exact search finds, and how fast: each of its knobs, a table and a curve."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from teva_data.embeddings import Embeddings
from teva_data.errors import TevaError
from teva_data.files import atomic_file, write_json
from teva_data.progress import Progress
from teva_infer.searching import check_pair, search_block

from .opened import OVERSAMPLE, Index

logger = logging.getLogger(__name__)

LEAST_SECONDS = 1.0  # a point is measured again until it has taken so long
clock = time.perf_counter


@dataclasses.dataclass(frozen=True)
class Point:
    """One way to search.

    Attributes:
        knobs: how much is looked at.
        recall: the share of the exact hits that it finds, the mean over the queries.
        queries_per_second: all queries in one block, the median of some rounds.
    """

    knobs: dict[str, int]
    recall: float
    queries_per_second: float


@dataclasses.dataclass(frozen=True)
class Tuned:
    """All points of an index.

    Attributes:
        depth: hits of each query.
        points: as they were tried.
        exact: queries a second of exact search, for comparison.
    """

    depth: int
    points: list[Point]
    exact: float

    def best(self) -> list[Point]:
        """The points that no other beats in both recall and speed, by recall."""
        found: list[Point] = []
        for point in sorted(self.points, key=lambda each: (-each.queries_per_second, -each.recall)):
            if not found or point.recall > found[-1].recall:
                found.append(point)
        return found

    def fastest(self, recall: float) -> Point | None:
        """The fastest point of at least this recall; None where there is none."""
        reached = [point for point in self.points if point.recall >= recall]
        return max(reached, key=lambda point: point.queries_per_second, default=None)

    def table(self) -> str:
        """The points as text; those that none beats are marked."""
        marked = self.best()
        lines = [f"{'':2}{f'recall@{self.depth}':>12} {'queries/s':>12}  knobs"]
        for point in sorted(self.points, key=lambda each: each.recall):
            knobs = " ".join(f"{name}={value}" for name, value in point.knobs.items())
            mark = "*" if point in marked else " "
            lines.append(f"{mark:2}{point.recall:>12.4f} {point.queries_per_second:>12,.1f}  {knobs}")
        lines.append(f"{'':2}{1:>12.4f} {self.exact:>12,.1f}  exact search")
        return "\n".join([*lines, "* no other setting is both faster and finds more"])


def tune(
    directory: str | Path,
    corpus: Embeddings | str | Path,
    queries: Embeddings | str | Path,
    output: str | Path,
    *,
    depth: int = 100,
    most_queries: int = 1000,
    oversample: Sequence[int] | None = None,
) -> Tuned:
    """Measure an index at each of its knobs.

    Args:
        directory: the index's.
        corpus: the embeddings that it was built from.
        queries: the queries' embeddings.
        output: a directory for ``tune.json`` and the curve ``tune.png`` (where matplotlib is installed).
        depth: hits of each query.
        most_queries: queries used at most, from the first on.
        oversample: values tried; where not given the kind's own, and half and twice as many if that is more than 1.

    Raises:
        DataError: damaged or unfinished embeddings or index, or an index of other embeddings.
        TevaError: no queries, queries of another model, or numbers below 1.
    """
    if min(depth, most_queries) < 1:
        raise TevaError(f"depth and most_queries start at 1; found {depth} and {most_queries}")
    corpus, queries = (each if isinstance(each, Embeddings) else Embeddings.open(each) for each in (corpus, queries))
    check_pair(queries, corpus)
    index = Index(directory, corpus)
    vectors = _first(queries, most_queries)
    depth = min(depth, len(corpus))
    own = index.kind.oversample
    tried = dict(index.kind.knobs) | {
        OVERSAMPLE: oversample or sorted({own, max(1, own // 2), 2 * own if own > 1 else 1})
    }
    grid = [dict(zip(tried, values, strict=True)) for values in itertools.product(*tried.values())]
    for knobs in grid:
        index.resolve(knobs)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)  # what is wrong with it is told before hours of measuring
    start = clock()
    _, wanted, _ = search_block(vectors, corpus, depth)
    exact = len(vectors) / (clock() - start)
    points = []
    with Progress(len(grid), "tune", "settings") as progress:
        for knobs in grid:
            points.append(_measure(index, vectors, wanted, knobs))
            progress.add(1)
    tuned = Tuned(depth, points, exact)
    write_json(output / "tune.json", {"index": index.job, "queries": len(vectors), **dataclasses.asdict(tuned)})
    _draw(tuned, f"{index.job['kind']}, {len(corpus):,} vectors", output / "tune.png")
    return tuned


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
    """The share of wanted rows that were found, the mean over queries.

    Args:
        found: integers [Q, n], -1 for none.
        wanted: integers [Q, k].
    """
    return float(np.mean([len(np.intersect1d(*both)) for both in zip(found, wanted, strict=True)]) / wanted.shape[1])


def _measure(index: Index, vectors: np.ndarray, wanted: np.ndarray, knobs: dict[str, int]) -> Point:
    seconds: list[float] = []
    while sum(seconds) < LEAST_SECONDS and len(seconds) < 5:
        start = clock()
        _, rows, filled = index.search(vectors, wanted.shape[1], knobs)
        seconds.append(clock() - start)
    return Point(knobs, recall(np.where(filled, rows, -1), wanted), len(vectors) / float(np.median(seconds)))


def _first(queries: Embeddings, most: int) -> np.ndarray:
    parts, count = [], 0
    for shard in queries.vectors():
        parts.append(shard[: most - count].astype(np.float32))
        count += len(parts[-1])
        if count == most:
            break
    return np.concatenate(parts)


def _draw(tuned: Tuned, title: str, file: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.warning("no picture of the curve: matplotlib is not installed (teva-infer[tune])")
        return
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()

    def line(points: Iterable[Point], style: str, label: str) -> None:
        both = [(point.recall, point.queries_per_second) for point in points]
        axes.plot(*zip(*both, strict=True), style, label=label)

    line(tuned.points, ".", "tried")
    line(tuned.best(), "o-", "best")
    axes.axhline(tuned.exact, color="grey", linestyle="--", label="exact search")
    axes.set(xlabel=f"recall@{tuned.depth}", ylabel="queries a second", yscale="log", title=title)
    axes.legend()
    with atomic_file(file) as handle:
        figure.savefig(handle, format="png", dpi=120)

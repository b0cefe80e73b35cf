"""A declared benchmark: all that decides its number. `teva-eval run --benchmark palette` runs it."""

from __future__ import annotations

from teva_eval import Benchmark, Task

BENCHMARK = Benchmark(
    name="palette",
    title="questions about colours",
    tasks=(
        Task(
            name="colours",
            hub="example/colours",
            dataset="colours",
            layout="tevatron-v2",
            measures=("nDCG@10", "R@10"),
            instruction="Find the text that answers the question about a colour",
            license="cc0-1.0",
        ),
    ),
    measure="nDCG@10",
    citation="made up for this example",
    source="written with the example",
)

"""Opens a corpus one way, reads documents at random, and prints as JSON what that took. One process for each way, so
that what one allocates is not counted for the other.

    python -m benchmarks.memory_of_lookup store CORPUS.jsonl READS
    python -m benchmarks.memory_of_lookup dict CORPUS.jsonl READS
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .synthetic import identifier

BATCH = 512
Fetch = Callable[[list[str]], Any]


def anonymous_mb() -> float:
    """Memory of this process that is not pages of a file, in MB (Linux)."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("no line 'Anonymous' in /proc/self/smaps_rollup")


def open_store(path: Path) -> tuple[Fetch, int]:
    from teva_data.store import CorpusStore

    store = CorpusStore.open(path)
    return store.lookup, len(store)


def open_dict(path: Path) -> tuple[Fetch, int]:
    """As Tevatron does: a row of a Hugging Face dataset by a dict of all ids."""
    import datasets

    table = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(path.parent / "hf"))
    rows = {docid: row for row, docid in enumerate(table["docid"])}
    return lambda ids: [table[rows[docid]] for docid in ids], len(table)


def imports(way: str) -> None:
    """What either way imports, so that neither time nor memory of it is counted."""
    if way == "store":
        import pyarrow

        from teva_data import store

        _ = pyarrow, store
    else:
        import datasets

        datasets.disable_progress_bars()


def measure(way: str, path: Path, reads: int) -> dict[str, float]:
    imports(way)
    before, start = anonymous_mb(), time.perf_counter()
    fetch, count = (open_store if way == "store" else open_dict)(path)
    opened = time.perf_counter() - start
    open_mb = anonymous_mb() - before
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for done in range(0, reads, BATCH):
        fetch([identifier(number) for number in rng.integers(0, count, min(BATCH, reads - done)).tolist()])
    seconds = time.perf_counter() - start
    return {
        "documents": count,
        "open_seconds": opened,
        "open_mb": open_mb,
        "read_mb": anonymous_mb() - before - open_mb,
        "mb": anonymous_mb() - before,
        "documents_per_second": reads / seconds,
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))

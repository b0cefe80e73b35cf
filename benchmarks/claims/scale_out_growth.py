"""Claims of how search and the building of indexes grow from ten thousand to ten million vectors.

Seconds are those of the processor, of all threads together, so that other work on the machine does not count; run them
with OMP_NUM_THREADS=1, since threads that wait for each other take time too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from . import Context, Result, claim
from .real_run import minilm
from .scale_out import mixed, timed

DIM, DEPTH, QUERIES = 32, 100, 256
REAL = 4_000
MODEL = {"role": "document", "normalized": True, "model_fingerprint": "minilm, the first 32 numbers"}


@claim(
    "scale_out", name="growth_exact_search", needs=("data",),
    target="seconds of exact search for 256 queries from 10^4 to 10^7 vectors of 32 numbers: the slope on logarithmic "
    "axes is 1 to 0.1 from 10^5 on, and memory grows by less than a tenth of the vectors",
)  # fmt: skip
def growth_exact_search(context: Context) -> Result:
    """MiniLM's first 32 numbers of mixed definitions, float16 on disk, mapped."""
    from teva_infer.searching import search_block

    rows = []
    real, questions = _real(context)
    for count in _counts(context, 7):
        corpus = _corpus(context, real, count)
        search_block(questions[:8], corpus, DEPTH)  # what was just written is read once
        before = _own_memory()
        seconds = sorted(timed(partial(search_block, questions, corpus, DEPTH))[0] for _ in range(3))[1]
        rows.append({"vectors": count, "seconds": seconds, "MiB more": (_own_memory() - before) / 2**20})
    slope = _slope(rows[1:], "seconds")
    figures = {f"10^{round(math.log10(row['vectors']))}: s": round(row["seconds"], 4) for row in rows}
    more = rows[-1]["MiB more"] * 2**20 / (rows[-1]["vectors"] * DIM * 2)
    figures |= {
        "slope from 10^5 on": round(slope, 3), "memory more, of the vectors' bytes": round(more, 4),
        "vectors a second and query": round(rows[-1]["vectors"] * QUERIES / rows[-1]["seconds"]),
    }  # fmt: skip
    return Result(figures, abs(slope - 1) <= 0.1 and more < 0.1, details={"rows": rows})


@claim(
    "scale_out", name="growth_ivf", needs=("data",),
    target="from 10^4 to 10^7 vectors of 32 numbers with the default settings: seconds to learn, to add, and for 256 "
    "queries at nprobe=32; adding grows by a slope of at most 1.5, searching of at most 0.75 (a list holds the root of "
    "the vectors)",
)  # fmt: skip
def growth_ivf(context: Context) -> Result:
    """Learning is over 64 vectors for each of 4 sqrt(n) lists, so it grows with n."""
    return _index_growth(context, "ivf", {}, {"nprobe": 32}, _counts(context, 7), {"adding": 1.5, "searching": 0.75})


@claim(
    "scale_out", name="growth_hnsw", needs=("data",),
    target="from 10^4 to 10^6 vectors of 32 numbers (links=16, efConstruction=80; 10^7 would take hours here): seconds "
    "to add and for 256 queries at efSearch=128; adding grows by a slope of at most 1.4, searching of at most 0.5",
)  # fmt: skip
def growth_hnsw(context: Context) -> Result:
    """Each vector is searched for among those that are there: n log n, and caches that no longer hold them."""
    settings = {"links": 16, "efConstruction": 80}
    return _index_growth(
        context, "hnsw", settings, {"efSearch": 128}, _counts(context, 6), {"adding": 1.4, "searching": 0.5}
    )


def _index_growth(
    context: Context, kind: str, settings: dict[str, int], knobs: dict[str, int], counts: Sequence[int],
    most: dict[str, float],
) -> Result:  # fmt: skip
    """Learn, add and search as a build and an index do, each timed by itself."""
    from teva_infer.indexes import find_kind
    from teva_infer.indexes.building import rows_between, sample
    from teva_infer.indexes.tuning import recall
    from teva_infer.searching import search_block

    found = find_kind(kind)
    real, questions = _real(context)
    rows: list[dict[str, Any]] = []
    for count in counts:
        corpus = _corpus(context, real, count)
        resolved = found.resolve(settings, dim=DIM, rows=count)
        structure = found.empty(resolved, dim=DIM, seed=0)
        learned = min(found.sample(resolved), count)
        learning = timed(partial(structure.train, sample(corpus, learned, 0)))[0] if learned else 0.0

        def add(structure: Any = structure, corpus: Any = corpus, count: int = count) -> None:
            for block in rows_between(corpus, 0, count):
                structure.add(block)

        adding = timed(add)[0]
        search = partial(structure.search, questions, DEPTH, knobs)
        searching = sorted(timed(search)[0] for _ in range(3))[1]
        right = recall(search()[1], search_block(questions, corpus, DEPTH)[1])
        rows.append({"vectors": count, "settings": resolved, "learning": learning, "adding": adding,
                     "searching": searching, "recall": right})  # fmt: skip
        print(rows[-1], flush=True)
    figures: dict[str, Any] = {}
    for row in rows:
        power = f"10^{round(math.log10(row['vectors']))}"
        figures[f"{power}: s to learn, add, search"] = ", ".join(
            f"{row[name]:.3f}" for name in ("learning", "adding", "searching")
        )
        figures[f"{power}: recall"] = round(row["recall"], 4)
    slopes = {name: round(_slope(rows[1:], name), 3) for name in ("learning", "adding", "searching") if rows[-1][name]}
    figures |= {f"slope of {name}": slope for name, slope in slopes.items()}
    return Result(figures, all(slopes[name] <= limit for name, limit in most.items()), details={"rows": rows})


def _counts(context: Context, power: int) -> list[int]:
    return [10**each for each in range(3 if context.quick else 4, (power - 1 if context.quick else power + 1))]


def _real(context: Context) -> tuple[np.ndarray, np.ndarray]:
    """Definitions of WordNet and other ones as questions, cut and normalised again: float32 [n, 64] each."""
    import gzip
    import json

    from teva_infer import Encoder

    encoder = Encoder.load(minilm(), device="cpu", dim=DIM)
    with gzip.open(context.data / "wordnet/corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        documents = [json.loads(line) for line in lines]
    chosen = np.random.default_rng(context.seed).choice(len(documents), REAL + QUERIES, replace=False)
    vectors = encoder.encode_documents([(documents[row]["title"], documents[row]["text"]) for row in chosen])
    return vectors[:REAL], vectors[REAL:]


def _corpus(context: Context, real: np.ndarray, count: int) -> Any:
    return mixed(real, count, context.work / f"{count}", MODEL, np.random.default_rng(context.seed), "float16")


def _slope(rows: Sequence[dict[str, Any]], name: str) -> float:
    """The exponent of a power law through the points, by least squares of the logarithms."""
    sizes, values = (np.log([row[key] for row in rows]) for key in ("vectors", name))
    return float(np.polyfit(sizes, values, 1)[0])


def _own_memory() -> int:
    """Bytes of the process that are no mapped files."""
    with open("/proc/self/status", encoding="ascii") as lines:  # noqa: PTH123
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

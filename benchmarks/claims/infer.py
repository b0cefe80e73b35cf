"""Claims of teva-infer's search: as fast as the product it is made of, and exact."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import Context, Result, claim

DIM, QUERIES, SHARD = 384, 512, 8192


@claim(
    "infer", name="exact_search",
    target="1M x 384 float32 vectors in memory-mapped shards, 512 queries, k = 100: at least 0.8 of the rate of the "
    "matrix product alone, no slower than faiss.IndexFlatIP over one matrix in memory, the same documents wherever "
    "scores differ by more than 2e-6; k = 10 and 1,000 reported",
    peer="faiss.IndexFlatIP of {faiss-cpu}; numpy.matmul of {numpy} over the same shards",
)  # fmt: skip
def exact_search(context: Context) -> Result:
    """The product, ours and FAISS in turn, a few rounds; medians of each. Random unit vectors."""
    import faiss

    from teva_infer.searching import search_block

    documents = 50_000 if context.quick else 1_000_000
    rng = np.random.default_rng(context.seed)
    corpus = _embeddings(context.work / "corpus", documents, rng)
    queries = _unit(QUERIES, rng)
    matrix = corpus.matrix()
    index = faiss.IndexFlatIP(DIM)
    index.add(matrix)
    figures: dict[str, Any] = {"documents": documents, "faiss threads": faiss.omp_get_max_threads()}
    passed, details = True, {}
    for depth, rounds in ((100, 3), (10, 1), (1000, 1)):
        seconds: dict[str, list[float]] = {"product": [], "ours": [], "faiss": []}
        for _ in range(rounds):
            seconds["product"].append(_timed(lambda: _product(queries, corpus))[0])
            spent, (scores, rows, _) = _timed(lambda: search_block(queries, corpus, depth))  # noqa: B023
            seconds["ours"].append(spent)
            spent, (peer_scores, peer_rows) = _timed(lambda: index.search(queries, depth))  # noqa: B023
            seconds["faiss"].append(spent)
        median = {name: statistics.median(values) for name, values in seconds.items()}
        rate = 2 * documents * DIM * QUERIES / median["product"] / 1e9
        share, against = median["product"] / median["ours"], median["faiss"] / median["ours"]
        worst, other = _differences(scores, rows, peer_scores, peer_rows)
        figures |= {
            f"k={depth}: product, GFLOP/s": round(rate, 1), f"k={depth}: share of the product's rate": round(share, 3),
            f"k={depth}: times faster than faiss": round(against, 2),
            f"k={depth}: largest difference of a score": worst, f"k={depth}: other documents": other,
        }  # fmt: skip
        details[f"seconds, k={depth}"] = seconds
        passed &= worst < 2e-6 and other == 0
        if depth == 100:
            passed &= share >= 0.8 and against >= 1
    return Result(figures, passed, details=details)


def _differences(scores: Any, rows: Any, peer_scores: Any, peer_rows: Any) -> tuple[float, int]:
    """The largest difference of scores at one rank, and documents that one side alone has though no tie allows it."""
    worst, other = float(np.abs(scores - peer_scores).max()), 0
    for mine, theirs, score, peer in zip(rows, peer_rows, scores, peer_scores, strict=True):
        for own, its, foreign in ((mine, score, theirs), (theirs, peer, mine)):
            alone = ~np.isin(own, foreign)
            other += int((alone & (its > its[-1] + 2e-6)).sum())
    return worst, other


def _product(queries: np.ndarray, corpus: Any) -> None:
    """The same tiles as the search has, and nothing but their product."""
    scores = np.empty((QUERIES, SHARD), dtype=np.float32)
    for shard in corpus.vectors():
        whole = scores if len(shard) == SHARD else np.empty((QUERIES, len(shard)), dtype=np.float32)
        np.matmul(queries, shard.T, out=whole)


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def _unit(rows: int, rng: np.random.Generator) -> np.ndarray:
    vectors = rng.standard_normal((rows, DIM), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _embeddings(directory: Path, rows: int, rng: np.random.Generator) -> Any:
    from teva_data.embedding_writer import EmbeddingWriter
    from teva_data.embeddings import Embeddings

    starts = range(0, rows, SHARD)
    shards = [min(SHARD, rows - start) for start in starts]
    job = {"role": "document", "normalized": True}
    with EmbeddingWriter(directory, job=job, shards=shards, dim=DIM) as writer:
        for shard, (start, count) in enumerate(zip(starts, shards, strict=True)):
            writer.write(shard, [f"d{row}" for row in range(start, start + count)], _unit(count, rng))
    return Embeddings.open(directory, verify=False)

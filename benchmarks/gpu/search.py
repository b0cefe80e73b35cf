"""Exact search on one GPU: teva-infer's over memory-mapped shards, beside the product alone and FAISS on the GPU.

    python -m benchmarks.gpu.search --output DIR [--tiny]

Random unit vectors in shards on disk, 512 queries, the best 100. The product alone is the same tiles, brought to the
device and multiplied in float32 without TF32, and nothing kept; FAISS (where faiss-gpu is installed) has all vectors on
the device before the time begins. Writes ``gpu_search.json`` to DIR.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import torch

from . import parser

DIM, QUERIES, DEPTH, SHARD = 768, 512, 100, 65_536


def corpus_of(directory: Path, rows: int, device: torch.device) -> Any:
    """Random unit vectors as embeddings."""
    from teva_data.embedding_writer import EmbeddingWriter
    from teva_data.embeddings import Embeddings

    shards = [min(SHARD, rows - start) for start in range(0, rows, SHARD)]
    job = {"role": "document", "normalized": True}
    with EmbeddingWriter(directory, job=job, shards=shards, dim=DIM) as writer:
        for shard, size in enumerate(shards):
            ids = [f"d{shard * SHARD + row}" for row in range(size)]
            writer.write(shard, ids, unit(size, shard, device))
    return Embeddings.open(directory, verify=False)


def unit(rows: int, seed: int, device: torch.device) -> np.ndarray:
    """Random vectors of length 1, float32 [rows, DIM]."""
    made = torch.randn(rows, DIM, generator=torch.Generator(device).manual_seed(seed), device=device)
    found: np.ndarray = torch.nn.functional.normalize(made, dim=1).cpu().numpy()
    return found


def measure(rows: int, device: torch.device, work: Path) -> dict[str, Any]:
    """Seconds of each way, and how far the found scores differ from those of the product."""
    from teva_infer.searching import _scan_exact
    from teva_torch.products import TorchProduct

    corpus, queries = corpus_of(work / "corpus", rows, device), unit(QUERIES, 1 << 20, device)

    def ours() -> tuple[np.ndarray, np.ndarray]:
        *_, last = _scan_exact(queries, corpus, DEPTH, partial(TorchProduct, device=str(device)))
        assert not isinstance(last, int)
        return last[0], last[1]

    asked = torch.from_numpy(queries).to(device)

    def product() -> torch.Tensor:
        torch.set_float32_matmul_precision("highest")
        best = torch.empty(QUERIES, 0, device=device)
        for tile in corpus.vectors():
            best = torch.cat([best, asked @ torch.from_numpy(np.array(tile)).to(device).T], dim=1)
            best = best.topk(min(DEPTH, best.shape[1]), dim=1).values
        if device.type == "cuda":
            torch.cuda.synchronize()
        return best

    seconds, (scores, _) = timed(ours)
    plain, best = timed(product)
    found = {
        "device": name_of(device), "documents": rows, "dim": DIM, "queries": QUERIES, "depth": DEPTH,
        "ours, s": seconds, "product and topk, s": plain, "times the product's time": seconds / plain,
        "largest difference of a score": float(np.abs(scores - best.cpu().numpy()).max()),
    }  # fmt: skip
    return found | by_faiss(corpus, queries, seconds)


def by_faiss(corpus: Any, queries: np.ndarray, ours: float) -> dict[str, Any]:
    """FAISS's flat index on the GPU, where there is one."""
    try:
        import faiss
    except ImportError:
        return {"faiss": "not available: not installed"}
    if not getattr(faiss, "get_num_gpus", lambda: 0)():
        return {"faiss": "not available: no faiss-gpu here"}
    index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), DIM)
    index.add(corpus.matrix())
    seconds, _ = timed(partial(index.search, queries, DEPTH))
    return {"faiss, s": seconds, "times faster than faiss": seconds / ours}


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """The median of three, after one that is not counted."""
    function()
    spent, result = [], None
    for _ in range(3):
        start = time.perf_counter()
        result = function()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent), result


def name_of(device: torch.device) -> str:
    """What is measured on."""
    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"


def main() -> None:
    """Measure and write."""
    options = parser(__doc__, "few vectors; shows that all of it runs, on a CPU too").parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.output) as work:
        found = measure(5_000 if options.tiny else 1_000_000, device, Path(work))
    (options.output / "gpu_search.json").write_text(json.dumps(found, indent=2) + "\n")
    print("  ".join(f"{key} {value}" for key, value in found.items()))


if __name__ == "__main__":
    main()

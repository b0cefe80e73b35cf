"""Claims of teva-jax's models: parity, weights in shards, compile time, the artifact, the engine, no torch."""

from __future__ import annotations

import gzip
import itertools
import subprocess
import sys
import time
from typing import Any

import numpy as np

from . import Context, Result, claim
from .real_run import ROOT, command, minilm


@claim(
    "jax", name="jax_forward_parity",
    target="hidden states of real tokens differ from transformers' by at most 1e-4 in float32, for every family and "
    "variant with random weights, norms and biases, and for all-MiniLM-L6-v2: texts of 1, 2, 11, 30 and all tokens; "
    "padded on the left and right; grouped heads; tied weights; a window of 6; on one device and on 2 x 2 x 2",
    peer="{transformers} with {torch}, eager attention",
)  # fmt: skip
def forward_parity(context: Context) -> Result:
    """Every case of benchmarks/jax_models.py, against each text alone and against padded batches."""
    from benchmarks import jax_models

    found = jax_models.measure("parity", context.work)
    worst = {name: max(v for k, v in row.items() if "size" not in k) for name, row in found.items()}
    figures = {**worst, "largest state": max(row["size of the largest state"] for row in found.values())}
    return Result(figures, max(worst.values()) <= 1e-4, f"{len(found)} models", {"rows": found})


@claim(
    "jax", name="jax_weights_in_shards",
    target="weights read into 8 shards (fsdp 4 x tensor 2) are bit-equal to the file, no read is larger than an eighth "
    "of the largest tensor, and all reads together are the file once",
    peer="safetensors' load_file, {safetensors}",
)  # fmt: skip
def weights_in_shards(context: Context) -> Result:
    """A Llama of about 100 M parameters in float32; bytes of each slice that is taken from the file."""
    from benchmarks import jax_models

    found = jax_models.measure("shards", context.work)
    passed = (
        found["bit-equal"]
        and found["largest read, MiB"] <= found["largest tensor, MiB"] / 8
        and abs(found["read in all, of the model"] - 1) < 1e-6
    )
    return Result(found, passed, "norms (one in 4,000 numbers) are held whole by each device")


@claim(
    "jax", name="jax_compile_time_by_depth",
    target="compiling a forward and backward pass of 64 layers takes at most 1.3 times as long as of 2 layers",
    peer="the same layers called one after another in place of a scan, {jax}",
)  # fmt: skip
def compile_time_by_depth(context: Context) -> Result:
    """CPU seconds of tracing and compiling, since this machine may be busy, and the size of the program."""
    from benchmarks import jax_models

    found = jax_models.measure("depth", context.work)
    figures: dict[str, Any] = {f"{name} layers, s": row["seconds"] for name, row in found.items()}
    figures |= {f"{name} layers, program kB": row["program, kB"] for name, row in found.items()}
    ratio = found["scanned, 64"]["seconds"] / found["scanned, 2"]["seconds"]
    figures["scanned, 64 over 2 layers"] = ratio
    figures["listed, 32 over 2 layers"] = found["listed, 32"]["seconds"] / found["listed, 2"]["seconds"]
    return Result(figures, ratio <= 1.3, "a Qwen3 of width 32 with remat", {"rows": found})


@claim(
    "jax", name="jax_artifact_everywhere",
    target="the artifact's smallest cosine with the trained vectors is at least 0.9999 in teva-jax, teva-torch and "
    "sentence-transformers, and of its adapter beside the base in peft: MiniLM, a Llama and a bidirectional Gemma 3 "
    "with LoRA, trained on a mesh of 2 x 2 x 2",
    peer="{sentence-transformers}, {peft}, {torch}",
)  # fmt: skip
def artifact_everywhere(context: Context) -> Result:
    """Weights and adapters are drawn, as if trained for long; the base's own cosine shows that this can be seen."""
    from benchmarks import jax_models

    found = jax_models.measure("artifacts", context.work)
    figures = {f"{name}: {runtime}": value for name, row in found.items() for runtime, value in row.items()}
    least = min(value for name, value in figures.items() if "the base)" not in name)
    base = max(value for name, value in figures.items() if "the base)" in name)
    return Result(figures, least >= 0.9999 and base < 0.999, details={"rows": found})


@claim(
    "jax", name="jax_engine_equals_torch", needs=["data"],
    target="teva-infer encode --engine jax gives the vectors of --engine torch: smallest cosine at least 0.9999 over "
    "1,000 documents, float32",
    peer="{teva-torch} with {torch}",
)  # fmt: skip
def engine_equals_torch(context: Context) -> Result:
    """all-MiniLM-L6-v2 on medquad, by the command; documents a second include starting, loading and compiling."""
    from teva_data import Embeddings
    from teva_data.parity import compare

    data = context.work / "data"
    data.mkdir()
    count = 100 if context.quick else 1000
    with gzip.open(context.data / "medquad" / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        (data / "corpus.jsonl").write_text("".join(itertools.islice(file, count)), encoding="utf-8")
    seconds, found = {}, {}
    for engine in ("torch", "jax"):
        begin = time.perf_counter()
        command(
            "teva-infer", "encode", minilm(), data, "--output", context.work / engine, "--engine", engine,
            "--max-length", "128",
        )  # fmt: skip
        seconds[engine] = time.perf_counter() - begin
        found[engine] = Embeddings.open(context.work / engine).matrix()
    figures = compare(found["torch"].astype(np.float32), found["jax"].astype(np.float32))
    shown = {
        "documents": count, "smallest cosine": figures["min_cosine"], "largest difference": figures["max_difference"],
        **{f"{engine}, documents/s": count / each for engine, each in seconds.items()},
    }  # fmt: skip
    return Result(shown, figures["min_cosine"] >= 0.9999, "on this machine's CPU; texts cut at 128 tokens")


@claim(
    "jax", name="jax_without_torch", slow=True,
    target="pip install teva-jax in a clean environment brings no torch, and the package imports and answers --help",
    peer="its wheel with the workspace's pinned versions",
)  # fmt: skip
def without_torch(context: Context) -> Result:
    """`.ci/packages_alone.py teva-jax`."""
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "packages_alone.py"), "teva-jax"], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    figures = {"exit status": done.returncode, "said": (done.stdout.strip().splitlines() or [""])[0]}
    return Result(figures, done.returncode == 0, done.stderr.strip()[-300:])

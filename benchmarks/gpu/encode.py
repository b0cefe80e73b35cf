"""Encoding texts with an 8B decoder on one GPU: padded, without padding, and by vLLM (Figure 1 of arXiv 2505.02466).

    python -m benchmarks.gpu.encode --output DIR [--quick]    on a GPU
    python -m benchmarks.gpu.encode --output DIR --tiny       all of it with a tiny model, on a CPU too

Random weights of Llama-3.1-8B's shape in bfloat16 (vLLM makes up its own, ``load_format="dummy"``), made-up token ids
whose lengths have a long tail. Each way encodes the same texts through teva-infer's `Encoder`, in a process of its own.
Prints a table and writes ``gpu_encode.json`` to DIR. Speed does not depend on the weights; equal vectors are shown by
`python -m benchmarks.claims vllm_same_vectors`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import torch

from .train import SHAPES, backbone, texts

WAYS = ("padded", "unpadded", "vllm")
LIMIT = 512


def measured(way: str, size: str, count: int, work: Path) -> dict[str, Any]:
    """Tokens a second of one way, and its peak of GPU memory where torch counts it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = texts(np.random.default_rng(0), count, min(LIMIT, SHAPES[size]["max_position_embeddings"]), 120)
    encoder = _encoder(way, size, device, work)
    encoder.encode_tokens(rows[:64])  # kernels are chosen and compiled in it
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    vectors = encoder.encode_tokens(rows, batch_tokens=32_768)
    seconds = time.perf_counter() - start
    if not np.isfinite(vectors).all():
        raise RuntimeError(f"{way}: vectors are not finite")
    tokens = sum(map(len, rows))
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" and way != "vllm" else None
    encoder.close()
    return {
        "way": way, "texts": count, "tokens": tokens, "seconds": round(seconds, 2),
        "texts/s": round(count / seconds, 1), "tokens/s": round(tokens / seconds), "peak GiB": peak and round(peak, 1),
    }  # fmt: skip


def _encoder(way: str, size: str, device: torch.device, work: Path) -> Any:
    from teva_infer import Encoder

    artifact = _description(size, work)
    if way == "vllm":
        from teva_infer.engines import load_engine

        options = {"load_format": "dummy", "skip_tokenizer_init": True}
        engine = load_engine("vllm", artifact, device="auto", dtype=_dtype(device), options=options)
        return Encoder(artifact, None, engine, "vllm")  # type: ignore[arg-type]
    from teva_torch import Retriever, TorchEngine
    from teva_torch.pooling import last_pooling

    model = Retriever(backbone(size, device), last_pooling, normalize=True, pad_id=0).to(device)
    if way == "unpadded" and not model.pack(torch.bfloat16, device):
        raise SystemExit("unpadded: not on this device")
    return Encoder(artifact, None, TorchEngine(model), "torch")  # type: ignore[arg-type]


def _description(size: str, work: Path) -> Any:
    """An artifact without weights: what vLLM needs to make up its own."""
    from transformers import LlamaConfig

    from teva_data.artifact import Artifact, write_layout

    shape = SHAPES[size]
    LlamaConfig(**shape, pad_token_id=0, architectures=["LlamaModel"], dtype="bfloat16").save_pretrained(work)
    write_layout(
        work, pooling="last", normalize=True, dim=shape["hidden_size"], max_length=LIMIT,
        prompts={"query": "", "document": ""}, teva={}, card="",
    )  # fmt: skip
    (work / "tokenizer.json").write_text("{}")
    return Artifact(work, str(work), None, "last", True, shape["hidden_size"], LIMIT, {"query": "", "document": ""})


def _dtype(device: torch.device) -> str:
    return "bfloat16" if device.type == "cuda" else "float32"


def main() -> None:
    """Each way in a process of its own; a way that cannot be had here is told and left out."""
    parser = argparse.ArgumentParser(description="Speed of encoding on one GPU: padded, unpadded, vLLM.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true", help="a tiny model; shows that all of it runs")
    parser.add_argument("--quick", action="store_true", help="fewer texts")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size, count = "tiny" if options.tiny else "8B", 200 if options.tiny else 1024 if options.quick else 8192
    options.output.mkdir(parents=True, exist_ok=True)
    if options.one:
        work = options.output / f"model-{options.one}"
        work.mkdir(exist_ok=True)
        print(json.dumps(measured(options.one, size, count, work)))
        return
    rows = []
    for way in options.ways:
        words = [sys.executable, "-m", "benchmarks.gpu.encode", "--output", str(options.output), "--one", way]
        words += [name for name in ("--tiny", "--quick") if getattr(options, name[2:])]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(f"{way}: left out (status {done.returncode}; why stands above)", flush=True)
            continue
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    found = {"device": device, "torch": torch.__version__, "model": size, "rows": rows}
    (options.output / "gpu_encode.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Encoding on one GPU, by teva-torch and by vLLM: texts and pages (Figure 1 of arXiv 2505.02466).

    python -m benchmarks.gpu.encode --output DIR [--quick]    on a GPU
    python -m benchmarks.gpu.encode --output DIR --tiny       all of it with tiny models, on a CPU too

Texts: random weights of Llama-3.1-8B's shape in bfloat16, made-up token ids whose lengths have a long tail; padded,
without padding, and vLLM. Pages: Qwen2-VL-2B's shape, pictures of 784 x 784 pixels as PNG files, which are decoded and
cut into patches within the time; torch, and vLLM. vLLM makes up weights of its own (``load_format="dummy"``). Each way
encodes the same inputs through teva-infer's `Encoder`, in a process of its own. Prints a table and writes
``gpu_encode.json`` to DIR. Speed does not depend on the weights; equal vectors are shown by
`python -m benchmarks.claims vllm_same_vectors images_vllm`.
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
from benchmarks import small_vlm
from teva_data.pieces import Media

from .train import SHAPES, backbone, texts

WAYS = ("padded", "unpadded", "vllm", "pages", "pages vllm")
LIMIT = 512
TOKENS = 32_768  # of a batch
QWEN_2B = (
    {"vocab_size": 151_936, "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12,
     "num_key_value_heads": 2, "intermediate_size": 8960, "max_position_embeddings": 32_768,
     "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}},
    {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "mlp_ratio": 4},
)  # fmt: skip


def measured(way: str, size: str, count: int, work: Path) -> dict[str, Any]:
    """Tokens a second of one way, and its peak of GPU memory where torch counts it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if way.startswith("pages"):
        encoder = _page_encoder(way, size, device, work)
        pages = [Media("image", str(path)) for path in _pages(work, count, 112 if size == "tiny" else 784)]
        rows: Any = encoder.renderer.tokenize([encoder.renderer.document("", "", None, (one,)) for one in pages])
    else:
        encoder = _encoder(way, size, device, work)
        rows = texts(np.random.default_rng(0), count, min(LIMIT, SHAPES[size]["max_position_embeddings"]), 120)
    encoder.encode_tokens(rows[:16])  # kernels are chosen and compiled in it
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    vectors = encoder.encode_tokens(rows, batch_tokens=TOKENS)
    seconds = time.perf_counter() - start
    if not np.isfinite(vectors).all():
        raise RuntimeError(f"{way}: vectors are not finite")
    tokens = sum(map(len, rows))
    vllm = way.endswith("vllm")
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" and not vllm else None
    encoder.close()
    return {
        "way": way, "inputs": count, "tokens": tokens, "seconds": round(seconds, 2),
        "inputs/s": round(count / seconds, 1), "tokens/s": round(tokens / seconds), "peak GiB": peak and round(peak, 1),
    }  # fmt: skip


def _encoder(way: str, size: str, device: torch.device, work: Path) -> Any:
    from teva_infer import Encoder

    artifact = _description(size, work)
    if way == "vllm":
        return Encoder(artifact, None, _vllm(artifact, device, {"skip_tokenizer_init": True}), "vllm")  # type: ignore[arg-type]
    from teva_torch import Retriever, TorchEngine
    from teva_torch.pooling import last_pooling

    model = Retriever(backbone(size, device), last_pooling, normalize=True, pad_id=0).to(device)
    if way == "unpadded" and not model.pack(torch.bfloat16, device):
        raise SystemExit("unpadded: not on this device")
    return Encoder(artifact, None, TorchEngine(model), "torch")  # type: ignore[arg-type]


def _vllm(artifact: Any, device: torch.device, options: dict[str, Any]) -> Any:
    from teva_infer.engines import load_engine

    options = {"load_format": "dummy", **options}
    return load_engine("vllm", artifact, device="auto", dtype=_dtype(device), options=options)


def _page_encoder(way: str, size: str, device: torch.device, work: Path) -> Any:
    from teva_data.rendering import Renderer
    from teva_infer import Encoder

    text, vision = (small_vlm.SMALL_TEXT, small_vlm.SMALL_VISION) if size == "tiny" else QWEN_2B
    words = ["a tokenizer is not what is measured"]
    config = small_vlm.describe(work, words, most_pixels=784 * 784, text=text, vision=vision)
    config.architectures = ["Qwen2VLForConditionalGeneration"]
    config.dtype = _dtype(device)
    config.save_pretrained(work)
    artifact = _artifact(work, int(text["hidden_size"]), 1024)
    renderer = Renderer.from_artifact(artifact)
    if way == "pages vllm":
        engine = _vllm(artifact, device, {"max_model_len": 1024})
        return Encoder(artifact, renderer, engine, "vllm")
    from transformers import Qwen2VLModel

    from teva_torch import Retriever, TorchEngine
    from teva_torch.pooling import last_pooling

    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, _dtype(device)))
    try:
        with device:
            backbone = Qwen2VLModel(config)
    finally:
        torch.set_default_dtype(torch.float32)
    pad = renderer.tokenizer.pad_token_id
    model = Retriever(backbone, last_pooling, normalize=True, pad_id=pad).to(device)
    return Encoder(artifact, renderer, TorchEngine(model), "torch")


def _pages(work: Path, count: int, side: int) -> list[Path]:
    """Pictures with marks of ink on white, like lines of text; no two are equal, or vLLM would compute one of them."""
    from PIL import Image

    rng, made = np.random.default_rng(0), []
    for number in range(count):
        page = np.full((side, side, 3), 255, np.uint8)
        for row in range(8, side - 8, 16):
            page[row : row + 8, 8 : side - 8] *= rng.integers(0, 2, (1, side - 16, 1), dtype=np.uint8)
        made.append(work / f"page-{number}.png")
        Image.fromarray(page).save(made[-1])
    return made


def _description(size: str, work: Path) -> Any:
    """An artifact without weights: what vLLM needs to make up its own."""
    from transformers import LlamaConfig

    shape = SHAPES[size]
    LlamaConfig(**shape, pad_token_id=0, architectures=["LlamaModel"], dtype="bfloat16").save_pretrained(work)
    (work / "tokenizer.json").write_text("{}")
    return _artifact(work, shape["hidden_size"], LIMIT)


def _artifact(work: Path, dim: int, limit: int) -> Any:
    from teva_data.artifact import Artifact
    from teva_data.layout import write_layout

    prompts = {"query": "", "document": ""}
    write_layout(
        work, pooling="last", normalize=True, dim=dim, max_length=limit, prompts=prompts, teva={}, card=""
    )  # fmt: skip
    return Artifact(work, str(work), None, "last", True, dim, limit, prompts)


def _dtype(device: torch.device) -> str:
    return "bfloat16" if device.type == "cuda" else "float32"


def main() -> None:
    """Each way in a process of its own; a way that cannot be had here is told and left out."""
    parser = argparse.ArgumentParser(description="Speed of encoding texts and pages on one GPU, torch and vLLM.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true", help="a tiny model; shows that all of it runs")
    parser.add_argument("--quick", action="store_true", help="fewer texts and pages")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seconds", type=float, default=1e9, help="no further way is begun after this time")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size, count = "tiny" if options.tiny else "8B", 200 if options.tiny else 1024 if options.quick else 8192
    count = count // 4 if (options.one or "").startswith("pages") else count
    options.output.mkdir(parents=True, exist_ok=True)
    if options.one:
        work = options.output / f"model-{options.one.replace(' ', '-')}"
        work.mkdir(exist_ok=True)
        print(json.dumps(measured(options.one, size, count, work)))
        return
    rows: list[dict[str, Any]] = []
    began = time.monotonic()
    for way in options.ways:
        if time.monotonic() - began > options.seconds:
            print(f"{way}: left out, the time is over", flush=True)
            continue
        words = [sys.executable, "-m", "benchmarks.gpu.encode", "--output", str(options.output), "--one", way]
        words += [name for name in ("--tiny", "--quick") if getattr(options, name[2:])]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(f"{way}: left out (status {done.returncode}; why stands above)", flush=True)
            continue
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
        _keep(rows, size, options.output)


def _keep(rows: list[dict[str, Any]], size: str, output: Path) -> None:
    """What is measured so far: a run may be cut short."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    found = {"device": device, "torch": torch.__version__, "model": size, "rows": rows}
    (output / "gpu_encode.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

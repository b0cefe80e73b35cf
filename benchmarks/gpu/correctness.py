"""What only a GPU can show to be right: its kernels, its random states, its memory, its kills.

    python -m benchmarks.gpu.correctness --output DIR [--tiny]

Each case has a reference of its own and says by how much it is off:

* ``packing``: gradients of texts without padding (torch's varlen attention, bfloat16), and of padded rows in bfloat16,
  against padded rows in float32. Packing must not be further off than padding is.
* ``caching``: gradient caching under dropout, float32, against the same passes with their graphs kept: the second pass
  must draw what the first drew, from the device's own generator.
* ``memory``: a batch far too large for the device is tried in smaller ones, and the vectors are those of small batches.
* ``resumed``: a run that is killed (SIGKILL) and started again ends with the weights of one that was not.
* ``jax``: vectors of teva-jax's engine on this device against torch's in float32 on the CPU.

Ends with status 1 where one is off. Writes ``gpu_correctness.json`` to DIR. ``--tiny`` runs what a CPU has of it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import torch
from benchmarks import gradients

from . import parser

# JAX would take most of the memory at its start, and torch is to have its part.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
WIDE = {
    "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512,
    "max_position_embeddings": 600, "vocab_size": 1000, "pad_token_id": 1,
}  # fmt: skip
DECODER = {**WIDE, "num_key_value_heads": 2, "head_dim": 64}
WINDOW = 32  # below most lengths
BACKBONES: dict[str, dict[str, Any]] = {
    "Bert": WIDE,
    "XLMRoberta": {**WIDE, "type_vocab_size": 1},
    "ModernBert": {**WIDE, "local_attention": WINDOW, "global_attn_every_n_layers": 2},
    "Llama": DECODER,
    "Mistral": {**DECODER, "sliding_window": WINDOW},
    "Qwen2": DECODER,
    "Qwen3": DECODER,
    "Gemma3Text": {**DECODER, "sliding_window": WINDOW, "query_pre_attn_scalar": 64},
}
Row = dict[str, Any]


def _texts(count: int, longest: int) -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(5, 900, length).tolist() for length in [1, longest, *rng.integers(2, longest, count - 2)]]


def _retriever(name: str, device: torch.device, pooling: str) -> Any:
    """A random model without dropout, its weights larger than usual, so that texts differ."""
    import transformers

    from teva_torch import pooling as poolings
    from teva_torch.model import Retriever

    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**BACKBONES[name])
    for key in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        if hasattr(config, key):
            setattr(config, key, 0.0)
    backbone = getattr(transformers, f"{name}Model")(config)
    pool = getattr(poolings, f"{pooling}_pooling")
    return Retriever(backbone, pool, normalize=True, pad_id=1).to(device).train()


def _gradient(model: Any, texts: list[list[int]], precision: torch.dtype) -> dict[str, torch.Tensor]:
    from teva_torch.caching import Encoding, Passes

    model.zero_grad()
    encoding = Encoding(model, texts, Passes(10**6, precision=precision), "document").forward()
    weights = torch.linspace(-1, 1, encoding.vectors.numel(), device=model.device).view_as(encoding.vectors)
    encoding.backward(weights)
    return gradients.gradients_of(model)


def packing(device: torch.device) -> list[Row]:
    """Gradients without padding, and with it, in bfloat16, against float32."""
    rows, texts = list[Row](), _texts(24, 200)
    for name in BACKBONES:
        for pooling in ("last", "mean"):
            model = _retriever(name, device, pooling)
            expected = _gradient(model, texts, torch.float32)
            padded, _ = gradients.relative_difference(_gradient(model, texts, torch.bfloat16), expected)
            row = {"case": f"packing, {name}, {pooling}", "padded in bfloat16": padded}
            if model.pack(torch.bfloat16, device):
                packed, _ = gradients.relative_difference(_gradient(model, texts, torch.bfloat16), expected)
                row |= {"packed in bfloat16": packed, "right": packed < max(1.5 * padded, 1e-3)}
            else:
                row |= {"not available": f"no varlen attention on {device.type}"}
            rows.append(row)
    return rows


def caching(device: torch.device, work: Path) -> list[Row]:
    """Under dropout of 0.1, with a LoRA adapter and without."""
    from teva_torch.caching import BatchGradient, Passes

    rows, batch = list[Row](), gradients.token_batch(gradients.make_data(work / "data"))
    for kind in gradients.MODELS:
        for adapter in gradients.ADAPTERS:
            found = []
            for cached in (False, True):
                model = gradients.make_model(kind, adapter, dropout=0.1)
                model.to(device)  # type: ignore[union-attr]
                step = BatchGradient(model, gradients.make_loss("masked"), Passes(24, cached, check="all"))
                torch.manual_seed(11)
                step.add(batch)
                found.append(gradients.gradients_of(step.module))
            off, _ = gradients.relative_difference(found[1], found[0])
            rows.append({"case": f"caching, {kind}, {adapter}", "off": off, "right": off < 1e-5})
    return rows


def _artifact(place: Path, model: Any) -> Any:
    """A model's directory and its description; token ids are made up, so there is no tokenizer."""
    from teva_data.artifact import Artifact
    from teva_data.layout import write_layout

    model.backbone.save_pretrained(place)
    (place / "tokenizer.json").write_text("{}")
    prompts = {"query": "", "document": ""}
    write_layout(place, pooling="last", normalize=True, dim=256, max_length=512, prompts=prompts, teva={}, card="")
    return Artifact(place, str(place), None, "last", True, 256, 512, prompts)


def memory(device: torch.device, work: Path) -> list[Row]:
    """Batches of half a million tokens where one gigabyte is allowed."""
    from teva_infer import Encoder
    from teva_torch import TorchEngine

    model = _retriever("Llama", device, "last")
    encoder = Encoder(_artifact(work / "memory", model), None, TorchEngine(model), "torch")  # type: ignore[arg-type]
    texts = _texts(4000 if device.type == "cuda" else 40, 400)
    expected = encoder.encode_tokens(texts, batch_tokens=16_384)
    if device.type != "cuda":
        return [{"case": "memory", "not available": "needs a GPU: a CPU's process would be ended"}]
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2**30 / torch.cuda.get_device_properties(device).total_memory)
    try:
        sizes = list[int]()
        found = encoder.encode_tokens(
            texts, batch_tokens=10**6, batch_rows=4000, on_batch=lambda rows, _: sizes.append(rows)
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    off = float(np.abs(found - expected).max())
    # The whole would have been a few batches.
    return [{"case": "memory", "batches": len(sizes), "off": off, "right": off < 1e-4 and len(sizes) > 4}]


_RUN = "import json, sys; from teva_torch.training import train; train(json.loads(sys.argv[1]))"


def resumed(device: torch.device, work: Path) -> list[Row]:
    """A run of 40 steps in bfloat16 with dropout and gradient caching, killed after step 10."""
    from safetensors.torch import load_file

    from .frameworks import TINY, make_data, make_model

    make_model(work / "model", TINY, device.type)
    make_data(work / "texts", 64, 32)
    varlen = device.type == "cuda"
    recipe: dict[str, Any] = {
        "model": {"name": str(work / "model"), "pooling": "last", "normalize": True,
                  "query_max_length": 8, "document_max_length": 32},
        "data": {"path": str(work / "texts"), "negatives": 1},
        "loss": {"temperature": 0.02},
        "train": {"steps": 40, "batch_size": 8, "learning_rate": 1e-3, "save_every": 5, "log_every": 1,
                  "precision": "bfloat16" if varlen else "float32"},
        "torch": {"device": device.type, "chunk_tokens": 128, "gradient_cache": True, "lora": {"dropout": 0.1}},
    }  # fmt: skip
    recipe["torch"] |= {"attention": "varlen"} if varlen else {}
    weights = []
    for name in ("whole", "killed"):
        recipe["train"]["output"] = str(work / name)
        words = [sys.executable, "-c", _RUN, json.dumps(recipe)]
        if name == "killed":
            with subprocess.Popen(words, stderr=subprocess.DEVNULL) as child:
                _wait(lambda: _steps(work / "killed/metrics.jsonl") >= 10 or child.poll() is not None)
                killed = child.poll() is None
                child.send_signal(signal.SIGKILL)
        subprocess.run(words, check=True)
        files = sorted((work / name / "artifact").glob("*.safetensors"))
        weights.append({key: value for file in files for key, value in load_file(file).items()})
    off = max(float((weights[0][key].double() - weights[1][key].double()).abs().max()) for key in weights[0])
    moved = json.loads((work / "whole/metrics.jsonl").read_text().splitlines()[-1])
    return [{
        "case": "resumed", "killed in the middle": killed, "off": off, "bit-equal": off == 0,
        "last loss": moved["loss"], "right": killed and off < 1e-3,
    }]  # fmt: skip


def _steps(metrics: Path) -> int:
    return metrics.read_text().count("\n") if metrics.exists() else 0


def _wait(over: Callable[[], bool], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not over() and time.monotonic() < until:
        time.sleep(0.005)


def by_jax(device: torch.device, work: Path) -> list[Row]:
    """Vectors by JAX in float32 and bfloat16, on the device, against torch in float32 on the CPU."""
    import jax
    from teva_jax.engine import JaxEngine
    from teva_torch import TorchEngine

    if (jax.default_backend() == "gpu") != (device.type == "cuda"):
        return [{"case": "jax", "not available": f"jax computes on {jax.default_backend()}"}]
    rows, texts = list[Row](), _texts(16, 200)
    for name in ("Bert", "Llama", "Mistral", "Qwen3", "Gemma3Text"):
        model = _retriever(name, torch.device("cpu"), "last")
        artifact = _artifact(work / name, model)
        expected = TorchEngine(model).encode(texts)
        row: Row = {"case": f"jax, {name}"}
        for dtype, least in (("float32", 0.9999), ("bfloat16", 0.99)):
            found = JaxEngine.load(artifact, dtype=dtype).encode(texts)
            row[f"smallest cosine, {dtype}"] = cosine = float((found * expected).sum(1).min())
            row["right"] = row.get("right", True) and cosine > least
        rows.append(row)
    return rows


def main() -> int:
    """All cases; each is written down when it is there."""
    options = parser(__doc__, "run on a CPU too, as far as that goes").parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.tiny:
        print("no GPU here: --tiny runs what a CPU has of it", file=sys.stderr)
        return 1
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("highest")
    rows = list[Row]()
    with tempfile.TemporaryDirectory(dir=options.output) as work:
        cases: tuple[Callable[[], list[Row]], ...] = (
            lambda: packing(device), lambda: caching(device, Path(work)), lambda: memory(device, Path(work)),
            lambda: resumed(device, Path(work)), lambda: by_jax(device, Path(work)),
        )  # fmt: skip
        for case in cases:
            try:
                rows += case()
            except Exception as error:  # noqa: BLE001 - told, and the other cases are to be seen
                rows.append({"case": "failed", "why": f"{type(error).__name__}: {error}"[-600:], "right": False})
            name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
            found = {"device": name, "torch": torch.__version__, "rows": rows}
            (options.output / "gpu_correctness.json").write_text(json.dumps(found, indent=2) + "\n")
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return 0 if all(row.get("right", True) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

"""teva-jax against teva-torch on one GPU: steps of one recipe that take turns in one process.

    python -m benchmarks.gpu.frameworks --output DIR [--tiny]

LoRA of rank 16 on random weights of Llama-3.2-1B's shape, bfloat16, gradient caching, made-up texts. Both read the same
directory, the same data and the same recipe (`benchmarks.jax_speed`). Writes ``gpu_frameworks.json`` to DIR. Needs a
JAX that sees the GPU (``pip install "teva-jax[cuda]"``); without one it says so.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from . import parser

# JAX would take most of the memory at its start, and torch is to have its part.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
LLAMA_1B = {
    "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 8192, "head_dim": 64, "max_position_embeddings": 8192,
}  # fmt: skip
TINY = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "head_dim": 8, "max_position_embeddings": 512,
}  # fmt: skip


def make_model(directory: Path, shape: dict[str, int], device: str) -> None:
    """Random weights with a tokenizer of numbers, made on the device that has the time."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    import torch

    vocabulary = {word: number for number, word in enumerate(["<unk>", "<pad>", "<eos>", *map(str, range(1000))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>", model_max_length=512,
    ).save_pretrained(directory)  # fmt: skip
    torch.manual_seed(0)
    config = LlamaConfig(**shape, vocab_size=len(vocabulary), pad_token_id=1, eos_token_id=2)
    with torch.device(device):
        LlamaModel(config).to(torch.bfloat16).save_pretrained(directory)


def make_data(directory: Path, documents: int, longest: int) -> None:
    """Texts of numbers; lengths have a long tail."""
    rng = random.Random(0)

    def text(limit: int) -> str:
        length = min(limit, max(4, int(rng.lognormvariate(0, 0.8) * limit / 4)))
        return " ".join(str(rng.randrange(1000)) for _ in range(length))

    directory.mkdir()
    rows: list[dict[str, Any]] = [{"docid": f"d{n}", "document_text": text(longest)} for n in range(documents)]
    (directory / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries = [
        {"query_id": f"q{n}", "query_text": text(longest // 4), "positive_document_ids": [f"d{n}"],
         "negative_document_ids": [f"d{(n + 1) % documents}"]} for n in range(documents)
    ]  # fmt: skip
    (directory / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))


def recipe_of(work: Path, tiny: bool, device: str) -> dict[str, Any]:
    """One recipe for both."""
    lora = {"rank": 4 if tiny else 16, "alpha": 32}
    tokens = 256 if tiny else 16_384
    return {
        "schema": "1",
        "model": {"name": str(work / "model"), "pooling": "last", "normalize": True,
                  "query_max_length": 8 if tiny else 64, "document_max_length": 32 if tiny else 256},
        "data": {"path": str(work / "data"), "negatives": 1},
        "loss": {"temperature": 0.02},
        "train": {"output": str(work / "run"), "steps": 100, "batch_size": 4 if tiny else 64, "learning_rate": 1e-4,
                  "precision": "float32" if tiny else "bfloat16"},
        "torch": {"device": device, "chunk_tokens": tokens, "gradient_cache": True, "lora": lora},
        "jax": {"chunk_tokens": tokens, "lora": lora},
    }  # fmt: skip


def measure(work: Path, tiny: bool, device: str) -> dict[str, Any]:
    """Seconds of a step of each."""
    make_model(work / "model", TINY if tiny else LLAMA_1B, device)
    make_data(work / "data", 64 if tiny else 1024, 32 if tiny else 256)
    from benchmarks import jax_speed

    recipe = recipe_of(work, tiny, device)
    found = jax_speed.main(recipe, 3 if tiny else 8, device, recipe["torch"]["chunk_tokens"])
    seconds = {name: statistics.median(found[name]) for name in ("torch", "jax")}
    return {
        "torch, s": seconds["torch"], "jax, s": seconds["jax"],
        "times torch's time": seconds["jax"] / seconds["torch"], "jax: first steps, s": found["first"],
        "tokens of a step": found["tokens"], "jax: padding": found["padding"],
    }  # fmt: skip


def main() -> int:
    """Measure and write."""
    options = parser(__doc__).parse_args()
    import jax
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    options.output.mkdir(parents=True, exist_ok=True)
    if (jax.default_backend() == "gpu") != (device == "cuda"):
        found: dict[str, Any] = {"not available": f"jax computes on {jax.default_backend()}, torch on {device}"}
    else:
        with tempfile.TemporaryDirectory(dir=options.output) as work:
            found = measure(Path(work), options.tiny, device)
    (options.output / "gpu_frameworks.json").write_text(json.dumps({"device": device, **found}, indent=2) + "\n")
    print("  ".join(f"{key} {value}" for key, value in found.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

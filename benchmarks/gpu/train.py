"""Training an 8B decoder with LoRA on one GPU: memory and speed of each way, beside sentence-transformers.

    python -m benchmarks.gpu.train --output DIR [--quick]     on a GPU
    python -m benchmarks.gpu.train --output DIR --tiny        all of it with a tiny model, on a CPU too

Random weights of Llama-3.1-8B's shape (bfloat16, frozen), LoRA of rank 16 on all linear layers of the blocks, gradient
checkpointing, made-up token ids whose lengths have a long tail. Each way trains the same batches in a process of its
own, so that peaks of memory are its own. Prints a table and writes ``gpu_train.json`` to DIR.
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

# Name to (attention, tokens of a pass, whether gradients are cached); None is all texts in one padded pass.
WAYS: dict[str, tuple[str, int | None, bool]] = {
    "padded": ("sdpa", None, False), "sdpa": ("sdpa", 16384, False), "varlen": ("varlen", 16384, False),
    "cached sdpa": ("sdpa", 16384, True), "cached varlen": ("varlen", 16384, True),
}  # fmt: skip
PEERS = ("peer", "peer cached")
# Those that the claim compares come first: a run may be cut short.
ORDER = ("varlen", "peer", "cached varlen", "peer cached", "sdpa", "padded", "cached sdpa")
SHAPES = {
    "8B": {"vocab_size": 128_256, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "intermediate_size": 14_336, "max_position_embeddings": 8192},
    "tiny": {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 512},
}  # fmt: skip
TEMPERATURE = 0.02


def texts(rng: np.random.Generator, count: int, limit: int, vocabulary: int) -> list[list[int]]:
    """Token ids of texts, half of them shorter than a quarter of the limit."""
    lengths = np.clip(rng.lognormal(np.log(limit / 4), 0.8, count), 4, limit).astype(int)
    return [rng.integers(3, vocabulary, length).tolist() for length in lengths]


def backbone(size: str, device: torch.device) -> Any:
    """A random Llama, made where it is trained; frozen weights in bfloat16 on a GPU."""
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    with device:
        torch.set_default_dtype(torch.bfloat16 if device.type == "cuda" else torch.float32)
        try:
            model = LlamaModel(LlamaConfig(**SHAPES[size], pad_token_id=0))
        finally:
            torch.set_default_dtype(torch.float32)
    return model


def adapted(model: Any) -> Any:
    from teva_torch.backbones import checkpoint_gradients
    from teva_torch.lora import add_lora
    from teva_torch.recipe import LoraSection

    checkpoint_gradients(model)
    model.enable_input_require_grads()
    return add_lora(model, LoraSection(rank=16, alpha=32))


def by_teva(way: str, size: str, batch: int, limit: int, steps: int, device: torch.device) -> dict[str, Any]:
    """Steps of teva's own parts, and the reason where the device cannot go this way."""
    from teva_torch.caching import Encoding, Passes
    from teva_torch.losses import Targets
    from teva_torch.losses.contrastive import InfoNCE
    from teva_torch.model import Retriever
    from teva_torch.pooling import last_pooling

    attention, tokens, cached = WAYS[way]
    model = Retriever(backbone(size, device), last_pooling, normalize=True, pad_id=0)
    if attention == "varlen" and not model.pack(torch.bfloat16):
        return {"not available": "this device has no varlen attention"}
    model.backbone = adapted(model.backbone)
    model.train()
    precision = torch.bfloat16 if device.type == "cuda" else torch.float32
    passes = Passes(tokens or 10**9, cached, precision=precision)
    if tokens is None:
        model.chunks = lambda lengths, budget, full=False: [np.arange(len(lengths))]  # type: ignore[method-assign]
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-4)
    loss, rng = InfoNCE(temperature=TEMPERATURE), np.random.default_rng(0)

    def step() -> float:
        ids = [texts(rng, count, limit, SHAPES[size]["vocab_size"]) for count in (batch, 2 * batch)]
        sides = [Encoding(model, each, passes, role).forward() for each, role in zip(ids, ROLES, strict=True)]
        leaves = [side.vectors.clone().requires_grad_() for side in sides]
        value = loss(*leaves, targets(Targets, batch, device))
        value.backward()
        for side, leaf in zip(sides, leaves, strict=True):
            side.backward(leaf.grad)
        optimizer.step()
        optimizer.zero_grad()
        return float(value.detach())

    return measured(step, batch, steps, device)


ROLES = ("query", "document")


def targets(kind: Any, batch: int, device: torch.device) -> Any:
    """Query i has document 2 i as its positive and 2 i + 1 as its negative."""
    groups = torch.arange(2 * batch, device=device).view(batch, 2)
    return kind(
        own=(0, batch), positives=groups[:, 0], groups=groups, scores=torch.zeros(batch, 2, device=device),
        excluded=torch.zeros((0, 2), dtype=torch.int64, device=device),
    )  # fmt: skip


def measured(step: Any, batch: int, steps: int, device: torch.device) -> dict[str, Any]:
    """Median queries a second after two steps of warm-up, the peak of memory, the losses."""
    seconds, losses = [], []
    for number in range(steps + 2):
        if number == 2 and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        before = time.perf_counter()
        losses.append(step())
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - before)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    return {"queries/s": batch / float(np.median(seconds[2:])), "peak GiB": peak, "losses": losses}


class TokenVectors(torch.nn.Module):
    """The backbone as sentence-transformers' first module: features with ``token_embeddings``."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        found = self.model(input_ids=features["input_ids"], attention_mask=features["attention_mask"], use_cache=False)
        return {**features, "token_embeddings": found.last_hidden_state}


def by_peer(way: str, size: str, batch: int, limit: int, steps: int, device: torch.device) -> dict[str, Any]:
    """The same batches by sentence-transformers' own modules and loss, padded on the right as its tokenizers do."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling
    from sentence_transformers.sentence_transformer import losses

    modules = [
        TokenVectors(adapted(backbone(size, device))),
        Pooling(SHAPES[size]["hidden_size"], pooling_mode="lasttoken"), Normalize(),
    ]  # fmt: skip
    encoder = SentenceTransformer(modules=modules, device=str(device)).train()
    scale = 1 / TEMPERATURE
    loss = (
        losses.CachedMultipleNegativesRankingLoss(encoder, scale=scale, mini_batch_size=min(32, batch))
        if way == "peer cached" else losses.MultipleNegativesRankingLoss(encoder, scale=scale)
    )  # fmt: skip
    optimizer = torch.optim.AdamW([one for one in encoder.parameters() if one.requires_grad], lr=1e-4)
    rng, half = np.random.default_rng(0), device.type == "cuda"

    def step() -> float:
        queries, documents = (texts(rng, count, limit, SHAPES[size]["vocab_size"]) for count in (batch, 2 * batch))
        columns = (queries, documents[0::2], documents[1::2])
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            value = loss([padded(column, device) for column in columns], None)
            value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(value.detach())

    return measured(step, batch, steps, device)


def padded(column: list[list[int]], device: torch.device) -> dict[str, torch.Tensor]:
    longest = max(map(len, column))
    ids, mask = (torch.zeros((len(column), longest), dtype=torch.int64) for _ in range(2))
    for row, tokens in enumerate(column):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def one(way: str, options: argparse.Namespace) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size, batch, limit, steps = ("tiny", 4, 24, 2) if options.tiny else ("8B", 32, 512, 2 if options.quick else 6)
    run = by_peer if way in PEERS else by_teva
    try:
        return run(way, size, batch, limit, steps, device)
    except torch.OutOfMemoryError:
        return {"not available": "out of memory"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="directory of gpu_train.json")
    parser.add_argument("--quick", action="store_true", help="two steps of each way in place of six")
    parser.add_argument("--tiny", action="store_true", help="a tiny model: to see that all of it runs")
    parser.add_argument("--seconds", type=float, default=1e9, help="no further way is begun after this time")
    parser.add_argument("--way", choices=ORDER, help="this one alone, as JSON on the last line")
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        print("no GPU here: this measures an 8B model on one. --tiny runs all of it with a tiny model", file=sys.stderr)
        return 1
    if options.way:
        print(json.dumps(one(options.way, options)))
        return 0
    found: dict[str, Any] = {}
    began = time.monotonic()
    for way in ORDER:
        if time.monotonic() - began > options.seconds:
            print(f"{way}: left out, the time is over", flush=True)
            continue
        flags = [f"--{name}" for name in ("quick", "tiny") if getattr(options, name)]
        line = [sys.executable, "-m", "benchmarks.gpu.train", "--output", str(options.output), "--way", way, *flags]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr[-3000:], file=sys.stderr)
            return 1
        found[way] = json.loads(done.stdout.splitlines()[-1])
        shown = {key: value for key, value in found[way].items() if key != "losses"}
        print(f"{way:<14} {shown}", flush=True)
        _keep(found, options)
    return 0


def _keep(found: dict[str, Any], options: argparse.Namespace) -> None:
    """What is measured so far: a run may be cut short."""
    options.output.mkdir(parents=True, exist_ok=True)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    record = {"device": name, "torch": torch.__version__, "tiny": options.tiny, "ways": found}
    (options.output / "gpu_train.json").write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    sys.exit(main())

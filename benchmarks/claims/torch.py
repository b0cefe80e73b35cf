"""Claims of teva-torch: one gradient by every way there is, in memory that does not grow with the batch."""

from __future__ import annotations

from typing import Any

from . import Context, Result, claim


@claim(
    "torch", name="gradients_equal",
    target="the whole gradient of one batch differs by at most 1e-5 (relative L2) from one process without caching: 1 "
    "and 2 processes x plain, cached, cached with unequal chunks x every way to train the backbone x every loss, on a "
    "BERT and a Llama, float32, without dropout",
    peer="autograd over texts encoded one by one, {torch}",
)  # fmt: skip
def gradients_equal(context: Context) -> Result:
    """Every case of benchmarks/gradients.py; the two processes are real ones that talk over gloo."""
    from benchmarks import gradients

    data = gradients.make_data(context.work / "data")
    two = gradients.by_processes(2, data, context.work / "two.safetensors")
    rows: list[dict[str, Any]] = []
    for case in gradients.cases():
        expected = gradients.plainly(case.alone, data)
        for processes, found in ((1, gradients.by_teva(case, data)), (2, two[case.name])):
            whole, each = gradients.relative_difference(found, expected)
            rows.append({"case": case.name, "processes": processes, "whole": whole, "worst tensor": each})
    worst = max(rows, key=lambda row: row["whole"])
    figures = {
        "gradients compared": len(rows), "largest relative L2": worst["whole"],
        "of": f"{worst['case']}, {worst['processes']} processes",
        "largest of a single tensor": max(row["worst tensor"] for row in rows),
    }  # fmt: skip
    notes = "a single tensor's norm is taken with a thousandth of the whole's: BERT's key biases have no gradient"
    return Result(figures, worst["whole"] <= 1e-5, notes, {"rows": rows})


BATCHES = (64, 256, 1024, 4096)


@claim(
    "torch", name="cached_memory_flat",
    target="with gradient caching, what autograd keeps of the encoder at most differs by at most 10 % between batches "
    "of 64, 256, 1,024 and 4,096 queries",
    peer="the same step without caching",
)  # fmt: skip
def cached_memory_flat(context: Context) -> Result:
    """Bytes of the tensors that autograd keeps, and where there is a GPU, of all that is allocated on it."""
    import torch
    from benchmarks import gradients

    sizes = BATCHES[:3] if context.quick else BATCHES
    data = gradients.make_data(context.work / "data", queries=sizes[-1] + 100, documents=2 * sizes[-1])
    rows = [_activations(data, size, cached) for cached in (True, False) for size in sizes]
    cached, plain = ([row["kept"] for row in rows if row["cached"] is kind] for kind in (True, False))
    figures: dict[str, Any] = {
        "tokens of a chunk": CHUNK_TOKENS,
        **{f"cached, batch {size:,}, MiB": kept / 2**20 for size, kept in zip(sizes, cached, strict=True)},
        "cached, most over least": max(cached) / min(cached),
        **{f"plain, batch {size:,}, MiB": kept / 2**20 for size, kept in zip(sizes, plain, strict=True)},
    }
    passed = max(cached) <= 1.1 * min(cached)
    if torch.cuda.is_available():
        beside = [row["allocated"] for row in rows if row["cached"]]
        figures["on the GPU: all but the vectors, most over least"] = max(beside) / min(beside)
        passed = passed and max(beside) <= 1.1 * min(beside)
    return Result(figures, passed, "one BERT of 2 layers; texts of 2 to 12 tokens", {"rows": rows})


CHUNK_TOKENS = 512


def _activations(data: Any, batch_size: int, cached: bool) -> dict[str, Any]:
    import torch
    from benchmarks import gradients
    from benchmarks.activations import kept_of
    from teva_torch.caching import BatchGradient, Passes

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = gradients.make_model("bert").to(device)
    item = gradients.token_batch(data, batch_size=batch_size, negatives=1)
    step = BatchGradient(model, gradients.make_loss("infonce"), Passes(CHUNK_TOKENS, cached, full=cached))
    row: dict[str, Any] = {
        "batch": batch_size, "documents": item.batch.document_count, "tokens": item.tokens, "cached": cached
    }  # fmt: skip
    with kept_of(model) as kept:
        step.add(item)
    row["kept"] = kept.most
    if device.type == "cuda":
        # The encoder alone: the memory of the loss is another claim's.
        model.zero_grad()
        encodings = step.encode(item)
        gradient = [torch.randn_like(encoding.vectors) for encoding in encodings]
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for encoding, one in zip(encodings, gradient, strict=True):
            encoding.backward(one)
        row["allocated"] = torch.cuda.max_memory_allocated() - before
    return row

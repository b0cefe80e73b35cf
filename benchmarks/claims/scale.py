"""Claims of teva-torch at scale: models held in parts, with the gradient, the losses and the vectors of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import Context, Result, claim

ROOT = Path(__file__).parents[2]
SHARDED = ("fsdp2", "zero1", "zero2", "zero3", "zero3-offload")


@claim(
    "scale", name="sharded_gradients",
    target="under fsdp2, ZeRO-1, 2, 3 and ZeRO-3 with offload, 2 processes each, the whole gradient differs by at most "
    "1e-5 (relative L2) from one process without caching, plain and cached, full and LoRA, on a BERT and a Llama; the "
    "loss too",
    peer="autograd over texts encoded one by one, {torch}; {deepspeed}",
)  # fmt: skip
def sharded_gradients(context: Context) -> Result:
    """Cases of benchmarks/gradients.py; the processes are real ones that talk over gloo."""
    from benchmarks import gradients

    data = gradients.make_data(context.work / "data")
    rows: list[dict[str, Any]] = []
    for strategy in SHARDED:
        found = gradients.by_processes(2, data, context.work / f"{strategy}.safetensors", strategy)
        for case in gradients.sharded_cases():
            mine, expected = found[case.name], gradients.plain_loss(case.alone, data)
            loss = abs(float(mine.pop("loss")) - expected) / abs(expected)
            whole, each = gradients.relative_difference(mine, gradients.plainly(case.alone, data))
            rows.append({"strategy": strategy, "case": case.name, "whole": whole, "worst tensor": each, "loss": loss})
    worst = max(rows, key=lambda row: row["whole"])
    figures = {
        "gradients compared": len(rows), "largest relative L2": worst["whole"],
        "of": f"{worst['strategy']}, {worst['case']}", "largest relative difference of a loss":
        max(row["loss"] for row in rows),
    }  # fmt: skip
    passed = worst["whole"] <= 1e-5 and figures["largest relative difference of a loss"] <= 1e-5
    return Result(figures, passed, details={"rows": rows})


@claim(
    "scale", name="sharded_memory",
    target="a process of two holds what its share predicts within 15 %: under fsdp2 half of the 12 bytes a parameter "
    "of ddp; under ZeRO-3 half of 20 (it keeps a master beside each float32 weight, and gradients) and a bucket",
    peer="ddp, {torch}; {deepspeed}",
)  # fmt: skip
def sharded_memory(context: Context) -> Result:
    """Bytes of all tensors alive in a process (benchmarks/sharded_memory.py), between steps."""
    found = {name: _memory(name, context.work) for name in ("ddp", "fsdp2", "zero3")}
    count = found["ddp"]["parameters"]
    from teva_torch.planning.layout import Sizes, layout
    from teva_torch.strategies.zero import settings_of

    # Between steps: what `teva-torch plan` takes for weights, masters and moments; ZeRO-3's gradients stand.
    size = Sizes(count, count, 4 * count, 0, count, 0, 0, count)
    zero = settings_of("zero3")["zero_optimization"]
    held = {name: layout(name, size, 2, half=False, optimizer="adamw", zero=zero) for name in found}
    predicted = {
        name: one.weights + one.masters + one.optimizer + (one.gradients if one.standing else 0)
        for name, one in held.items()
    }
    figures: dict[str, Any] = {"parameters": count}
    worst = 0.0
    for name, each in predicted.items():
        figures[f"{name}: measured, MiB"] = round(found[name]["between steps"] / 2**20, 1)
        figures[f"{name}: predicted, MiB"] = round(each / 2**20, 1)
        figures[f"{name}: with gradients, measured, MiB"] = round(found[name]["with gradients"] / 2**20, 1)
        worst = max(worst, abs(found[name]["between steps"] / each - 1))
    figures["largest deviation"] = round(worst, 4)
    return Result(figures, worst <= 0.15, details=found)


def _memory(name: str, work: Path) -> dict[str, int]:
    out = work / name / "out.json"
    out.parent.mkdir()
    line = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "benchmarks.sharded_memory", name, str(out),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(line)}\n{done.stdout}\n{done.stderr}")
    found: dict[str, int] = json.loads(out.read_text())
    return found

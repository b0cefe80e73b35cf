"""Claims of teva-torch's speed, beside sentence-transformers' trainer and beside its own loop with padding."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import Context, Result, claim

ROOT = Path(__file__).parents[2]
PEERS = (
    ("peer", "precision=bfloat16", "workers=0"),
    ("peer", "precision=bfloat16", "workers=1"),
    ("peer", "precision=float32", "workers=0"),
)
KINDS = {
    "long tail": (True, False),
    "long tail, documents repeated": (True, True),
    "narrow": (False, False),
    "narrow, documents repeated": (False, True),
}


@claim(
    "torch",
    name="training_speed",
    target="queries a second of training MiniLM: at least 1.2 times sentence-transformers' trainer at its fastest "
    "settings, on long-tailed and on narrow lengths, with and without repeated documents; on the long tail at least "
    "1.5 times our own loop with padding; the same losses where no document repeats",
    peer="sentence-transformers {sentence-transformers}, MultipleNegativesRankingLoss, same batches in the same order",
    slow=True,
)
def training_speed(context: Context) -> Result:
    from benchmarks.training_speed import BATCH, make_data, without_dropout

    from .real_run import minilm

    model = without_dropout(minilm(), context.work / "model")
    steps, rows, figures = 9, [], dict[str, Any]()
    ratios: dict[str, float] = {}
    fastest: tuple[str, ...] | None = None
    for name, (tail, repeated) in KINDS.items():
        data = make_data(context.work / name.replace(" ", "-"), tail, repeated)
        found = {words: _run(words, data, model, steps, context.work) for words in (("teva",), ("padded",))}
        for words in PEERS if fastest is None else (fastest,):
            found[words] = _run(words, data, model, steps, context.work)
        # The first two steps allocate memory and warm caches; of the others the median, as the machine has other work.
        rates = {words: BATCH / statistics.median(one["seconds"][2:]) for words, one in found.items()}
        fastest = fastest or max(PEERS, key=lambda words: rates[words])
        ratios[name] = rates["teva",] / rates[fastest]
        ratios[f"{name}, to our padded loop"] = rates["teva",] / rates["padded",]
        figures |= {f"{name}: {' '.join(words)}, queries/s": round(rate, 2) for words, rate in rates.items()}
        if not repeated:
            pairs = zip(found["teva",]["loss"], found[fastest]["loss"], strict=True)
            figures[f"{name}: largest difference of losses"] = round(max(abs(a - b) for a, b in pairs), 4)
        rows.append({"kind": name, **{" ".join(words): one for words, one in found.items()}})
    assert fastest is not None
    figures |= {f"ratio, {name}": round(ratio, 2) for name, ratio in ratios.items()}
    losses = [value for name, value in figures.items() if name.endswith("difference of losses")]
    passed = all(ratios[name] >= 1.2 for name in KINDS) and ratios["long tail, to our padded loop"] >= 1.5
    return Result(
        {"fastest settings of the peer": " ".join(fastest[1:]), **figures},
        passed=passed and max(losses) < 0.05,
        notes=f"batches of {BATCH} queries with a positive and a negative each, bfloat16 autocast on our side",
        details={"runs": rows},
    )


def _run(words: tuple[str, ...], data: Path, model: Path, steps: int, work: Path) -> dict[str, list[float]]:
    output = work / f"{data.name}-{'-'.join(words)}"
    line = [sys.executable, "-m", "benchmarks.training_speed", words[0], str(data), str(model), str(steps)]
    done = subprocess.run([*line, f"work={output}", *words[1:]], capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr[-2000:]}")
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


@claim(
    "torch", name="gpu_training",
    target="8B Llama config, LoRA, one GPU: queries a second without padding (varlen) at least those of "
    "sentence-transformers at the same setting, in no more memory; cached likewise",
    peer="sentence-transformers {sentence-transformers}, MultipleNegativesRankingLoss and its cached form",
    needs=("gpu",), slow=True,
)  # fmt: skip
def gpu_training(context: Context) -> Result:
    """benchmarks/gpu/train.py."""
    line = [sys.executable, "-m", "benchmarks.gpu.train", "--output", str(context.work)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    ways = json.loads((context.work / "gpu_train.json").read_text())["ways"]
    figures = {f"{way}: {key}": one[key] for way, one in ways.items() for key in one if key != "losses"}
    pairs = (("varlen", "peer"), ("cached varlen", "peer cached"))
    passed = all(
        ways[ours].get("queries/s", 0) >= ways[theirs].get("queries/s", 0)
        and ways[ours].get("peak GiB", 1e9) <= ways[theirs].get("peak GiB", 1e9)
        for ours, theirs in pairs
    )
    return Result(figures, passed, details={"ways": ways})

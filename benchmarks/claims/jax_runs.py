"""Claims of whole runs of teva-jax: the curve of teva-torch, stopped and gone on with, and how fast."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import bm25
from benchmarks.jax_measure import environment

from . import Context, Result, claim
from .jax_training import tiny, write
from .real_run import ROOT, command, minilm, shrink

PICTURES = ROOT / "benchmarks" / "results"
STEPS = 50
DOCUMENTS = 1000


def without_dropout(model: Path, to: Path) -> Path:
    """A copy of a model whose configuration has no dropout."""
    shutil.copytree(model, to)
    config = json.loads((to / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (to / "config.json").write_text(json.dumps(config))
    return to


def mined(context: Context, quick: bool) -> Path:
    """medquad with two negatives for each training query, mined from a BM25 run."""
    data = context.work / "medquad"
    command("teva-data", "convert", context.data / "medquad", data)
    if quick:
        shrink(data)
    run = bm25.search(data, "train", context.work / "train.run.tsv")
    line = ("teva-data", "negatives", data, "--split", "train", "--run", run)
    command(*line, "--output", data / "train-mined.jsonl", "--depth", "50")
    return data


def trained(trainer: str, recipe: Path, output: Path, *words: str) -> list[float]:
    """The losses of a run of one trainer."""
    env = environment(1) if trainer == "teva-jax" else dict(os.environ)
    line = [trainer, "train", str(recipe), "--train.output", str(output), *words]
    print(f"$ {' '.join(line)}", flush=True)
    subprocess.run(line, env=env, check=True, stdout=subprocess.DEVNULL)
    return [row["loss"] for row in _rows(output)]


def vectors(engine: str, artifact: Path, texts: Sequence[str]) -> NDArray[np.float64]:
    """float64 [N, H] of documents, by an engine, in a process of its own."""
    code = (
        "import sys, json, numpy as np\nfrom teva_infer import Encoder\n"
        "e = Encoder.load(sys.argv[1], engine=sys.argv[2])\n"
        "np.save(sys.argv[4], e.encode_documents(json.load(open(sys.argv[3]))))"
    )
    given, found = artifact.parent / "texts.json", artifact.parent / f"{engine}.npy"
    given.write_text(json.dumps(list(texts)))
    line = [sys.executable, "-c", code, str(artifact), engine, str(given), str(found)]
    subprocess.run(line, env=environment(1), check=True)
    return np.asarray(np.load(found), np.float64)


def least_cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Of rows."""
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / norms).min())


def draw(curves: dict[str, tuple[list[float], list[float]]], picture: Path) -> None:
    """Both losses of each case over the steps, and their difference beneath."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(curves), 5.5), layout="constrained")
    panels = figure.subplots(2, len(curves), sharex=True, squeeze=False)
    for column, (name, (torch, jax)) in enumerate(curves.items()):
        steps, upper, lower = range(1, len(torch) + 1), panels[0, column], panels[1, column]
        upper.plot(steps, torch, linewidth=3, color="tab:orange", label="teva-torch")
        upper.plot(steps, jax, linewidth=1, color="tab:blue", label="teva-jax")
        upper.set(title=name, ylabel="loss of the step")
        upper.legend()
        off = [abs(a - b) / max(abs(a), 0.1) for a, b in zip(torch, jax, strict=True)]
        lower.semilogy(steps, np.maximum(off, 1e-9), color="tab:green")
        lower.axhline(1e-3, color="tab:red", linewidth=0.8, linestyle="--")
        lower.set(xlabel="step", ylabel="difference / max(loss, 0.1)")
        for panel in (upper, lower):
            panel.grid(alpha=0.3)
    figure.savefig(picture, dpi=110)


def tiny_llama(work: Path, data: Path, steps: int) -> tuple[Path, list[str]]:
    """A recipe of LoRA on a random Llama of 2 layers, and the words that start teva-jax from torch's first adapter."""
    code = (
        "import sys, torch\nfrom pathlib import Path\nfrom tests.torch.backbones import make\n"
        "from teva_data.artifact import Artifact\nfrom teva_torch.recipe import read_recipe\n"
        "from teva_torch.model import Retriever\n"
        "recipe = read_recipe(sys.argv[1])\n"
        "torch.manual_seed(recipe.train.seed)\n"
        "model = Retriever.for_training(Artifact.load(recipe.model.name), recipe, torch.device('cpu'))\n"
        "model.backbone.save_pretrained(sys.argv[2])\n"
    )
    from tests.torch.backbones import make

    model = make(work / "llama", "Llama")
    lora = {"rank": 4, "alpha": 8}
    recipe = write(work / "llama.yaml", {
        "model": {
            "name": str(model), "pooling": "last", "normalize": True, "append_eos": False, "query_max_length": 12,
            "document_max_length": 24,
        },
        "data": {"path": str(data), "negatives": 2},
        "loss": {"temperature": 0.05},
        "train": {
            "output": "given", "steps": steps, "batch_size": 16, "learning_rate": 2e-3, "log_every": 1,
            "save_every": steps,
        },
        "torch": {"device": "cpu", "lora": lora},
        "jax": {"lora": lora},
    })  # fmt: skip
    subprocess.run([sys.executable, "-c", code, str(recipe), str(work / "first")], cwd=ROOT, check=True)
    return recipe, ["--jax.lora.adapter", str(work / "first")]


@claim(
    "jax", name="jax_same_curve",
    target="one recipe, two frameworks: every step's loss within 1e-3 x max(loss, 0.1), and the final embeddings of "
    "1,000 documents with a cosine of at least 0.9999; MiniLM on medquad with mined negatives, and LoRA on a tiny "
    "Llama; float32, no dropout, 50 steps",
    peer="teva-torch {teva-torch} on torch {torch}", needs=("data",), slow=True,
)  # fmt: skip
def jax_same_curve(context: Context) -> Result:
    """Both commands on the same file; each artifact's documents are encoded by its own framework's engine."""
    from tests.conftest import make_tiny_data

    from teva_data.dataset import Dataset

    work, steps = context.work, 8 if context.quick else STEPS
    data = mined(context, context.quick)
    model = without_dropout(minilm(), work / "minilm")
    recipe = write(work / "minilm.yaml", {
        "model": {"name": str(model), "query_max_length": 24, "document_max_length": 64},
        "data": {"path": str(data), "split": "train-mined", "negatives": 1},
        "loss": {"temperature": 0.02},
        "train": {
            "output": "given", "steps": steps, "batch_size": 16, "learning_rate": 5e-5, "log_every": 1,
            "save_every": steps,
        },
        "torch": {"device": "cpu"},
    })  # fmt: skip
    small = work / "small"
    small.mkdir()
    make_tiny_data(small)
    llama, first = tiny_llama(work, small, steps)
    figures: dict[str, Any] = {"steps": steps}
    curves, good = dict[str, tuple[list[float], list[float]]](), True
    cases = {"MiniLM, medquad": (recipe, [], data), "LoRA on a tiny Llama": (llama, first, small)}
    for number, (name, (file, words, collection)) in enumerate(cases.items()):
        outputs = {engine: work / f"{number}-{engine}" for engine in ("torch", "jax")}
        torch = trained("teva-torch", file, outputs["torch"])
        jax = trained("teva-jax", file, outputs["jax"], *words)
        curves[name] = (torch, jax)
        corpus = Dataset.open(collection).corpus
        texts = [each.document_text for each in corpus.documents(0, min(DOCUMENTS, len(corpus)))]
        both = [vectors(engine, output / "artifact", texts) for engine, output in outputs.items()]
        off = max(abs(a - b) / max(abs(a), 0.1) for a, b in zip(torch, jax, strict=True))
        cosine = least_cosine(*both)
        moved = least_cosine(both[0], vectors("torch", _start(model, work), texts)) if number == 0 else None
        figures |= {
            f"{name}: loss at first and last": f"{torch[0]:.4f}, {torch[-1]:.4f}",
            f"{name}: largest difference / max(loss, 0.1)": off, f"{name}: documents": len(texts),
            f"{name}: least cosine": cosine, **({} if moved is None else {f"{name}: least cosine to before": moved}),
        }  # fmt: skip
        good = good and off <= 1e-3 and cosine >= 0.9999 and len(torch) == len(jax) == steps
    picture = (work if context.quick else PICTURES) / "jax_same_curve.png"
    draw(curves, picture)
    return Result(figures, good, f"picture: {picture.name}", {name: list(pair) for name, pair in curves.items()})


def _start(model: Path, work: Path) -> Path:
    """A copy of the model beside which files may be written."""
    to = work / "before" / "artifact"
    if not to.exists():
        shutil.copytree(model, to)
    return to


@claim(
    "jax", name="jax_resume",
    target="kill -9 and resume: weights bit-equal to those of a run that was not stopped on the same mesh of 8; on "
    "another mesh every loss within 1e-5 and the final embeddings with a cosine of at least 0.99999",
)  # fmt: skip
def jax_resume(context: Context) -> Result:
    """``teva-jax train`` is killed after a checkpoint, on 8 CPU devices, and started again; without dropout."""
    from safetensors.numpy import load_file

    recipe = tiny(context.work / "tiny", log_every=1, save_every=2, keep_checkpoints=2)
    mesh = ("--jax.fsdp", "4", "--jax.data", "2")
    whole = _run(recipe, context.work / "whole", mesh)
    same = _killed(recipe, context.work / "same", mesh, mesh)
    other = _killed(recipe, context.work / "other", mesh, ("--jax.data", "2", "--jax.fsdp", "2", "--jax.tensor", "2"))
    weights = [load_file(run / "artifact" / "model.safetensors") for run in (whole, same["run"])]
    equal = sum(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    losses = [[row["loss"] for row in _rows(run)] for run in (whole, other["run"])]
    off = max(abs(a - b) / max(abs(a), 1e-9) for a, b in zip(*losses, strict=True))
    texts = [json.loads(line) for line in (context.work / "tiny/data/corpus.jsonl").read_text().splitlines()]
    texts = [each.get("document_text") or each["text"] for each in texts]
    cosine = least_cosine(*(vectors("jax", run / "artifact", texts) for run in (whole, other["run"])))
    figures = {
        "killed after step": same["step"], "tensors bit-equal": f"{equal} of {len(weights[0])}",
        "other mesh: killed after step": other["step"], "other mesh: largest difference of a loss": off,
        "other mesh: least cosine": cosine, "documents": len(texts),
    }  # fmt: skip
    return Result(figures, equal == len(weights[0]) and off <= 1e-5 and cosine >= 0.99999)


def _run(recipe: Path, output: Path, mesh: Sequence[str]) -> Path:
    line = ["teva-jax", "train", str(recipe), "--train.output", str(output), *mesh]
    subprocess.run(line, env=environment(8), check=True, stdout=subprocess.DEVNULL)
    return output


def _killed(recipe: Path, output: Path, mesh: Sequence[str], then: Sequence[str]) -> dict[str, Any]:
    """A run that kill -9 ended while it trained, gone on with on a mesh: where, and after which step."""
    line = ["teva-jax", "train", str(recipe), "--train.output", str(output), *mesh]
    started = subprocess.Popen(line, env=environment(8), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while started.poll() is None:
        rows = _rows(output)
        if rows and rows[-1]["step"] >= 5 and list((output / "checkpoints").glob("step_????????")):
            break
        time.sleep(0.02)
    if started.poll() is not None:
        raise RuntimeError("the run ended before it was killed")
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    step = _rows(output)[-1]["step"]
    if (output / "artifact").exists():
        raise RuntimeError("the run was over before it was killed")
    return {"run": _run(recipe, output, then), "step": step}


def _rows(output: Path) -> list[dict[str, Any]]:
    from teva_data.metrics import read_metrics

    return read_metrics(output / "metrics.jsonl")


@claim(
    "jax", name="jax_speed",
    target="a step of teva-jax takes at most as long as one of teva-torch on the same CPU, batch and chunks, MiniLM in "
    "float32, the median of steps that take turns",
    peer="teva-torch {teva-torch} on torch {torch}", needs=("data",), slow=True,
)  # fmt: skip
def jax_speed(context: Context) -> Result:
    """One process for both; the first step of each, which compiles, is not counted."""
    rounds = 2 if context.quick else 8
    data = context.work / "medquad"
    command("teva-data", "convert", context.data / "medquad", data)
    recipe = write(context.work / "speed.yaml", {
        "model": {"name": str(minilm()), "query_max_length": 24, "document_max_length": 64},
        "data": {"path": str(data), "negatives": 0},
        "train": {"output": str(context.work / "run"), "steps": 100, "batch_size": 32},
        "torch": {"device": "cpu"},
    })  # fmt: skip
    line = [sys.executable, "-m", "benchmarks.jax_speed", str(recipe), str(rounds)]
    env = {key: value for key, value in environment(1).items() if not key.startswith(("JAX_COMP", "JAX_PERS"))}
    done = subprocess.run(line, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    torch, jax = (statistics.median(found[name]) for name in ("torch", "jax"))
    figures = {
        "steps of each": rounds, "teva-torch, s a step": torch, "teva-jax, s a step": jax,
        "teva-jax over teva-torch": jax / torch, "teva-jax, tokens/s": found["tokens"] / jax,
        "teva-torch, tokens/s": found["tokens"] / torch, "padded over real tokens in teva-jax": found["padding"],
        "teva-jax, first step (compiles), s": found["first"], "programs compiled": found["programs"],
        "teva-jax, GFLOP/s": found["flops"] / jax / 1e9, "a product of matrices, GFLOP/s": found["product"],
    }  # fmt: skip
    return Result(figures, jax <= torch, "6 FLOPs for each padded token and weight of the layers", found)

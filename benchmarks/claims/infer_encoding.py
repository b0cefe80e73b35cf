"""Claims of teva-infer's encoding: beside sentence-transformers, in speed and in memory."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import Context, Result, claim
from .real_run import ROOT, command, minilm


def _peer() -> str:
    import sentence_transformers

    return f"encode of sentence-transformers {sentence_transformers.__version__}, its own batches of 32, on {{torch}}"


@claim(
    "infer", name="encoding_speed", needs=("data",), peer=_peer,
    target="documents a second of teva-infer's encode (read from the store, written as shards) over those of "
    "sentence-transformers (texts and vectors in memory), MiniLM, float32, CPU, the same process, in turn: at least "
    "1.0 on documents of SQuAD and 1.2 on a long-tailed corpus; vectors equal to 1e-5",
)  # fmt: skip
def encoding_speed(context: Context) -> Result:
    """Medians of the ratios of the rounds, since the machine may be busy with other things."""
    from sentence_transformers import SentenceTransformer

    import torch
    from teva_infer import Encoder

    command("teva-data", "convert", context.data / "squad", context.work / "squad")
    squad = _texts(context.work / "squad")
    rng = random.Random(context.seed)
    count = 60 if context.quick else 300
    corpora = {"SQuAD": rng.sample(squad, count), "long-tailed": _long_tailed(squad, 3 * count, rng)}
    ours, peer = Encoder.load(minilm(), device="cpu"), SentenceTransformer(str(minilm()), device="cpu")
    figures: dict[str, Any] = {"torch threads": torch.get_num_threads()}
    passed, details = True, {}
    for name, texts in corpora.items():
        lengths = [len(row) for row in ours.renderer.tokenize(texts)]
        found = _rounds(ours, peer, texts, context.work / name, 1 if context.quick else 3)
        target = 1.0 if name == "SQuAD" else 1.2
        ratio = statistics.median(found["ratios"])
        figures |= {
            f"{name}: documents": len(texts), f"{name}: tokens, mean and largest": f"{np.mean(lengths):.0f}, "
            f"{max(lengths)}", f"{name}: ours, documents/s": round(len(texts) / statistics.median(found["ours"]), 1),
            f"{name}: theirs, documents/s": round(len(texts) / statistics.median(found["theirs"]), 1),
            f"{name}: ratio": round(ratio, 3), f"{name}: ratio of processor time": round(
                statistics.median(found["processor"]), 3),
            f"{name}: largest difference": found["difference"],
        }  # fmt: skip
        figures |= _openvino(name, texts, ours, context)
        details[name] = found
        passed &= ratio >= target and found["difference"] <= 1e-5
    return Result(figures, passed, "OpenVINO: an extra row, from TEVA_OPENVINO_PYTHON's environment", details)


def _openvino(name: str, texts: Sequence[str], ours: Any, context: Context) -> dict[str, Any]:
    """The peer's OpenVINO backend, where an environment has it; beside it stands how far its vectors are from ours."""
    python = os.environ.get("TEVA_OPENVINO_PYTHON")
    if python is None:
        return {f"{name}: OpenVINO": "not measured: no TEVA_OPENVINO_PYTHON"}
    listed = context.work / f"{name}.json"
    listed.write_text(json.dumps(list(texts)))
    rounds = "1" if context.quick else "3"
    words = [python, "-m", "benchmarks.openvino_encoding", str(minilm()), str(listed), rounds]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"OpenVINO: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    vectors = ours.encode_documents(list(texts[:50]))
    return {
        f"{name}: OpenVINO, documents/s": round(len(texts) / statistics.median(found["seconds"]), 1),
        f"{name}: OpenVINO, largest difference of 50": float(np.abs(vectors - np.array(found["vectors"][:50])).max()),
        "OpenVINO": found["versions"],
    }


def _rounds(ours: Any, peer: Any, texts: Sequence[str], work: Path, rounds: int) -> dict[str, Any]:
    from teva_infer import encode

    work.mkdir()
    (work / "corpus.jsonl").write_text(
        "".join(json.dumps({"docid": f"d{row}", "text": text}) + "\n" for row, text in enumerate(texts))
    )
    found: dict[str, Any] = {"ours": [], "theirs": [], "ratios": [], "processor": []}
    for number in range(rounds + 1):
        start, used = time.perf_counter(), time.process_time()
        embeddings = encode(ours, work, work / f"emb{number}")
        mine, mine_used = time.perf_counter() - start, time.process_time() - used
        start, used = time.perf_counter(), time.process_time()
        vectors = peer.encode(texts, batch_size=32, show_progress_bar=False)
        theirs, theirs_used = time.perf_counter() - start, time.process_time() - used
        if number:  # the first round warms up: the store is built in it
            found["ours"].append(mine)
            found["theirs"].append(theirs)
            found["ratios"].append(theirs / mine)
            found["processor"].append(theirs_used / mine_used)
    found["difference"] = float(np.abs(embeddings.matrix() - vectors).max())
    return found


def _texts(data: Path) -> list[str]:
    from teva_data.dataset import Dataset
    from teva_data.records import join_title

    corpus = Dataset.open(data).corpus
    return [join_title(each.title, each.document_text) for each in corpus.documents(0, len(corpus))]


def _long_tailed(texts: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """Log-normal numbers of words, median 12, up to thousands: most are titles, a few are whole pages."""
    words = [word for text in rng.sample(texts, 200) for word in text.split()]
    found = []
    for _ in range(count):
        size = min(8000, max(1, int(rng.lognormvariate(2.5, 1.4))))
        start = rng.randrange(len(words))
        found.append(" ".join((words[start:] + words * (1 + size // len(words)))[:size]))
    return found


@claim(
    "infer", name="encoding_memory",
    target="the peak memory of encoding grows by at most 10 % while the corpus grows from 10,000 to 100,000 documents",
    peer=_peer,
)  # fmt: skip
def encoding_memory(context: Context) -> Result:
    """Peak resident memory of a process for each side and size; a model of one layer, short documents."""
    model = context.work / "model"
    _small_model(model)
    sizes = (2_000, 20_000) if context.quick else (10_000, 100_000)
    peaks: dict[str, list[float]] = {}
    for side in ("ours", "theirs"):
        for size in sizes:
            data = context.work / f"data{size}"
            if not data.exists():
                data.mkdir()
                with (data / "corpus.jsonl").open("w") as file:
                    for row in range(size):
                        print(json.dumps({"docid": f"d{row}", "text": f"document number {row}"}), file=file)
            words = [sys.executable, "-m", "benchmarks.claims.infer_encoding", side, str(model), str(data),
                     str(context.work / f"emb{size}")]  # fmt: skip
            done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
            peaks.setdefault(side, []).append(float(done.stdout.split()[-1]) / 1024)
    growth = {side: large / small - 1 for side, (small, large) in peaks.items()}
    figures = {
        f"{side}, {size:,} documents, MiB": round(value, 1)
        for side, values in peaks.items() for size, value in zip(sizes, values, strict=True)
    } | {f"{side}: growth": round(value, 3) for side, value in growth.items()}  # fmt: skip
    return Result(figures, growth["ours"] <= 0.1)


def _small_model(directory: Path) -> None:
    """One layer of MiniLM's width with its tokenizer, at random."""
    from transformers import BertConfig, BertModel

    shutil.copytree(minilm(), directory, ignore=shutil.ignore_patterns("*.safetensors", "*.bin", "*.onnx"))
    config = BertConfig(
        hidden_size=384, num_hidden_layers=1, num_attention_heads=6, intermediate_size=384, vocab_size=30522
    )
    BertModel(config).save_pretrained(directory)


def _encode(side: str, model: str, data: str, output: str) -> None:
    """In a process of its own: encode, and print the peak of its memory in KiB."""
    if side == "ours":
        from teva_infer import encode

        encode(model, data, output, device="cpu")
    else:
        from sentence_transformers import SentenceTransformer

        texts = [json.loads(line)["text"] for line in (Path(data) / "corpus.jsonl").open()]
        vectors = SentenceTransformer(model, device="cpu").encode(texts, show_progress_bar=False)
        np.save(Path(output).with_suffix(".npy"), vectors)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    _encode(*sys.argv[1:])

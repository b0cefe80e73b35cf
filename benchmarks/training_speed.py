"""Trains MiniLM for some steps by one system, and prints as JSON what each step took and its loss.

    python -m benchmarks.training_speed teva|padded|peer DATA MODEL STEPS [OPTION=VALUE ...]

One process for each system, so that none warms another's caches; all see the same batches in the same order, the same
texts cut at the same length, one learning rate, AdamW, no dropout. ``teva`` is teva_torch.train as it stands.
``padded`` is the same loop with every batch in one pass, padded to its longest text. ``peer`` is sentence-transformers'
trainer with MultipleNegativesRankingLoss; its options are ``workers`` (of the data loader) and ``precision``.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from teva_data.dataset import Dataset
from teva_data.plan import BatchPlan

BATCH, NEGATIVES, TEMPERATURE, RATE, MAX_TOKENS = 32, 1, 0.05, 2e-5, 256
SEED = 3


def make_data(directory: Path, tail: bool, repeated: bool, queries: int = 2000) -> Path:
    """A dataset of made-up texts.

    Args:
        directory: to make.
        tail: documents of 4 to 250 words, half of them below 30 (log-normal); otherwise of 56 to 64.
        repeated: a document is named by six lists on average, so that batches name many twice; otherwise by one.
        queries: how many.
    """
    rng = random.Random(0)
    words = _words()

    def text(count: int) -> str:
        return " ".join(rng.choices(words, k=count))

    count = queries * 2 // 6 if repeated else queries * 2
    directory.mkdir(parents=True)
    with (directory / "corpus.jsonl").open("w") as file:
        for number in range(count):
            length = min(250, max(4, round(rng.lognormvariate(3.4, 0.9)))) if tail else rng.randint(56, 64)
            file.write(json.dumps({"docid": f"d{number}", "text": text(length)}) + "\n")
    ids = [f"d{number}" for number in range(count)]
    with (directory / "train.jsonl").open("w") as file:
        for number in range(queries):
            # Repeated: near queries name near documents, as the questions to one article do.
            pair = rng.sample(ids[:40], 2) if repeated else [f"d{2 * number}", f"d{2 * number + 1}"]
            row = {"query_id": f"q{number}", "query_text": text(rng.randint(5, 12))}
            row |= {"positive_document_ids": pair[:1], "negative_document_ids": pair[1:]}
            file.write(json.dumps(row) + "\n")
    return directory


def without_dropout(model: Path, target: Path) -> Path:
    """A copy of a model that drops nothing, since two systems do not draw the same random numbers."""
    shutil.copytree(model, target)
    path = target / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}))
    return target


def _words() -> list[str]:
    # Whole words of the tokenizer, so that a word is a token.
    from transformers import AutoTokenizer

    from benchmarks.claims.real_run import minilm

    vocabulary = AutoTokenizer.from_pretrained(str(minilm())).get_vocab()
    return sorted(word for word in vocabulary if word.isascii() and word.isalpha() and len(word) > 3)


def recipe(data: Path, model: Path, steps: int, output: Path) -> dict[str, Any]:
    return {
        "model": {"name": str(model), "query_max_length": MAX_TOKENS, "document_max_length": MAX_TOKENS},
        "data": {"path": str(data), "negatives": NEGATIVES},
        "loss": {"temperature": TEMPERATURE},
        "train": {
            "output": str(output), "steps": steps, "batch_size": BATCH, "learning_rate": RATE, "schedule": "constant",
            "warmup_ratio": 0, "weight_decay": 0, "precision": "bfloat16", "seed": SEED, "log_every": 1,
            "save_every": 10**6,
        },
        "torch": {"device": "cpu"},
    }  # fmt: skip


def by_teva(data: Path, model: Path, steps: int, work: Path, *, padded: bool) -> dict[str, list[float]]:
    from teva_data.metrics import read_metrics
    from teva_torch import train
    from teva_torch.model import Retriever

    settings = recipe(data, model, steps, work)
    if padded:
        settings["torch"]["chunk_tokens"] = 10**9
        Retriever.chunks = _as_they_come  # type: ignore[method-assign]
    train(settings)
    rows = read_metrics(work / "metrics.jsonl")
    return {"seconds": [BATCH / row["queries_per_second"] for row in rows], "loss": [row["loss"] for row in rows]}


def _as_they_come(self: Any, lengths: Any, chunk_tokens: int, *, full: bool = False) -> list[Any]:
    import numpy as np

    return [np.arange(len(lengths))]


def by_peer(
    data: Path, model: Path, steps: int, work: Path, workers: int = 0, precision: str = "bfloat16"
) -> dict[str, list[float]]:
    """The trainer of sentence-transformers, in the plan's order."""
    import datasets
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    rows = _rows(data, steps)
    seconds, losses = [], []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.before = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = time.perf_counter()
            seconds.append(now - self.before)
            self.before = now

        def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            if logs and "loss" in logs:
                losses.append(logs["loss"])

    encoder = SentenceTransformer(str(model), device="cpu")
    encoder.max_seq_length = MAX_TOKENS
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(work), max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=RATE,
        lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0, use_cpu=True,
        bf16=precision == "bfloat16", dataloader_num_workers=workers, save_strategy="no", logging_steps=1,
        report_to="none", batch_sampler=_in_order, disable_tqdm=True,
    )  # fmt: skip
    loss = MultipleNegativesRankingLoss(encoder, scale=1 / TEMPERATURE)
    table = datasets.Dataset.from_list(rows)
    SentenceTransformerTrainer(
        model=encoder, args=arguments, train_dataset=table, loss=loss, callbacks=[Clock()]
    ).train()
    return {"seconds": seconds, "loss": losses}


def _in_order(dataset: Any, **_: Any) -> Any:
    """Rows as they stand: the plan has put them in order."""
    from torch.utils.data import BatchSampler, SequentialSampler

    return BatchSampler(SequentialSampler(dataset), BATCH, drop_last=False)


def _rows(data: Path, steps: int) -> list[dict[str, str]]:
    """Anchor, positive and negative of each query in the plan's order."""
    plan = BatchPlan.of(Dataset.open(data), "train", batch_size=BATCH, negatives=NEGATIVES, seed=SEED)
    rows = []
    for step in range(steps):
        batch = plan.batch(step)
        texts = [document.document_text for document in batch.documents]
        for query, (positive, negative) in zip(batch.queries, batch.groups.tolist(), strict=True):
            rows.append({"anchor": query.query_text, "positive": texts[positive], "negative": texts[negative]})
    return rows


def main(words: list[str]) -> None:
    system, data, model, steps, *options = words
    given: dict[str, Any] = dict(option.split("=", 1) for option in options)
    work = Path(given.pop("work"))
    if system == "peer":
        found = by_peer(
            Path(data), Path(model), int(steps), work, int(given.get("workers", 0)), given.get("precision", "bfloat16")
        )
    else:
        found = by_teva(Path(data), Path(model), int(steps), work, padded=system == "padded")
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])

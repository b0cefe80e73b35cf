"""Claims of the batch plan: any step at one cost, shares that are kept, the same batches everywhere."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import Context, Result, claim

ROOT = Path(__file__).parents[2]
STRATEGIES = ("proportional", "weighted", "temperature", "round_robin")
BATCHES = ("mixed", "one_dataset", "one_modality")
FAR = 10**9


def _sizes(total: int, count: int) -> list[int]:
    """Sizes of real mixtures span orders of magnitude: each 0.7 of the one before it."""
    parts = [0.7**number for number in range(count)]
    return [max(1, round(total * part / sum(parts))) for part in parts]


def _mixtures(sizes: Sequence[int], batch_size: int, seed: int) -> Iterator[tuple[str, str, Any]]:
    """A mixture of each strategy and kind of batch; datasets are of three modalities in turn."""
    from teva_data.mixture import Mixture

    own: dict[str, dict[str, Any]] = {
        "weighted": {"weights": _weights(len(sizes))},
        "temperature": {"temperature": 2.0},
    }
    for strategy, batches in itertools.product(STRATEGIES, BATCHES):
        groups = _groups(len(sizes)) if batches == "one_modality" else None
        yield strategy, batches, Mixture(
            sizes, batch_size=batch_size, seed=seed, strategy=strategy, batches=batches, groups=groups,
            **own.get(strategy, {}),
        )  # fmt: skip


def _weights(count: int) -> list[float]:
    return [float(number % 5) for number in range(1, count + 1)]  # some are 0


def _groups(count: int) -> list[str]:
    return [("text", "image", "audio")[number % 3] for number in range(count)]


@claim(
    "data", name="plan_far_ahead",
    target="the queries of any step of a mixture of 20 datasets and 10^8 queries in under 10 ms, and step 10^9 in less "
    "than 3 times the time of step 0, under each strategy and kind of batch",
)  # fmt: skip
def plan_far_ahead(context: Context) -> Result:
    """Median time of 50 steps from 0 and from 10^9, batches of 1,024; and the memory that a mixture takes."""
    sizes, times = _sizes(10**8, 20), 10 if context.quick else 50
    rows = []
    for strategy, batches, mixture in _mixtures(sizes, 1024, context.seed):
        near, far = _median_seconds(mixture, (0, FAR), times)
        rows.append({"strategy": strategy, "batches": batches, "step 0": 1e3 * near, "step 10^9": 1e3 * far})
    tracemalloc.start()
    mixture = next(_mixtures(sizes, 1024, context.seed))[2]
    mixture.draw(FAR)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    slowest = max(rows, key=lambda row: row["step 10^9"])
    ratio = max(row["step 10^9"] / row["step 0"] for row in rows)
    figures = {
        "queries": sum(sizes), "datasets": len(sizes), "batch size": 1024,
        "proportional, mixed: step 0, ms": rows[0]["step 0"],
        "proportional, mixed: step 10^9, ms": rows[0]["step 10^9"],
        f"slowest step 10^9 ({slowest['strategy']}, {slowest['batches']}), ms": slowest["step 10^9"],
        "largest ratio of step 10^9 to step 0": ratio, "peak memory of mixture and step, MB": peak / 1e6,
    }  # fmt: skip
    return Result(figures, slowest["step 10^9"] < 10 and ratio < 3, details={"milliseconds": rows})


def _median_seconds(mixture: Any, starts: Sequence[int], times: int) -> list[float]:
    """Median time of a step from each start on; taken in turn, so that a busy machine slows all alike."""
    seconds: list[list[float]] = [[] for _ in starts]
    for number, (start, noted) in itertools.product(range(-1, times), zip(starts, seconds, strict=True)):
        begun = time.perf_counter()
        mixture.draw(start + abs(number))
        if number >= 0:  # the first of each is warm-up
            noted.append(time.perf_counter() - begun)
    return [float(np.median(noted)) for noted in seconds]


@claim(
    "data", name="mixture_proportions",
    target="over 10,000 steps every dataset's proportion within 0.005 of the expected one, under each strategy and "
    "kind of batch; no batch of one dataset or one modality holds another",
    peer="independent draws of the same shares ({numpy})",
)  # fmt: skip
def mixture_proportions(context: Context) -> Result:
    """Eight datasets of 200 to 500,000 queries, three modalities, batches of 32."""
    sizes, batch_size, steps = [200, 500_000, 3_000, 41_000, 90_000, 1, 7_000, 260_000], 32, 10_000
    steps = 3_000 if context.quick else steps
    groups, random, rows = np.array(_groups(len(sizes))), np.random.default_rng(context.seed), []
    for strategy, batches, mixture in _mixtures(sizes, batch_size, context.seed):
        counts, mixed = np.zeros(len(sizes), dtype=np.int64), 0
        for step in range(steps):
            dataset = mixture.draw(step).dataset
            counts += np.bincount(dataset, minlength=len(sizes))
            if batches != "mixed":
                mixed += len(np.unique(dataset if batches == "one_dataset" else groups[dataset])) > 1
        expected = _expected(strategy, batches, sizes, batch_size)
        # As many independent draws as the strategy makes: of queries, or of whole batches.
        draws = steps * batch_size if batches == "mixed" else steps
        chance = np.abs(random.multinomial(draws, expected) / draws - expected).max()
        rows.append({
            "strategy": strategy, "batches": batches, "expected": expected, "found": counts / (steps * batch_size),
            "deviation": float(np.abs(counts / (steps * batch_size) - expected).max()), "mixed": mixed,
            "independent": float(chance),
        })  # fmt: skip
    figures: dict[str, Any] = {"steps": steps, "batch size": batch_size}
    for row in rows:
        figures[f"largest deviation, {row['strategy']}, {row['batches']}"] = row["deviation"]
    worst = max(row["deviation"] for row in rows)
    figures["largest deviation of all"] = worst
    figures["of independent draws"] = max(row["independent"] for row in rows)
    for batches in BATCHES[1:]:
        figures[f"mixed batches under {batches}"] = sum(row["mixed"] for row in rows if row["batches"] == batches)
    passed = worst < 0.005 and not any(row["mixed"] for row in rows)
    return Result(figures, passed, details={"rows": rows})


def _expected(strategy: str, batches: str, sizes: Sequence[int], batch_size: int) -> np.ndarray:
    """The shares as the documentation words them: of queries, or of batches that hold a dataset or modality once."""
    if strategy != "proportional":
        parts = {
            "weighted": _weights(len(sizes)),
            "temperature": [math.sqrt(size) for size in sizes],
            "round_robin": [1.0] * len(sizes),
        }[strategy]
    elif batches == "mixed":
        parts = [float(size) for size in sizes]
    elif batches == "one_dataset":
        parts = [float(math.ceil(size / batch_size)) for size in sizes]
    else:
        groups = _groups(len(sizes))
        total = {group: sum(s for s, g in zip(sizes, groups, strict=True) if g == group) for group in groups}
        parts = [math.ceil(total[g] / batch_size) * s / total[g] for s, g in zip(sizes, groups, strict=True)]
    return np.array(parts) / sum(parts)


@claim(
    "data", name="same_order_everywhere", needs=("data",),
    target="on real data, global batches equal to the byte for 1, 2, 3 and 8 processes, from any step that a run is "
    "resumed at, and in interpreters with hash seeds 1 and 2",
)  # fmt: skip
def same_order_everywhere(context: Context) -> Result:
    """scifact: both splits over one corpus, with prompts of their own; a digest of all that a batch holds."""
    from teva_data.conversion import convert

    data = context.work / "scifact"
    convert(context.data / "scifact", data)
    _mine(data, context.seed)
    random = np.random.default_rng(context.seed)
    steps = sorted({0, 1, FAR, *random.integers(0, 10**6, 20 if context.quick else 300).tolist()})
    whole = digests(data, steps, 1)
    figures: dict[str, Any] = {"steps compared": len(steps), "first 8 digits of step 0": whole[0][:8]}
    for world in (2, 3, 8):
        # Backwards, by a plan of its own: nothing that an earlier step left can make it right.
        found = digests(data, steps[::-1], world)[::-1]
        figures[f"batches that differ, {world} processes"] = _differing(whole, found)
    for hash_seed in ("1", "2"):
        found = _elsewhere(data, steps, hash_seed)
        figures[f"batches that differ, interpreter with hash seed {hash_seed}"] = _differing(whole, found)
    figures["distinct batches"] = len(set(whole))
    figures["listed negatives in step 0"] = int((_plan(data).batch(0).groups[:, 1:] >= 0).sum())
    differ = sum(value for name, value in figures.items() if name.startswith("batches that differ"))
    good = differ == 0 and len(set(whole)) == len(steps) and figures["listed negatives in step 0"] > 0
    return Result(figures, good)


def _mine(data: Path, seed: int) -> None:
    """The split ``train-mined``: scifact lists no negatives, and a choice among them is part of the order."""
    from teva_data import Dataset, mine_negatives, write_run

    dataset, random, run = Dataset.open(data), np.random.default_rng(seed), data.parent / "run.tsv"
    ids = dataset.corpus.docids(0, len(dataset.corpus))
    found = {query.query_id: random.choice(len(ids), 20, replace=False) for query in dataset.queries("train")}
    write_run(run, {name: [(ids[row], -float(rank)) for rank, row in enumerate(rows)] for name, rows in found.items()})
    mine_negatives(dataset, "train", run, data / "train-mined.jsonl", count=12, depth=20)


def _plan(data: Path) -> Any:
    from teva_data.dataset import Dataset
    from teva_data.plan import BatchPlan, Part

    dataset = Dataset.open(data)
    parts = [Part(dataset, "train-mined", query_prompt="claim: "), Part(dataset, "test", negatives=1)]
    return BatchPlan(parts, batch_size=24, negatives=3, seed=5, mixing="temperature", mixing_temperature=2.0)


def digests(data: Path, steps: Sequence[int], world: int) -> list[str]:
    """A checksum of each step's global batch, put together from the parts of ``world`` processes."""
    plan = _plan(data)
    return [_digest([plan.batch(step, rank, world) for rank in range(world)]) for step in steps]


def _digest(batches: Sequence[Any]) -> str:
    first = [batch.query_range[0] for batch in batches]
    whole = {
        "queries": [(q.query_id, q.query_text, q.prompt) for batch in batches for q in batch.queries],
        "documents": [tuple(document) for batch in batches for document in batch.documents],
        "prompts": [prompt for batch in batches for prompt in batch.document_prompts],
        "positives": [column for batch in batches for column in batch.positives.tolist()],
        "groups": [row for batch in batches for row in batch.groups.tolist()],
        "excluded": [
            (row + start, column)
            for batch, start in zip(batches, first, strict=True)
            for row, column in batch.excluded.tolist()
        ],
        "dataset": [number for batch in batches for number in batch.dataset.tolist()],
    }
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def _elsewhere(data: Path, steps: Sequence[int], hash_seed: str) -> list[str]:
    code = (
        "import json, sys\nfrom pathlib import Path\nfrom benchmarks.claims.data_order import digests\n"
        "print(json.dumps(digests(Path(sys.argv[1]), json.load(sys.stdin), 3)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(data.resolve())], input=json.dumps(list(steps)), text=True, check=True,
        cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hash_seed}, stdout=subprocess.PIPE,
    )  # fmt: skip
    found: list[str] = json.loads(done.stdout)
    return found


def _differing(left: Sequence[str], right: Sequence[str]) -> int:
    return sum(one != other for one, other in zip(left, right, strict=True))

"""The memory that one training step takes on this CPU, as torch's own allocator tells it to torch's profiler.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m benchmarks.step_memory JOB OUT

JOB is a JSON file of jobs, each a recipe and the configuration of its model; process 0 writes the largest of the
processes' figures of each to OUT. Models are random, their texts random tokens of the recipe's lengths; all else is
what a run of the recipe does. Bytes alive before the step are counted tensor by tensor, what comes and goes during it
allocation by allocation.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.sharded_memory import alive

if TYPE_CHECKING:
    from teva_data.feed import TokenBatch
    from teva_torch.distributed import Processes
    from teva_torch.model import Retriever

ROOT = Path(__file__).parents[1]


def allocated(events: Any) -> int:
    """The most bytes above those of the beginning, of a profile's events."""
    found = [(one.start_ns(), one.nbytes()) for one in events if one.name() == "[memory]"]
    now = most = 0
    for _, size in sorted(found, key=lambda each: each[0]):
        now += size
        most = max(most, now)
    return most


def make_data(directory: Path, queries: int, negatives: int) -> Path:
    """A dataset each of whose queries has documents of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    rows, each = [], 1 + negatives
    for n in range(queries):
        own = [f"d{n * each + at}" for at in range(each)]
        rows.append({
            "query_id": f"q{n}", "query_text": f"query {n}", "positive_document_ids": own[:1],
            "negative_document_ids": own[1:],
        })  # fmt: skip
    documents = [{"docid": f"d{n}", "document_text": f"text {n}"} for n in range(queries * each)]
    for name, lines in (("corpus", documents), ("train", rows)):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def make_batch(recipe: Any, data: Path, vocabulary: int, processes: Processes) -> TokenBatch:
    """A process's part of a batch: every other text is as long as may be, the others a token less."""
    from teva_data.dataset import Dataset
    from teva_data.feed import TokenBatch
    from teva_data.plan import BatchPlan

    settings = {"batch_size": recipe.train.batch_size, "negatives": recipe.data.negatives, "seed": 1}
    batch = BatchPlan.of(Dataset.open(data), "train", **settings).batch(0, processes.rank, processes.world)
    random = np.random.default_rng(processes.rank)

    def texts(count: int, length: int) -> list[list[int]]:
        return [random.integers(1, vocabulary, length - n % 2).tolist() for n in range(count)]

    model = recipe.model
    return TokenBatch(
        batch, texts(len(batch.queries), model.query_max_length),
        texts(len(batch.documents), model.document_max_length),
    )  # fmt: skip


def make_model(recipe: Any, config: str) -> Retriever:
    """What :meth:`Retriever.for_training` makes of a recipe, with random weights."""
    from transformers import AutoModel

    import torch
    from teva_torch.backbones import checkpoint_gradients
    from teva_torch.lora import add_lora
    from teva_torch.model import Retriever
    from teva_torch.planning.tracing import config_of
    from teva_torch.pooling import mean_pooling
    from teva_torch.recipe import torch_section

    torch.manual_seed(0)
    options = torch_section(recipe)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[options.weights]
    model = Retriever(AutoModel.from_config(config_of(config), dtype=dtype), mean_pooling, normalize=True, pad_id=0)
    if options.gradient_checkpointing:
        checkpoint_gradients(model.backbone)
    if options.lora is not None:
        model.backbone = add_lora(model.backbone, options.lora)
    return model.train()


def measure(recipe: Any, config: str, work: Path, processes: Processes) -> dict[str, float]:
    """The most bytes of tensors during the second step, and the seconds of a third without the profiler.

    Args:
        recipe: as ``read_recipe`` gives.
        config: the model's configuration as JSON.
        work: a directory for the data.
        processes: those that train.
    """
    import torch
    from teva_data.recipe import LossSection
    from teva_torch.caching import BatchGradient, Passes
    from teva_torch.losses import build_loss
    from teva_torch.recipe import torch_section
    from teva_torch.strategies import choose, prepare

    options, hidden = torch_section(recipe), int(json.loads(config)["hidden_size"])
    data = make_data(work / f"data-{processes.rank}", recipe.train.batch_size, recipe.data.negatives)
    before = alive()
    model = make_model(recipe, config)
    loss = build_loss(LossSection(), hidden=hidden, normalize=True)
    name = choose(options, processes)
    strategy = prepare(name, model, None, recipe.train, options, processes, torch.device("cpu"))
    half = torch.bfloat16 if recipe.train.precision == "bfloat16" else torch.float32
    passes = Passes(options.chunk_tokens or 1024, options.gradient_cache, "first", half, full=options.gradient_cache)
    step = BatchGradient(model, loss, passes, processes, strategy)
    item = make_batch(recipe, data, json.loads(config)["vocab_size"], processes)

    def once() -> None:
        strategy.zero_grad()
        step.add(item)
        strategy.update(1e-4, lambda norm: None)

    once()
    strategy.zero_grad()
    held = alive() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        once()
    events = profile.profiler.kineto_results.events()
    peak = held + allocated(events)
    start = time.perf_counter()
    once()
    seconds = time.perf_counter() - start
    return {"peak": processes.largest(int(peak)), "between": processes.largest(int(held)), "seconds": seconds}


def measured(jobs: Sequence[Mapping[str, Any]], work: Path, processes: int = 1) -> list[dict[str, float]]:
    """:func:`measure` of jobs in a program of its own.

    Args:
        jobs: each has ``recipe`` (a mapping) and ``config`` (JSON).
        work: a directory, made.
        processes: how many share the batch.
    """
    work.mkdir(parents=True, exist_ok=True)
    (work / "job.json").write_text(json.dumps(list(jobs)))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    line = [
        sys.executable, *(launch if processes > 1 else []), "-m", "benchmarks.step_memory", str(work / "job.json"),
        str(work / "out.json"),
    ]  # fmt: skip
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(line)}\n{done.stdout}\n{done.stderr}")
    found: list[dict[str, float]] = json.loads((work / "out.json").read_text())
    return found


def main() -> None:
    from teva_torch.distributed import join
    from teva_torch.recipe import read_recipe, torch_section
    from teva_torch.strategies import SHARDED

    path, out = (Path(one) for one in sys.argv[1:3])
    jobs = [(read_recipe(job["recipe"]), job["config"]) for job in json.loads(path.read_text())]
    alone = any(torch_section(recipe).strategy in SHARDED for recipe, _ in jobs)
    with join("cpu", 600, alone) as processes:
        found = []
        for at, (recipe, config) in enumerate(jobs):
            found.append(measure(recipe, config, out.parent / str(at), processes))
            print(at, found[-1], flush=True)
        if processes.main:
            out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()

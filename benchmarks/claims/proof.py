"""How costs grow with what is given, how long commands take to start, and what the dependencies are known for."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import Context, Result, claim
from .runner import ROOT

COMMANDS = ("teva-data", "teva-torch", "teva-jax", "teva-infer", "teva-eval")
QUERIES, DEPTH, SHARD = 128, 100, 65_536
LOOKUPS = 600  # batches of 512 lookups: at 10^7 documents almost all blocks that hold them have then been read


@claim(
    "proof", name="start_up", peer="`python -c pass`, and `import torch` of {torch}, of the same environment",
    target="`--help` of each of the five commands in at most 1.5 s of one processor, and without loading torch, jax or "
    "transformers",
)  # fmt: skip
def start_up(context: Context) -> Result:
    """Processor seconds, since a busy machine moves the others; medians."""
    rounds = 2 if context.quick else 5
    figures: dict[str, Any] = {"python -c pass, s": _processor_seconds([sys.executable, "-c", "pass"], rounds)}
    loaded: dict[str, str] = {}
    for command in COMMANDS:
        path = shutil.which(command, path=str(Path(sys.executable).parent)) or command
        figures[f"{command} --help, s"] = _processor_seconds([path, "--help"], rounds)
        loaded[command] = _heavy(command)
    for command in COMMANDS:
        package = command.replace("-", "_")
        figures[f"import {package}, s"] = _processor_seconds([sys.executable, "-c", f"import {package}"], rounds)
    figures["import torch, s"] = _processor_seconds([sys.executable, "-c", "import torch"], 1)
    figures["heavy modules loaded by --help"] = ", ".join(f"{name}: {what}" for name, what in loaded.items() if what)
    slowest = max(figures[f"{command} --help, s"] for command in COMMANDS)
    return Result(figures, slowest <= 1.5 and not any(loaded.values()), "user and system time")


def _processor_seconds(words: Sequence[str], rounds: int) -> float:
    spent = []
    for _ in range(rounds):
        before = os.times()
        subprocess.run(words, check=True, capture_output=True)
        after = os.times()
        spent.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return round(statistics.median(spent), 2)


def _heavy(command: str) -> str:
    code = (
        f"import sys; from {command.replace('-', '_')}.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'jax', 'transformers') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1].strip("[]")


@claim(
    "proof", name="growth_of_corpus", peer=None,
    target="over corpora of 10^4 to 10^7 documents: building the store and exact search grow at most as n^1.1, opening "
    "not at all (n^0.1), a lookup by id at most as n^0.25; exact search over dimensions 64 to 512 at most as d^1.1. "
    "(Batch, length and chunk budget of a training step: growth_tables)",
)  # fmt: skip
def growth_of_corpus(context: Context) -> Result:
    """Exponents by least squares over logarithms, from the second size on: of the first most is start-up."""
    sizes = [10**3, 10**4, 10**5] if context.quick else [10**4, 10**5, 10**6, 10**7]
    dims = [64, 128, 256, 512]
    costs: dict[str, list[float]] = {"store built, s": [], "opened, s": [], "lookup, us": [], "exact search, s": []}
    firsts = []
    for size in sizes:
        *stored, first = _store(context.work / f"store-{size}", size)
        found = *stored, _search(context.work / f"vectors-{size}", size, 64)
        firsts.append(first)
        for values, value in zip(costs.values(), found, strict=True):
            values.append(value)
        for name in ("store", "vectors"):
            shutil.rmtree(context.work / f"{name}-{size}")
    rows = 10_000 if context.quick else 200_000
    by_dim = [_search(context.work / f"dim-{dim}", rows, dim) for dim in dims]
    figures: dict[str, Any] = {"documents": _listed(sizes)}
    figures |= {name: _listed(values) for name, values in costs.items()}
    figures["first lookups, checksums compared, us"] = _listed(firsts)
    exponents = {name: _exponent(sizes[1:], values[1:]) for name, values in costs.items()}
    figures |= {f"{name.partition(',')[0]}: exponent": round(value, 3) for name, value in exponents.items()}
    figures |= {"dimensions": _listed(dims), f"exact search of {rows:,}, s": _listed(by_dim)}
    figures["dimension: exponent"] = round(_exponent(dims, by_dim), 3)
    limits = {"store built, s": 1.1, "opened, s": 0.1, "lookup, us": 0.25, "exact search, s": 1.1}
    passed = all(exponents[name] <= limit for name, limit in limits.items()) and figures["dimension: exponent"] <= 1.1
    return Result(figures, passed, f"documents of about 20 words; {QUERIES} queries, the best {DEPTH}, float32",
                  {"sizes": sizes, **costs, "dims": dims, "by dimension": by_dim})  # fmt: skip


def _store(directory: Path, size: int) -> tuple[float, float, float, float]:
    """Seconds of building and of opening, microseconds of a lookup in random batches of 512: the last and the first."""
    from benchmarks.synthetic import write_corpus
    from teva_data.store import CorpusStore

    directory.mkdir()
    path = directory / "corpus.jsonl"
    write_corpus(path, size, words=20)
    built, _ = _timed(lambda: CorpusStore.open(path))
    opened = statistics.median(_timed(lambda: CorpusStore.open(path))[0] for _ in range(5))
    store, rng = CorpusStore.open(path), np.random.default_rng(0)
    names = store.docids(0, min(size, 10**6))
    taken = []
    for _ in range(LOOKUPS):
        batch = [names[row] for row in rng.integers(0, len(names), 512)]
        taken.append(_timed(lambda: store.lookup(batch))[0] / 512 * 1e6)  # noqa: B023
    # A block is compared with its checksum when it is first read: once in a process's life, and told apart.
    return built, opened, statistics.median(taken[-20:]), statistics.median(taken[:20])


def _search(directory: Path, rows: int, dim: int) -> float:
    """Seconds of exact search: the median of three."""
    from teva_data.embedding_writer import EmbeddingWriter
    from teva_data.embeddings import Embeddings
    from teva_infer.searching import search_block

    rng = np.random.default_rng(0)
    shards = [min(SHARD, rows - start) for start in range(0, rows, SHARD)]
    with EmbeddingWriter(directory, job={"role": "document", "normalized": True}, shards=shards, dim=dim) as writer:
        for shard, size in enumerate(shards):
            writer.write(shard, [f"d{shard * SHARD + row}" for row in range(size)], _unit(size, dim, rng))
    corpus, queries = Embeddings.open(directory, verify=False), _unit(QUERIES, dim, rng)
    return statistics.median(_timed(lambda: search_block(queries, corpus, DEPTH))[0] for _ in range(3))


def _unit(rows: int, dim: int, rng: np.random.Generator) -> np.ndarray:
    vectors = rng.standard_normal((rows, dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def _exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:,}" if isinstance(value, int) else f"{value:.3g}" for value in values)


@claim(
    "proof", name="dependencies_audited", peer="pip-audit, by .ci/supply_chain.py",
    target="every package that the five need, extras included, is listed (CycloneDX) and looked up in "
    "a database of advisories; none has a known weakness",
)  # fmt: skip
def dependencies_audited(context: Context) -> Result:
    """Asks a database on the network: where none can be reached, the claim is missed, since nothing was audited."""
    words = [sys.executable, str(ROOT / ".ci" / "supply_chain.py"), "--output", str(context.work)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    lines = [line.replace(f"{context.work}/", "") for line in (done.stdout + done.stderr).strip().splitlines()]
    return Result({f"line {number}": line for number, line in enumerate(lines, 1)}, done.returncode == 0)

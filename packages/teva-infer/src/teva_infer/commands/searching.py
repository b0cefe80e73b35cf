"""Verbs that search, build indexes, and tell what an index finds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from .words import numbers_of


def search(
    *,
    queries: Path,
    corpus: Path,
    output: Path,
    depth: int = 1000,
    backend: Literal["exact", "faiss"] = "exact",
    batch: int = 4096,
    layout: Literal["tsv", "trec"] = "tsv",
    exclude_self: bool = False,
    part: tuple[int, int] | None = None,
    device: str = "cpu",
    index: Path | None = None,
    knob: tuple[str, ...] = (),
) -> None:
    """Search a corpus's embeddings with queries' embeddings and write a run file.

    Args:
        queries: the directory of the queries' embeddings.
        corpus: the directory of the corpus's embeddings.
        output: the run file.
        depth: documents for each query.
        backend: exact is the reference; faiss uses flat FAISS indexes.
        batch: queries that pass over the corpus together.
        layout: tsv is "query_id docid score", trec has TREC's six columns.
        exclude_self: leave out the document whose id is the query's.
        part: two numbers n and N: search the n-th (from 0) of N parts of the corpus alone; see the verb merge.
        device: where exact multiplies, or the index is searched (with faiss-gpu): cpu, cuda, cuda:1.
        index: an index of the corpus (the verb index): what it finds, with exact scores.
        knob: how much the index looks at, such as nprobe=64 or oversample=20; the verb tune shows what each gives.
    """
    from teva_infer.searching import search as run_search

    run_search(
        queries, corpus, output, depth=depth, backend=backend, batch=batch, layout=layout, exclude_self=exclude_self,
        part=part, device=device, index=index, knobs=numbers_of(knob, "--knob"),
    )  # fmt: skip
    print(output)


def index(
    corpus: Path,
    /,
    *,
    output: Path,
    kind: str = "hnsw",
    setting: tuple[str, ...] = (),
    part_rows: int = 2**20,
    seed: int = 0,
    device: str = "cpu",
    overwrite: bool = False,
) -> None:
    """Build an index of a corpus's embeddings, for search --index. A killed build goes on when started again.

    Args:
        corpus: the directory of the corpus's embeddings; search reads ids and exact scores there.
        output: the directory for the index.
        kind: hnsw (a graph; fastest, most memory), ivf (lists), sq8 (lists of 8-bit numbers), pq (lists of codes),
            rabitq (lists of one bit a number), binary (one bit a number, no lists), flat (all).
        setting: of the kind: links=32, efConstruction=200 (hnsw), lists=4096 (ivf, sq8, pq, rabitq), bytes=48 (pq),
            graph=32 (links of a graph over the lists' centres, for many lists).
        part_rows: vectors that are built, and lost by a kill, together.
        seed: of the sample that lists and codes are learned from.
        device: cpu, or cuda, cuda:1 with faiss-gpu.
        overwrite: begin anew where the directory holds another index.
    """
    from teva_infer.indexes.building import build_index

    print(
        build_index(
            corpus, output, kind=kind, settings=numbers_of(setting, "--setting"), part_rows=part_rows, seed=seed,
            device=device, overwrite=overwrite,
        )
    )  # fmt: skip


def tune(
    index: Path,
    /,
    *,
    corpus: Path,
    queries: Path,
    output: Path,
    depth: int = 100,
    most_queries: int = 1000,
    oversample: tuple[int, ...] = (),
    recall: float | None = None,
) -> int:
    """Measure what an index finds of what exact search finds, and how fast, at each of its knobs.

    Prints a table and writes tune.json and tune.png. Exit status 1 where no knobs reach the wanted recall.

    Args:
        index: the index's directory.
        corpus: the embeddings that it was built from.
        queries: the queries' embeddings.
        output: the directory for the table and the curve.
        depth: documents for each query.
        most_queries: queries used at most, from the first on.
        oversample: candidates for each hit that are tried; some multiples of the kind's own where not given.
        recall: the recall that is wanted; the fastest knobs that reach it are named.
    """
    from teva_infer.indexes.tuning import tune as run_tune

    found = run_tune(
        index, corpus, queries, output, depth=depth, most_queries=most_queries, oversample=oversample or None
    )
    print(found.table())
    if recall is None:
        return 0
    best = found.fastest(recall)
    if best is None:
        print(f"no knobs reach a recall of {recall}: look at more candidates, or build with other settings")
        return 1
    print("fastest: " + " ".join(f"--knob {name}={value}" for name, value in best.knobs.items()))
    return 0


def merge(
    parts: Annotated[tuple[Path, ...], tyro.conf.Positional],
    *,
    output: Path,
    depth: int = 1000,
    layout: Literal["tsv", "trec"] = "tsv",
) -> None:
    """Make one run of the runs over all parts of a corpus (search --part).

    Args:
        parts: the runs, in the order of the parts.
        output: the run file.
        depth: documents for each query.
        layout: tsv is "query_id docid score", trec has TREC's six columns.
    """
    from teva_infer.searching import merge_runs

    print(merge_runs(parts, output, depth=depth, layout=layout))


def ray_search(
    *,
    queries: Path,
    corpus: Path,
    output: Path,
    parts: int,
    depth: int = 1000,
    cpus: float = 1,
    batch: int = 4096,
    layout: Literal["tsv", "trec"] = "tsv",
    exclude_self: bool = False,
) -> None:
    """Search exactly by the workers of a Ray cluster, each a part of the corpus, and write one run file.

    Args:
        queries: the directory of the queries' embeddings, read by this process alone.
        corpus: the directory of the corpus's embeddings, as workers find it.
        output: the run file.
        parts: how many parts of whole shards; those of a lost worker are searched again by others.
        depth: documents for each query.
        cpus: of each task.
        batch: queries that pass over the corpus together.
        layout: tsv is "query_id docid score", trec has TREC's six columns.
        exclude_self: leave out the document whose id is the query's.
    """
    from teva_infer.clusters import search_on_ray

    print(
        search_on_ray(
            queries, corpus, output, parts=parts, depth=depth, cpus=cpus, batch=batch, layout=layout,
            exclude_self=exclude_self,
        )
    )  # fmt: skip

"""The verb that mines training negatives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from .words import options_of


def mine(
    model: str,
    data: Annotated[tuple[Path, ...], tyro.conf.Positional],
    /,
    *,
    work: Path,
    split: str = "train",
    name: str = "mined",
    count: int = 8,
    skip: int = 0,
    depth: int = 100,
    sample: Literal["top", "random"] = "random",
    seed: int = 0,
    margin: float | None = None,
    max_ratio: float | None = None,
    drop_if_positive_below: int | None = None,
    keep_scores: bool = False,
    engine: str = "torch",
    engine_option: tuple[str, ...] = (),
    device: str = "auto",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    batch_tokens: int = 16384,
    backend: Literal["exact", "faiss"] = "exact",
) -> None:
    """Mine training negatives with a model: encode, search, choose. A killed run goes on when started again.

    Args:
        model: a model directory (of teva or of sentence-transformers) or a hub id.
        data: datasets' directories, or recipes (.yaml) with one dataset or a mixture.
        work: a directory for embeddings and runs.
        split: whose queries; of a recipe, what it names.
        name: the new split is called SPLIT-NAME.
        count: negatives wanted for each query.
        skip: ranks left out at the top, where unjudged answers are likeliest.
        depth: documents searched for each query, and ranks looked at.
        sample: top takes the best ranked, random any of the ranks.
        seed: names the random choice.
        margin: a negative's score must be at most the positive's less this.
        max_ratio: a negative's score must be at most this share of the positive's, such as 0.95.
        drop_if_positive_below: leave out a query that has no positive among this many best ranked.
        keep_scores: write the scores of positives and negatives, to distil from.
        engine: the engine that encodes.
        engine_option: the engine's own, key=value.
        device: auto, cpu, cuda, cuda:1, mps; several with commas between them, or all.
        dtype: what the model computes in.
        batch_tokens: tokens of a batch.
        backend: exact is the reference; faiss uses flat FAISS indexes.
    """
    from teva_infer.mining import mine as run_mine

    choice = {
        "count": count, "skip": skip, "sample": sample, "seed": seed, "margin": margin, "max_ratio": max_ratio,
        "drop_if_positive_below": drop_if_positive_below, "keep_scores": keep_scores,
    }  # fmt: skip
    for path in run_mine(
        model, data, work, split=split, name=name, depth=depth, backend=backend, engine=engine,
        engine_options=options_of(engine_option), device=device, dtype=dtype, batch_tokens=batch_tokens, choice=choice,
    ):  # fmt: skip
        print(path)

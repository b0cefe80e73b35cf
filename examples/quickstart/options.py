"""What the quickstart can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of the command line; the defaults fit a laptop and the standard library's documentation."""

    data: Path | None = None
    """A dataset directory (corpus.jsonl, train.jsonl; test.jsonl with qrels/test.tsv, or a part of train is held out),
    or a CSV, TSV or JSONL file with a question and a passage in each row (columns of other names: `teva-data convert`
    makes a dataset of it). Without it: the documentation strings of Python's standard library."""

    model: str | None = None
    """A model directory (teva's or sentence-transformers') or a hub id. Without it: all-MiniLM-L6-v2 as installed by
    the quickstart group."""

    output: Path = Path("quickstart-run")
    """Where everything goes. The same command started again goes on from what is there."""

    steps: int = 45
    """Optimiser steps."""

    batch_size: int = 32
    """Queries in a step."""

    negatives: int = 1
    """Mined negatives that a step takes for each query, beside the other queries' documents."""

    learning_rate: float = 1e-4
    """At its peak."""

    temperature: float = 0.05
    """Similarities are divided by it."""

    query_length: int = 32
    """Tokens of a query in training."""

    document_length: int = 128
    """Tokens of a document, in training, encoding and search; what is longer is cut."""

    held_out: float = 0.1
    """Share that becomes the test where --data has none."""

    seed: int = 42
    """Of the order, the choice of negatives, and dropout."""

    require_gain: bool = True
    """Exit with status 1 unless nDCG@10 after training is above that before."""

    overwrite: bool = False
    """Begin anew where the output directory holds another run."""

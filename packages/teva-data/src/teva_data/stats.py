"""What is in a dataset, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dataset import Dataset
from .store import Store

QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class Statistics:
    """How many rows, and how their sizes are spread.

    Attributes:
        name: ``corpus`` or the split.
        rows: documents or queries.
        spreads: what is measured for each row, to its mean and :data:`QUANTILES`; text lengths are in characters.
    """

    name: str
    rows: int
    spreads: dict[str, tuple[float, ...]] = field(default_factory=dict)


def statistics(dataset: Dataset | str | Path) -> list[Statistics]:
    """Statistics of the corpus and of each split.

    Raises:
        DataError: a row of the dataset is bad.
    """
    if not isinstance(dataset, Dataset):
        dataset = Dataset.open(dataset)
    of_documents = {"text": ["document_text"], "title and text": ["title", "document_text"]}
    of_queries = {
        "text": ["query_text"],
        "positives": ["positive_document_ids"],
        "negatives": ["negative_document_ids"],
    }
    return [
        _of_store("corpus", dataset.corpus, of_documents),
        *(_of_store(split, dataset.queries(split), of_queries) for split in dataset.splits),
    ]


def table(found: Sequence[Statistics]) -> str:
    """The statistics as an aligned text table."""
    header = ("", "rows", "of each", "mean", "min", "median", "90 %", "99 %", "max")
    rows = [
        (each.name, f"{each.rows:,}", measure, f"{mean:,.1f}", *(f"{value:,.0f}" for value in quantiles))
        for each in found
        for measure, (mean, *quantiles) in each.spreads.items()
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    left = (0, 2)
    lines = []
    for row in (header, *rows):
        cells = [
            cell.ljust(width) if at in left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _of_store(name: str, store: Store, measures: dict[str, list[str]]) -> Statistics:
    spreads = {}
    for measure, columns in measures.items():
        sizes = sum(_sizes(store, column) for column in columns)
        spreads[measure] = (float(np.mean(sizes)), *map(float, np.quantile(sizes, QUANTILES)))
    return Statistics(name, len(store), spreads)


def _sizes(store: Store, column: str) -> NDArray[np.int64]:
    """Characters of each text, or entries of each list, [N]; the texts stay in Arrow."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def size(array: Any) -> Any:
        lengths = pc.list_value_length(array) if pa.types.is_large_list(array.type) else pc.utf8_length(array)
        return lengths.to_numpy(zero_copy_only=False)

    sizes: NDArray[np.int64] = np.concatenate([size(array) for array in store.arrays(column)]).astype(np.int64)
    return sizes

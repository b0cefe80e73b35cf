"""nDCG@10 on a small corpus while training goes on (what is measured is :mod:`teva_data.development`'s)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import jax
from teva_data.dataset import Dataset
from teva_data.development import DevSet, dev_sets
from teva_data.rendering import Renderer

from .engine import bucket
from .feed import chunked, put
from .mesh import sharding
from .params import gather
from .state import Setup


class Evaluation:
    """The judged queries of a split and a small corpus for them, of each dataset that has the split.

    Args:
        setup: the run.
        datasets: those of ``recipe.data.listed()``.
        renderer: how texts become tokens.

    Raises:
        RecipeError: no dataset has the split.
        DataError: a split without judgements, or judgements that the corpus or the split does not know.
    """

    def __init__(self, setup: Setup, datasets: Sequence[Dataset], renderer: Renderer) -> None:
        self.parts, self.renderer, self.mesh = dev_sets(setup.recipe, datasets), renderer, setup.mesh
        self.shapes = dataclasses.replace(setup.shapes, limit=renderer.max_length)
        self._embed = jax.jit(setup.retriever.embed)

    def measure(self, params: Any, adapter: Any) -> float:
        """Mean nDCG@10 of the queries of each dataset, and of these the mean; without dropout.

        Texts have the length that they are served with: the renderer's one limit for queries and documents.
        """
        return float(np.mean([self._measure(part, params, adapter) for part in self.parts]))

    def _measure(self, part: DevSet, params: Any, adapter: Any) -> float:
        queries = [self.renderer.query(*each) for each in part.queries]
        documents = [self.renderer.document(*each) for each in part.documents]
        return part.score(self.vectors(queries, params, adapter), self.vectors(documents, params, adapter))

    def vectors(self, texts: Sequence[str], params: Any, adapter: Any) -> NDArray[np.float32]:
        """float32 [N, H] of rendered texts; all processes call it, and all have the result."""
        token_ids, found = self.renderer.tokenize(texts), []
        chunks = chunked([len(ids) for ids in token_ids], self.shapes)
        for rows in chunks:
            length = bucket(len(token_ids[rows[0]]), self.shapes.limit)
            ids = np.zeros((self.shapes.rows(length), length), np.int32)
            lengths = np.ones(len(ids), np.int32)
            for at, row in enumerate(rows):
                ids[at, : len(token_ids[row])] = token_ids[row]
                lengths[at] = len(token_ids[row])
            places = (sharding(("batch", *(None,) * (one.ndim - 1)), self.mesh, one.shape) for one in (ids, lengths))
            given = (put(one, place) for one, place in zip((ids, lengths), places, strict=True))
            found.append(gather(self._embed(params, adapter, *given))[: len(rows)])
        return np.concatenate(found)[np.argsort(np.concatenate(chunks))]

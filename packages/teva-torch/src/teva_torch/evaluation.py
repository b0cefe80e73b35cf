"""nDCG@10 on a small corpus while training goes on: how good the model is so far, and which step was the best.

What is measured is :mod:`teva_data.development`'s. All processes encode, each its part.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

import torch
from teva_data.dataset import Dataset
from teva_data.development import DevSet, dev_sets
from teva_data.errors import MediaError
from teva_data.inputs import decoders
from teva_data.leaving_out import read_inputs
from teva_data.recipe import Recipe
from teva_data.rendering import Renderer

from .caching import Encoding, Passes
from .distributed import Processes
from .model import Retriever
from .pair import RetrieverPair

logger = logging.getLogger(__name__)


class Evaluation:
    """The judged queries of a split and a small corpus for them, of each dataset that has the split.

    Args:
        recipe: resolved; ``train.eval_*`` say what is evaluated.
        datasets: those of ``recipe.data.listed()``.
        renderer: how texts become tokens.
        processes: those that share the encoding.
        sharded: whether a pass through the model is an exchange, so that all must make equally many.

    Raises:
        RecipeError: no dataset has the split.
        DataError: a split without judgements, or judgements that the corpus or the split does not know.
    """

    def __init__(
        self,
        recipe: Recipe,
        datasets: Sequence[Dataset],
        renderer: Renderer,
        processes: Processes | None = None,
        sharded: bool = False,
    ) -> None:
        self.parts, self.sharded = dev_sets(recipe, datasets), sharded
        self.renderer, self.processes = renderer, processes or Processes()
        self._skips, self._decoders = recipe.data.bad_pictures == "skip", decoders(recipe.data.picture_workers)
        self._told = set[str]()

    @torch.no_grad()
    def measure(self, model: Retriever | RetrieverPair, passes: Passes) -> float:
        """Mean nDCG@10 of the queries of each dataset, and of these the mean; the same in all processes.

        The model is left in training mode where it was. Texts have the length that they are served with: the renderer's
        one limit for queries and documents.
        """
        training = model.training
        model.eval()
        try:
            return float(np.mean([self._measure(part, model, passes) for part in self.parts]))
        finally:
            model.train(training)

    def _measure(self, part: DevSet, model: Retriever | RetrieverPair, passes: Passes) -> float:
        queries = self._vectors(
            [self.renderer.query(*each) for each in part.queries], model.of("query"), passes, "query"
        )
        texts = [self.renderer.document(*each) for each in part.documents]
        documents = self._vectors(texts, model.of("document"), passes, "document")
        value = 0.0
        with self.processes.together():
            if self.processes.main:
                value = part.score(queries, documents)
        return self.processes.totals(value)[0]

    def _vectors(self, texts: Sequence[str], model: Retriever, passes: Passes, role: str) -> NDArray[np.float32]:
        """float32 [N, H] of all texts, each process encoding its part."""
        own = slice(*self.processes.span(len(texts)))
        bad: dict[int, MediaError] | None = {} if self._skips else None
        with self.processes.together():
            ids = read_inputs(self.renderer, texts[own], workers=self._decoders, bad=bad, keep=False)
        for problem in dict.fromkeys(map(str, (bad or {}).values())):
            if problem not in self._told:
                logger.warning("measured as if it were empty: %s", problem)
                self._told.add(problem)
        # One pass alone: nothing is kept for another.
        encoding = Encoding(model, ids, dataclasses.replace(passes, cached=True, keep_vision=False), role)
        with self.processes.together(exchanging=self.sharded):
            if self.sharded:
                encoding.agree(self.processes)
            encoding.forward()
        vectors = encoding.vectors
        dim = self.processes.largest(vectors.shape[1])
        gathered = self.processes.gather(vectors.reshape(-1, dim).cpu(), len(texts))
        found: NDArray[np.float32] = gathered.float().numpy()
        return found

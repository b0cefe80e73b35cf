"""Two retrievers that are trained as one model: queries and documents have encoders of their own (DPR).

Karpukhin et al., "Dense Passage Retrieval for Open-Domain Question Answering" (arXiv 2004.04906).
"""

from __future__ import annotations

import torch
from teva_data.artifact import Artifact
from teva_data.pair import ArtifactPair
from teva_data.recipe import Recipe
from torch import nn

from .model import Retriever


class RetrieverPair(nn.Module):
    """The encoders of queries and of documents; no weight is shared.

    Args:
        query: encodes queries.
        document: encodes documents.
    """

    def __init__(self, query: Retriever, document: Retriever) -> None:
        super().__init__()
        self.query, self.document = query, document

    def of(self, role: str) -> Retriever:
        """What encodes a role."""
        return self.query if role == "query" else self.document

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.query.device


def for_training(
    base: Artifact | ArtifactPair, recipe: Recipe, device: torch.device, place: torch.device | None = None
) -> Retriever | RetrieverPair:
    """The model that a recipe trains; arguments and errors are those of :meth:`Retriever.for_training`."""
    if isinstance(base, Artifact):
        return Retriever.for_training(base, recipe, device, place)
    return RetrieverPair(
        *(Retriever.for_training(base.of(role), recipe, device, place) for role in ("query", "document"))
    )


def base_record(base: Artifact | ArtifactPair) -> dict[str, object]:
    """What ``teva.json`` says of the model that training started from."""
    if isinstance(base, Artifact):
        return {"name": base.name, "revision": base.revision, "fingerprint": base.fingerprint}
    halves = {role: base_record(base.of(role)) for role in ("query", "document")}
    return {**halves, "fingerprint": base.fingerprint}

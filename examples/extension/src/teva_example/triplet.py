"""The triplet loss over cosines, with the batch's hardest negative for each query.

Schroff, Kalenichenko and Philbin, "FaceNet" (arXiv 1503.03832), section 3.1. Legend: Q queries, D documents of the
global batch, q own queries, H hidden size.
"""

from __future__ import annotations

from pydantic import Field

import torch
from teva_data.recipe import LossSection
from teva_data.sections import Section, check_section
from teva_torch.losses import Targets
from torch import Tensor


class TripletOptions(Section):
    """``loss.options`` of a recipe that names this loss; an unknown one is an error with the nearest name."""

    margin: float = Field(0.2, gt=0, description="how much nearer than any other document the positive is to be")


class Triplet:
    """max(0, margin + hardest negative - positive), summed over the own queries and divided by Q.

    Args:
        margin: of cosines.
    """

    def __init__(self, margin: float) -> None:
        self.margin = margin

    @classmethod
    def from_settings(cls, settings: LossSection) -> Triplet:
        """The entry point's factory."""
        options: TripletOptions = check_section(TripletOptions, settings.options, "loss.options")
        return cls(options.margin)

    def __call__(self, queries: Tensor, documents: Tensor, targets: Targets) -> Tensor:
        """The loss, float32; queries [Q, H] and documents [D, H] of the whole batch.

        Raises:
            ValueError: shapes that do not fit together.
        """
        targets.check(queries, documents)
        own = torch.nn.functional.normalize(queries[slice(*targets.own)].float(), dim=1)
        cosines = own @ torch.nn.functional.normalize(documents.float(), dim=1).T  # [q, D]
        rows = torch.arange(len(own), device=own.device)
        positive = cosines[rows, targets.positives]
        allowed = torch.ones_like(cosines, dtype=torch.bool)
        allowed[rows, targets.positives] = False
        # Documents that are neither: other positives of the query, and of queries with the same text.
        allowed[targets.excluded[:, 0], targets.excluded[:, 1]] = False
        hardest = cosines.masked_fill(~allowed, -torch.inf).amax(dim=1)
        return (self.margin + hardest - positive).clamp(min=0).sum() / len(queries)

"""InfoNCE over all documents of the global batch.

van den Oord, Li and Vinyals, "Representation Learning with Contrastive Predictive Coding" (arXiv 1807.03748),
equation 4, with in-batch negatives as in Karpukhin et al., "Dense Passage Retrieval for Open-Domain Question
Answering" (EMNLP 2020), section 3.2. The other directions are those of Li et al., "Towards General Text Embeddings with
Multi-stage Contrastive Learning" (GTE, arXiv 2308.03281), section 3.3: terms of the same sum, not losses of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

from pydantic import Field

import torch
from teva_data.recipe import LossSection
from teva_data.sections import Section, check_section
from torch import Tensor, nn

from .exclusion import ListedPairs, OtherQueries
from .targets import Targets
from .tiled import group_similarity, log_sum_exp, tile_side

Direction: TypeAlias = Literal["query_to_document", "document_to_query", "query_to_query", "document_to_document"]
_MOST_SCALE = 100.0


def infonce(
    queries: Tensor,
    documents: Tensor,
    targets: Targets,
    *,
    temperature: float | Tensor,
    directions: Sequence[Direction] = ("query_to_document",),
    margin: float | None = None,
    ratio: float | None = None,
    tile: int | None = None,
) -> Tensor:
    """Sum over the own queries of log Z - s / temperature, divided by Q; s is the similarity to the positive.

    Z is the sum of exp(similarity / temperature) over

    - ``query_to_document``: the query and every document that is not excluded for it;
    - ``query_to_query``: the query and every other query, those left out that share a positive with it;
    - ``document_to_query``: the positive and every query that it is no positive of, and the query itself, so that
      the pair of query and positive stands in Z twice (as in GTE's equation);
    - ``document_to_document``: the positive and every document that is neither excluded nor in the query's own group.

    The matrices of similarities are never whole, see :mod:`.tiled`: memory is linear in Q and D.

    Args:
        queries: [Q, H] of any float type; similarities are float32.
        documents: [D, H], each document once.
        targets: of the own queries.
        temperature: positive; a tensor of no dimension where it is learned.
        directions: which terms Z has; ``query_to_document`` is always one.
        margin: a pair whose similarity is above s + margin is left out as a false negative; no gradient goes through
            the decision, and the positive is never left out.
        ratio: the same for similarities above ratio * s.
        tile: side of a tile, see :func:`.tiled.tile_side`.

    Returns:
        Scalar float32.

    Raises:
        ValueError: shapes that do not fit together, directions without the first, or targets that a direction lacks.
    """
    targets.check(queries, documents)
    if "query_to_document" not in directions:
        raise ValueError(f"directions {list(directions)}; expected query_to_document among them")
    side = tile_side(tile, queries.device)
    q, d = queries.float(), documents.float()
    rows = q[slice(*targets.own)] / temperature
    positive = group_similarity(rows, d, targets.positives[:, None])[:, 0]
    limit = _limit(positive.detach(), temperature, margin, ratio)
    listed = _listed(targets, side, len(d), own_group=False)
    sums = [log_sum_exp(rows, d, listed, limit=limit, tile=side)]
    if "query_to_query" in directions:
        others = OtherQueries(targets, len(d), both=True)
        sums.append(log_sum_exp(rows, q, others, limit=limit, tile=side))
    if {"document_to_query", "document_to_document"} & set(directions):
        columns = d[targets.positives] / temperature
        if "document_to_query" in directions:
            others = OtherQueries(targets, len(d), both=False)
            sums += [positive, log_sum_exp(columns, q, others, limit=limit, tile=side)]
        if "document_to_document" in directions:
            listed = _listed(targets, side, len(d), own_group=True)
            sums.append(log_sum_exp(columns, d, listed, limit=limit, tile=side))
    # As a function of the difference it keeps its digits where the positive is far above all else.
    against = sums[0] if len(sums) == 1 else torch.stack(sums).logsumexp(dim=0)
    return nn.functional.softplus(against - positive).sum() / len(queries)


class InfoNCEOptions(Section):
    """The recipe's ``loss.options`` for this loss."""

    tile: int | None = Field(None, ge=1, description="side of the tiles of similarities; empty: by the device")


class InfoNCE(nn.Module):
    """:func:`infonce` with its settings, and with its temperature where that is learned.

    The learned number is log(1 / temperature), clamped so that similarities are never multiplied by more than 100
    (Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv 2103.00020, section
    2.5). It is clamped in place before each use: a clamp inside the graph would give it no gradient to come back by.

    Args:
        temperature: where it starts, if it is learned; at least 0.01 then.
        learn_temperature: whether it is a parameter.
        directions: see :func:`infonce`.
        margin: likewise.
        ratio: likewise.
        tile: likewise.
    """

    def __init__(
        self,
        temperature: float = 0.02,
        *,
        learn_temperature: bool = False,
        directions: Sequence[Direction] = ("query_to_document",),
        margin: float | None = None,
        ratio: float | None = None,
        tile: int | None = None,
    ) -> None:
        super().__init__()
        if not temperature > 0 or (learn_temperature and temperature < 1 / _MOST_SCALE):
            raise ValueError(f"temperature {temperature}; expected above 0, and at least 0.01 where it is learned")
        self.fixed = temperature
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature))) if learn_temperature else None
        self.directions, self.margin, self.ratio, self.tile = tuple(directions), margin, ratio, tile

    @classmethod
    def from_settings(cls, settings: LossSection) -> InfoNCE:
        """The loss that a recipe's ``loss`` section names ``infonce``; see :class:`InfoNCEOptions`."""
        options: InfoNCEOptions = check_section(InfoNCEOptions, settings.options, "loss.options")
        return cls(
            settings.temperature, learn_temperature=settings.learn_temperature, directions=settings.directions,
            margin=settings.false_negative_margin, ratio=settings.false_negative_ratio, tile=options.tile,
        )  # fmt: skip

    @property
    def temperature(self) -> float | Tensor:
        """What similarities are divided by: a number, or a tensor of no dimension with a gradient."""
        if self.log_scale is None:
            return self.fixed
        with torch.no_grad():
            self.log_scale.clamp_(max=math.log(_MOST_SCALE))
        return (-self.log_scale).exp()

    def forward(self, queries: Tensor, documents: Tensor, targets: Targets) -> Tensor:
        """See :func:`infonce`."""
        return infonce(
            queries, documents, targets, temperature=self.temperature, directions=self.directions,
            margin=self.margin, ratio=self.ratio, tile=self.tile,
        )  # fmt: skip


def _listed(targets: Targets, side: int, columns: int, *, own_group: bool) -> ListedPairs:
    """The excluded pairs and the positives, which the loss adds itself; or with them each query's own negatives."""
    out = targets.positives[:, None]
    if own_group:
        out = torch.cat([out, targets.groups], dim=1)
    row = torch.arange(len(out), device=out.device)[:, None].expand_as(out)
    pairs = torch.stack([row, out], dim=-1)[out >= 0]
    return ListedPairs(torch.cat([targets.excluded, pairs]), side, columns)


def _limit(positive: Tensor, temperature: float | Tensor, margin: float | None, ratio: float | None) -> Tensor | None:
    """float32 [q]: the similarity / temperature above which a pair is left out; None for no limit."""
    t = temperature.detach() if isinstance(temperature, Tensor) else temperature
    limits = [] if margin is None else [positive + margin / t]
    if ratio is not None:
        limits.append(positive * ratio)
    return torch.stack(limits).amin(dim=0) if limits else None

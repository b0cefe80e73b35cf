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

import jax.numpy as jnp
from pydantic import Field

import jax
from teva_data.recipe import LossSection
from teva_data.sections import Section, check_section

from .exclusion import listed, other_queries
from .targets import Learned, Loss, Targets
from .tiled import group_similarity, log_sum_exp

Direction: TypeAlias = Literal["query_to_document", "document_to_query", "query_to_query", "document_to_document"]
_MOST_SCALE = 100.0


def infonce(
    queries: jax.Array,
    documents: jax.Array,
    targets: Targets,
    *,
    temperature: float | jax.Array,
    directions: Sequence[Direction] = ("query_to_document",),
    margin: float | None = None,
    ratio: float | None = None,
    tile: int | None = None,
) -> jax.Array:
    """Mean over the queries of log Z - s / temperature; s is the similarity to the positive.

    Z is the sum of exp(similarity / temperature) over

    - ``query_to_document``: the query and every document that is not excluded for it;
    - ``query_to_query``: the query and every other query, those left out that share a positive with it;
    - ``document_to_query``: the positive and every query that it is no positive of, and the query itself, so that
      the pair of query and positive stands in Z twice (as in GTE's equation);
    - ``document_to_document``: the positive and every document that is neither excluded nor in the query's own group.

    Args:
        queries: [Q, H] of any float type; similarities are float32.
        documents: [D, H], each document once.
        targets: of all queries.
        temperature: positive; an array of no dimension where it is learned.
        directions: which terms Z has; ``query_to_document`` is always one.
        margin: a pair whose similarity is above s + margin is left out as a false negative; no gradient goes through
            the decision, and the positive is never left out.
        ratio: the same for similarities above ratio * s.
        tile: rows of similarities at a time, see :mod:`.tiled`.

    Returns:
        Scalar float32.

    Raises:
        ValueError: shapes that do not fit together, or directions without the first.
    """
    targets.check(queries, documents)
    if "query_to_document" not in directions:
        raise ValueError(f"directions {list(directions)}; expected query_to_document among them")
    q, d = queries.astype(jnp.float32), documents.astype(jnp.float32)
    width = len(d)
    rows = q / temperature
    positive = group_similarity(rows, d, targets.positives[:, None])[:, 0]
    limit = _limit(positive, temperature, margin, ratio)
    sums = [log_sum_exp(rows, d, listed(targets, width, own_group=False), limit=limit, tile=tile)]
    if "query_to_query" in directions:
        sums.append(log_sum_exp(rows, q, other_queries(targets, width, both=True), limit=limit, tile=tile))
    if {"document_to_query", "document_to_document"} & set(directions):
        columns = d[jnp.maximum(targets.positives, 0)] / temperature
        if "document_to_query" in directions:
            others = other_queries(targets, width, both=False)
            sums += [positive, log_sum_exp(columns, q, others, limit=limit, tile=tile)]
        if "document_to_document" in directions:
            out = listed(targets, width, own_group=True)
            sums.append(log_sum_exp(columns, d, out, limit=limit, tile=tile))
    # As a function of the difference it keeps its digits where the positive is far above all else.
    against = sums[0] if len(sums) == 1 else jax.nn.logsumexp(jnp.stack(sums), axis=0)
    each = jnp.where(targets.positives >= 0, jax.nn.softplus(against - positive), 0)
    return each.sum() / targets.query_count


class InfoNCEOptions(Section):
    """The recipe's ``loss.options`` for this loss."""

    tile: int | None = Field(None, ge=1, description="rows of similarities that are there at a time; empty: 1024")


class InfoNCE(Loss):
    """:func:`infonce` with its settings, and with its temperature where that is learned.

    The learned number is log(1 / temperature), clamped so that similarities are never multiplied by more than 100
    (Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv 2103.00020, section
    2.5). It is clamped between steps: a clamp inside the loss would give it no gradient to come back by.

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
        if not temperature > 0 or (learn_temperature and temperature < 1 / _MOST_SCALE):
            raise ValueError(f"temperature {temperature}; expected above 0, and at least 0.01 where it is learned")
        self.temperature, self.learns = temperature, learn_temperature
        self.directions, self.margin, self.ratio, self.tile = tuple(directions), margin, ratio, tile

    @classmethod
    def from_settings(cls, settings: LossSection) -> InfoNCE:
        """The loss that a recipe's ``loss`` section names ``infonce``; see :class:`InfoNCEOptions`."""
        options: InfoNCEOptions = check_section(InfoNCEOptions, settings.options, "loss.options")
        return cls(
            settings.temperature, learn_temperature=settings.learn_temperature, directions=settings.directions,
            margin=settings.false_negative_margin, ratio=settings.false_negative_ratio, tile=options.tile,
        )  # fmt: skip

    def initial(self) -> dict[str, float]:
        """See :class:`Loss`."""
        return {"log_scale": -math.log(self.temperature)} if self.learns else {}

    def clamp(self, learned: Learned) -> dict[str, jax.Array]:
        """See :class:`Loss`."""
        return {name: jnp.minimum(value, math.log(_MOST_SCALE)) for name, value in learned.items()}

    def __call__(
        self, queries: jax.Array, documents: jax.Array, targets: Targets, learned: Learned | None = None
    ) -> jax.Array:
        """See :func:`infonce`."""
        temperature = jnp.exp(-self.values(learned)["log_scale"]) if self.learns else self.temperature
        return infonce(
            queries, documents, targets, temperature=temperature, directions=self.directions,
            margin=self.margin, ratio=self.ratio, tile=self.tile,
        )  # fmt: skip


def _limit(
    positive: jax.Array, temperature: float | jax.Array, margin: float | None, ratio: float | None
) -> jax.Array | None:
    """float32 [Q]: the similarity / temperature above which a pair is left out; None for no limit."""
    limits = [] if margin is None else [positive + margin / temperature]
    if ratio is not None:
        limits.append(positive * ratio)
    return jax.lax.stop_gradient(jnp.stack(limits).min(axis=0)) if limits else None

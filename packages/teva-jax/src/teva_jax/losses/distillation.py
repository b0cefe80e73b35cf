"""Distillation: a query's similarities to the documents of its own group follow a teacher's scores of them.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), section 2, for the
divergence; Hofstätter et al., "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge
Distillation" (arXiv 2010.02666), section 3.1, for the margins.
"""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp

import jax
from teva_data.errors import RecipeError
from teva_data.recipe import LossSection

from .targets import Learned, Loss, Targets
from .tiled import group_similarity


def kl_divergence(
    queries: jax.Array,
    documents: jax.Array,
    targets: Targets,
    *,
    student_temperature: float,
    teacher_temperature: float,
) -> jax.Array:
    """Mean over the queries of KL(softmax(score / teacher's t) || softmax(similarity / student's t)).

    The softmaxes are over the query's own group: its positive and its listed negatives.

    Args:
        queries: [Q, H] of any float type; similarities are float32.
        documents: [D, H].
        targets: of all queries, every document of a group scored: one that is not makes the loss NaN.
        student_temperature: positive.
        teacher_temperature: positive.

    Returns:
        Scalar float32.

    Raises:
        ValueError: shapes that do not fit together, or groups of the positive alone.
    """
    similarity, there = _student(queries, documents, targets)
    student = _log_softmax(similarity / student_temperature, there)
    teacher = _log_softmax(targets.scores / teacher_temperature, there)
    return jnp.where(there, jnp.exp(teacher) * (teacher - student), 0).sum() / targets.query_count


def margin_mse(
    queries: jax.Array,
    documents: jax.Array,
    targets: Targets,
    *,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
) -> jax.Array:
    """Mean over the queries of the mean squared difference of the two margins.

    A margin is the positive's score less a negative's; the inner mean is over the query's own listed negatives, and 0
    where it has none.

    Args:
        queries: [Q, H] of any float type; similarities are float32.
        documents: [D, H].
        targets: of all queries, every document of a group scored: one that is not makes the loss NaN.
        student_temperature: similarities are divided by it.
        teacher_temperature: scores are divided by it.

    Returns:
        Scalar float32.

    Raises:
        ValueError: shapes that do not fit together, or groups of the positive alone.
    """
    similarity, there = _student(queries, documents, targets)
    difference = similarity / student_temperature - jnp.where(there, targets.scores / teacher_temperature, 0)
    errors = jnp.where(there[:, 1:], jnp.square(difference[:, :1] - difference[:, 1:]), 0)
    counts = jnp.maximum(there[:, 1:].sum(axis=1), 1)
    return (errors.sum(axis=1) / counts).sum() / targets.query_count


class _Distillation(Loss):
    """A loss of the teacher's scores."""

    needs_scores: ClassVar[bool] = True

    def __init__(self, student_temperature: float = 1.0, teacher_temperature: float = 1.0) -> None:
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature


class KLDivergence(_Distillation):
    """:func:`kl_divergence` with its settings."""

    @classmethod
    def from_settings(cls, settings: LossSection) -> KLDivergence:
        """The loss that a recipe's ``loss`` section names ``kl``."""
        _refuse_contrastive(settings)
        return cls(settings.student_temperature or settings.temperature, settings.teacher_temperature)

    def __call__(
        self, queries: jax.Array, documents: jax.Array, targets: Targets, learned: Learned | None = None
    ) -> jax.Array:
        """See :func:`kl_divergence`."""
        return kl_divergence(
            queries, documents, targets,
            student_temperature=self.student_temperature, teacher_temperature=self.teacher_temperature,
        )  # fmt: skip


class MarginMSE(_Distillation):
    """:func:`margin_mse` with its settings."""

    @classmethod
    def from_settings(cls, settings: LossSection) -> MarginMSE:
        """The loss that a recipe's ``loss`` section names ``margin_mse``."""
        _refuse_contrastive(settings)
        return cls(settings.student_temperature or 1.0, settings.teacher_temperature)

    def __call__(
        self, queries: jax.Array, documents: jax.Array, targets: Targets, learned: Learned | None = None
    ) -> jax.Array:
        """See :func:`margin_mse`."""
        return margin_mse(
            queries, documents, targets,
            student_temperature=self.student_temperature, teacher_temperature=self.teacher_temperature,
        )  # fmt: skip


def _student(queries: jax.Array, documents: jax.Array, targets: Targets) -> tuple[jax.Array, jax.Array]:
    """Similarities float32 [Q, 1 + n] of the groups, and which places of them hold a document."""
    targets.check(queries, documents)
    if targets.groups.shape[1] < 2:
        raise ValueError("targets.groups hold the positives alone; a distillation needs listed negatives")
    there = targets.groups >= 0
    return group_similarity(queries.astype(jnp.float32), documents.astype(jnp.float32), targets.groups), there


def _log_softmax(values: jax.Array, there: jax.Array) -> jax.Array:
    """Over the places that are there, the positive's among them; elsewhere very small and finite."""
    lowest = float(jnp.finfo(values.dtype).min) / 4
    return jax.nn.log_softmax(jnp.where(there, values, lowest), axis=1)


def _refuse_contrastive(settings: LossSection) -> None:
    """Settings that would have no effect are errors, where this is the whole loss and not added to another."""
    if settings.name not in ("kl", "margin_mse"):
        return
    for key in ("learn_temperature", "directions", "false_negative_margin", "false_negative_ratio", "options"):
        if getattr(settings, key) != LossSection.model_fields[key].get_default(
            call_default_factory=True, validated_data={}
        ):
            raise RecipeError(f"loss.{key}: of no use with loss.name: {settings.name}")

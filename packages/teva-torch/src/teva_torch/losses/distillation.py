"""Distillation: a query's similarities to the documents of its own group follow a teacher's scores of them.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), section 2, for the
divergence; Hofstätter et al., "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge
Distillation" (arXiv 2010.02666), section 3.1, for the margins.
"""

from __future__ import annotations

import torch
from teva_data.errors import RecipeError
from teva_data.recipe import LossSection
from torch import Tensor, nn

from .targets import Targets
from .tiled import group_similarity


class MissingScoresError(ValueError):
    """A query whose group has documents that the teacher has not scored.

    Args:
        query: which, counted from 0 among the own queries.
        first: the first own query in the global batch.
    """

    def __init__(self, query: int, first: int = 0) -> None:
        self.query = query
        super().__init__(f"query {first + query} of the batch: a document of its group has no teacher's score")


def kl_divergence(
    queries: Tensor, documents: Tensor, targets: Targets, *, student_temperature: float, teacher_temperature: float
) -> Tensor:
    """Sum over the own queries of KL(softmax(score / teacher's t) || softmax(similarity / student's t)), divided by Q.

    The softmaxes are over the query's own group: its positive and its listed negatives.

    Args:
        queries: [Q, H] of any float type; similarities are float32.
        documents: [D, H].
        targets: of the own queries, every document of a group scored.
        student_temperature: positive.
        teacher_temperature: positive.

    Returns:
        Scalar float32.

    Raises:
        MissingScoresError: a document of a group has no score.
        ValueError: shapes that do not fit together, or groups of the positive alone.
    """
    similarity, there = _student(queries, documents, targets)
    student = _log_softmax(similarity / student_temperature, there)
    teacher = _log_softmax(targets.scores / teacher_temperature, there)
    return (teacher.exp() * (teacher - student)).where(there, 0).sum() / len(queries)


def margin_mse(
    queries: Tensor,
    documents: Tensor,
    targets: Targets,
    *,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
) -> Tensor:
    """Sum over the own queries of the mean squared difference of the two margins, divided by Q.

    A margin is the positive's score less a negative's; the mean is over the query's own listed negatives, and 0 where
    it has none.

    Args:
        queries: [Q, H] of any float type; similarities are float32.
        documents: [D, H].
        targets: of the own queries, every document of a group scored.
        student_temperature: similarities are divided by it.
        teacher_temperature: scores are divided by it.

    Returns:
        Scalar float32.

    Raises:
        MissingScoresError: a document of a group has no score.
        ValueError: shapes that do not fit together, or groups of the positive alone.
    """
    similarity, there = _student(queries, documents, targets)
    difference = similarity / student_temperature - (targets.scores / teacher_temperature).where(there, 0)
    errors = (difference[:, :1] - difference[:, 1:]).square().where(there[:, 1:], 0)
    counts = there[:, 1:].sum(dim=1).clamp(min=1)
    return (errors.sum(dim=1) / counts).sum() / len(queries)


class KLDivergence(nn.Module):
    """:func:`kl_divergence` with its settings."""

    def __init__(self, student_temperature: float, teacher_temperature: float = 1.0) -> None:
        super().__init__()
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature

    @classmethod
    def from_settings(cls, settings: LossSection) -> KLDivergence:
        """The loss that a recipe's ``loss`` section names ``kl``."""
        _refuse_contrastive(settings)
        return cls(settings.student_temperature or settings.temperature, settings.teacher_temperature)

    def forward(self, queries: Tensor, documents: Tensor, targets: Targets) -> Tensor:
        """See :func:`kl_divergence`."""
        return kl_divergence(
            queries, documents, targets,
            student_temperature=self.student_temperature, teacher_temperature=self.teacher_temperature,
        )  # fmt: skip


class MarginMSE(nn.Module):
    """:func:`margin_mse` with its settings."""

    def __init__(self, student_temperature: float = 1.0, teacher_temperature: float = 1.0) -> None:
        super().__init__()
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature

    @classmethod
    def from_settings(cls, settings: LossSection) -> MarginMSE:
        """The loss that a recipe's ``loss`` section names ``margin_mse``."""
        _refuse_contrastive(settings)
        return cls(settings.student_temperature or 1.0, settings.teacher_temperature)

    def forward(self, queries: Tensor, documents: Tensor, targets: Targets) -> Tensor:
        """See :func:`margin_mse`."""
        return margin_mse(
            queries, documents, targets,
            student_temperature=self.student_temperature, teacher_temperature=self.teacher_temperature,
        )  # fmt: skip


def _student(queries: Tensor, documents: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """Similarities float32 [q, 1 + n] of the groups, and which places of them hold a document."""
    targets.check(queries, documents)
    if targets.groups.shape[1] < 2:
        raise ValueError("targets.groups hold the positives alone; a distillation needs listed negatives")
    there = targets.groups >= 0
    missing = (there & targets.scores.isnan()).any(dim=1).nonzero()
    if len(missing):
        raise MissingScoresError(int(missing[0]), targets.own[0])
    own = queries[slice(*targets.own)].float()
    return group_similarity(own, documents.float(), targets.groups), there


def _log_softmax(values: Tensor, there: Tensor) -> Tensor:
    """Over the places that are there, the positive's among them; elsewhere very small and finite."""
    lowest = torch.finfo(values.dtype).min / 4
    return values.where(there, lowest).log_softmax(dim=1)


def _refuse_contrastive(settings: LossSection) -> None:
    """Settings that would have no effect are errors, where this is the whole loss and not added to another."""
    if settings.name not in ("kl", "margin_mse"):
        return
    for key in ("learn_temperature", "directions", "false_negative_margin", "false_negative_ratio", "options"):
        if getattr(settings, key) != LossSection.model_fields[key].get_default(
            call_default_factory=True, validated_data={}
        ):
            raise RecipeError(f"loss.{key}: of no use with loss.name: {settings.name}")

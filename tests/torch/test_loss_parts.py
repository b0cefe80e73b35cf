"""Distillation, Matryoshka, weighted sums, and what a recipe makes of them."""

from __future__ import annotations

import dataclasses
import math
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import losses as reference

import torch
from teva_data import plugins as registry
from teva_data.dataset import Dataset
from teva_data.errors import RecipeError, TevaError
from teva_data.plan import BatchPlan
from teva_data.recipe import LossSection
from teva_torch import plugins
from teva_torch.losses import (
    InfoNCE,
    KLDivergence,
    MarginMSE,
    Matryoshka,
    MissingScoresError,
    Targets,
    WeightedSum,
    build_loss,
    kl_divergence,
    margin_mse,
)
from teva_torch.training import train

from .loss_cases import agree, gradients, make_case, relative


def _kl(case, own, student, teacher):
    return lambda q, d: reference.kl_divergence(q, d, case.groups, case.scores, own, student, teacher)


def _margins(case, own, student=1.0, teacher=1.0):
    return lambda q, d: reference.margin_mse(q, d, case.groups, case.scores, own, student, teacher)


def _contrastive(case, own, t):
    return lambda q, d: reference.infonce(
        q, d, case.positive, case.relevant, case.groups, own, t, ("query_to_document",)
    )


@pytest.mark.parametrize("own", [(0, 5), (1, 4), (5, 5)])
def test_distillation_is_the_oracles(own):
    for seed in range(3):
        case = make_case(seed)
        agree(KLDivergence(0.2, 1.5), _kl(case, own, 0.2, 1.5), case, own)
        agree(MarginMSE(), _margins(case, own), case, own)
        agree(MarginMSE(0.1, 3.0), _margins(case, own, 0.1, 3.0), case, own)


@given(seed=st.integers(0, 10**6), student=st.floats(0.05, 3), teacher=st.floats(0.05, 3), n=st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_any_group_gives_the_oracles_value(seed, student, teacher, n):
    case = make_case(seed, documents=10, negatives=n)
    tensors = [part.detach() for part in case.tensors()]
    given = {"student_temperature": student, "teacher_temperature": teacher}
    for function, oracle in ((kl_divergence, _kl), (margin_mse, _margins)):
        expected = oracle(case, case.whole, student, teacher)(case.queries, case.documents)
        assert float(function(*tensors, case.targets(), **given)) == pytest.approx(expected, rel=2e-5, abs=1e-5)


def test_a_student_that_follows_its_teacher_has_nothing_to_learn():
    case = make_case(9)
    similarity = np.einsum("qh,qgh->qg", case.queries, case.documents[case.groups])
    case.scores = np.where(case.groups >= 0, 3 * similarity + 5, np.nan)
    for loss in (KLDivergence(0.1, 0.3), MarginMSE(1.0, 3.0)):
        value, *both = gradients(loss, case)
        assert float(value) == pytest.approx(0, abs=1e-6)
        assert max(float(part.abs().max()) for part in both) <= 1e-5


def test_extreme_teachers_stay_finite():
    case = make_case(3)
    case.scores = np.where(case.groups >= 0, case.scores * 1e4, np.nan)
    for loss in (KLDivergence(1e-3, 1e-2), MarginMSE()):
        assert all(part.isfinite().all() for part in gradients(loss, case))


def test_a_query_without_scores_is_named():
    case = make_case(7)
    case.groups[3, 1] = next(c for c in range(9) if c not in case.relevant[3])
    case.scores[3] = np.where(case.groups[3] >= 0, 1.0, np.nan)
    case.scores[3, 1] = np.nan
    for loss in (KLDivergence(0.1), MarginMSE()):
        with pytest.raises(MissingScoresError, match="query 3 of the batch") as caught:
            loss(*case.tensors(), case.targets((2, 5)))
        assert caught.value.query == 1, "counted among the own queries"
        assert loss(*case.tensors(), case.targets((0, 3))).isfinite()
        alone = dataclasses.replace(case, groups=case.groups[:, :1], scores=case.scores[:, :1])
        with pytest.raises(ValueError, match="listed negatives"):
            loss(*case.tensors(), alone.targets())


@pytest.mark.parametrize("normalize", [True, False])
def test_matryoshka_is_the_oracles_over_any_loss(normalize):
    case = make_case(12, normalize=normalize)
    dims, weights = [2, 6, 3], [1.0, 0.5, 2.0]
    for loss, oracle in (
        (InfoNCE(0.3, tile=3), _contrastive(case, case.whole, 0.3)),
        (KLDivergence(0.5), _kl(case, case.whole, 0.5, 1.0)),
        (MarginMSE(), _margins(case, case.whole)),
    ):
        whole = Matryoshka(loss, dims, weights, normalize=normalize)
        agree(whole, lambda q, d, o=oracle: reference.matryoshka(o, q, d, dims, weights, normalize), case)


def test_matryoshka_of_the_whole_vector_is_the_loss_itself():
    case = make_case(12)
    plain, cut = gradients(InfoNCE(0.1), case), gradients(Matryoshka(InfoNCE(0.1), [6], normalize=True), case)
    assert all(torch.equal(one, other) for one, other in zip(plain, cut, strict=True))
    value, *both = gradients(Matryoshka(InfoNCE(0.1), [2, 4], normalize=True), case, dtype=torch.bfloat16)
    assert value.dtype == torch.float32
    assert all(float(part[:, 4:].abs().max()) == 0 for part in both), "no prefix has the last two numbers"


def test_matryoshka_shares_what_its_loss_learns():
    case = make_case(12)
    loss = Matryoshka(InfoNCE(0.1, learn_temperature=True), [2, 6], normalize=True)
    (parameter,) = loss.parameters()
    loss(*case.tensors(), case.targets()).backward()
    alone = 0.0
    for dims in ([2], [6]):
        one = Matryoshka(InfoNCE(0.1, learn_temperature=True), dims, normalize=True)
        one(*case.tensors(), case.targets()).backward()
        alone += float(one.loss.log_scale.grad)
    assert float(parameter.grad) == pytest.approx(alone, rel=1e-5)


def test_wrong_dimensions_are_told():
    for dims, weights in (([], None), ([0], None), ([2, 2], None), ([2, 3], [1.0])):
        with pytest.raises(ValueError, match="dims"):
            Matryoshka(InfoNCE(), dims, weights, normalize=True)
    case = make_case(1)
    with pytest.raises(ValueError, match=r"dims \[2, 7\]; expected at most 6"):
        Matryoshka(InfoNCE(), [2, 7], normalize=True)(*case.tensors(), case.targets())


def test_a_recipe_mixes_distillation_with_the_contrastive_loss():
    case = make_case(15)
    section = LossSection(
        temperature=0.2, weight=0.25, distillation="kl", distillation_weight=0.5, teacher_temperature=2.0,
        matryoshka_dims=[3, 6], matryoshka_weights=[1, 2],
    )  # fmt: skip

    def oracle(q, d):
        first, second = _contrastive(case, case.whole, 0.2), _kl(case, case.whole, 0.2, 2.0)
        both = lambda a, b: 0.25 * first(a, b) + 0.5 * second(a, b)  # noqa: E731
        return reference.matryoshka(both, q, d, [3, 6], [1, 2], normalize=True)

    agree(build_loss(section, hidden=6, normalize=True), oracle, case)


def test_every_setting_of_the_section_reaches_the_loss():
    built = build_loss(
        LossSection(
            temperature=0.5, learn_temperature=True, directions=["query_to_document", "query_to_query"],
            false_negative_margin=0.1, false_negative_ratio=0.9, options={"tile": 7},
        ),
        hidden=6, normalize=True,
    )  # fmt: skip
    assert isinstance(built, InfoNCE)
    assert (built.directions, built.margin, built.ratio, built.tile) == (
        ("query_to_document", "query_to_query"), 0.1, 0.9, 7,
    )  # fmt: skip
    assert float(built.log_scale.detach()) == pytest.approx(math.log(2))
    kl = build_loss(LossSection(name="kl", temperature=0.5, teacher_temperature=3), hidden=6, normalize=True)
    assert (kl.student_temperature, kl.teacher_temperature) == (0.5, 3)
    margins = build_loss(LossSection(name="margin_mse", student_temperature=0.1), hidden=6, normalize=True)
    assert (margins.student_temperature, margins.teacher_temperature) == (0.1, 1)
    assert build_loss(LossSection(name="margin_mse"), hidden=6, normalize=True).student_temperature == 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "infonse"}, r"loss\.name: found 'infonse'.*Did you mean 'infonce'"),
        ({"distillation": "hinge"}, r"loss\.distillation: found 'hinge'.*Known: infonce, kl, margin_mse"),
        ({"options": {"tiel": 5}}, r"loss\.options\.tiel: unknown key\. Did you mean 'tile'"),
        ({"options": {"tile": 0}}, r"loss\.options\.tile: .*greater than or equal to 1; found 0"),
        ({"matryoshka_dims": [2, 8]}, r"loss\.matryoshka_dims: found 8; expected at most 6"),
        ({"name": "kl", "learn_temperature": True}, r"loss\.learn_temperature: of no use with loss\.name: kl"),
        ({"name": "kl", "options": {"tile": 5}}, r"loss\.options: of no use with loss\.name: kl"),
        ({"name": "margin_mse", "false_negative_ratio": 1}, r"loss\.false_negative_ratio: of no use"),
        ({"name": "margin_mse", "directions": ["query_to_document", "query_to_query"]}, r"loss\.directions: of no use"),
    ],
)
def test_a_section_that_cannot_be_built_is_told(values, words):
    with pytest.raises(RecipeError, match=words):
        build_loss(LossSection(**values), hidden=6, normalize=True)


@pytest.mark.parametrize("world", [1, 3])
def test_the_batches_of_a_plan_give_the_oracles_loss(tiny_data, world):
    directions = ("query_to_document", "document_to_query", "query_to_query", "document_to_document")
    plan = BatchPlan.of(Dataset.open(tiny_data), "train", batch_size=50, negatives=2, seed=1)
    parts = [plan.batch(2, rank, world) for rank in range(world)]
    rows = [query for part in parts for query in part.queries]
    docids = [document.docid for part in parts for document in part.documents]
    alike = [{d for other in rows if other.query_text == row.query_text for d in other.positive_document_ids}
             for row in rows]  # fmt: skip
    relevant = [{column for column, docid in enumerate(docids) if docid in right} for right in alike]
    groups = np.concatenate([part.groups for part in parts])
    assert len(set(groups[:, 0].tolist())) < 50, "a positive of two queries"
    assert any(len(right) > 1 for right in relevant)
    vectors = [torch.nn.functional.normalize(torch.randn(n, 8), dim=1) for n in (50, len(docids))]
    found = sum(float(InfoNCE(0.1, directions=directions, tile=9)(*vectors, Targets.of(part, "cpu"))) for part in parts)
    positive = groups[:, 0].tolist()
    queries, documents = (part.double().numpy() for part in vectors)
    expected = reference.infonce(queries, documents, positive, relevant, groups, (0, 50), 0.1, directions)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "section",
    [
        {"directions": "query_to_document,document_to_query,query_to_query,document_to_document"},
        {"matryoshka_dims": [8, 16], "false_negative_margin": 0.1},
    ],
)
def test_a_run_with_settings_of_the_loss(recipe, section):
    recipe["loss"] |= section
    recipe["train"] |= {"steps": 2, "save_every": 2, "log_every": 1}
    result = train(recipe)
    assert math.isfinite(result.loss)
    assert result.artifact.teva["recipe"]["loss"]["temperature"] == 0.05


def another_packages_factory(settings):
    """What another package registers: its options are its own."""
    scale = settings.options["scale"]
    return lambda queries, documents, targets: scale * (queries.float().sum() + documents.float().sum()) / len(queries)


def not_a_factory(settings):
    return settings.temperature


def test_another_package_can_add_a_loss(monkeypatch):
    points = [
        EntryPoint(name, f"{__name__}:{function.__name__}", plugins.LOSSES)
        for name, function in (("theirs", another_packages_factory), ("none", not_a_factory))
    ]
    registered = registry.entry_points
    monkeypatch.setattr(registry, "entry_points", lambda group: [*registered(group=group), *points])
    case = make_case(1)
    loss = build_loss(LossSection(name="theirs", options={"scale": 3}, distillation="kl"), hidden=6, normalize=True)
    assert isinstance(loss, WeightedSum)
    expected = 3 * (case.queries.sum() + case.documents.sum()) / 5
    expected += _kl(case, case.whole, 0.02, 1.0)(case.queries, case.documents)
    value, of_queries, _ = gradients(loss, case)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert relative(of_queries - gradients(KLDivergence(0.02), case)[1], np.full((5, 6), 3 / 5)) <= 1e-5
    points.append(EntryPoint("gone", f"{__name__}:nowhere", plugins.LOSSES))
    with pytest.raises(TevaError, match=r"the entry point gone = .*nowhere.*cannot be loaded: .*'nowhere'"):
        build_loss(LossSection(name="gone"), hidden=6, normalize=True)
    with pytest.raises(RecipeError, match=r"loss\.name: the factory 'none' gave float; expected a callable"):
        build_loss(LossSection(name="none"), hidden=6, normalize=True)

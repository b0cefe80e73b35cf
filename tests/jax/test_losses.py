"""The losses against the oracles of tests/reference: value and gradient, at every size of tile, with rows filled up."""

from __future__ import annotations

import math
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import losses as reference
from tests.reference.cases import make_case

import jax
from teva_data.errors import RecipeError
from teva_data.recipe import LossSection
from teva_jax.losses import InfoNCE, KLDivergence, MarginMSE, Matryoshka, Targets, WeightedSum, build_loss, infonce

ALL = ("query_to_document", "document_to_query", "query_to_query", "document_to_document")
WAYS = [ALL[:1], ALL[:2], (ALL[0], ALL[2]), (ALL[0], ALL[3]), ALL]


def _targets(case, more=(0, 0), pairs=16):
    """The targets of a case, and its vectors filled up with ``more`` rows that are not to count."""
    q, d = len(case.queries), len(case.documents)
    rows, columns = q + more[0], d + more[1]
    excluded = np.tile([[rows, columns]], (max(pairs, len(case.excluded)), 1))
    excluded[: len(case.excluded)] = case.excluded
    fill = ((0, more[0]), (0, 0))
    return Targets(
        positives=jnp.asarray(np.pad(case.positive, (0, more[0]), constant_values=-1), jnp.int32),
        groups=jnp.asarray(np.pad(case.groups, fill, constant_values=-1), jnp.int32),
        scores=jnp.asarray(np.pad(case.scores, fill, constant_values=np.nan), jnp.float32),
        excluded=jnp.asarray(excluded, jnp.int32),
        query_count=jnp.int32(q),
        document_count=jnp.int32(d),
    )


def _vectors(case, more):
    # Far away, so that one which counts is told at once.
    return [
        jnp.asarray(np.concatenate([part, np.full((count, part.shape[1]), 3.0)]), jnp.float32)
        for part, count in ((case.queries, more[0]), (case.documents, more[1]))
    ]


def _gradients(loss, case, more=(0, 0)):
    queries, documents = _vectors(case, more)
    value, found = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(queries, documents, _targets(case, more))
    assert value.dtype == jnp.float32
    q, d = len(case.queries), len(case.documents)
    assert not found[0][q:].any()
    assert not found[1][d:].any()
    return float(value), np.asarray(found[0])[:q].astype(float), np.asarray(found[1])[:d].astype(float)


def _relative(found, expected):
    return np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-6)


def _agree(loss, oracle, case, more=(0, 0), tolerance=1e-5):
    value, *found = _gradients(loss, case, more)
    expected = oracle(case.queries, case.documents)
    assert abs(value - expected) <= tolerance * max(1.0, abs(expected))
    by_queries = reference.numerical_gradient(lambda v: oracle(v, case.documents), case.queries)
    by_documents = reference.numerical_gradient(lambda v: oracle(case.queries, v), case.documents)
    assert _relative(np.concatenate(found), np.concatenate([by_queries, by_documents])) <= tolerance


def _oracle(case, t, directions=ALL[:1], margin=None, ratio=None):
    return lambda q, d: reference.infonce(
        q, d, case.positive, case.relevant, case.groups, case.whole, t, directions, margin, ratio
    )


@pytest.mark.parametrize("directions", WAYS)
@pytest.mark.parametrize("more", [(0, 0), (3, 5)])
def test_infonce_is_the_oracles(directions, more):
    for seed, normalize in ((0, True), (1, False)):
        case = make_case(seed, normalize=normalize)
        tile = None if more[0] else 2
        _agree(InfoNCE(0.1, directions=directions, tile=tile), _oracle(case, 0.1, directions), case, more)


@given(
    seed=st.integers(0, 10**6), t=st.floats(0.05, 2), directions=st.sampled_from(WAYS),
    margin=st.none() | st.floats(-0.5, 0.5), ratio=st.none() | st.floats(0.5, 1.5),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_any_batch_gives_the_oracles_value(seed, t, directions, margin, ratio):
    case = make_case(seed, 5, 8, negatives=2)
    found = infonce(
        *_vectors(case, (0, 0)), _targets(case), temperature=t, directions=directions, margin=margin, ratio=ratio
    )
    expected = _oracle(case, t, directions, margin, ratio)(case.queries, case.documents)
    assert float(found) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(("margin", "ratio"), [(0.05, None), (-0.2, None), (None, 0.9), (0.1, 0.95)])
def test_false_negatives_are_left_out_without_gradient(margin, ratio):
    case = make_case(11, queries=6, documents=12)
    loss = InfoNCE(0.1, directions=ALL, margin=margin, ratio=ratio, tile=5)
    _agree(loss, _oracle(case, 0.1, ALL, margin, ratio), case)
    without = _oracle(case, 0.1, ALL)(case.queries, case.documents)
    assert abs(_gradients(loss, case)[0] - without) > 1e-3, "nothing was left out"


def test_every_tile_gives_the_same():
    case = make_case(5, queries=13, documents=29, negatives=4, dim=16)
    expected = _gradients(InfoNCE(0.07, directions=ALL, margin=0.2, tile=1000), case)
    for tile in (1, 2, 5, 7, 12, 13):
        found = _gradients(InfoNCE(0.07, directions=ALL, margin=0.2, tile=tile), case, (2, 0))
        for one, other in zip(found, expected, strict=True):
            assert _relative(np.asarray(one), np.asarray(other)) <= 1e-6


def test_distillation_is_the_oracles():
    for seed, more in ((0, (0, 0)), (1, (2, 3))):
        case = make_case(seed)
        given = (case.groups, case.scores, case.whole)
        kl = partial(reference.kl_divergence, groups=given[0], scores=given[1], own=given[2])
        _agree(KLDivergence(0.2, 1.5), partial(kl, student=0.2, teacher=1.5), case, more)
        mse = partial(reference.margin_mse, groups=given[0], scores=given[1], own=given[2])
        _agree(MarginMSE(), mse, case, more)
        _agree(MarginMSE(0.1, 3.0), partial(mse, student=0.1, teacher=3.0), case, more)


def test_a_recipe_makes_a_sum_over_prefixes():
    section = LossSection(
        temperature=0.1, distillation="kl", weight=0.5, distillation_weight=2.0, student_temperature=0.2,
        matryoshka_dims=[2, 6], matryoshka_weights=[1.0, 0.3],
    )  # fmt: skip
    loss, case = build_loss(section, hidden=6, normalize=True), make_case(3)
    assert isinstance(loss, Matryoshka)
    assert isinstance(loss.loss, WeightedSum)
    assert loss.scored()

    def both(q, d):
        kl = reference.kl_divergence(q, d, case.groups, case.scores, case.whole, 0.2, 1.0)
        return 0.5 * _oracle(case, 0.1)(q, d) + 2 * kl

    _agree(loss, lambda q, d: reference.matryoshka(both, q, d, [2, 6], [1.0, 0.3], True), case)
    with pytest.raises(RecipeError, match=r"loss.matryoshka_dims: found 6; expected at most 5"):
        build_loss(section, hidden=5, normalize=True)


def test_a_learned_temperature_has_the_gradient_of_the_oracle_and_bounds():
    case = make_case(2)
    loss = build_loss(LossSection(temperature=0.05, learn_temperature=True), hidden=6, normalize=True)
    start = loss.initial()
    assert start == {"log_scale": pytest.approx(math.log(20))}

    def value(scale):
        return loss(*_vectors(case, (0, 0)), _targets(case), {"log_scale": scale})

    found = float(jax.grad(value)(jnp.float32(start["log_scale"])))
    up, down = (_oracle(case, math.exp(-(math.log(20) + e)))(case.queries, case.documents) for e in (1e-5, -1e-5))
    assert found == pytest.approx((up - down) / 2e-5, rel=1e-4)
    assert float(loss.clamp({"log_scale": jnp.float32(9.0)})["log_scale"]) == pytest.approx(math.log(100))
    both = WeightedSum([(1.0, InfoNCE(0.05, learn_temperature=True)), (2.0, KLDivergence(0.2))])
    assert both.initial() == {"0.log_scale": pytest.approx(math.log(20))}
    assert float(both.clamp({"0.log_scale": jnp.float32(9.0)})["0.log_scale"]) == pytest.approx(math.log(100))


def test_what_does_not_fit_is_told():
    case = make_case(0)
    queries, documents = _vectors(case, (0, 0))
    with pytest.raises(ValueError, match=r"targets.positives \(5,\); expected \(4,\)"):
        infonce(queries[:4], documents, _targets(case), temperature=1.0)
    with pytest.raises(ValueError, match="query_to_document among them"):
        infonce(queries, documents, _targets(case), temperature=1.0, directions=("query_to_query",))
    with pytest.raises(RecipeError, match=r"loss.directions: of no use with loss.name: kl"):
        KLDivergence.from_settings(LossSection(name="kl", directions=list(ALL)))

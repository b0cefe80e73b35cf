from __future__ import annotations

import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from teva_data import measures
from teva_data.runs import best_first

TREC = ("ndcg", "ndcg_cut.1,3,10", "recall.1,3,10", "P.1,3,10", "success.1,3,10", "map", "map_cut.1,3,10", "Rprec",
        "recip_rank")  # fmt: skip


def ours(gains, judged, level):
    found = {
        "ndcg": measures.ndcg(gains, judged),
        "map": measures.average_precision(gains, judged, level=level),
        "Rprec": measures.r_precision(gains, judged, level=level),
        "recip_rank": measures.reciprocal_rank(gains, level=level),
    }
    for k in (1, 3, 10):
        found[f"ndcg_cut_{k}"] = measures.ndcg(gains, judged, k)
        found[f"recall_{k}"] = measures.recall(gains, judged, k, level=level)
        found[f"P_{k}"] = measures.precision(gains, k, level=level)
        found[f"success_{k}"] = measures.success(gains, k, level=level)
        found[f"map_cut_{k}"] = measures.average_precision(gains, judged, k, level=level)
    return found


documents = st.integers(0, 19).map("d{}".format)
# At least one grade is 0 or more: trec_eval's code reads outside its arrays where none is.
grades = st.dictionaries(documents, st.integers(-2, 4), min_size=1, max_size=15).map(lambda judged: judged | {"z": 0})
rankings = st.lists(documents, unique=True, min_size=1, max_size=15)


@settings(deadline=None, max_examples=150)
@given(queries=st.lists(st.tuples(grades, rankings), min_size=1, max_size=6), level=st.integers(1, 3))
def test_equal_to_trec_eval(queries, level):
    """Graded, unjudged and negative judgements, queries without relevant documents, rankings shorter than k."""
    qrels = {f"q{place}": judged for place, (judged, _) in enumerate(queries)}
    run = {f"q{place}": {d: -float(r) for r, d in enumerate(ranked)} for place, (_, ranked) in enumerate(queries)}
    expected = pytrec_eval.RelevanceEvaluator(qrels, TREC, relevance_level=level).evaluate(run)
    gains, judged = measures.rank_gains([ranked for _, ranked in queries], list(qrels.values()))
    for name, values in ours(gains, judged, level).items():
        np.testing.assert_allclose(values, [expected[query][name] for query in qrels], rtol=0, atol=1e-12, err_msg=name)
        assert values.dtype == np.float64


def test_equal_to_trec_eval_on_long_rankings_with_ties():
    draw = np.random.default_rng(3)
    names = [f"doc{number}" for number in range(400)]
    qrels, run = {}, {}
    for query in range(30):
        judged = draw.choice(names, 60, replace=False)
        qrels[f"q{query}"] = {docid: int(grade) for docid, grade in zip(judged, draw.integers(0, 4, 60), strict=True)}
        found = draw.choice(names, 300, replace=False)
        run[f"q{query}"] = {docid: float(score) for docid, score in zip(found, draw.integers(0, 9, 300), strict=True)}
    expected = pytrec_eval.RelevanceEvaluator(qrels, TREC).evaluate(run)
    ranked = [[docid for docid, _ in best_first(list(found), list(found.values()))] for found in run.values()]
    gains, judged = measures.rank_gains(ranked, list(qrels.values()))
    assert gains.shape == (30, 300)
    for name, values in ours(gains, judged, 1).items():
        np.testing.assert_allclose(values, [expected[query][name] for query in qrels], rtol=0, atol=1e-12, err_msg=name)


def test_by_hand():
    gains = [[0, 2, 1], [0, 0, 0], [3, 0, 0]]
    judged = [[1, 2, 1, 0], [2], [3, 3]]
    ideal = 2 + 1 / math.log2(3) + 1 / 2
    ndcg = [(2 / math.log2(3) + 1 / 2) / ideal, 0, 3 / (3 + 3 / math.log2(3))]
    np.testing.assert_allclose(measures.ndcg(gains, judged, 3), ndcg, rtol=1e-15)
    np.testing.assert_allclose(measures.reciprocal_rank(gains), [1 / 2, 0, 1])
    np.testing.assert_allclose(measures.reciprocal_rank(gains, 1), [0, 0, 1])
    np.testing.assert_allclose(measures.average_precision(gains, judged), [(1 / 2 + 2 / 3) / 3, 0, 1 / 2])
    np.testing.assert_allclose(measures.recall(gains, judged, 2), [1 / 3, 0, 1 / 2])
    np.testing.assert_allclose(measures.precision(gains, 4), [2 / 4, 0, 1 / 4])
    np.testing.assert_allclose(measures.success(gains, 1), [0, 0, 1])
    np.testing.assert_allclose(measures.r_precision(gains, judged), [2 / 3, 0, 1 / 2])


def test_rank_gains_pads_and_forgets_nothing():
    gains, judged = measures.rank_gains([["a", "x"], [], ["c"]], [{"a": 2, "b": 1}, {"a": 1}, {"c": -1}])
    assert gains.tolist() == [[2, 0], [0, 0], [0, 0]]
    assert judged.tolist() == [[2, 1], [1, 0], [0, 0]]
    with pytest.raises(ValueError, match="1 rankings, 2 queries"):
        measures.rank_gains([["a"]], [{}, {}])


def test_nothing_retrieved_at_all():
    gains, judged = measures.rank_gains([[], []], [{"a": 1}, {"b": 2}])
    assert gains.shape == (2, 0)
    for values in ours(gains, judged, 1).values():
        assert values.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: measures.ndcg([[1, 0]], [[1], [1]]), r"\(1, 2\) and \(2, 1\)"),
        (lambda: measures.ndcg([1, 0], [[1], [1]]), "shape"),
        (lambda: measures.precision(np.zeros(3), 1), r"shape \(3,\)"),
        (lambda: measures.precision([[1]], 0), "found 0"),
        (lambda: measures.recall([[1]], [[1]], 1, level=0), "found 0"),
        (lambda: measures.success(3, 1), "found 3"),
    ],
)
def test_wrong_shapes_and_settings(call, words):
    with pytest.raises(ValueError, match=words):
        call()

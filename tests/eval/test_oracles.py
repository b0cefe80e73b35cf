"""What is scored equals pytrec_eval, called directly, and ir_measures, on runs that neither was written for."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from teva_data import measures as vectorised
from teva_data.runs import best_first
from teva_eval import score
from teva_eval.measures import parse_measure

NAMES = ("nDCG@1", "nDCG@3", "nDCG", "R@2", "R@100", "RR", "AP", "AP@2", "P@3", "Success@1", "Rprec", "Bpref", "infAP",
         "SetP", "SetR", "SetF")  # fmt: skip
DOCIDS = [f"d{number}" for number in range(12)] + ["ä", "D1", "d 1"]
# Few values, so that ties are the rule; two of them are equal as float32 and differ as float64.
SCORES = st.sampled_from([0.0, -1.0, 1.0, 1.0 + 1e-9, 2.5, 1e-30, 3.0])
RUNS = st.dictionaries(
    st.sampled_from(["q0", "q1", "q2", "q3", "q9"]),
    st.dictionaries(st.sampled_from(DOCIDS), SCORES, min_size=1, max_size=15), min_size=1,
)  # fmt: skip
QRELS = st.dictionaries(
    st.sampled_from(["q0", "q1", "q2", "q3"]),
    st.dictionaries(st.sampled_from(DOCIDS), st.sampled_from([-1, 0, 0, 1, 1, 2, 3]), min_size=1), min_size=1,
)  # fmt: skip


def alone(qrels, run, level, names=NAMES):
    """pytrec_eval as its users call it; a query that it drops, or cannot take, counts 0."""
    taken = {query_id: judged for query_id, judged in qrels.items() if max(judged.values()) >= 0}
    trec_names = {name: parse_measure(name).trec_name for name in names}
    evaluator = pytrec_eval.RelevanceEvaluator(taken, set(trec_names.values()), relevance_level=level)
    found = evaluator.evaluate(run)
    return {
        name: {query_id: found.get(query_id, {}).get(trec_name, 0.0) for query_id in qrels}
        for name, trec_name in trec_names.items()
    }


@settings(max_examples=80, deadline=None)
@given(QRELS, RUNS, st.integers(1, 2))
def test_equal_to_pytrec_eval(qrels, run, level):
    if not qrels.keys() & run.keys():
        return
    scores = score(qrels, run, NAMES, relevance_level=level)
    assert scores.per_query == alone(qrels, run, level)
    # One measure at a time, the run is cut for it alone: the values must not notice.
    for name in NAMES:
        assert score(qrels, run, [name], relevance_level=level).per_query[name] == scores.per_query[name]


@settings(max_examples=40, deadline=None)
@given(QRELS, RUNS)
def test_equal_to_ir_measures(qrels, run):
    # ir_measures hands queries to pytrec_eval that make it read outside its arrays, so those are left out here.
    qrels = {query_id: judged for query_id, judged in qrels.items() if max(judged.values()) >= 0}
    if not qrels.keys() & run.keys():
        return
    names = ["nDCG@3", "R@2", "RR", "AP(rel=2)@100", "P(rel=2)@3", "Success@1", "Rprec"]
    theirs = {str(ir_measures.parse_measure(name)): name for name in names}
    expected = {name: {} for name in names}
    for value in ir_measures.pytrec_eval.iter_calc([ir_measures.parse_measure(name) for name in names], qrels, run):
        expected[theirs[str(value.measure)]][value.query_id] = value.value
    assert score(qrels, run, names).per_query == expected


@settings(max_examples=40, deadline=None)
@given(QRELS, RUNS, st.integers(1, 3))
def test_the_numpy_measures_are_equal(qrels, run, level):
    if not qrels.keys() & run.keys():
        return
    expected = score(qrels, run, ["nDCG@3", "R@2", "RR@2", "AP", "P@3", "Success@1", "Rprec"], relevance_level=level)
    ranked = [
        [docid for docid, _ in best_first(list(found), list(found.values()))]
        for found in (run.get(query_id, {}) for query_id in qrels)
    ]
    gains, judged = vectorised.rank_gains(ranked, list(qrels.values()))
    for name, values in {
        "nDCG@3": vectorised.ndcg(gains, judged, 3), "R@2": vectorised.recall(gains, judged, 2, level=level),
        "RR@2": vectorised.reciprocal_rank(gains, 2, level=level),
        "AP": vectorised.average_precision(gains, judged, level=level),
        "P@3": vectorised.precision(gains, 3, level=level), "Success@1": vectorised.success(gains, 1, level=level),
        "Rprec": vectorised.r_precision(gains, judged, level=level),
    }.items():  # fmt: skip
        assert values == pytest.approx(list(expected.per_query[name].values()), abs=1e-12), name


def test_a_query_judged_negative_alone_counts_zero():
    """The documented rule: pytrec_eval reads outside its arrays there."""
    scores = score({"q": {"a": -1}, "r": {"a": 1}}, {"q": {"a": 1.0}, "r": {"a": 1.0}}, ["nDCG@10"])
    assert scores.per_query["nDCG@10"] == {"q": 0.0, "r": 1.0}


def test_deep_runs_with_ties_at_the_cut():
    generator = np.random.default_rng(0)
    docids = [f"d{number:04}" for number in range(1000)]
    run, qrels = {}, {}
    for number in range(40):
        scores = generator.integers(0, 30, 1000) / 8
        run[f"q{number}"] = dict(zip(docids, scores.tolist(), strict=True))
        judged = generator.choice(1000, 20, replace=False)
        qrels[f"q{number}"] = {docids[place]: int(generator.integers(-1, 4)) for place in judged}
    for names in (NAMES, ["nDCG@10"], ["R@100", "nDCG@10", "AP@100"], ["P@5"], ["RR"]):
        assert score(qrels, run, names).per_query == alone(qrels, run, 1, names)

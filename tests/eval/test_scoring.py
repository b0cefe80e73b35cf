from __future__ import annotations

import csv
import json
import logging
import math
import random
from importlib.metadata import version

import numpy as np
import pytest

from teva_data.errors import DataError, TevaError
from teva_eval import Scores, score
from teva_eval.scoring import TIES

MEASURES = ["nDCG@3", "nDCG", "R@2", "RR", "RR@2", "AP", "AP@2", "P@3", "Success@1", "Rprec"]

# Ties, a wrong rank column, a query that is missing (q3), one that is not judged (q9), one without relevant (q4).
QRELS = "q1 0 a 2\nq1 0 b 1\nq1 0 c 0\nq2 0 a 1\nq3 0 a 1\nq4 0 a 0\n"
RUN = (
    "q1 Q0 b 1 0.5 t\nq1 Q0 c 2 0.5 t\nq1 Q0 a 3 0.5 t\n"
    "q2 Q0 x 1 3.0 t\nq2 Q0 y 2 2.0 t\nq2 Q0 a 3 1.0 t\n"
    "q4 Q0 a 1 1.0 t\nq9 Q0 a 1 1.0 t\n"
)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "qrels").write_text(QRELS)
    (tmp_path / "run").write_text(RUN)
    return tmp_path / "qrels", tmp_path / "run"


def by_definition(judged, ranked, name, level=1):
    """The measures as the textbook has them, one query, in plain Python."""
    family, _, cutoff = name.partition("@")
    k = int(cutoff) if cutoff else len(ranked)
    top = ranked[:k]
    relevant = {docid for docid, grade in judged.items() if grade >= level}
    hits = [docid in relevant for docid in top]
    if family == "nDCG":
        gain = sum(max(judged.get(docid, 0), 0) / math.log2(rank + 1) for rank, docid in enumerate(top, 1))
        best = sorted((grade for grade in judged.values() if grade > 0), reverse=True)
        ideal = sum(g / math.log2(rank + 1) for rank, g in enumerate(best[:k] if cutoff else best, 1))
        return gain / ideal if ideal else 0.0
    if family == "RR":
        return next((1 / rank for rank, hit in enumerate(hits, 1) if hit), 0.0)
    if family == "P":
        return sum(hits) / k
    if family == "Success":
        return float(any(hits))
    if not relevant:
        return 0.0
    if family == "R":
        return sum(hits) / len(relevant)
    if family == "Rprec":
        return sum(docid in relevant for docid in ranked[: len(relevant)]) / len(relevant)
    assert family == "AP"
    return sum(sum(hits[:rank]) / rank for rank, hit in enumerate(hits, 1) if hit) / len(relevant)


def test_by_hand_from_files(files):
    # q1 is c, b, a after ties; q2 finds its one document third; q3 is missing; q4 has nothing to find.
    scores = score(*files, ["nDCG@3", "RR@2", "AP", "R@2", "Bpref"])
    ndcg = (1 / math.log2(3) + 2 / 2) / (2 + 1 / math.log2(3))
    assert scores.per_query["nDCG@3"] == pytest.approx({"q1": ndcg, "q2": 0.5, "q3": 0, "q4": 0}, abs=1e-15)
    assert scores.per_query["RR@2"] == {"q1": 0.5, "q2": 0, "q3": 0, "q4": 0}
    assert scores.per_query["AP"] == pytest.approx({"q1": (1 / 2 + 2 / 3) / 2, "q2": 1 / 3, "q3": 0, "q4": 0})
    assert scores.per_query["R@2"] == {"q1": 0.5, "q2": 0, "q3": 0, "q4": 0}
    # The one document judged not relevant, c, stands above both a and b; in q2 none is judged so.
    assert scores.per_query["Bpref"] == {"q1": 0, "q2": 1, "q3": 0, "q4": 0}
    assert scores.mean["nDCG@3"] == pytest.approx((ndcg + 0.5) / 4)
    assert (scores.queries, scores.missing, scores.unjudged) == (4, ("q3",), ("q9",))
    assert scores.without_relevant == ("q4",)


def test_dropping_the_missing_changes_the_mean_only(files):
    zero, drop = score(*files, ["RR"]), score(*files, ["RR"], missing="drop")
    assert drop.per_query["RR"] == {query: value for query, value in zero.per_query["RR"].items() if query != "q3"}
    assert (zero.queries, drop.queries) == (4, 3)
    assert drop.mean["RR"] == pytest.approx(zero.mean["RR"] * 4 / 3)
    assert drop.missing == zero.missing == ("q3",)


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("depth", [None, 1, 4])
def test_equal_to_the_definitions_on_random_runs(level, depth):
    draw = random.Random(level * 10 + (depth or 0))
    names = [f"d{number}" for number in range(14)]
    qrels, run, ranked = {}, {}, {}
    for number in range(60):
        query = f"q{number}"
        qrels[query] = {docid: draw.randint(-1, 3) for docid in draw.sample(names, draw.randint(1, 9))}
        found = {docid: float(draw.randint(0, 5)) for docid in draw.sample(names, draw.randint(0, 12))}
        run[query] = found
        ordered = sorted(found, key=lambda docid: (found[docid], docid), reverse=True)
        ranked[query] = ordered[:depth]
    scores = score(qrels, run, MEASURES, relevance_level=level, depth=depth)
    for name in MEASURES:
        expected = {query: by_definition(qrels[query], ranked[query], name, level) for query in qrels}
        assert scores.per_query[name] == pytest.approx(expected, abs=1e-12), name
        assert scores.mean[name] == pytest.approx(sum(expected.values()) / 60, abs=1e-12)
    assert set(scores.missing) == {query for query in run if not run[query]}


def test_all_forms_of_a_run_give_the_same(files):
    as_pairs = {"q1": [("a", 0.5), ("b", 0.5), ("c", 0.5)], "q2": [("a", 1), ("x", 3), ("y", 2)],
                "q4": [("a", 1.0)], "q9": [("a", 1.0)]}  # fmt: skip
    as_dicts = {query: dict(pairs) for query, pairs in as_pairs.items()}
    as_numpy = {query: {d: np.float32(s) for d, s in found.items()} for query, found in as_dicts.items()}
    qrels = {"q1": {"a": 2, "b": 1, "c": 0}, "q2": {"a": np.int64(1)}, "q3": {"a": 1}, "q4": {"a": 0}}
    expected = score(*files, MEASURES).per_query
    for run in (as_pairs, as_dicts, as_numpy):
        assert score(qrels, run, MEASURES).per_query == expected
        assert score(str(files[0]), run, MEASURES).per_query == expected


def test_one_query_scored_again_is_not_remembered():
    """trec_eval's code keeps the last query's ranking by the query's name."""
    qrels = {"q": {"a": 1, "b": 0}}
    assert score(qrels, {"q": {"a": 2.0, "b": 1.0}}, "RR").mean["RR"] == 1.0
    assert score(qrels, {"q": {"a": 1.0, "b": 2.0}}, "RR").mean["RR"] == 0.5
    assert score({"q": {"b": 1}}, {"q": {"a": 1.0, "b": 2.0}}, "RR").mean["RR"] == 1.0


def test_scores_closer_than_float32_are_ties():
    assert score({"q": {"a": 1}}, {"q": {"a": 1.0 + 1e-10, "b": 1.0}}, "RR").mean["RR"] == 0.5


def test_what_ends_the_process_in_trec_evals_code():
    """No judged document, NUL and surrogates in ids, huge grades: each crashes or hangs pytrec_eval."""
    scores = score({"n": {"a": -1, "b": -2}, "q": {"a": 1}}, {"n": {"a": 1.0}, "q": {"a": 1.0}}, [*MEASURES, "Bpref"])
    assert {values["n"] for values in scores.per_query.values()} == {0.0}
    assert scores.without_relevant == ("n",)
    only = score({"n": {"a": -1}}, {"n": {"a": 1.0}}, ["nDCG@10"])
    assert only.mean == {"nDCG@10": 0.0}
    for qrels, run, words in [
        ({"q": {"a\0b": 1}}, {"q": {"a": 1.0}}, "'a\\x00b'"),
        ({"q": {"a": 1}}, {"q": {"\ud800": 1.0}}, "'\\ud800'"),
        ({"q\0": {"a": 1}}, {"q\0": {"a": 1.0}}, "query_id"),
        ({"q": {"a": 10**12}}, {"q": {"a": 1.0}}, "1000000000000"),
        ({"q": {"a": 1, "": 1}}, {"q": {"a": 1.0}}, "not an id"),
        ({"q": {1: 1}}, {"q": {"a": 1.0}}, "found 1"),
    ]:
        with pytest.raises(DataError) as caught:
            score(qrels, run)
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("qrels", "run", "words"),
    [
        ({"q": {"a": 1}}, {"q": {"a": float("nan")}}, "score of 'a'"),
        ({"q": {"a": 1}}, {"q": {"a": "high"}}, "no numbers"),
        ({"q": {"a": 1}}, {"q": [("a", 1.0), ("a", 2.0)]}, "document twice for query 'q'"),
        ({"q": {"a": 1.5}}, {"q": {"a": 1.0}}, "grade of ('q', 'a')"),
        ({"q": {"a": True}}, {"q": {"a": 1.0}}, "grade"),
        ({"q": {}}, {"q": {"a": 1.0}}, "without judgements"),
        ({}, {"q": {"a": 1.0}}, "no judgements"),
        ({"q": {"a": 1}}, {}, "the run has no results"),
        ({"q": {"a": 1}}, {"q": {}}, "the run has no results"),
    ],
)
def test_bad_input(qrels, run, words):
    with pytest.raises(TevaError) as caught:
        score(qrels, run)
    assert words in str(caught.value)


def test_bad_files_keep_their_address(files):
    qrels, run = files
    run.write_text("q1\ta\t1\nq1\tb\tbest\n")
    with pytest.raises(DataError, match=r"run:2: field 'score'.*'best'"):
        score(qrels, run)
    qrels.write_text("q1 0 a 1\nq1 0 a 1\n")
    with pytest.raises(DataError, match=r"qrels:2: field 'docid'.*twice"):
        score(qrels, run)


def test_no_query_in_common_shows_both_sides(files):
    with pytest.raises(TevaError) as caught:
        score(files[0], {"dev-1": {"a": 1.0}})
    assert "'q1'" in str(caught.value)
    assert "'dev-1'" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"missing": "skip"}, "'zero'"),
        ({"relevance_level": 0}, "relevance_level=0"),
        ({"depth": 0}, "depth=0"),
        ({"measures": ["nDGC@10"]}, "'nDCG@10'"),
        ({"measures": []}, "no measures"),
    ],
)
def test_bad_settings(files, settings, words):
    with pytest.raises(TevaError) as caught:
        score(*files, **settings)
    assert words in str(caught.value)


def test_warnings_name_the_run_and_a_query(files, caplog):
    with caplog.at_level(logging.WARNING):
        score(*files)
    text = "\n".join(caplog.messages)
    assert "1 of 4 judged queries have no results (e.g. 'q3'): they count 0" in text
    assert "1 queries are not judged (e.g. 'q9')" in text
    assert "1 judged queries have no relevant document" in text
    assert str(files[1]) in text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        score({"q": {"a": 1}}, {"q": {"corpus/a": 1.0}})
    assert "none of its documents is judged: for query 'q' the qrels have e.g. 'a', the run 'corpus/a'" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        score({"q": {"a": 1}}, {"q": {"a": 1.0}})
    assert caplog.messages == []


def test_a_run_shorter_than_the_measure_is_told(caplog):
    run = {"q": {"a": 2.0, "b": 1.0}}
    with caplog.at_level(logging.INFO):
        score({"q": {"a": 1}}, run, ["nDCG@2", "R@3"])
    assert caplog.messages == ["run: lists at most 2 documents a query; R@3 would count what stands deeper too"]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        score({"q": {"a": 1}}, run, ["nDCG@2", "R@2"])
    assert caplog.messages == []


def test_table():
    scores = Scores({"nDCG@10": 0.56789, "R@100": 1.0}, {}, 1200, ("a",), (), ())
    assert scores.table().splitlines() == [
        "nDCG@10           0.5679",
        "R@100             1.0000",
        "queries             1200",
        "missing                1",
        "unjudged               0",
        "without_relevant       0",
    ]


def test_json_and_per_query_files(files, tmp_path):
    scores = score(*files, ["nDCG@3", "AP"], depth=50)
    scores.write_json(tmp_path / "scores.json")
    record = json.loads((tmp_path / "scores.json").read_text())
    assert record == scores.to_json()
    assert record["schema"] == "1"
    assert record["measures"] == ["nDCG@3", "AP"]
    assert record["mean"] == scores.mean
    assert [record[count] for count in ("queries", "missing", "unjudged", "without_relevant")] == [4, 1, 1, 1]
    assert record["settings"] == {
        "qrels": str(files[0]), "run": str(files[1]), "missing": "zero", "relevance_level": 1, "depth": 50,
        "self_hits": "keep", "ties": TIES,
    }  # fmt: skip
    assert record["versions"]["pytrec-eval-terrier"] == version("pytrec-eval-terrier")
    scores.write_per_query(tmp_path / "scores.tsv")
    with (tmp_path / "scores.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["query_id"] for row in rows] == ["q1", "q2", "q3", "q4"]
    for name in ("nDCG@3", "AP"):
        assert {row["query_id"]: float(row[name]) for row in rows} == scores.per_query[name]


def test_self_hits_are_dropped_before_the_depth_is_counted():
    qrels, run = {"q": {"a": 1}}, {"q": {"q": 3.0, "x": 2.0, "a": 1.0}}
    assert score(qrels, run, ["RR"]).mean == {"RR": 1 / 3}
    assert score(qrels, run, ["RR"], self_hits="drop").mean == {"RR": 1 / 2}
    assert score(qrels, run, ["RR"], self_hits="drop", depth=2).mean == {"RR": 1 / 2}
    assert score(qrels, run, ["RR"], depth=2).mean == {"RR": 0}
    # A query that found nothing but itself has no results.
    dropped = score({**qrels, "r": {"a": 1}}, {**run, "r": {"r": 1.0}}, ["RR"], self_hits="drop")
    assert dropped.missing == ("r",)
    with pytest.raises(TevaError, match="self_hits='maybe'"):
        score(qrels, run, self_hits="maybe")


def test_a_measure_may_have_a_level_of_its_own():
    qrels, run = {"q": {"a": 1, "b": 2}}, {"q": {"a": 2.0, "b": 1.0}}
    means = score(qrels, run, ["RR", "RR(rel=2)", "AP(rel=2)@100", "nDCG@10"]).mean
    assert list(means) == ["RR", "RR(rel=2)", "AP(rel=2)@100", "nDCG@10"]
    assert (means["RR"], means["RR(rel=2)"], means["AP(rel=2)@100"]) == (1.0, 0.5, 0.5)

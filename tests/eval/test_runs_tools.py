"""Fusing, filtering, converting."""

from __future__ import annotations

import json

import pytest

from teva_data.errors import DataError, TevaError
from teva_data.runs import read_run
from teva_eval import fuse
from teva_eval.cli import main
from teva_eval.fusing import filter_run, read_any_run, write_any_run

ONE = {"q": [("a", 9.0), ("b", 5.0), ("c", 1.0)], "r": [("a", 1.0)]}
OTHER = {"q": [("b", 0.5), ("d", 0.1)]}


def test_reciprocal_ranks_by_hand():
    fused = fuse([ONE, OTHER])
    assert [docid for docid, _ in fused["q"]] == ["b", "a", "d", "c"]
    scores = dict(fused["q"])
    assert scores["b"] == pytest.approx(1 / 62 + 1 / 61)
    assert scores["c"] == pytest.approx(1 / 63)
    assert [docid for docid, _ in fused["r"]] == ["a"]
    assert [docid for docid, _ in fuse([ONE, OTHER], weights=[10, 1], depth=2)["q"]] == ["b", "a"]
    assert dict(fuse([ONE, OTHER], k=0)["q"])["b"] == pytest.approx(1 / 2 + 1)


def test_weighted_scores_by_hand():
    # One: a 1, b .5, c 0, and d gets the lowest, 0. Other: b 1, d 0, and a and c get 0.
    scores = dict(fuse([ONE, OTHER], method="scores", weights=[1, 2])["q"])
    assert scores == pytest.approx({"a": 1.0, "b": 2.5, "c": 0.0, "d": 0.0})
    raw = dict(fuse([ONE, OTHER], method="scores", scale="none")["q"])
    assert raw == pytest.approx({"a": 9.1, "b": 5.5, "c": 1.1, "d": 1.1})
    normal = dict(fuse([ONE, ONE], method="scores", scale="zscore")["r"])
    assert normal == {"a": 0.0}


def test_a_run_fused_with_itself_keeps_its_order():
    fused = fuse([ONE, ONE], method="scores")
    assert {query: [docid for docid, _ in hits] for query, hits in fused.items()} == {
        query: [docid for docid, _ in hits] for query, hits in ONE.items()
    }


@pytest.mark.parametrize(
    ("runs", "settings", "words"),
    [
        ([ONE], {}, "two runs or more"), ([ONE, OTHER], {"weights": [1]}, "expected 2 numbers"),
        ([ONE, OTHER], {"weights": [1, 0]}, "above 0"), ([ONE, OTHER], {"method": "sum"}, "'sum'"),
        ([ONE, OTHER], {"depth": 0}, "depth from 1"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(runs, settings, words):
    with pytest.raises(TevaError, match=words):
        fuse(runs, **settings)


def test_filter():
    assert filter_run(ONE, queries={"r"}) == {"r": [("a", 1.0)]}
    assert filter_run(ONE, documents={"c"}) == {"q": [("c", 1.0)]}
    assert filter_run(ONE, without={"a"}, depth=1) == {"q": [("b", 5.0)]}
    assert filter_run(ONE, lowest=5.0) == {"q": [("a", 9.0), ("b", 5.0)]}
    assert filter_run({"a": [("a", 2.0), ("b", 1.0)]}, self_hits="drop") == {"a": [("b", 1.0)]}
    with pytest.raises(TevaError, match="nothing of the run is left"):
        filter_run(ONE, queries={"z"})


def test_every_form_comes_back(tmp_path):
    for form, name in (("tsv", "a.tsv"), ("tsv", "a.tsv.gz"), ("trec", "a.trec"), ("json", "a.json")):
        write_any_run(tmp_path / name, ONE, form)
        assert read_any_run(tmp_path / name) == ONE
    write_any_run(tmp_path / "a.ms", ONE, "msmarco")
    assert (tmp_path / "a.ms").read_text() == "q\ta\t1\nq\tb\t2\nq\tc\t3\nr\ta\t1\n"
    assert [docid for docid, _ in read_any_run(tmp_path / "a.ms", "msmarco")["q"]] == ["a", "b", "c"]
    write_any_run(tmp_path / "b.tsv", OTHER)
    with pytest.raises(DataError, match="not a rank"):
        read_any_run(tmp_path / "b.tsv", "msmarco")


@pytest.mark.parametrize("content", ["[]", "{}", '{"q": [1]}', '{"q": {"a": "x"}}', "no"])
def test_bad_json_has_an_address(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(DataError, match=r"run\.json"):
        read_any_run(tmp_path / "run.json")


def test_the_commands(tmp_path, capsys):
    write_any_run(tmp_path / "one.tsv", ONE)
    write_any_run(tmp_path / "other.json", OTHER, "json")
    one, other = str(tmp_path / "one.tsv"), str(tmp_path / "other.json")
    assert main(["fuse", one, other, "--output", str(tmp_path / "both.tsv")]) == 0
    assert read_run(tmp_path / "both.tsv")["q"][0][0] == "b"
    (tmp_path / "ids").write_text("r\n")
    assert main(["filter", one, "--queries", str(tmp_path / "ids"), "--output", str(tmp_path / "r.trec")]) == 0
    assert (tmp_path / "r.trec").read_text() == "r Q0 a 1 1.0 teva\n"
    assert main(["convert", one, "--output", str(tmp_path / "one.json")]) == 0
    assert json.loads((tmp_path / "one.json").read_text())["r"] == {"a": 1.0}
    assert main(["fuse", one, "--output", str(tmp_path / "x")]) == 1
    assert "two runs or more" in capsys.readouterr().err

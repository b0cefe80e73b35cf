"""Benchmarks from local files to records: what is done again, what is not, and what a record says."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from teva_data.errors import DataError, TevaError
from teva_data.runs import read_run
from teva_eval import Settings, Task, evaluate, rerun
from teva_eval.bm25 import BM25System
from teva_eval.cli import main
from teva_eval.preparing import prepare
from teva_eval.records import differences, read_record
from teva_eval.systems import as_system, load_system

DOCUMENTS = {
    "d1": ("Cats", "the cat sat on the mat"), "d2": ("Dogs", "a dog barks at the cat"), "d3": ("Birds", "birds sing"),
    "q2": ("", "sing to the dog"), "d5": ("", "a boat on the sea"),
}  # fmt: skip
QUERIES = {"q1": "cat mat", "q2": "sing to the dog", "q3": "boat"}
QRELS = {"q1": {"d1": 1}, "q2": {"d3": 1, "d2": 1}, "q3": {"d5": 1}}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TEVA_CACHE", str(tmp_path / "cache"))


def write_beir(place, documents=DOCUMENTS, queries=QUERIES, qrels=QRELS):
    (place / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": docid, "title": title, "text": text}) for docid, (title, text) in documents.items()]
    (place / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    lines = [json.dumps({"_id": query_id, "text": text}) for query_id, text in queries.items()]
    (place / "queries.jsonl").write_text("\n".join(lines) + "\n")
    rows = [f"{query_id}\t{docid}\t{grade}" for query_id, judged in qrels.items() for docid, grade in judged.items()]
    (place / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
    return place


@pytest.fixture
def data(tmp_path):
    return write_beir(tmp_path / "data" / "toy").parent


TOY = Task(name="toy", hub="someone/toy", revision="abc123", measures=("nDCG@10", "RR@10", "R@100"))


class Words:
    """An encoder of words, as anyone may have one: counts over a hashed vocabulary."""

    name = "words"

    def encode_queries(self, texts):
        return np.stack([self._vector(text) for text in texts])

    def encode_documents(self, documents):
        return np.stack([self._vector(f"{title} {text}") for title, text in documents])

    def _vector(self, text):
        vector = np.full(64, 0.01)
        for word in text.lower().split():
            vector[sum(word.encode()) % 64] += 1
        return vector / np.linalg.norm(vector)


def test_a_task_from_local_files(data, tmp_path):
    (record,) = evaluate(BM25System(), [TOY], tmp_path / "out", data=data)
    assert record["scores"]["nDCG@10"] > 0.8
    assert record["task"]["revision"] == "abc123"
    assert record["settings"] == {
        "depth": 1000, "missing": "zero", "relevance_level": 1, "title": "join", "self_hits": "keep",
        "ties": "score as float32, descending; equal scores by docid, descending (trec_eval)",
    }  # fmt: skip
    assert (record["data"]["documents"], record["data"]["queries"], record["data"]["judgements"]) == (5, 3, 4)
    place = tmp_path / "out" / "bm25" / "toy"
    assert read_record(place) == record
    assert read_run(place / "run.tsv.gz")["q1"][0][0] == "d1"
    assert (place / "per_query.tsv").read_text().startswith("query_id\tnDCG@10\tRR@10\tR@100\nq1\t1.0\t1.0\t1.0\n")


def test_what_is_done_is_not_done_again(data, tmp_path, monkeypatch):
    calls = []
    search = BM25System.search
    monkeypatch.setattr(BM25System, "search", lambda self, *a, **k: calls.append(1) or search(self, *a, **k))
    one = evaluate(BM25System(), [TOY], tmp_path / "out", data=data)
    assert evaluate(BM25System(), [TOY], tmp_path / "out", data=data) == one
    assert len(calls) == 1
    with pytest.raises(TevaError, match=r"other settings or data: system\.k1: 0\.9 there, 1\.2 now"):
        evaluate(BM25System(k1=1.2), [TOY], tmp_path / "out", data=data)
    with pytest.raises(TevaError, match="depth: 1000 there, 10 now"):
        evaluate(BM25System(), [TOY], tmp_path / "out", data=data, settings=Settings(depth=10))
    evaluate(BM25System(k1=1.2), [TOY], tmp_path / "out", data=data, overwrite=True)
    assert len(calls) == 2
    # A result whose run was lost is made again.
    (tmp_path / "out/bm25/toy/run.tsv.gz").unlink()
    evaluate(BM25System(k1=1.2), [TOY], tmp_path / "out", data=data)
    assert len(calls) == 3


def test_an_encoder_of_anyones(data, tmp_path):
    pytest.importorskip("teva_infer")
    records = evaluate([BM25System(), Words()], [TOY], tmp_path / "out", data=data)
    assert [record["system"]["name"] for record in records] == ["bm25", "words"]
    assert records[1]["scores"]["nDCG@10"] > 0.7
    assert records[1]["system"]["kind"] == "dense"


def test_dimensions_are_variants(data, tmp_path):
    pytest.importorskip("teva_infer")
    system = load_system("dense", model=Words(), dims=(8, 64))
    (record,) = evaluate(system, [TOY], tmp_path / "out", data=data)
    assert set(record["variants"]) == {"dim=8", "dim=64"}
    # All numbers of a vector of length 1 are the vector itself.
    assert record["variants"]["dim=64"] == record["scores"]
    assert record["variants"]["dim=8"]["nDCG@10"] != record["scores"]["nDCG@10"]
    with pytest.raises(TevaError, match="dims: 65 is more than the model's 64"):
        evaluate(load_system("dense", model=Words(), name="w", dims=(65,)), [TOY], tmp_path / "out", data=data)


def test_self_hits_and_titles_are_policies(data, tmp_path):
    keep, drop = (
        evaluate(BM25System(name=policy), [TOY], tmp_path / "out", data=data, settings=Settings(self_hits=policy))[0]
        for policy in ("keep", "drop")
    )
    assert "q2" in dict(read_run(tmp_path / "out/keep/toy/run.tsv.gz")["q2"])
    assert "q2" not in dict(read_run(tmp_path / "out/drop/toy/run.tsv.gz")["q2"])
    assert drop["scores"]["nDCG@10"] > keep["scores"]["nDCG@10"]
    # Without titles `birds` is not found by its title's word alone.
    documents = {**DOCUMENTS, "d5": ("ship", "on the sea")}
    other = write_beir(tmp_path / "titles" / "toy", documents, {**QUERIES, "q3": "ship"}).parent
    joined, dropped = (
        evaluate(BM25System(), [TOY], tmp_path / title, data=other, settings=Settings(title=title))[0]
        for title in ("join", "drop")
    )
    assert joined["scores"]["R@100"] == 1.0
    assert dropped["scores"]["R@100"] < 1.0
    assert "d5" not in json.dumps(list(read_run(tmp_path / "drop/bm25/toy/run.tsv.gz").get("q3", [])))


def test_rerun_is_identical_and_names_what_changed(data, tmp_path, capsys):
    pytest.importorskip("teva_infer")
    system = load_system("dense", model=Words())
    evaluate(system, [TOY], tmp_path / "out", data=data)
    result = tmp_path / "out/words/toy"
    assert rerun(result, system=system).differences == ()
    # A prompt.
    prompted = rerun_with(result, system, query_prompt="dog ")
    assert "task.query_prompt: None there, 'dog ' now" in prompted.differences
    assert any(line.startswith("scores.") for line in prompted.differences)
    assert prompted.changed
    # The title policy.
    assert "task.title: 'join' there, 'drop' now" in rerun_with(result, system, title="drop").differences
    # One document, one judgement.
    for changed, words in (
        ({"documents": {**DOCUMENTS, "d3": ("Birds", "cats mat")}}, "data: document 3 of 5 ('d3') differs"),
        ({"qrels": {**QRELS, "q3": {"d5": 2}}}, "data: judged query 3 of 3 ('q3') differs"),
        ({"queries": {**QUERIES, "q1": "cat"}}, "data: query 1 of 3 ('q1') differs"),
        ({"documents": {**DOCUMENTS, "d9": ("", "more")}}, "data: document rows were added, taken away or moved"),
    ):
        place = write_beir(tmp_path / words / "toy", **changed).parent
        found = rerun(result, system=system, data=place)
        assert any(line.startswith(words) for line in found.differences), found.differences
    # By the command, with BM25, which is made again by its name.
    evaluate(BM25System(), [TOY], tmp_path / "out", data=data)
    capsys.readouterr()
    assert main(["rerun", str(tmp_path / "out/bm25/toy")]) == 0
    assert capsys.readouterr().out.startswith("identical: nDCG@10 ")
    assert main(["rerun", str(tmp_path / "out/bm25/toy"), "--data", str(place)]) == 1
    assert "data: document rows were added" in capsys.readouterr().out


def rerun_with(result, system, **changes):
    """Rerun, after the task's record was changed: as if the prompt or policy of today were another one."""
    record = json.loads((result / "result.json").read_text())
    del record["seal"]  # it is changed on purpose
    copy = result.parent / "changed"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(result, copy)
    (copy / "result.json").write_text(json.dumps({**record, "task": {**record["task"], **changes}}))
    found = rerun(copy, system=system)
    before = differences(record, found.record)
    return type(found)(tuple(before), found.changed, found.record)


def test_a_missing_download_says_what_to_fetch(data, tmp_path):
    other = Task(name="other", hub="someone/other", revision="f00")
    with pytest.raises(DataError, match=r"hf download --repo-type dataset someone/other --revision f00 --local-dir"):
        evaluate(BM25System(), [other], tmp_path / "out", data=data)
    with pytest.raises(DataError, match=r"(?s)--data DIR.*hf download --repo-type dataset someone/other"):
        evaluate(BM25System(), [other], tmp_path / "out", offline=True)


def test_bad_data_has_an_address(tmp_path):
    place = write_beir(tmp_path / "data" / "toy")
    (place / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tnowhere\t1\n")
    with pytest.raises(DataError, match=r"qrels.test\.tsv:2: .*nowhere"):
        evaluate(BM25System(), [TOY], tmp_path / "out", data=place.parent)


def test_what_is_no_system_is_refused():
    with pytest.raises(TevaError, match="int is no system"):
        as_system(3)
    with pytest.raises(TevaError, match="unknown system 'densee'"):
        load_system("densee")


def test_answers_judge_what_was_found(tmp_path):
    place = tmp_path / "data" / "nq"
    (place / "qrels").mkdir(parents=True)
    (place / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [
        {"docid": "p1", "title": "Paris", "document_text": "the capital of France since 987"},
        {"docid": "p2", "title": "Lyon", "document_text": "a city of France"},
        {"docid": "p3", "title": "Parisian", "document_text": "who lives in that capital"},
    ]))  # fmt: skip
    (place / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [
        {"query_id": "a", "query_text": "capital France", "answers": ["PARIS"]},
        {"query_id": "b", "query_text": "city", "answers": ["Marseille", "Nice"]},
    ]))  # fmt: skip
    (place / "qrels/test.tsv").write_text("query_id\tdocid\tscore\na\tp1\t1\nb\tp2\t1\n")
    task = Task(name="nq", answers=True, measures=("Success@1", "Success@20"))
    (record,) = evaluate(BM25System(), [task], tmp_path / "out", data=place.parent)
    assert record["scores"] == {"Success@1": 0.5, "Success@20": 0.5}
    assert prepare(task, tmp_path / "out/data", place.parent).answers == {"a": ["PARIS"], "b": ["Marseille", "Nice"]}

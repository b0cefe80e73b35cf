"""MTEB's layout, and our search under its protocol, without MTEB; `-m slow` reads the files with MTEB itself."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from teva_data.errors import DataError, TevaError
from teva_eval import Task, evaluate
from teva_eval.bm25 import BM25System
from teva_eval.cli import main
from teva_eval.mteb_results import write_mteb
from teva_eval.mteb_search import MtebSearch

CORPUS = [{"id": "a", "title": "Cats", "text": "sit on mats"}, {"id": "b", "title": "", "text": "dogs bark"}]
QUERIES = [{"id": "q", "text": "cats"}, {"id": "r", "text": "who", "instruction": "dogs"}]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TEVA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def results(tmp_path):
    place = tmp_path / "data" / "scifact"
    (place / "qrels").mkdir(parents=True)
    rows = [{"docid": each["id"], "title": each["title"], "document_text": each["text"]} for each in CORPUS]
    (place / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "test.jsonl").write_text('{"query_id": "q", "query_text": "cats"}\n{"query_id": "r", "query_text": "x"}\n')
    (place / "qrels/test.tsv").write_text("query_id\tdocid\tscore\nq\ta\t1\nr\tb\t1\n")
    tasks = [
        Task(name="scifact", hub="mteb/scifact", revision="f00", mteb="SciFact"),
        Task(name="part-ko", hub="mteb/scifact", revision="f00", mteb="Several", part="ko", languages=("ko",)),
    ]
    for task in tasks:
        evaluate(BM25System(), [task], tmp_path / "out", data=place)
    return tmp_path / "out"


def test_the_layout(results, tmp_path):
    files = write_mteb([results], tmp_path / "mteb")
    place = tmp_path / "mteb" / "teva__bm25" / "no_revision_available"
    assert sorted(files) == [place / "SciFact.json", place / "Several.json"]
    assert json.loads((place / "model_meta.json").read_text())["name"] == "teva/bm25"
    content = json.loads((place / "SciFact.json").read_text())
    assert (content["task_name"], content["dataset_revision"]) == ("SciFact", "f00")
    (entry,) = content["scores"]["test"]
    # One of two queries has an answer, found first; the other has no results and counts 0.
    assert {name: entry[name] for name in ("main_score", "ndcg_at_10", "mrr_at_10", "recall_at_1", "accuracy")} == {
        "main_score": 0.5, "ndcg_at_10": 0.5, "mrr_at_10": 0.5, "recall_at_1": 0.5, "accuracy": 0.5,
    }  # fmt: skip
    assert entry["precision_at_10"] == 0.05
    assert (entry["hf_subset"], entry["languages"]) == ("default", ["eng-Latn"])
    (entry,) = json.loads((place / "Several.json").read_text())["scores"]["test"]
    assert (entry["hf_subset"], entry["languages"]) == ("ko", ["kor-Kore"])
    assert main(["mteb", str(results), "--output", str(tmp_path / "again")]) == 0


def test_results_of_no_task_of_mteb(results, tmp_path):
    (results / "bm25" / "scifact" / "result.json").unlink()
    record = json.loads((results / "bm25" / "part-ko" / "result.json").read_text())
    record["task"]["mteb"] = None
    del record["seal"]  # changed on purpose
    (results / "bm25" / "part-ko" / "result.json").write_text(json.dumps(record))
    with pytest.raises(TevaError, match="none of these results"):
        write_mteb([results], tmp_path / "mteb")


class Words:
    name = "words"

    def encode_queries(self, texts):
        vectors = np.full((len(texts), 64), 0.01)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                vectors[row, sum(word.encode()) % 64] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode_documents(self, documents):
        return self.encode_queries([f"{title} {text}" for title, text in documents])


def test_a_search_as_mteb_asks_for_it(tmp_path):
    pytest.importorskip("teva_infer")
    about = {"task_metadata": SimpleNamespace(name="T"), "hf_split": "test", "hf_subset": "default", "num_proc": None}
    for system in (BM25System(), Words()):
        search = MtebSearch(system, tmp_path)
        with pytest.raises(TevaError, match="index"):
            search.search(QUERIES, top_k=2, encode_kwargs={}, **about)
        search.index(CORPUS, encode_kwargs={}, **about)
        found = search.search(QUERIES, top_k=1, encode_kwargs={}, top_ranked=None, **about)
        # The instruction comes after the query's text.
        assert {query_id: list(hits) for query_id, hits in found.items()} == {"q": ["a"], "r": ["b"]}
        with pytest.raises(TevaError, match="reranks"):
            search.search(QUERIES, top_k=1, encode_kwargs={}, top_ranked={"q": ["a"]}, **about)
        search.index([{"id": "a", "image": b""}], encode_kwargs={}, **about)
        with pytest.raises(DataError, match="a row without text"):
            search.search(QUERIES, top_k=1, encode_kwargs={}, **about)


@pytest.mark.slow
def test_mteb_reads_the_files(results, tmp_path):
    from mteb.models.models_protocols import SearchProtocol
    from mteb.results import TaskResult

    write_mteb([results], tmp_path / "mteb")
    (file,) = (tmp_path / "mteb").rglob("SciFact.json")
    assert TaskResult.from_disk(file).get_score() == 0.5
    search = MtebSearch(BM25System(), tmp_path)
    assert isinstance(search, SearchProtocol)
    assert search.mteb_model_meta.name == "teva/bm25"

"""Mining with a model: one dataset or a mixture, what is done is not done again, positives are never negatives."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from teva_data.errors import DataError, TevaError
from teva_infer.cli import main
from teva_infer.mining import mine
from teva_infer.searching import search


@pytest.fixture
def data(tiny_data, tmp_path):
    return shutil.copytree(tiny_data, tmp_path / "data")


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_negatives_are_what_the_model_ranks_high_and_no_answers(tiny_model, bag, data, tmp_path, monkeypatch):
    work, log = tmp_path / "work", tmp_path / "log"
    (path,) = mine(tiny_model, [data], work, engine=bag, depth=20, choice={"count": 5, "sample": "top"})
    assert path == data / "train-mined.jsonl"
    before = {row["query_id"]: row for row in rows(data / "train.jsonl")}
    (documents,), (queries,) = work.glob("document-*"), work.glob("query-*")
    ranked = search(queries, documents, depth=20)
    for row in rows(path):
        own = before[row["query_id"]]["positive_document_ids"]
        assert row["positive_document_ids"] == own
        assert len(row["negative_document_ids"]) == 5
        assert not set(own) & set(row["negative_document_ids"])
        assert row["negative_document_ids"] == [
            d for d, _ in ranked[row["query_id"]] if d in row["negative_document_ids"]
        ]
    monkeypatch.setenv("BAG_LOG", str(log))
    whole = path.read_bytes()
    times = {file: file.stat().st_mtime_ns for file in [path, *work.glob("run-*.tsv")]}
    mine(tiny_model, [data], work, engine=bag, depth=20, choice={"count": 5, "sample": "top"})
    assert times == {file: file.stat().st_mtime_ns for file in times}
    # Lost in the middle: made again from what is there, without encoding.
    path.unlink()
    next(work.glob("run-*.tsv")).unlink()
    mine(tiny_model, [data], work, engine=bag, depth=20, choice={"count": 5, "sample": "top"})
    assert path.read_bytes() == whole
    # Another choice replaces what this work has written.
    mine(tiny_model, [data], work, engine=bag, depth=20, choice={"count": 3, "sample": "top"})
    assert {len(row["negative_document_ids"]) for row in rows(path)} == {3}
    assert not log.exists()


def test_a_file_of_somebody_elses_is_kept(tiny_model, bag, data, tmp_path):
    (data / "train-mined.jsonl").write_text((data / "train.jsonl").read_text())
    with pytest.raises(DataError, match="is there already"):
        mine(tiny_model, [data], tmp_path / "work", engine=bag)
    assert (data / "train-mined.jsonl").read_text() == (data / "train.jsonl").read_text()


def test_a_mixture_of_a_recipe_shares_a_corpus(tiny_model, bag, data, tmp_path, monkeypatch, capsys):
    other = shutil.copytree(data, tmp_path / "other")
    recipe = tmp_path / "recipe.yaml"
    entries = [{"path": str(data)}, {"path": str(other), "query_prompt": "find: "}]
    recipe.write_text(yaml.safe_dump({
        "schema": "1", "model": {"name": str(tiny_model)}, "data": {"datasets": entries},
        "train": {"output": str(tmp_path / "run"), "steps": 1},
    }))  # fmt: skip
    work = tmp_path / "work"
    words = ["mine", str(tiny_model), str(recipe), "--work", str(work), "--engine", bag, "--count", "2", "--depth", "9"]
    assert main(words) == 0
    assert capsys.readouterr().out.split() == [str(place / "train-mined.jsonl") for place in (data, other)]
    assert len(list(work.glob("document-*"))) == 1  # the same documents, encoded once
    assert len(list(work.glob("query-*"))) == 2  # with two prompts
    prompts = {json.loads((place / "manifest.json").read_text())["job"]["prompt"] for place in work.glob("query-*")}
    assert prompts == {"", "find: "}
    with pytest.raises(TevaError, match="is named twice"):
        mine(tiny_model, [recipe, data], work, engine=bag)
    with pytest.raises(DataError, match="unknown split"):
        mine(tiny_model, [data], work, engine=bag, split="trian")

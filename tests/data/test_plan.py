from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teva_data.dataset import Dataset
from teva_data.errors import DataError
from teva_data.plan import BatchPlan


@pytest.fixture(scope="module")
def data(tiny_data):
    return Dataset.open(tiny_data)


def _plan(data, **changes):
    return BatchPlan(data, "train", **{"batch_size": 8, "negatives": 2, "seed": 1, **changes})


def _names(batch):
    return (
        [query.query_id for query in batch.queries],
        [document.docid for document in batch.documents],
        batch.positives.tolist(),
        batch.allowed.tolist(),
    )


def test_an_epoch_has_every_query_once(data):
    plan = _plan(data, batch_size=7)  # 40 queries: batches straddle the end of an epoch
    rows, epochs = zip(*(plan.rows(step) for step in range(12)), strict=True)
    rows, epochs = np.concatenate(rows), np.concatenate(epochs)
    for epoch in (0, 1):
        assert sorted(rows[epochs == epoch].tolist()) == list(range(40))
    assert rows[:40].tolist() != rows[40:80].tolist()
    assert plan.steps(1) == 6
    assert plan.steps(2) == 12
    assert plan.steps(0.01) == 1


@given(steps=st.lists(st.integers(0, 10**9), min_size=1, max_size=4), size=st.integers(1, 100), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_batch_depends_on_the_step_alone(data, steps, size, seed):
    plan = _plan(data, batch_size=size, seed=seed)
    first = [_names(plan.batch(step)) for step in steps]
    fresh = _plan(data, batch_size=size, seed=seed)
    assert [_names(fresh.batch(step)) for step in reversed(steps)] == first[::-1]


def test_the_same_in_an_interpreter_with_another_hash_seed(data, tiny_data):
    code = (
        "import json, sys\nfrom teva_data.dataset import Dataset\nfrom teva_data.plan import BatchPlan\n"
        "plan = BatchPlan(Dataset.open(sys.argv[1]), 'train', batch_size=8, negatives=2, seed=1)\n"
        "print(json.dumps([[q.query_id for q in plan.batch(s).queries] + [d.docid for d in plan.batch(s).documents]"
        " for s in (0, 3, 99)]))"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", code, str(tiny_data)],
            env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    plan = _plan(data)
    here = [
        [query.query_id for query in plan.batch(step).queries] + [d.docid for d in plan.batch(step).documents]
        for step in (0, 3, 99)
    ]
    assert [json.loads(text) for text in found] == [here, here]


def test_what_a_batch_holds(data):
    plan = _plan(data)
    for step in range(20):
        batch = plan.batch(step)
        ids = [document.docid for document in batch.documents]
        assert len(set(ids)) == len(ids)
        assert batch.allowed.shape == (8, len(ids))
        for row, query in enumerate(batch.queries):
            positives = set(query.positive_document_ids)
            assert ids[batch.positives[row]] in positives
            left_out = {ids[column] for column in np.flatnonzero(~batch.allowed[row])}
            assert left_out == (positives & set(ids)) - {ids[batch.positives[row]]}
        wanted = {d for q in batch.queries for d in (*q.positive_document_ids, *q.negative_document_ids)}
        assert set(ids) <= wanted


def test_positives_rotate_and_negatives_walk(data):
    plan = _plan(data, batch_size=40)
    positives, negatives = Counter(), {}
    for epoch in range(6):
        batch = plan.batch(epoch)
        for row, query in enumerate(batch.queries):
            positives[query.query_id, batch.documents[batch.positives[row]].docid] += 1
        for row in range(40):
            query = plan.store[row]
            negatives.setdefault(query.query_id, []).append(plan._negatives(query, row, epoch))
    assert positives["q5", "d5"] == positives["q5", "d6"] == 3
    for row in range(40):
        query, seen = plan.store[row], negatives[f"q{row}"]
        listed = query.negative_document_ids
        if len(listed) <= 2:
            assert all(sorted(each) == sorted(listed) for each in seen)
        else:
            assert all(len(set(each)) == 2 for each in seen)
            # Every document of the list comes up equally often over epochs that divide evenly.
            counts = Counter(docid for each in seen for docid in each)
            assert set(counts) == set(listed)
            assert max(counts.values()) - min(counts.values()) <= 1


def test_queries_of_one_text_share_their_positives(tmp_path):
    rows = [{"query_id": f"q{n}", "query_text": "help", "positive_document_ids": [f"d{n}"]} for n in range(3)]
    rows.append(
        {"query_id": "q3", "query_text": "other", "positive_document_ids": ["d3"], "negative_document_ids": ["d0"]}
    )
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = [{"docid": f"d{n}", "text": f"text {n}"} for n in range(4)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    batch = BatchPlan(Dataset.open(tmp_path), "train", batch_size=4, negatives=1, seed=0).batch(0)
    ids = [document.docid for document in batch.documents]
    for row, query in enumerate(batch.queries):
        allowed = {ids[column] for column in np.flatnonzero(batch.allowed[row])}
        number = query.query_id[1]
        assert allowed == ({f"d{number}", "d3"} if query.query_text == "help" else set(ids))


def test_unknown_documents_and_missing_positives_have_an_address(tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"docid": "d0", "text": "x"}\n')
    train = tmp_path / "train.jsonl"
    good = '{"query_id": "a", "query_text": "x", "positive_document_ids": ["d0"]}\n'
    for bad, field in (
        ('{"query_id": "b", "query_text": "x", "positive_document_ids": ["d9"]}\n', "positive_document_ids"),
        (good.replace("}", ', "negative_document_ids": ["d9"]}').replace('"a"', '"b"'), "negative_document_ids"),
        ('{"query_id": "b", "query_text": "x", "positive_document_ids": []}\n', "positive_document_ids"),
    ):  # fmt: skip
        train.write_text(good + bad)
        with pytest.raises(DataError) as caught:
            BatchPlan(Dataset.open(tmp_path), "train", batch_size=1, negatives=1, seed=0)
        assert str(caught.value).startswith(f"{train}:2: field '{field}'")


@pytest.mark.parametrize("changes", [{"batch_size": 0}, {"negatives": -1}])
def test_settings_out_of_range(data, changes):
    with pytest.raises(ValueError, match="expected at least"):
        _plan(data, **changes)

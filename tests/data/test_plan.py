from __future__ import annotations

import itertools
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
from teva_data.plan import BatchPlan, Part, modality

TEXTS = ["red river", "blue stone", "Größe", "東京", "a\u0301", "🚲 bike", "salt", "tea and bread"]


@pytest.fixture(scope="module")
def data(tiny_data):
    return Dataset.open(tiny_data)


@pytest.fixture(scope="module")
def others(tiny_data, tmp_path_factory):
    """Two more datasets: one over a copy of the same corpus, one over another corpus with some of the same ids."""
    shared, foreign = (tmp_path_factory.mktemp(name) for name in ("shared", "foreign"))
    (shared / "corpus.jsonl").write_bytes((tiny_data / "corpus.jsonl").read_bytes())
    _write(shared / "train.jsonl", [
        {
            "query_id": f"s{n}", "query_text": TEXTS[n], "prompt": "own: " if n == 3 else None,
            "positive_document_ids": [f"d{n}", f"d{n + 20}"], "positive_scores": [0.5, n / 10],
            "negative_document_ids": [f"d{n + k}" for k in (30, 40, 41, 42)], "negative_scores": [n, 1.0, -1.0, 3.0],
        }
        for n in range(8)
    ])  # fmt: skip
    _write(foreign / "corpus.jsonl", [{"docid": f"d{n}", "text": f"other {n}"} for n in range(3)]
           + [{"docid": f"x{n}", "text": TEXTS[n % 8]} for n in range(30)])  # fmt: skip
    _write(foreign / "train.jsonl", [
        {"query_id": f"f{n}", "query_text": TEXTS[n % 8], "positive_document_ids": [f"x{n}"],
         "negative_document_ids": ["d1", "d2", f"x{n + 1}"][: n % 4]}
        for n in range(20)
    ])  # fmt: skip
    return Dataset.open(shared), Dataset.open(foreign)


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _plan(data, **changes):
    return BatchPlan.of(data, "train", **{"batch_size": 8, "negatives": 2, "seed": 1, **changes})


def _mixed(data, others, **changes):
    parts = [
        Part(data, query_prompt="find: "), Part(others[0], negatives=3), Part(others[1], document_prompt="page: ")
    ]  # fmt: skip
    return BatchPlan(parts, **{"batch_size": 8, "negatives": 2, "seed": 1, **changes})


def _values(batch):
    """All of a process's part as plain values."""
    return {
        "queries": [[q.query_id, q.query_text, q.prompt] for q in batch.queries],
        "documents": [[d.docid, d.document_text, d.title] for d in batch.documents],
        "document_prompts": batch.document_prompts,
        "positives": batch.positives.tolist(),
        "groups": batch.groups.tolist(),
        "scores": [[None if np.isnan(score) else score for score in row] for row in batch.scores],
        "excluded": [[row + batch.query_range[0], column] for row, column in batch.excluded.tolist()],
        "allowed": batch.allowed.tolist(),
        "dataset": batch.dataset.tolist(),
        "ranges": [[batch.query_range, batch.document_range]],
    }


def _joined(plan, step, world):
    """The global batch put together from the parts of ``world`` processes."""
    batches = [plan.batch(step, rank, world) for rank in range(world)]
    for field, length in (("query_range", "query_count"), ("document_range", "document_count")):
        bounds = [getattr(batch, field) for batch in batches]
        assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])]
        assert {getattr(batch, length) for batch in batches} == {bounds[-1][1]}
    return _merged(map(_values, batches))


def _merged(parts):
    parts = list(parts)
    return {key: list(itertools.chain(*(part[key] for part in parts))) for key in parts[0] if key != "ranges"}


def test_an_epoch_has_every_query_once(data):
    plan = _plan(data, batch_size=7)  # 40 queries: batches straddle the end of an epoch
    ids = [query.query_id for step in range(12) for query in plan.batch(step).queries]
    for epoch in (0, 1):
        assert sorted(ids[epoch * 40 : epoch * 40 + 40]) == sorted(f"q{n}" for n in range(40))
    assert ids[:40] != ids[40:80]
    assert (plan.size, plan.steps(1), plan.steps(2), plan.steps(0.01)) == (40, 6, 12, 1)


STEPS = st.one_of(st.integers(0, 30), st.integers(0, 10**12))
MIXING = st.sampled_from(["proportional", "round_robin", "temperature", "weighted"])


@given(
    step=STEPS, size=st.integers(1, 40), seed=st.integers(0, 2**64), negatives=st.integers(0, 3), mixing=MIXING,
    batches=st.sampled_from(["mixed", "one_dataset", "one_modality"]),
    sampling=st.tuples(*[st.sampled_from(["rotate", "best"])] * 2),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_batches_are_the_same_for_any_number_of_processes(
    data, others, step, size, seed, negatives, mixing, batches, sampling
):
    parts = [
        Part(dataset, negatives=own, query_prompt=query, document_prompt=document,
             weight=weight if mixing == "weighted" else None)
        for dataset, own, query, document, weight in zip(
            (data, *others), (None, 3, 0), ("find: ", None, None), (None, None, "page: "), (1.0, 0.0, 2.5), strict=True
        )
    ]  # fmt: skip
    changes = {
        "batch_size": size, "seed": seed, "negatives": negatives, "mixing": mixing, "batches": batches,
        "mixing_temperature": 3.0 if mixing == "temperature" else None,
        "positive_sampling": sampling[0], "negative_sampling": sampling[1],
    }  # fmt: skip
    whole = _joined(BatchPlan(parts, **changes), step, 1)
    for world in (2, 3, 8):
        # A fresh plan at each: nothing is carried from step to step, so a resumed run sees the same.
        assert _joined(BatchPlan(parts, **changes), step, world) == whole


_CHILD = """
import json, sys
root, rank, *paths = sys.argv[1:]
sys.path.insert(0, root)
from tests.data.test_plan import Dataset, _mixed, _values
data, *others = map(Dataset.open, paths)
plan = _mixed(data, others)
print(json.dumps([_values(plan.batch(step, int(rank), 2)) for step in (10**9, 3, 0)]))
"""


def test_processes_with_hash_seeds_of_their_own_have_parts_of_one_batch(data, others, request):
    paths = [str(dataset.path) for dataset in (data, *others)]
    found = [
        json.loads(subprocess.run(
            [sys.executable, "-c", _CHILD, str(request.config.rootpath), str(rank), *paths],
            env={**os.environ, "PYTHONHASHSEED": str(rank + 1)}, capture_output=True, text=True, check=True,
        ).stdout)
        for rank in range(2)
    ]  # fmt: skip
    here = [_joined(_mixed(data, others), step, 1) for step in (10**9, 3, 0)]
    assert [_merged(parts) for parts in zip(*found, strict=True)] == here


@pytest.mark.parametrize("sampling", ["rotate", "best"])
def test_what_a_batch_holds(data, others, sampling):
    plan = _mixed(data, others, positive_sampling=sampling, negative_sampling=sampling)
    datasets = (data, *others)
    by_id = {q.query_id: (number, q) for number, each in enumerate(datasets) for q in each.queries("train")}
    seen = set()
    for step in range(25):
        batch = plan.batch(step)
        ids = [document.docid for document in batch.documents]
        assert batch.allowed.shape == (8, len(ids)) == (batch.query_count, batch.document_count)
        # The first two share a corpus and its prompt: a document of it is one column, whoever names it.
        keys = list(zip(ids, batch.document_prompts, strict=True))
        assert len(set(keys)) == len(keys)
        named = set()
        for row, query in enumerate(batch.queries):
            number, original = by_id[query.query_id]
            seen.add(number)
            assert batch.dataset[row] == number
            assert query.prompt == (original.prompt or ("find: " if number == 0 else None))
            positives, negatives = original.positive_document_ids, original.negative_document_ids
            group = [(ids[column], batch.document_prompts[column]) for column in batch.groups[row] if column >= 0]
            assert {prompt for _, prompt in group} == {"page: " if number == 2 else None}
            for column in (column for column in batch.groups[row] if column >= 0):
                assert batch.documents[column] == datasets[number].corpus.lookup([ids[column]])[0]
            assert batch.groups[row, 0] == batch.positives[row]
            assert group[0][0] in positives
            taken = {docid for docid, _ in group[1:]}
            assert taken <= set(negatives)
            assert len(taken) == len(group) - 1 <= (2, 3, 2)[number]
            dropped = _positives_of_text(batch.queries, query) & set(negatives)
            assert not taken & dropped
            assert len(taken) >= min(len(set(negatives)), (2, 3, 2)[number]) - len(dropped)
            _check_scores(batch, row, ids, original)
            # No document whose id is one of its positives' is its negative, whichever corpus it is of.
            left_out = {column for column in range(len(ids)) if not batch.allowed[row, column]}
            same_id = {column for column, docid in enumerate(ids) if docid in positives}
            assert left_out >= same_id - {batch.positives[row]}
            assert all(ids[column] in _positives_of_text(batch.queries, query) for column in left_out)
            named.update(column for column in batch.groups[row] if column >= 0)
        assert named == set(range(len(ids)))  # nothing is encoded that nobody named
    assert seen == {0, 1, 2}


def _check_scores(batch, row, ids, original):
    listed = dict(zip(original.positive_document_ids, original.positive_scores or (), strict=False))
    listed |= dict(zip(original.negative_document_ids, original.negative_scores or (), strict=False))
    for column, score in zip(batch.groups[row], batch.scores[row], strict=True):
        expected = listed.get(ids[column]) if column >= 0 else None
        assert np.isnan(score) if expected is None else score == expected


def _positives_of_text(queries, query):
    alike = [q for q in queries if (q.prompt, q.query_text) == (query.prompt, query.query_text)]
    return {docid for each in alike for docid in each.positive_document_ids}


def test_every_process_knows_the_positives_of_all(data):
    plan = BatchPlan([Part(data), Part(data, document_prompt="b: ")], batch_size=80, negatives=2, seed=0)
    whole = plan.batch(3)
    pairs = whole.excluded.tolist()
    assert len(pairs) > 40
    assert pairs == sorted(pairs) == whole.all_excluded.tolist()
    for rank in range(3):
        part = plan.batch(3, rank, 3)
        first, last = part.query_range
        assert part.all_positives.tolist() == whole.all_positives.tolist() == whole.positives.tolist()
        assert part.all_excluded.tolist() == pairs
        assert part.excluded.tolist() == [[at - first, column] for at, column in pairs if first <= at < last]
        assert part.positives.tolist() == whole.positives[first:last].tolist()


def test_a_process_reads_its_own_documents_only(data, others, monkeypatch):
    plan, read = _mixed(data, others), []
    for corpus in plan._corpora.values():
        original = corpus.lookup
        monkeypatch.setattr(corpus, "lookup", lambda ids, original=original: read.extend(ids) or original(ids))
    whole = plan.batch(4)
    read.clear()
    batch = plan.batch(4, rank=1, world=4)
    assert 0 < len(read) == len(batch.documents) < len(whole.documents) / 2
    assert len(batch.queries) == 2


def test_positives_rotate_and_negatives_walk(data):
    plan = _plan(data, batch_size=40)
    positives, negatives = Counter(), {}
    for epoch in range(6):
        batch = plan.batch(epoch)
        for row, query in enumerate(batch.queries):
            positives[query.query_id, batch.documents[batch.positives[row]].docid] += 1
            columns = batch.groups[row, 1:]
            taken = [batch.documents[column].docid for column in columns if column >= 0]
            negatives.setdefault(query.query_id, []).append(taken)
    assert positives["q5", "d5"] == positives["q5", "d6"] == 3
    for query in plan.parts[0].dataset.queries("train"):
        seen, listed = negatives[query.query_id], query.negative_document_ids
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
    batch = BatchPlan.of(Dataset.open(tmp_path), "train", batch_size=4, negatives=1, seed=0).batch(0)
    ids = [document.docid for document in batch.documents]
    assert (batch.groups[:, 1:] >= 0).sum() == 1
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
            BatchPlan.of(Dataset.open(tmp_path), "train", batch_size=1, negatives=1, seed=0)
        assert str(caught.value).startswith(f"{train}:2: field '{field}'")


@pytest.mark.parametrize("changes", [{"batch_size": 0}, {"negatives": -1}])
def test_settings_out_of_range(data, changes):
    with pytest.raises(ValueError, match="expected at least"):
        _plan(data, **changes)


def test_a_negative_that_answers_the_same_text_elsewhere_is_dropped(tmp_path):
    _write(tmp_path / "corpus.jsonl", [{"docid": f"d{n}", "text": f"text {n}"} for n in range(4)])
    _write(tmp_path / "train.jsonl", [
        {"query_id": "a", "query_text": "help", "positive_document_ids": ["d0"],
         "negative_document_ids": ["d1", "d2", "d2"], "negative_scores": [1, 2, 3]},
        {"query_id": "b", "query_text": "help", "positive_document_ids": ["d1"]},
    ])  # fmt: skip
    batch = BatchPlan.of(Dataset.open(tmp_path), "train", batch_size=2, negatives=3, seed=0).batch(0)
    row = [query.query_id for query in batch.queries].index("a")
    ids = [document.docid for document in batch.documents]
    # d1 is left out; d2, which the list has twice, comes once.
    assert [ids[column] for column in batch.groups[row] if column >= 0] == ["d0", "d2"]
    assert np.isnan(batch.scores[row][batch.groups[row] < 0]).all()
    assert {ids[column] for column in np.flatnonzero(batch.allowed[row])} == {"d0", "d2"}


def test_one_document_under_two_prompts_is_two_columns(data):
    parts = [Part(data, document_prompt="a: "), Part(data, document_prompt="b: ")]
    batch = BatchPlan(parts, batch_size=80, negatives=0, seed=0).batch(0)
    docids = [document.docid for document in batch.documents]
    assert max(Counter(docids).values()) == 2
    assert max(Counter(zip(docids, batch.document_prompts, strict=True)).values()) == 1
    for row, query in enumerate(batch.queries):
        assert batch.document_prompts[batch.positives[row]] == "ab"[batch.dataset[row]] + ": "
        for column, document in enumerate(batch.documents):
            if document.docid in query.positive_document_ids and column != batch.positives[row]:
                assert not batch.allowed[row, column]


def test_a_row_prompt_is_kept_under_a_prompt_of_its_dataset(others):
    batch = BatchPlan([Part(others[0], query_prompt="part: ")], batch_size=8, negatives=0, seed=0).batch(0)
    prompts = {query.query_id: query.prompt for query in batch.queries}
    assert prompts == {f"s{n}": "own: " if n == 3 else "part: " for n in range(8)}


def test_a_dataset_much_smaller_than_the_batch(data, others):
    plan = BatchPlan([Part(data), Part(others[0], limit=1)], batch_size=100, negatives=2, seed=0, mixing="round_robin")
    batch = plan.batch(0)
    assert np.bincount(batch.dataset).tolist() == [50, 50]
    assert len({query.query_id for query in batch.queries if query.query_id[0] == "s"}) == 1
    assert batch.allowed[np.arange(100), batch.positives].all()
    assert plan.size == 41


def test_batches_of_one_modality(data, others, tmp_path):
    (tmp_path / "media").mkdir()
    (tmp_path / "media/a.png").write_bytes(b"not looked at")
    _write(tmp_path / "corpus.jsonl", [{"docid": "i0", "document_image": "media/a.png"}])
    _write(tmp_path / "train.jsonl", [{"query_id": "p0", "query_text": "a bird", "positive_document_ids": ["i0"]}])
    pictures = Part(Dataset.open(tmp_path), repeat=20)
    parts = [Part(data), pictures, Part(others[1])]
    assert [modality(part) for part in parts] == ["text", "image+text", "text"]
    plan = BatchPlan(parts, batch_size=4, negatives=1, seed=0, batches="one_modality")
    held = {tuple(sorted(set(plan.batch(step).dataset.tolist()))) for step in range(40)}
    assert (1,) in held
    assert (0, 2) in held
    assert held <= {(1,), (0, 2), (0,), (2,)}


def test_sampling_by_scores(data, others):
    sampling = {"positive_sampling": "scored", "negative_sampling": "scored"}
    plan = BatchPlan([Part(others[0])], batch_size=8, negatives=1, seed=0, **sampling, score_temperature=0.1)
    taken = Counter()
    for step in range(50):
        batch = plan.batch(step)
        taken.update(zip(batch.dataset.tolist(), batch.scores[:, 1].tolist(), strict=True))
    # Of the scores n, 1, -1 and 3, at this temperature: n or 3, and -1 as good as never.
    assert taken.total() == 400
    assert {score for _, score in taken} == {3.0, 4.0, 5.0, 6.0, 7.0}
    assert taken[0, 3.0] == 200  # n = 0 to 3
    with pytest.raises(DataError) as caught:
        BatchPlan([Part(others[0]), Part(data)], batch_size=8, negatives=1, seed=0, **sampling)
    assert str(caught.value).startswith(f"{data.path / 'train.jsonl'}:1: field 'positive_scores': no scores to sample")
    # Where no choice has to be made, no score is needed.
    assert BatchPlan([Part(data, negatives=9)], batch_size=8, negatives=1, seed=0, negative_sampling="scored").batch(0)


def test_the_fingerprint_names_data_and_settings(data, others, tiny_data, tmp_path):
    import shutil

    base = _mixed(data, others).fingerprint
    moved = Dataset.open(shutil.copytree(tiny_data, tmp_path / "moved", ignore=shutil.ignore_patterns(".teva")))
    assert _mixed(moved, others).fingerprint == base
    changed = [
        _mixed(data, others, **change).fingerprint
        for change in ({"seed": 2}, {"batch_size": 9}, {"negatives": 1}, {"mixing": "round_robin"},
                       {"batches": "one_dataset"}, {"negative_sampling": "best"})
    ]  # fmt: skip
    changed.append(BatchPlan(_mixed(data, others).parts[:2], batch_size=8, negatives=2, seed=1).fingerprint)
    with (moved.path / "train.jsonl").open("a") as file:
        file.write('{"query_id": "new", "query_text": "x", "positive_document_ids": ["d1"]}\n')
    appended = _mixed(Dataset.open(moved.path), others)
    changed.append(appended.fingerprint)
    assert len({base, *changed}) == len(changed) + 1
    differ = [a != b for a, b in zip(appended.data_fingerprints, _mixed(data, others).data_fingerprints, strict=True)]
    assert differ == [True, False, False]


def test_settings_that_mean_nothing_together(data):
    def plan(*parts, **changes):
        return BatchPlan(parts, **{"batch_size": 8, "negatives": 2, "seed": 1, **changes})

    with pytest.raises(ValueError, match="one for each dataset under 'weighted' alone"):
        plan(Part(data, weight=1.0), Part(data))
    with pytest.raises(ValueError, match="1 weights; expected one for each"):
        plan(Part(data, weight=1.0), Part(data), mixing="weighted")
    with pytest.raises(ValueError, match="negatives -1"):
        plan(Part(data, negatives=-1))
    with pytest.raises(ValueError, match="at least one dataset"):
        plan()
    for rank, world in ((1, 1), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=f"rank {rank} of {world}"):
            plan(Part(data)).batch(0, rank, world)


def test_an_empty_split_is_refused(tmp_path):
    _write(tmp_path / "corpus.jsonl", [{"docid": "d0", "text": "x"}])
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(DataError, match=r"train\.jsonl"):
        BatchPlan.of(Dataset.open(tmp_path), "train", batch_size=1, negatives=0, seed=0)


def test_a_plan_can_be_sent_to_another_process(data, others):
    import pickle

    plan = _mixed(data, others, mixing="temperature", mixing_temperature=2.0)
    sent = pickle.loads(pickle.dumps(plan))  # noqa: S301 - our own bytes
    assert _joined(sent, 7, 3) == _joined(plan, 7, 1)
    assert sent.fingerprint == plan.fingerprint


def test_corpora_that_differ_in_their_pictures_alone_are_two(tmp_path):
    """Their files are the same byte for byte, and so are all ids."""
    parts = []
    for name in ("english", "french"):
        (tmp_path / name / "media").mkdir(parents=True)
        (tmp_path / name / "media" / "1.png").write_bytes(name.encode())
        _write(tmp_path / name / "corpus.jsonl", [{"docid": "d1", "image": "media/1.png"}])
        _write(tmp_path / name / "train.jsonl",
               [{"query_id": "q", "query_text": name, "positive_document_ids": ["d1"]}])  # fmt: skip
        parts.append(Part(Dataset.open(tmp_path / name)))
    batch = BatchPlan(parts, batch_size=2, negatives=0, seed=1).batch(0)
    shown = [batch.documents[column].media[0].read().decode() for column in batch.positives.tolist()]
    assert shown == [query.query_text for query in batch.queries]
    assert sorted(shown) == ["english", "french"]
    again = BatchPlan([parts[0], parts[0]], batch_size=2, negatives=0, seed=1).batch(0)
    assert again.document_count == 1

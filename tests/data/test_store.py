"""Documents and queries come back as they were written, by row and by id, whatever they hold."""

from __future__ import annotations

import gzip
import json
import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teva_data import building, index
from teva_data.errors import DataError
from teva_data.records import Document, Query
from teva_data.sources import Source
from teva_data.store import CorpusStore, QueryStore

text = st.text(st.characters(codec="utf-8"))
documents = st.lists(
    st.builds(Document, docid=text.filter(bool), document_text=text.filter(str.strip), title=text, pieces=st.just(())),
    min_size=1,
    max_size=30,
    unique_by=lambda each: each.docid,
)
numbers = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def a_query(draw):
    positives, negatives = draw(st.lists(text.filter(bool), max_size=4)), draw(st.lists(text.filter(bool), max_size=4))
    return Query(
        draw(text.filter(bool)),
        draw(text.filter(str.strip)),
        tuple(positives),
        tuple(negatives),
        draw(st.none() | st.tuples(*[numbers] * len(positives))),
        draw(st.none() | st.tuples(*[numbers] * len(negatives))),
        draw(st.none() | text),
    )


@settings(deadline=None, max_examples=25)
@given(documents=documents, escape=st.booleans(), ids=st.lists(text), seed=st.integers(0, 99))
def test_any_document_comes_back(tmp_path_factory, documents, escape, ids, seed):
    path = tmp_path_factory.mktemp("any") / "corpus.jsonl"
    rows = [{"docid": d.docid, "title": d.title, "document_text": d.document_text} for d in documents]
    path.write_bytes("".join(json.dumps(row, ensure_ascii=escape) + "\n" for row in rows).encode())
    store = CorpusStore.open(path)
    assert store.documents(0, len(store)) == documents
    places = random.Random(seed).choices(range(len(documents)), k=20)
    assert store.get(places) == [documents[place] for place in places]
    known = {each.docid: row for row, each in enumerate(documents)}
    asked = [*ids, *known, *ids]
    assert store.rows(asked).tolist() == [known.get(docid, -1) for docid in asked]


@settings(deadline=None, max_examples=25)
@given(queries=st.lists(a_query(), min_size=1, max_size=10, unique_by=lambda each: each.query_id))
def test_any_query_comes_back(tmp_path_factory, queries):
    path = tmp_path_factory.mktemp("any") / "train.jsonl"
    names = Query.__slots__
    path.write_text("".join(json.dumps({name: getattr(q, name) for name in names}) + "\n" for q in queries))
    store = QueryStore.open(path)
    assert store.queries(0, len(store)) == list(store) == queries
    assert store.get(np.arange(len(queries))[::-1]) == queries[::-1]
    assert store.query_ids(0, len(store)) == [query.query_id for query in queries]
    assert store[len(queries) - 1] == queries[-1]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """10,000 documents in three batches of the store, the last of them ended by its characters."""
    path = tmp_path_factory.mktemp("large") / "corpus.jsonl.gz"
    documents = [
        Document(f"id {n * 7919}", f"text {n} " * (n % 5 + 1), f"title {n}" if n % 2 else "") for n in range(10_000)
    ]

    with gzip.open(path, "wt", encoding="utf-8") as file:
        for each in documents:
            print(json.dumps({"_id": each.docid, "title": each.title, "text": each.document_text}), file=file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "BATCH_ROWS", 4096)
        patch.setattr(building, "BATCH_CHARACTERS", 100_000)
        return CorpusStore.open(path), documents


def test_rows_over_several_batches_agree_with_a_list_and_a_dict(large):
    store, documents = large
    assert len(store) == len(documents)
    assert len(store.arrays("docid")) >= 3
    assert [value for array in store.arrays("docid") for value in array.to_pylist()] == [d.docid for d in documents]
    rng = np.random.default_rng(3)
    rows = rng.integers(0, len(documents), 3000)
    assert store.get(rows) == [documents[row] for row in rows.tolist()]
    by_id = {each.docid: row for row, each in enumerate(documents)}
    asked = [f"id {n}" for n in rng.integers(0, 10_000 * 7919, 2000)] + [documents[row].docid for row in rows.tolist()]
    found = store.rows(asked)
    assert found.dtype == np.int64
    assert found.tolist() == [by_id.get(docid, -1) for docid in asked]
    assert (found >= 0).sum() >= 3000
    known = asked[2000:]
    assert store.lookup(known) == [documents[by_id[docid]] for docid in known]
    assert list(store) == documents


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 1), (4095, 4097), (4096, 8192), (100, 9999), (0, 10_000)])
def test_ranges(large, start, stop):
    store, documents = large
    assert store.documents(start, stop) == documents[start:stop]
    assert store.docids(start, stop) == [each.docid for each in documents[start:stop]]


def test_nothing_asked_gives_nothing(large):
    store, _ = large
    assert store.get([]) == []
    assert store.rows([]).tolist() == []


@pytest.mark.parametrize("rows", [[-1], [0, 10_000], np.array([5, -3])])
def test_row_that_is_not_there_is_refused(large, rows):
    with pytest.raises(IndexError, match="expected 0 to 9999"):
        large[0].get(rows)


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, 10_001)])
def test_range_that_is_not_there_is_refused(large, start, stop):
    with pytest.raises(IndexError, match="within 0 to 10000"):
        large[0].docids(start, stop)


def test_address_is_the_line(write):
    path = write("corpus.jsonl", [{"docid": n, "text": "t"} for n in range(5000)])
    store = CorpusStore.open(path)
    assert [store.address(row) for row in (0, 4999)] == [(str(path), 1), (str(path), 5000)]


def test_store_travels_to_another_process(large):
    store, documents = large
    data = pickle.dumps(store)
    assert len(data) < 1000
    assert pickle.loads(data).get([9999]) == [documents[9999]]  # noqa: S301


def weak(identifier: bytes) -> int:
    return len(identifier) % 3


def test_ids_that_share_a_hash_are_told_apart(write, monkeypatch):
    # Real collisions of 64 bits cannot be had, so the hash is made a weak one: 200 ids share three hashes.
    monkeypatch.setattr(index, "hash_id", weak)
    docids = ["x" * n for n in range(1, 200)] + ["y"]
    store = CorpusStore.open(write("corpus.jsonl", [{"docid": docid, "text": docid} for docid in docids]))
    asked = [*reversed(docids), "z", "z" * 500]
    assert store.rows(asked).tolist() == [*reversed(range(200)), -1, -1]
    assert [each.docid for each in store.lookup(docids)] == docids
    with pytest.raises(DataError, match=r"corpus\.jsonl: field 'docid': unknown document; found 'z'"):
        store.lookup(["y", "z"])


@pytest.mark.parametrize("count", [1, 31, 300, 5000])
def test_index_of_spilled_parts_is_the_index_sorted_in_memory(tmp_path, monkeypatch, count):
    rng = np.random.default_rng(count)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    hashes[count // 2 :] >>= np.uint64(60)  # most of them in one part, and many of them equal
    files = []
    for held in (1 << 22, 100):
        monkeypatch.setattr(index, "IN_MEMORY", held)
        directory = tmp_path / str(held)
        directory.mkdir()
        writer = index.IndexWriter(directory)
        for start in range(0, count, 64):
            writer.add(hashes[start : start + 64])
        writer.finish()
        files.append({path.name: path.read_bytes() for path in directory.iterdir()})
    assert files[0] == files[1]
    assert set(files[0]) == set(index.INDEX_FILES)
    assert np.array_equal(np.frombuffer(files[0]["ids.hashes"], "<u8"), np.sort(hashes))


@pytest.mark.parametrize("collide", [False, True])
def test_duplicate_id_names_both_lines(write, monkeypatch, collide):
    if collide:
        monkeypatch.setattr(index, "hash_id", weak)
    rows = [{"docid": f"d{n}", "text": "t"} for n in range(100)]
    path = write(
        "corpus.jsonl", [*rows, {"_id": "d41", "text": "u"}, *[{"docid": f"e{n}", "text": "t"} for n in range(9)]]
    )
    with pytest.raises(
        DataError, match=r"corpus\.jsonl:101: field 'docid': duplicate id, first on line 42; found 'd41'"
    ):
        CorpusStore.open(path)


def test_integer_and_string_ids_that_are_equal_are_duplicates(write):
    with pytest.raises(DataError, match=r"train\.jsonl:2: field 'query_id': duplicate id, first on line 1; found '7'"):
        QueryStore.open(
            write("train.jsonl", [{"query_id": 7, "query_text": "a"}, {"query_id": "7", "query_text": "b"}])
        )


@pytest.mark.parametrize("name", ["rows.arrow", "places", "ids.hashes", "ids.rows", "ids.buckets"])
def test_every_flipped_bit_is_found_by_verify_and_by_reading(write, name):
    rows = [{"docid": f"d{n}", "title": "t", "text": f"text {n} " * 40} for n in range(300)]
    path = write("corpus.jsonl", rows)
    store = CorpusStore.open(path)
    store.verify()
    file = store.directory / name
    whole = file.read_bytes()
    for place in np.random.default_rng(5).integers(0, len(whole) - 8, 12).tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"{name}: the file is damaged: .* Remove .* built again"):
            CorpusStore(store.directory, Source.of(path)).verify()
        # Who reads everything by id reads every byte that matters: right documents or an error, nothing else.
        try:
            found = CorpusStore(store.directory, Source.of(path)).lookup([row["docid"] for row in rows])
        except DataError as error:
            assert "the file is damaged" in str(error)  # noqa: PT017
        else:
            assert [each.document_text for each in found] == [row["text"] for row in rows]
        file.write_bytes(whole)


def test_damaged_block_is_found_when_it_is_read_and_not_before(write):
    path = write("corpus.jsonl", [{"docid": f"d{n:04}", "text": "x" * 1000} for n in range(1000)])
    store = CorpusStore.open(path)
    table = store.directory / "rows.arrow"
    data = table.read_bytes()
    place = data.index(b"x" * 1000) + 500_000
    table.write_bytes(data[:place] + b"y" + data[place + 1 :])
    store = CorpusStore(store.directory, Source.of(path))
    assert store.get([0, 999])[1].document_text == "x" * 1000
    with pytest.raises(DataError, match=r"rows\.arrow: the file is damaged"):
        store.documents(400, 600)


def test_damaged_checksums_are_found_by_verify(write):
    store = CorpusStore.open(write("corpus.jsonl", [{"docid": "a", "text": "t"}]))
    sums = store.directory / "rows.arrow.checks"
    sums.write_bytes(bytes(len(sums.read_bytes())))
    with pytest.raises(DataError, match=r"rows\.arrow\.checks: the file is damaged"):
        store.verify()


def test_a_store_that_was_built_again_is_not_taken_for_the_old_one(write):
    path = write("corpus.jsonl", [{"docid": n, "text": f"old {n}"} for n in range(3)])
    old = CorpusStore.open(path)
    sent = pickle.dumps(old)
    write("corpus.jsonl", [{"docid": 2 - n, "text": f"a newer {2 - n}"} for n in range(3)])
    assert CorpusStore.open(path).fingerprint != old.fingerprint
    assert old.get([0])[0].document_text == "old 0"
    with pytest.raises(DataError, match=r"corpus\.jsonl: the source changed"):
        pickle.loads(sent)  # noqa: S301

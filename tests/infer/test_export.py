"""Embeddings as Parquet, beside their shards."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.infer.test_search import store

from teva_data.dataset import Dataset
from teva_data.embeddings import Embeddings
from teva_data.errors import TevaError
from teva_infer import encode, exporting
from teva_infer.cli import main
from teva_infer.exporting import export_parquet


@pytest.fixture(scope="module")
def corpus(tiny_model, tiny_data, tmp_path_factory) -> Embeddings:
    return encode(str(tiny_model), tiny_data, tmp_path_factory.mktemp("exported") / "emb", shard_size=25, device="cpu")


def test_files_hold_vectors_titles_and_texts(corpus, tiny_data, tmp_path, capsys):
    words = ["export", str(corpus.directory), "--output", str(tmp_path), "--data", str(tiny_data)]
    assert main(words) == 0
    assert str(tmp_path) in capsys.readouterr().out
    assert [path.name for path in sorted(tmp_path.glob("*.parquet"))] == [
        f"part-0000{n}-of-00003.parquet" for n in range(3)
    ]
    found = pq.read_table(tmp_path)
    assert found["id"].to_pylist() == corpus.ids()
    vectors = found["vector"].combine_chunks().flatten().to_numpy().reshape(-1, corpus.dim)
    np.testing.assert_array_equal(vectors, corpus.matrix())
    documents = Dataset.open(tiny_data).corpus.lookup(corpus.ids())
    assert found["title"].to_pylist() == [each.title for each in documents]
    assert found["text"].to_pylist() == [each.document_text for each in documents]
    assert found.schema.metadata[b"teva.normalized"] == b"true"


@pytest.mark.parametrize("dtype", ["float16", "int8", "binary"])
def test_stored_numbers(dtype, tmp_path):
    vectors = np.random.default_rng(1).standard_normal((30, 16)).astype(np.float32)
    corpus = store(tmp_path / "emb", vectors, shard=20, dtype=dtype)
    found = pq.read_table(export_parquet(corpus, tmp_path / "stored", numbers="stored"))
    numbers = found["vector"].combine_chunks().flatten().to_numpy().reshape(30, -1)
    if dtype == "binary":
        numbers = (2 * np.unpackbits(numbers, axis=1).astype(np.float32) - 1) / np.float32(4)
    elif dtype == "int8":
        numbers = numbers * found["scale"].to_numpy()[:, None]
    np.testing.assert_array_equal(numbers.astype(np.float32), corpus.matrix())
    wide = pq.read_table(export_parquet(corpus, tmp_path / "wide"))
    assert str(wide.schema.field("vector").type) == "fixed_size_list<element: float>[16]"
    np.testing.assert_array_equal(wide["vector"].combine_chunks().flatten().to_numpy().reshape(30, 16), corpus.matrix())


def test_it_goes_on_where_it_stopped(corpus, tmp_path, monkeypatch):
    made: list[int] = []
    plain = exporting.Rows.table
    monkeypatch.setattr(exporting.Rows, "table", lambda self, shard: (made.append(shard), plain(self, shard))[1])
    export_parquet(corpus, tmp_path)
    (tmp_path / "part-00001-of-00003.parquet").write_bytes(b"PAR1 cut short")
    export_parquet(corpus, tmp_path)
    assert made == [0, 1, 2, 1]
    assert pq.read_table(tmp_path)["id"].to_pylist() == corpus.ids()


def test_stored_numbers_are_parquets_alone(corpus, tmp_path, capsys):
    words = ["export", str(corpus.directory), "--output", str(tmp_path / "db"), "--to", "lancedb"]
    assert main([*words, "--numbers", "stored"]) == 1
    assert "--numbers stored" in capsys.readouterr().err
    assert not (tmp_path / "db").exists()


def test_what_does_not_belong_together_is_refused(corpus, tiny_model, tiny_data, tmp_path):
    export_parquet(corpus, tmp_path / "out")
    with pytest.raises(TevaError, match="of another export"):
        export_parquet(corpus, tmp_path / "out", data=tiny_data)
    (tmp_path / "corpus.jsonl").write_text('{"docid": "d1", "text": "water"}\n')
    with pytest.raises(TevaError, match="Give the dataset that was encoded"):
        export_parquet(corpus, tmp_path / "other", data=tmp_path)
    queries = encode(str(tiny_model), tiny_data, tmp_path / "queries", split="test", device="cpu")
    with pytest.raises(TevaError, match="query vectors"):
        export_parquet(queries, tmp_path / "other", data=tiny_data)

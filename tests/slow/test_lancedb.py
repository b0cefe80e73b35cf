"""A real LanceDB in a directory: every row, the same order as exact search, and no row twice after a kill."""

from __future__ import annotations

import numpy as np
import pytest
from tests.infer.test_search import store

from teva_data.dataset import Dataset
from teva_data.errors import TevaError
from teva_infer import encode, exporting
from teva_infer.cli import main
from teva_infer.exporting import load_lancedb
from teva_infer.searching import search_block

lancedb = pytest.importorskip("lancedb", reason="needs the group service")
pytestmark = pytest.mark.slow


def unit(rows: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((40, 64))
    vectors = centres[rng.integers(0, 40, rows)] + 0.6 * rng.standard_normal((rows, 64))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_documents_by_the_command_line(tiny_model, tiny_data, tmp_path, capsys):
    corpus = encode(str(tiny_model), tiny_data, tmp_path / "emb", shard_size=25, device="cpu")
    words = ["export", str(corpus.directory), "--output", str(tmp_path / "db"), "--to", "lancedb"]
    assert main([*words, "--data", str(tiny_data)]) == 0
    assert "60 rows" in capsys.readouterr().out
    found = lancedb.connect(tmp_path / "db").open_table("documents").to_arrow()
    assert found["id"].to_pylist() == corpus.ids()
    documents = Dataset.open(tiny_data).corpus.lookup(corpus.ids())
    assert found["text"].to_pylist() == [each.document_text for each in documents]


def test_it_finds_what_exact_search_finds(tmp_path, monkeypatch):
    corpus, queries = store(tmp_path / "emb", unit(6000, 1), shard=500), unit(20, 2)
    monkeypatch.setattr(exporting, "APPEND_ROWS", 1000)
    # A load that is cut off after two appends goes on behind them.
    plain, seen = exporting.Rows.table, []

    def cut(self, shard):
        seen.append(shard)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return plain(self, shard)

    monkeypatch.setattr(exporting.Rows, "table", cut)
    with pytest.raises(KeyboardInterrupt):
        load_lancedb(corpus, tmp_path / "db", "all")
    table = lancedb.connect(tmp_path / "db").open_table("all")
    assert table.count_rows() == 2000
    assert load_lancedb(corpus, tmp_path / "db", "all") == 6000
    assert seen[6:] == list(range(4, 12))
    table = lancedb.connect(tmp_path / "db").open_table("all")
    assert table.to_arrow()["id"].to_pylist() == corpus.ids()
    np.testing.assert_array_equal(
        table.to_arrow()["vector"].combine_chunks().flatten().to_numpy().reshape(-1, 64), corpus.matrix()
    )
    assert len(table.list_indices()) == 1
    scores, rows, _ = search_block(queries, corpus, 10)
    exact, by_index = [], []
    for query, wanted, score in zip(queries, rows, scores, strict=True):
        ids = [f"d{row}" for row in wanted]
        plainly = table.search(query).distance_type("dot").bypass_vector_index().limit(10).to_list()
        assert [row["id"] for row in plainly] == ids
        # LanceDB's distance of inner products is 1 less the product.
        np.testing.assert_allclose([1 - row["_distance"] for row in plainly], score, atol=1e-5)
        fast = table.search(query).distance_type("dot").nprobes(20).refine_factor(20).limit(10).to_list()
        exact += ids
        by_index.append(len({row["id"] for row in fast} & set(ids)))
    assert sum(by_index) / len(exact) >= 0.95


def test_another_table_is_refused(tmp_path):
    load_lancedb(store(tmp_path / "one", unit(50, 1)), tmp_path / "db", "t")
    with pytest.raises(TevaError, match="holds something else"):
        load_lancedb(store(tmp_path / "two", unit(50, 2)), tmp_path / "db", "t")


def test_what_lancedb_does_not_take_is_told(tmp_path):
    corpus = store(tmp_path / "one", unit(50, 1))
    for uri, table in ((tmp_path / "db", "a/b"), (tmp_path / "db", ""), ("nowhere://x", "t")):
        with pytest.raises(TevaError, match="LanceDB does not take"):
            load_lancedb(corpus, uri, table)
    load_lancedb(corpus, tmp_path / "db", "t")
    table = lancedb.connect(tmp_path / "db").open_table("t")
    table.add(table.to_arrow().slice(0, 5))  # another program's rows
    with pytest.raises(TevaError, match="holds something else"):
        load_lancedb(corpus, tmp_path / "db", "t")

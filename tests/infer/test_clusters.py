"""What a worker of a cluster makes of its rows, without a cluster; with a real one: tests/slow/test_ray.py."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.conftest import write_jsonl

from teva_data.embedding_writer import EmbeddingWriter
from teva_data.errors import TevaError
from teva_data.shardfiles import ShardFiles
from teva_infer import encode
from teva_infer.clusters import _search_part, _ShardEncoder, encode_on_ray, short_of
from teva_infer.indexes.building import contents

OPTIONS = {"engine": "torch", "device": "cpu"}


def rows(shard: int, start: int, stop: int) -> dict[str, np.ndarray]:
    return {"shard": np.array([shard]), "start": np.array([start]), "stop": np.array([stop])}


def test_it_gives_or_writes_what_encode_writes(tiny_model, tiny_data, tmp_path):
    alone = encode(str(tiny_model), tiny_data, tmp_path / "alone", shard_size=25, device="cpu")
    worker = _ShardEncoder(str(tiny_model), str(tiny_data), None, OPTIONS, {}, False, None, {})
    found = worker(rows(1, 25, 50))
    ids, vectors = alone.shard(1)
    made = json.loads(found["made"][0])
    assert (found["shard"], made["ids"], made["left_out"]) == ([1], ids, {})
    np.testing.assert_array_equal(np.frombuffer(found["vectors"][0], np.float32).reshape(-1, 32), vectors)
    with EmbeddingWriter(tmp_path / "out", job=alone.manifest["job"], shards=[25, 25, 10], dim=32) as writer:
        worker.files = writer.files
        found = worker(rows(1, 25, 50))
        assert found["vectors"] == [b""]
        entry = json.loads(found["made"][0])["entry"]
        writer.enter(1, entry)
        assert writer.missing() == [0, 2]
        with pytest.raises(TevaError, match="Do both see one directory"):
            writer.enter(2, entry)
    name = "shard-00001-of-00003.arrow"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_what_is_wrong_is_told_as_a_row(tiny_model, tmp_path):
    (tmp_path / "a.png").write_bytes(b"not looked at")
    write_jsonl(tmp_path / "corpus.jsonl", [{"docid": "d1", "text": "water"}, {"docid": "d2", "image": "a.png"}])
    # A row when it is read; a model that is none when the worker begins.
    for model, told in ((tiny_model, f"{tmp_path}/corpus.jsonl:2: a document without text"), (tmp_path, str(tmp_path))):
        worker = _ShardEncoder(str(model), str(tmp_path), None, OPTIONS, {}, False, None, {})
        made = json.loads(worker(rows(0, 0, 2))["made"][0])
        assert made["error"].startswith(told)


def test_a_disk_that_says_no_is_told_as_a_row(tiny_model, tiny_data, tmp_path):
    files = ShardFiles(tmp_path / "file" / "out", "job", (25, 25, 10), 32, "float32")
    (tmp_path / "file").write_text("where a directory should be")
    worker = _ShardEncoder(str(tiny_model), str(tiny_data), None, OPTIONS, {}, False, files, {})
    made = json.loads(worker(rows(1, 25, 50))["made"][0])
    assert str(tmp_path / "file") in made["error"]


def test_a_copy_that_is_not_what_it_was_is_refused(tiny_model, tiny_data, tmp_path):
    """A machine with an older model, data or embeddings under the same path: its vectors would be mixed with others."""
    alone = encode(str(tiny_model), tiny_data, tmp_path / "emb", shard_size=25, device="cpu")
    job = {key: value for key, value in alone.manifest["job"].items() if key not in ("dim", "dtype", "shards")}
    for key in (None, "model_fingerprint", "data_fingerprint"):
        wanted = job if key is None else {**job, key: "older"}
        worker = _ShardEncoder(str(tiny_model), str(tiny_data), None, OPTIONS, {}, False, None, wanted)
        made = json.loads(worker(rows(1, 25, 50))["made"][0])
        assert ("error" in made) == (key is not None)
        assert key is None or f"{key}: 'older' there" in made["error"]
    queries = alone.matrix()[:2]
    found, _ = _search_part(queries, str(tmp_path / "emb"), (0, 2), 3, contents(alone.part(0, 2)))
    assert found.shape == (2, 3)
    with pytest.raises(TevaError, match="Bring this machine's copy up to date"):
        _search_part(queries, str(tmp_path / "emb"), (0, 2), 3, contents(alone.part(1, 2)))


def test_what_a_cluster_has_not_is_told():
    """Ray waits for it without a word."""
    there = {"CPU": 4.0, "memory": 1e9}
    assert short_of(there, gpus=0, cpus=2) is None
    assert "wants 0.5 GPU, and the cluster has 0 now" in short_of(there, gpus=0.5, cpus=1)
    assert "wants 8 CPU, and the cluster has 4 now" in short_of(there, gpus=0, cpus=8)


def test_no_workers_are_refused(tiny_model, tiny_data, tmp_path):
    for numbers in ({"workers": 0}, {"workers": 1, "gpus": -1.0}, {"workers": 1, "cpus": -1.0}):
        with pytest.raises(TevaError, match="workers starts at 1"):
            encode_on_ray(tiny_model, tiny_data, tmp_path / "emb", **numbers)

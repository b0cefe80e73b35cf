from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from teva_data.dataset import Dataset
from teva_data.embeddings import Embeddings
from teva_data.errors import DataError, TevaError
from teva_data.progress import Progress
from teva_data.shardfiles import shard_name
from teva_infer import encoding
from teva_infer.encoder import Encoder
from teva_infer.encoding import encode


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """500 documents and 30 queries, two of which have a prompt of their own."""
    directory = tmp_path_factory.mktemp("data")
    words = ["red", "blue", "river", "stone", "tea", "bread", "city", "winter", "ice", "ünïcødé", "東京"]
    documents = [
        {"docid": f"d{n}", "title": words[n % 11] if n % 2 else "", "document_text": " ".join(words[: n % 9 + 1])}
        for n in range(500)
    ]
    queries: list[dict[str, object]] = [{"query_id": f"q{n}", "query_text": words[n % 11]} for n in range(30)]
    queries[3]["prompt"], queries[4]["prompt"] = "find the city: ", ""
    for name, rows in (("corpus", documents), ("test", queries)):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


@pytest.fixture
def encoder(tiny_model, bag):
    return Encoder.load(tiny_model, engine=bag, query_prompt="what is ", document_prompt="paper ")


def files(directory):
    """Bytes of what an encode leaves, without its log."""
    paths = (path for path in Path(directory).iterdir() if path.name not in (".lock", "encode.log"))
    return {path.name: path.read_bytes() for path in sorted(paths)}


@pytest.fixture
def told(encoder, monkeypatch):
    """Of each batch: the clock when it was done, the rows until then, the seconds that are told to be left.

    Time passes by the tokens of a batch, and not otherwise.
    """
    now, found, plain = [0.0], [], encoder.engine.encode

    def encoded(rows):
        now[0] += sum(map(len, rows))
        return plain(rows)

    def add(self, units, note=""):
        self.count += units
        if self.what == "encode":  # and not the building of the dataset's stores
            found.append((now[0], self.count, self.left()))

    monkeypatch.setattr(encoder.engine, "encode", encoded)
    monkeypatch.setattr(encoding, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Progress, "add", add)
    return found


@pytest.mark.parametrize(("shard_size", "error"), [(1000, 1e-9), (50, 0.15)])
def test_the_time_left_is_right_from_the_first_batch(encoder, data, tmp_path, told, shard_size, error):
    # The longest come first: by the count of documents the first batch would tell of much more.
    encode(encoder, data, tmp_path / "emb", shard_size=shard_size, batch_tokens=200)
    end = told[-1][0]
    assert len(told) > 20
    assert told[-1][1] == 500
    assert told[-1][2] == pytest.approx(0, abs=1e-6)
    for now, _, left in told[:-1]:
        assert left == pytest.approx(end - now, abs=error * end)
    first, rows, _ = told[0]
    assert first / rows * (500 - rows) > 1.4 * (end - first)


def test_a_corpus_has_the_vectors_of_encode_documents(encoder, data, tmp_path):
    found = encode(encoder, data, tmp_path / "emb", shard_size=64, batch_tokens=300)
    documents = Dataset.open(data).corpus.documents(0, 500)
    assert found.ids() == [f"d{n}" for n in range(500)]
    np.testing.assert_allclose(found.matrix(), encoder.encode_documents(documents), atol=1e-6)
    assert [len(part) for part in found.vectors()] == [64] * 7 + [52]
    assert len(Embeddings.open(tmp_path / "emb")) == 500


def test_queries_have_their_own_prompts(encoder, data, tmp_path):
    found = encode(encoder, Dataset.open(data), tmp_path / "emb", split="test")
    queries = Dataset.open(data).queries("test").queries(0, 30)
    assert found.role == "query"
    assert found.ids() == [f"q{n}" for n in range(30)]
    expected = [encoder.encode_queries([query.query_text], prompt=query.prompt)[0] for query in queries]
    np.testing.assert_allclose(found.matrix(), expected, atol=1e-6)
    rendered = ["find the city: bread", "tea", "what is red"]
    assert [queries[n].query_text for n in (3, 4, 0)] == ["stone", "tea", "red"]
    rendered[0] = "find the city: stone"
    np.testing.assert_allclose(found.matrix()[[3, 4, 0]], encoder.encode_texts(rendered), atol=1e-6)


def test_the_manifest_tells_what_was_done(tiny_model, bag, data, tmp_path):
    options = {"engine": bag, "document_prompt": "paper ", "max_length": 12, "vector_dtype": "float16"}
    found = encode(tiny_model, data, tmp_path / "emb", batch_tokens=999, **options)
    artifact = Encoder.load(tiny_model, engine=bag).artifact
    assert found.manifest["job"] == {
        "role": "document", "model_fingerprint": artifact.fingerprint, "prompt": "paper ", "max_length": 12,
        "data_fingerprint": Dataset.open(data).corpus.fingerprint, "normalized": True, "engine": "bag",
        "compute_dtype": "float32", "dim": 32, "dtype": "float16", "shards": [500],
    }  # fmt: skip
    info = found.manifest["info"]
    assert (info["model"], info["revision"], info["split"], info["batch_tokens"]) == (str(tiny_model), None, None, 999)
    assert info["versions"]["numpy"] == np.__version__
    assert next(found.vectors()).dtype == np.float16


def test_a_finished_encode_does_nothing_more(encoder, data, tmp_path, monkeypatch):
    encode(encoder, data, tmp_path / "emb", shard_size=100)
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "emb").glob("*.arrow")}
    monkeypatch.setenv("BAG_LOG", str(tmp_path / "log"))
    assert len(encode(encoder, data, tmp_path / "emb", shard_size=100)) == 500
    assert not (tmp_path / "log").exists()
    assert times == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "emb").glob("*.arrow")}


def test_only_lost_and_damaged_shards_are_encoded_again(encoder, data, tmp_path, monkeypatch):
    encode(encoder, data, tmp_path / "emb", shard_size=100)
    whole = files(tmp_path / "emb")
    (tmp_path / "emb" / shard_name(1, 5)).unlink()
    path = tmp_path / "emb" / shard_name(3, 5)
    path.write_bytes(path.read_bytes()[:-100])
    monkeypatch.setenv("BAG_LOG", str(tmp_path / "log"))
    encode(encoder, data, tmp_path / "emb", shard_size=100)
    assert files(tmp_path / "emb") == whole
    assert sum(len(json.loads(line)) for line in (tmp_path / "log").read_text().splitlines()) == 200
    log = (tmp_path / "emb" / "encode.log").read_text()
    assert f"WARNING {path}: damaged; it is made again" in log
    assert f"WARNING {tmp_path / 'emb' / shard_name(1, 5)}: gone since" in log
    assert "2 of 5 shards to do" in log


KILLED = textwrap.dedent("""
    import sys
    from teva_infer.encoding import encode
    encode(sys.argv[1], sys.argv[2], sys.argv[3], engine="bag", shard_size=20, batch_tokens=200)
""")


def test_killed_and_started_again_gives_the_same_bytes(tiny_model, bag, bag_path, data, tmp_path, monkeypatch):
    directory = tmp_path / "emb"
    environment = {**os.environ, "PYTHONPATH": str(bag_path), "BAG_SECONDS": "0.05"}
    command = [sys.executable, "-c", KILLED, str(tiny_model), str(data), str(directory)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        while len(list(directory.glob("shard-*.arrow"))) < 6:
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    done = {path: path.stat().st_mtime_ns for path in directory.glob("shard-*.arrow")}
    assert 6 <= len(done) < 25
    with pytest.raises(DataError, match="of 25 shards missing"):
        Embeddings.open(directory)
    monkeypatch.setenv("BAG_LOG", str(tmp_path / "log"))
    options = {"engine": bag, "shard_size": 20, "batch_tokens": 200}
    encode(tiny_model, data, directory, **options)
    encoded = sum(len(json.loads(line)) for line in (tmp_path / "log").read_text().splitlines())
    assert encoded == 500 - 20 * len(done)
    assert all(path.stat().st_mtime_ns == changed for path, changed in done.items())
    assert not list(directory.glob(".*.tmp"))
    monkeypatch.delenv("BAG_LOG")
    encode(tiny_model, data, tmp_path / "whole", **options)
    assert files(directory) == files(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"document_prompt": "x"}, "prompt"), ({"max_length": 20}, "max_length"), ({"shard_size": 99}, "shards"),
        ({"vector_dtype": "float16"}, "dtype"), ({"split": "test"}, "role"), ({"dtype": "bfloat16"}, "compute_dtype"),
    ],
)  # fmt: skip
def test_another_job_is_refused_unless_told(tiny_model, bag, data, tmp_path, options, key):
    encode(tiny_model, data, tmp_path / "emb", engine=bag)
    before = files(tmp_path / "emb")
    with pytest.raises(TevaError, match=rf"{key}: .* there, .* now.*overwrite"):
        encode(tiny_model, data, tmp_path / "emb", engine=bag, **options)
    assert files(tmp_path / "emb") == before
    encode(tiny_model, data, tmp_path / "emb", engine=bag, overwrite=True, **options)
    assert files(tmp_path / "emb") != before


def test_data_that_changed_is_another_job(encoder, data, tmp_path):
    copy = Path(shutil.copytree(data, tmp_path / "copy"))
    encode(encoder, copy, tmp_path / "emb")
    with (copy / "corpus.jsonl").open("a") as file:
        file.write('{"docid": "new", "document_text": "tea"}\n')
    with pytest.raises(TevaError, match="data_fingerprint"):
        encode(encoder, copy, tmp_path / "emb")


def test_batches_and_place_are_not_part_of_the_job(encoder, tiny_model, data, tmp_path):
    encode(encoder, data, tmp_path / "emb", batch_tokens=100)
    moved = Path(shutil.copytree(tiny_model, tmp_path / "moved"))
    options = {"query_prompt": "what is ", "document_prompt": "paper "}
    encode(moved, data, tmp_path / "emb", engine="bag", batch_tokens=5000, **options)


def test_a_vector_that_is_not_finite_names_its_document_and_keeps_the_rest(encoder, data, tmp_path, monkeypatch):
    whole = encode(encoder, data, tmp_path / "whole", shard_size=100)
    monkeypatch.setenv("BAG_NAN", "1")
    with pytest.raises(DataError, match=r"the vector of 'd\d+' holds NaN"):
        encode(encoder, data, tmp_path / "emb", shard_size=100)
    assert "ERROR stopped by DataError: " in (tmp_path / "emb" / "encode.log").read_text()
    monkeypatch.delenv("BAG_NAN")
    found = encode(encoder, data, tmp_path / "emb", shard_size=100)
    np.testing.assert_array_equal(found.matrix(), whole.matrix())


def test_a_document_without_tokens_has_an_address(encoder, tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    (data / "corpus.jsonl").write_text('{"docid": "a", "document_text": "tea"}\n{"docid": "b", "document_text": "?"}\n')
    # A tokenizer without special tokens that knows no piece of the text, as some decoders have.
    monkeypatch.setattr(encoder.renderer, "tokenize", lambda texts, most: [[5], []])
    with pytest.raises(DataError, match="the document 'b' has no tokens") as caught:
        encode(encoder, data, tmp_path / "emb")
    assert str(caught.value).startswith(f"{data / 'corpus.jsonl'}:2: ")


def test_bad_data_and_options(encoder, data, tmp_path):
    with pytest.raises(DataError, match=r"unknown split.*'tset'.*test"):
        encode(encoder, data, tmp_path / "emb", split="tset")
    with pytest.raises(DataError, match="not a dataset"):
        encode(encoder, tmp_path / "nowhere", tmp_path / "emb")
    with pytest.raises(TevaError, match="shard_size"):
        encode(encoder, data, tmp_path / "emb", shard_size=0)
    with pytest.raises(TevaError, match=r"max_length, offline: .*Encoder\.load"):
        encode(encoder, data, tmp_path / "emb", max_length=9, offline=True)
    assert not (tmp_path / "emb").exists()


def test_the_log_file_is_written_whatever_the_application_logs(encoder, data, tmp_path):
    package = logging.getLogger("teva_infer")
    package.setLevel(logging.ERROR)
    try:
        encode(encoder, data, tmp_path / "emb", shard_size=100)
        assert (package.level, package.handlers) == (logging.ERROR, [])
    finally:
        package.setLevel(logging.NOTSET)
    log = (tmp_path / "emb" / "encode.log").read_text()
    assert "500 documents, 5 of 5 shards to do" in log
    assert "prompt 'paper ', at most 48 tokens" in log
    assert "tokens/s" in log
    assert "documents/s" in log


def test_media_beside_a_text_are_told_and_media_alone_are_refused(encoder, tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(b"picture")
    rows = [{"docid": "a", "text": "red river", "image": "a.png"}, {"docid": "b", "image": "a.png"}]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps(rows[0]) + "\n")
    assert encode(encoder, tmp_path, tmp_path / "emb").ids() == ["a"]
    assert "rows with pieces that this model does not see: {'image': 1}" in caplog.text
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"corpus\.jsonl:2: a document without text; found 'media alone'"):
        encode(encoder, tmp_path, tmp_path / "emb2")

"""Engines in processes of their own and behind HTTP, smaller batches after running out of memory, cut vectors."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from teva_data.artifact import Artifact
from teva_data.embeddings import Embeddings
from teva_data.errors import EngineMemoryError, MissingExtraError, TevaError
from teva_infer import Encoder
from teva_infer.commands.words import options_of
from teva_infer.encoding import encode
from teva_infer.engines import embeddings_api, load_engine
from teva_infer.engines.process import ProcessEngine

TEXTS = ["red river", "a", "stone " * 90, "how to bake bread", "東京"] * 4


@pytest.fixture
def elsewhere(bag, bag_path, monkeypatch):
    """The bag engine, for child processes too."""
    monkeypatch.setenv("PYTHONPATH", str(bag_path))
    return bag


@pytest.fixture
def expected(tiny_model, bag):
    return Encoder.load(tiny_model, engine=bag).encode_texts(TEXTS)


def test_a_child_process_gives_the_same_vectors_and_its_errors(tiny_model, elsewhere, expected, monkeypatch):
    monkeypatch.setenv("BAG_MEMORY", "100")
    artifact = Artifact.load(tiny_model)
    engine = ProcessEngine(elsewhere, artifact)
    rows = Encoder.load(tiny_model, engine=elsewhere).renderer.tokenize(TEXTS)
    np.testing.assert_array_equal(np.concatenate([engine.encode([row]) for row in rows]), expected)
    with pytest.raises(EngineMemoryError, match=r"EngineMemoryError: .* tokens"):
        engine.encode(rows)
    with pytest.raises(TevaError, match="IndexError"):
        engine.encode([])
    np.testing.assert_array_equal(engine.encode(rows[:1]), expected[:1])  # an error is not its end
    engine.close()
    with pytest.raises(TevaError, match="its process ended"):
        engine.encode(rows[:1])
    with pytest.raises(TevaError, match="cannot run /no/python"):
        ProcessEngine(elsewhere, artifact, python="/no/python")
    with pytest.raises(TevaError, match="unknown engine 'bagg'"):
        ProcessEngine("bagg", artifact)


def test_several_devices_give_the_bytes_of_one(tiny_model, elsewhere, tiny_data, tmp_path):
    options = {"engine": elsewhere, "shard_size": 3, "batch_tokens": 20}
    one = encode(tiny_model, tiny_data, tmp_path / "one", **options)
    two = encode(tiny_model, tiny_data, tmp_path / "two", device="cpu,cpu", **options)
    assert one.ids() == two.ids()
    np.testing.assert_array_equal(one.matrix(), two.matrix())


def test_one_device_that_fails_ends_the_others(tiny_model, elsewhere, monkeypatch):
    monkeypatch.delenv("PYTHONPATH")  # the children then find no such engine
    with pytest.raises(TevaError, match="unknown engine 'bag'"):
        load_engine(elsewhere, Artifact.load(tiny_model), device="cpu,cpu", dtype="float32", options={})


def test_after_running_out_of_memory_batches_are_halved(tiny_model, bag, expected, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("BAG_MEMORY", "100")
    monkeypatch.setenv("BAG_LOG", str(tmp_path / "log"))
    encoder = Encoder.load(tiny_model, engine=bag)
    np.testing.assert_array_equal(encoder.encode_texts(TEXTS), expected)
    assert "out of memory with" in caplog.text
    tried = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    sizes = [len(lengths) * max(lengths) for lengths in tried]
    assert max(sizes[:3]) > 100
    (tmp_path / "log").unlink()
    encoder.encode_texts(TEXTS)  # what failed once is not tried again
    again = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert max(len(lengths) * max(lengths) for lengths in again) <= 100
    monkeypatch.setenv("BAG_MEMORY", "10")
    with pytest.raises(EngineMemoryError, match=r"One text of \d+ tokens does not fit by itself"):
        Encoder.load(tiny_model, engine=bag).encode_texts(TEXTS)


def test_cut_vectors_have_length_1_again(tiny_model, bag, expected, tiny_data, tmp_path, caplog):
    short = Encoder.load(tiny_model, engine=bag, dim=8)
    found = short.encode_texts(TEXTS)
    wanted = expected[:, :8] / np.linalg.norm(expected[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert (short.dim, "trained to be cut" in caplog.text) == (8, False)
    assert encode(tiny_model, tiny_data, tmp_path / "emb", engine=bag, dim=8).dim == 8
    for dim in (0, 33):
        with pytest.raises(TevaError, match="expected 1 to 32"):
            Encoder.load(tiny_model, engine=bag, dim=dim)


@pytest.mark.parametrize(("dtype", "most"), [("int8", 0.01), ("binary", 0.9)])
def test_small_vectors_are_near_the_whole_ones(tiny_model, bag, tiny_data, tmp_path, dtype, most):
    whole = encode(tiny_model, tiny_data, tmp_path / "whole", engine=bag).matrix()
    small = encode(tiny_model, tiny_data, tmp_path / "small", engine=bag, vector_dtype=dtype)
    assert np.linalg.norm(small.matrix() - whole, axis=1).max() < most
    if dtype == "binary":
        np.testing.assert_array_equal(small.matrix() > 0, whole > 0)
        np.testing.assert_allclose(np.linalg.norm(small.matrix(), axis=1), 1, rtol=1e-6)
    assert len(Embeddings.open(tmp_path / "small")) == len(whole)


@pytest.fixture
def server(tiny_model, bag):
    """A server with `/v1/embeddings`, which tokenises by itself; `server.answers` may stand before good answers."""
    encoder = Encoder.load(tiny_model, engine=bag)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self._send(200, {"data": [{"id": "tiny"}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.bodies.append((body, self.headers.get("Authorization")))
            if server.answers:
                self._send(*server.answers.pop(0))
                return
            texts = isinstance(body["input"][0], str)
            vectors = (encoder.encode_texts if texts else encoder.encode_tokens)(body["input"])
            data = [{"index": row, "embedding": vector.tolist()} for row, vector in enumerate(vectors)]
            self._send(200, {"data": data[::-1]})

        def _send(self, status, answer):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answers, server.bodies = [], []
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.mark.parametrize("inputs", ["texts", "tokens"])
def test_a_server_gives_the_same_vectors(tiny_model, server, expected, inputs):
    options = {"url": server.url, "rows": 3, "inputs": inputs, "api_key": "secret"}
    encoder = Encoder.load(tiny_model, engine="http", engine_options=options, query_prompt="query: ")
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), expected, atol=1e-7)
    body, key = server.bodies[0]
    assert (body["model"], body["truncate_prompt_tokens"], key) == ("tiny", -1, "Bearer secret")
    assert max(len(body["input"]) for body, _ in server.bodies) == 3
    server.bodies.clear()
    encoder.encode_queries(["tea"])
    if inputs == "texts":
        assert server.bodies[0][0]["input"] == ["query: tea"]
        with pytest.raises(TevaError, match="reads texts, not token ids"):
            encoder.encode_tokens([[5, 6]])
    encoder.close()


def test_what_a_server_may_answer(tiny_model, server, expected, monkeypatch):
    monkeypatch.setattr(embeddings_api.time, "sleep", lambda _: None)
    encoder = Encoder.load(tiny_model, engine="http", engine_options={"url": server.url})
    server.answers += [(503, {}), (429, {})]
    np.testing.assert_allclose(encoder.encode_texts(TEXTS[:2]), expected[:2], atol=1e-7)
    for answer, message in (
        ((400, {"error": "bad"}), "400 Bad Request.*bad"),
        ((200, {"data": [{"index": 0, "embedding": [1.0, 2.0]}]}), "vectors of 2 numbers; expected 32"),
        ((200, {"data": []}), "expected 1 vectors in `data`"),
        ((413, {"error": "too large"}), "413.*does not fit by itself"),
    ):
        server.answers.append(answer)
        with pytest.raises(TevaError, match=message):
            encoder.encode_texts(["tea"])
    closed = Encoder.load(tiny_model, engine="http", engine_options={"url": "http://127.0.0.1:9"})
    with pytest.raises(TevaError, match="Is the server running there"):
        closed.encode_texts(["tea"])


def test_options_of_engines(tiny_model, bag):
    with pytest.raises(TevaError, match=r"'bag' has no option 'url'\. It has none"):
        Encoder.load(tiny_model, engine=bag, engine_options={"url": "x"})
    with pytest.raises(TevaError, match=r"'http' has no option 'ulr'\. Did you mean 'url'"):
        Encoder.load(tiny_model, engine="http", engine_options={"ulr": "x"})
    with pytest.raises(TevaError, match="the engine 'http' needs url"):
        Encoder.load(tiny_model, engine="http")
    for engine, place in (("http", "url"), ("vllm", "python")):
        with pytest.raises(TevaError, match="inputs: found 'words'"):
            Encoder.load(tiny_model, engine=engine, engine_options={"inputs": "words", place: "x"})
    words = ["url=http://x:1/a=b", "rows=8", "flag=true"]
    assert options_of(words) == {"url": "http://x:1/a=b", "rows": 8, "flag": True}
    with pytest.raises(TevaError, match="expected key=value"):
        options_of(["rows"])


def test_without_vllm_the_extra_is_named(tiny_model, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "teva-infer\[vllm\]"'):
        Encoder.load(tiny_model, engine="vllm")

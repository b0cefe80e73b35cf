"""The search service: over ASGI, and as a process that is told to stop."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.numpy import load_file, save_file
from tests.conftest import WORDS

from teva_data.dataset import Dataset
from teva_data.embeddings import Embeddings
from teva_data.errors import DataError, TevaError
from teva_data.pieces import Media
from teva_infer import encode, search
from teva_infer.indexes.building import build_index
from teva_infer.serving import app as service
from teva_infer.serving import media, serve
from teva_infer.serving.batching import Batcher, FullError
from teva_infer.serving.systems import QueryError, System

SCRIPT = "<script>document.title = 'taken'</script>"
QUESTIONS = [f"how {one} and {two}" for one, two in zip(WORDS, reversed(WORDS), strict=True)]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Documents with titles, HTML and a picture; and one that says it has a picture and has a page."""
    directory = tmp_path_factory.mktemp("served")
    Image.new("RGB", (40, 30), "red").save(directory / "red.png")
    (directory / "page.png").write_text(f"<html>{SCRIPT}</html>")
    rows = [
        {
            "docid": f"d{number}",
            "title": f"the {word}",
            "text": f"{word} of {WORDS[-number - 1]} in the {WORDS[number]}",
        }
        for number, word in enumerate(WORDS)
    ]
    rows[3] |= {"text": f"{rows[3]['text']} {SCRIPT}", "image": "red.png"}
    rows[4] |= {"image": "page.png"}
    (directory / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "test.jsonl").write_text(
        "".join(json.dumps({"query_id": f"q{n}", "query": text}) + "\n" for n, text in enumerate(QUESTIONS))
    )
    return directory


@pytest.fixture(scope="module")
def parts(data, tiny_model) -> tuple[Path, Path]:
    """Embeddings and an index of them."""
    encode(str(tiny_model), data, data.parent / "emb")
    encode(str(tiny_model), data, data.parent / "queries", split="test")
    build_index(data.parent / "emb", data.parent / "idx", kind="hnsw")
    return data.parent / "emb", data.parent / "idx"


@pytest.fixture(scope="module")
def systems(data, tiny_model, parts) -> dict[str, System]:
    emb, idx = parts
    return {
        "exact": System("exact", tiny_model, data, emb),
        "graph": System("graph", tiny_model, data, emb, idx, {"efSearch": 200}),
    }


@pytest.fixture(scope="module")
def client(systems):
    with TestClient(service.make_app(systems)) as found:
        yield found


def asked(client, **request):
    return client.post("/search", json=request)


@pytest.mark.parametrize("system", ["exact", "graph"])
def test_it_finds_what_search_finds(client, data, parts, system):
    run = search(data.parent / "queries", parts[0], depth=7)
    for number, text in enumerate(QUESTIONS):
        answer = asked(client, query=text, depth=7, system=system).json()
        found = [(hit["docid"], hit["score"]) for hit in answer["hits"]]
        assert answer["system"] == system
        assert [docid for docid, _ in found] == [docid for docid, _ in run[f"q{number}"]]
        assert [score for _, score in found] == pytest.approx([score for _, score in run[f"q{number}"]], abs=1e-6)
    corpus = Dataset.open(data).corpus
    for hit in answer["hits"]:
        (document,) = corpus.lookup([hit["docid"]])
        assert (hit["title"], hit["text"]) == (document.title, document.document_text)


def test_who_asks_together_is_answered_together(systems):
    app = service.make_app(systems, batch=8, wait=0.05)
    with TestClient(app) as client, ThreadPoolExecutor(16) as pool:
        alone = [asked(client, query=text, depth=3 + n % 4).json()["hits"] for n, text in enumerate(QUESTIONS)]
        together = list(
            pool.map(lambda n: asked(client, query=QUESTIONS[n], depth=3 + n % 4).json()["hits"], range(41))
        )
        metrics = client.get("/metrics").text
    for one, other in zip(alone, together, strict=True):
        assert [hit["docid"] for hit in one] == [hit["docid"] for hit in other]
        assert [hit["score"] for hit in one] == pytest.approx([hit["score"] for hit in other], abs=1e-6)
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    assert float(values['teva_batch_size_sum{system="exact"}']) == 82
    assert float(values['teva_batch_size_count{system="exact"}']) <= 41 + 21  # at least two at a time, together
    assert float(values['teva_requests_total{path="/search",status="200"}']) == 82
    assert float(values['teva_waiting{system="exact"}']) == 0


@pytest.mark.parametrize(
    ("request_", "status", "told"),
    [
        ({"query": ""}, 422, "empty query"), ({"query": " \n"}, 422, "empty query"), ({}, 422, "required"),
        ({"query": "a" * 20_001}, 422, "20000"), ({"query": "a", "depth": 0}, 422, "greater"),
        ({"query": "a", "depth": 1001}, 422, "less"), ({"query": "a", "deep": 3}, 422, "Extra"),
        ({"query": ["a"]}, 422, "string"), ({"query": "a", "system": "other"}, 404, "known: exact, graph"),
    ],
)  # fmt: skip
def test_bad_requests_are_told_why(client, request_, status, told):
    answer = client.post("/search", json=request_)
    assert answer.status_code == status
    assert told in answer.text


@pytest.mark.parametrize("value", ["NaN", "1e400", '["\\ud800"]'])
def test_what_json_cannot_give_back_is_refused_too(client, value):
    for body in (f'{{"query": "a", "depth": {value}}}', f'{{"query": "a", "\\ud800": {value}}}'):
        answer = client.post("/search", content=body)
        assert answer.status_code == 422
        assert {"type", "loc", "msg"} == set(answer.json()["detail"][0])


def test_other_bodies(client):
    assert client.post("/search", content=b"{").status_code == 422
    assert client.post("/search", content=b'{"query": "\\ud800"}').status_code == 422
    assert client.post("/search", content=b" " * (service.MOST_BYTES + 1)).status_code == 413
    assert client.post("/search", content=iter([b"{}"])).status_code == 411
    assert client.get("/search").status_code == 405
    form = client.post("/search", content=b'{"query": "a"}', headers={"Content-Type": "text/plain"})
    assert form.status_code == 422
    assert "found text/plain; expected application/json" in form.text
    assert asked(client, query="water " * 1666, depth=2).status_code == 200  # 10,000 characters: cut by the model


def test_media(client, data):
    hits = {hit["docid"]: hit for hit in asked(client, query="stone", depth=len(WORDS)).json()["hits"]}
    assert len(hits) == len(WORDS)
    (picture,) = hits["d3"]["media"]
    answer = client.get(picture["url"])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.content == (data / "red.png").read_bytes()
    (page,) = hits["d4"]["media"]
    answer = client.get(page["url"])
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    for url in ("/media/exact/3/1", "/media/exact/999/0", "/media/other/3/0", "/media/exact/99999999999999999/0"):
        assert client.get(url).status_code == 404, url
    assert client.get("/media/exact/-1/0").status_code == 422
    assert client.get("/media/exact/..%2f..%2fcorpus.jsonl/0").status_code in (404, 422)


def test_thumbnails(client):
    hits = {hit["docid"]: hit for hit in asked(client, query="stone", depth=len(WORDS)).json()["hits"]}
    url = hits["d3"]["media"][0]["url"]
    answer = client.get(f"{url}?width=20")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    small = Image.open(io.BytesIO(answer.content))
    assert small.size == (20, 15)
    assert small.getpixel((5, 5))[0] > 200
    assert client.get(f"{url}?width=3").status_code == 422
    answer = client.get(f"{hits['d4']['media'][0]['url']}?width=20")  # not a picture, whatever its row says
    assert answer.status_code == 404
    assert "log says why" in answer.text


@pytest.mark.parametrize(
    ("wanted", "status", "start", "stop"),
    [
        ("bytes=0-9", 206, 0, 10), ("bytes=90-", 206, 90, 1000), ("bytes=-7", 206, 993, 1000),
        ("bytes=990-5000", 206, 990, 1000), ("bytes=1000-", 416, 0, 0), ("bytes=-0", 416, 0, 0),
        ("bytes=9-5", 200, 0, 1000), ("bytes=-", 200, 0, 1000), ("lines=1-2", 200, 0, 1000), (None, 200, 0, 1000),
    ],
)  # fmt: skip
def test_ranges_of_media(tmp_path, monkeypatch, wanted, status, start, stop):
    """A clip within an archive, as a player asks for it."""
    monkeypatch.setattr(media, "CHUNK", 300)
    whole = b"\0\0\0\x20ftypisom" + bytes(range(256)) * 4
    (tmp_path / "a.tar").write_bytes(b"before" + whole[:1000] + b"after")
    app = FastAPI()
    clip = Media("video", str(tmp_path / "a.tar"), 6, 1000, 1011)
    app.get("/")(lambda: media.answer(clip, wanted))
    answer = TestClient(app).get("/")
    assert answer.status_code == status
    assert answer.content == whole[start:stop]
    if status == 206:
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/1000"
    if status != 416:
        assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["accept-ranges"] == "bytes"


def test_a_picture_that_is_gone(client, data):
    hits = {hit["docid"]: hit for hit in asked(client, query="stone", depth=len(WORDS)).json()["hits"]}
    kept = (data / "page.png").rename(data / "elsewhere.png")
    try:
        answer = client.get(hits["d4"]["media"][0]["url"])
        assert answer.status_code == 404
        assert "cannot be read" in answer.text
        assert str(data) not in answer.text
    finally:
        kept.rename(data / "page.png")


def test_the_page_and_health(client, data):
    page = client.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "innerHTML" not in page.text
    health = client.get("/health").json()
    assert health["systems"]["graph"] == {"documents": len(WORDS), "dim": 32, "search": "hnsw"}
    assert asked(client, query="stone", depth=41).json()["hits"][0]["text"]


def test_too_many_are_told_to_come_again():
    """A search that waits: what stands in the queue is answered, what is too much is refused."""
    gate = threading.Event()

    def slow(queries, depth):
        gate.wait(10)
        return [[] for _ in queries]

    async def run():
        batcher = Batcher(slow, most=2, wait=0, queue=3)
        batcher.start()
        first = [asyncio.create_task(batcher.search(str(number), 1)) for number in range(2)]
        await asyncio.sleep(0.2)
        waiting = [asyncio.create_task(batcher.search(str(number), 1)) for number in range(3)]
        await asyncio.sleep(0.1)
        with pytest.raises(FullError):
            await batcher.search("too much", 1)
        gate.set()
        assert await asyncio.gather(*first, *waiting) == [[]] * 5
        await batcher.stop()

    asyncio.run(run())


def test_an_error_reaches_each_who_asked():
    def broken(queries, depth):
        raise TevaError("the disk is gone")

    async def run():
        batcher = Batcher(broken)
        batcher.start()
        found = await asyncio.gather(*(batcher.search(str(number), 1) for number in range(3)), return_exceptions=True)
        assert [str(error) for error in found] == ["the disk is gone"] * 3
        await batcher.stop()

    asyncio.run(run())


def test_one_bad_question_does_not_spoil_its_batch():
    def particular(queries, depth):
        if "bad" in queries:
            raise QueryError("no tokens")
        return [[query] for query in queries]

    async def run():
        batcher = Batcher(particular, wait=0.05)
        batcher.start()
        found = await asyncio.gather(*(batcher.search(word, 1) for word in ["a", "bad", "c"]), return_exceptions=True)
        assert [found[0], found[2]] == [["a"], ["c"]]
        assert isinstance(found[1], QueryError)
        await batcher.stop()

    asyncio.run(run())


def test_an_answer_that_does_not_fit_is_an_error_and_the_next_is_answered():
    def short(queries, depth):
        return [] if queries == ["nothing"] else [[query] for query in queries]

    async def run():
        batcher = Batcher(short)
        batcher.start()
        with pytest.raises(ValueError, match="shorter"):
            await batcher.search("nothing", 1)
        assert await batcher.search("a", 1) == ["a"]
        await batcher.stop()
        assert not batcher.alive()

    asyncio.run(run())


class _Dying(BaseException):
    """What no search should raise, and `except Exception` does not catch."""


def test_who_waits_for_a_system_that_dies_is_told_and_stopping_does_not_hang(caplog):
    def dies(queries, depth):
        raise _Dying

    async def run():
        batcher = Batcher(dies, most=1)
        batcher.start()
        found = await asyncio.gather(*(batcher.search(str(at), 1) for at in range(3)), return_exceptions=True)
        assert [type(one) for one in found] == [TevaError] * 3
        assert not batcher.alive()
        with pytest.raises(TevaError, match="start the service anew"):
            await batcher.search("later", 1)
        await batcher.stop()

    asyncio.run(asyncio.wait_for(run(), 20))
    assert "does not answer any more" in caplog.text


def test_health_tells_of_a_system_that_does_not_answer(systems, monkeypatch):
    async def end(self):
        if self._search.__self__.name == "exact":
            await asyncio.Event().wait()

    monkeypatch.setattr(Batcher, "_answer", end)
    with TestClient(service.make_app(systems)) as client:
        found = client.get("/health")
        assert (found.status_code, found.json()["status"]) == (503, "does not answer: graph")
        assert asked(client, query="stone", system="graph").status_code == 500


def test_what_is_wrong_here_is_not_told_as_the_question(systems, monkeypatch, caplog):
    def broken(self, *_):
        raise DataError("damaged", file="/secret/place")

    monkeypatch.setattr(Embeddings, "take_ids", broken)
    with TestClient(service.make_app(systems)) as client:
        answer = asked(client, query="stone")
        metrics = client.get("/metrics").text
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "/secret/place" in caplog.text
    assert 'teva_requests_total{path="/search",status="500"} 1.0' in metrics


def test_what_does_not_belong_together_is_refused(data, tiny_model, parts, tmp_path):
    other = shutil.copytree(tiny_model, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    name = min(weights)
    save_file({**weights, name: weights[name] + 1}, other / "model.safetensors")
    with pytest.raises(TevaError, match="Encode the corpus with it"):
        System("x", other, data, parts[0])
    grown = shutil.copytree(data, tmp_path / "grown", ignore=shutil.ignore_patterns(".teva"))
    lines = (grown / "corpus.jsonl").read_text().splitlines()
    (grown / "corpus.jsonl").write_text("\n".join([*lines[1:], lines[0]]) + "\n")
    with pytest.raises(TevaError, match="Encode it again"):
        System("x", tiny_model, grown, parts[0])
    for word in ("exact", "=a,b", "a/b=x,y", "a?b=x,y", "a=x", "a=x,,y", "..=x,y"):
        with pytest.raises(TevaError, match="expected NAME=MODEL,EMBEDDINGS"):
            serve(["good=x,y", word], data)
    for settings in ({"batch": 0}, {"queue": 0}, {"wait": -1.0}):
        with pytest.raises(TevaError, match="batch and queue start at 1"):
            serve(["a=x,y"], data, **settings)
    with pytest.raises(TevaError, match="knobs are of an index"):
        serve(["a=x,y"], data, knobs={"efSearch": 3})


def test_a_port_that_is_taken_is_told_before_anything_is_loaded(data):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for host, port in (("127.0.0.1", taken.getsockname()[1]), ("127.0.0.1", 99999), ("no.such.host.invalid", 8080)):
            with pytest.raises(TevaError, match=f"--port {port}: cannot listen there"):
                serve(["a=x,y"], data, host=host, port=port)


def test_each_reads_the_documents_that_it_asked_for(systems, monkeypatch):
    read: list[int] = []
    store = type(systems["exact"].store)
    plain = store.get
    monkeypatch.setattr(store, "get", lambda self, rows: (read.append(len(rows)), plain(self, rows))[1])
    found = systems["exact"].search(QUESTIONS[:3], [2, 40, 1])
    assert [len(hits) for hits in found] == read == [2, 40, 1]


def test_a_process_that_is_told_to_stop_answers_first(data, tiny_model, parts):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    words = ["serve", "--data", str(data), "--system", f"one={tiny_model},{parts[0]}", "--port", str(port)]
    # A batch waits, so that the signal finds requests that are not answered yet.
    words += ["--wait", "5", "--batch", "100", "--device", "cpu"]
    process = subprocess.Popen([sys.executable, "-m", "teva_infer.cli", *words], env={**os.environ})
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        with ThreadPoolExecutor(5) as pool:
            answers = [
                pool.submit(httpx.post, f"{url}/search", json={"query": text}, timeout=30) for text in QUESTIONS[:5]
            ]
            while 'teva_waiting{system="one"} 5.0' not in httpx.get(f"{url}/metrics").text:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert [answer.result().status_code for answer in answers] == [200] * 5
        assert process.wait(30) in (0, -signal.SIGTERM)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/health")
    finally:
        process.kill()

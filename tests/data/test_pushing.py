"""What a push would upload is the dataset and nothing else, and `datasets` loads it by the card alone."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from teva_data.cli import main
from teva_data.dataset import Dataset
from teva_data.errors import DataError, TevaError
from teva_data.publishing import prepare, push

CORPUS = [
    {"docid": "007", "title": "One", "document_text": "first é"},
    {"docid": "8", "title": "", "document_text": "second\nline"},
]
TRAIN = [
    {
        "query_id": "q1", "query_text": "one?", "positive_document_ids": ["007"], "negative_document_ids": ["8"],
        "positive_scores": [1.0], "negative_scores": [0],
    }
]  # fmt: skip
TEST = [{"query_id": "1", "query_text": "two?", "positive_document_ids": ["8"], "negative_document_ids": []}]
QRELS = [{"query_id": "1", "docid": "8", "score": 2}, {"query_id": "1", "docid": "007", "score": 0}]
CARD = {"name": "small", "license": "cc-by-4.0", "source": "made here", "languages": ["en"]}


@pytest.fixture
def data(write, tmp_path) -> Path:
    write("dataset.yaml", [json.dumps({**CARD, "prompts": {"query": "Query: "}})])
    write("corpus.jsonl", CORPUS)
    write("train-mined.jsonl", TRAIN)
    write("test.jsonl", TEST)
    directory = write("qrels/test.tsv", ["query_id\tdocid\tscore", "1\t8\t2", "1\t007\t0"]).parents[1]
    Dataset.open(directory).check_references("test")  # builds stores, which are not published
    assert (directory / ".teva").is_dir()
    return directory


def matter_of(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def staged(publication, tmp_path) -> Path:
    """The repository as it would be, in files of its own."""
    links, repository = tmp_path / "links", tmp_path / "repository"
    links.mkdir()
    publication.stage(links)
    return Path(shutil.copytree(links, repository))


def loaded(repository: Path, config: str, split: str, cache: Path) -> list[dict[str, Any]]:
    from datasets import load_dataset

    return load_dataset(str(repository), config, split=split, cache_dir=str(cache)).to_list()


def test_files_and_card(data):
    publication = prepare(data, "me/small")
    assert sorted(publication.files) == [
        "corpus.jsonl", "dataset.yaml", "qrels/test.tsv", "test.jsonl", "train-mined.jsonl",
    ]  # fmt: skip
    matter = matter_of(publication.card)
    assert matter["license"] == "cc-by-4.0"
    assert matter["language"] == ["en"]
    assert matter["pretty_name"] == "small"
    assert matter["task_categories"] == ["text-retrieval"]
    assert [config["config_name"] for config in matter["configs"]] == ["corpus", "queries", "qrels"]
    assert "| test | 1 | 2 | `query_id`, `query_text`" in publication.card
    assert "| corpus | 2 | - | `docid`, `title`, `document_text` |" in publication.card
    assert "- Source: made here" in publication.card
    assert "`'Query: '`" in publication.card  # its blank at the end can be seen
    assert 'snapshot_download("me/small"' in publication.card


def test_datasets_loads_what_would_be_pushed(data, tmp_path):
    repository = staged(prepare(data, "me/small"), tmp_path)
    cache = tmp_path / "cache"
    assert loaded(repository, "corpus", "corpus", cache) == CORPUS
    # All splits of a config have the same columns: what one lacks is null.
    assert loaded(repository, "queries", "test", cache) == [
        {**TEST[0], "positive_scores": None, "negative_scores": None}
    ]
    assert loaded(repository, "queries", "train_mined", cache) == TRAIN
    assert loaded(repository, "qrels", "test", cache) == QRELS
    assert Dataset.open(repository).corpus.docids(0, 2) == ["007", "8"]  # and teva reads it


def test_compressed_files_are_loaded_too(data, tmp_path):
    for name in ("corpus.jsonl", "test.jsonl", "qrels/test.tsv"):
        (data / f"{name}.gz").write_bytes(gzip.compress((data / name).read_bytes()))
        (data / name).unlink()
    repository = staged(prepare(data, "me/small"), tmp_path)
    assert loaded(repository, "corpus", "corpus", tmp_path / "cache") == CORPUS
    assert [row["docid"] for row in loaded(repository, "qrels", "test", tmp_path / "cache")] == ["8", "007"]


def test_parquet_and_several_files(data, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (data / "corpus.jsonl").unlink()
    (data / "corpus").mkdir()
    for number, row in enumerate(CORPUS):
        pq.write_table(pa.Table.from_pylist([row]), data / "corpus" / f"part-{number}.parquet")
    publication = prepare(data, "me/small")
    repository = staged(publication, tmp_path)
    assert loaded(repository, "corpus", "corpus", tmp_path / "cache") == CORPUS
    assert loaded(repository, "qrels", "test", tmp_path / "cache") == QRELS
    # `datasets` reads a repository in one way: the splits in JSONL are named as not loaded.
    assert [config["config_name"] for config in matter_of(publication.card)["configs"]] == ["corpus", "qrels"]
    assert "In another form than the corpus" in publication.card


def test_a_readme_of_the_dataset_is_kept(data):
    (data / "README.md").write_text("---\nlicense: mit\nannotations_creators: [found]\nconfigs: []\n---\n# Mine\n")
    publication = prepare(data, "me/small")
    assert "README.md" not in publication.files
    matter = matter_of(publication.card)
    assert (matter["license"], matter["annotations_creators"]) == ("mit", ["found"])
    assert len(matter["configs"]) == 3
    assert publication.card.endswith("---\n\n# Mine\n")
    # A card that a push wrote is written anew.
    (data / "README.md").write_text(prepare(copy_without_readme(data), "me/small").card.replace("# small", "# old"))
    assert "# small" in prepare(data, "me/small").card


def copy_without_readme(data: Path) -> Path:
    return Path(shutil.copytree(data, data.parent / "copy", ignore=shutil.ignore_patterns("README.md")))


def test_a_corpus_alone(data):
    for name in ("train-mined.jsonl", "test.jsonl"):
        (data / name).unlink()
    shutil.rmtree(data / "qrels")
    publication = prepare(data, "me/small")
    assert [config["config_name"] for config in matter_of(publication.card)["configs"]] == ["corpus"]
    assert "queries = load_dataset" not in publication.card


def test_licence_that_hubs_do_not_know(data):
    (data / "dataset.yaml").write_text("license: Research only, see the paper\n")
    matter = matter_of(prepare(data, "me/small").card)
    assert (matter["license"], matter["license_name"]) == ("other", "research-only-see-the-paper")


@pytest.mark.parametrize(
    ("name", "line", "told"),
    [
        ("corpus.jsonl", '{"docid": "8", "document_text": "again"}', r"corpus\.jsonl:3.*duplicate id"),
        ("test.jsonl", '{"query_id": "2", "query_text": "x"}', r"test\.jsonl:2.*no positive"),
        ("test.jsonl", '{"query_id": "2", "query_text": "x", "positive_document_ids": ["9"]}', "unknown document"),
        ("qrels/test.tsv", "1\t99\t1", "judgement of an unknown document.*'99'"),
    ],
)
def test_a_dataset_that_is_not_in_order_is_not_pushed(data, name, line, told):
    with (data / name).open("a") as file:
        print(line, file=file)
    with pytest.raises(DataError, match=f"(?s){told}"):
        push(data, "me/small", dry_run=True)


def test_names_that_would_clash_or_do_not_fit(data):
    shutil.copy(data / "train-mined.jsonl", data / "train_mined.jsonl")
    with pytest.raises(DataError, match="two splits would have one name"):
        prepare(data, "me/small")
    (data / "train_mined.jsonl").unlink()
    for name in ("small", "a/b/c", "/small", ""):
        with pytest.raises(DataError, match="owner/name"):
            prepare(data, name)


def test_dry_run_prints_and_asks_no_hub(data, capsys, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert main(["push", str(data), "me/small", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    size = (data / "corpus.jsonl").stat().st_size
    assert f"{size:>15,}  corpus.jsonl\n" in printed
    assert "README.md\n" in printed
    assert "config_name: queries" in printed
    assert ".teva" not in printed


# --- a hub that is a small server of the test's own ---


class Hub(BaseHTTPRequestHandler):
    """As much of a hub's API as an upload of small files needs; the server keeps what was committed."""

    server: Any

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, content: object, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self) -> None:
        entries = [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in self.server.files]
        siblings = [{"rfilename": name} for name in self.server.files]
        self.answer(entries if "/tree/" in self.path else {"id": "me/small", "sha": "1" * 40, "siblings": siblings})

    def do_POST(self) -> None:
        content = self.body()
        self.server.seen.append(self.path)
        if self.server.refuse:
            return self.answer({"error": "no"}, self.server.refuse)
        if self.path.endswith("/repos/create"):
            self.server.created = json.loads(content)
            return self.answer({"url": f"{self.server.address}/datasets/me/small", "name": "me/small"})
        if "/preupload/" in self.path:
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(content)["files"]
            ]
            return self.answer({"files": files})
        if "/commit/" in self.path:
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                if line["key"] == "deletedFile":
                    del self.server.files[line["value"]["path"]]
            commit = f"{1:040}"
            url = f"{self.server.address}/datasets/me/small/commit/{commit}"
            return self.answer({"commitUrl": url, "commitOid": commit})
        return self.answer({})


@pytest.fixture
def hub() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.seen, server.refuse, server.created = {".gitattributes": b""}, [], 0, None
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def pushed(server: Any, data: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A push by an interpreter of its own: the hub's address is read when its client is imported."""
    port = server if isinstance(server, int) else server.server_address[1]
    code = "import sys; from teva_data.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, "push", str(data), "me/small", "--token", "hf_test", *options],
        env={"HF_ENDPOINT": f"http://127.0.0.1:{port}", "PATH": "", "HF_HOME": str(data.parent / "hf"), "HOME": "/"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_push(hub, data):
    done = pushed(hub, data, "--private", "--revision", "draft")
    assert done.returncode == 0, done.stderr
    assert hub.created["visibility"] == "private"
    assert hub.created["type"] == "dataset"
    assert any(path.endswith("/commit/draft") for path in hub.seen)
    publication = prepare(data, "me/small")
    expected = {name: path.read_bytes() for name, path in publication.files.items()}
    assert hub.files == {".gitattributes": b"", **publication.generated, **expected}


def test_files_that_the_repository_has_besides(hub, data):
    hub.files["train.parquet"] = b"older"
    done = pushed(hub, data)
    assert done.returncode == 1
    assert "train.parquet" in done.stderr
    assert "--prune" in done.stderr
    assert list(hub.files) == [".gitattributes", "train.parquet"]
    assert pushed(hub, data, "--prune").returncode == 0
    assert "train.parquet" not in hub.files
    assert "corpus.jsonl" in hub.files


@pytest.mark.parametrize(("status", "told"), [(401, "hf auth login"), (403, "write access"), (404, "owner's name")])
def test_refusals_say_what_to_do(hub, data, status, told):
    hub.refuse = status
    done = pushed(hub, data)
    assert done.returncode == 1
    assert f"({status})" in done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_hub_that_is_not_there(hub, data):
    port = hub.server_address[1]
    hub.shutdown()
    hub.server_close()
    done = pushed(port, data)
    assert done.returncode == 1
    assert "the hub was not reached" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(TevaError):
        push(data.parent / "none", "me/small", dry_run=True)


# --- media ---


def test_media_are_published_wherever_they_lie(data, tmp_path):
    from .replicas import png

    outside = tmp_path / "pictures"
    outside.mkdir()
    for number in range(3):
        (outside / f"{number}.png").write_bytes(png(number))
    (data / "media").mkdir()
    (data / "media" / "source").symlink_to(outside, target_is_directory=True)
    (data / "media" / "own.png").write_bytes(png(7))
    images = ["media/source/1.png", {"file": "media/source/2.png", "offset": 0, "length": len(png(2))}, "media/own.png"]
    rows = [{"docid": docid, "document_image": image} for docid, image in zip(("007", "8", "9"), images, strict=True)]
    (data / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    publication = prepare(data, "me/small")
    assert sorted(name for name in publication.files if name.startswith("media")) == [
        "media/own.png", "media/source/1.png", "media/source/2.png",
    ]  # fmt: skip
    assert matter_of(publication.card)["tags"] == ["teva", "retrieval", "image"]
    assert "values of several types" in publication.card  # a path here, a place in a file there
    repository = staged(publication, tmp_path)
    assert not any(path.is_symlink() for path in repository.rglob("*"))
    documents = Dataset.open(repository).corpus.documents(0, 3)
    assert [each.pieces[0].read() for each in documents] == [png(1), png(2), png(7)]
    # With one type in the column, `datasets` loads it.
    rows[1]["document_image"] = "media/source/2.png"
    (data / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.rmtree(repository)
    shutil.rmtree(tmp_path / "links")
    repository = staged(prepare(data, "me/small"), tmp_path)
    assert loaded(repository, "corpus", "corpus", tmp_path / "cache") == rows
    (outside / "2.png").unlink()
    with pytest.raises(DataError, match=r"2\.png"):
        prepare(data, "me/small")

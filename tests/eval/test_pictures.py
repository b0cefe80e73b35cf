"""ViDoRe and Wiki-SS from local copies in the hub's form, pictures included: run, scored, reported."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.torch import vision_models

from teva_data.dataset import Dataset
from teva_data.datasets import declaration
from teva_eval.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random Qwen2-VL that pools at the last token."""
    from teva_data.layout import write_layout

    path = vision_models.make(tmp_path_factory.mktemp("model") / "vlm", "Qwen2VL")
    write_layout(path, pooling="last", normalize=True, dim=32, max_length=64, prompts={}, teva={}, card="")
    return path


def _pages(count):
    random = np.random.default_rng(3)
    for _ in range(count):
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 255, (24, 20, 3), dtype=np.uint8)).save(buffer, "PNG")
        yield {"bytes": buffer.getvalue(), "path": None}


def _write(path, rows):
    path.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path / "test-00000-of-00001.parquet")


def test_vidore_from_a_local_copy(model, tmp_path):
    root = tmp_path / "hub" / "vidore-synthetic-energy"
    words = ("red river", "blue city", "green fire")
    _write(root / "corpus", [{"corpus-id": n, "image": page} for n, page in enumerate(_pages(5))])
    _write(root / "queries", [{"query-id": n, "query": text} for n, text in enumerate(words)])
    _write(root / "qrels", [{"query-id": n, "corpus-id": n, "score": 1} for n in range(3)])
    results = tmp_path / "results"
    run = ["run", "--model", f"tiny={model}", "--task", "vidore-synthetic-energy", "--data", str(tmp_path / "hub"),
           "--output", str(results), "--device", "cpu", "--depth", "5"]  # fmt: skip
    assert main(run) == 0
    record = json.loads((results / "tiny/vidore-synthetic-energy/result.json").read_text())
    assert record["data"]["modalities"] == {"queries": ["text"], "documents": ["image"]}
    assert record["counts"]["queries"] == 3
    # The numbers are those of the vectors, one by one.
    from teva_infer import Encoder

    dataset = Dataset.open(results / "data/vidore-synthetic-energy/data")
    encoder = Encoder.load(model, device="cpu")
    documents = list(dataset.corpus)
    scores = encoder.encode_queries([query.query_text for query in dataset.queries("test")]) @ (
        encoder.encode_documents(documents).T
    )
    ids, gains = [document.docid for document in documents], []
    for query, row in zip(dataset.queries("test"), scores, strict=True):
        place = [ids[at] for at in np.argsort(-row)].index(next(iter(dataset.qrels("test")[query.query_id])))
        gains.append(1 / np.log2(place + 2))
    assert record["scores"]["nDCG@5"] == pytest.approx(np.mean(gains), abs=1e-6)

    assert main(["report", str(results), "--output", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report/report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 15  # five pages for each of three queries
    assert "red river" in page
    assert page.count('class="relevant"') == 3
    assert "text → image" in page
    table = (tmp_path / "report/report.md").read_text()
    assert "Modalities of queries and documents" in table


def test_wiki_ss_from_a_local_copy(model, tmp_path):
    """Judged by answers in the pages' texts."""
    root = tmp_path / "hub" / "wiki-ss-nq"
    pages = [
        {"docid": str(n), "image": page, "title": "A page", "text": f"in the {word} city"}
        for n, (page, word) in enumerate(zip(_pages(4), ("red", "blue", "green", "red"), strict=True))
    ]
    found = declaration("wiki-ss")
    corpus, queries = root / found.corpus.folder, root / found.queries.folder
    _write(corpus, pages)
    asked = [
        {"query_id": f"q{n}", "query_text": f"what is {word}", "answers": [word],
         "positive_document_ids": [str(n + 1)], "negative_document_ids": []}
        for n, word in enumerate(("blue", "green"))
    ]  # fmt: skip
    queries.mkdir(parents=True)
    (queries / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    results = tmp_path / "results"
    run = ["run", "--model", f"tiny={model}", "--task", "wiki-ss-nq", "--data", str(tmp_path / "hub"), "--output",
           str(results), "--device", "cpu"]  # fmt: skip
    assert main(run) == 0
    record = json.loads((results / "tiny/wiki-ss-nq/result.json").read_text())
    assert record["scores"]["Success@5"] == 1
    assert "image" in record["data"]["modalities"]["documents"]

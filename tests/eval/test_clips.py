"""MSR-VTT 1k-A and AudioCaps from local copies in the hub's form: run in both directions, scored, reported, played."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from tests.torch import omni_models

from teva_data.dataset import Dataset
from teva_data.datasets import declaration
from teva_eval.cli import main

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="makes its clips with ffmpeg")
COUNT = 5
CAPTIONS = ["red river", "blue city", "green fire", "old house", "small tree"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random Qwen2.5-Omni that pools at the last token."""
    from teva_data.layout import write_layout

    path = omni_models.make(tmp_path_factory.mktemp("model") / "omni")
    write_layout(path, pooling="last", normalize=True, dim=32, max_length=128, prompts={}, teva={}, card="")
    return path


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Copies of both collections' repositories, as the hub has them."""
    root = tmp_path_factory.mktemp("hub")
    for name, kind in (("msrvtt", "video"), ("audiocaps", "audio")):
        found = declaration(name)
        task = "msrvtt-1k-a" if name == "msrvtt" else name
        corpus, queries = root / task / found.corpus.folder, root / task / found.queries.folder
        (corpus / "video").mkdir(parents=True)
        queries.mkdir(parents=True)
        rows = []
        for number in range(COUNT):
            row = {"docid": f"{kind}{number}"}
            if kind == "video":
                omni_models.make_clip(corpus / f"video/{number}.mp4", 1, sound=False, seed=number)
                row["video"] = f"{number}.mp4"
            else:
                sound = corpus / f"{number}.wav"
                soundfile.write(sound, np.random.default_rng(number).normal(0, 0.1, 8000), 16000)
                row["audio"] = {"bytes": sound.read_bytes(), "path": None}
                sound.unlink()
            rows.append(row)
        pq.write_table(pa.Table.from_pylist(rows), corpus / "train-00000-of-00001.parquet")
        # Of a recording two captions, of a clip one.
        asked = [
            {"query_id": f"q{number}-{which}", "query_text": CAPTIONS[number] + " again" * which,
             "positive_document_ids": [f"{kind}{number}"], "negative_document_ids": []}
            for number in range(COUNT) for which in range(1 + (kind == "audio"))
        ]  # fmt: skip
        (queries / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    return root


@pytest.mark.parametrize(
    ("task", "kind", "queries"),
    [("msrvtt-1k-a", "video", COUNT), ("audiocaps", "audio", 2 * COUNT)],
)
def test_captions_and_clips_find_one_another(model, copies, tmp_path, task, kind, queries):
    results = tmp_path / "results"
    for name in (task, f"{task}-to-text"):
        run = ["run", "--model", f"tiny={model}", "--task", name, "--data", str(copies), "--output", str(results),
               "--device", "cpu", "--depth", "10"]  # fmt: skip
        assert main(run) == 0
    there, back = (json.loads((results / f"tiny/{name}/result.json").read_text()) for name in (task, f"{task}-to-text"))
    assert there["data"]["modalities"] == {"queries": ["text"], "documents": [kind]}
    assert back["data"]["modalities"] == {"queries": [kind], "documents": ["text"]}
    assert (there["counts"]["queries"], back["counts"]["queries"]) == (queries, COUNT)
    # The numbers are those of the vectors, one by one, in both directions.
    from teva_infer import Encoder

    dataset, encoder = Dataset.open(results / f"data/{task}/data"), Encoder.load(model, device="cpu")
    documents, asked = list(dataset.corpus), list(dataset.queries("test"))
    scores = encoder.encode_queries([query.query_text for query in asked]) @ encoder.encode_documents(documents).T
    right = np.array([[one.docid in dataset.qrels("test")[query.query_id] for one in documents] for query in asked])
    for record, matrix, relevant, measure in ((there, scores, right, "R"), (back, scores.T, right.T, "Success")):
        ranked = np.take_along_axis(relevant, np.argsort(-matrix, axis=1), axis=1)
        for depth in (1, 5, 10):
            hits = ranked[:, :depth].any(axis=1).mean()
            assert record["scores"][f"{measure}@{depth}"] == pytest.approx(hits, abs=1e-6)
    # The page of what was found plays it.
    assert main(["report", str(results), "--output", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report/report.html").read_text()
    assert f"text → {kind}" in page
    assert f"{kind} → text" in page
    form = "video/mp4" if kind == "video" else "audio/wav"
    assert page.count(f'src="data:{form};base64,') >= COUNT
    assert page.count("poster=") == (page.count("<video") if kind == "video" else 0)

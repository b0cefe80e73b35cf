"""The serving command, and what it says of artifacts that a runtime would get wrong; Tevatron's pickles."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import shutil

import numpy as np
import pytest

from teva_data.embeddings import Embeddings
from teva_data.errors import DataError, TevaError
from teva_infer.cli import main
from teva_infer.deploying import deploy
from teva_infer.searching import search
from teva_infer.tevatron import import_embeddings


def test_the_command_and_requests_hold_what_the_artifact_says(tiny_model, tmp_path, capsys):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    file = model / "config_sentence_transformers.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**found, "prompts": {"query": "it's a query: ", "document": ""}}))
    assert main(["deploy", str(model), "--port", "9000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = shlex.split(lines[0])
    assert words[:3] == ["vllm", "serve", str(model)]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert options == {
        "--runner": "pooling", "--dtype": "float32", "--served-model-name": "model", "--max-model-len": "48",
        "--port": "9000",
    }  # fmt: skip
    bodies = [json.loads(shlex.split(line)[-1]) for line in lines if line.startswith("curl")]
    assert [body["input"] for body in bodies] == [["it's a query: A text."], ["A text."]]
    assert all(body["truncate_prompt_tokens"] == -1 for body in bodies)
    (tei,) = deploy(model, runtime="tei")
    assert tei.command[:3] == ["text-embeddings-router", "--model-id", str(model)]
    assert tei.command[tei.command.index("--pooling") + 1] == "mean"
    assert tei.problems == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"config.json": {"model_type": "deberta"}}, "no code for the architecture 'deberta'"),
        ({"config.json": {"model_type": "llama", "is_causal": False}}, "from left to right"),
        ({"sentence_bert_config.json": {"do_lower_case": True}}, "neither runtime lower-cases"),
        ({"sentence_bert_config.json": {"max_seq_length": 500}}, "500 is more than the model's 64 positions"),
    ],
)
def test_what_a_runtime_would_get_wrong_is_told(tiny_model, tmp_path, capsys, changes, problem):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    for name, values in changes.items():
        (model / name).write_text(json.dumps({**json.loads((model / name).read_text()), **values}))
    assert main(["deploy", str(model), "--runtime", "tei"]) == 1
    assert problem in capsys.readouterr().out


def dump(path, value):
    path.write_bytes(pickle.dumps(value))
    return path


def test_tevatrons_pickles_become_shards(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"d{row}" for row in range(50)]
    files = [
        dump(tmp_path / f"{start}.pkl", (vectors[start : start + 25], ids[start : start + 25])) for start in (0, 25)
    ]
    queries = dump(tmp_path / "q.pkl", (vectors[:3].astype(np.float16), ["1", "2", "3"]))
    with pytest.raises(TevaError, match="--unpickle"):
        import_embeddings(files, tmp_path / "c", role="document", model="m")
    assert not (tmp_path / "c").exists()
    words = ["import-tevatron", *map(str, files), "--output", str(tmp_path / "c"), "--role", "document", "--model", "m"]
    assert main(words) == 1
    assert main([*words, "--unpickle"]) == 0
    corpus = Embeddings.open(tmp_path / "c")
    assert (corpus.ids()[49], corpus.normalized) == ("d49", True)
    np.testing.assert_array_equal(corpus.matrix(), vectors)
    found = search(
        import_embeddings([queries], tmp_path / "q", role="query", model="m", unpickle=True), corpus, depth=1
    )
    assert [hit[0][0] for hit in found.values()] == ["d0", "d1", "d2"]
    other = import_embeddings([queries], tmp_path / "other", role="query", model="another", unpickle=True)
    with pytest.raises(TevaError, match="model_fingerprint"):
        search(other, corpus)


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    marker = tmp_path / "ran"
    for value in (
        Evil(marker),
        (np.zeros((1, 8), np.float32), [Evil(marker)]),
        (np.array([Evil(marker)], object), ["a"]),
    ):
        with pytest.raises(DataError, match=r"it asks for \w+\.system"):
            import_embeddings(
                [dump(tmp_path / "x.pkl", value)], tmp_path / "c", role="document", model="m", unpickle=True
            )
    assert not marker.exists()
    for value in ({"a": 1}, (np.zeros((2, 8), np.float32), ["a"]), (np.zeros((1, 8), np.int64), ["a"])):
        with pytest.raises(DataError):
            import_embeddings(
                [dump(tmp_path / "x.pkl", value)], tmp_path / "c", role="document", model="m", unpickle=True
            )
    (tmp_path / "x.pkl").write_bytes(b"no pickle")
    with pytest.raises(DataError, match="not read"):
        import_embeddings([tmp_path / "x.pkl"], tmp_path / "c", role="document", model="m", unpickle=True)

"""Queries and documents with encoders of their own: trained, written, read and searched."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks import gradients
from safetensors.torch import load_file

import torch
from teva_data.dataset import Dataset
from teva_data.errors import ArtifactError, RecipeError, TevaError
from teva_data.layout import ROLES
from teva_data.metrics import read_metrics
from teva_data.pair import ArtifactPair
from teva_data.runs import read_run
from teva_infer import Encoder, encode, search
from teva_torch.training import train


@pytest.fixture
def untied(recipe):
    recipe["model"]["tied"] = False
    return recipe


def _weights(artifact, role):
    return load_file(artifact.path / role / "model.safetensors")


def _equal(one, other):
    return all(torch.equal(_weights(one, role)[name], value) for role in ROLES
               for name, value in _weights(other, role).items())  # fmt: skip


def test_both_encoders_are_trained_and_every_runtime_loads_them(untied):
    from sentence_transformers import SentenceTransformer

    pair = train(untied).artifact
    assert isinstance(pair, ArtifactPair)
    base = load_file(Path(untied["model"]["name"]) / "model.safetensors")
    query, document = (_weights(pair, role) for role in ROLES)
    name = "encoder.layer.0.output.dense.weight"
    assert not torch.equal(query[name], base[name])
    assert not torch.equal(document[name], base[name])
    assert not torch.equal(query[name], document[name])
    assert pair.teva["encoders"] == {"query": "query", "document": "document"}
    assert set(pair.teva["parity"]["document"]) == {"teva-torch", "sentence-transformers"}
    encoder, texts = Encoder.load(pair.path, device="cpu"), ["red river", "tea and bread"]
    theirs = {role: SentenceTransformer(str(pair.path / role), device="cpu", local_files_only=True) for role in ROLES}
    np.testing.assert_allclose(encoder.encode_queries(texts), theirs["query"].encode_query(texts), atol=1e-6)
    np.testing.assert_allclose(encoder.encode_documents(texts), theirs["document"].encode_document(texts), atol=1e-6)
    assert np.abs(encoder.encode_queries(texts) - encoder.encode_documents(texts)).max() > 1e-3


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_resumed_is_bit_equal(untied, tmp_path, lora):
    untied["torch"] |= {"lora": lora, "gradient_cache": True}
    whole = train(untied).artifact
    again = Path(shutil.copytree(tmp_path / "run", tmp_path / "again"))
    shutil.rmtree(again / "artifact")
    shutil.rmtree(again / "checkpoints/step-00000012")
    resumed = train(untied, {"train.output": str(again)}).artifact
    assert "going on after step 8" in (again / "train.log").read_text()
    assert _equal(whole, resumed)
    if lora:
        assert all((whole.path / role / "adapter/adapter_model.safetensors").is_file() for role in ROLES)


def test_an_earlier_pair_is_trained_on(untied, tmp_path):
    first = train(untied).artifact
    untied["model"]["name"] = str(first.path)
    second = train(untied, {"train.output": str(tmp_path / "second"), "train.learning_rate": 1e-7}).artifact
    for role in ROLES:
        before, after = _weights(first, role), _weights(second, role)
        assert all(torch.allclose(before[name], after[name], atol=1e-4) for name in before)
    assert second.teva["base"]["document"]["fingerprint"] == first.document.fingerprint
    with pytest.raises(ArtifactError, match=r"pair of encoders.*query \(query\).*document \(document\).*tied: false"):
        train(untied, {"model.tied": True, "train.output": str(tmp_path / "third")})


def test_the_best_step_is_exported_and_checkpoints_are(untied, tmp_path):
    from teva_torch.publishing import export_model

    untied["train"] |= {"eval_every": 4, "eval_split": "test", "learning_rate": 5e-3}
    result = train(untied)
    assert result.best is not None
    stored = load_file(tmp_path / "run/best" / f"step-{int(result.best['step']):08}" / "model.safetensors")
    name = "encoder.layer.0.output.dense.weight"
    for role in ROLES:
        assert torch.equal(_weights(result.artifact, role)[name], stored[f"retriever.{role}.backbone.{name}"])
    exported = export_model(tmp_path / "run/checkpoints/step-00000012", device="cpu")
    assert isinstance(exported, ArtifactPair)
    assert export_model(exported.path, device="cpu").fingerprint == exported.fingerprint


@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("passes", ["plain in chunks", "cached unequal"])
def test_gradients_of_both_are_those_of_texts_encoded_one_by_one(tmp_path, adapter, passes):
    data, case = gradients.make_data(tmp_path / "data"), gradients.Case(gradients.PAIR, adapter, "masked", passes)
    found, wanted = gradients.by_teva(case, data), gradients.plainly(case, data)
    assert any(name.startswith("retriever.query.") for name in wanted)
    assert any(name.startswith("retriever.document.") for name in wanted)
    assert gradients.relative_difference(found, wanted)[0] < 1e-5


def test_encoded_and_searched_by_the_commands_a_pair_finds_what_it_finds(untied, tmp_path):
    """Each half writes its own embeddings; those of one run go together, those of another are refused."""
    pair = train(untied).artifact
    other = train(untied, {"train.output": str(tmp_path / "other"), "train.learning_rate": 5e-3}).artifact
    data = untied["data"]["path"]
    for name, artifact in (("pair", pair), ("other", other)):
        encode(artifact.path, data, tmp_path / f"{name}-documents", device="cpu")
        encode(artifact.path, data, tmp_path / f"{name}-queries", split="test", device="cpu")
    search(tmp_path / "pair-queries", tmp_path / "pair-documents", tmp_path / "run.tsv", depth=5)
    found = read_run(tmp_path / "run.tsv")
    encoder, dataset = Encoder.load(pair.path, device="cpu"), Dataset.open(data)
    queries = list(dataset.queries("test"))
    vectors = encoder.encode_queries([query.query_text for query in queries])
    scores = vectors @ encoder.encode_documents(list(dataset.corpus)).T
    for query, row in zip(queries, scores, strict=True):
        assert [hit[1] for hit in found[query.query_id]] == pytest.approx(sorted(row)[::-1][:5], abs=1e-5)
    with pytest.raises(TevaError, match="do not belong together: model_fingerprint"):
        search(tmp_path / "pair-queries", tmp_path / "other-documents", tmp_path / "no.tsv", depth=5)


def test_defect_15_what_cannot_be_had_is_refused_and_not_ignored(untied, tiny_decoder):
    with pytest.raises(RecipeError, match=r"model\.tied: false does not go with torch\.strategy: deepspeed"):
        train(untied, {"torch.strategy": "deepspeed"})
    with pytest.raises(RecipeError, match=r"model\.document_name"):
        train(untied, {"model.tied": True, "model.document_name": str(tiny_decoder)})
    with pytest.raises(RecipeError, match="tokenizer"):
        train(untied, {"model.document_name": str(tiny_decoder), "model.pooling": "mean"})


@pytest.mark.slow
def test_two_processes_train_what_one_does(untied, tmp_path):
    untied["train"] |= {"output": str(tmp_path / "one"), "log_every": 1}
    config = Path(shutil.copytree(untied["model"]["name"], tmp_path / "still")) / "config.json"
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config.write_text(json.dumps(json.loads(config.read_text()) | still))
    untied["model"]["name"] = str(tmp_path / "still")
    train(untied)
    untied["train"]["output"] = str(tmp_path / "two")
    (tmp_path / "recipe.yaml").write_text(json.dumps(untied))
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line += ["-m", "teva_torch.cli", "train", str(tmp_path / "recipe.yaml")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [[row["loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl")] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)

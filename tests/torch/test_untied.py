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
from teva_data.artifact import ROLES
from teva_data.errors import ArtifactError, RecipeError
from teva_data.metrics import read_metrics
from teva_data.pair import ArtifactPair
from teva_torch.caching import BatchGradient, Passes
from teva_torch.losses import Targets
from teva_torch.pair import RetrieverPair
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

    from teva_infer import Encoder

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
@pytest.mark.parametrize("cached", [False, True])
def test_gradients_of_both_are_those_of_texts_encoded_one_by_one(tmp_path, adapter, cached):
    data = gradients.make_data(tmp_path / "data")
    item = gradients.token_batch(data)

    def fresh():
        return RetrieverPair(*(gradients.make_model("bert", adapter, seed=seed) for seed in (0, 1)))

    pair, loss = fresh(), gradients.make_loss("masked")
    step = BatchGradient(pair, loss, Passes(24, cached=cached, check="all"))
    value = step.add(item)
    plain = fresh()
    queries = torch.cat([plain.query(*plain.query.pad([ids])) for ids in item.query_ids])
    documents = torch.cat([plain.document(*plain.document.pad([ids])) for ids in item.document_ids])
    expected = loss(queries, documents, Targets.of(item.batch, "cpu"))
    expected.backward()
    assert value == pytest.approx(float(expected.detach()), rel=1e-5)
    found, wanted = gradients.gradients_of(pair), gradients.gradients_of(plain)
    assert any(name.startswith("query.") for name in wanted)
    assert any(name.startswith("document.") for name in wanted)
    assert gradients.relative_difference(found, wanted)[0] < 1e-5


def test_defect_15_what_cannot_be_had_is_refused_and_not_ignored(untied, tiny_decoder):
    with pytest.raises(RecipeError, match=r"model\.tied: false does not go with torch\.strategy: fsdp2"):
        train(untied, {"torch.strategy": "fsdp2"})
    with pytest.raises(RecipeError, match=r"model\.document_name"):
        train(untied, {"model.tied": True, "model.document_name": str(tiny_decoder)})
    with pytest.raises(RecipeError, match="tokenizer"):
        train(untied, {"model.document_name": str(tiny_decoder), "model.pooling": "mean"})


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

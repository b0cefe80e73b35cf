from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import torch
from teva_data.artifact import Artifact
from teva_data.dataset import Dataset
from teva_data.errors import ArtifactError, DataError, RecipeError, TevaError
from teva_data.metrics import read_metrics
from teva_torch import checkpoint
from teva_torch.training import TrainingError, train


def _weights(artifact: Path) -> str:
    return hashlib.sha256((artifact / "model.safetensors").read_bytes()).hexdigest()


def test_a_run_learns_and_leaves_everything(recipe, tmp_path):
    recipe["train"]["steps"] = 60
    recipe["train"]["save_every"] = 25
    result = train(recipe)
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert rows[-1]["loss"] == result.loss
    assert [row["step"] for row in rows if row["step"] % 2] == [25]
    # Queries have at least two special tokens, and a document each: no mistaking one rate for the other.
    assert all(row["tokens_per_second"] > 4 * row["queries_per_second"] for row in rows)
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["step-00000050", "step-00000060"]
    assert (tmp_path / "run/loss.png").read_bytes()[:4] == b"\x89PNG"
    assert "artifact:" in (tmp_path / "run/train.log").read_text()
    artifact = Artifact.load(tmp_path / "run/artifact")
    # The larger of the two training limits serves both roles.
    assert (artifact.pooling, artifact.normalize, artifact.max_length) == ("mean", True, 16)
    record = artifact.teva
    assert record["recipe"]["model"]["pooling"] == "mean"
    assert set(record["parity"]) == {"teva-torch", "sentence-transformers"}
    assert all(figure["max_difference"] < 1e-5 for figure in record["parity"].values())
    assert torch.__version__.startswith(record["versions"]["torch"])
    assert record["data"]["fingerprint"] == Dataset.open(recipe["data"]["path"]).fingerprint("train")
    assert record["base"]["fingerprint"] == Artifact.load(recipe["model"]["name"]).fingerprint
    # What is stored beside the model runs again.
    assert train(yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())).artifact.path == artifact.path


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_an_artifact_says_where_its_vectors_may_be_cut(recipe, weights):
    recipe["loss"]["matryoshka_dims"] = [8, 16]
    artifact = train(recipe, {"torch.export_weights": weights, "torch.parity_cosine": 0.99}).artifact
    config = json.loads((artifact.path / "config.json").read_text())
    assert config["matryoshka_dimensions"] == [8, 16, artifact.dim]
    assert config["dtype"] == weights
    assert artifact.matryoshka == [8, 16, artifact.dim]


def test_two_runs_are_bit_equal_and_a_seed_changes_them(recipe, tmp_path):
    digests = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        recipe["train"] |= {"output": str(tmp_path / name), "seed": seed}
        digests.append(_weights(train(recipe).artifact.path))
    assert digests[0] == digests[1] != digests[2]


_CHILD = """
import json, sys
from teva_torch.training import train
train(json.loads(sys.argv[1]))
"""


def test_killed_and_started_again_is_bit_equal(recipe, tmp_path):
    recipe["train"] |= {"steps": 120, "save_every": 5, "output": str(tmp_path / "whole")}
    expected = _weights(train(recipe).artifact.path)
    recipe["train"]["output"] = str(tmp_path / "killed")
    kills = 0
    for after in (10, 60):  # killed in the first half and, once resumed, again in the second
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, json.dumps(recipe)], stderr=subprocess.DEVNULL, env=dict(os.environ)
        )
        metrics = tmp_path / "killed/metrics.jsonl"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and child.poll() is None:
            if metrics.exists() and any(row["step"] >= after for row in read_metrics(metrics)):
                break
            time.sleep(0.002)
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            kills += 1
        child.wait()
    assert kills == 2
    assert not (tmp_path / "killed/artifact").exists()
    assert checkpoint.latest_checkpoint(tmp_path / "killed/checkpoints") is not None
    assert _weights(train(recipe).artifact.path) == expected
    rows, whole = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("killed", "whole"))
    assert [(row["step"], row["loss"]) for row in rows] == [(row["step"], row["loss"]) for row in whole]


def test_another_run_in_the_same_directory_is_refused(recipe, tmp_path):
    train(recipe)
    before = _weights(tmp_path / "run/artifact")
    recipe["train"]["learning_rate"] = 5e-4
    with pytest.raises(RecipeError, match=r"train\.learning_rate was 0\.001, is 0\.0005.*--overwrite"):
        train(recipe)
    assert _weights(tmp_path / "run/artifact") == before
    assert _weights(train(recipe, overwrite=True).artifact.path) != before


def test_changed_data_is_refused_on_resume(recipe, tiny_data, tmp_path):
    import shutil

    data = shutil.copytree(tiny_data, tmp_path / "data")
    recipe["data"]["path"] = str(data)
    train(recipe)
    with (data / "train.jsonl").open("a") as file:
        file.write('{"query_id": "new", "query_text": "red", "positive_document_ids": ["d1"]}\n')
    with pytest.raises(RecipeError, match="the data differ"):
        train(recipe)


@pytest.fixture
def mixed_recipe(recipe, tiny_data, tmp_path):
    """Two datasets, with prompts of their own; the second over another corpus."""
    import shutil

    other = shutil.copytree(tiny_data, tmp_path / "other", ignore=shutil.ignore_patterns(".teva"))
    lines = (other / "corpus.jsonl").read_text().replace('"document_text": "', '"document_text": "tea ')
    (other / "corpus.jsonl").write_text(lines)
    (other / "dataset.yaml").write_text('name: second\nprompts:\n  document: "in the "\n')
    recipe["data"] = {
        "negatives": 2, "mixing": "weighted", "batches": "one_dataset",
        "datasets": [
            {"path": str(tiny_data), "weight": 1, "query_prompt": "how "},
            {"path": str(other), "weight": 2, "limit": 20, "negatives": 1},
        ],
    }  # fmt: skip
    return recipe


def test_several_datasets_resumed_are_bit_equal(mixed_recipe, tmp_path, caplog):
    import shutil

    with caplog.at_level("INFO", "teva_torch"):
        result = train(mixed_recipe)
    assert "other train: 20 queries, 66.67 % of the batches, 3.20 epochs" in caplog.text
    whole = _weights(result.artifact.path)
    record = result.artifact.teva["data"]
    assert [one["name"] for one in record["datasets"]] == [None, "second"]
    assert "datasets:\n- second\n" in (result.artifact.path / "README.md").read_text()
    # The card's prompt of one dataset is no prompt of the model, and is in the resolved recipe.
    assert result.artifact.prompts == {"query": "", "document": ""}
    resolved = yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())
    assert [one["document_prompt"] for one in resolved["data"]["datasets"]] == [None, "in the "]
    shutil.rmtree(tmp_path / "run/artifact")
    shutil.rmtree(tmp_path / "run/checkpoints/step-00000012")
    shutil.copytree(tmp_path / "other", tmp_path / "moved", ignore=shutil.ignore_patterns(".teva"))
    with caplog.at_level("INFO", "teva_torch"):
        again = train(resolved, {"data.datasets.1.path": str(tmp_path / "moved")})
    assert "going on after step 8 of 12" in caplog.text
    assert _weights(again.artifact.path) == whole


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data.datasets.1.weight": 3}, r"data\.datasets\.1\.weight was 2\.0, is 3\.0"),
        ({"data.mixing": "proportional", "data.datasets.0.weight": None, "data.datasets.1.weight": None},
         r"data\.mixing was 'weighted', is 'proportional'"),
        ({"data.datasets.0.query_prompt": "what "}, r"query_prompt was 'how ', is 'what '"),
        ({}, r"another run \(the data of data\.datasets\.1 differ\)"),
    ],
)  # fmt: skip
def test_another_mixture_is_refused_on_resume(mixed_recipe, tmp_path, change, words):
    mixed_recipe["train"]["steps"] = 2
    train(mixed_recipe)
    if not change:
        with (tmp_path / "other/corpus.jsonl").open("a") as file:
            file.write('{"docid": "new", "text": "red"}\n')
    with pytest.raises(RecipeError, match=words):
        train(mixed_recipe, change)


def test_prompts_of_datasets_and_rows_reach_the_model(mixed_recipe, tiny_model):
    from teva_data.feed import Feed
    from teva_data.plan import BatchPlan
    from teva_data.rendering import Renderer
    from teva_torch.recipe import read_recipe

    checked = read_recipe(mixed_recipe, {"data.datasets.1.document_prompt": "in the ", "data.batches": "mixed"})
    renderer = Renderer.from_artifact(Artifact.load(tiny_model), query_prompt="what ", max_length=64)
    (item,) = Feed(BatchPlan.from_recipe(checked), renderer, checked).batches(3, 4)
    batch = item.batch
    assert set(batch.dataset) == {0, 1}
    for number, query, ids in zip(batch.dataset, batch.queries, item.query_ids, strict=True):
        assert renderer.tokenize([("what " if number else "how ") + query.query_text], 8) == [ids]
    prompts = {
        number: batch.document_prompts[column] for number, column in zip(batch.dataset, batch.positives, strict=True)
    }
    assert prompts == {0: None, 1: "in the "}
    for prompt, document, ids in zip(batch.document_prompts, batch.documents, item.document_ids, strict=True):
        rendered = f"{prompt or ''}{document.title} {document.document_text}".replace("  ", " ")
        assert renderer.tokenize([rendered], 16) == [ids]


def test_a_prompt_of_one_dataset_that_leaves_no_room_is_refused(mixed_recipe):
    with pytest.raises(RecipeError, match=r"model\.query_max_length: found 8; expected more than the 8 tokens"):
        train(mixed_recipe, {"data.datasets.1.query_prompt": "the a of to in is "})
    with pytest.raises(RecipeError, match=r"model\.document_max_length: found 16; .* 'the the"):
        train(mixed_recipe, {"data.datasets.0.document_prompt": "the " * 20})


@pytest.mark.parametrize("role", ["document", "query"])
def test_what_has_no_text_is_refused(recipe, tiny_data, tmp_path, role):
    data = tmp_path / "pictures"
    (data / "media").mkdir(parents=True)
    (data / "media/a.png").write_bytes(b"not looked at")
    rows = {
        "document": '{"docid": "d0", "document_text": "red"}\n{"docid": "page 7", "document_image": "media/a.png"}\n',
        "query": '{"query_id": "b", "query_text": "red", "positive_document_ids": ["d0"]}\n'
                 '{"query_id": "page 7", "query_image": "media/a.png", "positive_document_ids": ["d0"]}\n',
    }  # fmt: skip
    if role == "document":
        rows["query"] = '{"query_id": "b", "query_text": "red", "positive_document_ids": ["page 7"]}\n'
    (data / "corpus.jsonl").write_text(rows["document"])
    (data / "train.jsonl").write_text(rows["query"])
    recipe["data"] = {"datasets": [{"path": str(tiny_data)}, {"path": str(data)}], "mixing": "round_robin"}
    file = data / ("corpus.jsonl" if role == "document" else "train.jsonl")
    with pytest.raises(DataError, match=rf"^{file}:2: a {role} without text; found 'page 7'.*reads text only"):
        train(recipe)


def test_a_damaged_checkpoint_is_named(recipe, tmp_path):
    train(recipe)
    newest = checkpoint.latest_checkpoint(tmp_path / "run/checkpoints")
    file = newest / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(TevaError, match=r"optimizer\.safetensors: checksum .* damaged"):
        train(recipe)


def test_bfloat16_keeps_float32_weights(recipe, tmp_path):
    recipe["train"]["precision"] = "bfloat16"
    result = train(recipe)
    from safetensors.torch import load_file

    assert {value.dtype for value in load_file(result.artifact.path / "model.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize("pooling", ["cls", "last"])
def test_a_bare_backbone(recipe, bare_model, pooling):
    recipe["model"]["name"] = str(bare_model)
    with pytest.raises(RecipeError, match=r"model\.pooling"):
        train(recipe)
    recipe["model"] |= {"pooling": pooling, "normalize": True}
    recipe["prompts"] = {"query": "the ", "document": "with "}
    artifact = train(recipe).artifact
    assert (artifact.pooling, artifact.prompts) == (pooling, {"query": "the ", "document": "with "})


def test_a_loss_that_is_not_finite_stops_the_run(recipe):
    recipe["train"] |= {"learning_rate": 1e30, "warmup_ratio": 0}
    with pytest.raises(TrainingError, match=r"step \d+: the vectors of 8 of 8 queries \(q"):
        train(recipe)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": {"pooling": "meen"}}, RecipeError, "Did you mean 'mean'"),
        ({"loss": {"name": "infonse"}}, RecipeError, "Did you mean 'infonce'"),
        ({"model": {"document_max_length": 65}}, RecipeError, "at most 64"),
        ({"torch": {"device": "tpu9"}}, TevaError, "device 'tpu9'"),
        ({"torch": {"devize": "cpu"}}, RecipeError, "Did you mean 'device'"),
        ({"data": {"split": "trian"}}, DataError, "train"),
        ({"data": {"path": "/no/such"}}, DataError, "/no/such"),
        ({"model": {"name": "/no/such"}}, ArtifactError, "/no/such"),
    ],
)
def test_bad_settings_are_told(recipe, change, error, words):
    for section, values in change.items():
        recipe[section] |= values
    with pytest.raises(error, match=words):
        train(recipe)


def test_the_exported_model_must_give_the_trained_vectors(recipe, tmp_path, monkeypatch):
    # A served model that is silently the base: save the untrained weights, as a lost adapter would.
    from teva_data import exporting

    original = exporting.save_tokenizer

    def spoil(tokenizer, directory):
        original(tokenizer, directory)
        from safetensors.torch import load_file, save_file

        weights = load_file(directory / "model.safetensors")
        torch.manual_seed(5)
        save_file(
            {k: torch.randn_like(v) for k, v in weights.items()}, directory / "model.safetensors", {"format": "pt"}
        )

    monkeypatch.setattr(exporting, "save_tokenizer", spoil)
    with pytest.raises(TevaError, match="gives other vectors for the exported model"):
        train(recipe)
    assert not (tmp_path / "run/artifact").exists()
    assert checkpoint.latest_checkpoint(tmp_path / "run/checkpoints") is not None


def test_a_peer_that_lacks_what_it_needs_does_not_end_a_run(recipe, monkeypatch, caplog):
    """sentence-transformers wants torchvision for models that see, and says so when it loads one."""
    sentence_transformers = pytest.importorskip("sentence_transformers")

    def lacking(*_, **__):
        raise ImportError("\nProcessor requires the Torchvision library\n")

    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", lacking)
    artifact = train(recipe).artifact
    assert set(artifact.teva["parity"]) == {"teva-torch"}
    assert "It says: Processor requires the Torchvision library" in caplog.text


def test_prompts_come_from_the_recipe_the_card_or_the_model(recipe, tiny_data, tiny_model, tmp_path):
    import shutil

    from teva_torch.recipe import read_recipe
    from teva_torch.training import resolve

    data = shutil.copytree(tiny_data, tmp_path / "data")
    (data / "dataset.yaml").write_text('prompts:\n  query: "card: "\n')
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "config_sentence_transformers.json").write_text('{"prompts": {"query": "model: ", "document": "text: "}}')
    artifact, dataset = Artifact.load(model), Dataset.open(data)
    assert resolve(read_recipe(recipe), artifact, [dataset]).prompts.model_dump() == {
        "query": "card: ",
        "document": "text: ",
    }
    recipe["prompts"] = {"query": "", "document": "own: "}
    assert resolve(read_recipe(recipe), artifact, [dataset]).prompts.model_dump() == {"query": "", "document": "own: "}


def test_nothing_is_removed_before_everything_has_loaded(recipe, tmp_path):
    train(recipe)
    before = _weights(tmp_path / "run/artifact")
    for section, values in (("torch", {"device": "tpu9"}), ("model", {"pooling": "meen"}), ("loss", {"name": "none"})):
        with pytest.raises(TevaError):
            train({**recipe, section: {**recipe[section], **values}}, overwrite=True)
    assert _weights(tmp_path / "run/artifact") == before
    assert checkpoint.latest_checkpoint(tmp_path / "run/checkpoints") is not None


def test_a_finished_model_without_checkpoints_is_not_replaced(recipe, tmp_path):
    import shutil

    train(recipe)
    before = _weights(tmp_path / "run/artifact")
    shutil.rmtree(tmp_path / "run/checkpoints")
    with pytest.raises(RecipeError, match="finished model of this recipe and no checkpoint"):
        train(recipe)
    with pytest.raises(RecipeError, match=r"another run \(train\.seed was 42, is 1"):
        train(recipe, {"train.seed": 1})
    assert _weights(tmp_path / "run/artifact") == before


def test_what_does_not_decide_the_weights_does_not_stop_a_resume(recipe, tiny_data, tiny_model, tmp_path):
    import shutil

    whole = _weights(train(recipe).artifact.path)
    shutil.rmtree(tmp_path / "run/artifact")
    shutil.rmtree(tmp_path / "run/checkpoints/step-00000012")
    moved = {
        "data.path": str(shutil.copytree(tiny_data, tmp_path / "moved-data")),
        "model.name": str(shutil.copytree(tiny_model, tmp_path / "moved-model")),
        "torch.parity_cosine": 0.9,
    }
    assert _weights(train(recipe, moved).artifact.path) == whole


def test_a_prompt_that_leaves_no_room_is_refused(recipe):
    recipe["prompts"] = {"query": "the a of to in is "}
    with pytest.raises(RecipeError, match=r"model\.query_max_length: found 8; expected more than the 8 tokens"):
        train(recipe)


def test_two_trainings_in_one_directory(recipe, tmp_path):
    from teva_data.files import lock_directory

    (tmp_path / "run").mkdir()
    with (
        lock_directory(tmp_path / "run", "training"),
        pytest.raises(TevaError, match=f"process {os.getpid()} is training here"),
    ):
        train(recipe)


def test_what_a_kill_left_is_removed(recipe, tmp_path):
    leftovers = [tmp_path / "run/checkpoints/.step-00000004.x.tmp", tmp_path / "run/.artifact.x.tmp"]
    for leftover in leftovers:
        leftover.mkdir(parents=True)
        (leftover / "model.safetensors").write_bytes(b"half")
    foreign = tmp_path / "run/.notes.mine.tmp"
    foreign.write_text("of somebody else")
    train(recipe)
    assert not any(leftover.exists() for leftover in leftovers)
    assert foreign.read_text() == "of somebody else"


def test_a_gradient_that_is_not_finite_changes_no_weight(recipe, tmp_path, monkeypatch):
    from teva_torch.model import Retriever

    original, models = Retriever.load.__func__, []

    def load(cls, *args, **kwargs):
        model = original(cls, *args, **kwargs)
        # The loss is as it was; one gradient on the way back is not.
        model.backbone.embeddings.word_embeddings.weight.register_hook(lambda gradient: gradient * float("inf"))
        models.append((model, {name: value.clone() for name, value in model.state_dict().items()}))
        return model

    monkeypatch.setattr(Retriever, "load", classmethod(load))
    with pytest.raises(TrainingError, match="step 1: the norm of the gradient is nan"):
        train(recipe)
    model, before = models[0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_gate_refuses_nan():
    import numpy as np

    from teva_data.parity import compare

    figure = compare(np.array([[1.0, 0.0], [np.nan, 1.0]]), np.eye(2))
    assert not figure["min_cosine"] >= 0.5


def test_a_lower_casing_model_stays_one(recipe, tiny_model, tmp_path):
    import shutil

    model = shutil.copytree(tiny_model, tmp_path / "lower")
    (model / "sentence_bert_config.json").write_text('{"max_seq_length": 48, "do_lower_case": true}')
    recipe["model"]["name"] = str(model)
    assert train(recipe).artifact.lowercase


def test_a_decoder_with_last_token_pooling(recipe, tiny_decoder):
    # EOS stands in the tokenizer's post-processor; it pads on the left, we on the right.
    recipe["model"] |= {"name": str(tiny_decoder), "pooling": "last", "normalize": True}
    recipe["prompts"] = {"query": "the "}
    result = train(recipe)
    assert result.artifact.pooling == "last"
    assert result.artifact.teva["parity"]["sentence-transformers"]["max_difference"] < 1e-5

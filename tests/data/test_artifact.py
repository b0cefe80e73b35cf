from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from teva_data.artifact import Artifact
from teva_data.errors import ArtifactError
from teva_data.known_prompts import known_prompts
from teva_data.seals import write_checksums, write_record


@pytest.fixture
def model(tiny_model, tmp_path):
    """A copy that a test may break."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def _edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_what_write_layout_wrote_is_read(tiny_model):
    artifact = Artifact.load(tiny_model)
    assert (artifact.pooling, artifact.normalize, artifact.dim, artifact.max_length) == ("mean", True, 32, 48)
    assert artifact.positions == 64
    assert artifact.prompts == {"query": "", "document": ""}
    assert artifact.revision is None


def test_a_bare_backbone_does_not_say_how_to_pool(bare_model):
    artifact = Artifact.load(bare_model)
    assert (artifact.pooling, artifact.normalize, artifact.dim, artifact.max_length) == (None, False, 32, 64)


@pytest.mark.parametrize(("mode", "pooling"), [("cls", "cls"), ("mean", "mean"), ("lasttoken", "last")])
def test_the_newer_pooling_key(model, mode, pooling):
    (model / "1_Pooling/config.json").write_text(json.dumps({"embedding_dimension": 32, "pooling_mode": mode}))
    assert Artifact.load(model).pooling == pooling


def test_a_pooling_of_another_package_is_named_and_no_other_runtime_loads_it(model):
    """sentence-transformers would pool by the mean where no mode of its own is on."""
    sentence_transformers = pytest.importorskip("sentence_transformers")

    from teva_data.artifact import refuse_own
    from teva_data.layout import is_own, write_layout

    write_layout(
        model, pooling="ends", normalize=False, dim=32, max_length=48, prompts={"query": "", "document": ""}, teva={},
        card="",
    )  # fmt: skip
    artifact = Artifact.load(model)
    assert (artifact.pooling, artifact.normalize, artifact.dim) == ("ends", False, 32)
    with pytest.raises(ArtifactError, match="found the pooling 'ends', which a package beside teva brings; vLLM knows"):
        refuse_own(artifact, "vLLM")
    with pytest.raises(Exception, match="teva"):
        sentence_transformers.SentenceTransformer(str(model), device="cpu", local_files_only=True)
    assert not any(is_own(each) for each in ("cls", "mean", "last", "towers", None))


def test_prompts_that_the_model_stores(model):
    _edit(model / "config_sentence_transformers.json", prompts={"query": "Q: ", "document": "D: "})
    assert Artifact.load(model).prompts == {"query": "Q: ", "document": "D: "}


def test_prompts_of_the_card(model, monkeypatch, tmp_path):
    # A fine-tune of E5 is another model: it may have been trained without prompts.
    _edit(model / "config.json", _name_or_path="intfloat/e5-base-v2")
    (model / "config_sentence_transformers.json").unlink()
    assert Artifact.load(model).prompts == {"query": "", "document": ""}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "intfloat").mkdir()
    model.rename(tmp_path / "intfloat/e5-base-v2")
    assert Artifact.load("intfloat/e5-base-v2").prompts == {"query": "query: ", "document": "passage: "}
    # Prompts that are stored win, empty ones too.
    stored = tmp_path / "intfloat/e5-base-v2/config_sentence_transformers.json"
    stored.write_text('{"prompts": {"query": "", "document": ""}}')
    assert Artifact.load("intfloat/e5-base-v2").prompts == {"query": "", "document": ""}
    assert known_prompts("BAAI/bge-small-en-v1.5")["query"].startswith("Represent this sentence")
    assert known_prompts("nobody/knows") is None


def test_a_run_given_for_its_model_is_told_where_that_lies(tmp_path):
    (tmp_path / "artifact").mkdir()
    with pytest.raises(ArtifactError, match=r"no config\.json.*The model of a run lies in .*artifact"):
        Artifact.load(tmp_path)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda m: [(m / n).unlink() for n in ("tokenizer.json",)], ["no tokenizer", "tokenizer.json"]),
        (lambda m: (m / "config.json").unlink(), ["no config.json"]),
        (lambda m: (m / "config.json").write_text("{"), ["config.json", "not JSON"]),
        (
            lambda m: _edit(m / "1_Pooling/config.json", pooling_mode_mean_tokens=False),
            ["1_Pooling", "expected one of"],
        ),
        (lambda m: _edit(m / "1_Pooling/config.json", pooling_mode_cls_token=True), ["found pooling ['cls', 'mean']"]),
        (lambda m: _edit(m / "1_Pooling/config.json", pooling_mode_max_tokens=True), ["pooling_mode_max_tokens"]),
        (lambda m: _edit(m / "1_Pooling/config.json", pooling_mode=["cls", "mean"]), ["1_Pooling", "expected one of"]),
        (lambda m: _edit(m / "1_Pooling/config.json", include_prompt=False), ["include_prompt", "found false"]),
        (
            lambda m: (m / "modules.json").write_text(
                json.dumps([{"type": f"x.{kind}", "path": ""} for kind in ("Transformer", "Pooling", "Dense")])
            ),
            ["modules.json", "Dense"],
        ),
        (
            lambda m: (m / "modules.json").write_text(json.dumps([{"type": "x.Transformer", "path": "0_Transformer"}])),
            ["modules.json", "'0_Transformer'"],
        ),
        (
            lambda m: _edit(m / "sentence_bert_config.json", query_length=8),
            ["sentence_bert_config.json", "query_length"],
        ),
        (lambda m: _edit(m / "sentence_bert_config.json", processor_kwargs={"strip": True}), ["'strip': True"]),
        (lambda m: _edit(m / "sentence_bert_config.json", modality_config={"message": {}}), ["modality_config"]),
        (lambda m: _edit(m / "config_sentence_transformers.json", truncate_dim=16), ["truncate_dim"]),
        (lambda m: (m / "teva.json").write_text('{"schema": "9"}'), ["teva.json", "found '9'", "expected '1'"]),
    ],
)
def test_what_cannot_be_reproduced_is_refused(model, break_it, words):
    break_it(model)
    with pytest.raises(ArtifactError) as caught:
        Artifact.load(model)
    assert str(model) in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/dir", "a/b/c"])
def test_no_such_directory(name):
    with pytest.raises(ArtifactError, match="no such directory"):
        Artifact.load(name)


def test_a_hub_model_that_is_not_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ArtifactError, match="nobody/nothing: neither a local directory nor in the hub's local cache"):
        Artifact.load("nobody/nothing", offline=True)


def test_a_hub_model_from_the_cache(tiny_model, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "a" * 40
    repository = tmp_path / "models--owner--tiny"
    shutil.copytree(tiny_model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for revision in (None, "main", commit):
        artifact = Artifact.load("owner/tiny", revision=revision, offline=True)
        assert (artifact.revision, artifact.pooling) == (commit, "mean")
    with pytest.raises(ArtifactError, match=r"not in the hub's local cache|neither a local directory"):
        Artifact.load("owner/tiny", revision="b" * 40, offline=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("sentence_roberta_config.json", {"max_seq_length": 20}),
        ("sentence_bert_config.json", {"processor_kwargs": {"model_max_length": 20}}),
    ],
)
def test_limits_where_sentence_transformers_keeps_them(model, name, content):
    (model / "sentence_bert_config.json").unlink()
    (model / name).write_text(json.dumps(content))
    assert Artifact.load(model).max_length == 20


def test_the_fingerprint_follows_the_weights_and_not_the_card(model):
    before = Artifact.load(model).fingerprint
    (model / "README.md").write_text("another card")
    (model / "teva.json").write_text('{"note": 1}')
    assert Artifact.load(model).fingerprint == before
    (model / "onnx").mkdir()
    (model / "onnx/config.json").write_text("{}")
    (model / "pytorch_model.bin").write_bytes(b"x")
    assert Artifact.load(model).fingerprint == before
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert Artifact.load(model).fingerprint != before


def test_a_file_that_was_changed_is_named(model, tiny_model):
    path = model
    write_checksums(path)
    whole = Artifact.load(path)
    whole.expect_whole()
    assert whole.fingerprint == Artifact.load(tiny_model).fingerprint
    weights = bytearray((path / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (path / "model.safetensors").write_bytes(weights)
    damaged = Artifact.load(path)  # weights are compared when they are loaded
    with pytest.raises(ArtifactError, match=r"model\.safetensors: not the file that was exported"):
        damaged.expect_whole()
    with pytest.raises(ArtifactError, match=r"model\.safetensors"):
        damaged.fingerprint  # noqa: B018
    _edit(path / "sentence_bert_config.json", max_seq_length=47)
    with pytest.raises(ArtifactError, match=r"sentence_bert_config\.json.*remove checksums\.json"):
        Artifact.load(path)
    (path / "checksums.json").unlink()
    assert Artifact.load(path).max_length == 47


def test_a_damaged_record_is_named(model):
    path = model
    write_record(path, {"steps": 12})
    assert Artifact.load(path).teva == {"steps": 12}
    record = path / "teva.json"
    record.write_text(record.read_text().replace("12", "13"))
    with pytest.raises(ArtifactError, match=r"teva\.json: field 'seal': damaged"):
        Artifact.load(path)

"""The parity gate: it passes a sound artifact, and sees each way in which served vectors are known to go wrong."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest

from teva_data.errors import ArtifactError, MissingExtraError, TevaError
from teva_data.probes import probe_set, read_probes
from teva_data.rendering import Renderer, load_tokenizer
from teva_infer import Encoder, verifying
from teva_infer.cli import main
from teva_infer.verifying import verify


@pytest.fixture(scope="module")
def artifact(tiny_decoder, tiny_data, tmp_path_factory):
    """A decoder trained with LoRA, with prompts, EOS and two Matryoshka dimensions; merged when exported."""
    from teva_torch import train

    base = shutil.copytree(tiny_decoder, tmp_path_factory.mktemp("base") / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "matryoshka_dimensions": [8, 16]}))
    run = tmp_path_factory.mktemp("run")
    result = train(
        {
            "model": {
                "name": str(base), "pooling": "last", "normalize": True, "query_max_length": 24,
                "document_max_length": 40,
            },
            "prompts": {"query": "query: ", "document": "passage: "},
            "data": {"path": str(tiny_data)},
            "train": {"output": str(run), "steps": 3, "batch_size": 4, "learning_rate": 0.05},
            "torch": {"lora": {"rank": 4, "alpha": 8}, "device": "cpu"},
        }
    )  # fmt: skip
    return result.artifact.path


@pytest.fixture
def copy(artifact, tmp_path):
    return shutil.copytree(artifact, tmp_path / "copy")


@pytest.fixture
def by_hand(copy):
    """Without checksums, as a model whose files somebody has put together."""
    (copy / "checksums.json").unlink()
    return copy


def change(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_sound_artifact_passes_and_keeps_the_figures(copy, capsys):
    fingerprint = Encoder.load(copy).artifact.fingerprint
    assert main(["verify", str(copy), "--engines", "torch", "sentence-transformers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("same")] == ["torch", "sentence-transformers"]
    assert [line.split()[:3] for line in lines if "cut to" in line][:2] == [["cut", "to", "8"], ["cut", "to", "16"]]
    assert "against the trained model's own vectors" in "\n".join(lines)
    stored = json.loads((copy / "teva.json").read_text())["verified"]
    assert stored["passed"]
    assert [row["runtime"] for row in stored["runtimes"]] == ["torch", "sentence-transformers"]
    for row in stored["runtimes"]:
        assert row["cosine"] > 0.999999
        assert row["distance"] < 1e-4
        assert row["agreement"] == 1
        assert set(row["cut"]) == {"8", "16"}
    assert Encoder.load(copy).artifact.fingerprint == fingerprint


def test_the_probes_are_of_every_kind(artifact):
    trained = read_probes(artifact)
    renderer = Renderer.from_artifact(Encoder.load(artifact).artifact)
    kinds = {"short", "long", "limit", "truncated", "nearly_empty", "multilingual", "code"}
    for role in ("query", "document"):
        for prompt in (True, False):
            assert {each.kind for each in trained.probes if (each.role, each.prompt) == (role, prompt)} == kinds
    lengths = {
        (each.kind, each.prompt): renderer.lengths([renderer.query(each.text, None if each.prompt else "")])[0]
        for each in probe_set(renderer) if each.role == "query"
    }  # fmt: skip
    # Longer than the queries of training were; then of nearly as many tokens as are served; then more.
    assert lengths["long", True] > 24
    assert renderer.max_length - 8 <= lengths["limit", True] <= renderer.max_length < lengths["truncated", True]
    assert trained.vectors.shape == trained.base.shape == (len(trained.probes), 32)
    assert trained.weights == "F32"


def wrong_pooling(directory, artifact):
    change(directory / "1_Pooling" / "config.json", pooling_mode_lasttoken=False, pooling_mode_mean_tokens=True)


def missing_prompt(directory, artifact):
    change(directory / "config_sentence_transformers.json", prompts={"query": "", "document": ""})


def missing_normalisation(directory, artifact):
    modules = json.loads((directory / "modules.json").read_text())
    (directory / "modules.json").write_text(json.dumps(modules[:2]))


def missing_eos(directory, artifact):
    change(directory / "tokenizer.json", post_processor=None)
    assert load_tokenizer(Encoder.load(directory).artifact)("a")["input_ids"][-1:] != [
        load_tokenizer(Encoder.load(artifact).artifact).eos_token_id
    ]


def unmerged_lora(directory, artifact):
    from safetensors.torch import load_file, save_file

    base = json.loads((artifact / "teva.json").read_text())["recipe"]["model"]["name"]
    before = load_file(f"{base}/model.safetensors")
    after = load_file(directory / "model.safetensors")
    save_file({name: before.get(name, before.get(f"model.{name}")) for name in after}, directory / "model.safetensors")


def wrong_dtype(directory, artifact):
    from safetensors.torch import load_file, save_file

    import torch

    weights = {name: value.to(torch.bfloat16) for name, value in load_file(directory / "model.safetensors").items()}
    save_file(weights, directory / "model.safetensors")


def other_limit(directory, artifact):
    change(directory / "sentence_bert_config.json", max_seq_length=32)


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (wrong_pooling, "look at pooling"),
        (missing_prompt, "texts with a prompt alone"),
        (missing_normalisation, "is Normalize missing"),
        (missing_eos, "look at pooling.*EOS"),
        (unmerged_lora, "without its adapter"),
        (wrong_dtype, "weights: found BF16; expected F32"),
        (other_limit, "long texts alone"),
    ],
)
@pytest.mark.parametrize("runtime", ["torch", "sentence-transformers"])
def test_what_is_wrong_is_seen_and_told(by_hand, artifact, capsys, break_it, told, runtime):
    break_it(by_hand, artifact)
    assert main(["verify", str(by_hand), "--engines", runtime]) == 1
    assert re.search(told, capsys.readouterr().out, re.DOTALL)
    assert json.loads((by_hand / "teva.json").read_text())["verified"]["passed"] is False


def test_a_runtime_alone_that_differs(copy, monkeypatch):
    """Files are sound; one engine does something else with them."""
    original = Encoder.encode_texts

    def in_half(self, texts, **options):
        return original(self, texts, **options).astype(np.float16).astype(np.float32) * np.float32(0.5)

    monkeypatch.setattr(Encoder, "encode_texts", in_half)
    report = verify(copy, engines=["torch"], store=False)
    assert not report.passed
    assert report.rows[0].cosine > 0.99999
    assert "verified" not in json.loads((copy / "teva.json").read_text())


def test_without_trained_vectors_the_first_engine_is_the_reference(by_hand):
    (by_hand / "probes.json").unlink()
    report = verify(by_hand, engines=["sentence-transformers", "torch"])
    assert report.passed
    assert report.reference.startswith("the engine torch")
    assert [row.runtime for row in report.rows] == ["sentence-transformers"]
    alone = verify(by_hand, engines=["torch"])
    assert not alone.passed  # nothing was compared
    assert alone.rows == []


def test_a_peer_that_lacks_what_it_needs(by_hand, monkeypatch):
    import sentence_transformers

    def lacking(*_, **__):
        raise ImportError("Processor requires the Torchvision library")

    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", lacking)
    with pytest.raises(MissingExtraError, match=r"needs sentence-transformers\[image\]"):
        verify(by_hand, engines=["sentence-transformers"])
    assert "sentence-transformers[image]" in verify(by_hand).absent["sentence-transformers"]


def test_engines_that_are_not_there(by_hand, monkeypatch):
    copy = by_hand
    monkeypatch.setattr(verifying.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="sentence-transformers"):
        verify(copy, engines=["sentence-transformers"])
    with pytest.raises(TevaError, match="unknown engine"):
        verify(copy, engines=["torhc"])
    (copy / "probes.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"probes\.json: cannot be read"):
        verify(copy, engines=["torch"])

"""The artifact: what other runtimes make of it, what stands in it, and the engine that teva-infer finds."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.torch.backbones import make

import jax
from teva_data.artifact import Artifact
from teva_data.parity import ParityError, stock_texts
from teva_data.probes import read_probes
from teva_data.rendering import Renderer
from teva_infer import Encoder
from teva_jax import LoraSettings, Retriever, lora, make_mesh
from teva_jax.export import write_artifact


@pytest.fixture
def alone(monkeypatch):
    """As where sentence-transformers is not installed: for tests of other things, since it takes long to import."""
    monkeypatch.setattr("teva_jax.export.sentence_transformers_vectors", lambda *_: None)


TEXTS = ["red tea with salt", "a city on the river", "winter", "engine of copper and iron " * 6]


def _write(path, directory, *, pooling, adapter=False, bidirectional=None, **options):
    settings = LoraSettings(rank=4, alpha=8) if adapter else None
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    base = Artifact.load(path)
    retriever, params = Retriever.load(
        base, mesh, pooling=pooling, normalize=True, bidirectional=bidirectional, lora=settings
    )
    # As if trained: nothing is what it was.
    params = {name: value * 1.01 for name, value in params.items()} if not adapter else params
    factors = None
    if adapter:
        draw = np.random.default_rng(0)
        table = lora.table(retriever.model.table, settings)
        factors = {name: jax.numpy.asarray(draw.normal(0, 0.2, spec.shape), "float32") for name, spec in table.items()}
    renderer = Renderer.from_artifact(base, max_length=32, append_eos=pooling == "last")
    written = write_artifact(
        retriever, params, factors, base, renderer, directory, teva={"schema": "1"}, card="",
        texts=stock_texts(renderer), **options,
    )  # fmt: skip
    return written, retriever, params, factors


@pytest.mark.parametrize(
    ("name", "pooling", "adapter", "bidirectional"),
    [
        ("Qwen3", "last", True, None),
        pytest.param("Bert", "mean", False, None, marks=pytest.mark.slow),
        pytest.param("Gemma3Text", "mean", False, True, marks=pytest.mark.slow),
    ],
)
def test_every_runtime_gives_the_trained_vectors(tmp_path, name, pooling, adapter, bidirectional):
    path = make(tmp_path / "base", name)
    artifact, retriever, _, _ = _write(
        path, tmp_path / "artifact", pooling=pooling, adapter=adapter, bidirectional=bidirectional
    )
    figures = artifact.teva["parity"]
    assert set(figures) == {"teva-jax", "sentence-transformers"}
    assert all(figure["max_difference"] < 1e-5 for figure in figures.values()), figures
    assert (artifact.pooling, artifact.normalize, artifact.dim) == (pooling, True, retriever.dim)
    config = json.loads((artifact.path / "config.json").read_text())
    assert config["architectures"] == [f"{name}Model"]
    assert config.get("use_bidirectional_attention") is bidirectional
    assert (artifact.path / "adapter/adapter_model.safetensors").is_file() is adapter
    trained = read_probes(artifact.path)
    assert trained is not None
    assert trained.vectors.shape == (len(trained.probes), retriever.dim)
    assert (trained.base is not None) is adapter
    # The two engines of teva-infer, by the command's own class.
    ours, theirs = (Encoder.load(artifact.path, engine=engine).encode_documents(TEXTS) for engine in ("jax", "torch"))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_what_no_vector_depends_on_is_kept(tmp_path, alone):
    path = make(tmp_path / "base", "Bert")
    artifact, retriever, params, _ = _write(path, tmp_path / "artifact", pooling="cls", matryoshka=[8, 16])
    before, after = load_file(path / "model.safetensors"), load_file(artifact.path / "model.safetensors")
    assert before.keys() == after.keys()
    np.testing.assert_array_equal(after["pooler.dense.weight"], before["pooler.dense.weight"])
    np.testing.assert_array_equal(
        after["encoder.layer.1.output.dense.weight"], params["encoder.layer.*.output.dense.weight"][1]
    )
    assert json.loads((artifact.path / "config.json").read_text())["matryoshka_dimensions"] == [8, 16, retriever.dim]


def test_an_export_that_lost_its_adapter_is_refused(tmp_path, monkeypatch, alone):
    from teva_jax import export

    path = make(tmp_path / "base", "Llama")
    # What the published toolkits did: the files hold the base.
    monkeypatch.setattr(export, "merge_tensor", lambda name, layer, weight, **_: weight)
    with pytest.raises(ParityError):
        _write(path, tmp_path / "artifact", pooling="last", adapter=True, threshold=-1.0)
    assert not (tmp_path / "artifact").exists()


def test_lora_of_torch_goes_on_here_and_back(tmp_path, alone):
    """An artifact of teva-torch with an adapter; its adapter in JAX; the artifact of that in torch."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    import torch
    from teva_jax.adapters import from_peft
    from teva_torch.publishing import merge_adapter

    base = make(tmp_path / "base", "Llama")
    model = get_peft_model(AutoModel.from_pretrained(base), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.normal_(0, 0.3)
    model.save_pretrained(tmp_path / "adapter")
    torch_artifact = merge_adapter(
        tmp_path / "adapter", tmp_path / "torch", base=str(base), pooling="last", normalize=True
    )
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    retriever, params = Retriever.load(base, mesh, pooling="last", normalize=True)
    adapter, settings = from_peft(torch_artifact.path / "adapter", retriever.model.table, mesh)
    retriever = dataclasses.replace(retriever, lora=settings)
    renderer = Renderer.from_artifact(torch_artifact)
    from teva_jax.export import vectors

    texts = stock_texts(renderer)
    found = vectors(retriever, params, adapter, renderer, texts)
    encoder = Encoder.load(torch_artifact.path, engine="torch")
    expected = np.concatenate([encoder.encode_queries(texts["query"]), encoder.encode_documents(texts["document"])])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # Trained on, exported, and the adapter of that merged by torch again.
    adapter = {name: value + 0.02 for name, value in adapter.items()}
    artifact = write_artifact(
        retriever, params, adapter, Artifact.load(base), renderer, tmp_path / "jax", teva={"schema": "1"}, card="",
        texts=texts,
    )  # fmt: skip
    again = merge_adapter(artifact.path / "adapter", tmp_path / "again", base=str(base), pooling="last", normalize=True)
    one, two = (load_file(each.path / "model.safetensors") for each in (artifact, again))
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(one[name], two[name], atol=1e-6)


def test_the_engine_on_the_command_line(tmp_path, tiny_model, tiny_data):
    from teva_data import Embeddings
    from teva_infer.cli import main

    for engine in ("torch", "jax"):
        assert (
            main(["encode", str(tiny_model), str(tiny_data), "--output", str(tmp_path / engine), "--engine", engine])
            == 0
        )
    one, two = (Embeddings.open(tmp_path / engine) for engine in ("torch", "jax"))
    assert one.ids() == two.ids()
    np.testing.assert_allclose(one.matrix(), two.matrix(), atol=1e-5)


def test_the_engine_compiles_a_few_programs(tiny_model):
    encoder = Encoder.load(tiny_model, engine="jax", device="cpu")
    draw = np.random.default_rng(0)
    for _ in range(30):
        rows, longest = draw.integers(1, 40), draw.integers(1, 48)
        encoder.encode_tokens([[7] * int(length) for length in draw.integers(1, longest + 1, rows)])
    # 3 lengths (16, 32, 48 of 64 positions) times 4 numbers of rows (8, 16, 32, 64) at most.
    assert encoder.engine._embed._cache_size() <= 12


def test_a_broken_model_is_told(tmp_path, tiny_model):
    from teva_data.errors import ArtifactError, TevaError

    with pytest.raises(TevaError, match="dtype 'float8'"):
        Encoder.load(tiny_model, engine="jax", dtype="float8")
    with pytest.raises(TevaError, match="device 'tpu'"):
        Encoder.load(tiny_model, engine="jax", device="tpu")
    with pytest.raises(TevaError, match="a number below 8"):
        Encoder.load(tiny_model, engine="jax", device="cpu:8")
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model/model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"no model\.safetensors"):
        Encoder.load(tmp_path / "model", engine="jax")

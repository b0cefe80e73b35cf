"""Weights from files into shards and back, and where they lie."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.torch.backbones import make

import jax
from teva_data.errors import ArtifactError, TevaError
from teva_jax import Retriever, make_mesh, params
from teva_jax.mesh import sharding, shardings
from teva_jax.models import build, read_config
from teva_jax.params import Checkpoint, Spec


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make(tmp_path_factory.mktemp("llama"), "Llama")


def test_each_device_reads_its_own_part_alone(llama, monkeypatch):
    model = build(read_config(llama))
    stored = load_file(llama / "model.safetensors")
    reads = []
    plain = Checkpoint.slice

    def watched(self, name):
        view = plain(self, name)

        class Watched:
            def __getitem__(self, index):
                part = view[index]
                reads.append((name, part.nbytes))
                return part

            def get_shape(self):
                return view.get_shape()

        return Watched()

    monkeypatch.setattr(Checkpoint, "slice", watched)
    mesh = make_mesh(data=1, fsdp=4, tensor=2)
    loaded = params.load(llama, model.table, mesh)
    assert loaded.keys() == model.table.keys()
    places = shardings(model.table, mesh)
    for name, spec in model.table.items():
        whole = np.stack([stored[each] for each in params.members(name, spec)])
        np.testing.assert_array_equal(loaded[name], whole if "*" in name else whole[0])
        assert loaded[name].sharding == places[name]
    # No read is of a whole matrix, and all reads together are of the model once: replicas share theirs. (45 words are
    # not divided by two.)
    width = {name: array.nbytes for name, array in stored.items()}
    assert all(size == width[name] / (8 if "layers" in name else 4) for name, size in reads if stored[name].ndim == 2)
    assert sum(size for _, size in reads) == sum(width.values())


def test_what_is_saved_is_what_was_loaded(llama, tmp_path):
    from transformers import AutoModel

    retriever, loaded = Retriever.load(llama, make_mesh(data=2, fsdp=2, tensor=2), pooling="last")
    config = json.loads((llama / "config.json").read_text())
    params.save(tmp_path, loaded, config, shard_bytes=40_000)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    assert f"-of-{len(files):05}" in files[0]
    assert max(path.stat().st_size for path in tmp_path.glob("*.safetensors")) < 44_000
    _, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    again = params.load(tmp_path, retriever.model.table, make_mesh())
    for name, value in loaded.items():
        np.testing.assert_array_equal(again[name], value)


def test_bfloat16_and_names_of_larger_models(llama, tmp_path):
    model = build(read_config(llama))
    stored = load_file(llama / "model.safetensors")
    half = {f"model.{name}": array.astype(jnp.bfloat16) for name, array in stored.items()}
    save_file({**half, "lm_head.weight": half["model.embed_tokens.weight"]}, tmp_path / "model.safetensors")
    loaded = params.load(tmp_path, model.table, make_mesh(), jnp.float32)
    up = "layers.*.mlp.up_proj.weight"
    np.testing.assert_array_equal(loaded[up][1], half["model.layers.1.mlp.up_proj.weight"].astype(np.float32))
    assert params.load(tmp_path, model.table, make_mesh(), jnp.bfloat16)[up].dtype == jnp.bfloat16


def test_old_names_of_bert(tmp_path):
    path = make(tmp_path / "bert", "Bert")
    model = build(read_config(path))
    stored = load_file(path / "model.safetensors")
    old = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
        for name, array in stored.items()
    }
    save_file(old, tmp_path / "model.safetensors")
    loaded = params.load(tmp_path, model.table, make_mesh())
    np.testing.assert_array_equal(loaded["embeddings.LayerNorm.bias"], stored["embeddings.LayerNorm.bias"])


def test_what_is_refused(llama, tmp_path):
    model, mesh = build(read_config(llama)), make_mesh()
    with pytest.raises(ArtifactError, match=r"no model\.safetensors"):
        params.load(tmp_path, model.table, mesh)
    stored = load_file(llama / "model.safetensors")
    lacking = {name: array for name, array in stored.items() if name != "layers.1.mlp.up_proj.weight"}
    save_file(lacking, tmp_path / "model.safetensors")
    with pytest.raises(
        ArtifactError, match=r"lack 1 of the model's 20 tensors, first 'layers\.1\.mlp\.up_proj\.weight'"
    ):
        params.load(tmp_path, model.table, mesh)
    save_file({**stored, "norm.weight": stored["norm.weight"][:3]}, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"'norm\.weight' has the shape \[3\]; expected \[32\]"):
        params.load(tmp_path, model.table, mesh)
    config = read_config(llama)
    with pytest.raises(ArtifactError, match="found 'mamba'; expected one of bert"):
        build({**config, "model_type": "mamba"})
    with pytest.raises(ArtifactError, match="longrope"):
        build({**config, "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}})
    with pytest.raises(ArtifactError, match="quantization_config"):
        build({**config, "quantization_config": {"quant_method": "fp8"}})


def test_random_parameters_are_made_in_their_shards(llama):
    model, mesh = build(read_config(llama)), make_mesh(data=1, fsdp=4, tensor=2)
    made = params.random(jax.random.key(0), model.table, mesh, jnp.bfloat16)
    places = shardings(model.table, mesh)
    assert all(made[name].sharding.is_equivalent_to(places[name], made[name].ndim) for name in model.table)
    assert params.count(model.table) == sum(value.size for value in made.values())


def test_meshes():
    assert dict(make_mesh(data=2, fsdp=-1, tensor=2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    with pytest.raises(TevaError, match="does not fit 8 devices"):
        make_mesh(data=3, fsdp=-1)
    with pytest.raises(TevaError, match="of which one may be -1"):
        make_mesh(data=-1, fsdp=-1)
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    assert sharding(("batch", "length", "heads"), mesh).spec == jax.P(("data", "fsdp"), None, "tensor")
    # What does not divide stays whole; what is unknown is an error.
    assert sharding(("heads", "embed"), mesh, (6, 7)).spec == jax.P("tensor", None)
    with pytest.raises(TevaError, match=r"unknown axis 'haeds'\. Did you mean 'heads'"):
        sharding(("haeds",), mesh)
    with pytest.raises(TevaError, match="one name for each axis"):
        shardings({"x": Spec((2, 2), ("embed",))}, mesh)

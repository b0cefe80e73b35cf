"""LoRA beside PEFT: what is drawn, what it computes, and its files in both directions."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from tests.torch.backbones import make

import jax
import torch
from teva_data.errors import ArtifactError, RecipeError
from teva_jax import LoraSettings, Retriever, lora, make_mesh
from teva_jax.adapters import from_peft, read_settings, to_peft
from teva_jax.mesh import shardings

IDS = [[3, 5, 9, 11, 20, 21, 8, 30], [3, 12, 2]]
SETTINGS = LoraSettings(rank=4, alpha=12)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make(tmp_path_factory.mktemp("llama"), "Llama")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make(tmp_path_factory.mktemp("bert"), "Bert")


def _loaded(path, settings, **options):
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    return (*Retriever.load(path, mesh, pooling="mean", normalize=False, lora=settings, **options), mesh)


def _random(retriever, settings, mesh):
    """An adapter that does something: both factors drawn."""
    table = lora.table(retriever.model.table, settings)
    draw = np.random.default_rng(0)
    places = shardings(table, mesh)
    return {
        name: jax.device_put(draw.normal(0, 0.3, spec.shape).astype(np.float32), places[name])
        for name, spec in table.items()
    }


def _embed(retriever, params, adapter, key=None):
    ids = np.zeros((2, 8), np.int32)
    for row, tokens in enumerate(IDS):
        ids[row, : len(tokens)] = tokens
    return np.asarray(jax.jit(retriever.embed)(params, adapter, ids, np.array([8, 3], np.int32), key))


def _peft(path, adapter):
    from peft import PeftModel
    from transformers import AutoModel

    return PeftModel.from_pretrained(AutoModel.from_pretrained(path), str(adapter)).eval()


def _torch(model):
    with torch.no_grad():
        return np.stack([model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0).numpy() for ids in IDS])


def test_a_new_adapter_is_drawn_as_peft_draws_it(llama):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    retriever, params, _ = _loaded(llama, SETTINGS)
    ours = lora.init(jax.random.key(0), retriever.model.table, SETTINGS)
    theirs = get_peft_model(
        AutoModel.from_pretrained(llama), LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "down_proj"])
    )
    for name, width in (("self_attn.q_proj", 32), ("mlp.down_proj", 64)):
        drawn = np.asarray(ours[f"layers.*.{name}.lora_A.weight"])
        peer = theirs.get_parameter(f"base_model.model.layers.0.{name}.lora_A.default.weight").detach().numpy()
        bound = 1 / width**0.5
        assert peer.shape == drawn.shape[1:]
        for each in (drawn, peer):
            assert np.abs(each).max() <= bound
            assert each.std() == pytest.approx(bound / 3**0.5, rel=0.2)
        assert not np.asarray(ours[f"layers.*.{name}.lora_B.weight"]).any()
    np.testing.assert_array_equal(_embed(retriever, params, ours), _embed(retriever, params, None))


@pytest.mark.parametrize("rslora", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_peft_loads_what_is_written_and_gives_the_same_vectors(llama, tmp_path, rslora):
    settings = dataclasses.replace(SETTINGS, rslora=rslora, targets=("q_proj", "v_proj", "up_proj"))
    retriever, params, mesh = _loaded(llama, settings)
    adapter = _random(retriever, settings, mesh)
    beside = _embed(retriever, params, adapter)
    to_peft(tmp_path / "adapter", adapter, settings, base=str(llama))
    model = _peft(llama, tmp_path / "adapter")
    factors = [value for name, value in model.named_parameters() if "lora_B" in name]
    assert len(factors) == 3 * retriever.model.depth
    assert all(value.abs().max() > 0 for value in factors)
    np.testing.assert_allclose(beside, _torch(model), atol=1e-5)
    with model.disable_adapter():
        assert np.abs(beside - _torch(model)).max() > 0.01
    # Merged, it is the same function.
    merged = lora.merge(params, adapter, settings)
    np.testing.assert_allclose(_embed(retriever, merged, None), beside, atol=1e-5)
    one = lora.merge_tensor(
        "layers.*.mlp.up_proj.weight", 1, params["layers.*.mlp.up_proj.weight"][1], adapter, settings
    )
    np.testing.assert_allclose(one, merged["layers.*.mlp.up_proj.weight"][1], atol=1e-6)
    again, found = from_peft(tmp_path / "adapter", retriever.model.table, mesh)
    assert (found.scale, set(found.targets)) == (
        settings.scale,
        {"self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"},
    )
    assert {name: value.sharding.spec for name, value in again.items()} == {
        name: value.sharding.spec for name, value in adapter.items()
    }
    for name, value in adapter.items():
        np.testing.assert_array_equal(again[name], value)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_an_adapter_that_torch_made(name, request, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    path = request.getfixturevalue(name)
    torch.manual_seed(1)
    targets = {"llama": ["k_proj", "o_proj", "gate_proj"], "bert": ["query", "output.dense"]}[name]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, use_rslora=True)
    model = get_peft_model(AutoModel.from_pretrained(path), config).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "lora_B" in key:
                value.normal_(0, 0.3)
    model.save_pretrained(tmp_path / "adapter")
    settings = read_settings(tmp_path / "adapter")
    retriever, params, mesh = _loaded(path, settings)
    adapter, settings = from_peft(tmp_path / "adapter", retriever.model.table, mesh)
    assert settings.scale == 8 / 4**0.5
    retriever = dataclasses.replace(retriever, lora=settings)
    np.testing.assert_allclose(_embed(retriever, params, adapter), _torch(model), atol=1e-5)
    # A step of training later it goes back, into a model with a head too.
    adapter = {key: value + 0.01 for key, value in adapter.items()}
    to_peft(tmp_path / "back", adapter, settings, base=str(path))
    np.testing.assert_allclose(_torch(_peft(path, tmp_path / "back")), _embed(retriever, params, adapter), atol=1e-5)


def test_the_prefix_of_a_model_with_a_head(llama, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    retriever, params, mesh = _loaded(llama, SETTINGS)
    adapter = _random(retriever, SETTINGS, mesh)
    to_peft(tmp_path / "adapter", adapter, SETTINGS, base=str(llama), prefix="base_model.model.model.")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), str(tmp_path / "adapter"))
    assert all(value.abs().max() > 0 for name, value in model.named_parameters() if "lora_B" in name)
    np.testing.assert_allclose(_torch(model.base_model.model.model), _embed(retriever, params, adapter), atol=1e-5)
    again, _ = from_peft(tmp_path / "adapter", retriever.model.table, mesh)
    assert again.keys() == adapter.keys()


def test_what_is_refused(llama, tmp_path):
    retriever, _, mesh = _loaded(llama, SETTINGS)
    table = retriever.model.table
    with pytest.raises(RecipeError, match=r"no linear layer is called 'q_porj'\. Did you mean 'q_proj'"):
        lora.table(table, LoraSettings(targets=("q_porj",)))
    fresh = lora.init(jax.random.key(0), table, SETTINGS)
    with pytest.raises(ArtifactError, match="all zero"):
        to_peft(tmp_path / "zero", fresh, SETTINGS, base="x")
    assert not (tmp_path / "zero").exists()
    adapter = _random(retriever, SETTINGS, mesh)
    to_peft(tmp_path / "one", adapter, SETTINGS, base="x")
    with pytest.raises(ArtifactError, match="no tensor's name fits the model"):
        from_peft(tmp_path / "one", _loaded_table(tmp_path), mesh)
    config = json.loads((tmp_path / "one/adapter_config.json").read_text())
    for key, value in (("use_dora", True), ("rank_pattern", {"q_proj": 2}), ("bias", "all")):
        (tmp_path / "one/adapter_config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(ArtifactError, match=f"field '{key}'"):
            from_peft(tmp_path / "one", table, mesh)
    (tmp_path / "one/adapter_config.json").write_text(json.dumps({**config, "r": 8}))
    with pytest.raises(ArtifactError, match="found the shape"):
        from_peft(tmp_path / "one", table, mesh)


def _loaded_table(directory):
    return _loaded(make(directory / "bert", "Bert"), None)[0].model.table


def test_dropout_is_a_function_of_its_key(llama):
    settings = dataclasses.replace(SETTINGS, dropout=0.5)
    retriever, params, mesh = _loaded(llama, settings)
    adapter = _random(retriever, settings, mesh)
    one, two = (_embed(retriever, params, adapter, jax.random.key(key)) for key in (0, 1))
    np.testing.assert_array_equal(one, _embed(retriever, params, adapter, jax.random.key(0)))
    assert np.abs(one - two).max() > 1e-3
    assert np.abs(one - _embed(retriever, params, adapter)).max() > 1e-3

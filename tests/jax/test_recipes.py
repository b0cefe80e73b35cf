"""Every shipped recipe is parsed, planned, and run for two steps on a tiny model of its own architecture."""

from __future__ import annotations

import pytest
from tests.conftest import make_tiny_data
from tests.torch import backbones

import jax
from teva_data.recipe import load_recipe
from teva_jax import training
from teva_jax.cli import main
from teva_jax.plan import collectives, plan
from teva_jax.recipe import JaxSection, read_recipe, shipped
from teva_jax.training import train

MODELS = {
    "bert-msmarco": "Bert",
    "e5-base-msmarco": "Bert",
    "mistral-7b-msmarco": "Mistral",
    "repllama-llama31-8b": "Llama",
}


def test_all_are_here():
    assert set(shipped()) == set(MODELS)
    for name, file in shipped().items():
        # The first line is what `recipes list` tells, and both trainers can read each other's files.
        assert file.read_text().startswith("# ")
        assert load_recipe(file).to_dict()["jax"], name
        assert JaxSection.model_validate(read_recipe(name).jax)


@pytest.mark.parametrize("name", MODELS)
def test_a_recipe_is_planned_and_runs(name, tmp_path, monkeypatch, capsys):
    data = tmp_path / "data"
    data.mkdir()
    make_tiny_data(data)
    model = backbones.make(tmp_path / "model", MODELS[name])
    monkeypatch.setattr("teva_jax.export.sentence_transformers_vectors", lambda directory, texts: None)
    of = training.mesh_of
    monkeypatch.setattr(training, "mesh_of", lambda options: of(options, jax.devices()[:2]))
    monkeypatch.setattr("teva_jax.plan.mesh_of", lambda options, devices: of(options, devices[:2]))
    words = [
        "--model.name", str(model), "--data.path", str(data), "--train.output", str(tmp_path / "run"),
        "--model.query_max_length", "12", "--model.document_max_length", "16", "--train.epochs", "null",
        "--train.steps", "2", "--train.batch_size", "4", "--train.log_every", "1", "--jax.chunk_tokens", "64",
        "--data.negatives", "2",
    ]  # fmt: skip
    assert main(["plan", name, *words]) == 0
    told = capsys.readouterr().out
    assert "GiB a device" in told
    assert ("all-" in told) or ("reduce-scatter" in told), "two devices exchange nothing"
    result = train(name, words)
    assert result.steps == 2
    if "lora" in read_recipe(name).jax and read_recipe(name).jax["lora"]:
        assert (result.artifact.path / "adapter" / "adapter_model.safetensors").is_file()


def test_a_plan_of_a_batch_that_is_not_cached_counts_what_is_kept(recipe):
    eight = {"jax.fsdp": -1}
    cached = plan(recipe, eight)
    kept = plan(recipe, {**eight, "jax.gradient_cache": False})
    assert {one.name for one in kept.programs} == {"keep", "loss", "update"}
    assert kept.peak > cached.peak
    assert kept.passes * 2 == cached.passes


def test_exchanges_in_loops_count_as_often_as_the_loop_turns():
    text = """
HloModule m

%body.1 (p: (f32[4])) -> (f32[4]) {
  %g = f32[8,2]{1,0} all-gather(%x), dimensions={0}
}

ENTRY %main.2 (a: f32[4]) -> f32[4] {
  %w = (f32[4]) while(%t), condition=%cond.1, body=%body.1, backend_config={"known_trip_count":{"n":"5"}}
  %r = bf16[4] all-reduce(%y), to_apply=%add
  %s = f32[2] all-reduce-start(%y), to_apply=%add
}
"""
    assert collectives(text) == ({"all-gather": 5, "all-reduce": 2}, 5 * 64 + 8 + 8)

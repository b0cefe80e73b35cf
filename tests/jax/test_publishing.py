"""`teva-jax export`: of a checkpoint, of a model in another layout, of an artifact."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from teva_data.artifact import Artifact
from teva_data.errors import TevaError
from teva_data.parity import ParityError
from teva_jax.cli import main
from teva_jax.publishing import export_model
from teva_jax.training import train


@pytest.fixture
def alone(monkeypatch):
    """Without a peer beside it: test_export has that, and it takes long."""
    monkeypatch.setattr("teva_jax.export.sentence_transformers_vectors", lambda directory, texts: None)


def test_a_checkpoint(recipe, alone, capsys):
    recipe["jax"] |= {"lora": {"rank": 4}, "fsdp": 2, "data": 2, "tensor": 2}
    recipe["train"] |= {"steps": 2, "keep_checkpoints": 2}
    result = train(recipe)
    checkpoint = result.output / "checkpoints" / "step_00000002"
    assert main(["export", str(checkpoint)]) == 0
    artifact = Artifact.load(result.output / "artifact-step_00000002")
    assert str(artifact.path) in capsys.readouterr().out
    trained, again = (load_file(each.path / "model.safetensors") for each in (result.artifact, artifact))
    assert trained.keys() == again.keys()
    for name, value in trained.items():
        np.testing.assert_array_equal(again[name], value)
    assert artifact.teva["steps"] == 2
    assert artifact.teva["run"] == result.artifact.teva["run"]
    assert (artifact.path / "adapter/adapter_model.safetensors").is_file()
    # What is not where its run wrote it is told; and so is a base that is another by now.
    shutil.copytree(checkpoint, result.output.parent / "elsewhere/checkpoints/step_00000002")
    with pytest.raises(TevaError, match=r"no .*recipe\.yaml"):
        export_model(result.output.parent / "elsewhere/checkpoints/step_00000002")
    assert (result.output / "checkpoints/step_00000002").is_dir()


def test_a_model_and_an_artifact(tiny_model, bare_model, tmp_path, alone):
    with pytest.raises(TevaError, match="say where to write one"):
        export_model(bare_model)
    artifact = export_model(tiny_model, tmp_path / "artifact")
    one, two = (load_file(path / "model.safetensors") for path in (tiny_model, artifact.path))
    assert all((one[name] == two[name]).all() for name in one)
    assert set(artifact.teva["parity"]) == {"teva-jax"}
    assert export_model(artifact.path).path == artifact.path
    with pytest.raises(ParityError):
        export_model(artifact.path, threshold=1.1)


def test_a_dry_run_of_a_push(tiny_model, tmp_path, alone, capsys):
    words = ["export", str(tiny_model), "--output", str(tmp_path / "artifact"), "--push", "me/small", "--dry-run"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "model.safetensors" in told
    assert "me/small" in told
    assert "not uploaded" in told

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from teva_torch.cli import main
from teva_torch.init import SECTIONS
from teva_torch.recipe import read_recipe, shipped


def test_help_names_every_key(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out.replace("\n", " ")
    for name, section in SECTIONS.items():
        for key in section.model_fields:
            assert f"--{name}.{key}" in text


def test_help_does_not_import_torch():
    code = (
        "import sys\nfrom teva_torch.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_init_writes_a_recipe_that_trains(tiny_data, tiny_model, tmp_path, capsys):
    assert main(["init", "--data", str(tiny_data), "--model", str(tiny_model), "--output", str(tmp_path / "run")]) == 0
    text = capsys.readouterr().out
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    recipe = read_recipe(file)
    assert (recipe.data.negatives, recipe.model.query_max_length) == (6, 16)
    for name, section in SECTIONS.items():
        for key in section.model_fields:
            assert f"{key}:" in text, f"{name}.{key}"
    words = ["--train.batch_size", "8", "--train.epochs", "0.5", "--torch.device=cpu"]
    assert main(["train", str(file), *words]) == 0
    assert "artifact" in capsys.readouterr().out
    assert yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())["train"]["batch_size"] == 8


def test_errors_have_no_traceback(tmp_path, capsys):
    assert main(["train", str(tmp_path / "none.yaml")]) == 1
    assert "teva-torch: error:" in capsys.readouterr().err
    assert main(["recipes", "show", "minilm-medquat"]) == 1
    assert "Did you mean 'minilm-medquad'" in capsys.readouterr().err


def test_every_shipped_recipe_is_valid(capsys):
    assert main(["recipes", "list"]) == 0
    listed = capsys.readouterr().out
    assert shipped()
    for name in shipped():
        assert name in listed
        assert read_recipe(name).train.output == f"runs/{name}"

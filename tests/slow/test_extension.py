"""`examples/extension` beside teva's own wheels, in an environment that has nothing of the repository.

What it adds is found by entry point and used through teva's commands; teva's packages stay untouched.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests.conftest import make_tiny_bert, make_tiny_data, write_jsonl
from tests.docs_blocks import ROOT

pytestmark = pytest.mark.slow
PACKAGES = ("teva_data", "teva_torch", "teva_infer", "teva_eval")


def run(*words: str | Path, where: Path, path: Path | None = None, expect: int = 0) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    if path is not None:
        environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        [str(word) for word in words], cwd=where, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == expect, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The directory with the commands of a clean environment: wheels of teva and of the extension."""
    work = tmp_path_factory.mktemp("installed")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
    for name in PACKAGES:
        run(
            "uv",
            "build",
            "--quiet",
            "--wheel",
            "--package",
            name.replace("_", "-"),
            "--out-dir",
            work / "dist",
            where=ROOT,
        )
    # From a copy outside of the repository, as another project's would be.
    shutil.copytree(ROOT / "examples" / "extension", work / "extension")
    run("uv", "build", "--quiet", "--no-config", "--wheel", "--out-dir", work / "dist", work / "extension", where=work)
    constraints = work / "constraints.txt"
    constraints.write_text("\n".join(settings["constraint-dependencies"]))
    environment = work / "environment"
    run("uv", "venv", "--quiet", "--python", sys.executable, environment, where=work)
    wheels = sorted((work / "dist").glob("*.whl"))
    assert len(wheels) == len(PACKAGES) + 1
    run(
        "uv", "pip", "install", "--quiet", "--no-config", "--python", environment, "--constraints", constraints,
        "--exclude-newer", settings["exclude-newer"], *wheels, where=work,
    )  # fmt: skip
    return environment / "bin"


def fingerprints(scripts: Path) -> dict[str, str]:
    """Of every file of teva's installed packages that Python reads."""
    (site,) = (scripts.parent / "lib").glob("python*/site-packages")
    files = [file for name in PACKAGES for file in sorted((site / name).rglob("*")) if file.suffix in (".py", ".yaml")]
    assert len(files) > 100
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


COMPARE = """
import torch
from teva_data import Artifact, Dataset, Embeddings, Renderer
from teva_torch import Retriever

artifact = Artifact.load("run/artifact")
document = Dataset.open("data").corpus.get([3])[0]
renderer = Renderer.from_artifact(artifact)
ids = renderer.tokenize([renderer.document(document.document_text, document.title)])[0]
with torch.no_grad():
    hidden = Retriever.load(artifact).eval().backbone(torch.tensor([ids])).last_hidden_state[0]
found = torch.from_numpy(Embeddings.open("emb/corpus").matrix()[3].copy())
cosine = torch.nn.functional.cosine_similarity
print("cosine", float(cosine((hidden[0] + hidden[-1]) / 2, found, dim=0)), float(cosine(hidden.mean(0), found, dim=0)))
"""


def test_all_that_the_extension_adds_through_the_commands(installed, tmp_path):
    def teva(*words: str | Path, expect: int = 0) -> str:
        return run(*words, where=tmp_path, path=installed, expect=expect)

    before = fingerprints(installed)
    model, data = tmp_path / "model", tmp_path / "data"
    model.mkdir()
    data.mkdir()
    make_tiny_bert(model, layout=False)
    make_tiny_data(data)

    # The loss and the pooling: two steps, an artifact that says so.
    (tmp_path / "recipe.yaml").write_text(
        f"model: {{name: {model}, pooling: ends, document_max_length: 32}}\n"
        f"data: {{path: {data}, negatives: 2}}\n"
        "loss: {name: triplet, options: {margin: 0.3}}\n"
        "train: {output: run, steps: 2, batch_size: 8, learning_rate: 1.0e-3, log_every: 1}\n"
    )
    teva("teva-torch", "train", "recipe.yaml")
    record = json.loads((tmp_path / "run/artifact/teva.json").read_text())
    assert (record["recipe"]["model"]["pooling"], record["recipe"]["loss"]["name"]) == ("ends", "triplet")
    assert set(record["parity"]) == {"teva-torch"}
    told = teva("teva-torch", "train", "recipe.yaml", "--loss.options.margin", "0", "--train.output", "other", expect=1)
    assert "loss.options.margin" in told

    # The vectors of the artifact are those of the pooling, not of one of teva's own.
    teva("teva-infer", "encode", "run/artifact", data, "--output", "emb/corpus")
    teva("teva-infer", "encode", "run/artifact", data, "--split", "test", "--output", "emb/test")
    told = teva("python", "-c", COMPARE)
    cosine, to_mean = map(float, told.rsplit("cosine", 1)[1].split())
    assert cosine > 0.99999 > to_mean

    # Runtimes that pool by themselves are told apart.
    assert "PROBLEM: the pooling 'ends'" in teva("teva-infer", "deploy", "run/artifact", expect=1)
    assert "same" in teva("teva-infer", "verify", "run/artifact", "--engines", "torch")

    # The index: built in parts, and with every document a candidate equal to exact search.
    teva("teva-infer", "index", "emb/corpus", "--output", "emb/sketch", "--kind", "sketch", "--setting", "width=16",
         "--part-rows", "25")  # fmt: skip
    side = ("--queries", "emb/test", "--corpus", "emb/corpus", "--depth", "10")
    teva("teva-infer", "search", *side, "--output", "exact.tsv")
    teva("teva-infer", "search", *side, "--index", "emb/sketch", "--knob", "oversample=6", "--output", "sketch.tsv")
    assert (tmp_path / "sketch.tsv").read_text() == (tmp_path / "exact.tsv").read_text() != ""

    # The dataset and the benchmark, from a copy of repositories that no hub has.
    copies = tmp_path / "copies"
    make_colours(copies)
    assert "colours" in teva("teva-data", "datasets", "list")
    teva("teva-data", "convert", "colours", "data-colours", "--local", copies / "colours")
    assert len((tmp_path / "data-colours/corpus.jsonl").read_text().splitlines()) == 4
    assert "palette" in teva("teva-eval", "benchmarks")
    teva("teva-eval", "run", "--benchmark", "palette", "--model", "mine=run/artifact", "--data", copies,
         "--output", "results")  # fmt: skip
    result = json.loads((tmp_path / "results/mine/colours/result.json").read_text())
    assert set(result["scores"]) == {"nDCG@10", "R@10"}
    assert result["scores"]["R@10"] == 1.0  # four documents, all of them found
    told = teva("teva-data", "convert", "colour", "x", "--local", copies / "colours", expect=1)
    assert "no such dataset is declared" in told
    assert "'colours'" in told
    assert "'palette'" in teva("teva-eval", "benchmarks", "palete", expect=1)

    assert fingerprints(installed) == before, "teva's packages were changed"


def make_colours(directory: Path) -> None:
    """The declared repositories: queries with two splits, and the corpus."""
    colours = ["red", "blue", "green", "copper"]
    rows = [
        {
            "query_id": f"q{n}", "query_text": f"what is {colour}", "positive_document_ids": [f"d{n}"],
            "negative_document_ids": [f"d{(n + 1) % 4}"],
        }
        for n, colour in enumerate(colours)
    ]  # fmt: skip
    for folder in ("colours", "colours-corpus"):
        (directory / "colours" / folder).mkdir(parents=True)
    write_jsonl(directory / "colours" / "colours" / "train.jsonl", rows)
    write_jsonl(
        directory / "colours" / "colours" / "test.jsonl",
        [{**row, "query_id": f"t{n}"} for n, row in enumerate(rows[:2])],
    )
    write_jsonl(
        directory / "colours" / "colours-corpus" / "train.jsonl",
        [{"docid": f"d{n}", "text": f"{colour} is a colour"} for n, colour in enumerate(colours)],
    )

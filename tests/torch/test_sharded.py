"""Models held in parts by two real processes (FSDP2, ZeRO): gradients, runs, checkpoints, artifacts of one process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from benchmarks import gradients
from safetensors.torch import load_file

from teva_data.errors import RecipeError
from teva_data.metrics import read_metrics
from teva_torch import checkpoint
from teva_torch.distributed import Processes
from teva_torch.recipe import TorchSection
from teva_torch.strategies import choose
from teva_torch.strategies.zero import settings_of
from teva_torch.training import train

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
STEPS = 8


@pytest.mark.parametrize(
    "strategy",
    ["fsdp2", "zero3", *(pytest.param(name, marks=pytest.mark.slow) for name in ("zero1", "zero2", "zero3-offload"))],
)
def test_gradients_and_loss_are_those_of_one_process_without_caching(strategy, tmp_path):
    data = gradients.make_data(tmp_path / "data")
    found = gradients.by_processes(2, data, tmp_path / "out.safetensors", strategy)
    for case in gradients.sharded_cases():
        mine = found[case.name]
        loss = float(mine.pop("loss"))
        expected = gradients.plainly(case.alone, data)
        assert gradients.relative_difference(mine, expected)[0] < 1e-5, case.name
        assert loss == pytest.approx(gradients.plain_loss(case.alone, data), rel=1e-5)


_JOBS = """
import json, shutil, sys
from pathlib import Path
from teva_torch.distributed import join
from teva_torch.training import train

work = Path(sys.argv[1])
with join("cpu", 120, alone=True) as processes:
    for name, job in json.loads((work / sys.argv[2]).read_text()).items():
        output = Path(job["train"]["output"])
        if "resumed" in name and processes.main:
            shutil.copytree(output.parent / name.split(" resumed")[0], output)
            shutil.rmtree(output / "artifact")
            shutil.rmtree(output / "checkpoints/step-00000008")
        processes.wait()
        train(job)
"""


def _recipe(work, model, data, name, **torch_keys):
    return {
        "model": {"name": str(model), "query_max_length": 8, "document_max_length": 16, "pooling": "mean"},
        "data": {"path": str(data), "negatives": 2},
        "train": {
            "output": str(work / name), "steps": STEPS, "batch_size": 8, "learning_rate": 1e-3, "log_every": 1,
            "save_every": 4, "eval_every": 4, "eval_split": "test",
        },
        "torch": {"device": "cpu", "chunk_tokens": 64, **torch_keys},
    }  # fmt: skip


FSDP2, ZERO3, ZERO1 = {"strategy": "fsdp2"}, {"strategy": "deepspeed"}, {"strategy": "deepspeed", "deepspeed": "zero1"}


@pytest.fixture(scope="module")
def runs(tiny_model, tiny_data, tmp_path_factory):
    """What two processes have trained, and what one has gone on with."""
    work = tmp_path_factory.mktemp("sharded")
    still = shutil.copytree(tiny_model, work / "still")
    config = json.loads((still / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (still / "config.json").write_text(json.dumps(config))
    train(_recipe(work, still, tiny_data, "alone"))
    two, one = {}, {}
    for name, keys in {"fsdp2": FSDP2, "zero3": ZERO3, "zero1": ZERO1}.items():
        two[name] = _recipe(work, still, tiny_data, name, **keys)
        two[f"{name} resumed"] = _recipe(work, still, tiny_data, f"{name} resumed", **keys)
        one[f"{name} resumed by one"] = _recipe(work, still, tiny_data, f"{name} resumed by one", **keys)
    # Dropout draws by process; with it a resumed run must still be the same run.
    two["dropout"] = _recipe(work, tiny_model, tiny_data, "dropout", **FSDP2, gradient_cache=True)
    two["dropout resumed"] = _recipe(work, tiny_model, tiny_data, "dropout resumed", **FSDP2, gradient_cache=True)
    two["lora"] = _recipe(work, still, tiny_data, "lora", **FSDP2, lora={"rank": 4}, gradient_cache=True)
    two["lora zero3"] = _recipe(work, still, tiny_data, "lora zero3", **ZERO3, lora={"rank": 4}, gradient_cache=True)
    one["fsdp2 resumed without parts"] = _recipe(work, still, tiny_data, "fsdp2 resumed without parts")
    for jobs, command in ((two, TORCHRUN), (one, [sys.executable])):
        (work / "jobs.json").write_text(json.dumps(jobs))
        (work / "jobs.py").write_text(_JOBS)
        line = [*command, str(work / "jobs.py"), str(work), "jobs.json"]
        done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return work


def _losses(run):
    return [row["loss"] for row in read_metrics(run / "metrics.jsonl")]


def _weights(run):
    return load_file(run / "artifact/model.safetensors")


@pytest.mark.parametrize("name", ["fsdp2", "zero3", "zero1"])
def test_a_run_in_parts_is_the_run_of_one_process(runs, name):
    assert _losses(runs / name) == pytest.approx(_losses(runs / "alone"), rel=1e-5)
    alone = _weights(runs / "alone")
    whole = sum(float(value.square().sum()) for value in alone.values()) ** 0.5
    for key, value in _weights(runs / name).items():
        # BERT's key biases have no gradient: AdamW makes steps of its rounding.
        assert float((value - alone[key]).norm() / (alone[key].norm() + 1e-3 * whole)) < 1e-3, key
    measured = [[row["nDCG@10"] for row in read_metrics(runs / one / "metrics.jsonl")[3::4]] for one in ("alone", name)]
    assert measured[0] == pytest.approx(measured[1], abs=1e-3)


@pytest.mark.parametrize("name", ["fsdp2", "zero3", "zero1", "dropout"])
def test_a_resumed_run_has_the_same_weights_to_the_bit(runs, name):
    whole, resumed = _weights(runs / name), _weights(runs / f"{name} resumed")
    assert all(bool((value == resumed[key]).all()) for key, value in whole.items())
    assert _losses(runs / name) == _losses(runs / f"{name} resumed")


@pytest.mark.parametrize(
    "name", ["fsdp2 resumed by one", "zero3 resumed by one", "zero1 resumed by one", "fsdp2 resumed without parts"]
)
def test_another_number_of_processes_or_another_strategy_goes_on_with_the_same_losses(runs, name):
    assert "going on after step 4" in (runs / name / "train.log").read_text()
    assert _losses(runs / name) == pytest.approx(_losses(runs / "alone"), rel=1e-5)


def test_each_process_writes_a_part_of_a_checkpoint(runs):
    path = checkpoint.latest_checkpoint(runs / "fsdp2/checkpoints")
    parts = [set(load_file(path / f"model-{n:05}-of-00002.safetensors")) for n in (1, 2)]
    assert all(parts)
    assert not parts[0] & parts[1]


@pytest.mark.parametrize("name", ["fsdp2", "zero3", "lora", "lora zero3"])
def test_the_artifact_gives_its_vectors_in_sentence_transformers(runs, name):
    teva = json.loads((runs / name / "artifact/teva.json").read_text())
    assert teva["parity"]["sentence-transformers"]["min_cosine"] > 0.99999
    from sentence_transformers import SentenceTransformer

    vectors = SentenceTransformer(str(runs / name / "artifact"), device="cpu").encode(["red river", "fast engine"])
    assert np.isfinite(vectors).all()
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)


def test_settings_that_do_not_go_together_are_refused(tmp_path):
    two = Processes(0, 2, 0)
    assert choose(TorchSection(), two) == "ddp"
    assert choose(TorchSection(), Processes()) == "single"
    with pytest.raises(RecipeError, match="torchrun started 2 processes"):
        choose(TorchSection(strategy="single"), two)
    with pytest.raises(RecipeError, match=r"torch\.optimizer: adamw_8bit does not go with"):
        choose(TorchSection(strategy="fsdp2", optimizer="adamw_8bit"), two)
    with pytest.raises(RecipeError, match=r"no file, and no preset.*zero3"):
        settings_of("zero33")
    file = tmp_path / "mine.json"
    file.write_text('{"gradient_clipping": 1.0, "zero_optimization": {"stage": 1}}')
    with pytest.raises(RecipeError, match=r"'gradient_clipping' is what train\.max_grad_norm"):
        settings_of(str(file))
    file.write_text('{"gradient_clipping": "auto", "zero_optimization": {"stage": 1}}')
    assert settings_of(str(file)) == {"zero_optimization": {"stage": 1}}
    file.write_text("[")
    with pytest.raises(RecipeError, match="not JSON"):
        settings_of(str(file))

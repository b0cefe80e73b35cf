"""Models held in parts that are killed and go on, in bfloat16, under ZeRO-0; long, so not in the short tier."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file
from tests.torch.test_sharded import _JOBS, _losses, _recipe, _weights

import torch
from teva_data.artifact import Artifact
from teva_torch import checkpoint
from teva_torch.model import Retriever

# Each start of two processes takes a while, and there are many.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
STEPS = 12

# The processes tell who they are, so that they can be killed: torchrun gives each a session of its own.
_RUN = """
import json, os, sys
from pathlib import Path
from teva_torch.training import train

work = Path(sys.argv[1])
(work / f"pid-{os.environ.get('RANK', '0')}").write_text(str(os.getpid()))
train(json.loads((work / "job.json").read_text()))
"""


def _start(work, processes):
    (work / "run.py").write_text(_RUN)
    command = TORCHRUN if processes == 2 else [sys.executable]
    with (work / "out.txt").open("w") as out:
        line = [*command, str(work / "run.py"), str(work)]
        return subprocess.Popen(line, env=ENVIRONMENT, stdout=out, stderr=out, start_new_session=True)


def _finish(work, processes):
    started = _start(work, processes)
    assert started.wait(timeout=1500) == 0, (work / "out.txt").read_text()[-3000:]


def _kill_after_a_checkpoint(work, output):
    """Kill -9 all processes once a checkpoint of step 4 or later is there."""
    started = _start(work, 2)
    deadline = time.monotonic() + 1500
    while checkpoint.latest_checkpoint(output / "checkpoints") is None:
        assert started.poll() is None, (work / "out.txt").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for rank in (1, 0):
        os.kill(int((work / f"pid-{rank}").read_text()), signal.SIGKILL)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    assert not (output / "artifact").exists()
    done = int(checkpoint.latest_checkpoint(output / "checkpoints").name.partition("-")[2])
    assert 0 < done < STEPS
    return done


@pytest.fixture(scope="module")
def still(tiny_model, tmp_path_factory):
    """The tiny model without dropout, which draws by process."""
    directory = shutil.copytree(tiny_model, tmp_path_factory.mktemp("still") / "model")
    config = json.loads((directory / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("keys", [{"strategy": "deepspeed"}, {"strategy": "fsdp2", "gradient_cache": True}])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(keys, still, tiny_data, tmp_path):
    works = {name: tmp_path / name for name in ("whole", "killed", "alone")}
    recipes = {}
    for name, work in works.items():
        work.mkdir()
        recipes[name] = _recipe(work, still, tiny_data, "run", **keys)
        recipes[name]["train"] |= {"steps": STEPS, "keep_checkpoints": 10, "eval_every": None}
        (work / "job.json").write_text(json.dumps(recipes[name]))
    _finish(works["whole"], 2)
    done = _kill_after_a_checkpoint(works["killed"], works["killed"] / "run")
    shutil.copytree(works["killed"] / "run", works["alone"] / "run")

    _finish(works["killed"], 2)
    assert f"going on after step {done} of {STEPS}" in (works["killed"] / "run/train.log").read_text()
    whole, again = _weights(works["whole"] / "run"), _weights(works["killed"] / "run")
    assert whole.keys() == again.keys()
    assert all(bool((value == again[key]).all()) for key, value in whole.items())
    assert _losses(works["killed"] / "run") == _losses(works["whole"] / "run")

    _finish(works["alone"], 1)
    assert f"going on after step {done} of {STEPS}" in (works["alone"] / "run/train.log").read_text()
    assert _losses(works["alone"] / "run") == pytest.approx(_losses(works["whole"] / "run"), rel=1e-5)


KINDS = {
    "zero0": {"strategy": "deepspeed", "deepspeed": "zero0"},
    "zero1": {"strategy": "deepspeed", "deepspeed": "zero1"},
    "zero3": {"strategy": "deepspeed"},
    "fsdp2": {"strategy": "fsdp2"},
}
HALF = ("zero0", "zero1", "zero3", "fsdp2")


@pytest.fixture(scope="module")
def runs(still, tiny_data, tmp_path_factory):
    """What two processes have trained: ZeRO-0 in float32, and in bfloat16 each way to hold a model."""
    work = tmp_path_factory.mktemp("parts")
    one = {"alone": _recipe(work, still, tiny_data, "alone")}
    two = {"zero0": _recipe(work, still, tiny_data, "zero0", **KINDS["zero0"], gradient_cache=True)}
    two["zero0 resumed"] = _recipe(work, still, tiny_data, "zero0 resumed", **KINDS["zero0"], gradient_cache=True)
    for name in HALF:
        two[f"{name} half"] = _recipe(work, still, tiny_data, f"{name} half", **KINDS[name])
        two[f"{name} half"]["train"]["precision"] = "bfloat16"
    for name in ("zero3", "fsdp2"):
        two[f"{name} lora"] = _recipe(work, still, tiny_data, f"{name} lora", **KINDS[name], lora={"rank": 4})
    one["pair"] = _recipe(work, still, tiny_data, "pair")
    two["pair fsdp2"] = _recipe(work, still, tiny_data, "pair fsdp2", **KINDS["fsdp2"], gradient_cache=True)
    for job in (one["pair"], two["pair fsdp2"]):
        job["model"]["tied"] = False
    (work / "jobs.py").write_text(_JOBS)
    for jobs, command in ((one, [sys.executable]), (two, TORCHRUN)):
        (work / "jobs.json").write_text(json.dumps(jobs))
        line = [*command, str(work / "jobs.py"), str(work), "jobs.json"]
        done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, timeout=1500, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return work


def test_zero_0_is_the_run_of_one_process_and_resumes_to_the_bit(runs):
    assert _losses(runs / "zero0") == pytest.approx(_losses(runs / "alone"), rel=1e-5)
    whole, resumed = _weights(runs / "zero0"), _weights(runs / "zero0 resumed")
    assert all(bool((value == resumed[key]).all()) for key, value in whole.items())


@pytest.mark.parametrize("name", HALF)
def test_bfloat16_keeps_float32_masters_and_learns_as_float32_does(runs, name):
    run = runs / f"{name} half"
    assert _losses(run) == pytest.approx(_losses(runs / "alone"), rel=0.03)
    assert _losses(run) != _losses(runs / "alone")
    path = checkpoint.latest_checkpoint(run / "checkpoints")
    stored = {}
    for file in path.glob("*.safetensors"):
        stored |= load_file(file)
    floating = {key: value for key, value in stored.items() if value.is_floating_point()}
    assert {value.dtype for value in floating.values()} == {torch.float32}
    # Masters hold what bfloat16 cannot.
    weights = [value for key, value in floating.items() if key.endswith("weight") and value.ndim == 2]
    assert any(bool((value != value.bfloat16().float()).any()) for value in weights)


@pytest.mark.parametrize("name", ["zero3", "fsdp2"])
def test_a_merged_adapter_gives_the_vectors_of_the_unmerged_one(runs, name, still):
    expect_merged(runs / f"{name} lora" / "artifact", still)


def expect_merged(artifact, base):
    """The artifact's vectors are those of the base with the adapter beside it, and not those of the base."""
    import peft
    from transformers import AutoModel

    ids = [[2, 5, 9, 3], [2, 7, 3], [2, 11, 4, 8, 6, 3]]

    @torch.no_grad()
    def vectors(backbone=None):
        model = Retriever.load(Artifact.load(artifact)).eval()
        model.backbone = model.backbone if backbone is None else backbone.eval()
        return model.encode(ids, chunk_tokens=64)

    adapted = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(str(base)), str(artifact / "adapter"))
    merged, unmerged, without = vectors(), vectors(adapted), vectors(AutoModel.from_pretrained(str(base)))
    assert float((merged - unmerged).abs().max()) < 1e-5
    assert float((unmerged - without).abs().max()) > 1e-4


def test_a_pair_of_encoders_in_parts_is_the_pair_of_one_process(runs):
    assert _losses(runs / "pair fsdp2") == pytest.approx(_losses(runs / "pair"), rel=1e-5)
    assert _losses(runs / "pair") != _losses(runs / "alone")
    for role in ("query", "document"):
        whole, parts = (
            load_file(runs / name / f"artifact/{role}/model.safetensors") for name in ("pair", "pair fsdp2")
        )
        size = sum(float(value.square().sum()) for value in whole.values()) ** 0.5
        for key, value in whole.items():
            assert float((value - parts[key]).norm() / (value.norm() + 1e-3 * size)) < 1e-3, key

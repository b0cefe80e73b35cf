"""Several real processes over gloo: the batches, losses and weights of one; an error of one ends all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import torch
from teva_data.metrics import read_metrics
from teva_torch.distributed import Processes, join
from teva_torch.training import train

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

# Both processes run all jobs one after another; what each one raised is written down.
_JOBS = """
import json, shutil, sys
from pathlib import Path
from teva_data.errors import TevaError
from teva_torch.distributed import join
from teva_torch.training import train

work = Path(sys.argv[1])
with join("cpu", 60) as processes:
    for name, job in json.loads((work / "jobs.json").read_text()).items():
        output = Path(job["train"]["output"])
        if name.endswith("resumed") and processes.main:
            shutil.copytree(output.parent / name.removesuffix(" resumed"), output)
            shutil.rmtree(output / "artifact")
            shutil.rmtree(output / "checkpoints/step-00000012")
        processes.wait()
        try:
            train(job)
        except TevaError as error:
            (work / f"{name}.{processes.rank}.txt").write_text(f"{type(error).__name__}: {error}")
"""


def _without_dropout(model: Path, to: Path) -> Path:
    shutil.copytree(model, to)
    config = json.loads((to / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (to / "config.json").write_text(json.dumps(config))
    return to


def _weights(run: Path) -> bytes:
    return (run / "artifact/model.safetensors").read_bytes()


def _losses(run: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in read_metrics(run / "metrics.jsonl")}


@pytest.fixture(scope="module")
def jobs(tiny_model, tiny_data, tmp_path_factory):
    """Runs of two processes: name to recipe, and the directory of their outputs."""
    work = tmp_path_factory.mktemp("two-processes")
    still = _without_dropout(tiny_model, work / "still")
    bad = shutil.copytree(tiny_data, work / "bad-data", ignore=shutil.ignore_patterns(".teva"))
    lines = (bad / "corpus.jsonl").read_text().splitlines()
    lines[1] = json.dumps({"docid": "d1", "document_image": "media/a.png"})
    (bad / "media").mkdir()
    (bad / "media/a.png").write_bytes(b"not looked at")
    (bad / "corpus.jsonl").write_text("\n".join(lines) + "\n")

    def recipe(name, model=tiny_model, data=tiny_data, **train_keys):
        return {
            "model": {"name": str(model), "query_max_length": 8, "document_max_length": 16},
            "data": {"path": str(data), "negatives": train_keys.pop("negatives", 2)},
            "loss": {"temperature": 0.05},
            "train": {"output": str(work / name), "steps": 12, "batch_size": 7, "learning_rate": 1e-3,
                      "save_every": 4, "log_every": 2, **train_keys},
            "torch": {"device": "cpu", "chunk_tokens": 64},
        }  # fmt: skip

    every = {name: recipe(name) for name in ("dropout", "dropout resumed")}
    every |= {name: recipe(name, accumulate=2) for name in ("cached", "cached resumed")}
    for name in ("cached", "cached resumed"):
        every[name]["torch"]["gradient_cache"] = True
    every["still"] = recipe("still run", still)
    every["evaluated"] = recipe("evaluated", still, eval_every=4, eval_split="test", learning_rate=5e-3)
    every["one query"] = recipe("one query", still, batch_size=1, negatives=0, steps=3)
    every["bad data"] = recipe("bad data", still, bad)
    every["nan"] = recipe("nan", still, learning_rate=1e30, warmup_ratio=0)
    every["after errors"] = recipe("after errors", still, steps=2)
    (work / "jobs.json").write_text(json.dumps(every))
    (work / "jobs.py").write_text(_JOBS)
    done = subprocess.run(
        [*TORCHRUN, str(work / "jobs.py"), str(work)], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return work, every


@pytest.mark.parametrize("name", ["dropout", "cached"])
def test_resumed_with_as_many_processes_is_bit_equal(jobs, name):
    work, _ = jobs
    assert _weights(work / f"{name} resumed") == _weights(work / name)
    assert _losses(work / f"{name} resumed") == _losses(work / name)


@pytest.mark.parametrize("name", ["still", "one query"])
def test_two_processes_have_the_losses_of_one(jobs, tmp_path, name):
    # 7 queries are cut into 3 and 4; of 1 query and 1 document, process 0 has none.
    _, every = jobs
    recipe = every[name]
    two = Path(recipe["train"]["output"])
    train(recipe, {"train.output": str(tmp_path / "one")})
    one = _losses(tmp_path / "one")
    assert _losses(two) == pytest.approx(one, rel=1e-5)
    assert len(one) >= 2
    if name == "still":
        assert all(row["tokens_per_second"] > 0 for row in read_metrics(two / "metrics.jsonl"))


def test_what_two_processes_measure_is_what_one_does(jobs, tmp_path):
    work, every = jobs
    one = train(every["evaluated"], {"train.output": str(tmp_path / "one")})
    measured = [
        {row["step"]: row["nDCG@10"] for row in read_metrics(run / "metrics.jsonl") if "nDCG@10" in row}
        for run in (work / "evaluated", tmp_path / "one")
    ]
    assert measured[0] == pytest.approx(measured[1], abs=1e-6)
    assert sorted(measured[0]) == [4, 8, 12]
    assert [path.name for path in (work / "evaluated/best").iterdir()] == [f"step-{one.best['step']:08}"]


def test_resumed_with_another_number_of_processes(jobs, tmp_path):
    _, every = jobs
    run = shutil.copytree(every["still"]["train"]["output"], tmp_path / "run")
    whole = _losses(run)
    shutil.rmtree(run / "artifact")
    shutil.rmtree(run / "checkpoints/step-00000012")
    train(every["still"], {"train.output": str(run)})
    assert "going on after step 8 of 12" in (run / "train.log").read_text()
    assert _losses(run) == pytest.approx(whole, rel=1e-5)


def test_an_error_of_one_process_ends_both(jobs):
    work, _ = jobs
    told = sorted((work / f"bad data.{rank}.txt").read_text() for rank in (0, 1))
    # One of them read the document, and the other says what that one said.
    assert told[0].startswith("DataError: ")
    assert told[1].startswith("ProcessError: process ")
    assert all("corpus.jsonl:2: a document without text; found 'd1'" in one for one in told)


def test_vectors_that_are_not_finite_end_both(jobs):
    work, _ = jobs
    for rank in (0, 1):
        assert "are not finite" in (work / f"nan.{rank}.txt").read_text()
    # Both ended at one place: the next run of the same processes goes well.
    assert (work / "after errors/artifact").exists()
    assert not list(work.glob("after errors.*.txt"))


def test_the_command_line_under_torchrun(jobs, tmp_path):
    _, every = jobs
    recipe = {**every["still"], "train": {**every["still"]["train"], "output": str(tmp_path / "run"), "steps": 2}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [*TORCHRUN, "-m", "teva_torch.cli", "train", str(tmp_path / "recipe.yaml"), "--train.log_every", "1"]
    command += ["--torch.trackers", "tensorboard"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(tmp_path / "run/artifact")) == 1
    assert done.stderr.count("trainable parameters on 2 x cpu") == 1
    assert sorted(_losses(tmp_path / "run")) == [1, 2]
    assert (tmp_path / "run/train.log").read_text().count("artifact:") == 1
    assert len(list((tmp_path / "run/tensorboard").glob("events.*"))) == 1  # one process writes


# What the processes do is left to each test; all share one address.
_ALONE = """
import json, os, sys
from teva_data import feed
from teva_data.errors import TevaError
from teva_torch import cli

rank, ends = int(os.environ["RANK"]), sys.argv[2]
original = feed.Feed.batch

def batch(self, step):
    if ends == "killed" and rank == 1 and step == 3:
        os.kill(os.getpid(), 9)
    return original(self, step)

feed.Feed.batch = batch
words = ["train", sys.argv[1]]
if ends == "other seed" and rank == 1:
    words += ["--train.seed", "7"]
sys.exit(cli.main(words))
"""


def _two_alone(recipe, ends, tmp_path):
    """Two processes without torchrun, so that nobody ends one when the other does: status and errors of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "alone.py").write_text(_ALONE)
    children = []
    for rank in (0, 1):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        children.append(subprocess.Popen(
            [sys.executable, str(tmp_path / "alone.py"), str(tmp_path / "recipe.yaml"), ends],
            env=ENVIRONMENT | {key: str(value) for key, value in place.items()}, stderr=subprocess.PIPE, text=True,
        ))  # fmt: skip
    errors = [child.communicate(timeout=300)[1] for child in children]
    return [child.returncode for child in children], errors


def test_a_killed_process_ends_the_other(jobs, tmp_path):
    _, every = jobs
    recipe = {**every["still"], "train": {**every["still"]["train"], "output": str(tmp_path / "run")}}
    begin = time.monotonic()
    status, errors = _two_alone(recipe, "killed", tmp_path)
    assert status == [1, -signal.SIGKILL]
    assert "another process of the run ended" in errors[0]
    assert "Traceback" not in errors[0]
    assert time.monotonic() - begin < 100
    # What was saved stays, and goes on.
    assert train(recipe).steps == 12


def test_processes_with_different_recipes_are_refused(jobs, tmp_path):
    _, every = jobs
    recipe = {**every["still"], "train": {**every["still"]["train"], "output": str(tmp_path / "run")}}
    status, errors = _two_alone(recipe, "other seed", tmp_path)
    assert status == [1, 1]
    for error in errors:
        assert "processes 0 and 1 do not train the same: train.seed was 42, is 7" in error
    assert not (tmp_path / "run/checkpoints").exists()


def test_alone_nothing_is_exchanged(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join() as processes:
        assert (processes, processes.main) == (Processes(), True)
        assert not torch.distributed.is_initialized()
        rows = torch.arange(6.0).reshape(3, 2)
        assert torch.equal(processes.gather(rows, 3), rows)
        assert processes.totals(1.5, 2) == [1.5, 2.0]
        assert processes.texts("ü") == ["ü"]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("total", [0, 1, 5, 7, 64])
def test_spans_are_those_of_the_plan(world, total):
    spans = [Processes(rank, world).span(total) for rank in range(world)]
    assert [row for start, stop in spans for row in range(start, stop)] == list(range(total))
    assert spans == [(rank * total // world, (rank + 1) * total // world) for rank in range(world)]


def test_one_gpu_is_not_for_several_processes():
    from teva_data.errors import TevaError
    from teva_torch.device import choose_device

    with pytest.raises(TevaError, match="device 'cuda:1': found one GPU for several processes; use cuda"):
        choose_device("cuda:1", 0)
    assert choose_device("cpu", 1).type == "cpu"

"""Pictures with models that two real processes hold in parts: the gradient, and a run, of one process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from benchmarks import gradients, vision_gradients

from teva_data.metrics import read_metrics
from teva_torch.caching import Encoding, Passes
from teva_torch.distributed import Processes
from teva_torch.training import train


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return vision_gradients.make(tmp_path_factory.mktemp("vision") / "work")


def _expect_equal(found, cases, work):
    for case in cases:
        expected, loss = vision_gradients.plainly(case.model, case.trained, work)
        assert gradients.relative_difference(found[case.name][0], expected)[0] < 1e-5, case.name
        assert found[case.name][1] == pytest.approx(loss, rel=1e-5)


def test_gradients_and_loss_under_zero3_are_those_of_one_process_without_caching(work, tmp_path):
    found = vision_gradients.by_processes(2, work, tmp_path / "out.safetensors", "zero3", quick=True)
    _expect_equal(found, vision_gradients.cases(quick=True), work)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["", *gradients.STRATEGIES])
def test_all_gradients_of_two_towers(strategy, work, tmp_path):
    """A pass that has texts alone in one process and pictures alone in the other goes through both towers in both."""
    found = vision_gradients.by_processes(2, work, tmp_path / "out.safetensors", strategy, kind="towers")
    _expect_equal(found, vision_gradients.tower_cases(), work)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["", *gradients.STRATEGIES])
def test_all_gradients_and_losses_are_those_of_one_process_without_caching(strategy, work, tmp_path):
    found = vision_gradients.by_processes(2, work, tmp_path / "out.safetensors", strategy)
    _expect_equal(found, vision_gradients.cases(), work)


def test_the_processes_need_other_passes_with_pictures(work):
    """What the gradients above are equal in spite of."""
    case = vision_gradients.Case("full", "cached unequal")
    model, kinds = vision_gradients.make_model(case, work), []
    for rank in range(2):
        item, passes = vision_gradients.token_batch(case, work, Processes(rank, 2, rank)), Passes(24, full=True)
        sides = (item.query_ids, item.document_ids)
        kinds.append([Encoding(model, ids, passes, "query").passes_needed for ids in sides])
    assert kinds == [[(2, 1), (7, 6)], [(2, 2), (7, 7)]]


_JOB = """
import json, sys
from teva_torch.distributed import join
from teva_torch.training import train

with join("cpu", 120):
    for job in json.loads(sys.argv[1]):
        train(job)
"""


def _judged(work, tmp_path):
    data = shutil.copytree(work / "data", tmp_path / "data")
    (data / "qrels").mkdir()
    lines = [f"q{number}\td{number}\t1" for number in range(36)]
    (data / "qrels/train.tsv").write_text("\n".join(["query_id\tdocid\tscore", *lines]) + "\n")
    return data


def _run_by_two(jobs):
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python",
         sys.executable, "-c", _JOB, json.dumps(jobs)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}, capture_output=True, text=True,
        timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def _expect_the_run(alone, directory):
    rows = read_metrics(directory / "metrics.jsonl")
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in alone], rel=1e-5)
    measured = [[row["nDCG@10"] for row in one[1::2]] for one in (rows, alone)]
    assert measured[0] == pytest.approx(measured[1], abs=1e-3)
    assert (directory / "artifact/teva.json").is_file()


@pytest.mark.slow
def test_a_run_of_two_towers_in_parts_is_the_run_of_one_process(work, tmp_path):
    data = _judged(work, tmp_path)

    def recipe(name, **torch_keys):
        return {
            "model": {"name": str(work / "CLIP"), "normalize": True, "merging": "mean", "query_max_length": 24,
                      "document_max_length": 24},
            "data": {"path": str(data), "negatives": 2},
            "loss": {"temperature": 0.05},
            "train": {"output": str(tmp_path / name), "steps": 4, "batch_size": 7, "learning_rate": 1e-3,
                      "log_every": 1, "save_every": 2, "eval_every": 2, "eval_split": "train"},
            "torch": {"device": "cpu", "gradient_cache": True, "chunk_tokens": 40, **torch_keys},
        }  # fmt: skip

    train(recipe("alone"))
    _run_by_two([recipe("fsdp2", strategy="fsdp2"), recipe("zero3", strategy="deepspeed")])
    alone = read_metrics(tmp_path / "alone/metrics.jsonl")
    for name in ("fsdp2", "zero3"):
        _expect_the_run(alone, tmp_path / name)


@pytest.mark.slow
def test_a_run_in_parts_is_the_run_of_one_process(work, tmp_path):
    data = _judged(work, tmp_path)

    def recipe(name, precision="float32", **torch_keys):
        return {
            "model": {"name": str(work / "Qwen2_5_VL"), "pooling": "last", "normalize": True, "query_max_length": 48,
                      "document_max_length": 64, "max_pixels": 256},
            "data": {"path": str(data), "negatives": 2},
            "loss": {"temperature": 0.05},
            "train": {"output": str(tmp_path / name), "steps": 4, "batch_size": 7, "learning_rate": 1e-3,
                      "log_every": 1, "save_every": 2, "eval_every": 2, "eval_split": "train", "precision": precision},
            "torch": {"device": "cpu", "gradient_cache": True, "chunk_tokens": 64, **torch_keys},
        }  # fmt: skip

    train(recipe("alone"))
    jobs = [recipe("fsdp2", strategy="fsdp2"), recipe("zero3", strategy="deepspeed")]
    # What a frozen tower has seen goes through the casts of each of them too.
    half = {"precision": "bfloat16", "freeze_vision": True}
    jobs += [recipe("fsdp2 half", strategy="fsdp2", **half), recipe("zero3 half", strategy="deepspeed", **half)]
    _run_by_two(jobs)
    alone = read_metrics(tmp_path / "alone/metrics.jsonl")
    for name in ("fsdp2", "zero3"):
        _expect_the_run(alone, tmp_path / name)
        half = read_metrics(tmp_path / f"{name} half/metrics.jsonl")
        assert half[0]["loss"] == pytest.approx(alone[0]["loss"], rel=0.05)

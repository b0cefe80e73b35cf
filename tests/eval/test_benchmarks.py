from __future__ import annotations

import re

import pytest

from teva_data.conversion import LAYOUTS
from teva_data.datasets import NAMES as DATASETS
from teva_data.errors import TevaError
from teva_eval import Task, benchmark
from teva_eval.benchmarks import NAMES, benchmarks, find_task
from teva_eval.cli import main
from teva_eval.measures import parse_measures


@pytest.mark.parametrize("name", NAMES)
def test_declarations_hold_together(name, capsys):
    found = benchmark(name)
    assert len({task.name for task in found.tasks}) == len(found.tasks)
    for task in found.tasks:
        assert task.layout in LAYOUTS
        assert [measure.name for measure in parse_measures(task.measures)] == list(task.measures)
        assert found.measure in task.measures
        assert re.fullmatch(r"[0-9a-f]{40}", task.revision) if task.dataset is None else task.dataset in DATASETS
        assert Task.from_json(task.to_json()) == task
        assert find_task(task.name) == task
    assert main(["benchmarks", name]) == 0
    assert found.tasks[0].hub in capsys.readouterr().out


def test_what_the_paper_counts():
    counts = {each.name: len(each.tasks) for each in benchmarks()}
    assert (counts["beir"], counts["miracl"], counts["vidore-v1"], counts["cqadupstack"]) == (13, 18, 10, 12)
    assert (benchmark("beir").measure, benchmark("miracl").measure) == ("nDCG@10", "nDCG@10")
    assert (benchmark("vidore-v1").measure, benchmark("msrvtt").measure) == ("nDCG@5", "R@1")
    assert find_task("msmarco-dev").main == "RR@10"


def test_a_group_counts_once():
    found = benchmark("beir-cqadupstack")
    values = {task.name: 0.0 if task.group else 1.0 for task in found.tasks}
    assert found.average(values) == pytest.approx(13 / 14)
    del values["nq"]
    assert found.average(values) is None


def test_unknown_names():
    with pytest.raises(TevaError, match="Did you mean 'beir'"):
        benchmark("bier")
    with pytest.raises(TevaError, match="Did you mean 'scifact'"):
        find_task("sci-fact")

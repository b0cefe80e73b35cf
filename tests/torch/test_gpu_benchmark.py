"""The benchmark of one GPU, on a tiny model: every way trains the same, sentence-transformers' too."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.gpu import train as benchmark


def test_every_way_has_the_losses_of_the_peer():
    options = argparse.Namespace(tiny=True, quick=True)
    expected = benchmark.one("peer", options)["losses"]
    assert len(expected) == 4
    for way in ("padded", "sdpa", "cached sdpa", "peer cached"):
        found = benchmark.one(way, options)
        assert found["losses"] == pytest.approx(expected, rel=1e-5), way
        assert found["queries/s"] > 0


@pytest.mark.slow
def test_one_command_runs_all_of_it(tmp_path):
    words = [sys.executable, "-m", "benchmarks.gpu", "--output", str(tmp_path), "--tiny", "--quick"]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    parts = json.loads((tmp_path / "gpu.json").read_text())
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(part["how"] == "ended" and part["figures"] for part in parts.values())
    assert sum(part["seconds"] for part in parts.values()) < 540
    assert parts["search"]["figures"]["largest difference of a score"] < 2e-6
    assert parts["frameworks"]["figures"]["torch, s"] > 0


def test_without_a_gpu_it_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(benchmark.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["train", "--output", str(tmp_path)])
    assert benchmark.main() == 1
    assert "no GPU here" in capsys.readouterr().err

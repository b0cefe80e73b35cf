"""Retrieval and generation in vLLM side by side. Run with `uv run --group vllm pytest -m slow tests/slow`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]


def test_retriever_and_generator_in_vllm(tmp_path):
    if importlib.util.find_spec("vllm") is None:
        pytest.fail("vLLM is not installed: uv run --group vllm pytest -m slow tests/slow")
    from benchmarks.claims.infer_vllm import make_decoder
    from benchmarks.claims.real_run import minilm

    generator = tmp_path / "generator"
    generator.mkdir()
    make_decoder(generator, head=True)
    texts = ["Lima is the capital of Peru.", "Photosynthesis makes sugar from light.", "A hash table keeps keys."]
    data = tmp_path / "data"
    data.mkdir()
    rows = [{"docid": f"d{n}", "text": text} for n, text in enumerate(texts)]
    (data / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [sys.executable, "-m", "examples.rag", str(minilm()), str(generator), str(data), "what is Peru's capital?",
             "how do plants make sugar?", "--work", str(tmp_path / "work"), "--depth", "2"]  # fmt: skip
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"question"')]
    assert [each["found"][0] for each in found] == texts[:2]
    assert [len(each["found"]) for each in found] == [2, 2]
    # The generator is random: that it answers at all, from the prompt, is what is tested.
    assert all(isinstance(each["answer"], str) for each in found)
    assert any(each["answer"] for each in found)

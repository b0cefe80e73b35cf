"""Artifacts that teva-jax writes, in real vLLM (CPU). Run as ``tests/slow/test_vllm.py`` is run."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from benchmarks.jax_models import _DECODER, VOCABULARY, Case, _minilm, _with_tokenizer, make

from .test_vllm import SCRIPT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
# vLLM may lie in an environment of its own.
PYTHON = os.environ.get("TEVA_VLLM_PYTHON", sys.executable)
TEXTS = ["how do i reset", "the capital of x is on the light", "it and the " * 8]


@pytest.mark.parametrize("name", ["minilm", "qwen3 with lora"])
def test_vllm_gives_the_trained_vectors(tmp_path, name):
    if sys.executable == PYTHON and importlib.util.find_spec("vllm") is None:
        pytest.fail("vLLM is not installed: uv run --group vllm pytest -m slow tests/slow, or set TEVA_VLLM_PYTHON")
    import jax.numpy as jnp

    from teva_data.artifact import Artifact
    from teva_data.rendering import Renderer
    from teva_jax import JaxEngine, LoraSettings, Retriever, lora, make_mesh
    from teva_jax.export import write_artifact

    draw, settings, adapter, path = np.random.default_rng(0), None, None, _minilm()
    if name != "minilm":
        # vLLM's attention on a CPU has no heads of 8.
        changes = {**_DECODER, "head_dim": 32, "vocab_size": VOCABULARY}
        path, settings = _with_tokenizer(make(tmp_path / "base", Case("Qwen3", changes))), LoraSettings(8, 16)
    mesh = make_mesh()
    base = Artifact.load(path)
    pooling = "mean" if settings is None else "last"
    retriever, params = Retriever.load(base, mesh, pooling=pooling, normalize=True, lora=settings)
    if settings is None:
        params = {key: value * (1 + 0.02 * draw.standard_normal()) for key, value in params.items()}
    else:
        table = lora.table(retriever.model.table, settings)
        adapter = {key: jnp.asarray(draw.normal(0, 0.2, spec.shape), "float32") for key, spec in table.items()}
    renderer = Renderer.from_artifact(base, max_length=64, append_eos=pooling == "last")
    texts = {"query": TEXTS, "document": TEXTS}
    artifact = write_artifact(
        retriever, params, adapter, base, renderer, tmp_path / "artifact", teva={"schema": "1"}, card="", texts=texts
    )
    expected = JaxEngine(retriever, params, adapter).encode(renderer.tokenize(TEXTS))
    without = JaxEngine(retriever, params).encode(renderer.tokenize(TEXTS))
    script, output = tmp_path / "run_vllm.py", tmp_path / "vectors.json"
    script.write_text(SCRIPT)
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    words = [PYTHON, str(script), str(artifact.path), json.dumps(TEXTS), str(output)]
    subprocess.run(words, env=environment, check=True, timeout=900)
    found = np.array(json.loads(output.read_text()))
    cosines = (expected * found).sum(axis=1) / np.linalg.norm(found, axis=1)
    print("vLLM: smallest cosine", cosines.min(), "largest difference", np.abs(expected - found).max())
    assert cosines.min() > 0.9999
    if adapter is not None:
        assert (expected * without).sum(axis=1).max() < 0.99

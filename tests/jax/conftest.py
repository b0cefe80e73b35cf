"""Eight devices on one CPU for every test of teva_jax; set before jax is imported anywhere."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"
# XLA's pool of threads: with fewer than devices, they wait for each other until one gives up.
os.environ["NPROC"] = "16"
# Programs are kept by what they are, so that tests which compile the same, today and tomorrow, do so once.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / "teva-jax-programs")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import pytest


@pytest.fixture
def recipe(tiny_model, tiny_data, tmp_path):
    """A recipe that trains the tiny BERT on one device."""
    return {
        "schema": "1",
        "model": {"name": str(tiny_model), "query_max_length": 8, "document_max_length": 16},
        "data": {"path": str(tiny_data), "negatives": 2},
        "loss": {"temperature": 0.05},
        "train": {
            "output": str(tmp_path / "run"), "steps": 6, "batch_size": 8, "learning_rate": 1e-3,
            "save_every": 2, "log_every": 1,
        },
        "jax": {"fsdp": 1, "data": 1, "chunk_tokens": 128, "gradient_cache": True},
    }  # fmt: skip

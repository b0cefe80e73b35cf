from __future__ import annotations

import pytest


@pytest.fixture
def recipe(tiny_model, tiny_data, tmp_path):
    """A recipe that trains the tiny BERT in about a second."""
    return {
        "schema": "1",
        "model": {"name": str(tiny_model), "query_max_length": 8, "document_max_length": 16},
        "data": {"path": str(tiny_data), "negatives": 2},
        "loss": {"temperature": 0.05},
        "train": {
            "output": str(tmp_path / "run"), "steps": 12, "batch_size": 8, "learning_rate": 1e-3,
            "save_every": 4, "log_every": 2,
        },
        "torch": {"device": "cpu", "chunk_tokens": 64},
    }  # fmt: skip

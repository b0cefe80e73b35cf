"""Vectors of an artifact by sentence-transformers, in a process of its own: torch is never loaded beside JAX.

``python -m teva_jax.peer DIRECTORY`` reads ``{"query": [...], "document": [...]}`` and writes vectors as ``.npy``.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from teva_data.errors import TevaError
from teva_data.parity import Vectors


def sentence_transformers_vectors(directory: Path, texts: dict[str, list[str]]) -> tuple[str, Vectors] | None:
    """Its version and its vectors [N, H] of queries and documents, on the CPU; None where it is not installed.

    Raises:
        TevaError: it cannot load the artifact; what it said is in the message.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        return None
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "teva_jax.peer", str(directory)], input=json.dumps(texts).encode(),
        capture_output=True, check=False, env=environment,
    )  # fmt: skip
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise TevaError(f"{directory}: sentence-transformers cannot load it: {said[-1] if said else 'no word'}")
    return importlib.metadata.version("sentence-transformers"), np.load(io.BytesIO(done.stdout), allow_pickle=False)


def main() -> None:
    """Runs in the process of its own."""
    from sentence_transformers import SentenceTransformer

    texts = json.load(sys.stdin)
    model = SentenceTransformer(sys.argv[1], device="cpu", local_files_only=True)
    queries = model.encode_query(texts["query"], show_progress_bar=False)
    documents = model.encode_document(texts["document"], show_progress_bar=False)
    np.save(sys.stdout.buffer, np.concatenate([queries, documents]))


if __name__ == "__main__":
    main()

"""sentence-transformers' encode on its OpenVINO backend, in an environment of its own.

    python -m benchmarks.openvino_encoding MODEL TEXTS ROUNDS

``TEXTS`` is a JSON list. Prints JSON: seconds of each round after one that warms up, the vectors, versions. The backend
wants an older transformers than teva's environment has: ``uv pip install "sentence-transformers[openvino]==6.2.0"``
into another one. (Its ONNX extra cannot be installed: optimum-onnx 0.1 wants transformers 4, sentence-transformers 5.)
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import sys
import time
from pathlib import Path


def main(model: str, texts: str, rounds: str) -> None:
    from sentence_transformers import SentenceTransformer

    with contextlib.redirect_stdout(sys.stderr):
        encoder = SentenceTransformer(model, backend="openvino", model_kwargs={"export": True})
        listed, seconds = json.loads(Path(texts).read_text(encoding="utf-8")), []
        for _ in range(int(rounds) + 1):
            start = time.perf_counter()
            vectors = encoder.encode(listed, batch_size=32, show_progress_bar=False)
            seconds.append(time.perf_counter() - start)
    names = ("sentence-transformers", "openvino", "optimum-intel", "transformers")
    versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    print(json.dumps({"seconds": seconds[1:], "vectors": vectors.tolist(), "versions": versions}))


if __name__ == "__main__":
    main(*sys.argv[1:])

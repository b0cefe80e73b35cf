"""The engine ``vllm``: vLLM without a server, in a process of its own.

vLLM pins torch and transformers, so it often lives in another environment than the trainer: ``python`` names its
interpreter. It is a child process in any case, since vLLM starts processes that would run the caller's script again.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from teva_data.artifact import Artifact, refuse_own
from teva_data.errors import MissingExtraError, TevaError
from teva_data.inputs import Placed

from .process import ProcessEngine

_SENT = 64  # rows of one message, where there are pictures among them


class VllmEngine:
    """Encodes with vLLM's ``LLM(runner="pooling")``; pooling and normalisation are what vLLM reads in the artifact.

    Args:
        child: the process.
        inputs: "tokens": vLLM is given token ids; "texts": it tokenises (and cuts) by itself, as `vllm serve` does.
    """

    schedules = True
    pictures = "placed"

    def __init__(self, child: ProcessEngine, inputs: Literal["tokens", "texts"] = "tokens") -> None:
        self._child, self.inputs = child, inputs
        self.about = child.about

    @classmethod
    def load(
        cls,
        artifact: Artifact,
        *,
        device: str = "auto",
        dtype: str = "float32",
        python: str | Path | None = None,
        inputs: Literal["tokens", "texts"] = "tokens",
        pictures: int = 1,
        **options: Any,
    ) -> VllmEngine:
        """Start vLLM with an artifact.

        Args:
            artifact: the model.
            device: "auto", "cpu" (vLLM's CPU build) or "cuda:N".
            dtype: what vLLM computes in.
            python: the interpreter of the environment that has vLLM; this one where not given.
            inputs: what vLLM is given, "tokens" or "texts".
            pictures: of one row at most, where the model sees some: vLLM reserves memory for them.
            options: of vLLM's ``LLM``, e.g. ``max_num_batched_tokens``, ``gpu_memory_utilization``.

        Raises:
            ArtifactError: a pooling that vLLM does not know.
            MissingExtraError: no vLLM in this environment, and no other one named.
        """
        refuse_own(artifact, "vLLM")
        if python is None and importlib.util.find_spec("vllm") is None:
            raise MissingExtraError(
                "the engine 'vllm' (or `python`, the interpreter of an environment that has vLLM)", "teva-infer[vllm]"
            )
        if inputs not in ("tokens", "texts"):
            raise TevaError(f"vllm: inputs: found {inputs!r}; expected tokens or texts")
        child = ProcessEngine(
            "vllm", artifact, device=device, dtype=dtype, options=options, python=python,
            pictures=int(pictures) if _sees(artifact) else 0,
        )  # fmt: skip
        return cls(child, inputs)

    def encode(self, rows: Sequence[Any], /) -> np.ndarray:
        """Vectors of token ids, or of texts: float32 [B, dim].

        Those with pictures are :class:`teva_data.inputs.Placed`, which vLLM cuts into patches itself. They are sent
        in parts, so that the pixels of a corpus do not lie in memory at once.
        """
        if not any(isinstance(row, Placed) for row in rows):
            return self._child.encode(rows)
        found = []
        for part in _parts(rows):
            shown = [[np.asarray(image) for image in row.images()] if isinstance(row, Placed) else [] for row in part]
            plain = [row.content if isinstance(row, Placed) else row for row in part]
            found.append(self._child.encode(plain, shown))
        return np.concatenate(found)

    def close(self) -> None:
        """End vLLM's processes."""
        self._child.close()


def _parts(rows: Sequence[Any]) -> list[Sequence[Any]]:
    return [rows[start : start + _SENT] for start in range(0, len(rows), _SENT)]


def _sees(artifact: Artifact) -> bool:
    return "vision_config" in json.loads((artifact.path / "config.json").read_text(encoding="utf-8"))

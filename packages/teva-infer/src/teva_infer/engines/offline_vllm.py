"""The engine ``vllm``: vLLM without a server, in a process of its own.

vLLM pins torch and transformers, so it often lives in another environment than the trainer: ``python`` names its
interpreter. It is a child process in any case, since vLLM starts processes that would run the caller's script again.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from teva_data.artifact import Artifact
from teva_data.errors import MissingExtraError, TevaError

from .process import ProcessEngine


class VllmEngine:
    """Encodes with vLLM's ``LLM(runner="pooling")``; pooling and normalisation are what vLLM reads in the artifact.

    Args:
        child: the process.
        inputs: "tokens": vLLM is given token ids; "texts": it tokenises (and cuts) by itself, as `vllm serve` does.
    """

    schedules = True

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
        **options: Any,
    ) -> VllmEngine:
        """Start vLLM with an artifact.

        Args:
            artifact: the model.
            device: "auto", "cpu" (vLLM's CPU build) or "cuda:N".
            dtype: what vLLM computes in.
            python: the interpreter of the environment that has vLLM; this one where not given.
            inputs: what vLLM is given, "tokens" or "texts".
            options: of vLLM's ``LLM``, e.g. ``max_num_batched_tokens``, ``gpu_memory_utilization``.

        Raises:
            MissingExtraError: no vLLM in this environment, and no other one named.
        """
        if python is None and importlib.util.find_spec("vllm") is None:
            raise MissingExtraError(
                "the engine 'vllm' (or `python`, the interpreter of an environment that has vLLM)", "teva-infer[vllm]"
            )
        if inputs not in ("tokens", "texts"):
            raise TevaError(f"vllm: inputs: found {inputs!r}; expected tokens or texts")
        return cls(ProcessEngine("vllm", artifact, device=device, dtype=dtype, options=options, python=python), inputs)

    def encode(self, rows: Sequence[Any], /) -> np.ndarray:
        """Vectors of token ids, or of texts: float32 [B, dim]."""
        return self._child.encode(rows)

    def close(self) -> None:
        """End vLLM's processes."""
        self._child.close()

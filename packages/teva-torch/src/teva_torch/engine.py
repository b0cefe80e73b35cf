"""The engine that teva-infer finds as ``torch``: token ids in, vectors out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

import torch
from teva_data.artifact import Artifact
from teva_data.errors import TevaError, nearest

from .device import choose_device
from .model import Retriever

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchEngine:
    """Encodes with PyTorch on one device (the ``Engine`` protocol of teva-infer)."""

    def __init__(self, model: Retriever) -> None:
        self.model = model.eval()

    @classmethod
    def load(cls, artifact: Artifact, *, device: str = "auto", dtype: str = "float32") -> TorchEngine:
        """The engine of an artifact.

        Args:
            artifact: the model.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
            dtype: of weights and computation: ``float32``, ``bfloat16`` or ``float16``.
        """
        if dtype not in DTYPES:
            raise TevaError(f"dtype {dtype!r}: not known. {nearest(dtype, DTYPES)}")
        return cls(Retriever.load(artifact, dtype=DTYPES[dtype], device=choose_device(device)))

    def encode(self, token_ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Vectors of one batch: float32 [B, dim], pooled, normalised where the artifact says so."""
        try:
            with torch.inference_mode():
                vectors: NDArray[np.float32] = self.model.vectors(token_ids).cpu().numpy()
        except torch.OutOfMemoryError as error:
            rows, longest = len(token_ids), max(map(len, token_ids))
            raise TevaError(
                f"out of memory on {self.model.device} with a batch of {rows} texts of up to {longest} tokens. "
                f"Lower batch_tokens (--batch-tokens {max(longest, rows * longest // 2)})"
            ) from error
        return vectors

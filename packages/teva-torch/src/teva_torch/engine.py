"""The engine that teva-infer finds as ``torch``: token ids in, vectors out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import torch
from teva_data.artifact import Artifact
from teva_data.errors import EngineMemoryError, TevaError, nearest

from .device import choose_device
from .model import PASS_TOKENS, Retriever

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Vectors = NDArray[np.float32]


class TorchEngine:
    """Encodes with PyTorch on one device (the ``Engine`` protocol of teva-infer)."""

    pictures = True  # where the model sees them: teva_data.inputs.Tokens among the ids

    def __init__(self, model: Retriever) -> None:
        self.model = model.eval()
        # On a CPU a pass costs little beside its tokens, and a large one leaves the caches. On a GPU a batch is filled.
        self.pass_tokens = PASS_TOKENS if model.device.type == "cpu" else None

    @classmethod
    def load(
        cls, artifact: Artifact, *, device: str = "auto", dtype: str = "float32", padded: bool = False
    ) -> TorchEngine:
        """The engine of an artifact.

        Args:
            artifact: the model.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
            dtype: of weights and computation: ``float32``, ``bfloat16`` or ``float16``.
            padded: pad texts, also where the device could do without (a newer GPU, in half precision).
        """
        if dtype not in DTYPES:
            raise TevaError(f"dtype {dtype!r}: not known. {nearest(dtype, DTYPES)}")
        place = choose_device(device)
        model = Retriever.load(artifact, dtype=DTYPES[dtype], device=place)
        if place.type == "cuda" and dtype != "float32" and not padded:
            model.pack(DTYPES[dtype], place)
        return cls(model)

    @classmethod
    def devices(cls) -> list[str]:
        """The GPUs of this machine."""
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]

    def encode(self, token_ids: Sequence[Sequence[int]], /) -> Vectors:
        """Vectors of one batch: float32 [B, dim], pooled, normalised where the artifact says so.

        Raises:
            EngineMemoryError: the batch does not fit into the device's memory.
        """
        return self._begin(token_ids)()

    def stream(self, batches: Iterable[Sequence[Sequence[int]]]) -> Iterator[Vectors]:
        """Vectors of each batch, in order; a GPU has the next batch before those of the last are copied from it."""
        take: Callable[[], Vectors] | None = None
        for batch in batches:
            try:
                begun = self._begin(batch)
            except EngineMemoryError:
                if take is not None:
                    yield take()
                raise
            if take is not None:
                yield take()
            take = begun
        if take is not None:
            yield take()

    def _begin(self, token_ids: Sequence[Sequence[int]]) -> Callable[[], Vectors]:
        """Start a batch; what is returned waits for its vectors."""
        try:
            with torch.inference_mode():
                vectors = self.model.vectors(token_ids)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            rows, longest = len(token_ids), max(map(len, token_ids))
            raise EngineMemoryError(
                f"out of memory on {self.model.device} with a batch of {rows} texts of up to {longest} tokens. "
                f"Lower batch_tokens (--batch-tokens {max(longest, rows * longest // 2)})"
            ) from error
        if vectors.device.type != "cuda":
            return vectors.cpu().numpy
        host = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
        host.copy_(vectors, non_blocking=True)
        copied: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record(torch.cuda.current_stream(vectors.device))

        def take() -> Vectors:
            copied.synchronize()
            found: Vectors = host.numpy()
            return found

        return take

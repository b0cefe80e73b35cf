"""One engine on several devices of a machine: a process for each, so that none waits for another's Python."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from teva_data.artifact import Artifact

from .process import ProcessEngine


class SeveralEngines:
    """Gives each batch to the device that is free.

    Args:
        engine: the entry point of an engine.
        artifact: the model.
        devices: what the engine calls them.
        dtype: given to each.
        options: given to each.
    """

    # Two shards at a time: while the last batches of one are waited for, the other keeps all devices at work.
    parallel = 2

    def __init__(
        self, engine: str, artifact: Artifact, devices: Sequence[str], *, dtype: str, options: Mapping[str, Any]
    ) -> None:
        self._pool = ThreadPoolExecutor(len(devices), thread_name_prefix="teva-device")

        def start(device: str) -> ProcessEngine:
            return ProcessEngine(engine, artifact, device=device, dtype=dtype, options=options)

        starting = [self._pool.submit(start, device) for device in devices]
        errors = [error for each in starting if (error := each.exception()) is not None]
        self._children = [each.result() for each in starting if each.exception() is None]
        if errors:
            self.close()
            raise errors[0]
        self._free: queue.SimpleQueue[ProcessEngine] = queue.SimpleQueue()
        for one in self._children:
            self._free.put(one)

    def encode(self, rows: Sequence[Any], /) -> np.ndarray:
        """Vectors of one batch, by one of the devices: float32 [B, dim]."""
        one = self._free.get()
        try:
            return one.encode(rows)
        finally:
            self._free.put(one)

    def stream(self, batches: Iterable[Sequence[Any]]) -> Iterator[np.ndarray]:
        """Vectors of each batch, in order; as many at a time as there are devices, and one more waiting for each."""
        waiting: deque[Future[np.ndarray]] = deque()
        try:
            for batch in batches:
                waiting.append(self._pool.submit(self.encode, batch))
                if len(waiting) >= 2 * len(self._children):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for each in waiting:
                each.cancel()

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(cancel_futures=True)
        for one in self._children:
            one.close()

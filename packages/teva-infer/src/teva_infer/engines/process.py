"""Engines that run in a process of their own: several devices of one machine, and other interpreters."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from teva_data.artifact import Artifact
from teva_data.errors import EngineMemoryError, TevaError

from . import child


class ProcessEngine:
    """An engine whose model lives in a child process (``engines/child.py``).

    Args:
        engine: the entry point of an engine of this interpreter, or "vllm".
        artifact: the model.
        device: given to the engine.
        dtype: given to the engine.
        options: given to the engine.
        pictures: of one row, at most; for an engine that takes some.
        python: the interpreter; this one where not given. Another needs numpy and what the engine itself needs.
    """

    def __init__(
        self,
        engine: str,
        artifact: Artifact,
        *,
        device: str = "auto",
        dtype: str = "float32",
        options: Mapping[str, Any] | None = None,
        pictures: int = 0,
        python: str | Path | None = None,
    ) -> None:
        self.name, self.dim = engine, artifact.dim
        interpreter = str(python or sys.executable)
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}  # the model lies on this disk
        try:
            self._process = subprocess.Popen(
                [interpreter, child.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )
        except OSError as error:
            raise TevaError(f"the engine {engine!r}: cannot run {interpreter}: {error.strerror}") from error
        job = {
            "engine": engine, "path": str(artifact.path.resolve()), "device": device, "dtype": dtype,
            "options": dict(options or {}), "pictures": pictures,
        }  # fmt: skip
        self.about, _ = self._ask(job)

    def encode(self, rows: Sequence[Any], /, pictures: Sequence[Sequence[np.ndarray]] = ()) -> np.ndarray:
        """Encode rows of token ids, or texts: float32 [B, dim].

        Args:
            rows: B of them.
            pictures: of each row, uint8 [height, width, 3]; empty where no row has any.
        """
        answer, numbers = self._ask(*child.pack(rows, pictures))
        return np.frombuffer(numbers, dtype="<f4").reshape(answer["shape"])

    def close(self) -> None:
        """End the process; it leaves by itself when this one is gone."""
        process = self._process
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _ask(self, header: dict[str, Any], payload: bytes = b"") -> tuple[dict[str, Any], bytes]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            child.send(stdin, header, payload)
            answer = child.receive(stdout)
        except (BrokenPipeError, ValueError):  # ValueError: closed
            answer = None
        if answer is None:
            self.close()
            status = self._process.returncode
            raise TevaError(
                f"the engine {self.name!r}: its process ended (status {status}); what it printed stands above. A "
                "status of -9 is the system's, for want of memory"
            )
        if "error" in answer[0]:
            kind = EngineMemoryError if answer[0]["memory"] else TevaError
            raise kind(f"the engine {self.name!r}: {answer[0]['error']}")
        return answer

"""The engine ``http``: a running server with OpenAI's `/v1/embeddings` (`vllm serve`, text-embeddings-inference)."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from teva_data.artifact import Artifact
from teva_data.errors import EngineMemoryError, TevaError, shorten

TRIES = 5
"""Attempts for one request; the waits between them double from a second."""

_BUSY = (429, 502, 503, 504)


class HttpEngine:
    """Asks a server for vectors; prompts are added here, since no server adds them to `/v1/embeddings`.

    Args:
        url: the server's address, e.g. ``http://localhost:8000``.
        dim: numbers in a vector, for the check of what comes back.
        options: see :meth:`load`.
    """

    schedules = True

    def __init__(self, url: str, dim: int, **options: Any) -> None:
        self._url = url.rstrip("/") + ("" if url.rstrip("/").endswith("/embeddings") else "/v1/embeddings")
        self._dim = dim
        self.inputs: Literal["tokens", "texts"] = options["inputs"]
        self._rows, self._timeout, self._key = options["rows"], options["timeout"], options["api_key"]
        self._body = {"model": options["model"], "encoding_format": "float", **options["extra"]}
        self._pool = ThreadPoolExecutor(options["connections"], thread_name_prefix="teva-http")

    @classmethod
    def load(
        cls,
        artifact: Artifact,
        *,
        device: str = "auto",
        dtype: str = "float32",
        url: str | None = None,
        model: str | None = None,
        api_key: str | None = None,
        inputs: Literal["tokens", "texts"] = "texts",
        rows: int = 32,
        connections: int = 8,
        timeout: float = 300.0,
        extra: Mapping[str, Any] | None = None,
    ) -> HttpEngine:
        """Connect to a server that serves an artifact.

        Args:
            artifact: the model that the server has; it decides prompts and the expected dimension.
            device: the server's matter; left unused.
            dtype: the server's matter; left unused.
            url: its address.
            model: its name there; what ``/v1/models`` tells first, else the artifact's, where not given.
            api_key: sent as a bearer token.
            inputs: "texts", or "tokens" (vLLM and text-embeddings-inference take token ids too).
            rows: texts of one request.
            connections: requests at a time.
            timeout: seconds for one request.
            extra: further fields of the request. Where not given, ``truncate_prompt_tokens: -1``: vLLM then cuts at the
                model's limit where it would refuse the text; text-embeddings-inference cuts by itself.

        Raises:
            TevaError: no address, or nobody answers there.
        """
        if not url:
            raise TevaError("the engine 'http' needs url, e.g. --engine-option url=http://localhost:8000")
        if inputs not in ("tokens", "texts"):
            raise TevaError(f"http: inputs: found {inputs!r}; expected tokens or texts")
        fields = {"truncate_prompt_tokens": -1} if extra is None else dict(extra)
        return cls(
            url, artifact.dim, model=model or _served(url, api_key) or artifact.name, api_key=api_key, inputs=inputs,
            rows=int(rows), connections=int(connections), timeout=float(timeout), extra=fields,
        )  # fmt: skip

    def encode(self, rows: Sequence[Any], /) -> np.ndarray:
        """Vectors of texts, or of token ids: float32 [B, dim]."""
        parts = [list(rows[start : start + self._rows]) for start in range(0, len(rows), self._rows)]
        return np.concatenate(list(self._pool.map(self._request, parts)))

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _request(self, rows: list[Any]) -> np.ndarray:
        answer = _post(self._url, {**self._body, "input": rows}, self._key, self._timeout)
        found = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(found, list) or len(found) != len(rows):
            raise TevaError(f"{self._url}: found {shorten(answer)}; expected {len(rows)} vectors in `data`")
        vectors = np.empty((len(rows), self._dim), dtype=np.float32)
        for place, item in enumerate(found):
            vector = item["embedding"]
            if len(vector) != self._dim:
                raise TevaError(
                    f"{self._url}: found vectors of {len(vector)} numbers; expected {self._dim}. Does it serve this "
                    "model?"
                )
            vectors[item.get("index", place)] = vector
        return vectors


def _post(url: str, body: dict[str, Any], key: str | None, timeout: float) -> Any:
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    for attempt in range(TRIES):
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            if error.code == 413 or "out of memory" in text.lower():
                raise EngineMemoryError(f"{url}: {error.code}: {shorten(text, 300)}") from error
            if error.code not in _BUSY or attempt == TRIES - 1:
                raise TevaError(f"{url}: {error.code} {error.reason}: {shorten(text, 300)}") from error
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            if attempt == TRIES - 1:
                reason = getattr(error, "reason", error)
                raise TevaError(f"{url}: no answer ({reason}). Is the server running there?") from error
        time.sleep(2.0**attempt)
    raise AssertionError("unreachable")


def _served(url: str, key: str | None) -> str | None:
    """The name under which a server has its model; None where it does not tell."""
    base = url.rstrip("/").removesuffix("/embeddings").removesuffix("/v1")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        request = urllib.request.Request(f"{base}/v1/models", headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            found = json.load(answer)["data"][0]["id"]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
    return str(found)

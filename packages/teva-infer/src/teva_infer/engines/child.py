"""A model in a process of its own: requests on stdin, vectors on what was stdout. Run by path, by any interpreter.

Nothing but numpy and the standard library is imported before the request to load, so that an environment that holds
vLLM alone can run it. A message is two lengths (little-endian, 8 bytes each), a header in JSON, and raw bytes.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

_LENGTHS = struct.Struct("<QQ")


def send(file: IO[bytes], header: dict[str, Any], payload: bytes = b"") -> None:
    """Write one message."""
    head = json.dumps(header).encode()
    file.write(_LENGTHS.pack(len(head), len(payload)))
    file.write(head)
    file.write(payload)
    file.flush()


def receive(file: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """Read one message; None at the end of the file, also where it breaks off within a message."""
    lengths = file.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    head, payload = _LENGTHS.unpack(lengths)
    content = file.read(head), file.read(payload)
    if (len(content[0]), len(content[1])) != (head, payload):
        return None
    return json.loads(content[0]), content[1]


def pack(rows: Sequence[Any], pictures: Sequence[Sequence[np.ndarray]] = ()) -> tuple[dict[str, Any], bytes]:
    """Rows as a header and bytes.

    Args:
        rows: texts, or token ids.
        pictures: of each row, uint8 [height, width, 3]; empty where no row has any.

    Returns:
        Texts stand in the header; ids are int32 numbers, their lengths in the header; then the pictures' bytes, their
        sizes in the header.
    """
    seen: dict[str, Any] = {"pictures": [[each.shape[:2] for each in row] for row in pictures]} if pictures else {}
    shown = b"".join(np.ascontiguousarray(each).tobytes() for row in pictures for each in row)
    if rows and isinstance(rows[0], str):
        return {"texts": list(rows), **seen}, shown
    ids = np.fromiter((token for row in rows for token in row), dtype="<i4", count=sum(map(len, rows)))
    return {"lengths": [len(row) for row in rows], **seen}, ids.tobytes() + shown


def _unpack(header: dict[str, Any], payload: bytes) -> tuple[list[Any], list[list[np.ndarray]]]:
    """What :func:`pack` has packed; no pictures where it was given none."""
    if "texts" in header:
        rows, start = list(header["texts"]), 0
    else:
        start = 4 * sum(header["lengths"])
        ids = np.frombuffer(payload, dtype="<i4", count=start // 4)
        rows = [part.tolist() for part in np.split(ids, np.cumsum(header["lengths"])[:-1])]
    pictures: list[list[np.ndarray]] = []
    for sizes in header.get("pictures", ()):
        pictures.append([])
        for height, width in sizes:
            pixels = np.frombuffer(payload, dtype=np.uint8, count=3 * height * width, offset=start)
            pictures[-1].append(pixels.reshape(height, width, 3))
            start += pixels.size
    return rows, pictures


class _Vllm:
    """vLLM's offline engine (``LLM(runner="pooling")``), which tokenises texts itself and batches by itself."""

    def __init__(self, job: dict[str, Any]) -> None:
        device = job["device"]
        if device.startswith("cuda:"):
            os.environ["CUDA_VISIBLE_DEVICES"] = device.removeprefix("cuda:")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; a tenth of the memory otherwise
        import vllm
        from vllm.platforms import current_platform

        on_cpu = current_platform.is_cpu()
        if on_cpu != (device == "cpu") and device != "auto":
            raise RuntimeError(f"device {device}: this build of vLLM runs on {current_platform.device_type}")
        # Graphs are captured on a GPU alone; on a CPU compiling takes longer than it saves.
        options = {"enforce_eager": on_cpu, **job["options"]}
        if job.get("pictures"):
            # As many as its rows have: what is not asked for is not reserved, and no videos.
            options.setdefault("limit_mm_per_prompt", {"image": job["pictures"], "video": 0})
        self._model: Any = vllm.LLM(job["path"], runner="pooling", dtype=job["dtype"], **options)
        self.about = {"version": f"vLLM {vllm.__version__}", "device": current_platform.device_type}

    def encode(self, rows: Sequence[Any], pictures: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        # Of texts, -1 is the model's own limit, which stands in its files.
        name, cut = "prompt_token_ids", None
        if isinstance(rows[0], str):
            name, cut = "prompt", {"truncate_prompt_tokens": -1}
        prompts: list[dict[str, Any]] = [{name: row} for row in rows]
        for prompt, shown in zip(prompts, pictures, strict=False):
            if shown:
                prompt["multi_modal_data"] = {"image": [_picture(pixels) for pixels in shown]}
        outputs = self._model.embed(prompts, use_tqdm=False, tokenization_kwargs=cut)
        return np.array([each.outputs.embedding for each in outputs], dtype=np.float32)


def _picture(pixels: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(pixels)


class _Installed:
    """An engine of this interpreter, found by entry point."""

    def __init__(self, job: dict[str, Any]) -> None:
        from teva_data.artifact import Artifact
        from teva_infer.engines import load_engine

        self._engine = load_engine(
            job["engine"], Artifact.load(job["path"]), device=job["device"], dtype=job["dtype"], options=job["options"]
        )
        self.about = {"device": job["device"]}

    def encode(self, rows: Sequence[Any], pictures: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        if pictures:
            raise ValueError("this process takes no pictures")
        return self._engine.encode(rows)


def main() -> None:
    """Load what the first message asks for, then answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not stand among the vectors
    requests = sys.stdin.buffer
    first = receive(requests)
    if first is None:
        return
    try:
        model = _Vllm(first[0]) if first[0]["engine"] == "vllm" else _Installed(first[0])
    except Exception as error:  # noqa: BLE001 - told to the parent, which raises it
        send(answers, _problem(error))
        return
    send(answers, {"ready": True, **model.about})
    while (message := receive(requests)) is not None:
        try:
            vectors = np.ascontiguousarray(model.encode(*_unpack(*message)), dtype="<f4")
        except Exception as error:  # noqa: BLE001 - as above
            send(answers, _problem(error))
        else:
            send(answers, {"shape": vectors.shape}, vectors.tobytes())


def _problem(error: Exception) -> dict[str, Any]:
    # teva's own kind of it, and torch's, are both told by name: this interpreter may have neither.
    names = {kind.__name__ for kind in type(error).__mro__}
    memory = bool(names & {"EngineMemoryError", "MemoryError", "OutOfMemoryError"})
    return {"error": f"{type(error).__name__}: {error}", "memory": memory, "module": getattr(error, "name", None)}


if __name__ == "__main__":
    main()

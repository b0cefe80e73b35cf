"""`teva-infer serve`: a search service over embeddings or an index, with one page for people.

Vectors of queries are computed here, in batches of whoever asks at the same time. Embeddings for other programs are
`vllm serve`'s work (`teva-infer deploy`): this serves documents.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
from collections.abc import Sequence
from pathlib import Path

from teva_data.errors import MissingExtraError, TevaError

logger = logging.getLogger(__name__)
_NAME = re.compile(r"(?!\.+$)[A-Za-z0-9._-]+")  # it stands in the addresses of media


def serve(
    systems: Sequence[str],
    data: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    knobs: dict[str, int] | None = None,
    device: str = "auto",
    batch: int = 32,
    wait: float = 0.005,
    queue: int = 1024,
) -> None:
    """Serve until the process is told to stop (SIGTERM, Ctrl-C); what was asked before is still answered.

    Args:
        systems: ``NAME=MODEL,EMBEDDINGS`` or ``NAME=MODEL,EMBEDDINGS,INDEX``; the first answers where none is asked
            for.
        data: the dataset whose documents are shown.
        host: the address to listen at.
        port: the port; 0 for a free one, which the log names.
        knobs: of the indexes.
        device: where queries are encoded.
        batch: queries answered together at most.
        wait: seconds that a batch waits for more.
        queue: queries that may wait; more are told to come again.

    Raises:
        TevaError: systems that are not written so, or whose parts do not belong together; a port that is taken.
        DataError: anything damaged or unfinished.
        MissingExtraError: FastAPI is not installed.
    """
    try:
        import uvicorn

        from .app import make_app
    except ImportError as error:
        raise MissingExtraError("the search service", "teva-infer[serve]") from error
    from .systems import System

    if min(batch, queue) < 1 or wait < 0:
        raise TevaError(f"batch and queue start at 1, wait at 0; found {batch}, {queue} and {wait}")
    named = _named(systems, knobs)
    with contextlib.closing(_bound(host, port)) as bound:
        opened: dict[str, System] = {}
        for name, (model, corpus, index) in named.items():
            own = knobs if index is not None else None
            opened[name] = System(name, model, data, corpus, index, knobs=own, device=device)
            logger.info("serve: %s: %s documents", name, f"{len(opened[name].embeddings):,}")
        app = make_app(opened, batch=batch, wait=wait, queue=queue, title=Path(data).resolve().name)
        logger.info("serve: a page at /, POST /search, GET /health, GET /metrics; Ctrl-C ends it")
        logger.info("serve: http://%s:%d", f"[{host}]" if ":" in host else host, bound.getsockname()[1])
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=30)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[bound])


def _bound(host: str, port: int) -> socket.socket:
    """The place to listen at, taken before models are loaded: whether it is free is not to be told minutes later."""
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except (OSError, OverflowError) as error:
        found.close()
        raise TevaError(f"--host {host} --port {port}: cannot listen there: {error}") from error
    return found


def _named(systems: Sequence[str], knobs: dict[str, int] | None) -> dict[str, tuple[str, str, str | None]]:
    """Model, embeddings and index of each name; all are looked at before the first is loaded."""
    found: dict[str, tuple[str, str, str | None]] = {}
    for word in systems:
        name, _, rest = word.partition("=")
        parts = rest.split(",")
        if not _NAME.fullmatch(name) or name in found or len(parts) not in (2, 3) or not all(parts):
            raise TevaError(
                f"--system: found {word!r}; expected NAME=MODEL,EMBEDDINGS or NAME=MODEL,EMBEDDINGS,INDEX, each name "
                "once, of letters, digits, '.', '_' and '-'"
            )
        found[name] = (parts[0], parts[1], parts[2] if len(parts) == 3 else None)
    if not found:
        raise TevaError("serve: no system; name one (--system NAME=MODEL,EMBEDDINGS)")
    if knobs and all(index is None for _, _, index in found.values()):
        raise TevaError("knobs are of an index; name one (--system NAME=MODEL,EMBEDDINGS,INDEX)")
    return found

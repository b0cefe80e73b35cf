"""The service: ``/search``, ``/health``, ``/metrics``, the media of documents, and a page for people."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from importlib import resources
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from teva_data.errors import TevaError

from .batching import Batcher, FullError
from .media import answer, thumbnail
from .systems import Hit, QueryError, System

logger = logging.getLogger(__name__)

MOST_DEPTH = 1000
MOST_CHARACTERS = 20_000
MOST_BYTES = 1 << 20  # of a request
SHOWN = 2000  # characters of a document's text in an answer


class SearchRequest(BaseModel):
    """A question."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(
        max_length=MOST_CHARACTERS, description="a text, without the model's prompt",
        # Told in the schema; refused below, in words.
        json_schema_extra={"minLength": 1, "pattern": r"\S"},
    )  # fmt: skip
    depth: int = Field(10, ge=1, le=MOST_DEPTH, description="documents wanted")
    system: str | None = Field(None, description="which model answers, as /health lists them; the first if not given")

    @field_validator("query")
    @classmethod
    def _something(cls, value: str) -> str:
        if not re.search(r"\S", value):
            raise ValueError("an empty query; expected a text")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError("half a character (a lone surrogate); expected Unicode text") from error
        return value


class MediaLink(BaseModel):
    """A picture, clip or recording of a document."""

    kind: str
    url: str


class Found(BaseModel):
    """A document found."""

    docid: str
    score: float
    title: str
    text: str = Field(description=f"the first {SHOWN:,} characters")
    media: list[MediaLink]


class SearchAnswer(BaseModel):
    """What a system finds."""

    system: str
    hits: list[Found]
    seconds: float = Field(description="from the request to the answer, waiting included")


class Metrics:
    """Prometheus's, in a registry of this service's own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "teva_requests", "Requests by path and status", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram("teva_search_seconds", "Time of a search", ["system"], registry=self.registry)
        self.batch = Histogram(
            "teva_batch_size", "Queries answered together", ["system"], registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
        )  # fmt: skip
        self.waiting = Gauge("teva_waiting", "Queries that are not answered yet", ["system"], registry=self.registry)


def make_app(
    systems: Mapping[str, System], *, batch: int = 32, wait: float = 0.005, queue: int = 1024, title: str = "teva"
) -> FastAPI:
    """The service's ASGI application.

    Args:
        systems: by name; the first is the default.
        batch: queries answered together at most.
        wait: seconds that a batch waits for more.
        queue: queries that may wait; more are told to come again (503).
        title: of the page.
    """
    metrics = Metrics()
    batchers = {
        name: Batcher(system.search, most=batch, wait=wait, queue=queue, seen=metrics.batch.labels(name).observe)
        for name, system in systems.items()
    }
    for name, batcher in batchers.items():
        metrics.waiting.labels(name).set_function(batcher.waiting)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for batcher in batchers.values():
            batcher.start()
        yield
        for batcher in batchers.values():
            await batcher.stop()

    app = FastAPI(title=title, description="Search by dense vectors.", lifespan=lifespan)
    app.middleware("http")(_limited(metrics))
    app.exception_handler(RequestValidationError)(_refused)

    @app.post("/search", responses={400: {}, 404: {}, 411: {}, 413: {}, 500: {}, 503: {}})
    async def search(request: SearchRequest) -> SearchAnswer:
        """The documents that fit a question best."""
        start = time.perf_counter()
        name = request.system or next(iter(systems))
        if name not in systems:
            raise HTTPException(404, f"no system {name!r}; known: {', '.join(systems)}")
        try:
            hits = await batchers[name].search(request.query, request.depth)
        except FullError:
            raise HTTPException(503, "too many requests wait; try again", {"Retry-After": "1"}) from None
        except QueryError as error:
            raise HTTPException(422, str(error)) from error
        except (TevaError, OSError) as error:
            # What is wrong is not with the question, and names files of this machine.
            logger.exception("serve: %s: a search failed", name)
            raise HTTPException(500, "the search failed; the service's log says why") from error
        seconds = time.perf_counter() - start
        metrics.seconds.labels(name).observe(seconds)
        return SearchAnswer(system=name, hits=[_found(name, hit) for hit in hits], seconds=round(seconds, 6))

    @app.get("/health", responses={503: {}})
    async def health() -> JSONResponse:
        """The systems; 503 where one of them does not answer any more, so that the service is started anew."""
        dead = [name for name, batcher in batchers.items() if not batcher.alive()]
        status = f"does not answer: {', '.join(dead)}" if dead else "ok"
        described = {name: _described(system) for name, system in systems.items()}
        return JSONResponse({"status": status, "systems": described}, 503 if dead else 200)

    @app.get("/metrics", response_class=Response)
    async def measured() -> Response:
        """For Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    _offer_media(app, systems)
    _offer_page(app)
    return app


async def _refused(request: Request, error: RequestValidationError) -> Response:
    """What is wrong with a request, without what was sent: NaN and half a character cannot be sent back."""
    told = [{key: one[key] for key in ("type", "loc", "msg")} for one in error.errors()]
    sent = request.headers.get("content-type", "none")
    if request.method == "POST" and "json" not in sent:
        problem = f"found {sent}; expected application/json (curl: -H 'Content-Type: application/json')"
        told.append({"type": "content_type", "loc": ["header", "Content-Type"], "msg": problem})
    return Response(json.dumps({"detail": told}), 422, media_type="application/json")


def _offer_media(app: FastAPI, systems: Mapping[str, System]) -> None:
    decoding = anyio.CapacityLimiter(2)  # a decoded picture can take hundreds of megabytes

    @app.get("/media/{system}/{row}/{number}", response_class=Response, responses={206: {}, 404: {}, 416: {}})
    async def media(
        request: Request,
        system: str,
        row: Annotated[int, Path(ge=0, lt=1 << 62)],
        number: Annotated[int, Path(ge=0, lt=1 << 31)],
        width: Annotated[int | None, Query(ge=16, le=2048, description="a thumbnail of a picture, pixels")] = None,
    ) -> Response:
        """The bytes of a document's picture, clip or recording (ranges of them too), or a thumbnail."""
        if system not in systems or row >= len(systems[system].store):
            raise HTTPException(404, "no such document")
        pieces = systems[system].store.get([row])[0].media
        if number >= len(pieces):
            raise HTTPException(404, f"the document has {len(pieces)} media")
        piece = pieces[number]
        if width is not None and piece.kind != "image":
            raise HTTPException(404, f"no thumbnail of a {piece.kind}")
        try:
            if width is not None:
                return await anyio.to_thread.run_sync(thumbnail, piece, width, limiter=decoding)
            return await anyio.to_thread.run_sync(answer, piece, request.headers.get("range"))
        except TevaError as error:
            logger.warning("serve: %s", error)
            raise HTTPException(404, f"the {piece.kind} cannot be read; the service's log says why") from error


def _offer_page(app: FastAPI) -> None:
    @app.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        """A page for people."""
        text = resources.files("teva_infer.serving").joinpath("page.html").read_text(encoding="utf-8")
        # Nothing from elsewhere, and nothing of a document can run.
        policy = (
            "default-src 'self'; img-src 'self' data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
            "frame-ancestors 'none'"
        )
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})


def _found(system: str, hit: Hit) -> Found:
    links = [
        MediaLink(kind=one.kind, url=f"/media/{system}/{hit.row}/{number}")
        for number, one in enumerate(hit.document.media)
    ]
    document = hit.document
    return Found(
        docid=hit.docid, score=hit.score, title=document.title, text=document.document_text[:SHOWN], media=links
    )


def _described(system: System) -> dict[str, Any]:
    return {
        "documents": len(system.embeddings), "dim": system.embeddings.dim,
        "search": "exact" if system.index is None else system.index.job["kind"],
    }  # fmt: skip


def _limited(metrics: Metrics) -> Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]:
    """Refuse bodies that are too large before they are read, and count what is answered."""

    async def limited(request: Request, follow: Callable[[Request], Awaitable[Response]]) -> Response:
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            response: Response = JSONResponse({"detail": f"more than {MOST_BYTES:,} bytes"}, 413)
        elif "transfer-encoding" in request.headers:
            response = JSONResponse({"detail": "a body without Content-Length"}, 411)
        else:
            try:
                response = await follow(request)
            except Exception:
                logger.exception("serve: %s", request.url.path)
                response = JSONResponse({"detail": "an error of the service; its log says why"}, 500)
        route = request.scope.get("route")
        metrics.requests.labels(getattr(route, "path", "other"), str(response.status_code)).inc()
        return response

    return limited

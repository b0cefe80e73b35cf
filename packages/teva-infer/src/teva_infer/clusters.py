"""Encoding and searching on a Ray cluster: the same shards and the same runs, made by workers anywhere.

The shards of embeddings are independent of each other, so they are Ray Data's rows: a worker takes the number of a
shard, reads and encodes its documents, and gives back its vectors, or writes them where all see one directory. A worker
that is lost takes no document with it: Ray starts its shard again elsewhere. Every worker must see the dataset and the
model under the same paths. The parts of a search are Ray's tasks likewise, and what they find is merged as the parts of
one process are.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from teva_data.dataset import Dataset
from teva_data.embedding_writer import EmbeddingWriter
from teva_data.embeddings import Embeddings
from teva_data.errors import MediaError, MissingExtraError, TevaError
from teva_data.logfile import log_to
from teva_data.pair import ArtifactPair, load_artifact
from teva_data.progress import Progress
from teva_data.rendering import Renderer
from teva_data.runs import Run
from teva_data.shardfiles import ShardFiles, VectorDtype

from .encoder import BATCH_ROWS, BATCH_TOKENS, Encoder
from .encoding import SHARD_SIZE, BadMedia, Source, facts, shard_sizes, without_bad
from .heap import return_large_blocks
from .indexes.building import contents
from .searching import BATCH, Step, check_pair, collected, search_block
from .topk import TopK

logger = logging.getLogger(__name__)


class _Elsewhere:
    """The engine of an encoder whose batches are computed by workers."""

    @classmethod
    def load(cls, *_: Any, **__: Any) -> _Elsewhere:
        return cls()

    def encode(self, rows: Sequence[Any], /) -> np.ndarray:
        raise TevaError("this encoder's batches are computed by the workers of a cluster")


class _ShardEncoder:
    """A worker: it has loaded the model, and makes whole shards."""

    def __init__(
        self, model: str, dataset: str, split: str | None, options: Mapping[str, Any], batch: Mapping[str, Any],
        skip: bool, files: ShardFiles | None, job: Mapping[str, Any],
    ) -> None:  # fmt: skip
        return_large_blocks()
        role = "document" if split is None else "query"
        self.batch, self.skip, self.files = batch, skip, files
        self.wrong: TevaError | OSError | None = None
        try:
            self.encoder = Encoder.load(model, role=role, **options)
            data = Dataset.open(dataset, lenient=skip)
            self.source = Source(data.corpus if split is None else data.queries(split), self.encoder)
            _expect_same(job, self.source.job(), f"{model} and {dataset}")
        except (TevaError, OSError) as error:
            self.wrong = error  # told with the first shard: Ray would start the worker again and again

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Encode the shards of a batch of rows; JSON and bytes, since shards differ in length.

        What is wrong with the data, the settings or a disk is told as a row: as an exception, it would reach the other
        end as the text of Ray's traceback.
        """
        found: dict[str, list[Any]] = {"shard": [], "made": [], "vectors": []}
        for shard, start, stop in zip(rows["shard"], rows["start"], rows["stop"], strict=True):
            try:
                made, vectors = self._make(int(shard), int(start), int(stop))
            except (TevaError, OSError) as error:
                made, vectors = {"error": str(error)}, np.empty(0)
            found["shard"].append(int(shard))
            found["made"].append(json.dumps(made))
            found["vectors"].append(np.ascontiguousarray(vectors, dtype=np.float32).tobytes())
        return found

    def _make(self, shard: int, start: int, stop: int) -> tuple[dict[str, Any], np.ndarray]:
        if self.wrong is not None:
            raise self.wrong
        bad = dict[int, MediaError]() if self.skip else None
        ids, texts, token_ids = self.source.rows(start, stop, bad)
        vectors = self.encoder.encode_rows(token_ids, texts, **self.batch, bad=bad)
        ids, vectors, left_out = without_bad(ids, vectors, bad or {})
        if self.files is None:
            return {"ids": ids, "left_out": left_out}, vectors
        return {"entry": self.files.write(shard, ids, vectors, left_out), "left_out": left_out}, vectors[:0]


def encode_on_ray(
    model: str | Path,
    dataset: str | Path,
    output: str | Path,
    *,
    workers: int,
    gpus: float = 0,
    cpus: float = 1,
    writes: Literal["here", "workers"] = "here",
    split: str | None = None,
    engine: str = "torch",
    device: str = "auto",
    dtype: str = "float32",
    vector_dtype: VectorDtype = "float32",
    dim: int | None = None,
    shard_size: int = SHARD_SIZE,
    batch_tokens: int = BATCH_TOKENS,
    batch_rows: int = BATCH_ROWS,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    max_length: int | None = None,
    revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
    engine_options: Mapping[str, Any] | None = None,
    bad_media: BadMedia = "error",
    overwrite: bool = False,
) -> Embeddings:
    """As :func:`teva_infer.encode`, by workers of the Ray cluster that this process belongs to.

    ``ray.init`` (or ``RAY_ADDRESS``) says which cluster; without either, one of this machine is started. The directory
    is the same job's as that of `encode`: each goes on with what the other has done.

    Args:
        model: as workers find it.
        dataset: likewise.
        output: the directory for the shards.
        workers: how many encode at a time.
        gpus: of each worker.
        cpus: of each worker.
        writes: who writes the shards: "here", this process alone, which then takes in all vectors; or the "workers",
            where they see ``output`` under the same path.
        split: see :func:`teva_infer.encode`, and so on.
        engine: what workers load.
        device: where each computes.
        dtype: what each computes in.
        vector_dtype: how vectors are stored.
        dim: numbers kept of each vector.
        shard_size: rows of a shard: what a lost worker costs.
        batch_tokens: tokens of a batch.
        batch_rows: rows of a batch.
        query_prompt: put before every query instead of the model's own; "" for none.
        document_prompt: put before every document instead of the model's own; "" for none.
        max_length: tokens, special ones included, instead of the model's own limit.
        revision: commit, tag or branch on the hub.
        token: the hub's access token; each worker's own where not given.
        offline: use only what each worker's cache of the hub holds.
        engine_options: the engine's own.
        bad_media: "skip" leaves out what has a picture that cannot be read.
        overwrite: remove embeddings of another job.

    Raises:
        MissingExtraError: Ray is not installed.
        TevaError: see :func:`teva_infer.encode`.
    """
    if workers < 1 or min(gpus, cpus) < 0:
        raise TevaError(f"workers starts at 1, gpus and cpus at 0; found {workers}, {gpus} and {cpus}")
    ray = _ray()
    if why := short_of(ray.cluster_resources(), gpus=gpus, cpus=cpus):
        logger.warning("encode: %s", why)
    skip = bad_media == "skip"
    data = Dataset.open(dataset, lenient=skip)
    role = "document" if split is None else "query"
    hub: dict[str, Any] = {"revision": revision, "token": token, "offline": offline}
    found = load_artifact(model, **hub)
    artifact = found.of(role) if isinstance(found, ArtifactPair) else found
    prompts: dict[str, Any] = {
        "query_prompt": query_prompt, "document_prompt": document_prompt, "max_length": max_length,
    }  # fmt: skip
    # Its weights are loaded by the workers alone.
    encoder = Encoder(artifact, Renderer.from_artifact(artifact, **prompts), _Elsewhere(), engine, dtype, dim)
    source = Source(data.corpus if split is None else data.queries(split), encoder)
    shards = shard_sizes(len(source), shard_size)
    own = {"engine": engine, "device": device, "dtype": dtype, "dim": dim, "engine_options": dict(engine_options or {})}
    options = {**own, **prompts, **hub}
    batch = {"batch_tokens": batch_tokens, "batch_rows": batch_rows}
    with (
        log_to(Path(output) / "encode.log", "teva_infer", "teva_data"),
        EmbeddingWriter(
            output, job=source.job(), shards=shards, dim=encoder.dim, dtype=vector_dtype,
            info=facts(encoder, split=split, device=device, workers=workers, **batch), overwrite=overwrite,
        ) as writer,
    ):  # fmt: skip
        made = _shards_from_workers(
            ray, writer.missing(), shards, workers=workers, gpus=gpus, cpus=cpus,
            arguments={
                "model": str(Path(model).resolve() if Path(model).exists() else model), "split": split,
                "dataset": str(Path(dataset).resolve()), "options": options,
                "batch": batch, "skip": skip, "files": writer.files if writes == "workers" else None,
                "job": source.job(),
            },
        )  # fmt: skip
        _take_in(made, writer, source, shards, encoder.dim)
    return Embeddings.open(output, verify=False)


def _take_in(
    made: Iterator[tuple[int, dict[str, Any], np.ndarray]], writer: EmbeddingWriter, source: Source,
    shards: Sequence[int], dim: int,
) -> None:  # fmt: skip
    """Enter or write what workers have made, in the order in which it comes."""
    done = len(source) - sum(shards[shard] for shard in writer.missing())
    with Progress(len(source), "encode", "documents" if source.role == "document" else "queries", done=done) as bar:
        for shard, one, vectors in made:
            for name, why in one["left_out"].items():
                logger.warning("encode: the %s %r is left out: %s", source.role, name, why)
            if "entry" in one:  # the worker has written it
                writer.enter(shard, one["entry"])
            else:
                writer.write(shard, one["ids"], vectors.reshape(-1, dim), one["left_out"])
            bar.add(shards[shard])


def _expect_same(there: Mapping[str, Any], here: Mapping[str, Any], what: str) -> None:
    """Refuse a worker's copy that is not what the first process sees: its vectors would be mixed with others."""
    differing = [f"{key}: {value!r} there, {here.get(key)!r} here" for key, value in there.items()
                 if here.get(key) != value]  # fmt: skip
    if differing:
        raise TevaError(
            f"{socket.gethostname()}: {what} are not what they are where this was started ({'; '.join(differing)}). "
            "Bring this machine's copy up to date"
        )


def short_of(there: Mapping[str, float], *, gpus: float, cpus: float) -> str | None:
    """What a worker wants that a cluster does not have, in words: Ray waits for it, and says nothing."""
    for name, wanted in (("GPU", gpus), ("CPU", cpus)):
        if wanted > there.get(name, 0):
            return (
                f"a worker wants {wanted:g} {name}, and the cluster has {there.get(name, 0):g} now: it waits until a "
                "machine with so many joins"
            )
    return None


def _shards_from_workers(
    ray: Any,
    missing: Sequence[int],
    shards: Sequence[int],
    *,
    workers: int,
    gpus: float,
    cpus: float,
    arguments: Mapping[str, Any],
) -> Iterator[tuple[int, dict[str, Any], np.ndarray]]:
    """Shards as they are finished, in any order: number, what the worker says of it, and its numbers in one row."""
    if not missing:
        return
    starts = np.cumsum([0, *shards]).tolist()
    rows = [{"shard": shard, "start": starts[shard], "stop": starts[shard + 1]} for shard in missing]
    # A block for each shard, so that each is a task of its own and is made again by itself.
    made = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _ShardEncoder, fn_constructor_kwargs=dict(arguments), batch_size=1, concurrency=min(workers, len(rows)),
        num_gpus=gpus or None, num_cpus=cpus,
    )  # fmt: skip
    for row in made.iter_rows():
        one = json.loads(row["made"])
        if "error" in one:
            raise TevaError(one["error"])
        yield int(row["shard"]), one, np.frombuffer(row["vectors"], dtype=np.float32)


def search_on_ray(
    queries: str | Path,
    corpus: str | Path,
    output: str | Path | None = None,
    *,
    parts: int,
    depth: int = 1000,
    cpus: float = 1,
    batch: int = BATCH,
    layout: Literal["tsv", "trec"] = "tsv",
    exclude_self: bool = False,
) -> Run | Path:
    """As :func:`teva_infer.search` with ``exact``, each part of the corpus by a task of the cluster.

    What a task gives back is scores and rows, 12 bytes a hit; ids are looked up here, once. A task that is lost is
    done again by another worker.

    Args:
        queries: a directory of embeddings, read by this process alone.
        corpus: a directory of embeddings that workers find under the same path.
        output: the run file, written by this process; without it the run is returned.
        parts: how many; each holds whole shards.
        depth: documents for each query.
        cpus: of each task.
        batch: queries that pass over the corpus together; this process holds their hits of all parts.
        layout: of the run file, "tsv" or "trec".
        exclude_self: leave out the document whose id is the query's.

    Raises:
        MissingExtraError: Ray is not installed.
        TevaError: see :func:`teva_infer.search`.
    """
    if min(depth, batch, parts) < 1:
        raise TevaError(f"depth, batch and parts start at 1; found {depth}, {batch} and {parts}")
    ray = _ray()
    asked = Embeddings.open(queries)
    # Checksums are compared here once, and not by every task.
    whole = Embeddings.open(corpus)
    check_pair(asked, whole)
    scan = functools.partial(_scan_on_ray, ray=ray, parts=parts, cpus=cpus)
    return collected(asked, whole, output, scan, depth=depth, batch=batch, layout=layout, exclude_self=exclude_self)


def _scan_on_ray(
    queries: np.ndarray, corpus: Embeddings, depth: int, *, ray: Any, parts: int, cpus: float
) -> Iterator[Step]:
    """Search each part of a corpus elsewhere, and keep the best: rows are those of the whole corpus."""
    parts = min(parts, len(corpus.sizes))
    own = [corpus.part(number, parts) for number in range(parts)]
    sizes = [len(part) for part in own]
    starts = [0, *itertools.accumulate(sizes)]
    task = ray.remote(num_cpus=cpus, max_retries=-1)(_search_part)
    shared, name = ray.put(queries), str(corpus.directory.resolve())
    places = {
        task.remote(shared, name, (number, parts), depth, contents(part)): number for number, part in enumerate(own)
    }
    best, waiting = TopK(len(queries), depth), list(places)
    while waiting:
        (done,), waiting = ray.wait(waiting)
        with _own_errors():
            scores, rows = ray.get(done)
        number = places[done]
        best.add_hits(scores, np.where(rows < 0, -1, rows + starts[number]))
        yield sizes[number]
    yield best.best()


def _search_part(
    queries: np.ndarray, corpus: str, part: tuple[int, int], depth: int, expected: str
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows within a part, of a block of queries; a row of -1 is no hit."""
    here = Embeddings.open(corpus, verify=False).part(*part)
    _expect_same({"vectors": expected}, {"vectors": contents(here)}, corpus)
    scores, rows, filled = search_block(queries, here, min(depth, len(here)))
    return scores, np.where(filled, rows, -1)


@contextlib.contextmanager
def _own_errors() -> Iterator[None]:
    """What a worker says of bad data or settings, without Ray's traces around it."""
    try:
        yield
    except Exception as error:
        inner: BaseException | None = error
        while inner is not None and not isinstance(inner, TevaError):
            inner = getattr(inner, "cause", None) or inner.__cause__
        if inner is None:
            raise
        raise TevaError(str(inner)) from error


def imported_ray() -> Any:
    """Ray, whose workers run in the environment that is on their machine.

    Where the first process was started by ``uv run``, Ray would otherwise pack its working directory, send it to each
    machine and make an environment there, before a worker can start. ``RAY_ENABLE_UV_RUN_RUNTIME_ENV=1`` lets it.
    """
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # read when Ray is imported
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("a cluster of workers", "teva-infer[ray]") from error
    return ray


def _ray() -> Any:
    ray = imported_ray()
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    return ray

"""A corpus or a split's queries to embedding shards on disk; killed and started again, it goes on where it was."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from teva_data.dataset import Dataset
from teva_data.embedding_writer import EmbeddingWriter
from teva_data.embeddings import MANIFEST, Embeddings
from teva_data.errors import DataError, MediaError, TevaError
from teva_data.leaving_out import tokenized
from teva_data.logfile import log_to
from teva_data.pieces import Media
from teva_data.prefetch import prefetch
from teva_data.progress import Progress
from teva_data.shardfiles import VectorDtype
from teva_data.store import CorpusStore, QueryStore
from teva_data.versions import DECODERS, installed

from .encoder import BATCH_ROWS, BATCH_TOKENS, STAND_IN, Encoder
from .heap import return_large_blocks

logger = logging.getLogger(__name__)

SHARD_SIZE = 8192
"""Rows of one shard by default: 24 MiB at 768 float32 numbers; what a kill can cost."""

BadMedia = Literal["error", "skip"]

# Of a shard: its number, its bad rows where they are to be left out, its ids, texts and token ids.
_Read = tuple[int, dict[int, MediaError] | None, list[str], list[str], list[list[int]]]

AHEAD = 2  # shards that are read and tokenised while another is encoded

_VERSIONS = (
    "teva-infer", "teva-data", "teva-torch", "torch", "transformers", "tokenizers", "numpy", "pyarrow", *DECODERS,
)  # fmt: skip


def encode(
    model: str | Path | Encoder,
    dataset: str | Path | Dataset,
    output: str | Path,
    *,
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
    """Encode a dataset's corpus, or the queries of one of its splits, into a directory of shards.

    Reading, rendering and tokenising of later shards, the forward passes of one, and the writing of the one before go
    on at the same time; memory holds a few shards whatever the corpus. Where a batch does not fit into the device's
    memory, it and later ones are made smaller.

    A shard's bytes depend on nothing but its own rows, the settings and the size of batches. Started again after a
    kill, only the missing shards are encoded; a directory that holds another job is refused. What happens is also
    written to ``encode.log`` in the directory.

    Args:
        model: a directory of teva's or of sentence-transformers', a hub id, or an `Encoder` that is loaded already
            (engine, device, dtype, prompts, max_length, revision, token and offline are then its own).
        dataset: a dataset's directory, or one that is open.
        output: the directory for the shards and the manifest.
        split: the split whose queries are encoded; the corpus where not given.
        engine: the entry point of an engine.
        device: "auto", "cpu", "cuda", "cuda:1", "mps"; several with commas between them, or "all" GPUs.
        dtype: what the engine computes in: "float32", "bfloat16" or "float16".
        vector_dtype: how vectors are stored: "float32", "float16", "int8" or "binary".
        dim: numbers kept of each vector, the first ones; vectors that had length 1 have it again.
        shard_size: rows of a shard.
        batch_tokens: tokens of a batch, counted as rows times the longest row.
        batch_rows: rows of a batch at most.
        query_prompt: put before every query instead of the model's own; "" for none.
        document_prompt: put before every document instead of the model's own; "" for none.
        max_length: tokens, special ones included, instead of the model's own limit.
        revision: commit, tag or branch on the hub.
        token: the hub's access token; the one that is logged in where not given.
        offline: use only what the hub's cache holds.
        engine_options: the engine's own.
        bad_media: what becomes of a document (or query) with a picture that cannot be read: "error" ends the work,
            "skip" leaves it out of the embeddings, and names it in the log and the manifest. It is no part of what
            identifies the job: one that ended with an error goes on with "skip". Of an open dataset, it must have been
            opened with ``lenient`` for files that are not there.
        overwrite: remove embeddings of another job that lie in the directory.

    Returns:
        The finished embeddings, opened.

    Raises:
        DataError: bad data, a text without tokens, or a vector that is not finite; the id is named.
        ArtifactError: the model cannot be read.
        TevaError: the directory holds another job, or another process writes to it.
    """
    # The data first: a bad row is to be told before minutes of loading weights.
    skip = bad_media == "skip"
    dataset = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset, lenient=skip)
    store = dataset.corpus if split is None else dataset.queries(split)
    role = "document" if split is None else "query"
    encoder = _loaded(
        model, role, engine=engine, device=device, dtype=dtype, query_prompt=query_prompt,
        document_prompt=document_prompt, max_length=max_length, revision=revision, token=token, offline=offline,
        dim=dim, engine_options=engine_options,
    ).of(role)  # fmt: skip
    seen = {"text"} if encoder.renderer.pictures is None else {"text", *encoder.renderer.pictures.kinds}
    if unread := {kind: count for kind, count in store.kinds.items() if count and kind not in seen}:
        logger.warning("encode: rows with pieces that this model does not see: %s", unread)
    made_for = (encoder.artifact.teva.get("pair") or {}).get("role", role)
    if made_for != role:
        logger.warning("encode: %s was trained for a %s, not for a %s", encoder.artifact.name, made_for, role)
    source = Source(store, encoder)
    info = facts(encoder, split=split, device=device, batch_tokens=batch_tokens, batch_rows=batch_rows)
    shards = shard_sizes(len(source), shard_size)
    try:
        with (
            log_to(Path(output) / "encode.log", "teva_infer", "teva_data"),
            EmbeddingWriter(
                output, job=source.job(), shards=shards, dim=encoder.dim, dtype=vector_dtype, info=info,
                overwrite=overwrite,
            ) as writer,
        ):  # fmt: skip
            _encode_shards(encoder, source, writer, shards, skip, batch_tokens=batch_tokens, batch_rows=batch_rows)
            if left_out := writer.left_out():
                logger.warning(
                    "encode: %d of %d are left out for a picture that cannot be read; %s names them",
                    len(left_out), len(source), Path(output) / MANIFEST,
                )  # fmt: skip
    finally:
        if not isinstance(model, Encoder):
            encoder.close()
    return Embeddings.open(output, verify=False)


def shard_sizes(rows: int, size: int) -> list[int]:
    """The rows of each shard of ``size`` rows, the last one smaller.

    Raises:
        TevaError: the size is not at least 1.
    """
    if size < 1:
        raise TevaError(f"shard_size starts at 1; found {size}")
    return [min(size, rows - start) for start in range(0, rows, size)]


class Source:
    """The rows of one corpus or split, as ids and token ids."""

    def __init__(self, store: CorpusStore | QueryStore, encoder: Encoder) -> None:
        self.role = "document" if isinstance(store, CorpusStore) else "query"
        self._store, self._encoder = store, encoder

    def __len__(self) -> int:
        return len(self._store)

    def job(self) -> dict[str, Any]:
        """What identifies this work."""
        renderer, artifact = self._encoder.renderer, self._encoder.artifact
        return {
            "role": self.role,
            # A pair's two halves have one name, so that searching knows them to belong together.
            "model_fingerprint": artifact.side(self.role),
            "data_fingerprint": self._store.fingerprint,
            "prompt": renderer.document_prompt if self.role == "document" else renderer.query_prompt,
            "max_length": renderer.max_length,
            "normalized": artifact.normalize,
            "engine": self._encoder.engine_name,
            "compute_dtype": self._encoder.dtype,
        }

    def rows(
        self, start: int, stop: int, bad: dict[int, MediaError] | None = None
    ) -> tuple[list[str], list[str], list[list[int]]]:
        """The ids, rendered texts and token ids of rows ``start`` to ``stop``.

        Args:
            start: the first row.
            stop: the row after the last.
            bad: gets the positions, from 0, of rows with a picture whose file cannot be read, and why; they are a token
                of no meaning. Where not given, the first of them is an error.
        """
        renderer = self._encoder.renderer
        if isinstance(self._store, CorpusStore):
            documents = self._store.documents(start, stop)
            self._refuse_unreadable(start, [(each.document_text or each.title, each.media) for each in documents])
            ids = [document.docid for document in documents]
            texts = [renderer.document(one.document_text, one.title or "", None, one.pieces) for one in documents]
        else:
            queries = self._store.queries(start, stop)
            self._refuse_unreadable(start, [(each.query_text, each.media) for each in queries])
            ids = [query.query_id for query in queries]
            texts = [renderer.query(query.query_text, query.prompt, query.pieces) for query in queries]
        token_ids = tokenized(renderer, texts, None, bad)
        for row in bad or ():
            texts[row] = STAND_IN  # one input, as its token is: an engine may be given the one or the other
        for row, tokens in enumerate(token_ids):
            if not tokens:
                file, line = self._store.address(start + row)
                raise DataError(
                    f"the {self.role} {ids[row]!r} has no tokens", file=file, line=line, found=texts[row],
                    expected="at least one token", hint="Give it some words, or leave it out",
                )  # fmt: skip
        return ids, texts, token_ids

    def _refuse_unreadable(self, start: int, rows: Sequence[tuple[str, Sequence[Media]]]) -> None:
        """A row may hold a picture, a clip or a recording alone: a model of text would see an empty text."""
        seeing = self._encoder.renderer.pictures is not None
        for row, (text, media) in enumerate(rows, start):
            if not (text.strip() or (seeing and media)):
                file, line = self._store.address(row)
                raise DataError(
                    f"a {self.role} without text", file=file, line=line, found="media alone",
                    expected="a text, since this model reads nothing else",
                )  # fmt: skip


def _encode_shards(
    encoder: Encoder, source: Source, writer: EmbeddingWriter, shards: Sequence[int], skip: bool, **batch: int
) -> None:
    return_large_blocks()
    missing = writer.missing()
    starts = [0, *itertools.accumulate(shards)]
    done = len(source) - sum(shards[shard] for shard in missing)
    unit = "documents" if source.role == "document" else "queries"
    logger.info(
        "encode: %s %s, %d of %d shards to do; model %s, prompt %r, at most %d tokens",
        f"{len(source):,}", unit, len(missing), len(shards), encoder.artifact.name, source.job()["prompt"],
        encoder.renderer.max_length,
    )  # fmt: skip
    tokens, begin, lock = 0, time.monotonic(), threading.Lock()
    read_rows = read_tokens = 0

    def left() -> float | None:
        # The longest rows of a shard are encoded first, so tokens tell what is left. Those of shards that are not read
        # yet are taken to be as many to a row as in those that are.
        if not tokens:
            return None
        expected = read_tokens / read_rows * (len(source) - done)
        return (expected - tokens) * (time.monotonic() - begin) / tokens

    with Progress(len(source), "encode", unit, done=done, left=left) as progress:

        def count(rows: int, seen: int) -> None:
            nonlocal tokens
            with lock:
                tokens += seen
                progress.add(rows, f"{tokens / (time.monotonic() - begin):,.0f} tokens/s")

        def read(number: int) -> _Read:
            nonlocal read_rows, read_tokens
            shard, bad = missing[number], None if not skip else dict[int, MediaError]()
            ids, texts, token_ids = source.rows(starts[shard], starts[shard + 1], bad)
            with lock:
                read_rows += len(ids)
                read_tokens += sum(map(len, token_ids))
            return shard, bad, ids, texts, token_ids

        ready = prefetch(read, 0, len(missing), ahead=AHEAD)

        def vectors(_: int) -> tuple[int, list[str], np.ndarray, dict[str, str]]:
            with lock_reading:
                shard, bad, ids, texts, token_ids = next(ready)
            found = encoder.encode_rows(token_ids, texts, **batch, on_batch=count, bad=bad)
            return shard, *without_bad(ids, found, bad or {})

        lock_reading = threading.Lock()
        at_once = getattr(encoder.engine, "parallel", 1)
        # While this thread writes a shard, another is already at the next.
        encoded = prefetch(vectors, 0, len(missing), ahead=at_once, workers=at_once)
        with contextlib.closing(ready), contextlib.closing(encoded):
            for shard, ids, found, left_out in encoded:
                for name, why in left_out.items():
                    logger.warning("encode: the %s %r is left out: %s", source.role, name, why)
                writer.write(shard, ids, found, left_out)
    logger.info("encode: %s tokens, %s tokens/s", f"{tokens:,}", f"{tokens / (time.monotonic() - begin):,.0f}")


def without_bad(
    ids: Sequence[str], vectors: np.ndarray, bad: Mapping[int, MediaError]
) -> tuple[list[str], np.ndarray, dict[str, str]]:
    """A shard without the rows that could not be read.

    Args:
        ids: of N rows.
        vectors: float32 [N, dim].
        bad: the positions of those to leave out, and why.

    Returns:
        Ids and vectors of the others; the ids that are left out, and why, in order.
    """
    if not bad:
        return list(ids), vectors, {}
    stay = [row for row in range(len(ids)) if row not in bad]
    return [ids[row] for row in stay], vectors[stay], {ids[row]: str(bad[row]) for row in sorted(bad)}


def _loaded(model: str | Path | Encoder, role: str, **options: Any) -> Encoder:
    if not isinstance(model, Encoder):
        return Encoder.load(model, role=role, **options)
    defaults = inspect.signature(Encoder.load).parameters
    given = [name for name, value in options.items() if value != defaults[name].default]
    if given:
        raise TevaError(f"{', '.join(given)}: the encoder is loaded already; give this to Encoder.load")
    return model


def facts(encoder: Encoder, **settings: Any) -> dict[str, Any]:
    """What a manifest says of how it was made, beside the job: the model, settings, versions of libraries."""
    artifact = encoder.artifact
    return {"model": artifact.name, "revision": artifact.revision, **settings, "versions": installed(_VERSIONS)}

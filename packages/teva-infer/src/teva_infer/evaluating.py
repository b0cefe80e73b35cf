"""A model as a system that benchmarks are run with: teva-eval finds it under its entry point and imports nothing here.

Corpora are encoded once: shards lie under the fingerprint of their data and of what encodes them, so another task over
the same documents, a later start, or `teva-infer encode` before it leaves nothing to do.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from teva_data.dataset import Dataset
from teva_data.embedding_writer import EmbeddingWriter
from teva_data.embeddings import Embeddings
from teva_data.errors import DataError, TevaError
from teva_data.files import fingerprint
from teva_data.progress import Progress
from teva_data.runs import Run
from teva_data.store import CorpusStore, QueryStore

from .encoder import Encoder
from .encoding import SHARD_SIZE, encode
from .searching import search

logger = logging.getLogger(__name__)

BLOCK = 1024  # texts that a foreign encoder is handed at a time


@runtime_checkable
class TextEncoder(Protocol):
    """Any object that turns texts into vectors of one dimension."""

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Float [len(texts), dim]."""
        ...

    def encode_documents(self, documents: Sequence[tuple[str, str]]) -> np.ndarray:
        """Pairs (title, text) to float [len(documents), dim]."""
        ...


class DenseSystem:
    """Encodes with one model, searches exactly.

    Args:
        model: a model's directory or hub id; an `Encoder`; or any `TextEncoder`, whose attributes ``name`` and
            ``fingerprint`` are recorded where it has them.
        name: what it is called in tables; of a directory, its name.
        engine: the engine that encodes.
        device: auto, cpu, cuda, cuda:1, mps.
        dtype: what the model computes in.
        vector_dtype: how vectors are stored.
        max_length: tokens instead of the model's own limit.
        batch_tokens: tokens of a batch.
        dims: further dimensions: vectors are cut to their first numbers and brought to length 1 again where the
            model's have it (Matryoshka; Kusupati et al. 2022).
        embeddings: a directory of embeddings that exist (``corpus/`` and one directory for each split, or both below a
            directory of the dataset's name): nothing is encoded, and no model is loaded.
        revision: commit, tag or branch on the hub.
        offline: use only what the hub's cache holds.
    """

    def __init__(
        self,
        model: str | Path | Encoder | TextEncoder | None = None,
        *,
        name: str | None = None,
        engine: str = "torch",
        device: str = "auto",
        dtype: str = "float32",
        vector_dtype: Literal["float32", "float16"] = "float32",
        max_length: int | None = None,
        batch_tokens: int = 16384,
        dims: Sequence[int] = (),
        embeddings: str | Path | None = None,
        revision: str | None = None,
        offline: bool = False,
    ) -> None:
        if model is None and embeddings is None:
            raise TevaError("a model, or a directory of embeddings, is needed")
        if any(dim < 1 for dim in dims):
            raise TevaError(f"dims start at 1; found {list(dims)}")
        self._model, self._embeddings = model, None if embeddings is None else Path(embeddings)
        self._load = {
            "engine": engine, "device": device, "dtype": dtype, "max_length": max_length, "revision": revision,
            "offline": offline,
        }  # fmt: skip
        self._encode = {"vector_dtype": vector_dtype, "batch_tokens": batch_tokens}
        self._dims = tuple(dict.fromkeys(dims))
        self._encoders: dict[tuple[str | None, str | None], Encoder] = {}
        self.name = name or _name_of(model, self._embeddings)

    def describe(self, *, query_prompt: str | None = None, document_prompt: str | None = None) -> Mapping[str, Any]:
        """Model, fingerprint, prompts, limits, pooling, dtype, dimensions; see `teva_eval.System`."""
        facts: dict[str, Any] = {"kind": "dense", "name": self.name, "dims": list(self._dims), "search": "exact"}
        if self._embeddings is not None:
            manifests = [json.loads(path.read_bytes()) for path in sorted(self._embeddings.glob("**/manifest.json"))]
            jobs = {m["fingerprint"]: {k: v for k, v in m["job"].items() if k != "shards"} for m in manifests}
            model = next((m["info"].get("model") for m in manifests), None)
            return {**facts, "embeddings": jobs, "model": model}
        if not isinstance(self._model, str | Path | Encoder):
            facts |= {"model": self.name, "fingerprint": getattr(self._model, "fingerprint", None)}
            return {**facts, "prompts": {"query": query_prompt or "", "document": document_prompt or ""}}
        encoder = self._loaded(query_prompt, document_prompt)
        sides = {role: encoder.of(role) for role in ("query", "document")}
        artifact = encoder.artifact
        return {
            **facts, "model": artifact.name, "revision": artifact.revision,
            "fingerprint": {role: side.artifact.fingerprint for role, side in sides.items()},
            "prompts": {
                "query": sides["query"].renderer.query_prompt, "document": sides["document"].renderer.document_prompt,
            },
            "max_length": {role: side.renderer.max_length for role, side in sides.items()},
            "pooling": artifact.pooling, "normalized": artifact.normalize, "dim": encoder.dim,
            "lowercase": artifact.lowercase, "engine": encoder.engine_name, "dtype": encoder.dtype,
            "base_model": _base_model(artifact.teva), "max_length_given": self._load["max_length"] is not None,
            **self._encode,
        }  # fmt: skip

    def search(
        self,
        dataset: Dataset,
        split: str,
        *,
        depth: int,
        exclude_self: bool,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        work: Path,
    ) -> Mapping[str, Run]:
        """Encode what is not encoded yet, and search; a run for each dimension. See `teva_eval.System`."""
        if self._embeddings is not None:
            corpus, queries = self._opened(dataset, None), self._opened(dataset, split)
        else:
            corpus = self._encoded(dataset, None, query_prompt, document_prompt, work)
            queries = self._encoded(dataset, split, query_prompt, document_prompt, work)
        runs = {"": search(queries, corpus, depth=depth, exclude_self=exclude_self)}
        for dim in self._dims:
            if dim > corpus.dim:
                raise TevaError(f"dims: {dim} is more than the model's {corpus.dim}")
            left, right = (cut(side, dim, work / "cut") for side in (queries, corpus))
            runs[f"dim={dim}"] = search(left, right, depth=depth, exclude_self=exclude_self)
        assert all(isinstance(run, dict) for run in runs.values())
        return runs  # type: ignore[return-value]

    def _loaded(self, query_prompt: str | None, document_prompt: str | None) -> Encoder:
        if isinstance(self._model, Encoder):
            if query_prompt is not None or document_prompt is not None:
                raise TevaError("this encoder is loaded already; give its prompts to Encoder.load")
            return self._model
        key = (query_prompt, document_prompt)
        if key not in self._encoders:
            assert isinstance(self._model, str | Path)
            self._encoders = {}  # one model in memory at a time
            self._encoders[key] = Encoder.load(
                self._model, query_prompt=query_prompt, document_prompt=document_prompt, **self._load  # type: ignore[arg-type]
            )  # fmt: skip
        return self._encoders[key]

    def _encoded(
        self, dataset: Dataset, split: str | None, query_prompt: str | None, document_prompt: str | None, work: Path
    ) -> Embeddings:
        store = dataset.corpus if split is None else dataset.queries(split)
        described = self.describe(query_prompt=query_prompt, document_prompt=document_prompt)
        facts = {key: value for key, value in described.items() if key not in ("name", "dims", "model")}
        place = work / f"{'corpus' if split is None else 'queries'}-{fingerprint(store.fingerprint, facts)[:16]}"
        if isinstance(self._model, str | Path | Encoder):
            return encode(self._loaded(query_prompt, document_prompt), dataset, place, split=split, **self._encode)  # type: ignore[arg-type]
        return _encode_foreign(self._model, store, place, query_prompt or "", document_prompt or "")

    def _opened(self, dataset: Dataset, split: str | None) -> Embeddings:
        """Embeddings that exist, of these texts and no others."""
        assert self._embeddings is not None
        side = "corpus" if split is None else split
        places = [self._embeddings / dataset.path.name / side, self._embeddings / side]
        place = next((each for each in places if each.is_dir()), None)
        if place is None:
            raise DataError("no embeddings", file=self._embeddings, field=side, expected=" or ".join(map(str, places)),
                            hint="Make them with `teva-infer encode`")  # fmt: skip
        found = Embeddings.open(place)
        store = dataset.corpus if split is None else dataset.queries(split)
        theirs = found.manifest["job"].get("data_fingerprint")
        if theirs != store.fingerprint:
            raise DataError("embeddings of other data", file=place, field="data_fingerprint", found=theirs,
                            expected=f"{store.fingerprint}, that of {dataset.path}",
                            hint="Encode this data, or name the data that they were made of")  # fmt: skip
        return found


def cut(embeddings: Embeddings, dim: int, work: Path) -> Embeddings:
    """The first ``dim`` numbers of every vector, brought to length 1 again where they had it; kept under ``work``.

    Raises:
        DataError: a vector whose first numbers are all zero, which has no direction.
    """
    manifest = embeddings.manifest
    place = work / f"{manifest['fingerprint'][:16]}-{dim}"
    job = {key: value for key, value in manifest["job"].items() if key not in ("shards", "dim", "dtype")}
    job |= {"cut_from": manifest["fingerprint"]}
    shards = [entry["rows"] for entry in manifest["shards"]]
    with EmbeddingWriter(place, job=job, shards=shards, dim=dim, info=manifest["info"]) as writer:
        missing = set(writer.missing())
        for shard, (ids, vectors) in enumerate(embeddings.shards()):
            if shard in missing:
                short = vectors[:, :dim].astype(np.float32)
                if embeddings.normalized:
                    lengths = np.linalg.norm(short, axis=1, keepdims=True)
                    short /= np.where(lengths > 0, lengths, 1)
                writer.write(shard, ids, short)
    return Embeddings.open(place, verify=False)


def _encode_foreign(
    model: Any, store: CorpusStore | QueryStore, place: Path, query_prompt: str, document_prompt: str
) -> Embeddings:
    """Encode with an object that knows neither tokens nor shards; never taken up again, as it has no fingerprint."""
    blocks = _blocks(store, query_prompt, document_prompt)
    ids: list[str] = []
    parts: list[np.ndarray] = []
    role = "document" if isinstance(store, CorpusStore) else "query"
    with Progress(len(store), "encode", "texts") as progress:
        for names, texts in blocks:
            found = np.asarray(model.encode_documents(texts) if role == "document" else model.encode_queries(texts))
            if found.ndim != 2 or len(found) != len(texts) or (parts and found.shape[1] != parts[0].shape[1]):
                expected = [len(texts), parts[0].shape[1] if parts else "dim"]
                raise TevaError(f"{type(model).__name__}: encoded to shape {list(found.shape)}; expected {expected}")
            ids += names
            parts.append(found.astype(np.float32))
            progress.add(len(texts))
    vectors = np.concatenate(parts)
    shards = [min(SHARD_SIZE, len(ids) - start) for start in range(0, len(ids), SHARD_SIZE)]
    job = {"role": role, "data_fingerprint": store.fingerprint, "normalized": _of_length_one(vectors)}
    with EmbeddingWriter(place, job=job, shards=shards, dim=vectors.shape[1], overwrite=True) as writer:
        for shard, rows in enumerate(shards):
            start = shard * SHARD_SIZE
            writer.write(shard, ids[start : start + rows], vectors[start : start + rows])
    return Embeddings.open(place, verify=False)


def _blocks(
    store: CorpusStore | QueryStore, query_prompt: str, document_prompt: str
) -> Iterator[tuple[list[str], list[Any]]]:
    for start in range(0, len(store), BLOCK):
        stop = min(start + BLOCK, len(store))
        if isinstance(store, CorpusStore):
            documents = store.documents(start, stop)
            yield (
                [each.docid for each in documents],
                [
                    (each.title, each.document_text) if not document_prompt else ("", document_prompt + _joined(each))
                    for each in documents
                ],
            )
        else:
            queries = store.queries(start, stop)
            yield [each.query_id for each in queries], [query_prompt + each.query_text for each in queries]


def _joined(document: Any) -> str:
    from teva_data.records import join_title

    return join_title(document.title, document.document_text)


def _of_length_one(vectors: np.ndarray) -> bool:
    return bool(np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3))


def _name_of(model: Any, embeddings: Path | None) -> str:
    if isinstance(model, Encoder):
        return _name_of(model.artifact.name, None)
    if isinstance(model, str | Path):
        path = Path(model).expanduser()
        return path.resolve().name if path.is_dir() else str(model).replace("/", "__")
    if model is None:
        assert embeddings is not None
        return embeddings.resolve().name
    return str(getattr(model, "name", type(model).__name__))


def _base_model(teva: Mapping[str, Any]) -> str:
    recipe = teva.get("recipe")
    model = recipe.get("model") if isinstance(recipe, dict) else None
    return str(model.get("name", "")) if isinstance(model, dict) else ""

"""Verbs that make, take in and hand out embeddings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from teva_data.errors import TevaError

from .words import options_of

if TYPE_CHECKING:
    from teva_data.embeddings import Embeddings


@dataclasses.dataclass
class EncodeOptions:
    """What `encode` and `ray-encode` share.

    Attributes:
        split: the split whose queries are encoded; without it, the corpus.
        engine: the engine that encodes: torch, jax, vllm, http.
        device: auto, cpu, cuda, cuda:1, mps; for encode also several with commas between them, or all (GPUs).
        dtype: what the model computes in.
        vector_dtype: how vectors are stored.
        dim: numbers kept of each vector (Matryoshka); vectors are normalised again.
        shard_size: rows of a shard; what a kill or a lost worker can cost.
        batch_tokens: tokens of a batch, counted as rows times the longest row.
        batch_rows: rows of a batch at most.
        query_prompt: put before every query instead of the model's own.
        document_prompt: put before every document instead of the model's own.
        max_length: tokens, special ones included, instead of the model's own limit.
        revision: commit, tag or branch on the hub.
        token: the hub's access token; HF_TOKEN and the one that is logged in are found without it.
        offline: use only what the hub's cache holds.
        engine_option: the engine's own, such as url=http://localhost:8000 (http) or python=/venv/bin/python (vllm).
        bad_media: a document whose picture cannot be read: error ends the work; skip leaves it out of the embeddings
            and names it in the log and the manifest. A work that ended with an error goes on with skip.
        overwrite: remove other embeddings that lie in the output directory.
    """

    split: str | None = None
    engine: str = "torch"
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    vector_dtype: Literal["float32", "float16", "int8", "binary"] = "float32"
    dim: int | None = None
    shard_size: int = 8192
    batch_tokens: int = 16384
    batch_rows: int = 1024
    query_prompt: str | None = None
    document_prompt: str | None = None
    max_length: int | None = None
    revision: str | None = None
    token: str | None = None
    offline: bool = False
    engine_option: tuple[str, ...] = ()
    bad_media: Literal["error", "skip"] = "error"
    overwrite: bool = False

    def arguments(self) -> dict[str, Any]:
        """As keyword arguments of `teva_infer.encode` and `encode_on_ray`."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        words = found.pop("engine_option")
        return {**found, "engine_options": options_of(words)}


SharedOptions = Annotated[EncodeOptions, tyro.conf.arg(name="")]


def encode(
    model: str,
    dataset: Path,
    /,
    *,
    output: Path,
    options: SharedOptions = EncodeOptions(),  # noqa: B008 - not changed
) -> None:
    """Encode a dataset's corpus, or the queries of a split, into shards. A killed run goes on when started again.

    Args:
        model: a model directory (of teva or of sentence-transformers) or a hub id.
        dataset: the dataset's directory.
        output: the directory for the shards.
        options: see below.
    """
    from teva_infer.encoding import encode as run_encode

    _tell(run_encode(model, dataset, output, **options.arguments()))


def ray_encode(
    model: str,
    dataset: Path,
    /,
    *,
    output: Path,
    workers: int,
    gpus: float = 0,
    cpus: float = 1,
    writes: Literal["here", "workers"] = "here",
    options: SharedOptions = EncodeOptions(),  # noqa: B008 - not changed
) -> None:
    """Encode by the workers of a Ray cluster (RAY_ADDRESS; of this machine where not set), into the same shards.

    Args:
        model: a model directory or hub id, as workers find it.
        dataset: the dataset's directory, as workers find it.
        output: the directory for the shards.
        workers: how many encode at a time; the shards of one that is lost are made again by others.
        gpus: of each worker; may be a part of one.
        cpus: of each worker.
        writes: who writes shards: here, this process, which takes in all vectors; or workers, where they see the output
            directory under the same path (for many workers).
        options: those of encode, for each worker.
    """
    from teva_infer.clusters import encode_on_ray

    _tell(
        encode_on_ray(
            model, dataset, output, workers=workers, gpus=gpus, cpus=cpus, writes=writes, **options.arguments()
        )
    )


def export(
    embeddings: Path,
    /,
    *,
    output: str,
    to: Literal["parquet", "lancedb"] = "parquet",
    data: Path | None = None,
    numbers: Literal["float32", "stored"] = "float32",
    table: str = "documents",
    index: bool = True,
) -> None:
    """Write embeddings for other programs. A killed export goes on when started again.

    Args:
        embeddings: the directory of embeddings.
        output: of parquet, a directory for a file for each shard; of lancedb, the database (a directory, or s3://...).
        to: parquet, which most databases load, or a table of LanceDB.
        data: the dataset that was encoded; titles and texts go along.
        numbers: of parquet's vectors: float32, or stored: float16, int8 with a column scale, or eight signs a byte.
        table: of lancedb.
        index: of lancedb: build its index at the end.
    """
    from teva_infer.exporting import export_parquet, load_lancedb

    if to == "parquet":
        print(export_parquet(embeddings, output, data=data, numbers=numbers))
    elif numbers != "float32":
        raise TevaError("--numbers stored: a table of LanceDB has float32; stored numbers go to Parquet (--to parquet)")
    else:
        print(f"{output}: {table}: {load_lancedb(embeddings, output, table, data=data, index=index):,} rows")


def import_tevatron(
    files: Annotated[tuple[Path, ...], tyro.conf.Positional],
    /,
    *,
    output: Path,
    role: Literal["query", "document"],
    model: str,
    unpickle: bool = False,
    overwrite: bool = False,
) -> None:
    """Turn embeddings that Tevatron pickled, (vectors, ids), into shards. Nothing else here reads a pickle.

    Args:
        files: the pickles, in order.
        output: the directory for the shards.
        role: whose they are.
        model: a name for the model, the same for queries and documents that belong together.
        unpickle: needed: a pickle can run code. It is read by an unpickler that knows numpy's arrays alone.
        overwrite: remove other embeddings that lie in the output directory.
    """
    from teva_infer.tevatron import import_embeddings

    _tell(import_embeddings(files, output, role=role, model=model, unpickle=unpickle, overwrite=overwrite))


def _tell(found: Embeddings) -> None:
    print(f"{found.directory}: {len(found):,} vectors of {found.dim} {found.dtype} numbers")
    if found.left_out:
        print(f"{len(found.left_out):,} left out, named in {found.directory / 'manifest.json'}")

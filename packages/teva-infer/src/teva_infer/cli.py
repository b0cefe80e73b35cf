"""The command `teva-infer`: its verbs are thin skins over `teva_infer.encode` and `teva_infer.search`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
import yaml

from teva_data.commandline import run
from teva_data.errors import TevaError

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
    from .encoding import encode as run_encode

    _tell(run_encode(model, dataset, output, **options.arguments()))


def _tell(found: Embeddings) -> None:
    print(f"{found.directory}: {len(found):,} vectors of {found.dim} {found.dtype} numbers")
    if found.left_out:
        print(f"{len(found.left_out):,} left out, named in {found.directory / 'manifest.json'}")


def options_of(words: Sequence[str]) -> dict[str, Any]:
    """``key=value`` words as a mapping; values are read as YAML, so that 8 is a number and true a truth."""
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise TevaError(f"--engine-option: found {word!r}; expected key=value")
        found[key] = yaml.safe_load(value)
    return found


def numbers_of(words: Sequence[str], option: str) -> dict[str, int]:
    """``name=number`` words as a mapping.

    Raises:
        TevaError: a word that is not so.
    """
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        if not value.isdecimal():
            raise TevaError(f"{option}: found {word!r}; expected name=number")
        found[name] = int(value)
    return found


def search(
    *,
    queries: Path,
    corpus: Path,
    output: Path,
    depth: int = 1000,
    backend: Literal["exact", "faiss"] = "exact",
    batch: int = 4096,
    layout: Literal["tsv", "trec"] = "tsv",
    exclude_self: bool = False,
    part: tuple[int, int] | None = None,
    device: str = "cpu",
    index: Path | None = None,
    knob: tuple[str, ...] = (),
) -> None:
    """Search a corpus's embeddings with queries' embeddings and write a run file.

    Args:
        queries: the directory of the queries' embeddings.
        corpus: the directory of the corpus's embeddings.
        output: the run file.
        depth: documents for each query.
        backend: exact is the reference; faiss uses flat FAISS indexes.
        batch: queries that pass over the corpus together.
        layout: tsv is "query_id docid score", trec has TREC's six columns.
        exclude_self: leave out the document whose id is the query's.
        part: two numbers n and N: search the n-th (from 0) of N parts of the corpus alone; see the verb merge.
        device: where exact multiplies, or the index is searched (with faiss-gpu): cpu, cuda, cuda:1.
        index: an index of the corpus (the verb index): what it finds, with exact scores.
        knob: how much the index looks at, such as nprobe=64 or oversample=20; the verb tune shows what each gives.
    """
    from .searching import search as run_search

    run_search(
        queries, corpus, output, depth=depth, backend=backend, batch=batch, layout=layout, exclude_self=exclude_self,
        part=part, device=device, index=index, knobs=numbers_of(knob, "--knob"),
    )  # fmt: skip
    print(output)


def index(
    corpus: Path,
    /,
    *,
    output: Path,
    kind: str = "hnsw",
    setting: tuple[str, ...] = (),
    part_rows: int = 2**20,
    seed: int = 0,
    device: str = "cpu",
    overwrite: bool = False,
) -> None:
    """Build an index of a corpus's embeddings, for search --index. A killed build goes on when started again.

    Args:
        corpus: the directory of the corpus's embeddings; search reads ids and exact scores there.
        output: the directory for the index.
        kind: hnsw (a graph; fastest, most memory), ivf (lists), sq8 (lists of 8-bit numbers), pq (lists of codes),
            rabitq (lists of one bit a number), binary (one bit a number, no lists), flat (all).
        setting: of the kind: links=32, efConstruction=200 (hnsw), lists=4096 (ivf, sq8, pq, rabitq), bytes=48 (pq),
            graph=32 (links of a graph over the lists' centres, for many lists).
        part_rows: vectors that are built, and lost by a kill, together.
        seed: of the sample that lists and codes are learned from.
        device: cpu, or cuda, cuda:1 with faiss-gpu.
        overwrite: begin anew where the directory holds another index.
    """
    from .indexes.building import build_index

    print(
        build_index(
            corpus, output, kind=kind, settings=numbers_of(setting, "--setting"), part_rows=part_rows, seed=seed,
            device=device, overwrite=overwrite,
        )
    )  # fmt: skip


def tune(
    index: Path,
    /,
    *,
    corpus: Path,
    queries: Path,
    output: Path,
    depth: int = 100,
    most_queries: int = 1000,
    oversample: tuple[int, ...] = (),
    recall: float | None = None,
) -> int:
    """Measure what an index finds of what exact search finds, and how fast, at each of its knobs.

    Prints a table and writes tune.json and tune.png. Exit status 1 where no knobs reach the wanted recall.

    Args:
        index: the index's directory.
        corpus: the embeddings that it was built from.
        queries: the queries' embeddings.
        output: the directory for the table and the curve.
        depth: documents for each query.
        most_queries: queries used at most, from the first on.
        oversample: candidates for each hit that are tried; some multiples of the kind's own where not given.
        recall: the recall that is wanted; the fastest knobs that reach it are named.
    """
    from .indexes.tuning import tune as run_tune

    found = run_tune(
        index, corpus, queries, output, depth=depth, most_queries=most_queries, oversample=oversample or None
    )
    print(found.table())
    if recall is None:
        return 0
    best = found.fastest(recall)
    if best is None:
        print(f"no knobs reach a recall of {recall}: look at more candidates, or build with other settings")
        return 1
    print("fastest: " + " ".join(f"--knob {name}={value}" for name, value in best.knobs.items()))
    return 0


def merge(
    parts: Annotated[tuple[Path, ...], tyro.conf.Positional],
    *,
    output: Path,
    depth: int = 1000,
    layout: Literal["tsv", "trec"] = "tsv",
) -> None:
    """Make one run of the runs over all parts of a corpus (search --part).

    Args:
        parts: the runs, in the order of the parts.
        output: the run file.
        depth: documents for each query.
        layout: tsv is "query_id docid score", trec has TREC's six columns.
    """
    from .searching import merge_runs

    print(merge_runs(parts, output, depth=depth, layout=layout))


def verify(
    model: str,
    /,
    *,
    engines: tuple[str, ...] = (),
    device: str = "auto",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    threshold: float | None = None,
    url: str | None = None,
    vllm_python: Path | None = None,
    store: bool = True,
) -> int:
    """Compare the vectors of every runtime with those of the trained model; exit status 1 where they differ.

    Args:
        model: a model directory (of teva or of sentence-transformers) or a hub id.
        engines: the runtimes: torch, jax, vllm, http, sentence-transformers; all that are installed where not given.
        device: auto, cpu, cuda, cuda:1, mps.
        dtype: what all compute in.
        threshold: the smallest cosine that passes; 0.99999 in float32, 0.9999 in float16, 0.999 in bfloat16.
        url: a running server to compare too (the engine http), e.g. http://localhost:8000.
        vllm_python: the interpreter of an environment that has vLLM.
        store: put the figures into the model's teva.json.
    """
    from .verifying import verify as run_verify

    options: dict[str, dict[str, Any]] = {}
    if url:
        options["http"] = {"url": url}
    if vllm_python:
        options["vllm"] = {"python": str(vllm_python)}
    report = run_verify(
        model, engines=engines or None, engine_options=options, device=device, dtype=dtype, threshold=threshold,
        store=store,
    )  # fmt: skip
    print(report.table())
    return 0 if report.passed else 1


def mine(
    model: str,
    data: Annotated[tuple[Path, ...], tyro.conf.Positional],
    /,
    *,
    work: Path,
    split: str = "train",
    name: str = "mined",
    count: int = 8,
    skip: int = 0,
    depth: int = 100,
    sample: Literal["top", "random"] = "random",
    seed: int = 0,
    margin: float | None = None,
    max_ratio: float | None = None,
    drop_if_positive_below: int | None = None,
    keep_scores: bool = False,
    engine: str = "torch",
    engine_option: tuple[str, ...] = (),
    device: str = "auto",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    batch_tokens: int = 16384,
    backend: Literal["exact", "faiss"] = "exact",
) -> None:
    """Mine training negatives with a model: encode, search, choose. A killed run goes on when started again.

    Args:
        model: a model directory (of teva or of sentence-transformers) or a hub id.
        data: datasets' directories, or recipes (.yaml) with one dataset or a mixture.
        work: a directory for embeddings and runs.
        split: whose queries; of a recipe, what it names.
        name: the new split is called SPLIT-NAME.
        count: negatives wanted for each query.
        skip: ranks left out at the top, where unjudged answers are likeliest.
        depth: documents searched for each query, and ranks looked at.
        sample: top takes the best ranked, random any of the ranks.
        seed: names the random choice.
        margin: a negative's score must be at most the positive's less this.
        max_ratio: a negative's score must be at most this share of the positive's, such as 0.95.
        drop_if_positive_below: leave out a query that has no positive among this many best ranked.
        keep_scores: write the scores of positives and negatives, to distil from.
        engine: the engine that encodes.
        engine_option: the engine's own, key=value.
        device: auto, cpu, cuda, cuda:1, mps; several with commas between them, or all.
        dtype: what the model computes in.
        batch_tokens: tokens of a batch.
        backend: exact is the reference; faiss uses flat FAISS indexes.
    """
    from .mining import mine as run_mine

    choice = {
        "count": count, "skip": skip, "sample": sample, "seed": seed, "margin": margin, "max_ratio": max_ratio,
        "drop_if_positive_below": drop_if_positive_below, "keep_scores": keep_scores,
    }  # fmt: skip
    for path in run_mine(
        model, data, work, split=split, name=name, depth=depth, backend=backend, engine=engine,
        engine_options=options_of(engine_option), device=device, dtype=dtype, batch_tokens=batch_tokens, choice=choice,
    ):  # fmt: skip
        print(path)


def deploy(
    model: str,
    /,
    *,
    runtime: Literal["vllm", "tei"] = "vllm",
    port: int = 8000,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    name: str | None = None,
    url: str | None = None,
) -> int:
    """Print the command that serves a model, with requests that hold its prompts; exit status 1 where it would not fit.

    Args:
        model: a model directory (of teva or of sentence-transformers) or a hub id.
        runtime: vllm (vllm serve) or tei (text-embeddings-router).
        port: where it listens; a pair of encoders takes this one and the next.
        dtype: what it computes in.
        name: under which clients ask for it.
        url: the running server: its vectors are compared with the trained model's. Not of a pair.
    """
    from .deploying import deploy as run_deploy

    found = run_deploy(model, runtime=runtime, port=port, dtype=dtype, name=name)
    print("\n\n".join(each.text() for each in found))
    fits = not any(each.problems for each in found)
    if url is None:
        print(f"# Once it runs: teva-infer verify {model} --engines http --url {found[0].url}")
        return 0 if fits else 1
    return max(verify(model, engines=("http",), url=url, dtype=dtype, store=False), int(not fits))


def serve(
    *,
    data: Path,
    system: tuple[str, ...],
    host: str = "127.0.0.1",
    port: int = 8080,
    knob: tuple[str, ...] = (),
    device: str = "auto",
    batch: int = 32,
    wait: float = 0.005,
    queue: int = 1024,
) -> None:
    """Serve search over embeddings or an index: POST /search, GET /health, GET /metrics, and a page for people at /.

    Args:
        data: the dataset whose documents are shown.
        system: NAME=MODEL,EMBEDDINGS or NAME=MODEL,EMBEDDINGS,INDEX; several can be compared side by side.
        host: the address to listen at; 0.0.0.0 for all. There is no login: put a proxy before it that has one.
        port: the port; 0 for a free one, which the log names.
        knob: of the indexes, such as nprobe=64.
        device: where queries are encoded.
        batch: queries answered together at most.
        wait: seconds that a batch waits for more.
        queue: queries that may wait; more are answered 503.
    """
    from .serving import serve as run_serve

    run_serve(
        system, data, host=host, port=port, knobs=numbers_of(knob, "--knob"), device=device, batch=batch, wait=wait,
        queue=queue,
    )  # fmt: skip


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
    from .clusters import encode_on_ray

    _tell(
        encode_on_ray(
            model, dataset, output, workers=workers, gpus=gpus, cpus=cpus, writes=writes, **options.arguments()
        )
    )


def ray_search(
    *,
    queries: Path,
    corpus: Path,
    output: Path,
    parts: int,
    depth: int = 1000,
    cpus: float = 1,
    batch: int = 4096,
    layout: Literal["tsv", "trec"] = "tsv",
    exclude_self: bool = False,
) -> None:
    """Search exactly by the workers of a Ray cluster, each a part of the corpus, and write one run file.

    Args:
        queries: the directory of the queries' embeddings, read by this process alone.
        corpus: the directory of the corpus's embeddings, as workers find it.
        output: the run file.
        parts: how many parts of whole shards; those of a lost worker are searched again by others.
        depth: documents for each query.
        cpus: of each task.
        batch: queries that pass over the corpus together.
        layout: tsv is "query_id docid score", trec has TREC's six columns.
        exclude_self: leave out the document whose id is the query's.
    """
    from .clusters import search_on_ray

    print(
        search_on_ray(
            queries, corpus, output, parts=parts, depth=depth, cpus=cpus, batch=batch, layout=layout,
            exclude_self=exclude_self,
        )
    )  # fmt: skip


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
    from .exporting import export_parquet, load_lancedb

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
    from .tevatron import import_embeddings

    _tell(import_embeddings(files, output, role=role, model=model, unpickle=unpickle, overwrite=overwrite))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    return run(
        "teva-infer",
        "Encode queries and corpora with a dense retriever, and search them exactly or by an index.",
        {
            "encode": encode,
            "search": search,
            "merge": merge,
            "index": index,
            "tune": tune,
            "mine": mine,
            "verify": verify,
            "deploy": deploy,
            "serve": serve,
            "export": export,
            "ray-encode": ray_encode,
            "ray-search": ray_search,
            "import-tevatron": import_tevatron,
        },
        argv,
    )


if __name__ == "__main__":
    sys.exit(main())

"""Verbs that bring a model to where it is used, and prove that its vectors are the trained ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from .words import numbers_of


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
    from teva_infer.verifying import verify as run_verify

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
    from teva_infer.deploying import deploy as run_deploy

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
    from teva_infer.serving import serve as run_serve

    run_serve(
        system, data, host=host, port=port, knobs=numbers_of(knob, "--knob"), device=device, batch=batch, wait=wait,
        queue=queue,
    )  # fmt: skip

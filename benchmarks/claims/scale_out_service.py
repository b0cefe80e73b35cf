"""Claims of the search service: under load, under a fuzzer, and its page in a real browser (the group `service`)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import Context, Result, claim
from .real_run import ROOT, command, minilm

CLIENTS, LONGEST = 32, 10_000
HTML = {
    "docid": "html", "title": "A document about <b>zebra</b> markup",
    "text": "zebra <script>document.title = 'taken'</script> <img src=x onerror=\"document.title = 'taken'\"> zebra",
}  # fmt: skip


@claim(
    "scale_out", name="service_under_load", needs=("data",),
    target=f"{CLIENTS} clients on loopback, each asking again when it is answered: with batching at least 1.5 times "
    "the queries/s of batches of one, a p99 below 4 times the p50, every answer 200 and the same documents",
)  # fmt: skip
def service_under_load(context: Context) -> Result:
    """Questions of WordNet's test split over its definitions, encoded by MiniLM and searched exactly."""
    data = context.work / "wordnet"
    command("teva-data", "convert", context.data / "wordnet", data)
    _first_documents(data, 1_000 if context.quick else 5_000)
    command("teva-infer", "encode", minilm(), data, "--output", context.work / "emb", "--device", "cpu")
    lines = (data / "test.jsonl").read_text().splitlines()
    questions = [json.loads(line)["query_text"] for line in lines]
    count = 200 if context.quick else 1_500
    figures: dict[str, Any] = {"documents": 1_000 if context.quick else 5_000, "clients": CLIENTS, "requests": count}
    found: dict[str, dict[str, Any]] = {}
    for name, batch in (("batches of 32", 32), ("batches of 1", 1)):
        words = ("--system", f"minilm={minilm()},{context.work / 'emb'}", "--batch", str(batch))
        with _serving(data, words) as url:
            found[name] = asyncio.run(_load(url, questions, count))
            with contextlib.closing(_get(f"{url}/metrics")) as reply:
                sizes = re.findall(r"teva_batch_size_(sum|count)\S* (\S+)", reply.read().decode())
        by_name = {key: float(value) for key, value in sizes}
        one = found[name]
        figures |= {
            f"{name}: queries/s": round(one["rate"], 1), f"{name}: p50, ms": round(one["p50"] * 1000, 1),
            f"{name}: p99, ms": round(one["p99"] * 1000, 1),
            f"{name}: mean batch": round(by_name["sum"] / by_name["count"], 1),
            f"{name}: answers other than 200": one["errors"],
        }  # fmt: skip
    many, single = found["batches of 32"], found["batches of 1"]
    differing = sum(many["hits"][text] != single["hits"][text] for text in many["hits"].keys() & single["hits"].keys())
    times = many["rate"] / single["rate"]
    figures |= {"times the queries/s": round(times, 2), "questions with other documents": differing}
    passed = times >= 1.5 and many["p99"] < 4 * many["p50"] and not (many["errors"] or single["errors"] or differing)
    return Result(figures, passed, "clients and service share the machine")


@claim(
    "scale_out", name="service_fuzzed", needs=("data",), peer="{schemathesis}",
    target="every operation of the OpenAPI under schemathesis's checks: no server error, no status and no body that "
    "the schema does not name, no bad data accepted",
)  # fmt: skip
def service_fuzzed(context: Context) -> Result:
    """Its examples, the corners of the schema and random requests, and sequences of requests."""
    data = _pages(context, 20)
    command("teva-infer", "encode", minilm(), data, "--output", context.work / "emb", "--device", "cpu")
    with _serving(data, ("--system", f"minilm={minilm()},{context.work / 'emb'}")) as url:
        words = [
            Path(sys.executable).with_name("schemathesis"), "run", f"{url}/openapi.json", "--seed", str(context.seed),
            "--max-examples", "30" if context.quick else "100", "--continue-on-failure", "--report", "json",
            "--report-json-path", context.work / "report.json", "--suppress-health-check", "all",
        ]  # fmt: skip
        done = subprocess.run(
            [str(word) for word in words], capture_output=True, text=True, check=False, cwd=context.work
        )
        with contextlib.closing(_get(f"{url}/health")) as reply:
            alive = reply.status == 200
    print(done.stdout[-6000:], done.stderr[-2000:], flush=True)
    cases = re.search(r"([\d,]+) generated", done.stdout)
    if cases is None:
        raise RuntimeError(f"schemathesis said nothing of its cases (exit status {done.returncode})")
    tested = re.search(r"([\d,]+) generated(?:, ([\d,]+) found ([\d,]+) unique failures)?", done.stdout)
    failures = 0 if tested is None or tested.group(3) is None else int(tested.group(3).replace(",", ""))
    figures = {
        "cases": int(cases.group(1).replace(",", "")), "unique failures": failures, "exit status": done.returncode,
        "still answers": alive,
    }  # fmt: skip
    return Result(figures, done.returncode == 0 and not failures and alive)


@claim(
    "scale_out", name="search_page", needs=("data",), peer=lambda: f"{_chromium_version()}, " + "{playwright}",
    target="in a real headless browser, over real page images: ten ranked documents with scores and marked words; "
    "their thumbnails are drawn; two models beside each other; an empty and a 10,000-character question are answered "
    "in words and in documents; HTML in a document is text and runs nothing; nothing is asked of another host",
)  # fmt: skip
def search_page(context: Context) -> Result:
    """MiniLM with all 384 numbers beside its first 64, over documentation pages and one document of HTML."""
    data = _pages(context, 80 if context.quick else 400)
    with (data / "corpus.jsonl").open("a") as file:
        file.write(json.dumps(HTML) + "\n")
    words: list[str] = []
    for name, dim in (("384-numbers", ()), ("64-numbers", ("--dim", "64"))):
        out = context.work / name
        command("teva-infer", "encode", minilm(), data, "--output", out, "--device", "cpu", *dim)
        words += ["--system", f"{name}={minilm()},{out}"]
    with _serving(data, words) as url:
        figures = _looked_at(url, context)
    wrong = [name for name, value in figures.items() if value is False]
    return Result(figures, not wrong, "wrong: " + ", ".join(wrong) if wrong else "")


def _looked_at(url: str, context: Context) -> dict[str, Any]:
    """What the browser sees."""
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=_chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        errors, elsewhere = list[str](), list[str]()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda asked: None if asked.url.startswith(url) else elsewhere.append(asked.url))
        page.goto(url)

        def ask(question: str, left: str = "384-numbers", right: str = "") -> None:
            page.fill("#query", question)
            page.select_option("#left", left)
            page.select_option("#right", right)
            page.click("button")
            expect(page.locator("#message")).not_to_have_text("searching …", timeout=30_000)

        ask("installation guide for Debian")
        figures: dict[str, Any] = {"documents shown": page.locator("#columns li").count()}
        scores = [float(text.split("·")[1]) for text in page.locator(".where").all_inner_texts()]
        figures["ten, by descending score"] = len(scores) == 10 and scores == sorted(scores, reverse=True)
        marked = page.locator("#columns .title mark").all_inner_texts()
        figures |= {
            "words marked in titles": len(marked),
            "of the question": bool(marked)
            and {word.lower() for word in marked} <= {"installation", "guide", "for", "debian"},
        }
        # The page's policy lets no text become a program, so the browser is asked again and again from here.
        drawn = "one => one.complete && one.naturalWidth"
        for _ in range(100):
            if all(page.locator("#columns img").nth(number).evaluate(drawn) for number in range(2)):
                break
            page.wait_for_timeout(100)
        width = page.locator("#columns img").first.evaluate("one => one.naturalWidth")
        figures |= {"width of the first thumbnail": width, "thumbnails are drawn": 0 < width <= 320}
        ask("installation guide for Debian", right="64-numbers")
        heads = page.locator("#columns h2").all_inner_texts()
        figures["two models beside each other"] = [head.split(" ·")[0] for head in heads] == [
            "384-numbers",
            "64-numbers",
        ]
        page.wait_for_timeout(500)  # thumbnails that come into view
        if not context.quick:
            page.screenshot(path=ROOT / "docs" / "search-page.png")
        ask("")
        figures["empty question"] = page.inner_text("#message")
        figures["an empty question is told in words"] = "empty query" in page.inner_text("#message")
        ask(("pages of documentation " * 500)[:LONGEST])
        figures["10,000 characters: documents"] = page.locator("#columns li").count()
        figures["a long question is answered"] = page.locator("#columns li").count() == 10
        ask("zebra markup")
        shown = page.locator("#columns li").first.inner_text()
        figures["HTML is shown as text"] = HTML["title"] in shown and "<script>document.title" in shown
        figures["HTML makes no element"] = not page.locator(
            "#columns script, #columns b, #columns img[src='x']"
        ).count()
        figures["HTML runs nothing"] = page.title() == "Search"
        # What the empty question is answered with, 422, is told on the console.
        print("the console:", *errors, sep="\n    ", flush=True)
        figures["no other error"] = not [text for text in errors if "422" not in text]
        figures["no other host"] = not elsewhere
        browser.close()
    return figures


async def _load(url: str, questions: Sequence[str], count: int) -> dict[str, Any]:
    """Ask ``count`` questions by CLIENTS clients; seconds of each, and the documents."""
    import httpx

    waiting, seconds, errors = iter(range(count)), list[float](), 0
    hits: dict[str, list[str]] = {}
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:

        async def ask() -> None:
            nonlocal errors
            for number in waiting:
                text = questions[number % len(questions)]
                start = time.perf_counter()
                reply = await client.post("/search", json={"query": text, "depth": 10})
                seconds.append(time.perf_counter() - start)
                errors += reply.status_code != 200
                hits[text] = [hit["docid"] for hit in reply.json().get("hits", [])]

        await asyncio.gather(*(client.post("/search", json={"query": text}) for text in questions[:CLIENTS]))
        start = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(CLIENTS)))
        rate = count / (time.perf_counter() - start)
    p50, p99 = np.percentile(seconds, [50, 99])
    return {"rate": rate, "p50": float(p50), "p99": float(p99), "errors": errors, "hits": hits}


@contextlib.contextmanager
def _serving(data: Path, words: Sequence[str]) -> Iterator[str]:
    """`teva-infer serve` as a process, until it answers; its address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    line = [
        Path(sys.executable).with_name("teva-infer"),
        "serve",
        "--data",
        data,
        *words,
        "--port",
        port,
        "--device",
        "cpu",
    ]
    process = subprocess.Popen([str(word) for word in line], env={**os.environ})
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(6000):
            if process.poll() is not None:
                raise RuntimeError(f"serve ended with {process.returncode}")
            with contextlib.suppress(OSError), contextlib.closing(_get(f"{url}/health")):
                break
            time.sleep(0.1)
        else:
            raise RuntimeError("serve does not answer after ten minutes")
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _get(url: str) -> Any:
    from urllib.request import urlopen

    return urlopen(url, timeout=10)


def _pages(context: Context, count: int) -> Path:
    """The first documentation pages with their pictures, as a dataset."""
    data = context.work / "docpages"
    command("teva-data", "convert", context.data / "docpages", data, "--modalities", "text", "image")
    _first_documents(data, count)
    return data


def _first_documents(data: Path, count: int) -> None:
    lines = (data / "corpus.jsonl").read_text().splitlines(keepends=True)
    (data / "corpus.jsonl").write_text("".join(lines[:count]))
    shutil.rmtree(data / ".teva", ignore_errors=True)


def _chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        raise RuntimeError("no chromium here (Debian: apt install chromium)")
    return found


def _chromium_version() -> str:
    done = subprocess.run([_chromium(), "--version"], capture_output=True, text=True, check=False)
    return " ".join(done.stdout.split()[:2]) or "chromium"

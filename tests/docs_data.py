"""Tiny data in other toolkits' layouts, for the commands in the documents."""

from __future__ import annotations

import json
import math
import struct
import wave
from pathlib import Path

from tests.conftest import WORDS, make_tiny_data, write_jsonl


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def make_beir(directory: Path) -> None:
    """The tiny data as BEIR publishes data."""
    source = directory / "source"
    source.mkdir()
    make_tiny_data(source)
    write_jsonl(
        directory / "corpus.jsonl",
        [{"_id": r["docid"], "title": r["title"], "text": r["document_text"]} for r in _rows(source / "corpus.jsonl")],
    )
    (directory / "qrels").mkdir()
    queries = []
    for split in ("train", "test"):
        rows = _rows(source / f"{split}.jsonl")
        queries += [{"_id": r["query_id"], "text": r["query_text"]} for r in rows]
        lines = [f"{r['query_id']}\t{d}\t1\n" for r in rows for d in r["positive_document_ids"]]
        (directory / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    write_jsonl(directory / "queries.jsonl", queries)
    for path in source.rglob("*"):
        if path.is_file():
            path.unlink()
    (source / "qrels").rmdir()
    source.rmdir()


def make_pairs(directory: Path) -> None:
    """Questions and passages as sentence-transformers trains on: anchor, positive, negative."""
    count = len(WORDS)
    write_jsonl(
        directory / "pairs.jsonl",
        [
            {
                "anchor": f"where is the {word} {n}",
                "positive": f"the {word} {n} is on the {WORDS[(n * 3 + 1) % count]}",
                "negative": f"a {WORDS[(n + 5) % count]} {n} is in the {WORDS[(n * 7 + 2) % count]}",
            }
            for n, word in enumerate(WORDS)
        ],
    )


def make_tevatron(directory: Path) -> None:
    """Rows of Tevatron v1: passages within each query."""
    count = len(WORDS)

    def passage(n: int) -> dict[str, str]:
        return {"docid": f"p{n}", "title": WORDS[n % count], "text": f"the {WORDS[(n * 7) % count]} number {n}"}

    write_jsonl(
        directory / "train.jsonl",
        [
            {
                "query_id": f"q{n}", "query": f"what is the {WORDS[n % count]} {n}",
                "positive_passages": [passage(n)], "negative_passages": [passage((n + k) % 40) for k in (3, 5, 9)],
            }
            for n in range(40)
        ],
    )  # fmt: skip


def make_sounds(directory: Path) -> None:
    """Eight short tones as WAV files, named after their pitch."""
    for number in range(8):
        pitch, rate = 220 * 2 ** (number / 4), 8000
        samples = [int(20000 * math.sin(2 * math.pi * pitch * n / rate)) for n in range(rate // 2)]
        with wave.open(str(directory / f"tone-{round(pitch)}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(struct.pack(f"<{len(samples)}h", *samples))

"""Corpora made up for measurements of size and speed, where what a text says does not matter."""

from __future__ import annotations

import json
import random
from pathlib import Path

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "was",
    "for",
    "on",
    "with",
    "as",
    "by",
    "at",
    "from",
    "it",
    "an",
    "be",
    "are",
    "this",
    "that",
    "which",
    "or",
    "has",
    "had",
    "its",
    "were",
    "not",
    "but",
    "also",
    "can",
    "one",
    "two",
    "first",
    "after",
    "their",
    "new",
    "water",
    "city",
    "river",
    "state",
    "world",
    "history",
    "people",
    "system",
    "number",
    "music",
    "form",
    "year",
]


def identifier(number: int) -> str:
    """The docid of a document of :func:`write_corpus`."""
    return f"doc-{number * 7919}"


def write_corpus(path: Path, documents: int, words: int) -> None:
    """Write ``documents`` documents of about ``words`` words, with titles; no two texts are equal."""
    rng = random.Random(0)
    texts = [json.dumps(" ".join(rng.choices(WORDS, k=rng.randint(words // 2, words * 3 // 2)))) for _ in range(4096)]
    with path.open("w") as file:
        for number in range(documents):
            text = texts[number % 4096]
            file.write(
                f'{{"docid": "{identifier(number)}", "title": "title {number}", "text": {text[:-1]} {number}"}}\n'
            )

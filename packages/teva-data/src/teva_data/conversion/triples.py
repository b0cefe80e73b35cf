"""Groups triples (query, positive, negative) by query, whatever their number: on disk, and a part of them at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from .seen import digest

# Triples come back by the part, and a part's strings and dictionaries take some ten times its bytes.
PART_BYTES = 32 << 20
MOST_PARTS = 512


class Triples:
    """Triples by query.

    Args:
        directory: for its files; exists.
        size: bytes of all triples, about; decides into how many parts they are dealt.

    Attributes:
        parts: how many; which one a query falls into is decided by the query alone.
        count: triples added.
    """

    def __init__(self, directory: Path, size: int) -> None:
        self.parts = min(MOST_PARTS, max(1, -(-size // PART_BYTES)))
        self.count = 0
        self._paths = [directory / f"triples-{part:03}.jsonl" for part in range(self.parts)]
        self._stack = ExitStack()
        self._files = [self._stack.enter_context(path.open("w", encoding="utf-8")) for path in self._paths]

    def part_of(self, query: str) -> int:
        """The part into which a query falls."""
        return int.from_bytes(digest(query)[:8], "little") % self.parts

    def add(self, query: str, positive: str, negative: str) -> None:
        """Note a triple."""
        self._files[self.part_of(query)].write(json.dumps([query, positive, negative]) + "\n")
        self.count += 1

    def of_part(self, part: int) -> dict[str, tuple[list[str], list[str]]]:
        """Positives and negatives of each query of a part, each once, in the order in which they were added."""
        self._stack.close()
        grouped: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
        with self._paths[part].open(encoding="utf-8") as file:
            for line in file:
                query, positive, negative = json.loads(line)
                positives, negatives = grouped.setdefault(query, ({}, {}))
                positives[positive] = negatives[negative] = None
        return {
            query: (list(positives), [docid for docid in negatives if docid not in positives])
            for query, (positives, negatives) in grouped.items()
        }

    def __iter__(self) -> Iterator[tuple[str, tuple[list[str], list[str]]]]:
        """All queries with their positives and negatives, part by part."""
        for part in range(self.parts):
            yield from self.of_part(part).items()

    def close(self) -> None:
        """Remove the files."""
        self._stack.close()
        for path in self._paths:
            path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

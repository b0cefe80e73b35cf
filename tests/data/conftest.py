from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

WriteLines = Callable[[str, Iterable[Any]], Path]


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or leaves a store in the user's cache."""
    monkeypatch.setenv("TEVA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def write(tmp_path: Path) -> WriteLines:
    """Write lines to ``data/<name>``: a str as it is, anything else as JSON."""

    def lines(name: str, rows: Iterable[Any]) -> Path:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        encoded = [
            row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode()
            for row in rows
        ]
        path.write_bytes(b"".join(row + b"\n" for row in encoded))
        return path

    return lines

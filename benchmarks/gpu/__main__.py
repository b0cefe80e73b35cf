"""All that needs a GPU, in one command of less than nine minutes.

    python -m benchmarks.gpu --output DIR            on a GPU
    python -m benchmarks.gpu --output DIR --tiny     all of it with tiny models, on a CPU too

Parts: ``correctness`` (what only a GPU can show to be right), ``search`` (exact, beside the product alone and FAISS),
``train`` (8B LoRA: memory and speed of each way, beside sentence-transformers), ``encode`` (texts and pages by torch
and by vLLM), ``frameworks`` (teva-jax beside teva-torch).
Each has a share of the time that is left, in a process of its own, and is ended when that is over: what it has measured
until then is kept. Weights, texts and pictures are made up on the spot, so nothing is fetched. Writes each part's JSON,
``gpu.json`` and the table ``gpu.md`` to DIR. What is not installed or does not fit is told, and the others go on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# Share of what is left of the time when the part begins: the last has all of it.
PARTS = {"correctness": 0.25, "search": 0.12, "train": 0.55, "encode": 0.6, "frameworks": 1.0}
TIMED = ("train", "encode")  # these begin no further way when their time is over


def run_part(name: str, seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    """One part: how it ended, and how long it took."""
    words = [sys.executable, "-m", f"benchmarks.gpu.{name}", "--output", str(options.output)]
    words += ["--tiny"] if options.tiny else []
    words += ["--quick"] if options.quick and name in TIMED else []
    words += ["--seconds", str(seconds * 0.7)] if name in TIMED else []
    began = time.monotonic()
    # A session of its own, so that what the part has started ends with it.
    with subprocess.Popen(words, start_new_session=True) as process:
        try:
            status: int | None = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            status = None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    ended = "ended" if status == 0 else "cut short: its time was over" if status is None else f"failed: status {status}"
    return {"how": ended, "seconds": round(time.monotonic() - began, 1)}


def main() -> int:
    """All parts, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="directory of the figures")
    parser.add_argument("--minutes", type=float, default=8.8, help="for all parts together")
    parser.add_argument("--tiny", action="store_true", help="tiny models: to see that all of it runs")
    parser.add_argument("--quick", action="store_true", help="fewer steps, texts and pages")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + options.minutes * 60
    parts: dict[str, Any] = {}
    for name in options.parts:
        parts[name] = run_part(name, (until - time.monotonic()) * PARTS[name], options)
        print(f"{name}: {parts[name]['how']}, {parts[name]['seconds']} s", flush=True)
        path = options.output / f"gpu_{name}.json"
        parts[name]["figures"] = json.loads(path.read_text()) if path.is_file() else None
        (options.output / "gpu.json").write_text(json.dumps(parts, indent=2) + "\n")
        (options.output / "gpu.md").write_text(page(parts))
    return 0 if all(part["how"] == "ended" for part in parts.values()) else 1


def page(parts: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["# Figures of one GPU", ""]
    for name, part in parts.items():
        lines += [f"## {name}", "", f"{part['how']}, {part['seconds']} s", ""]
        figures = part["figures"] or {}
        rows = figures.get("rows") or [{"way": way, **found} for way, found in figures.get("ways", {}).items()]
        for row in rows or [figures]:
            told = (f"{key}: {value}" for key, value in row.items() if key not in ("losses", "rows", "ways"))
            lines.append(f"- {'; '.join(told)}")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

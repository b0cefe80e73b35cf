"""docs/benchmarks.md: all claims with what they reached, made from their records.

    uv run python -m benchmarks.claims --table

A test holds the committed page against this; running claims writes it anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .runner import GROUPS, MET, ROOT, Claim, claims_of, shown

PAGE = ROOT / "docs" / "benchmarks.md"
RECORDS = ROOT / "benchmarks" / "results"
MOST = 8  # figures in a row; the record holds the others
TITLES: Mapping[str, str] = {
    "real_run": "Real runs", "data": "Data", "torch": "Training on PyTorch", "scale": "Large models", "jax": "JAX",
    "infer": "Encoding and search", "eval": "Evaluation", "images": "Pictures", "video_audio": "Video and audio",
    "scale_out": "Indexes and clusters", "faults": "Faults", "proof": "Growth, start-up, dependencies",
}  # fmt: skip
HEAD = """# Benchmarks: every claim

Made from the records in `benchmarks/results` by `uv run python -m benchmarks.claims --table`; do not edit.

A claim has a target, measures, and says what it reached; a target that is missed stays, as missed. Each is repeated by
its command: `uv run python -m benchmarks.claims NAME` (`--data DIR` names the directory of the real collections;
`--quick` does less). A record (`benchmarks/results/NAME.json`) holds all figures, the machine, the versions of all
libraries and the revision. What needs a GPU is measured by one command, `python -m benchmarks.gpu --output DIR`, which
takes less than 9 minutes and brings all that it needs but the environment; `--tiny` runs all of it on a CPU.
"""


def table(records: Path = RECORDS, package: str = "benchmarks.claims") -> str:
    """The page."""
    sections, counts, listed = [], dict.fromkeys(("met", "missed", "not run"), 0), set[str]()
    for group in GROUPS:
        # A claim of several groups stands in its first.
        claims = [one for one in claims_of(group, package) if one.groups[0] == group and one.name not in listed]
        listed |= {one.name for one in claims}
        if not claims:
            continue
        rows = []
        for one in claims:
            path = records / f"{one.name}.json"
            record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
            rows.append(_row(one, record))
            counts["not run" if record is None else "met" if record["verdict"] == MET else "missed"] += 1
        head = "| claim | target | reached | figures | beside | run |\n|---|---|---|---|---|---|"
        sections.append("\n".join([f"## {TITLES[group]}\n", head, *rows]))
        if group == "faults" and (records / "faults.json").is_file():
            sections.append(_tried(json.loads((records / "faults.json").read_text(encoding="utf-8"))))
    machines = _machines(records)
    summary = f"{counts['met']} met, {counts['missed']} missed, {counts['not run']} without a record.\n\n{machines}"
    return "\n\n".join([HEAD.rstrip(), summary, *sections]) + "\n"


def write(records: Path = RECORDS, page: Path = PAGE) -> None:
    """Write the page."""
    page.write_text(table(records), encoding="utf-8")


def _tried(record: Mapping[str, Any]) -> str:
    """What was tried, survived and lost, of each kind of fault."""
    totals = record["details"]["totals"]
    rows = [_cells(name, str(n), str(n - lost), str(lost)) for name, (n, lost) in totals["tried"].items()]
    told = f"{totals['detected']} flipped bytes were errors that named the file, {totals['harmless']} changed nothing."
    head = "| fault | tried | survived | lost or undetected |\n|---|---|---|---|"
    return "\n".join([f"Of all {totals['runs']} runs of `faults`. {told}\n", head, *rows])


def _row(one: Claim, record: Mapping[str, Any] | None) -> str:
    command = f"`python -m benchmarks.claims {one.name}`"
    if record is None:
        why = "not run: needs a GPU" if "gpu" in one.needs else "not run"
        return _cells(f"`{one.name}`", one.target, why, "", one.peer if isinstance(one.peer, str) else "", command)
    figures = list(record["figures"].items())
    told = [f"{name}: {shown(value)}" for name, value in figures[:MOST]]
    if len(figures) > MOST:
        told.append(f"{len(figures) - MOST} more in the record")
    verdict = "met" if record["verdict"] == MET else f"**{record['verdict'].lower()}**"
    # The record's own target: a target that was changed after the run would show as a record to be made again.
    return _cells(
        f"`{one.name}`", record["target"], verdict, "; ".join(told), record["peer"], f"{command} {record['date'][:10]}"
    )


def _cells(*cells: str) -> str:
    # A cell is one line, and a bar would end it.
    texts = (re.sub(r"\s+", " ", cell).strip().replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(texts)} |"


def _machines(records: Path) -> str:
    seen: dict[str, int] = {}
    for path in sorted(records.glob("*.json")):
        machine = json.loads(path.read_text(encoding="utf-8")).get("machine") or {}
        if machine:
            size = f"{machine.get('cpus_usable')} cores, {machine.get('memory_gib')} GiB"
            name = ", ".join([str(machine.get("processor")), size, *machine.get("gpus", [])])
            seen[name] = seen.get(name, 0) + 1
    lines = [f"- {name}: {count} records" for name, count in sorted(seen.items(), key=lambda one: -one[1])]
    return "Measured on:\n\n" + "\n".join(lines)

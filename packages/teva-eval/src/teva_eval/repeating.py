"""Does a recorded result again, and says where it differs."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teva_data.errors import TevaError
from teva_data.runs import read_run

from .benchmarks import Task
from .records import differences, read_record
from .running import Settings, evaluate
from .systems import System, load_system


@dataclass(frozen=True)
class Repeated:
    """What came of it.

    Attributes:
        differences: one line each; causes (system, settings, data, versions) before effects (scores, runs).
        changed: queries whose results are not the same, those whose first documents changed first.
        record: the new record.
    """

    differences: tuple[str, ...]
    changed: tuple[str, ...]
    record: dict[str, Any]


def rerun(
    result: str | Path,
    *,
    model: str | Path | None = None,
    data: str | Path | None = None,
    output: str | Path | None = None,
    system: System | None = None,
    device: str = "auto",
) -> Repeated:
    """Run a recorded task again, with the system and the settings of the record.

    Args:
        result: a ``result.json`` or its directory.
        model: where the model is now, if not where it was.
        data: where the data are now, if not where they were.
        output: keep the new result here; else it goes with the temporary directory it was made in.
        system: the system itself, for one that is not made by its name.
        device: where the model computes.

    Raises:
        TevaError: the record does not say how to make its system.
    """
    path = Path(result)
    directory = path if path.is_dir() else path.parent
    before = read_record(path)
    task = Task.from_json(before["task"])
    place = data if data is not None else before["request"]["data"]
    # Everything of the task stands in its record, so no setting of today's may change it.
    settings = Settings(depth=before["settings"]["depth"], missing=before["settings"]["missing"])
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(output) if output is not None else Path(temporary)
        made = system or _system(before["system"], model, device)
        (after,) = evaluate(made, [task], work, data=place, settings=settings, overwrite=True)
        lines = differences(before, after)
        old, new = directory / before["runs"][""]["file"], work / made.name / task.name / after["runs"][""]["file"]
        changed = _changed(old, new) if lines and old.exists() else ()
    return Repeated(tuple(lines), changed, after)


def _system(recorded: dict[str, Any], model: str | Path | None, device: str) -> System:
    kind = recorded.get("kind")
    if kind == "bm25":
        return load_system("bm25", k1=recorded["k1"], b=recorded["b"], name=recorded["name"])
    if kind != "dense" or (not recorded.get("engine") and model is None):
        raise TevaError(f"the record does not say how to make {recorded.get('name')!r}: give it as `system`, or name "
                        "the model (--model)")  # fmt: skip
    if not recorded.get("engine"):
        return load_system("dense", model=model, name=recorded["name"], dims=recorded["dims"], device=device)
    lengths = recorded["max_length"]
    return load_system(
        "dense", model=model or recorded["model"], name=recorded["name"], dims=recorded["dims"], device=device,
        engine=recorded["engine"], dtype=recorded["dtype"], revision=recorded["revision"],
        vector_dtype=recorded["vector_dtype"], batch_tokens=recorded["batch_tokens"],
        max_length=lengths["query"] if recorded.get("max_length_given") else None,
    )  # fmt: skip


def _changed(old: Path, new: Path) -> tuple[str, ...]:
    before, after = read_run(old), read_run(new)
    places = []
    for query_id in before.keys() | after.keys():
        one, other = before.get(query_id, []), after.get(query_id, [])
        if one != other:
            pairs = zip(one, other, strict=False)
            first = next((rank for rank, (a, b) in enumerate(pairs) if a[0] != b[0]), max(len(one), len(other)))
            places.append((first, query_id))
    return tuple(query_id for _, query_id in sorted(places))

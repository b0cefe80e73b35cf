"""Documents that are made of other files, or name them: they must agree."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from benchmarks.claims import table

ROOT = Path(__file__).parents[1]


@cache
def _tests(path: Path) -> set[str]:
    return {one.name for one in ast.parse(path.read_text()).body if isinstance(one, ast.FunctionDef)}


def test_every_defect_has_tests_that_exist():
    rows = re.findall(r"^\| (\d+) \|.*\|(.*)\|$", (ROOT / "docs" / "defects.md").read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 27))
    for number, cell in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", cell)
        assert named, number
        for path, name in named:
            assert name in _tests(ROOT / path), f"defect {number}: {path} has no {name}"


def test_the_map_of_the_readme_names_what_is_there():
    package, seen = Path(), 0
    for line in (ROOT / "README.md").read_text().split("## Where things are")[1].split("```")[1].splitlines():
        if not line.startswith(("packages/", " ")):
            continue
        if found := re.match(r"packages/\S+", line):
            package = ROOT / found[0]
        for name in re.split(r",\s*", line[37:80].strip().rstrip(",")):
            place = package / name if name.endswith("/") else package / f"{name}.py"
            assert place.exists() or (package / name).is_dir(), f"{package.name}: {name}"
            seen += 1
    assert seen > 50


def test_the_page_of_claims_is_what_the_records_make():
    expected = table.table()
    found = table.PAGE.read_text(encoding="utf-8")
    assert found == expected, "docs/benchmarks.md is old: uv run python -m benchmarks.claims --table"


def test_the_table_tells_what_is_missed_and_what_was_not_run(tmp_path):
    assert "without a record" in table.table(tmp_path)
    lines = table.table().splitlines()
    row = next(line for line in lines if line.startswith("| `exact_search`"))
    assert row.count(" | ") == 5
    none = table.table(tmp_path).splitlines()
    assert next(line for line in none if line.startswith("| `exact_search`")).split(" | ")[2] == "not run"
